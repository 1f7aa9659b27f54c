//! Opening a store: finding every shard again, and setting aside what is none.

use super::super::error::StoreError;
use super::super::sys;
use super::Entry;
use super::aside::set_aside;
use super::header::{HEADER, Header, Place};
use super::volumes::{self, Spot, Volume, Volumes};
use crate::volume::ports::ShardId;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How much of a volume is read at a time, looking for headers.
const WINDOW: usize = 16 * 1024;

/// Volumes that are looked through at the same time.
const BATCH: usize = 8;

/// What belongs into the root of a store: its directories, and that of a file system which begins there.
const OWN: [&str; 3] = ["aside", "volumes", "lost+found"];

/// A volume, and its live shards in order.
type Scanned = (Volume, Vec<(ShardId, Entry)>);

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    pub index: BTreeMap<ShardId, Entry>,
    /// Older copies of shards in the index.
    pub displaced: Vec<(ShardId, Entry)>,
}

impl Found {
    fn add(&mut self, id: ShardId, entry: Entry) {
        if let Some(older) = self.index.insert(id, entry) {
            self.displaced.push((id, older));
        }
    }
}

/// Finds all records of all volumes by their headers.
pub(super) fn scan_volumes(volumes: &mut Volumes, aside: &Path, found: &mut Found) -> Result<(), StoreError> {
    let root = volumes.root().to_owned();
    let mut numbers = Vec::new();
    for_each(&root, |path, name| {
        if is_unmade(volumes, path, name) {
            return fs::remove_file(path).map_err(StoreError::io("delete", path));
        }
        let number = name.strip_suffix(".volume").and_then(|digits| digits.parse().ok());
        match number.filter(|number| volumes.path(*number) == path && path.is_file()) {
            Some(number) => numbers.push(number),
            None => reject(aside, path)?,
        }
        Ok(())
    })?;
    numbers.sort_unstable();
    for batch in numbers.chunks(BATCH) {
        // Finding headers is waiting for the disk: several volumes at a time.
        let scanned: Vec<_> = std::thread::scope(|scope| {
            let scan = |number: &u32| {
                let (path, number) = (volumes.path(*number), *number);
                scope.spawn(move || scan_volume(&path, number))
            };
            let threads: Vec<_> = batch.iter().map(scan).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        for (number, scanned) in batch.iter().zip(scanned) {
            let path = volumes.path(*number);
            let given_up = |_| StoreError::damaged(&path, None, "looking through it was given up");
            match scanned.map_err(given_up)?? {
                Some((volume, shards)) => {
                    volumes.add(*number, volume);
                    shards.into_iter().for_each(|(id, entry)| found.add(id, entry));
                }
                None => reject(aside, &path)?,
            }
        }
    }
    Ok(())
}

/// Whether this is a volume that was being made when the process ended: nothing is in it yet but its header.
fn is_unmade(volumes: &Volumes, path: &Path, name: &str) -> bool {
    let number = name.strip_suffix(".tmp").and_then(|digits| digits.parse().ok());
    number.is_some_and(|number| volumes.path(number).with_extension("tmp") == path)
        && fs::symlink_metadata(path).is_ok_and(|data| data.is_file() && data.len() <= HEADER as u64)
}

/// Sets aside what lies beside the store's directories. Nothing there is ever served, so one that cannot be moved (a
/// mount point, say) is left where it is.
pub(super) fn set_aside_strangers(root: &Path, aside: &Path) -> Result<(), StoreError> {
    for_each(root, |path, name| {
        if !OWN.contains(&name) {
            let _ =
                reject(aside, path).inspect_err(|error| tracing::warn!("{error}; it stays there, and is not served"));
        }
        Ok(())
    })
}

/// One volume and the live shards in it; `None` if it is none.
fn scan_volume(path: &Path, number: u32) -> Result<Option<Scanned>, StoreError> {
    let mut shards = Vec::new();
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let data = file.metadata().map_err(StoreError::io("read", path))?;
    let mut window = Window { file: &file, start: 0, bytes: Vec::new() };
    let first = window.header(0).map_err(StoreError::io("read", path))?;
    let Some(salt) = volumes::check_header(first, number) else { return Ok(None) };
    let len = data.len();
    let (mut at, mut live, mut live_bytes, mut sealed, mut strange) = (HEADER as u64, 0, 0, false, None);
    while at < len {
        let bytes = window.header(at).map_err(StoreError::io("read", path))?;
        let Ok(header) = Header::decode(bytes, Place { salt, offset: at }) else {
            // Room that was taken and never written, or damage: the next good header is at a later multiple.
            sealed = true;
            if bytes.iter().any(|byte| *byte != 0) {
                strange.get_or_insert(at);
            }
            at += HEADER as u64;
            continue;
        };
        let end = at + HEADER as u64 + header.form.bytes() as u64;
        if end > len && !header.dead {
            sealed = true;
            strange.get_or_insert(at);
            break;
        }
        if !header.dead {
            let spot = Spot { volume: number, offset: at as u32 };
            shards.push((header.id, Entry { form: header.form, spot }));
            live += 1;
            live_bytes += volumes::span(&header.form);
        }
        at += volumes::span(&header.form);
    }
    if let Some(at) = strange {
        tracing::warn!("{}: no intact shard at byte {at}; the others in it are served", path.display());
    }
    let end = at.max(len).next_multiple_of(HEADER as u64);
    let volume = Volume { salt, end, live, live_bytes, disk: data.blocks() * 512, sealed, strange: strange.is_some() };
    Ok(Some((volume, shards)))
}

/// A part of a volume, read ahead for as long as headers lie close together.
struct Window<'a> {
    file: &'a File,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The bytes of a header at `at`: fewer at the end of the file.
    fn header(&mut self, at: u64) -> std::io::Result<&[u8]> {
        let inside = at >= self.start && at + HEADER as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            self.bytes = sys::read_at(self.file, at, WINDOW)?;
            self.start = at;
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..self.bytes.len().min(from + HEADER)])
    }
}

fn reject(aside: &Path, path: &Path) -> Result<(), StoreError> {
    let to = set_aside(aside, path).map_err(StoreError::io("set aside", path))?;
    tracing::warn!("{} does not belong into the store; moved it to {}", path.display(), to.display());
    Ok(())
}

/// Every entry of a directory, with its name as text (one that is no text matches nothing of ours).
fn for_each(directory: &Path, mut work: impl FnMut(&Path, &str) -> Result<(), StoreError>) -> Result<(), StoreError> {
    for entry in fs::read_dir(directory).map_err(StoreError::io("read", directory))? {
        let entry = entry.map_err(StoreError::io("read", directory))?;
        work(&entry.path(), &entry.file_name().to_string_lossy())?;
    }
    Ok(())
}
