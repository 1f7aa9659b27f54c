//! Time as the pure cores see it: handed in, never asked for.

use crate::id::{Author, PeerTag};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Wall-clock time in nanoseconds since 1970, as files carry it. Negative before 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct WallTime(pub i64);

impl WallTime {
    /// Whole milliseconds since 1970, 0 before.
    pub fn millis(self) -> u64 {
        (self.0.max(0) / 1_000_000) as u64
    }
}

/// Monotonic time in nanoseconds since some fixed start of this process (or of the simulation).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// Later by so much.
    pub fn after(self, time: std::time::Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Now, by both clocks: the one that people set, and the one that only goes on (while the machine sleeps, too).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moment {
    pub wall: WallTime,
    pub steady: Instant,
}

/// A hybrid logical clock's reading: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16
/// (Kulkarni et al., "Logical Physical Clocks", 2014).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The wall-clock part, in milliseconds since 1970.
    pub fn millis(self) -> u64 {
        self.0 >> 16
    }

    /// The next reading after `self` given the wall clock: never less than either, always greater than `self`.
    pub fn next(self, now: WallTime) -> Hlc {
        Hlc((self.0 + 1).max(now.millis() << 16))
    }
}

/// An op's place in the total order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Stamp {
    pub time: Hlc,
    pub author: Author,
}

impl Default for PeerTag {
    /// No peer: tags are never 0.
    fn default() -> Self {
        PeerTag(0)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.time.millis(), self.time.0 & 0xffff, self.author)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
