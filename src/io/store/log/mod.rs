//! The op log: what makes a change outlive this process, and after a sync a power cut.
//!
//! Segments of checksummed records, appended to by any thread; one thread of its own makes them durable, one
//! `fdatasync` for all who wait. The tree's checkpoint lets old segments go.

mod open;
mod segment;
#[cfg(test)]
mod tests;

pub use open::Recovery;
pub use segment::RECORD_BYTES;

use super::error::StoreError;
use super::sys;
use crate::id::Author;
use crate::namespace::{Op, VersionVector};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A segment that has grown past this is followed by a new one.
const SEGMENT_BYTES: u64 = 32 << 20;
/// The most bytes of ops in one `append`.
const APPEND_BYTES: usize = 64 << 20;
/// No segment is longer: what is, is no segment of ours.
const SEGMENT_LIMIT: u64 = SEGMENT_BYTES + 2 * APPEND_BYTES as u64;
/// What nobody waits for becomes durable after this at the latest.
const LATEST_SYNC: Duration = Duration::from_secs(1);

/// How far the log had come after an `append`. Positions grow, and mean something for one opening of the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogPosition(u64);

/// The op log of one home.
pub struct OpLog {
    shared: Arc<Shared>,
    syncer: Option<JoinHandle<()>>,
}

struct Shared {
    directory: PathBuf,
    state: Mutex<State>,
    /// The syncing thread sleeps on this.
    work: Condvar,
    /// How many appends are durable, or why none will be any more.
    synced: watch::Sender<Result<u64, Arc<str>>>,
}

struct State {
    /// The segment that is written to.
    current: Segment,
    file: Arc<File>,
    /// Up to where the current segment is known to be on stable storage.
    durable: u64,
    /// The segments before it, oldest first.
    closed: VecDeque<Segment>,
    /// Appends so far, and how many of them are durable.
    appended: u64,
    synced: u64,
    /// Somebody waits for this many.
    wanted: u64,
    dirty_since: Option<Instant>,
    stopped: Option<Arc<str>>,
    closing: bool,
}

/// A segment as far as trimming needs to know it.
struct Segment {
    number: u32,
    bytes: u64,
    /// The last op of each author in it.
    last: BTreeMap<Author, u64>,
}

impl Segment {
    fn path(&self, directory: &Path) -> PathBuf {
        segment_path(directory, self.number)
    }

    fn note(&mut self, ops: &[Op]) {
        for op in ops {
            let last = self.last.entry(op.stamp.author).or_insert(0);
            *last = op.seq.max(*last);
        }
    }
}

fn segment_path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08}.ops"))
}

impl OpLog {
    /// Whether there is any of a log in `directory`.
    pub fn is_there(directory: &Path) -> Result<bool, StoreError> {
        open::is_there(directory)
    }

    /// Opens the log in `directory`, making it if there is none, and hands every op in it to `replay`, a record
    /// at a time, oldest first.
    pub fn open(directory: &Path, replay: impl FnMut(Vec<Op>)) -> Result<(OpLog, Recovery), StoreError> {
        OpLog::open_from(directory, 0, replay)
    }

    /// Likewise, but segments before number `first` are void, and deleted unread.
    pub fn open_from(
        directory: &Path,
        first: u32,
        replay: impl FnMut(Vec<Op>),
    ) -> Result<(OpLog, Recovery), StoreError> {
        let (state, recovery) = open::open(directory, first, replay)?;
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            state: Mutex::new(state),
            work: Condvar::new(),
            synced: watch::Sender::new(Ok(0)),
        });
        let syncer = std::thread::Builder::new()
            .name("shoal-log".to_owned())
            .spawn({
                let shared = shared.clone();
                move || shared.keep_syncing()
            })
            .map_err(StoreError::io("start the thread that syncs", directory))?;
        Ok((OpLog { shared, syncer: Some(syncer) }, recovery))
    }

    /// Writes ops to the log: they outlive this process from here on, and a power cut after [`OpLog::sync`] of the
    /// result. From any thread; it waits for a write into the page cache, and for the disk once in 32 MiB.
    /// On an error nothing was logged.
    pub fn append(&self, ops: &[Op]) -> Result<LogPosition, StoreError> {
        let payloads = if ops.is_empty() { Vec::new() } else { segment::encode(ops)? };
        let bytes: usize = payloads.iter().map(Vec::len).sum();
        if bytes > APPEND_BYTES {
            return Err(StoreError::TooLarge { bytes, limit: APPEND_BYTES });
        }
        let mut state = self.shared.state.lock();
        self.shared.check(&state)?;
        if payloads.is_empty() {
            return Ok(LogPosition(state.appended));
        }
        if state.current.bytes >= SEGMENT_BYTES {
            self.shared.rotate(&mut state)?;
        }
        let mut out = Vec::with_capacity(bytes + payloads.len() * segment::RECORD_HEADER);
        for payload in &payloads {
            segment::put_record(&mut out, payload, state.durable as u32);
        }
        let end = state.current.bytes;
        if let Err(error) = state.file.write_all_at(&out, end) {
            // Part of it may be there: the next record has to follow the last good one.
            if let Err(second) = state.file.set_len(end) {
                self.shared.stop(&mut state, &format!("{error}, and then {second}"));
            }
            return Err(StoreError::io("write", &state.current.path(&self.shared.directory))(error));
        }
        state.current.bytes += out.len() as u64;
        state.current.note(ops);
        state.appended += 1;
        if state.dirty_since.is_none() {
            state.dirty_since = Some(Instant::now());
            // It has to know that a second begins now.
            self.shared.work.notify_one();
        }
        Ok(LogPosition(state.appended))
    }

    /// The end of the log now.
    pub fn position(&self) -> LogPosition {
        LogPosition(self.shared.state.lock().appended)
    }

    /// Waits until everything up to `position` is on stable storage. As long as the disk takes: a caller with a
    /// deadline may drop the future.
    pub async fn sync(&self, position: LogPosition) -> Result<(), StoreError> {
        let mut synced = self.shared.synced.subscribe();
        {
            let mut state = self.shared.state.lock();
            if state.synced >= position.0 {
                return Ok(());
            }
            self.shared.check(&state)?;
            state.wanted = state.wanted.max(position.0);
            self.shared.work.notify_one();
        }
        let done = |seen: &Result<u64, Arc<str>>| seen.as_ref().map_or(true, |synced| *synced >= position.0);
        let why = match synced.wait_for(done).await {
            Ok(seen) => match &*seen {
                Ok(_) => return Ok(()),
                Err(why) => why.to_string(),
            },
            Err(_) => "it was closed".to_owned(),
        };
        Err(StoreError::LogStopped { path: self.shared.directory.clone(), why })
    }

    /// Begins a new segment, and hands its number back: all that was appended is durable, and lies before it. Waits for
    /// the disk.
    pub fn cut(&self) -> Result<u32, StoreError> {
        let mut state = self.shared.state.lock();
        self.shared.check(&state)?;
        self.shared.rotate(&mut state)?;
        Ok(state.current.number)
    }

    /// Deletes the segments before number `first`, whatever they hold. Waits for the disk.
    pub fn drop_before(&self, first: u32) -> Result<(), StoreError> {
        let mut old = Vec::new();
        {
            let mut state = self.shared.state.lock();
            while state.closed.front().is_some_and(|segment| segment.number < first) {
                old.extend(state.closed.pop_front());
            }
        }
        self.shared.delete(&old)
    }

    /// Lets go of the oldest segments, as long as `checkpoint` covers every op in them. For after the tree that
    /// holds those ops is durable. Waits for the disk: not from an async worker. The number of segments deleted.
    pub fn trim(&self, checkpoint: &VersionVector) -> Result<usize, StoreError> {
        let covered = |segment: &Segment| segment.last.iter().all(|(peer, seq)| *seq <= checkpoint.get(*peer));
        let mut old = Vec::new();
        {
            let mut state = self.shared.state.lock();
            self.shared.check(&state)?;
            if !state.current.last.is_empty() {
                self.shared.rotate(&mut state)?;
            }
            while state.closed.front().is_some_and(covered) {
                old.extend(state.closed.pop_front());
            }
        }
        self.shared.delete(&old)?;
        Ok(old.len())
    }

    /// Bytes of all segments together: what a restart would read.
    pub fn bytes(&self) -> u64 {
        let state = self.shared.state.lock();
        state.current.bytes + state.closed.iter().map(|segment| segment.bytes).sum::<u64>()
    }
}

impl Drop for OpLog {
    /// Makes everything durable, as far as the disk can.
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.work.notify_one();
        if let Some(syncer) = self.syncer.take() {
            let _ = syncer.join();
        }
    }
}

impl Shared {
    fn check(&self, state: &State) -> Result<(), StoreError> {
        match &state.stopped {
            Some(why) => Err(StoreError::LogStopped { path: self.directory.clone(), why: why.to_string() }),
            None => Ok(()),
        }
    }

    /// Deletes the files of segments, oldest first, so that no gap is ever left.
    fn delete(&self, old: &[Segment]) -> Result<(), StoreError> {
        for segment in old {
            let path = segment.path(&self.directory);
            fs::remove_file(&path).map_err(StoreError::io("delete", &path))?;
        }
        if !old.is_empty() {
            sys::sync_directory(&self.directory).map_err(StoreError::io("write", &self.directory))?;
        }
        Ok(())
    }

    /// After a failed sync the kernel forgets what it could not write, and a second sync would succeed for
    /// nothing: so the first one is the last.
    fn stop(&self, state: &mut State, why: &str) {
        tracing::error!("the op log {} is stopped: {why}", self.directory.display());
        let why: Arc<str> = why.into();
        state.stopped = Some(why.clone());
        let _ = self.synced.send_replace(Err(why));
    }

    /// Ends the current segment, durably, before the next one is begun: so only the last one can have a torn tail.
    fn rotate(&self, state: &mut State) -> Result<(), StoreError> {
        let path = state.current.path(&self.directory);
        if let Err(error) = state.file.sync_data() {
            self.stop(state, &error.to_string());
            return Err(StoreError::io("sync", &path)(error));
        }
        self.all_synced(state, state.appended);
        state.durable = state.current.bytes;
        let number = state.current.number + 1;
        let (file, next) = create(&self.directory, number)?;
        state.file = Arc::new(file);
        state.durable = next.bytes;
        let closed = std::mem::replace(&mut state.current, next);
        state.closed.push_back(closed);
        Ok(())
    }

    fn all_synced(&self, state: &mut State, appended: u64) {
        if appended > state.synced {
            state.synced = appended;
            let _ = self.synced.send_replace(Ok(appended));
        }
        if state.synced == state.appended {
            state.dirty_since = None;
        }
    }

    fn keep_syncing(&self) {
        let mut state = self.state.lock();
        while state.stopped.is_none() {
            let due = state.dirty_since.map(|since| since + LATEST_SYNC);
            let now_due = due.is_some_and(|due| due <= Instant::now());
            if state.synced == state.appended || !(state.wanted > state.synced || now_due || state.closing) {
                if state.closing {
                    return;
                }
                match due {
                    Some(due) => drop(self.work.wait_until(&mut state, due)),
                    None => self.work.wait(&mut state),
                }
                continue;
            }
            let (file, number) = (state.file.clone(), state.current.number);
            let (appended, bytes) = (state.appended, state.current.bytes);
            let result = parking_lot::MutexGuard::unlocked(&mut state, || file.sync_data());
            match result {
                Ok(()) => {
                    if state.current.number == number {
                        state.durable = state.durable.max(bytes);
                    }
                    if state.synced < state.appended {
                        // What came during the sync is dirty from now.
                        state.dirty_since = Some(Instant::now());
                    }
                    self.all_synced(&mut state, appended);
                }
                Err(error) => self.stop(&mut state, &error.to_string()),
            }
        }
    }
}

/// Makes segment `number`, empty and durable: it is there whole or not at all.
fn create(directory: &Path, number: u32) -> Result<(File, Segment), StoreError> {
    let path = segment_path(directory, number);
    let header = segment::header(number);
    sys::write_whole(&path, &header, 0o600).map_err(StoreError::io("create", &path))?;
    let file = OpenOptions::new().write(true).mode(0o600).open(&path).map_err(StoreError::io("open", &path))?;
    Ok((file, Segment { number, bytes: header.len() as u64, last: BTreeMap::new() }))
}
