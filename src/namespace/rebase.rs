//! Re-basing: a peer that was let go, and returns, goes on from a snapshot of the others. What it has and they have not
//! is made anew on top of that, in its order ([`Change::Again`]).
//!
//! Nothing is gone back to below the snapshot, for its makers may have forgotten it. So where others changed a file
//! too, this peer's version becomes a conflict copy with its whole content; and what they have removed for good while it
//! was changed here is created once more.

use super::Namespace;
use super::op::{Carried, Change, Extent, Kind, NewBlock, Op, Place, SetAttributes, Source, WRITE_EXTENTS, Wished};
use super::read::DEPTH;
use super::record::{Inode, Key, Record};
use super::validate::{self, OpError};
use crate::id::{Author, BlockName, GroupId, Ino};
use crate::time::{Hlc, Stamp, WallTime};
use std::collections::{BTreeMap, BTreeSet};

/// Inline bytes in one op that is made here: what fits a message and a piece of a snapshot with room to spare.
const INLINE_IN_OP: usize = 256 << 10;

/// What a peer goes on with.
pub struct Rebased {
    /// The snapshot with `ops` applied; they are in its log.
    pub namespace: Namespace,
    /// What the others have not, made anew: they are still to be told.
    pub ops: Vec<Op>,
    /// How many ops of before were made anew; what was only a step towards a file's last version is not.
    pub carried: usize,
    /// Records that differ from before.
    pub touched: BTreeSet<Key>,
}

impl Namespace {
    /// What this peer goes on with when it takes `fresh`, a snapshot of another, for its namespace. `author` is in an
    /// epoch that no op of this peer was made in yet, and `number` the first number that no inode or group has.
    pub fn rebase(&self, fresh: Namespace, author: Author, number: u64, now: WallTime) -> Result<Rebased, OpError> {
        if !fresh.vector.covers(&self.base) {
            return Err(OpError::Behind);
        }
        let mut work = Rebasing::new(self, fresh, author, number, now);
        let mut carried = 0;
        for logged in self.log.iter() {
            let op = &logged.op;
            if work.fresh.vector.get(op.stamp.author) >= op.seq {
                continue;
            }
            let (stamp, seq, change) = match &op.change {
                Change::Again { stamp, seq, change } => (*stamp, *seq, &*change.0),
                change => (op.stamp, op.seq, change),
            };
            if change.outlives_its_log() && !work.is_there(stamp.author, seq) {
                carried += 1;
                work.carry(stamp, seq, change);
            }
        }
        let Rebasing { mut fresh, ops, .. } = work;
        let touched = self.differences(&fresh);
        fresh.set_me(author.peer());
        Ok(Rebased { namespace: fresh, ops, carried, touched })
    }

    /// The keys whose records are not the same here and there.
    fn differences(&self, other: &Namespace) -> BTreeSet<Key> {
        let differs = |key: &&Key| self.get(key) != other.get(key);
        let keys = self.tree.iter().chain(other.tree.iter()).map(|(key, _)| key);
        keys.filter(differs).cloned().collect()
    }
}

/// What one write can say of a file: extents at their offsets, and the blocks they name.
type Part = (Vec<(u64, Extent)>, Vec<NewBlock>);

/// What gives `ino` a part of the content that a file of the old tree has, on top of version `base`.
fn content(of: &Inode, ino: Ino, base: Stamp, (extents, blocks): Part) -> Change {
    let (size, mtime, ctime) = (of.size, of.mtime, of.ctime);
    Change::Write { ino, base, linked: true, extents, blocks, size, mtime, ctime, clear_suid: false }
}

struct Rebasing<'a> {
    old: &'a Namespace,
    fresh: Namespace,
    author: Author,
    number: u64,
    now: WallTime,
    ops: Vec<Op>,
    /// Versions that someone else here built on: nobody needs them for themselves.
    superseded: BTreeSet<Stamp>,
    /// Stamps that lie above the time now, and what they become.
    stamps: BTreeMap<Stamp, Stamp>,
    /// Inodes that are created once more, with all they hold at last.
    revived: BTreeMap<Ino, Ino>,
    /// Groups that may be gone by now, and those that take their place.
    groups: BTreeMap<GroupId, GroupId>,
}

impl<'a> Rebasing<'a> {
    fn new(old: &'a Namespace, mut fresh: Namespace, author: Author, number: u64, now: WallTime) -> Rebasing<'a> {
        // What this peer has said to have may be stable already: what it makes comes above that. Only what its own clock
        // put into the time to come is nothing to go by.
        let ours = |op: &Op| op.stamp.author.peer() == author.peer() && op.stamp.time.millis() > now.millis();
        let seen = old.log.iter().rev().map(|logged| &logged.op).find(|op| !ours(op)).map(|op| op.stamp.time);
        fresh.clock = fresh.clock.max(old.frontier.time).max(seen.unwrap_or_default());
        let base = |change: &Change| match change {
            Change::Write { base, .. } => Some(*base),
            _ => None,
        };
        let superseded = old.log.iter().filter_map(|logged| match &logged.op.change {
            Change::Again { change, .. } => base(&change.0),
            change => base(change),
        });
        Rebasing {
            superseded: superseded.collect(),
            old,
            fresh,
            author,
            number,
            now,
            ops: Vec::new(),
            stamps: BTreeMap::new(),
            revived: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }

    /// Whether the op is in the snapshot, as itself or made anew.
    fn is_there(&self, author: Author, seq: u64) -> bool {
        let again = matches!(self.fresh.tree.get(&Key::Again(author)), Some(Record::Again(last)) if *last >= seq);
        again || self.fresh.vector.get(author) >= seq
    }

    /// Whether an inode is there for certain: of one that is reaped, others may know nothing any more.
    fn has(&self, ino: Ino) -> bool {
        self.fresh.inode(ino).is_some()
    }

    fn carry(&mut self, stamp: Stamp, seq: u64, whole: &Change) {
        let change = match whole.itself() {
            Change::Create { place, ino, kind, mode, uid, gid, time } => {
                let Some(place) = self.place(place, *ino) else { return };
                Change::Create { place, ino: *ino, kind: kind.clone(), mode: *mode, uid: *uid, gid: *gid, time: *time }
            }
            Change::Link { place, ino, time } => {
                let Some((place, ino)) = self.place(place, *ino).zip(self.living(*ino)) else { return };
                Change::Link { place, ino, time: *time }
            }
            Change::Rename { from, to, ino, replaced, time } => {
                if !self.has(self.translated(*ino)) {
                    return;
                }
                let from = self.translated_place(from);
                let Some(to) = self.place(to, *ino) else { return };
                let replaced = replaced.map(|seen| self.translated_seen(seen));
                Change::Rename { from, to, ino: self.translated(*ino), replaced, time: *time }
            }
            Change::Unlink { place, seen, time } => {
                Change::Unlink { place: self.translated_place(place), seen: self.translated_seen(*seen), time: *time }
            }
            Change::Rmdir { place, ino, time } => {
                Change::Rmdir { place: self.translated_place(place), ino: self.translated(*ino), time: *time }
            }
            Change::Exchange { a, a_ino, b, b_ino, time } => Change::Exchange {
                a: self.translated_place(a),
                a_ino: self.translated(*a_ino),
                b: self.translated_place(b),
                b_ino: self.translated(*b_ino),
                time: *time,
            },
            Change::Write { .. } => return self.carry_write(stamp, seq, whole),
            // What is created once more has the attributes that were set last.
            Change::SetAttributes { ino, .. } | Change::SetXattr { ino, .. } | Change::SetPolicy { ino, .. }
                if self.revived.contains_key(ino) =>
            {
                return;
            }
            change => change.clone(),
        };
        let means_something = change.inodes().into_iter().flatten().all(|ino| self.has(ino));
        let makes = if let Change::Create { ino, .. } = &change { Some(*ino) } else { None };
        if means_something && makes.is_none_or(|ino| self.fresh.tree.inode(ino).is_none()) {
            let change = match whole {
                Change::For { peer, wish, .. } => {
                    Change::For { peer: *peer, wish: *wish, change: Wished(Box::new(change)) }
                }
                _ => change,
            };
            self.make_anew(stamp, seq, change);
        }
    }

    fn carry_write(&mut self, stamp: Stamp, seq: u64, write: &Change) {
        let Change::Write { ino, base, linked, extents, size, mtime, ctime, clear_suid, .. } = write else { return };
        if self.revived.contains_key(ino) {
            return;
        }
        if !self.has(*ino) {
            if *linked {
                self.living(*ino);
            }
            return;
        }
        let base = self.translated_stamp(*base);
        if self.fresh.tree.line(*ino, base).is_some() {
            let blocks = self.blocks(extents.iter().map(|(_, extent)| extent), stamp.author);
            let (ino, linked, extents, size) = (*ino, *linked, extents.clone(), *size);
            let (mtime, ctime, clear_suid) = (*mtime, *ctime, *clear_suid);
            let write = Change::Write { ino, base, linked, extents, blocks, size, mtime, ctime, clear_suid };
            return self.make_anew(stamp, seq, write);
        }
        // Others changed the file, and what this was built on may be gone. The last version of the line says it all.
        let line = self.old.tree.line(*ino, stamp).filter(|_| !self.superseded.contains(&stamp));
        let Some(line) = line.and_then(|line| Some((line, self.old.inode(line).filter(|inode| inode.nlink > 0)?)))
        else {
            return;
        };
        let (line, inode) = line;
        let mut parts = self.whole(line, stamp.author).into_iter();
        let (extents, blocks) = parts.next().unwrap_or_default();
        self.make_anew(stamp, seq, content(inode, *ino, Stamp::default(), (extents, blocks)));
        let mut version = self.translated_stamp(stamp);
        for (extents, blocks) in parts {
            let Some(copy) = self.fresh.tree.line(*ino, version) else { return };
            version = self.make(content(inode, copy, version, (extents, blocks)));
        }
    }

    /// The place, in a directory that is there. Where the directory is gone on both sides, what was put there may have
    /// moved on: the place where it is now.
    fn place(&mut self, place: &Place, ino: Ino) -> Option<Place> {
        if let Some(parent) = self.directory(place.parent) {
            return Some(Place { parent, name: place.name.clone() });
        }
        let last = self.old.inode(ino).filter(|inode| inode.nlink > 0)?.place.clone()?;
        let parent = self.directory(last.parent)?;
        Some(Place { parent, name: last.name })
    }

    /// The directory if it is there; else it is created once more, and those above it, if it is there in the old tree.
    fn directory(&mut self, dir: Ino) -> Option<Ino> {
        let mut missing = Vec::new();
        let mut at = dir;
        while !self.has(self.translated(at)) {
            let inode = self.old.inode(at).filter(|inode| inode.nlink > 0 && inode.kind == Kind::Directory)?;
            missing.push(at);
            at = inode.place.as_ref()?.parent;
            if missing.len() > DEPTH {
                return None;
            }
        }
        for dir in missing.into_iter().rev() {
            self.revive(dir)?;
        }
        Some(self.translated(dir))
    }

    /// The inode if it is there; else it is created once more if the old tree has it under a name.
    fn living(&mut self, ino: Ino) -> Option<Ino> {
        if !self.has(self.translated(ino)) {
            let parent = self.old.inode(ino).filter(|inode| inode.nlink > 0)?.place.as_ref()?.parent;
            self.directory(parent)?;
            self.revive(ino)?;
        }
        Some(self.translated(ino))
    }

    /// Creates an inode once more, with all that the old tree has of it. Its directory is there.
    fn revive(&mut self, ino: Ino) -> Option<()> {
        let inode: Inode = self.old.inode(ino)?.clone();
        let place = inode.place.as_ref().map(|place| self.translated_place(place))?;
        let again = Ino::new(self.author.peer(), self.number);
        self.number += 1;
        let (mode, uid, gid) = (inode.mode, inode.uid, inode.gid);
        let kind = inode.kind.clone();
        let mut version = self.make(Change::Create { place, ino: again, kind, mode, uid, gid, time: inode.btime });
        self.revived.insert(ino, again);
        if inode.kind == Kind::File {
            for part in self.whole(ino, self.author) {
                version = self.make(content(&inode, again, version, part));
            }
        }
        let xattrs: Vec<_> = self.old.xattrs(ino).map(|(name, value)| (name.clone(), value.clone())).collect();
        for (name, value) in xattrs {
            self.make(Change::SetXattr { ino: again, name, value: Some(value), ctime: inode.ctime });
        }
        if inode.policy.is_some() {
            self.make(Change::SetPolicy { ino: again, policy: inode.policy });
        }
        let set = SetAttributes {
            mode: Some(inode.mode),
            uid: Some(inode.uid),
            gid: Some(inode.gid),
            atime: Some(inode.atime),
            mtime: Some(inode.mtime),
            ctime: Some(inode.ctime),
        };
        self.make(Change::SetAttributes { ino: again, set });
        Some(())
    }

    /// All of a file of the old tree, in parts that fit an op.
    fn whole(&mut self, ino: Ino, by: Author) -> Vec<Part> {
        let all: Vec<(u64, Extent)> = self.old.extents(ino, 0, u64::MAX).map(|(at, e)| (at, e.clone())).collect();
        let (mut parts, mut part, mut inline) = (Vec::new(), Vec::new(), 0);
        for (at, extent) in all {
            let bytes = if let Source::Inline(bytes) = &extent.source { bytes.len() } else { 0 };
            if part.len() == WRITE_EXTENTS || inline + bytes > INLINE_IN_OP {
                parts.push(std::mem::take(&mut part));
                inline = 0;
            }
            inline += bytes;
            part.push((at, extent));
        }
        if !part.is_empty() {
            parts.push(part);
        }
        let with_blocks = |extents: Vec<(u64, Extent)>| {
            let blocks = self.blocks(extents.iter().map(|(_, extent)| extent), by);
            (extents, blocks)
        };
        parts.into_iter().map(with_blocks).collect()
    }

    /// The blocks that extents name, each with the group that has it. Others may have forgotten every one of them.
    fn blocks<'e>(&mut self, extents: impl Iterator<Item = &'e Extent>, by: Author) -> Vec<NewBlock> {
        let names: BTreeSet<BlockName> = extents
            .filter_map(|extent| if let Source::Block { name, .. } = &extent.source { Some(*name) } else { None })
            .collect();
        let mut blocks = Vec::new();
        for name in names {
            let used = self.fresh.block(&name).filter(|block| block.uses > 0);
            let Some(block) = used.or(self.old.block(&name)) else { continue };
            let group = if used.is_some() { block.group } else { self.group(block.group, by) };
            blocks.push(NewBlock { name, group, len: block.len });
        }
        blocks
    }

    /// The group, or another with the same participants, where its maker may be closing it this moment.
    fn group(&mut self, id: GroupId, by: Author) -> GroupId {
        let ours = id.creator() == self.author.peer() || id.creator() == by.peer();
        if ours && self.fresh.group(id).is_some() {
            return id;
        }
        if let Some(other) = self.groups.get(&id) {
            return *other;
        }
        let Some(group) = self.old.group(id) else { return id };
        // A slot that nobody sits in cannot be said; who sits in it with others is seated when it is healed.
        let seats =
            group.slots.iter().map(|seats| seats.first().map_or(self.author.peer(), |seat| seat.peer)).collect();
        let (policy, geometry) = (group.policy, group.geometry);
        let other = GroupId::new(self.author.peer(), self.number);
        self.number += 1;
        self.make(Change::OpenGroup { group: other, policy, geometry, seats });
        self.groups.insert(id, other);
        other
    }

    fn translated(&self, ino: Ino) -> Ino {
        self.revived.get(&ino).copied().unwrap_or(ino)
    }

    fn translated_place(&self, place: &Place) -> Place {
        Place { parent: self.translated(place.parent), name: place.name.clone() }
    }

    fn translated_stamp(&self, stamp: Stamp) -> Stamp {
        self.stamps.get(&stamp).copied().unwrap_or(stamp)
    }

    fn translated_seen(&self, seen: super::Seen) -> super::Seen {
        super::Seen { ino: self.translated(seen.ino), content: self.translated_stamp(seen.content), only: seen.only }
    }

    /// Makes an op anew. A stamp from a clock that was ahead would be refused, and gets one of now.
    fn make_anew(&mut self, stamp: Stamp, seq: u64, change: Change) {
        let next = self.fresh.clock.next(self.now);
        let mut first = stamp;
        if stamp.time >= next {
            // Below the op's own stamp, whoever made it; and no other op has this one, since the clock moves on.
            self.fresh.clock = next;
            first.time = Hlc(next.0);
            self.stamps.insert(stamp, first);
        }
        self.make(Change::Again { stamp: first, seq, change: Carried(Box::new(change)) });
    }

    /// Stamps and applies a change of this peer's; its stamp is handed back.
    fn make(&mut self, change: Change) -> Stamp {
        let stamp = Stamp { time: self.fresh.clock.next(self.now), author: self.author };
        if let Err(what) = validate::check_change(stamp, &change) {
            debug_assert!(false, "{what}: {change:?}");
            return stamp;
        }
        let op = Op { stamp, seq: self.fresh.vector.get(self.author) + 1, change };
        self.fresh.push(&op);
        self.fresh.apply(stamp);
        self.ops.push(op);
        stamp
    }
}
