//! The tree: every record under its key, and the few sums kept beside them.

use super::op::{Extent, Kind, Place, Source};
use super::read::DEPTH;
use super::record::{Block, Conflict, Entry, Group, Inode, Key, Record};
use crate::id::{BlockName, GroupId, Ino, PeerTag};
use crate::time::Stamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How much the share holds: what has a name now, orphans not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FilesSummary {
    /// Regular files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Bytes of the regular files, holes included.
    pub bytes: u64,
}

/// The records. Every change goes through [`Tree::set`], so the sums are always those of the records.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    records: BTreeMap<Key, Record>,
    summary: FilesSummary,
    /// Bytes of content that lie in the records themselves: of all of them, those of files that are gone included, until
    /// that is stable.
    inline: u64,
    /// Blocks no extent names.
    idle: BTreeSet<BlockName>,
    /// The blocks of each group.
    blocks: BTreeMap<GroupId, BTreeSet<BlockName>>,
    /// The groups in which each peer has a seat.
    seats: BTreeMap<PeerTag, BTreeSet<GroupId>>,
    /// The directories that became one with each.
    merged: BTreeMap<Ino, BTreeSet<Ino>>,
    /// How many inodes have their place in each directory, those included that had their last one there.
    placed: BTreeMap<Ino, u64>,
}

impl Tree {
    /// Puts a record under a key, or takes it away; what was there before is handed back.
    pub fn set(&mut self, key: Key, record: Option<Record>) -> Option<Record> {
        if let Key::Block(name) = &key {
            match &record {
                Some(Record::Block(block)) if block.uses == 0 => self.idle.insert(*name),
                _ => self.idle.remove(name),
            };
        }
        if let Some(Record::Inode(inode)) = &record {
            self.count(inode, true);
        }
        if let Key::Merged(ino) = &key {
            let into = |record: Option<&Record>| match record {
                Some(Record::Merged(into)) => Some(*into),
                _ => None,
            };
            let (before, after) = (into(self.records.get(&key)), into(record.as_ref()));
            rekey(&mut self.merged, *ino, before, after);
        }
        let (block, group) = match &key {
            Key::Block(name) => (Some(*name), None),
            Key::Group(id) => (None, Some(*id)),
            _ => (None, None),
        };
        let seated = group.map(|_| seated_in(record.as_ref()));
        let after = match &record {
            Some(Record::Block(block)) => Some(block.group),
            _ => None,
        };
        self.inline += inline(record.as_ref());
        let before = match record {
            Some(record) => self.records.insert(key, record),
            None => self.records.remove(&key),
        };
        if let (Some(id), Some(after)) = (group, seated) {
            self.move_seats(id, &seated_in(before.as_ref()), &after);
        }
        if let Some(name) = block {
            let was = match &before {
                Some(Record::Block(block)) => Some(block.group),
                _ => None,
            };
            rekey(&mut self.blocks, name, was, after);
        }
        self.inline -= inline(before.as_ref());
        if let Some(Record::Inode(inode)) = &before {
            self.count(inode, false);
        }
        before
    }

    fn count(&mut self, inode: &Inode, comes: bool) {
        if let Some(place) = &inode.place {
            let placed = self.placed.entry(place.parent).or_default();
            *placed = if comes { *placed + 1 } else { placed.saturating_sub(1) };
            if *placed == 0 {
                self.placed.remove(&place.parent);
            }
        }
        self.sum_up(inode, comes);
    }

    /// Keeps `seats` in step with a group's record.
    fn move_seats(&mut self, id: GroupId, before: &BTreeSet<PeerTag>, after: &BTreeSet<PeerTag>) {
        for peer in before.difference(after) {
            if let Some(groups) = self.seats.get_mut(peer) {
                groups.remove(&id);
                if groups.is_empty() {
                    self.seats.remove(peer);
                }
            }
        }
        for peer in after.difference(before) {
            self.seats.entry(*peer).or_default().insert(id);
        }
    }

    fn sum_up(&mut self, inode: &Inode, comes: bool) {
        if inode.nlink == 0 {
            return;
        }
        let sum = |total: &mut u64, n: u64| *total = if comes { total.wrapping_add(n) } else { total.wrapping_sub(n) };
        match inode.kind {
            Kind::File => {
                sum(&mut self.summary.files, 1);
                sum(&mut self.summary.bytes, inode.size);
            }
            Kind::Directory => sum(&mut self.summary.directories, 1),
            Kind::Symlink { .. } | Kind::Special { .. } => {}
        }
    }

    pub fn get(&self, key: &Key) -> Option<&Record> {
        self.records.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.records.iter()
    }

    pub fn range(&self, from: Key, to: Key) -> impl DoubleEndedIterator<Item = (&Key, &Record)> {
        // A range that ends before it begins would panic.
        let to = to.max(from.clone());
        self.records.range(from..to)
    }

    /// The inode, reaped ones too; for a directory that became one with another, that one.
    pub fn inode(&self, ino: Ino) -> Option<&Inode> {
        let at = |ino| match self.get(&Key::Inode(ino)) {
            Some(Record::Inode(inode)) => Some(&**inode),
            _ => None,
        };
        at(ino).or_else(|| at(self.survivor(ino)))
    }

    /// The directory that this one became one with; else itself.
    pub fn survivor(&self, ino: Ino) -> Ino {
        let mut at = ino;
        if !self.merged.is_empty() {
            for _ in 0..DEPTH {
                match self.get(&Key::Merged(at)) {
                    Some(Record::Merged(into)) => at = *into,
                    _ => break,
                }
            }
        }
        at
    }

    /// The directories that became one with this one, those that had become one with them not counted.
    pub fn merged_into(&self, ino: Ino) -> impl Iterator<Item = Ino> {
        self.merged.get(&ino).into_iter().flatten().copied()
    }

    /// Whether any inode has its place in this directory, or had its last one there.
    pub fn is_place(&self, dir: Ino) -> bool {
        self.placed.contains_key(&dir)
    }

    /// The directories that became one with this one, and those that had become one with them.
    pub fn parts(&self, ino: Ino) -> BTreeSet<Ino> {
        let mut parts = BTreeSet::new();
        let mut next: Vec<Ino> = self.merged_into(ino).collect();
        while let Some(part) = next.pop() {
            if parts.insert(part) {
                next.extend(self.merged_into(part));
            }
        }
        parts
    }

    pub fn conflict(&self, place: &Place) -> Option<&Conflict> {
        match self.get(&Key::Conflict(place.parent, place.name.clone())) {
            Some(Record::Conflict(conflict)) => Some(conflict),
            _ => None,
        }
    }

    /// The conflicts recorded about names in directories from this number on, in the order of the numbers.
    pub fn conflicts(&self, from: Ino) -> impl Iterator<Item = (Place, &Conflict)> {
        let from = Key::Conflict(from, Bytes::new());
        self.records.range(from..).map_while(|(key, record)| match (key, record) {
            (Key::Conflict(parent, name), Record::Conflict(conflict)) => {
                Some((Place { parent: *parent, name: name.clone() }, &**conflict))
            }
            _ => None,
        })
    }

    /// A file, the copies made of it where it was changed on two sides, the file it is a copy of, and so on.
    pub fn family(&self, ino: Ino) -> Vec<Ino> {
        let mut family = vec![ino];
        let mut next = 0;
        while let Some(member) = family.get(next) {
            for (_, kin) in self.inode(*member).map_or(&[][..], |inode| &inode.forks) {
                if !family.contains(kin) {
                    family.push(*kin);
                }
            }
            next += 1;
        }
        family
    }

    /// The inode of a file's family whose content is version `base`.
    pub fn line(&self, ino: Ino, base: Stamp) -> Option<Ino> {
        let holds = |member: &Ino| self.inode(*member).is_some_and(|inode| inode.content == base);
        if holds(&ino) { Some(ino) } else { self.family(ino).into_iter().find(holds) }
    }

    pub fn entry(&self, parent: Ino, name: &Bytes) -> Option<Entry> {
        match self.get(&Key::Entry(parent, name.clone())) {
            Some(Record::Entry(entry)) => Some(*entry),
            _ => None,
        }
    }

    /// The entries of a directory, in name order, from `name` on.
    pub fn entries(&self, dir: Ino, name: Bytes) -> impl Iterator<Item = (&Bytes, Entry)> {
        let from = Key::Entry(dir, name);
        self.records.range(from..).map_while(move |(key, record)| match (key, record) {
            (Key::Entry(parent, name), Record::Entry(entry)) if *parent == dir => Some((name, *entry)),
            _ => None,
        })
    }

    pub fn xattrs(&self, ino: Ino) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        let from = Key::Xattr(ino, Bytes::new());
        self.records.range(from..).map_while(move |(key, record)| match (key, record) {
            (Key::Xattr(of, name), Record::Xattr(value)) if *of == ino => Some((name, value)),
            _ => None,
        })
    }

    /// The extents that overlap `[from, to)`, ascending, unclipped.
    pub fn extents(&self, ino: Ino, from: u64, to: u64) -> impl Iterator<Item = (u64, &Extent)> {
        fn extent<'a>((key, record): (&Key, &'a Record)) -> Option<(u64, &'a Extent)> {
            match (key, record) {
                (Key::Extent(_, at), Record::Extent(extent)) => Some((*at, extent)),
                _ => None,
            }
        }
        let first = self
            .range(Key::Extent(ino, 0), Key::Extent(ino, from))
            .next_back()
            .and_then(extent)
            .filter(|(at, extent)| at.saturating_add(u64::from(extent.len)) > from && from < to);
        let rest = self.range(Key::Extent(ino, from), Key::Extent(ino, to.max(from))).filter_map(extent);
        first.into_iter().chain(rest)
    }

    pub fn block(&self, name: &BlockName) -> Option<Block> {
        match self.get(&Key::Block(*name)) {
            Some(Record::Block(block)) => Some(*block),
            _ => None,
        }
    }

    pub fn group(&self, id: GroupId) -> Option<&Group> {
        match self.get(&Key::Group(id)) {
            Some(Record::Group(group)) => Some(group),
            _ => None,
        }
    }

    pub fn summary(&self) -> FilesSummary {
        self.summary
    }

    pub fn inline(&self) -> u64 {
        self.inline
    }

    pub fn idle(&self) -> &BTreeSet<BlockName> {
        &self.idle
    }

    /// The blocks of a group, idle ones too, in the order of their names.
    pub fn blocks_of(&self, group: GroupId) -> impl Iterator<Item = BlockName> {
        self.blocks.get(&group).into_iter().flatten().copied()
    }

    /// The groups in which a peer has a seat, in the order of their numbers.
    pub fn groups_of(&self, peer: PeerTag) -> impl Iterator<Item = GroupId> {
        self.seats.get(&peer).into_iter().flatten().copied()
    }
}

/// Keeps an index in step where one that stood under a key stands under another.
fn rekey<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, value: V, from: Option<K>, to: Option<K>) {
    if from == to {
        return;
    }
    if let Some(from) = from
        && let Some(values) = index.get_mut(&from)
    {
        values.remove(&value);
        if values.is_empty() {
            index.remove(&from);
        }
    }
    if let Some(to) = to {
        index.entry(to).or_default().insert(value);
    }
}

/// Bytes of content in a record.
fn inline(record: Option<&Record>) -> u64 {
    match record {
        Some(Record::Extent(Extent { source: Source::Inline(bytes), .. })) => bytes.len() as u64,
        _ => 0,
    }
}

/// The peers that have a seat in a group.
fn seated_in(record: Option<&Record>) -> BTreeSet<PeerTag> {
    match record {
        Some(Record::Group(group)) => group.slots.iter().flatten().map(|seat| seat.peer).collect(),
        _ => BTreeSet::new(),
    }
}
