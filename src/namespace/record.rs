//! Records: what the tree holds, one value for each key. Everything else about the namespace follows from them.

use super::lease::{EndedTenure, Tenure};
use super::op::{Extent, Kind, Name, PeerRecord, Place, Seen, Standing};
use crate::id::{Author, BlockName, GroupId, Ino, PeerTag};
use crate::policy::{Geometry, Partition, Policy};
use crate::time::{Stamp, WallTime};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What a record is about. The order groups a file's extents and a directory's entries together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Key {
    Inode(Ino),
    Entry(Ino, Name),
    Extent(Ino, u64),
    Xattr(Ino, Bytes),
    Block(BlockName),
    Group(GroupId),
    Peer(PeerTag),
    /// The highest counter this peer has used in a number (inode or group).
    Counter(PeerTag),
    /// What a peer's owner said of it; absent if nothing.
    Standing(PeerTag),
    /// There once a peer was let go.
    Away(PeerTag),
    /// The last op of an author that was made anew by whoever had it.
    Again(Author),
    /// A directory that became one with another; absent for every other inode.
    Merged(Ino),
    /// What did not fit together about what has this name in a directory, until somebody settles it.
    Conflict(Ino, Name),
    /// What a directory asks for in a partition; absent if it inherits.
    Partition(Ino),
    /// To whom the lease of an inode was granted; absent while it is its creator's.
    Lease(Ino),
    /// A peer's tenures that have ended; absent if none has.
    Tenures(PeerTag),
}

/// The value under a [`Key`] of the same name.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Record {
    Inode(Box<Inode>),
    Entry(Entry),
    Extent(Extent),
    Xattr(Bytes),
    Block(Block),
    Group(Box<Group>),
    Peer(Box<PeerRecord>),
    Counter(u64),
    Standing(Standing),
    /// The op that let the peer go last: nothing is taken from it before it has that, with a snapshot. `back`: it counts
    /// again.
    Away {
        by: Author,
        seq: u64,
        back: bool,
    },
    Again(u64),
    /// The directory it became one with, which may have become one with a third.
    Merged(Ino),
    Conflict(Box<Conflict>),
    Partition(Partition),
    Lease(Tenure),
    Tenures(Vec<EndedTenure>),
}

/// A file, directory, symlink or special file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Inode {
    pub kind: Kind,
    /// Permission bits, 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Files: bytes. Symlinks: length of the target. Others: 0.
    pub size: u64,
    /// Names of a file; 2 + subdirectories for a directory; 0 for an orphan.
    pub nlink: u32,
    pub atime: WallTime,
    pub mtime: WallTime,
    pub ctime: WallTime,
    pub btime: WallTime,
    /// The last op that changed the content (creation counts).
    pub content: Stamp,
    /// The last op that changed anything about it.
    pub version: Stamp,
    /// What its owner chose; `None` inherits from the directory it was created in (files carry that on creation).
    pub policy: Option<Policy>,
    /// A directory's place. A file has its own in the entries; this is then one of them, or the last it had.
    pub place: Option<Place>,
    /// Set when the last name went: by which op. Its peer is the one to `Reap` it.
    pub orphaned: Option<Stamp>,
    /// `Reap` was applied: gone for every reader; its records go once that is stable.
    pub reaped: bool,
    /// Copies made where this file was changed on two sides, by the peer whose version each holds; a copy has
    /// the file it was made beside here too.
    pub forks: Vec<(PeerTag, Ino)>,
}

impl Inode {
    /// What somebody sees of it who is about to take away a name of it.
    pub fn seen(&self, ino: Ino) -> Seen {
        Seen { ino, content: self.content, only: self.nlink == 1 }
    }
}

/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub ino: Ino,
    /// The op that put it there.
    pub stamp: Stamp,
}

/// A block that some file names, or named.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Block {
    pub group: GroupId,
    pub len: u32,
    /// Extents that name it. At 0 and stable, the record goes, and the shards may be freed.
    pub uses: u32,
}

/// The peers that hold the shards of a set of blocks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    pub policy: Policy,
    pub geometry: Geometry,
    /// For each shard index its participants; normally one.
    pub slots: Vec<Vec<Seat>>,
    /// Blocks that name it and are in use.
    pub blocks: u32,
}

/// A participant and since when.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seat {
    pub peer: PeerTag,
    pub stamp: Stamp,
}

/// Two sides did what does not fit together, and a rule decided. What has the name the record is kept under came of
/// one side; the other side's version, or wish, is elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Conflict {
    /// What has the name.
    pub ino: Ino,
    /// What was done to it that stands.
    pub here: Deed,
    /// What the other side did.
    pub there: Deed,
    /// The name that was taken, or the file beside which this version is kept, or where the other side moved it; none
    /// where the other side deleted it.
    pub other: Option<Place>,
}

/// One side's part in a conflict: who did it, and when, is in the stamp of its op.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deed {
    pub what: Did,
    pub stamp: Stamp,
}

/// What one side did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Did {
    /// Gave something this name: made it, linked it or moved it here.
    Created,
    /// Wrote to it; of a directory: changed its names.
    Changed,
    Deleted,
    Moved,
    /// Moved it to below itself, as the other side had moved what is there.
    MovedInCircle,
}
