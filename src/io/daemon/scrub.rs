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

/// How often it is looked up how large the store is by now, and so how long the pause.
const LOOK: Duration = Duration::from_secs(3600);

/// The longest until the first step after a start: a machine that is often started anew gets on too.
const START: Duration = Duration::from_secs(600);

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

/// What is read.
trait Shelf {
    /// The next few shards after one, in order, and how many there are in all; `None`: it is over.
    fn next(&self, after: Option<ShardId>) -> Option<(Vec<ShardId>, usize)>;
    fn read(&self, ids: &[ShardId]) -> impl Future<Output = ()> + Send;
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
}

impl Shelf for Weak<Daemon> {
    fn next(&self, after: Option<ShardId>) -> Option<(Vec<ShardId>, usize)> {
        Some(self.upgrade()?.host.store().next(after, READ_AT_ONCE))
    }

    async fn read(&self, ids: &[ShardId]) {
        if let Some(this) = self.upgrade() {
            this.scrub_some(ids).await;
        }
    }

    fn now_ms(&self) -> u64 {
        self.upgrade().map_or(0, |this| this.host.now().millis())
    }
}

/// Reads every shard within the set time, again and again; without a rest where somebody is waiting for it.
pub async fn scrub(daemon: Weak<Daemon>, home: PathBuf) {
    let Some(this) = daemon.upgrade() else { return };
    let (household, within, diary) = (this.household.clone(), this.scrub_within, Diary::open(&home));
    if let Some(last) = diary.progress.last {
        let read = this.host.store().held().iter().filter(|(id, _)| *id <= last).count();
        household.scrubbed.store(read as u64, Ordering::Relaxed);
    }
    drop(this);
    go_round(daemon, &household, diary, within).await;
}

/// Goes through a shelf step by step. What comes next and how long the pause before it is are looked up afresh: whatever
/// is put, before where the scrub is or behind, is read within the set time.
async fn go_round(shelf: impl Shelf, household: &Household, mut diary: Diary, within: Duration) {
    household.scrub_ended_ms.store(diary.progress.ended_ms, Ordering::Relaxed);
    let mut began = Instant::now();
    let mut first = Some(began + START);
    let mut hurried = false;
    loop {
        let Some((step, held)) = shelf.next(diary.progress.last) else { return };
        household.to_scrub.store(held as u64, Ordering::Relaxed);
        let due = began + within / steps(held);
        let due = first.map_or(due, |first| first.min(due));
        let left = due.saturating_duration_since(Instant::now());
        if !hurried && !left.is_zero() {
            hurried = tokio::time::timeout(left.min(LOOK), household.scrub_now.notified()).await.is_ok();
            if hurried {
                diary.progress.last = None;
                household.scrubbed.store(0, Ordering::Relaxed);
            }
            continue;
        }
        (began, first) = (Instant::now(), None);
        shelf.read(&step).await;
        if step.len() == READ_AT_ONCE {
            household.scrubbed.fetch_add(step.len() as u64, Ordering::Relaxed);
            diary.note(Progress { last: step.last().copied(), ..diary.progress }, false);
            continue;
        }
        // That was the last one. Of an empty store there is nothing to be said, unless somebody asked.
        diary.progress.last = None;
        household.scrubbed.store(0, Ordering::Relaxed);
        if hurried || held > 0 {
            // Whoever waits for this one tells it by the time, so that is later than before whatever the clock says.
            let ended_ms = shelf.now_ms().max(diary.progress.ended_ms.saturating_add(1));
            diary.note(Progress { ended_ms, last: None }, true);
            household.scrub_ended_ms.store(ended_ms, Ordering::Relaxed);
        }
        if hurried {
            hurried = false;
            household.scrub_hurried.store(false, Ordering::Relaxed);
        }
    }
}

/// In how many steps' time so many shards are to be read: the last step finds that there are no more, and there is time
/// for another, for shards that come push those behind them into a later step.
fn steps(shards: usize) -> u32 {
    u32::try_from(shards / READ_AT_ONCE + 2).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlockName;
    use crate::policy::Geometry;
    use parking_lot::Mutex;
    use std::collections::{BTreeMap, BTreeSet};

    const DAY: Duration = Duration::from_secs(86_400);

    /// The set time, and what rounded timers add.
    const WITHIN: Duration = Duration::from_secs(14 * 86_400);
    const IN_TIME: Duration = Duration::from_secs(14 * 86_400 + 1);

    /// Shards without content, and when each of them was read.
    #[derive(Default)]
    struct Books {
        here: Mutex<BTreeSet<ShardId>>,
        read: Mutex<BTreeMap<ShardId, Vec<Instant>>>,
    }

    impl Books {
        fn put(&self, numbers: impl IntoIterator<Item = u32>) {
            let shard = |n: u32| {
                let mut name = [0; 32];
                name[..4].copy_from_slice(&n.to_be_bytes());
                ShardId { block: BlockName(name), geometry: Geometry { data: 1, parity: 0 }, index: 0 }
            };
            self.here.lock().extend(numbers.into_iter().map(shard));
        }

        /// The longest that any shard waited: from `put` to its first reading, from each to the next, and to now.
        fn longest(&self, put: Instant) -> Duration {
            let read = self.read.lock();
            let longest = |id: &ShardId| {
                let times = read.get(id).into_iter().flatten().copied();
                let times: Vec<Instant> = [put].into_iter().chain(times).chain([Instant::now()]).collect();
                times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
            };
            self.here.lock().iter().map(longest).max().unwrap_or_default()
        }
    }

    impl Shelf for &Books {
        fn next(&self, after: Option<ShardId>) -> Option<(Vec<ShardId>, usize)> {
            let here = self.here.lock();
            let later = here.iter().copied().filter(|id| after.is_none_or(|after| *id > after));
            Some((later.take(READ_AT_ONCE).collect(), here.len()))
        }

        async fn read(&self, ids: &[ShardId]) {
            let mut read = self.read.lock();
            ids.iter().for_each(|id| read.entry(*id).or_default().push(Instant::now()));
        }

        fn now_ms(&self) -> u64 {
            1
        }
    }

    /// A process that runs for so long.
    async fn runs(books: &Books, home: &Path, household: &Household, time: Duration) {
        let _ = tokio::time::timeout(time, go_round(books, household, Diary::open(home), WITHIN)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_shard_is_read_within_the_set_time_at_an_even_pace() {
        for shards in [1, 16, 100, 1000] {
            let (books, home, start) = (Books::default(), tempfile::tempdir().unwrap(), Instant::now());
            books.put((0..shards).map(|n| n * 10));
            let household = Household::default();
            runs(&books, home.path(), &household, 60 * DAY).await;
            assert!(books.longest(start) <= IN_TIME, "{shards}: {:?}", books.longest(start));
            let readings: usize = books.read.lock().values().map(Vec::len).sum();
            assert!(readings <= shards as usize * 7 + READ_AT_ONCE, "{shards}: read {readings} times in 60 days");
            assert!(household.scrub_ended_ms.load(Ordering::Relaxed) > 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_put_while_a_scrub_is_under_way_is_read_within_the_set_time_too() {
        let (books, home, household) = (Books::default(), tempfile::tempdir().unwrap(), Household::default());
        let mut scrub = Box::pin(go_round(&books, &household, Diary::open(home.path()), WITHIN));
        books.put((0..300).map(|n| n * 10));
        let _ = tokio::time::timeout(7 * DAY, &mut scrub).await;
        // Before where it is, and behind.
        books.read.lock().clear();
        books.put([5, 2985]);
        let put = Instant::now();
        let _ = tokio::time::timeout(40 * DAY, &mut scrub).await;
        assert!(books.longest(put) <= IN_TIME, "{:?}", books.longest(put));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_was_empty_and_one_that_is_often_started_are_read_in_time() {
        let (books, home, household) = (Books::default(), tempfile::tempdir().unwrap(), Household::default());
        runs(&books, home.path(), &household, DAY).await;
        books.put(0..100);
        let put = Instant::now();
        for _ in 0..60 {
            runs(&books, home.path(), &household, DAY / 2).await;
        }
        assert!(books.longest(put) <= IN_TIME, "{:?}", books.longest(put));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_waited_for_reads_everything_at_once_and_once() {
        let (books, home, household) = (Books::default(), tempfile::tempdir().unwrap(), Household::default());
        books.put(0..100);
        let mut scrub = Box::pin(go_round(&books, &household, Diary::open(home.path()), WITHIN));
        let _ = tokio::time::timeout(5 * DAY, &mut scrub).await;
        books.read.lock().clear();
        household.hurry_scrub();
        household.hurry_scrub();
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut scrub).await;
        assert!(books.here.lock().iter().all(|id| books.read.lock().get(id).is_some_and(|times| times.len() == 1)));
        assert!(!household.scrub_hurried.load(Ordering::Relaxed));
        assert_eq!(household.scrub_ended_ms.load(Ordering::Relaxed), 1);
        household.hurry_scrub();
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut scrub).await;
        assert_eq!(household.scrub_ended_ms.load(Ordering::Relaxed), 2, "later, though the clock stood still");
    }

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
