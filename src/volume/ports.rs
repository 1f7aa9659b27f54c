//! What the data path needs of the world: three small traits. The real peer gives it QUIC, a disk and the
//! peer core; tests give it an in-memory network.

use crate::id::{Author, BlockName, Ino, PeerTag};
pub use crate::namespace::Errno;
use crate::namespace::{Change, Lock, LockRequest, Namespace, Naming};
use crate::policy::Geometry;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One shard of one block, as it is named on disk and on the wire. The geometry is part of the name: while a block is
/// encoded anew, a peer may hold a shard of the old kind and one of the new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct ShardId {
    pub block: BlockName,
    pub geometry: Geometry,
    /// Which of the `geometry.shards()` pieces.
    pub index: u8,
}

/// A shard's bytes with what is needed to check and decode them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    pub id: ShardId,
    /// Bytes of the whole block, 1 to 1 MiB.
    pub block_bytes: u32,
    /// CRC32C of `bytes`.
    pub crc: u32,
    /// `id.geometry.shard_bytes(block_bytes)` bytes.
    pub bytes: Bytes,
}

/// Why a shard could not be stored or fetched, by what the caller can do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ShardError {
    /// The holder answers, but has no such shard: try another participant.
    #[error("shard {index} of block {block} is not there")]
    Missing { block: BlockName, index: u8 },
    /// The bytes fail their checksum: try another, report for repair.
    #[error("shard {index} of block {block} is damaged: {what}")]
    Damaged { block: BlockName, index: u8, what: String },
    /// The store's disk has no room above its reserve: seat another peer.
    #[error("the store of peer {peer} is full")]
    Full { peer: PeerTag },
    /// Not reached, or no answer within the deadline: try another participant.
    #[error("peer {peer} did not answer: {why}")]
    Unreachable { peer: PeerTag, why: String },
    /// The disk failed.
    #[error("the store failed: {0}")]
    Disk(String),
}

/// This peer's own store of shards.
pub trait ShardStore: Send + Sync + 'static {
    /// Stores a shard (again is fine). Not yet durable: see `sync`.
    fn put(&self, shard: Shard) -> BoxFuture<'_, Result<(), ShardError>>;
    /// The shard, its checksum verified.
    fn get(&self, id: ShardId) -> BoxFuture<'_, Result<Shard, ShardError>>;
    /// Everything put so far is on stable storage.
    fn sync(&self) -> BoxFuture<'_, Result<(), ShardError>>;
    /// Which of these shards are not here; `read`: each one is read, and one that is damaged is not here any more.
    fn lacking(&self, ids: Vec<ShardId>, read: bool) -> BoxFuture<'_, Result<Vec<ShardId>, ShardError>>;
    /// The shards of this block that are here, damaged or not.
    fn holding(&self, block: BlockName) -> Vec<ShardId>;
    /// Every shard that is here now and how long ago it was last put, in no order.
    fn held(&self) -> Vec<(ShardId, Duration)>;
    /// Of the shards that are here the next so many after one, in order, and how many there are in all.
    fn next(&self, after: Option<ShardId>, count: usize) -> (Vec<ShardId>, usize);
    /// Gives up shards and the space they take, save those put within so long; how many went.
    fn remove(&self, ids: Vec<ShardId>, unless_put_within: Duration) -> BoxFuture<'_, Result<usize, ShardError>>;
    /// Files that were set aside, ever, because they were no shards, or damaged ones: they are kept, and not served.
    fn set_aside(&self) -> u64;
    /// Files of the store that were found cut short or damaged at the start: what is intact in them is served.
    fn damaged_volumes(&self) -> u64;
    /// Bytes of disk the content takes, bytes the file system could still take above the reserve, its size.
    fn usage(&self) -> StoreUsage;
}

/// What a store takes and could take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct StoreUsage {
    /// Bytes on disk for content.
    pub stored: u64,
    /// Bytes that can still be stored above the reserve.
    pub free: u64,
    /// Bytes of the file system it lies on.
    pub capacity: u64,
    /// Which file system that is: the stores of one machine that lie on one tell the same number. 0: not known.
    pub disk: u64,
}

/// Shards to and from other peers. Every call has a deadline of its own and ends with an error at once when
/// the peer is known dead.
pub trait ShardNetwork: Send + Sync + 'static {
    fn put(&self, peer: PeerTag, shard: Shard) -> BoxFuture<'_, Result<(), ShardError>>;
    fn get(&self, peer: PeerTag, id: ShardId) -> BoxFuture<'_, Result<Shard, ShardError>>;
    /// Makes durable what this peer has put there.
    fn sync(&self, peer: PeerTag) -> BoxFuture<'_, Result<(), ShardError>>;
    /// Which of these shards, at most [`crate::volume::ASKED_AT_ONCE`], the peer does not have; `read`: or cannot read
    /// whole.
    fn lacking(&self, peer: PeerTag, ids: Vec<ShardId>, read: bool) -> BoxFuture<'_, Result<Vec<ShardId>, ShardError>>;
    /// A running estimate of the peer's response time in microseconds; lower is asked first.
    fn latency_us(&self, peer: PeerTag) -> u64;
}

/// The peers a writer may seat, as the peer core sees them now.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidate {
    pub peer: PeerTag,
    pub alive: bool,
    /// Declared zone; empty if none.
    pub zone: String,
    /// Its first address's IP, for the subnet.
    pub address: Option<std::net::IpAddr>,
    /// Machine identity; empty if unknown.
    pub host: String,
    /// Bytes it can still take, as it last reported; `u64::MAX` if it has not.
    pub free: u64,
    /// Bytes it keeps for the share, as it last reported.
    pub stored: u64,
    /// The file system it stores on (see [`StoreUsage::disk`]), as it last reported; 0 if it has not.
    pub disk: u64,
    /// Its owner wants it drained: it is not seated any more.
    pub leaving: bool,
}

/// Changes, and what they need.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Planned {
    /// To be held, or nothing is changed.
    pub leases: Vec<Ino>,
    /// They store what was written while these leases were held: so they may still be made while another peer waits for
    /// them.
    pub unsaved: bool,
    pub changes: Vec<Change>,
}

impl Planned {
    /// Changes that need these leases.
    pub fn under(leases: Vec<Ino>, changes: Vec<Change>) -> Planned {
        Planned { leases, unsaved: false, changes }
    }
}

/// Why a change was not made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The plan says so.
    Errno(Errno),
    /// This peer may have missed something: `obtain` nothing, and look again.
    OutOfTouch,
    /// Some of these leases are elsewhere: `obtain` them, and look again.
    Elsewhere(Vec<Ino>),
}

/// What came of asking for the leases of something to be done to names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obtained {
    /// They are here, and it is still to be done.
    Leases,
    /// It is done, and every connected peer knows: what lost a name by it.
    Done { gone: Option<Ino> },
}

/// Keeps a lease here until it is dropped.
pub struct Pin(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Pin {
    /// A pin that calls this when it is dropped.
    pub fn new(release: impl FnOnce() + Send + Sync + 'static) -> Pin {
        Pin(Some(Box::new(release)))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(release) = self.0.take() {
            release();
        }
    }
}

/// The control plane as the data path sees it.
pub trait Control: Send + Sync + 'static {
    fn me(&self) -> PeerTag;
    /// Under which name this peer makes ops.
    fn author(&self) -> Author;
    /// The namespace, for reading; hold it briefly, never across an await.
    fn namespace(&self) -> parking_lot::RwLockReadGuard<'_, Namespace>;
    /// Under one lock: `plan` looks at the namespace and says what to change; the ops are stamped, applied here
    /// and on their way to the other peers when this returns. The result is the seq of the last op (0 if none).
    /// An error of `plan` is handed back and nothing is changed.
    fn change(&self, plan: &mut dyn FnMut(&Namespace) -> Result<Vec<Change>, Errno>) -> Result<u64, Errno>;
    /// As `change`, under leases: the plan says which. Where this peer does not hold them, nothing is changed.
    fn change_under(&self, plan: &mut dyn FnMut(&Namespace) -> Result<Planned, Errno>) -> Result<u64, Refusal>;
    /// Holds the lease of a file here until the pin is dropped, if this peer holds it now.
    fn pin(&self, ino: Ino) -> Result<Pin, Refusal>;
    /// Whether what is here is the newest there is among the connected peers.
    fn in_touch(&self) -> bool;
    /// Waits until this peer is in touch and holds these leases; `EIO` when that takes too long.
    fn obtain(&self, leases: Vec<Ino>) -> BoxFuture<'_, Result<(), Errno>>;
    /// Waits until this peer is in touch and holds these leases, or until the peer that holds them, being busy under them
    /// itself, has done this in its place.
    fn obtain_for(&self, leases: Vec<Ino>, naming: Naming) -> BoxFuture<'_, Result<Obtained, Errno>>;
    /// Takes a file lock for a process of this machine, waits for it, or tests for it: the lock in the way, if one is.
    /// Whoever gets it sees what was written under the last one. Dropped, the request is taken back.
    fn lock(&self, ino: Ino, request: LockRequest) -> BoxFuture<'_, Result<Option<Lock>, Errno>>;
    /// Lets go of what an owner of this machine holds between two bytes, both included; others may have it when this
    /// returns.
    fn unlock(&self, ino: Ino, owner: u64, first: u64, last: u64) -> BoxFuture<'_, ()>;
    /// Which of these inodes other machines have open, as far as they answer; one that lives and does not counts as
    /// having all.
    fn open_elsewhere(&self, inos: Vec<Ino>) -> BoxFuture<'_, BTreeSet<Ino>>;
    /// Waits until every connected peer has my ops up to `seq` (`durable`: on stable storage, here too). A peer
    /// that dies meanwhile is no longer waited for.
    fn settle(&self, seq: u64, durable: bool) -> BoxFuture<'_, Result<(), Errno>>;
    /// A number nobody has used, for an inode or a group.
    fn new_number(&self) -> u64;
    /// Every peer on the roster, this one included.
    fn candidates(&self) -> Vec<Candidate>;
    fn is_alive(&self, peer: PeerTag) -> bool;
    /// Whether more than half of the roster is alive, this peer included.
    fn has_majority(&self) -> bool;
    /// A shard that this peer should hold could not be had from it, or was not what it should be: it is told, and
    /// looks to it.
    fn suspect(&self, holder: PeerTag, id: ShardId);
    /// Asks around, whatever the namespace says, who has shards of this block; within a few seconds. What comes back is
    /// what peers said of themselves, and may be too little.
    fn search(&self, block: BlockName) -> BoxFuture<'_, Vec<(PeerTag, ShardId)>>;
    /// Random bits for placement; from a seed in tests.
    fn random(&self) -> u64;
    /// The wall clock.
    fn now(&self) -> crate::time::WallTime;
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}
