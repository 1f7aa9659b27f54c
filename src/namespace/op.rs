//! Ops: what a change to the namespace is, as it is logged, sent and applied.

use crate::id::{Author, BlockName, GroupId, Ino, PeerKey, PeerTag};
use crate::policy::{Geometry, Partition, Policy};
use crate::time::{Stamp, WallTime};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;

/// Content up to this many bytes travels and lives in the op itself.
pub const INLINE_BYTES: usize = 4096;
/// The longest name of a directory entry, in bytes.
pub const NAME_BYTES: usize = 255;
/// The longest symlink target, in bytes.
pub const TARGET_BYTES: usize = 4095;
/// The longest value of an extended attribute, in bytes.
pub const XATTR_BYTES: usize = 65536;
/// The most bytes of one block.
pub const BLOCK_BYTES: usize = 1 << 20;
/// The most extents in one `Write`.
pub const WRITE_EXTENTS: usize = 1024;
/// The most blocks in one `Relocate`.
pub const RELOCATED_BLOCKS: usize = 1024;

/// One change to the namespace.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Op {
    pub stamp: Stamp,
    /// Counts the ops of `stamp.author` from 1, without gaps, in stamp order.
    pub seq: u64,
    pub change: Change,
}

/// Per author, the last op seen without gaps. Absent means 0.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VersionVector(pub BTreeMap<Author, u64>);

impl VersionVector {
    pub fn get(&self, author: Author) -> u64 {
        self.0.get(&author).copied().unwrap_or(0)
    }

    /// Whether every op that `other` has is here too.
    pub fn covers(&self, other: &VersionVector) -> bool {
        other.0.iter().all(|(author, seq)| self.get(*author) >= *seq)
    }
}

/// A name in a directory: 1 to 255 bytes, no '/', no NUL, not "." or "..".
pub type Name = Bytes;

/// What an inode is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    File,
    Directory,
    Symlink {
        target: Bytes,
    },
    /// Device nodes, FIFOs and sockets: `mode` type bits of `libc::S_IFMT` and the device number.
    Special {
        format: u32,
        device: u32,
    },
}

/// A run of a file's bytes and where they come from. Extents of one file never overlap; what no extent
/// covers reads as zeros.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Extent {
    /// Bytes in the run, at least 1.
    pub len: u32,
    pub source: Source,
}

/// Where the bytes of an extent are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Source {
    /// Here; at most [`INLINE_BYTES`], and exactly `len` of them.
    Inline(Bytes),
    /// `len` bytes from `at` in the block.
    Block { name: BlockName, at: u32 },
    /// Zeros: punches a hole when written. Never kept in the tree.
    Hole,
}

/// A block first named by this op: where its shards are and how long it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewBlock {
    pub name: BlockName,
    pub group: GroupId,
    /// Bytes of the block, 1 to [`BLOCK_BYTES`].
    pub len: u32,
}

/// Attributes to set; absent ones stay. `size` is not here: content changes are [`Change::Write`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SetAttributes {
    /// Permission bits, 0o7777.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<WallTime>,
    pub mtime: Option<WallTime>,
    pub ctime: Option<WallTime>,
}

/// A place in the tree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Place {
    pub parent: Ino,
    pub name: Name,
}

/// What an entry that is to go was when its remover looked: a removal never takes more than its remover saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    pub ino: Ino,
    /// The inode's `content` stamp then: a file changed since, unseen, is kept.
    pub content: Stamp,
    /// It was the only name of the inode then: whoever took away one of several meant the file to stay.
    pub only: bool,
}

/// The kinds of change. Appending variants keeps old logs readable; fields of a variant are fixed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// A new inode under a name.
    Create {
        place: Place,
        ino: Ino,
        kind: Kind,
        mode: u32,
        uid: u32,
        gid: u32,
        time: WallTime,
    },
    /// Another name for an inode that is no directory.
    Link {
        place: Place,
        ino: Ino,
        time: WallTime,
    },
    /// Takes a name away from an inode that is no directory. An inode with no name left is an orphan until `Reap`.
    Unlink {
        place: Place,
        seen: Seen,
        time: WallTime,
    },
    /// Takes away an empty directory; it becomes an orphan until `Reap`.
    Rmdir {
        place: Place,
        ino: Ino,
        time: WallTime,
    },
    /// Moves `ino` from one place to another, over `replaced` if given.
    Rename {
        from: Place,
        to: Place,
        ino: Ino,
        replaced: Option<Seen>,
        time: WallTime,
    },
    /// Swaps what two places name.
    Exchange {
        a: Place,
        a_ino: Ino,
        b: Place,
        b_ino: Ino,
        time: WallTime,
    },
    /// Nobody has the orphan open any more: it may be forgotten.
    Reap {
        ino: Ino,
    },
    SetAttributes {
        ino: Ino,
        set: SetAttributes,
    },
    /// `value: None` removes.
    SetXattr {
        ino: Ino,
        name: Bytes,
        value: Option<Bytes>,
        ctime: WallTime,
    },
    /// New content. `base` is the inode's `content` stamp the writer built on, the newest it had seen of this
    /// line of versions; when another write came between, unseen, this one goes to a conflict copy. `linked`: the writer saw the file under some name, so that a
    /// removal it had not seen does not take the content along.
    Write {
        ino: Ino,
        base: Stamp,
        linked: bool,
        /// Offset and extent, ascending, not overlapping, at most [`WRITE_EXTENTS`]. Each replaces what was there.
        extents: Vec<(u64, Extent)>,
        /// Blocks that this op is the first (of its peer) to name.
        blocks: Vec<NewBlock>,
        /// The size afterwards; content past it goes.
        size: u64,
        mtime: WallTime,
        ctime: WallTime,
        /// The write took setuid and setgid bits away.
        clear_suid: bool,
    },
    /// Shows or hides the policy of an inode; `None` inherits.
    SetPolicy {
        ino: Ino,
        policy: Option<Policy>,
    },
    /// A new group, one seat a slot.
    OpenGroup {
        group: GroupId,
        policy: Policy,
        geometry: Geometry,
        seats: Vec<PeerTag>,
    },
    /// Seats a peer in a slot beside those already there.
    Seat {
        group: GroupId,
        slot: u8,
        peer: PeerTag,
    },
    /// Takes a peer out of a slot; with a `keeper`, only where that one sits in the slot, so that two participants
    /// that each leave the slot to the other do not both go.
    Unseat {
        group: GroupId,
        slot: u8,
        peer: PeerTag,
        keeper: Option<PeerTag>,
    },
    /// Admits a peer to the roster, or changes what the roster says of it.
    Admit {
        peer: PeerRecord,
    },
    /// Takes a peer off the roster.
    Evict {
        peer: PeerTag,
    },
    /// These blocks, at most [`RELOCATED_BLOCKS`], are kept by another group from now on, whose participants have
    /// their shards already. Those that `from` no longer keeps stay where they are.
    Relocate {
        from: GroupId,
        to: GroupId,
        blocks: Vec<BlockName>,
    },
    /// Forgets a group that keeps nothing and that nobody will put anything into.
    CloseGroup {
        group: GroupId,
    },
    /// Says what a peer's owner wants of it.
    SetStanding {
        peer: PeerTag,
        standing: Standing,
    },
    /// Lets go of a peer that is away and would keep the log growing: its word is no longer needed for what is stable,
    /// and it has to take a snapshot when it returns. It stays on the roster, and in its seats.
    LetGo {
        peer: PeerTag,
    },
    /// A peer that was let go is about to be given a snapshot: it counts again from here on.
    TakeBack {
        peer: PeerTag,
    },
    /// Op `seq` of `stamp.author`, which its log could no longer bring, at a new place in the order: by whoever had it
    /// when it took a snapshot. It has its own stamp still, as the name of the versions it makes. Of several, and of
    /// the op itself, one counts.
    Again {
        stamp: Stamp,
        seq: u64,
        change: Carried,
    },
    /// Makes two directories that were given one name one: what lies in `ino`, which is at `from` under a conflict
    /// name, goes into `into`, and whoever names `ino` means `into`.
    Merge {
        from: Place,
        ino: Ino,
        into: Ino,
        time: WallTime,
    },
    /// Forgets the conflict that is recorded at a place, where `ino` is.
    Settle {
        place: Place,
        ino: Ino,
    },
    /// What a directory asks for in a partition; `None` inherits.
    SetPartition {
        ino: Ino,
        mode: Option<Partition>,
    },
    /// Gives a lease, which this op's peer holds, to another peer.
    Grant {
        ino: Ino,
        to: PeerTag,
    },
    /// All that a peer holds passes to its heir. Either of the two says so: the peer when it goes, the heir when the
    /// peer is dead and everybody who is connected has agreed.
    Depose {
        peer: PeerTag,
        heir: PeerTag,
    },
    /// Done to names by whoever holds the leases, for another peer, which wished it under this number.
    For {
        peer: PeerTag,
        wish: u64,
        change: Wished,
    },
}

/// A change inside another that was made before. It holds no further one of that kind, however it comes from outside.
#[derive(Clone, PartialEq, Debug)]
pub struct Carried(pub Box<Change>);

/// A change to names inside another. It holds no further one, however it comes from outside.
#[derive(Clone, PartialEq, Debug)]
pub struct Wished(pub Box<Change>);

impl Serialize for Carried {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_inner(&self.0, serializer)
    }
}

impl Serialize for Wished {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_inner(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Carried {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Carried, D::Error> {
        deserialize_inner(deserializer, &[Change::again_of_nothing()]).map(Carried)
    }
}

impl<'de> Deserialize<'de> for Wished {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wished, D::Error> {
        deserialize_inner(deserializer, &[Change::again_of_nothing(), Change::for_nobody()]).map(Wished)
    }
}

fn serialize_inner<S: Serializer>(change: &Change, serializer: S) -> Result<S::Ok, S::Error> {
    let bytes = postcard::to_stdvec(change).map_err(serde::ser::Error::custom)?;
    Bytes::from(bytes).serialize(serializer)
}

/// A change inside another, of no kind of these: what nests without end would use up the stack.
fn deserialize_inner<'de, D: Deserializer<'de>>(deserializer: D, barred: &[Change]) -> Result<Box<Change>, D::Error> {
    let bytes = Bytes::deserialize(deserializer)?;
    for kind in barred {
        // The first byte is the kind. It is looked at before anything is decoded.
        let encoded = postcard::to_stdvec(kind).map_err(de::Error::custom)?;
        if bytes.first() == encoded.first() {
            return Err(de::Error::custom("a carried change carries another"));
        }
    }
    match postcard::take_from_bytes(&bytes) {
        Ok((change, [])) => Ok(Box::new(change)),
        Ok(_) => Err(de::Error::custom("bytes follow a carried change")),
        Err(error) => Err(de::Error::custom(error)),
    }
}

/// What the owner of a machine has said about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Standing {
    /// It is to be drained: others take over its shards, and nobody seats it.
    pub leaving: bool,
    /// Until then its being away is no reason for repair.
    pub maintenance_until: WallTime,
}

impl Change {
    /// The smallest change there is, which nobody takes.
    fn reap_root() -> Box<Change> {
        Box::new(Change::Reap { ino: Ino::ROOT })
    }

    fn again_of_nothing() -> Change {
        Change::Again { stamp: Stamp::default(), seq: 0, change: Carried(Change::reap_root()) }
    }

    fn for_nobody() -> Change {
        Change::For { peer: PeerTag::default(), wish: 0, change: Wished(Change::reap_root()) }
    }

    /// The change itself, whomever it was made for.
    pub fn itself(&self) -> &Change {
        match self {
            Change::For { change, .. } => &change.0,
            change => change,
        }
    }

    /// What loses a name by it, if it means what it says: a file or a directory.
    pub fn takes_a_name_from(&self) -> Option<Ino> {
        match self.itself() {
            Change::Unlink { seen, .. } | Change::Rename { replaced: Some(seen), .. } => Some(seen.ino),
            Change::Rmdir { ino, .. } => Some(*ino),
            _ => None,
        }
    }

    /// Whether it is one that [`super::Naming`] comes to.
    pub(super) fn is_to_names(&self) -> bool {
        matches!(
            self,
            Change::Create { .. }
                | Change::Link { .. }
                | Change::Unlink { .. }
                | Change::Rmdir { .. }
                | Change::Rename { .. }
                | Change::Exchange { .. }
        )
    }

    /// Whether the change still means the same when its maker's log is gone, and it is made anew.
    pub(super) fn outlives_its_log(&self) -> bool {
        // Nor a lease that was given, or taken over, while nobody could hear of it.
        let of_its_time = matches!(self, Change::Grant { .. } | Change::Depose { .. });
        !of_its_time && !matches!(self, Change::LetGo { .. } | Change::TakeBack { .. } | Change::Again { .. })
    }

    /// The inodes that must be there for the change to mean anything.
    pub(super) fn inodes(&self) -> [Option<Ino>; 4] {
        match self {
            Change::Create { place, .. } => [Some(place.parent), None, None, None],
            Change::Link { place, ino, .. } | Change::Rmdir { place, ino, .. } => {
                [Some(place.parent), Some(*ino), None, None]
            }
            Change::Unlink { place, seen, .. } => [Some(place.parent), Some(seen.ino), None, None],
            Change::Rename { from, to, ino, .. } => [Some(from.parent), Some(to.parent), Some(*ino), None],
            Change::Exchange { a, a_ino, b, b_ino, .. } => [Some(a.parent), Some(*a_ino), Some(b.parent), Some(*b_ino)],
            Change::Reap { ino }
            | Change::SetAttributes { ino, .. }
            | Change::SetXattr { ino, .. }
            | Change::Write { ino, .. }
            | Change::SetPolicy { ino, .. }
            | Change::SetPartition { ino, .. } => [Some(*ino), None, None, None],
            Change::Merge { from, ino, into, .. } => [Some(from.parent), Some(*ino), Some(*into), None],
            Change::Settle { place, ino } => [Some(place.parent), Some(*ino), None, None],
            // No change that is carried so carries another.
            Change::For { change, .. } if !change.0.is_to_names() => [None; 4],
            Change::For { change, .. } => change.0.inodes(),
            Change::OpenGroup { .. }
            | Change::Seat { .. }
            | Change::Unseat { .. }
            | Change::Admit { .. }
            | Change::Evict { .. }
            | Change::Relocate { .. }
            | Change::CloseGroup { .. }
            | Change::SetStanding { .. }
            | Change::LetGo { .. }
            | Change::TakeBack { .. }
            | Change::Again { .. }
            | Change::Grant { .. }
            | Change::Depose { .. } => [None; 4],
        }
    }
}

/// What the roster says of a peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerRecord {
    pub key: PeerKey,
    /// What people call the machine; 1 to 64 characters.
    pub name: String,
    /// Where it listens, best first, at most 8.
    pub addresses: Vec<std::net::SocketAddr>,
    /// The failure zone its owner declared; empty if none.
    pub zone: String,
    /// Tells machines apart when several peers run on one (the kernel's boot-independent machine id, hashed);
    /// empty if unknown.
    pub host: String,
}
