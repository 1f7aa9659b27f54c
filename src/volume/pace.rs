//! How fast repair may go: a bound in bytes a second, and less while people read and write.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// What repair may take of this machine's network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RepairBounds {
    /// Bytes a second, read and written together; 0: no bound.
    pub bytes_per_second: u64,
    /// How much of that is left to it while people use the share here, in hundredths.
    pub busy_percent: u64,
}

impl Default for RepairBounds {
    fn default() -> Self {
        RepairBounds { bytes_per_second: 64 << 20, busy_percent: 25 }
    }
}

/// People count as using the share for so long after a read or write.
const BUSY: Duration = Duration::from_secs(1);

/// What may be taken at once after a pause: smooth enough for a network, long enough for a timer.
const BURST: Duration = Duration::from_millis(100);

/// A bucket that fills at the rate allowed, and may be overdrawn by the last one who takes.
pub(super) struct Pace {
    bounds: RepairBounds,
    start: Instant,
    /// Milliseconds from `start` to the last use of the share by people, and one more; 0: never.
    used: AtomicU64,
    bucket: Mutex<Bucket>,
}

struct Bucket {
    /// Bytes that may be taken, negative when overdrawn.
    level: f64,
    at: Instant,
}

impl Pace {
    pub fn new(bounds: RepairBounds) -> Pace {
        let start = Instant::now();
        Pace { bounds, start, used: AtomicU64::new(0), bucket: Mutex::new(Bucket { level: 0.0, at: start }) }
    }

    /// Somebody reads or writes.
    pub fn people(&self) {
        self.used.store(self.start.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
    }

    /// For how long nobody has.
    pub fn unused_for(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.used.load(Ordering::Relaxed)))
    }

    fn rate(&self) -> f64 {
        let busy = self.used.load(Ordering::Relaxed) > 0 && self.unused_for() < BUSY;
        let rate = self.bounds.bytes_per_second as f64;
        if busy { rate * self.bounds.busy_percent as f64 / 100.0 } else { rate }
    }

    /// Waits until so many bytes more may be moved.
    pub async fn take(&self, bytes: u64) {
        if self.bounds.bytes_per_second == 0 {
            return;
        }
        loop {
            let wait = {
                let rate = self.rate().max(1.0);
                let mut bucket = self.bucket.lock();
                let now = Instant::now();
                let filled = rate * (now - bucket.at).as_secs_f64();
                bucket.level = (bucket.level + filled).min(rate * BURST.as_secs_f64());
                bucket.at = now;
                if bucket.level >= 0.0 {
                    bucket.level -= bytes as f64;
                    return;
                }
                Duration::from_secs_f64((-bucket.level / rate).clamp(0.001, 1.0))
            };
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(bytes_per_second: u64) -> Pace {
        Pace::new(RepairBounds { bytes_per_second, busy_percent: 25 })
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_moved_keeps_to_the_rate_and_to_a_part_of_it_while_people_work() {
        let pace = pace(1 << 20);
        for _ in 0..100 {
            pace.take(1 << 18).await;
        }
        let taken = pace.start.elapsed().as_secs_f64();
        assert!((24.0..26.0).contains(&taken), "25 MiB took {taken} s");
        let from = Instant::now();
        for _ in 0..20 {
            pace.people();
            pace.take(1 << 18).await;
        }
        let taken = from.elapsed().as_secs_f64();
        assert!((18.0..21.0).contains(&taken), "5 MiB beside people took {taken} s");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_bound_nobody_waits() {
        let pace = pace(0);
        for _ in 0..1000 {
            pace.take(1 << 30).await;
        }
        assert_eq!(pace.start.elapsed(), Duration::ZERO);
    }
}
