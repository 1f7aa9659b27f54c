//! The virtual clock, and what is still to happen: in the order of its time, and of its making where the time is the
//! same. The clock moves only when the next thing is taken.

use crate::time::Instant;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

/// What is still to happen.
pub struct Queue<E> {
    now: Instant,
    made: u64,
    coming: BinaryHeap<Reverse<Entry<E>>>,
}

struct Entry<E> {
    at: Instant,
    made: u64,
    what: E,
}

impl<E> Entry<E> {
    fn order(&self) -> (Instant, u64) {
        (self.at, self.made)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Queue { now: Instant::default(), made: 0, coming: BinaryHeap::new() }
    }
}

impl<E> Queue<E> {
    pub fn now(&self) -> Instant {
        self.now
    }

    /// At this time; at once, if that is past.
    pub fn at(&mut self, at: Instant, what: E) {
        self.made += 1;
        self.coming.push(Reverse(Entry { at: at.max(self.now), made: self.made, what }));
    }

    pub fn after(&mut self, after: Duration, what: E) {
        self.at(later(self.now, after), what);
    }

    /// The next thing that happens before `until`; when there is none, the clock stands at `until`.
    pub fn next(&mut self, until: Instant) -> Option<E> {
        if self.coming.peek().is_some_and(|Reverse(entry)| entry.at < until) {
            let Reverse(entry) = self.coming.pop()?;
            self.now = entry.at;
            return Some(entry.what);
        }
        self.now = self.now.max(until);
        None
    }
}

/// So much after that.
pub fn later(at: Instant, after: Duration) -> Instant {
    Instant(at.0.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
}

/// From one time to another, nothing if that lies before.
pub fn between(from: Instant, to: Instant) -> Duration {
    Duration::from_nanos(to.0.saturating_sub(from.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_in_the_order_of_time_and_then_of_their_making() {
        let mut queue = Queue::default();
        queue.after(Duration::from_secs(2), "third");
        queue.after(Duration::from_secs(1), "first");
        queue.after(Duration::from_secs(1), "second");
        let end = later(Instant(0), Duration::from_secs(3));
        assert_eq!([queue.next(end), queue.next(end), queue.next(end)], [Some("first"), Some("second"), Some("third")]);
        queue.at(Instant(0), "late");
        assert_eq!((queue.next(end), queue.now().0), (Some("late"), 2_000_000_000));
        assert_eq!((queue.next(end), queue.now()), (None, end));
    }

    #[test]
    fn nothing_happens_at_the_end_or_after() {
        let mut queue = Queue::default();
        queue.after(Duration::from_secs(1), ());
        assert_eq!(queue.next(later(Instant(0), Duration::from_secs(1))), None);
    }
}
