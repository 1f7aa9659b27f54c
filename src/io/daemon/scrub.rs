//! Reading every shard within a set time, again and again, so that rot is found while others can still make up for it.
//! How far that has come outlives the process.

use super::Daemon;
use super::housekeeping::Household;
use crate::io::store::write_whole;
use crate::volume::ports::{Control, ShardId};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Shards that one step reads.
const READ_AT_ONCE: usize = 16;

/// How often it is written down how far a scrub has come.
const NOTED_EVERY: Duration = Duration::from_secs(600);

/// With an empty store, how long until the next look.
const EMPTY: Duration = Duration::from_secs(3600);

/// How far the checking of a store is, in a file of its home.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Progress {
    /// When all had been read the last time, in milliseconds since 1970; 0: never yet.
    ended_ms: u64,
    /// The last shard read by the scrub that is under way.
    last: Option<ShardId>,
}

/// The file and what it says.
struct Diary {
    path: PathBuf,
    progress: Progress,
    noted: Instant,
}

impl Diary {
    /// One that cannot be read only costs reading some shards once more.
    fn open(home: &Path) -> Diary {
        let path = home.join("scrub");
        let progress = std::fs::read(&path).ok().and_then(|bytes| postcard::from_bytes(&bytes).ok());
        Diary { path, progress: progress.unwrap_or_default(), noted: Instant::now() }
    }

    fn note(&mut self, progress: Progress, at_once: bool) {
        self.progress = progress;
        if !at_once && self.noted.elapsed() < NOTED_EVERY {
            return;
        }
        self.noted = Instant::now();
        let written = postcard::to_stdvec(&self.progress)
            .map_err(std::io::Error::other)
            .and_then(|bytes| write_whole(&self.path, &bytes, 0o600));
        if let Err(error) = written {
            tracing::warn!("{} cannot be written: {error}; a restart begins the scrub anew", self.path.display());
        }
    }
}

/// Reads every shard within the set time, again and again; without a rest where somebody is waiting for it.
pub async fn scrub(daemon: Weak<Daemon>, home: PathBuf) {
    let Some((household, within)) = daemon.upgrade().map(|this| (this.household.clone(), this.scrub_within)) else {
        return;
    };
    let mut diary = Diary::open(&home);
    household.scrub_ended_ms.store(diary.progress.ended_ms, Ordering::Relaxed);
    let mut hurried = false;
    loop {
        let Some(this) = daemon.upgrade() else { return };
        let mut ids: Vec<ShardId> = this.host.store().held().into_iter().map(|(id, _)| id).collect();
        drop(this);
        ids.sort_unstable();
        let read = ids.partition_point(|id| diary.progress.last.is_some_and(|last| *id <= last));
        household.to_scrub.store(ids.len() as u64, Ordering::Relaxed);
        household.scrubbed.store(read as u64, Ordering::Relaxed);
        let steps = u32::try_from(ids.len().div_ceil(READ_AT_ONCE)).unwrap_or(u32::MAX);
        let pause = if hurried { Duration::ZERO } else { within / steps.max(1) };
        let interrupted = read_all(&daemon, &household, &mut diary, &ids[read..], pause).await;
        if !interrupted {
            let Some(this) = daemon.upgrade() else { return };
            // Of an empty store there is nothing to be said, unless somebody asked.
            if hurried || !ids.is_empty() {
                // Whoever waits for this one tells it by the time, so that is later than before whatever the clock says.
                let ended_ms = this.host.now().millis().max(diary.progress.ended_ms.saturating_add(1));
                diary.note(Progress { ended_ms, last: None }, true);
                household.scrub_ended_ms.store(ended_ms, Ordering::Relaxed);
            }
            if hurried {
                household.scrub_hurried.store(false, Ordering::Relaxed);
            }
        }
        hurried = interrupted;
        if !interrupted && ids.is_empty() {
            hurried = tokio::time::timeout(within.min(EMPTY), household.scrub_now.notified()).await.is_ok();
        }
        if hurried {
            diary.progress.last = None;
        }
    }
}

/// Reads these shards, with a pause before each step; true where somebody wants all read at once instead.
async fn read_all(
    daemon: &Weak<Daemon>,
    household: &Household,
    diary: &mut Diary,
    ids: &[ShardId],
    pause: Duration,
) -> bool {
    for step in ids.chunks(READ_AT_ONCE) {
        if !pause.is_zero() && tokio::time::timeout(pause, household.scrub_now.notified()).await.is_ok() {
            return true;
        }
        let Some(this) = daemon.upgrade() else { return false };
        this.scrub_some(step).await;
        household.scrubbed.fetch_add(step.len() as u64, Ordering::Relaxed);
        diary.note(Progress { last: step.last().copied(), ..diary.progress }, false);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlockName;
    use crate::policy::Geometry;

    #[test]
    fn how_far_a_scrub_is_outlives_the_process_and_a_damaged_note_does_no_harm() {
        let home = tempfile::tempdir().unwrap();
        let mut diary = Diary::open(home.path());
        assert_eq!(diary.progress, Progress::default());
        let last = ShardId { block: BlockName([7; 32]), geometry: Geometry { data: 4, parity: 2 }, index: 5 };
        let progress = Progress { ended_ms: 9, last: Some(last) };
        diary.note(progress, false);
        assert_eq!(Diary::open(home.path()).progress, Progress::default(), "not at every step");
        diary.note(progress, true);
        assert_eq!(Diary::open(home.path()).progress, progress);
        std::fs::write(home.path().join("scrub"), b"\xff").unwrap();
        assert_eq!(Diary::open(home.path()).progress, Progress::default());
    }
}
