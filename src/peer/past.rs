//! What a peer knows of its own past: whether its disk may have lost ops that it made and others have.
//!
//! Ops are acknowledged when the others have them, before they are on stable storage. After a power cut the numbers of
//! the last ones may be given out already. Whoever may have them is heard first; who cannot be heard may still have
//! some, so the peer goes on in a new epoch, in which it numbers its ops anew.

use serde::{Deserialize, Serialize};

/// What a peer knows of the ops it made before it started. It is kept beside the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Past {
    /// The epoch it makes ops in: see [`crate::id::Author`].
    pub epoch: u8,
    pub memory: Memory,
}

/// Whether a peer has everything it ever made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Memory {
    /// It has.
    #[default]
    Whole,
    /// The power was cut: its disk may lack the last ops, which others have. It makes none before it has heard them, or
    /// has begun a new epoch.
    Unsure,
    /// It goes on in a new epoch, and may still lack ops of an earlier one.
    Apart,
}

/// Bits of the numbers of inodes and groups that one epoch has to itself: the epoch's own are above them. An epoch that
/// draws more runs into the next one's, which is then left out.
const EPOCH_BITS: u32 = 31;

/// More numbers than are drawn and lost in one power cut.
const LOST_AT_MOST: u64 = 1 << 24;

impl Past {
    /// The number this peer draws next when the last one it knows of is `counter`.
    pub fn next_number(&self, counter: u64) -> u64 {
        (counter + 1).max(u64::from(self.epoch) << EPOCH_BITS)
    }

    /// The next epoch, whose numbers cannot have been drawn. The last one is gone on in: after 255 power cuts in
    /// which somebody could not be heard.
    pub(super) fn next_epoch(&self, counter: u64) -> u8 {
        let reached = (counter + LOST_AT_MOST) >> EPOCH_BITS;
        let reached = u8::try_from(reached).unwrap_or(u8::MAX);
        self.epoch.max(reached).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_epoch_draws_numbers_of_another() {
        let past = |epoch| Past { epoch, memory: Memory::Whole };
        assert_eq!(past(0).next_number(0), 1);
        assert_eq!(past(0).next_number(7), 8);
        assert_eq!(past(2).next_number(7), 2 << 31);
        assert_eq!(past(2).next_number((2 << 31) + 5), (2 << 31) + 6);
        assert_eq!(past(0).next_epoch(7), 1);
        // What was drawn before the cut may lie a little above what is known of it.
        assert_eq!(past(0).next_epoch((1 << 31) - 10), 2);
        assert_eq!(past(1).next_epoch(3 << 31), 4);
        assert_eq!(past(255).next_epoch(7), 255);
    }
}
