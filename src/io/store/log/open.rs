//! Opening the log: which segments there are, what they hold, and where a crash tore the last one.

use super::super::error::StoreError;
use super::super::sys;
use super::{SEGMENT_LIMIT, Segment, State, create, segment, segment_path};
use crate::namespace::Op;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

/// What opening the log found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Ops handed out.
    pub ops: u64,
    /// Bytes cut off the end of the last segment: a record that a crash left half written.
    pub torn: u64,
}

pub(super) fn open(
    directory: &Path,
    first: u32,
    mut replay: impl FnMut(Vec<Op>),
) -> Result<(State, Recovery), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(StoreError::io("create", directory))?;
    // What becomes durable in it is of no use under a name that is not. An earlier process may have made it.
    sys::sync_name(directory).map_err(StoreError::io("create", directory))?;
    let mut numbers = numbers(directory, first)?;
    // Only as many as there are: the oldest go first, so that a crash meanwhile leaves no gap.
    while let Some(void) = numbers.first().copied().filter(|number| *number < first) {
        let path = segment_path(directory, void);
        fs::remove_file(&path).map_err(StoreError::io("delete", &path))?;
        numbers.remove(&void);
    }
    let mut recovery = Recovery::default();
    let mut segments = Vec::new();
    for number in &numbers {
        let last = numbers.last() == Some(number);
        segments.push(read(directory, *number, last, &mut replay, &mut recovery)?);
    }
    let (file, current) = match segments.pop() {
        Some(current) => {
            let path = current.path(directory);
            (OpenOptions::new().write(true).open(&path).map_err(StoreError::io("open", &path))?, current)
        }
        None => create(directory, first.max(1))?,
    };
    // What an earlier process wrote and nobody synced is counted as durable from now on, so it must be.
    file.sync_data().map_err(StoreError::io("sync", &current.path(directory)))?;
    let state = State {
        durable: current.bytes,
        file: Arc::new(file),
        current,
        closed: segments.into(),
        appended: 0,
        synced: 0,
        wanted: 0,
        dirty_since: None,
        stopped: None,
        closing: false,
    };
    Ok((state, recovery))
}

pub(super) fn is_there(directory: &Path) -> Result<bool, StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StoreError::io("read", directory)(error)),
    };
    Ok(entries.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(".ops")))
}

/// The segments' numbers: without a gap, or something was taken away.
fn numbers(directory: &Path, from: u32) -> Result<BTreeSet<u32>, StoreError> {
    let mut numbers = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(StoreError::io("read", directory))? {
        let entry = entry.map_err(StoreError::io("read", directory))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".tmp") {
            // A segment that was being made.
            fs::remove_file(entry.path()).map_err(StoreError::io("delete", &entry.path()))?;
            continue;
        }
        let number = name.strip_suffix(".ops").and_then(|digits| digits.parse().ok());
        match number.filter(|number| segment_path(directory, *number) == entry.path()) {
            Some(number) => drop(numbers.insert(number)),
            None => tracing::warn!("{} does not belong to the op log; it is left alone", entry.path().display()),
        }
    }
    let first = numbers.range(from..).next();
    if let (Some(first), Some(last)) = (first, numbers.last())
        && let Some(missing) = (*first..=*last).find(|number| !numbers.contains(number))
    {
        return Err(StoreError::damaged(&segment_path(directory, missing), None, "this log segment is missing"));
    }
    Ok(numbers)
}

fn read(
    directory: &Path,
    number: u32,
    last: bool,
    replay: &mut impl FnMut(Vec<Op>),
    recovery: &mut Recovery,
) -> Result<Segment, StoreError> {
    let path = segment_path(directory, number);
    let file = File::open(&path).map_err(StoreError::io("open", &path))?;
    let len = file.metadata().map_err(StoreError::io("read", &path))?.len();
    if len > SEGMENT_LIMIT {
        return Err(StoreError::damaged(&path, None, "it is longer than a log segment can be"));
    }
    let bytes = sys::read_at(&file, 0, len as usize).map_err(StoreError::io("read", &path))?;
    segment::check_header(&path, &bytes, number)?;
    let mut found = Segment { number, bytes: segment::HEADER as u64, last: BTreeMap::new() };
    while (found.bytes as usize) < bytes.len() {
        let at = found.bytes as usize;
        let Some(payload) = segment::record(&bytes, at) else {
            if !last || segment::was_durable(&bytes, at) {
                return Err(StoreError::damaged(&path, Some(found.bytes), "a record fails its checksum"));
            }
            recovery.torn = (bytes.len() - at) as u64;
            cut(&path, found.bytes, recovery.torn)?;
            break;
        };
        let ops: Vec<Op> = postcard::from_bytes(payload).map_err(|error| {
            let what = format!("a record with a good checksum holds no ops this shoal knows ({error})");
            StoreError::damaged(&path, Some(found.bytes), what)
        })?;
        found.note(&ops);
        found.bytes += (segment::RECORD_HEADER + payload.len()) as u64;
        recovery.ops += ops.len() as u64;
        replay(ops);
    }
    Ok(found)
}

fn cut(path: &Path, at: u64, torn: u64) -> Result<(), StoreError> {
    tracing::warn!("{}: cut {torn} bytes off the end, a record that a crash left half written", path.display());
    let file = OpenOptions::new().write(true).open(path).map_err(StoreError::io("open", path))?;
    file.set_len(at).and_then(|()| file.sync_all()).map_err(StoreError::io("cut", path))
}
