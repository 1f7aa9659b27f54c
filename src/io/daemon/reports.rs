//! What other machines did that was refused, or looks wrong: kept for people to see, the last ones only.

use crate::io::control::RefusedReport;
use crate::time::WallTime;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// So many are kept; the log of the peer has them all.
const KEPT: usize = 16;

/// The last things that were refused, oldest first.
#[derive(Default)]
pub struct Reports {
    last: Mutex<VecDeque<RefusedReport>>,
}

impl Reports {
    /// Notes what a machine did. What is said again is counted, and not listed twice.
    pub fn note(&self, who: String, what: String, now: WallTime) {
        tracing::warn!("{who} {what}");
        let at = now.millis() / 1000;
        let mut last = self.last.lock();
        let times = match last.iter().position(|report| report.who == who && report.what == what) {
            Some(index) => last.remove(index).map_or(0, |report| report.times),
            None => 0,
        };
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back(RefusedReport { who, what, at, times: times.saturating_add(1) });
    }

    /// Those that are kept, oldest first.
    pub fn all(&self) -> Vec<RefusedReport> {
        self.last.lock().iter().cloned().collect()
    }
}

/// What is said of a clock that is ahead by so much, or behind where it is negative.
pub fn clock_words(ahead_ms: i64) -> String {
    let (minutes, way) = (ahead_ms.unsigned_abs().div_ceil(60_000), if ahead_ms > 0 { "ahead of" } else { "behind" });
    format!("has a clock that is {minutes} min {way} this machine's; set both right")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_and_each_is_listed_once() {
        let reports = Reports::default();
        for second in 0..40 {
            let what = if second % 2 == 0 { "again".to_owned() } else { second.to_string() };
            reports.note("attic".to_owned(), what, WallTime(second * 1_000_000_000));
        }
        let all = reports.all();
        assert_eq!(all.len(), KEPT);
        let again: Vec<_> = all.iter().filter(|report| report.what == "again").collect();
        assert_eq!((again.len(), again[0].times, again[0].at), (1, 20, 38));
        assert_eq!(all.last().unwrap().at, 39);
        assert_eq!(clock_words(7 * 60_000), "has a clock that is 7 min ahead of this machine's; set both right");
        assert!(clock_words(-61_000).contains("2 min behind"));
    }
}
