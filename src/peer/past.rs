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

impl Past {
    /// Numbers for inodes and groups left out by a peer that may have drawn some it does not know of: far more than
    /// are drawn between two syncs of the log, and few of the 2^39 there are.
    pub const SKIPPED_NUMBERS: u64 = 1 << 24;

    /// The first number this peer may draw when the last one it knows of is `counter`.
    pub fn next_number(&self, counter: u64) -> u64 {
        counter + 1 + if self.memory == Memory::Whole { 0 } else { Past::SKIPPED_NUMBERS }
    }
}
