//! Apply: what an op does to the tree. Total (any op, on any tree) and deterministic (nothing but the tree, the
//! op and the before-images of earlier ops decides). What cannot be done as wished is done by a fixed rule that
//! loses nothing, or left out.

use super::log::{Log, Undo};
use super::op::{Change, Kind, Op, PeerRecord, Place, SetAttributes, Standing, VersionVector};
use super::record::{Block, Entry, Group, Inode, Key, Record, Seat};
use super::tree::Tree;
use crate::id::{BlockName, COUNTER_BITS, GroupId, Ino, PeerTag};
use crate::policy::{Geometry, Partition, Policy};
use crate::time::{Stamp, WallTime};
use bytes::Bytes;

/// Counters from here on are not drawn but derived, for conflict copies.
pub(super) const DERIVED: u64 = 1 << (COUNTER_BITS - 1);

/// The most participants of one slot: one, and those that came back from the dead.
const SEATS_OF_SLOT: usize = 8;

/// One op being applied.
pub(super) struct Work<'a> {
    pub tree: &'a mut Tree,
    /// The ops applied before this one have their before-images in it.
    pub log: &'a Log,
    /// What the versions it makes are called.
    pub stamp: Stamp,
    /// Its place in the order: its stamp, but for an op made anew.
    pub at: Stamp,
    pub seq: u64,
    /// Every op that is here.
    pub known: &'a VersionVector,
    /// The op is one made anew.
    pub again: bool,
    /// The op's own time.
    pub time: WallTime,
    pub undo: Undo,
    pub built_on: Option<Stamp>,
}

/// Applies an op; the before-images are handed back, and the version that had to be gone back to, if any. `known`:
/// every op of the log and below it.
pub(super) fn apply(tree: &mut Tree, log: &Log, known: &VersionVector, op: &Op) -> (Undo, Option<Stamp>) {
    let (stamp, seq, time) = (op.stamp, op.seq, time_of(op.stamp, &op.change));
    let (undo, built_on) = (Undo::new(), None);
    let mut work = Work { tree, log, stamp, at: stamp, seq, known, again: false, time, undo, built_on };
    work.change(&op.change);
    (work.undo, work.built_on)
}

fn time_of(stamp: Stamp, change: &Change) -> WallTime {
    match change.itself() {
        Change::Create { time, .. }
        | Change::Link { time, .. }
        | Change::Unlink { time, .. }
        | Change::Rmdir { time, .. }
        | Change::Rename { time, .. }
        | Change::Exchange { time, .. }
        | Change::Merge { time, .. } => *time,
        Change::SetXattr { ctime, .. } | Change::Write { ctime, .. } => *ctime,
        _ => WallTime((stamp.time.millis() as i64).saturating_mul(1_000_000)),
    }
}

impl Work<'_> {
    fn change(&mut self, change: &Change) {
        match change {
            Change::Create { place, ino, kind, mode, uid, gid, .. } => {
                self.create(&self.at(place), *ino, kind, *mode, *uid, *gid);
                self.raise_counter(ino.creator(), ino.counter());
            }
            Change::Link { place, ino, .. } => self.link(&self.at(place), *ino),
            Change::Unlink { place, seen, .. } => self.unlink(&self.at(place), *seen),
            Change::Rmdir { place, ino, .. } => self.rmdir(&self.at(place), *ino),
            Change::Rename { from, to, ino, replaced, .. } => {
                self.rename(&self.at(from), &self.at(to), *ino, *replaced);
            }
            Change::Exchange { a, a_ino, b, b_ino, .. } => self.exchange(&self.at(a), *a_ino, &self.at(b), *b_ino),
            Change::Reap { ino } => self.reap(*ino),
            Change::SetAttributes { ino, set } => self.set_attributes(self.tree.survivor(*ino), set),
            Change::SetXattr { ino, name, value, .. } => {
                self.set_xattr(self.tree.survivor(*ino), name, value.as_ref());
            }
            Change::Write { .. } => self.write(change),
            Change::SetPolicy { ino, policy } => {
                self.edit_even_reaped(self.tree.survivor(*ino), |inode| inode.policy = *policy);
            }
            Change::OpenGroup { group, policy, geometry, seats } => {
                self.open_group(*group, *policy, *geometry, seats);
                self.raise_counter(group.creator(), group.counter());
            }
            Change::Seat { group, slot, peer } => self.seat(*group, *slot, *peer),
            Change::Unseat { group, slot, peer, keeper } => self.unseat(*group, *slot, *peer, *keeper),
            Change::Admit { peer } => self.admit(peer),
            Change::Evict { peer } => {
                self.put(Key::Peer(*peer), None);
                if let Some(heir) = self.heir_of_evicted(*peer) {
                    self.depose(*peer, heir);
                }
                self.set_standing(*peer, Standing::default());
                if self.tree.get(&Key::Away(*peer)).is_some() {
                    self.put(Key::Away(*peer), None);
                }
            }
            Change::Relocate { from, to, blocks } => blocks.iter().for_each(|name| self.relocate(*from, *to, *name)),
            Change::CloseGroup { group } => self.close_group(*group),
            Change::SetStanding { peer, standing } => self.set_standing(*peer, *standing),
            Change::LetGo { peer } => self.let_go(*peer),
            Change::TakeBack { peer } => self.take_back(*peer),
            Change::Again { stamp, seq, change } => self.again(*stamp, *seq, &change.0),
            Change::For { change, .. } => self.change(&change.0),
            Change::Merge { from, ino, into, .. } => self.merge(&self.at(from), *ino, *into),
            Change::SetPartition { ino, mode } => self.set_partition(self.tree.survivor(*ino), *mode),
            Change::Settle { place, ino } => self.settle(&self.at(place), *ino),
            Change::Grant { ino, to } => self.grant(*ino, *to),
            Change::Depose { peer, heir } => {
                if [*peer, *heir].contains(&self.stamp.author.peer()) && self.tree.is_peer(*heir) {
                    self.depose(*peer, *heir);
                }
            }
        }
    }

    /// Of all who make an op anew, and its own log, the first one counts.
    fn again(&mut self, stamp: Stamp, seq: u64, change: &Change) {
        let key = Key::Again(stamp.author);
        let there = matches!(self.tree.get(&key), Some(Record::Again(last)) if *last >= seq);
        if there || self.again || self.known.get(stamp.author) >= seq {
            return;
        }
        self.put(key, Some(Record::Again(seq)));
        (self.stamp, self.seq, self.time, self.again) = (stamp, seq, time_of(stamp, change), true);
        self.change(change);
    }

    /// The place, in the directory that its own became one with.
    fn at(&self, place: &Place) -> Place {
        Place { parent: self.tree.survivor(place.parent), name: place.name.clone() }
    }

    /// The one way to change the tree: remembers what was there.
    pub fn put(&mut self, key: Key, record: Option<Record>) {
        let before = self.tree.set(key.clone(), record);
        self.undo.entry(key).or_insert(before);
    }

    /// Changes an inode that is there and not reaped, and gives it this version.
    pub fn edit(&mut self, ino: Ino, change: impl FnOnce(&mut Inode)) {
        if self.tree.inode(ino).is_some_and(|inode| !inode.reaped) {
            self.edit_even_reaped(ino, change);
        }
    }

    /// Changes an inode that is there, and gives it this version.
    pub fn edit_even_reaped(&mut self, ino: Ino, change: impl FnOnce(&mut Inode)) {
        let Some(mut inode) = self.tree.inode(ino).cloned() else { return };
        change(&mut inode);
        inode.version = self.stamp;
        self.put(Key::Inode(ino), Some(Record::Inode(Box::new(inode))));
    }

    /// Puts a name into a directory. The name is free, or its old entry is to go.
    pub fn put_entry(&mut self, place: &Place, ino: Ino) {
        let entry = Entry { ino, stamp: self.stamp };
        self.put(Key::Entry(place.parent, place.name.clone()), Some(Record::Entry(entry)));
        self.forget_conflict(place);
    }

    /// Takes a name out of a directory, and what is recorded about it.
    pub fn take_entry(&mut self, place: &Place) {
        self.put(Key::Entry(place.parent, place.name.clone()), None);
        self.forget_conflict(place);
    }

    /// Reaped ones too, here and below: a later write or link of someone who did not know brings the file back.
    fn set_attributes(&mut self, ino: Ino, set: &SetAttributes) {
        self.edit_even_reaped(ino, |inode| {
            inode.mode = set.mode.map_or(inode.mode, |mode| mode & 0o7777);
            inode.uid = set.uid.unwrap_or(inode.uid);
            inode.gid = set.gid.unwrap_or(inode.gid);
            inode.atime = set.atime.unwrap_or(inode.atime);
            inode.mtime = set.mtime.unwrap_or(inode.mtime);
            inode.ctime = set.ctime.unwrap_or(inode.ctime);
        });
    }

    fn set_xattr(&mut self, ino: Ino, name: &Bytes, value: Option<&Bytes>) {
        let key = Key::Xattr(ino, name.clone());
        let there = self.tree.get(&key).is_some();
        if self.tree.inode(ino).is_none() || (value.is_none() && !there) {
            return;
        }
        self.put(key, value.cloned().map(Record::Xattr));
        let time = self.time;
        self.edit_even_reaped(ino, |inode| inode.ctime = time);
    }

    fn raise_counter(&mut self, peer: PeerTag, counter: u64) {
        let key = Key::Counter(peer);
        let highest = match self.tree.get(&key) {
            Some(Record::Counter(highest)) => *highest,
            _ => 0,
        };
        if counter < DERIVED && counter > highest {
            self.put(key, Some(Record::Counter(counter)));
        }
    }

    fn open_group(&mut self, id: GroupId, policy: Policy, geometry: Geometry, seats: &[PeerTag]) {
        if self.tree.group(id).is_some() {
            return;
        }
        let slots = seats.iter().map(|peer| vec![Seat { peer: *peer, stamp: self.stamp }]).collect();
        let group = Group { policy, geometry, slots, blocks: 0 };
        self.put(Key::Group(id), Some(Record::Group(Box::new(group))));
    }

    /// Changes a group that is there; `change` says whether anything came of it.
    pub fn edit_group(&mut self, id: GroupId, change: impl FnOnce(&mut Group) -> bool) {
        let Some(mut group) = self.tree.group(id).cloned() else { return };
        if change(&mut group) {
            self.put(Key::Group(id), Some(Record::Group(Box::new(group))));
        }
    }

    fn seat(&mut self, id: GroupId, slot: u8, peer: PeerTag) {
        let seat = Seat { peer, stamp: self.stamp };
        self.edit_group(id, |group| match group.slots.get_mut(usize::from(slot)) {
            Some(seats) if seats.len() < SEATS_OF_SLOT && seats.iter().all(|seat| seat.peer != peer) => {
                seats.push(seat);
                true
            }
            _ => false,
        });
    }

    fn unseat(&mut self, id: GroupId, slot: u8, peer: PeerTag, keeper: Option<PeerTag>) {
        let kept =
            |seats: &[Seat]| keeper.is_none_or(|keeper| keeper != peer && seats.iter().any(|seat| seat.peer == keeper));
        self.edit_group(id, |group| match group.slots.get_mut(usize::from(slot)) {
            Some(seats) if kept(seats) => {
                let before = seats.len();
                seats.retain(|seat| seat.peer != peer);
                seats.len() != before
            }
            _ => false,
        });
    }

    /// A block that meanwhile went elsewhere has nothing to move. One that is in use no more moves as well: its old group
    /// may be closed from now on, and a file may yet go on from a version that has it.
    fn relocate(&mut self, from: GroupId, to: GroupId, name: BlockName) {
        let Some(block) = self.tree.block(&name).filter(|block| block.group == from) else { return };
        if from == to || self.tree.group(to).is_none() {
            return;
        }
        self.put(Key::Block(name), Some(Record::Block(Block { group: to, ..block })));
        if block.uses == 0 {
            return;
        }
        for (group, by) in [(from, -1), (to, 1)] {
            self.edit_group(group, |group| {
                group.blocks = group.blocks.saturating_add_signed(by);
                true
            });
        }
    }

    fn close_group(&mut self, id: GroupId) {
        if self.tree.group(id).is_some_and(|group| group.blocks == 0) {
            self.put(Key::Group(id), None);
        }
    }

    /// What says nothing is not kept.
    fn set_standing(&mut self, peer: PeerTag, standing: Standing) {
        let key = Key::Standing(peer);
        let record = (standing != Standing::default()).then_some(Record::Standing(standing));
        if self.tree.get(&key) != record.as_ref() {
            self.put(key, record);
        }
    }

    fn let_go(&mut self, peer: PeerTag) {
        let away = matches!(self.tree.get(&Key::Away(peer)), Some(Record::Away { back: false, .. }));
        if self.tree.get(&Key::Peer(peer)).is_some() && !away {
            let record = Record::Away { by: self.stamp.author, seq: self.seq, back: false };
            self.put(Key::Away(peer), Some(record));
        }
    }

    fn take_back(&mut self, peer: PeerTag) {
        if let Some(Record::Away { by, seq, back: false }) = self.tree.get(&Key::Away(peer)) {
            let record = Record::Away { by: *by, seq: *seq, back: true };
            self.put(Key::Away(peer), Some(record));
        }
    }

    fn set_partition(&mut self, ino: Ino, mode: Option<Partition>) {
        if self.tree.inode(ino).is_some_and(|inode| inode.kind == Kind::Directory) {
            self.put(Key::Partition(ino), mode.map(Record::Partition));
        }
    }

    /// What a peer says of itself does not bring it back once it is evicted. The founder admits itself.
    fn admit(&mut self, peer: &PeerRecord) {
        let tag = peer.key.tag();
        let founded = self.tree.range(Key::Peer(PeerTag(0)), Key::Counter(PeerTag(0))).next().is_some();
        if tag == self.stamp.author.peer() && founded && self.tree.get(&Key::Peer(tag)).is_none() {
            return;
        }
        self.put(Key::Peer(tag), Some(Record::Peer(Box::new(peer.clone()))));
        if !founded {
            self.hold_the_root(tag);
        }
    }
}
