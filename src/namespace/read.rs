//! What the namespace answers: lookups by key, by name and by path. Reaped inodes are never shown.

use super::op::{Change, Extent, Name, PeerRecord, Place, Source, Standing, VersionVector};
use super::record::{Block, Conflict, Entry, Group, Inode, Key, Record};
use super::{FilesSummary, Namespace};
use crate::id::{BlockName, GroupId, Ino, PeerTag};
use crate::policy::{DEFAULT_POLICY, Partition, Policy};
use crate::time::{Hlc, Stamp};
use bytes::Bytes;
use std::collections::BTreeSet;

/// More directories above one another than any path names.
pub(super) const DEPTH: usize = 1 << 16;

impl Namespace {
    /// The record under a key.
    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.tree.get(key).filter(|record| !matches!(record, Record::Inode(inode) if inode.reaped))
    }

    pub fn inode(&self, ino: Ino) -> Option<&Inode> {
        self.tree.inode(ino).filter(|inode| !inode.reaped)
    }

    /// The directory that this one became one with: it acts as that one. Any other inode is itself.
    pub fn survivor(&self, ino: Ino) -> Ino {
        self.tree.survivor(ino)
    }

    /// What a name in a directory stands for.
    pub fn entry(&self, parent: Ino, name: &[u8]) -> Option<Entry> {
        self.tree.entry(self.survivor(parent), &Bytes::copy_from_slice(name))
    }

    /// The names in a directory, in name order.
    pub fn entries(&self, dir: Ino) -> impl Iterator<Item = (&Name, Entry)> {
        self.tree.entries(self.survivor(dir), Bytes::new())
    }

    /// The names in a directory that come after `after`, in name order.
    pub fn entries_from(&self, dir: Ino, after: Option<&[u8]>) -> impl Iterator<Item = (&Name, Entry)> {
        let after = after.map(Bytes::copy_from_slice).unwrap_or_default();
        self.tree.entries(self.survivor(dir), after.clone()).skip_while(move |(name, _)| **name == after)
    }

    /// The conflicts that nobody has settled, each with the name it concerns, in the order of the directories' numbers.
    pub fn conflicts(&self) -> impl Iterator<Item = (Place, &Conflict)> {
        self.tree.conflicts(Ino(0))
    }

    /// The conflict that is recorded about a name.
    pub fn conflict(&self, place: &Place) -> Option<&Conflict> {
        self.tree.conflict(&Place { parent: self.survivor(place.parent), name: place.name.clone() })
    }

    /// Whether `above` is this inode or one of the directories above it; so, too, where they form no tree.
    pub fn is_above(&self, above: Ino, ino: Ino) -> bool {
        let mut at = self.survivor(ino);
        for _ in 0..DEPTH {
            if at == above {
                return true;
            }
            match self.inode(at).and_then(|inode| inode.place.as_ref()) {
                Some(place) if at != Ino::ROOT => at = self.survivor(place.parent),
                _ => return false,
            }
        }
        true
    }

    /// The extents that overlap `[from, to)`, ascending, unclipped.
    pub fn extents(&self, ino: Ino, from: u64, to: u64) -> impl Iterator<Item = (u64, &Extent)> {
        self.tree.extents(ino, from, to)
    }

    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Option<&Bytes> {
        match self.tree.get(&Key::Xattr(self.survivor(ino), Bytes::copy_from_slice(name))) {
            Some(Record::Xattr(value)) => Some(value),
            _ => None,
        }
    }

    /// The extended attributes of an inode, in name order.
    pub fn xattrs(&self, ino: Ino) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.tree.xattrs(self.survivor(ino))
    }

    pub fn block(&self, name: &BlockName) -> Option<Block> {
        self.tree.block(name)
    }

    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.tree.group(id)
    }

    /// Every group, in the order of their numbers.
    pub fn groups(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.tree.range(Key::Group(GroupId(0)), Key::Peer(PeerTag(0))).filter_map(|(key, record)| match (key, record) {
            (Key::Group(id), Record::Group(group)) => Some((*id, &**group)),
            _ => None,
        })
    }

    /// The blocks that a group keeps, in the order of their names; idle ones, which no file names, are left out.
    pub fn blocks_of(&self, group: GroupId) -> impl Iterator<Item = (BlockName, Block)> {
        self.tree.blocks_of(group).filter_map(|name| Some((name, self.block(&name).filter(|block| block.uses > 0)?)))
    }

    /// Whether nothing refers to a group: not even a block that nobody uses any more and that waits to be forgotten.
    pub fn is_empty_group(&self, group: GroupId) -> bool {
        self.tree.blocks_of(group).next().is_none()
    }

    /// The groups in which a peer has a seat, in the order of their numbers.
    pub fn groups_of(&self, peer: PeerTag) -> impl Iterator<Item = (GroupId, &Group)> {
        self.tree.groups_of(peer).filter_map(|id| Some((id, self.group(id)?)))
    }

    /// How many files with a name have content in one of these groups. Goes through all extents.
    pub fn files_in(&self, groups: &BTreeSet<GroupId>) -> u64 {
        if groups.is_empty() {
            return 0;
        }
        let extents = self.tree.range(Key::Extent(Ino(0), 0), Key::Xattr(Ino(0), Bytes::new()));
        let inside = |(key, record): (&Key, &Record)| match (key, record) {
            (Key::Extent(ino, _), Record::Extent(Extent { source: Source::Block { name, .. }, .. })) => {
                self.block(name).filter(|block| groups.contains(&block.group)).map(|_| *ino)
            }
            _ => None,
        };
        let files: BTreeSet<Ino> = extents.filter_map(inside).collect();
        files.into_iter().filter(|ino| self.inode(*ino).is_some_and(|inode| inode.nlink > 0)).count() as u64
    }

    /// What a peer's owner said of it.
    pub fn standing(&self, peer: PeerTag) -> Standing {
        match self.tree.get(&Key::Standing(peer)) {
            Some(Record::Standing(standing)) => *standing,
            _ => Standing::default(),
        }
    }

    /// What the roster says of a peer; `None` if it is not on it.
    pub fn peer(&self, tag: PeerTag) -> Option<&PeerRecord> {
        match self.tree.get(&Key::Peer(tag)) {
            Some(Record::Peer(peer)) => Some(peer),
            _ => None,
        }
    }

    /// The roster, in the order of the tags.
    pub fn peers(&self) -> impl Iterator<Item = (PeerTag, &PeerRecord)> {
        self.tree.range(Key::Peer(PeerTag(0)), Key::Counter(PeerTag(0))).filter_map(|(key, record)| {
            match (key, record) {
                (Key::Peer(tag), Record::Peer(peer)) => Some((*tag, &**peer)),
                _ => None,
            }
        })
    }

    /// What a path from the root stands for; symlinks are not followed, empty parts are skipped.
    pub fn resolve(&self, path: &[u8]) -> Option<Ino> {
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.try_fold(Ino::ROOT, |dir, name| self.entry(dir, name).map(|entry| entry.ino))
    }

    /// A path of an inode from the root, starting with '/'; `None` if it has no name (or, a file with several
    /// names, the one it remembers went).
    pub fn path(&self, ino: Ino) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = self.survivor(ino);
        while at != Ino::ROOT {
            let place = self.inode(at)?.place.as_ref()?;
            if self.entry(place.parent, &place.name)?.ino != at || names.len() > DEPTH {
                return None;
            }
            names.push(&place.name);
            at = self.survivor(place.parent);
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Some(path)
    }

    /// Whether the file is memory to the processes that have it open, as `DATABASE-shm` is to SQLite's, which keep the index
    /// of the write-ahead log in a mapping of it (<https://sqlite.org/walformat.html#the_wal_index_file_format>).
    pub fn is_memory(&self, ino: Ino) -> bool {
        let place = self.inode(ino).and_then(|inode| inode.place.as_ref());
        place.is_some_and(|place| place.name.ends_with(b"-shm"))
    }

    /// The policy that holds for an inode: its own, or the nearest above it, or [`DEFAULT_POLICY`].
    pub fn policy(&self, ino: Ino) -> Policy {
        let mut at = ino;
        for _ in 0..DEPTH {
            let Some(inode) = self.tree.inode(at) else { break };
            if let Some(policy) = inode.policy {
                return policy;
            }
            match &inode.place {
                Some(place) => at = place.parent,
                None if at == Ino::ROOT => break,
                None => at = Ino::ROOT,
            }
        }
        DEFAULT_POLICY
    }

    /// What a directory itself asks for in a partition.
    pub fn own_partition(&self, dir: Ino) -> Option<Partition> {
        match self.tree.get(&Key::Partition(self.survivor(dir))) {
            Some(Record::Partition(mode)) => Some(*mode),
            _ => None,
        }
    }

    /// What holds for an inode in a partition: what it, or the nearest directory above it, asks for.
    pub fn partition(&self, ino: Ino) -> Partition {
        let mut at = ino;
        for _ in 0..DEPTH {
            if let Some(mode) = self.own_partition(at) {
                return mode;
            }
            match self.tree.inode(at).and_then(|inode| inode.place.as_ref()) {
                Some(place) => at = place.parent,
                None => break,
            }
        }
        Partition::default()
    }

    /// Whether a change touches what is refused on a side of a partition that is no majority.
    pub fn refuses(&self, change: &Change) -> bool {
        change.inodes().into_iter().flatten().any(|ino| self.partition(ino) == Partition::Refuse)
    }

    /// The highest counter a peer has used in a number, 0 if none.
    pub fn counter(&self, peer: PeerTag) -> u64 {
        match self.tree.get(&Key::Counter(peer)) {
            Some(Record::Counter(counter)) => *counter,
            _ => 0,
        }
    }

    /// Which inode holds version `base` of a file now: the file itself, or the copy made where it was changed on
    /// two sides; `None` if another write came on top. A writer that goes on with its own version asks this.
    pub fn line(&self, ino: Ino, base: Stamp) -> Option<Ino> {
        self.tree.line(ino, base)
    }

    /// Inodes whose last name `peer` took away and that are not reaped: at its start nobody has them open.
    pub fn orphans_of(&self, peer: PeerTag) -> Vec<Ino> {
        let inodes = self.tree.range(Key::Inode(Ino(0)), Key::Entry(Ino(0), Bytes::new()));
        inodes
            .filter_map(|(key, record)| match (key, record) {
                (Key::Inode(ino), Record::Inode(inode)) if !inode.reaped => {
                    inode.orphaned.filter(|stamp| stamp.author.peer() == peer).map(|_| *ino)
                }
                _ => None,
            })
            .collect()
    }

    /// How much the share holds.
    pub fn files(&self) -> FilesSummary {
        self.tree.summary()
    }

    /// Bytes of content that the namespace holds itself.
    pub fn inline_bytes(&self) -> u64 {
        self.tree.inline()
    }

    /// Which ops are in this namespace.
    pub fn vector(&self) -> &VersionVector {
        &self.vector
    }

    /// The latest time of any op here.
    pub fn clock(&self) -> Hlc {
        self.clock
    }
}
