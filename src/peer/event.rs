//! What can happen to a peer.

use super::Need;
use crate::group::{Outcome, Work};
use crate::id::{BlockName, GroupId, Ino, PeerTag};
use crate::namespace::{LockRequest, VersionVector};
use crate::overlay::{Bloom, MembershipTimer, Piece, QueryId, SearchTimer};
use crate::volume::ports::StoreUsage;
use crate::wire::ControlMessage;
use bytes::Bytes;

/// Something that happened outside, told to the core.
#[derive(Debug)]
pub enum Event {
    /// A connection to a roster peer stands; anything sent on an earlier one may be lost.
    Connected(PeerTag),
    /// The connection is gone.
    Disconnected(PeerTag),
    /// A membership datagram came in.
    Datagram { from: PeerTag, bytes: Bytes },
    /// A control message, in the order its sender sent it.
    Control { from: PeerTag, message: ControlMessage },
    /// A timer that [`super::Effect::SetTimer`] asked for has run out.
    Timer(Timer),
    /// The op log is on stable storage up to this vector.
    LogDurable(VersionVector),
    /// What this peer's store takes and could take.
    Usage(StoreUsage),
    /// What [`super::Effect::Begin`] asked for has ended.
    Worked { work: Work, outcome: Outcome },
    /// The store lacks shards of these slots of the group, in which this peer sits.
    Lacking { group: GroupId, slots: Vec<u8> },
    /// The store has lost all it had.
    Emptied,
    /// The names of the blocks of which this peer's store has shards.
    Stored(Bloom),
    /// Find out who has shards of a block. [`super::Effect::Searched`] answers with the same number.
    Search { search: u64, block: BlockName },
    /// What [`super::Effect::LookUp`] found.
    Holds { query: QueryId, pieces: Vec<Piece> },
    /// What [`super::Effect::FetchSnapshot`] asked for could not be had, or not be used.
    SnapshotFailed,
    /// Somebody wants the groups looked at now, whatever failed before.
    Hurry,
    /// From now on it may make changes by itself. After a power cut its disk may lack its last ops, whose numbers others
    /// know: what could be heard of them is here again, and if that may not be all, it goes on in a new epoch.
    Ready,
    /// Something is needed; [`super::Effect::Provided`], or [`super::Effect::Named`], answers with the same number when it
    /// is there.
    Need { id: u64, need: Need },
    /// What was needed under this number is not any more.
    Forget { id: u64 },
    /// A process wants something of a file's locks; [`super::Effect::Locked`] answers with the same number.
    Lock { id: u64, ino: Ino, request: LockRequest },
    /// A process wants the lock it asked for under this number no more.
    ForgetLock { id: u64 },
    /// A process lets go of what it holds between these bytes, both included; [`super::Effect::Provided`] answers when
    /// others may have it.
    Unlock { id: u64, ino: Ino, owner: u64, first: u64, last: u64 },
    /// What [`super::Effect::Recall`] asked for has been done, as far as it could be.
    Recalled(Ino),
    /// This peer is about to go: tell the others, so that they need not find out.
    Leaving,
}

/// The timers of a peer.
#[derive(Debug)]
pub enum Timer {
    /// One of the membership protocol's.
    Membership(MembershipTimer),
    /// The end of a round of a search.
    Search(SearchTimer),
    /// Something waits for a lease.
    Leases,
    /// Once each [`super::TICK`]: compare vectors, report usage.
    Tick,
}
