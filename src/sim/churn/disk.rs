//! What lies on which disk, as it is in truth, whatever the peers believe: for each group, who holds the shards of each
//! of its slots. A peer that is away still holds its shards; one that is gone for good holds nothing.

use crate::id::{GroupId, PeerTag};
use crate::namespace::Group;
use std::collections::{BTreeMap, BTreeSet};

/// All disks of a run.
#[derive(Default)]
pub struct Disks {
    groups: BTreeMap<GroupId, Held>,
    held: BTreeMap<PeerTag, BTreeSet<(GroupId, u8)>>,
    stored: BTreeMap<PeerTag, u64>,
}

/// The shards of one group.
struct Held {
    slots: Vec<BTreeSet<PeerTag>>,
    /// Slots that are enough to have the blocks back.
    needed: usize,
    /// What the blocks take in one slot.
    slot_bytes: u64,
}

impl Disks {
    /// A group was opened, and its blocks stored at its participants.
    pub fn store(&mut self, id: GroupId, group: &Group, slot_bytes: u64) {
        let slots = vec![BTreeSet::new(); group.geometry.shards()];
        self.groups.insert(id, Held { slots, needed: usize::from(group.geometry.data), slot_bytes });
        for (slot, seats) in (0u8..).zip(&group.slots) {
            for seat in seats {
                self.put(id, slot, seat.peer);
            }
        }
    }

    pub fn put(&mut self, id: GroupId, slot: u8, peer: PeerTag) {
        let Some(held) = self.groups.get_mut(&id) else { return };
        if held.slots[usize::from(slot)].insert(peer) {
            self.held.entry(peer).or_default().insert((id, slot));
            *self.stored.entry(peer).or_default() += held.slot_bytes;
        }
    }

    /// A peer drops a slot's shards. How many others hold them.
    pub fn drop(&mut self, id: GroupId, slot: u8, peer: PeerTag) -> usize {
        let Some(held) = self.groups.get_mut(&id) else { return 0 };
        let holders = &mut held.slots[usize::from(slot)];
        if holders.remove(&peer) {
            if let Some(own) = self.held.get_mut(&peer) {
                own.remove(&(id, slot));
            }
            if let Some(stored) = self.stored.get_mut(&peer) {
                *stored -= held.slot_bytes;
            }
        }
        holders.len()
    }

    /// A disk is gone. The groups that lost shards.
    pub fn destroy(&mut self, peer: PeerTag) -> BTreeSet<GroupId> {
        let all = self.held.remove(&peer).unwrap_or_default();
        for (id, slot) in &all {
            if let Some(held) = self.groups.get_mut(id) {
                held.slots[usize::from(*slot)].remove(&peer);
            }
        }
        self.stored.remove(&peer);
        all.into_iter().map(|(id, _)| id).collect()
    }

    pub fn holds(&self, id: GroupId, slot: u8, peer: PeerTag) -> bool {
        self.groups.get(&id).is_some_and(|held| held.slots[usize::from(slot)].contains(&peer))
    }

    pub fn holders(&self, id: GroupId, slot: u8) -> Vec<PeerTag> {
        self.groups.get(&id).map_or(Vec::new(), |held| held.slots[usize::from(slot)].iter().copied().collect())
    }

    /// What a peer holds.
    pub fn of(&self, peer: PeerTag) -> impl Iterator<Item = (GroupId, u8)> {
        self.held.get(&peer).into_iter().flatten().copied()
    }

    pub fn slot_bytes(&self, id: GroupId) -> u64 {
        self.groups.get(&id).map_or(0, |held| held.slot_bytes)
    }

    /// Whether the blocks can be had from those that `counts`.
    pub fn readable(&self, id: GroupId, counts: impl Fn(PeerTag) -> bool) -> bool {
        self.groups.get(&id).is_some_and(|held| {
            held.slots.iter().filter(|holders| holders.iter().any(|peer| counts(*peer))).count() >= held.needed
        })
    }

    /// Bytes on one disk.
    pub fn stored(&self, peer: PeerTag) -> u64 {
        self.stored.get(&peer).copied().unwrap_or(0)
    }

    /// Bytes on all disks.
    pub fn stored_in_all(&self) -> u64 {
        self.stored.values().sum()
    }

    /// The groups that there are.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.keys().copied()
    }
}
