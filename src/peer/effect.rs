//! What a peer wants done.

use super::{Past, Timer};
use crate::group::Work;
use crate::id::{BlockName, Ino, PeerTag};
use crate::namespace::{Errno, Key, Op, VersionVector};
use crate::overlay::QueryId;
use crate::volume::ports::ShardId;
use crate::wire::{ControlMessage, LockOutcome};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::Duration;

/// Something the core wants done outside. Effects of one event are to be carried out in their order.
#[derive(Debug)]
pub enum Effect {
    /// Append these ops to the log before anything that follows is sent.
    Persist(Vec<Op>),
    /// Keep this beside the log, on stable storage before anything that follows is carried out.
    Remember(Past),
    /// Bring to stable storage what was put into the log before, which is all of this vector, then answer with it in
    /// [`super::Event::LogDurable`]. By now the namespace may have more, for which [`Effect::Persist`] follows.
    SyncLog(VersionVector),
    /// Fetch a snapshot from this peer, then go on from it with [`super::Peer::plan_rebase`] and
    /// [`super::Peer::rebased`], or answer with [`super::Event::SnapshotFailed`].
    FetchSnapshot {
        from: PeerTag,
    },
    /// Send on the ordered stream.
    SendControl {
        to: PeerTag,
        message: ControlMessage,
    },
    /// Send a datagram; it may be lost.
    SendDatagram {
        to: PeerTag,
        bytes: Bytes,
    },
    SetTimer {
        after: Duration,
        timer: Timer,
    },
    /// Another peer's ops changed these records: forget what the kernel and the volume remember of them.
    Invalidate(BTreeSet<Key>),
    /// The roster changed: connect to whom it names, cut off whom it does not.
    RosterChanged,
    /// The membership's verdict on a peer.
    Alive {
        peer: PeerTag,
        alive: bool,
    },
    /// What [`super::Peer::is_settled`] says may have changed.
    Settled,
    /// Carry this out beside everything else, then answer with [`super::Event::Worked`].
    Begin(Work),
    /// Answer with [`super::Event::Holds`] if the store has shards of this block.
    LookUp {
        query: QueryId,
        block: BlockName,
    },
    /// A search of this peer's is over: who said to have which shards. They may be too few.
    Searched {
        search: u64,
        found: Vec<(PeerTag, ShardId)>,
    },
    /// What was needed under this number is there.
    Provided(u64),
    /// What was to be done to names has been, by another peer, or cannot be: what lost a name by it, or the errno.
    Named {
        id: u64,
        outcome: Result<Option<Ino>, Errno>,
    },
    /// What came of a request for a lock.
    Locked {
        id: u64,
        outcome: LockOutcome,
    },
    /// Locks that processes of this machine held in this file are theirs no more: they are to be told.
    LockLost {
        ino: Ino,
    },
    /// The lease of this file, or a lock in it, is to go elsewhere: have stored what is unsaved of it, then answer with
    /// [`super::Event::Recalled`].
    Recall(Ino),
    /// A peer that this one was deposed by acts on what it held: what is unsaved under leases that are no longer here
    /// must not be laid over what the new holders wrote.
    Deposed,
    /// Something that this peer sent was not obeyed.
    Refused {
        peer: PeerTag,
        why: String,
    },
    /// A peer said of itself what the ops do not bear out. Nothing is done upon it; people should know.
    FalseClaim {
        peer: PeerTag,
        what: String,
    },
    /// The clock of a connected peer is ahead of this one by so much, or behind where it is negative.
    ClockDiffers {
        peer: PeerTag,
        ahead_ms: i64,
    },
    /// Ops that this peer made are left out for now: they are stamped so far ahead of this one's clock.
    LeftOut {
        peer: PeerTag,
        ahead_ms: u64,
    },
    /// A peer broke the protocol; its connection should be closed. The text says how.
    Misbehaved {
        peer: PeerTag,
        how: String,
    },
}
