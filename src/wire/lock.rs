//! What peers say to one another about file locks: see `peer/locks`.

use super::MAX_ROSTER;
use crate::id::Ino;
use crate::namespace::{Lock, LockRequest, VersionVector};
use serde::{Deserialize, Serialize};

/// The most locks in one message.
pub const MAX_LOCKS: usize = 1 << 15;

/// What came of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockOutcome {
    /// The lock is given; or nothing is in the way of the one that was tested.
    Done,
    /// This one is in the way.
    Held(Lock),
    /// It waits for its turn; another answer comes.
    Queued,
    /// Waiting would never end.
    Deadlock,
    TooMany,
    /// Not here, or not now: ask whoever keeps the file's locks.
    Again,
}

/// One message about locks, on the control stream.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum LockMessage {
    /// Numbered by its sender.
    Request { id: u64, ino: Ino, request: LockRequest },
    /// What came of it; a lock may be used when its process' machine has all of this.
    Outcome { id: u64, outcome: LockOutcome, vector: VersionVector },
    /// A process of mine lets go of what it holds between these bytes, both included. Answered with `Unlocked` or
    /// `Elsewhere`; until then the process takes no other lock in the file, which this might let go of.
    Unlock { ino: Ino, owner: u64, first: u64, last: u64 },
    /// I want that no more. Answered with `Again`, if it was not given before.
    Withdraw { id: u64 },
    /// You keep these locks for processes of mine. With `all`: these, as far as you keep them, and no others.
    Holds { locks: Vec<(Ino, Lock)>, all: bool },
    /// What you let go of there is kept by another peer, or will be here in a moment: say it again.
    Elsewhere { ino: Ino, owner: u64, first: u64, last: u64 },
    /// It is free.
    Unlocked { ino: Ino, owner: u64, first: u64, last: u64 },
    /// I may not have heard of all the locks that I keep for you: tell me.
    Tell,
    /// I keep these locks of yours now.
    Keeps { ino: Ino, locks: Vec<Lock> },
    /// You took this one for yours, but it is not any more.
    Lost { ino: Ino, owner: u64 },
}

impl LockMessage {
    /// That its lengths are within bounds.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match self {
            LockMessage::Outcome { vector, .. } if vector.0.len() > MAX_ROSTER => Err("a vector of too many authors"),
            LockMessage::Holds { locks, .. } if locks.len() > MAX_LOCKS => Err("too many locks"),
            LockMessage::Keeps { locks, .. } if locks.len() > MAX_LOCKS => Err("too many locks"),
            LockMessage::Keeps { locks, .. } if locks.iter().any(|lock| lock.first > lock.last) => Err(BACKWARDS),
            LockMessage::Holds { locks, .. } if locks.iter().any(|(_, lock)| lock.first > lock.last) => Err(BACKWARDS),
            LockMessage::Request { request: LockRequest::Test { lock } | LockRequest::Take { lock, .. }, .. }
            | LockMessage::Outcome { outcome: LockOutcome::Held(lock), .. }
                if lock.first > lock.last =>
            {
                Err(BACKWARDS)
            }
            LockMessage::Unlock { first, last, .. }
            | LockMessage::Elsewhere { first, last, .. }
            | LockMessage::Unlocked { first, last, .. }
                if first > last =>
            {
                Err(BACKWARDS)
            }
            _ => Ok(()),
        }
    }
}

const BACKWARDS: &str = "a lock that ends before it begins";
