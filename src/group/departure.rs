//! What becomes of a share when machines go: what could no longer be read without them, what the others cannot take
//! over, and what is left to hand over before one that leaves may be switched off.

use super::backlog::UnderWay;
use super::holdings::Holdings;
use super::plan::{Surroundings, fill, gives_up, live_slots};
use super::survival::{losses_now, losses_survived};
use super::{custody::slots_of, healing::slot_bytes};
use crate::id::{GroupId, Ino, PeerTag};
use crate::namespace::{Group, Namespace};
use crate::policy::Geometry;
use crate::volume::ports::Candidate;
use std::collections::BTreeSet;

/// Content that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Loss {
    /// Files with a name that have some of the blocks.
    pub files: u64,
    pub blocks: u64,
}

impl Loss {
    /// All that lies in these groups.
    fn of(namespace: &Namespace, groups: &BTreeSet<GroupId>) -> Loss {
        let blocks = groups.iter().filter_map(|id| namespace.group(*id)).map(|group| u64::from(group.blocks)).sum();
        Loss { files: namespace.files_in(groups), blocks }
    }

    pub fn is_none(&self) -> bool {
        self.blocks == 0 && self.files == 0
    }
}

/// What a share is without some of its peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Without {
    /// What lies in groups that these peers sit in, and cannot be read from the other peers that are alive.
    pub lost: Loss,
    /// All that cannot be read then, whoever sits there.
    pub unreadable: Loss,
    /// What of that can be read as long as they are there.
    pub caused: Loss,
    /// Any so many machines more may be lost then; `None`: something cannot be read.
    pub survives: Option<u32>,
    /// The same, once the others are whole again by themselves.
    pub survives_healed: u32,
}

/// What the share is with these peers gone: of those that are alive now, only the others count, where their stores have
/// what they should.
pub fn without(
    namespace: &Namespace,
    alive: &BTreeSet<PeerTag>,
    holdings: &Holdings,
    gone: &BTreeSet<PeerTag>,
) -> Without {
    let left: BTreeSet<PeerTag> = alive.difference(gone).copied().collect();
    let (mut lost, mut unreadable, mut caused) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (id, group) in namespace.groups().filter(|(_, group)| group.blocks > 0) {
        let held = holdings.held(id, group);
        let is_read_by = |peers: &BTreeSet<PeerTag>| {
            let slots = super::state::live_slots(&held, |peer| peers.contains(&peer));
            losses_now(&slots, group.geometry.data).is_some()
        };
        if !is_read_by(&left) {
            unreadable.insert(id);
            if is_read_by(alive) {
                caused.insert(id);
            }
            if group.slots.iter().flatten().any(|seat| gone.contains(&seat.peer)) {
                lost.insert(id);
            }
        }
    }
    let held = namespace.groups().map(|(id, group)| holdings.held(id, group));
    let survival = losses_survived(held, &left, namespace.policy(Ino::ROOT));
    Without {
        lost: Loss::of(namespace, &lost),
        unreadable: Loss::of(namespace, &unreadable),
        caused: Loss::of(namespace, &caused),
        survives: survival.now,
        survives_healed: survival.healed,
    }
}

/// What a machine has still to hand over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HandingOver {
    pub groups: u64,
    pub blocks: u64,
    /// What its shards of them take.
    pub bytes: u64,
}

/// What is left to hand over before `me`, which leaves, may be switched off: groups that others could still fill or
/// encode better, that it has not let go of, or that cannot be read without it, as the others' stores are. With
/// `but_stranded` those that nobody can take are left out: their loss is accepted.
pub fn handing_over(
    namespace: &Namespace,
    candidates: &[Candidate],
    holdings: &Holdings,
    under_way: &UnderWay,
    me: PeerTag,
    but_stranded: bool,
) -> HandingOver {
    let candidates = leaving(candidates, me);
    let around = Surroundings::new(&candidates, BTreeSet::new());
    let given_up = if but_stranded { stranded_groups(namespace, &candidates, me) } else { BTreeSet::new() };
    let mut left = HandingOver::default();
    for (id, group) in held(namespace, me).filter(|(id, _)| !given_up.contains(id)) {
        let bytes = slot_bytes(namespace, id, group.geometry);
        let unread = losses_now(&slots_without(&holdings.held(id, group), &around, me), group.geometry.data).is_none();
        if unread || gives_up(me, group, &around).is_some() || wants_more(namespace, group, bytes, &around, me, id) {
            let done = under_way.get(&id).copied().unwrap_or_default();
            left.groups += 1;
            left.blocks += u64::from(group.blocks).saturating_sub(done.blocks);
            left.bytes += (bytes * slots_of(group, me).count() as u64).saturating_sub(done.bytes);
        }
    }
    left
}

/// What of the content that `me` holds would be lost if it left: it cannot be read without it, and no others are there,
/// or have the room, to take it over.
pub fn stranded(namespace: &Namespace, candidates: &[Candidate], me: PeerTag) -> Loss {
    let candidates = leaving(candidates, me);
    if candidates.iter().any(|one| one.alive && !one.leaving) {
        return Loss::of(namespace, &stranded_groups(namespace, &candidates, me));
    }
    // With nobody there, what lies in the namespace itself goes too.
    let blocks = namespace.groups().map(|(_, group)| u64::from(group.blocks)).sum();
    Loss { files: namespace.files().files, blocks }
}

fn stranded_groups(namespace: &Namespace, candidates: &[Candidate], me: PeerTag) -> BTreeSet<GroupId> {
    let mut candidates = candidates.to_vec();
    let mut stranded = BTreeSet::new();
    for (id, group) in held(namespace, me) {
        let around = Surroundings::new(&candidates, BTreeSet::new());
        let mut slots = slots_without(group, &around, me);
        if losses_now(&slots, group.geometry.data).is_some() {
            continue;
        }
        let bytes = slot_bytes(namespace, id, group.geometry);
        let seats = fill(group, &live_slots(group, &around), bytes, &around, id.0).unwrap_or_default();
        for (slot, peer) in &seats {
            if let Some(slot) = slots.get_mut(usize::from(*slot)) {
                slot.insert(*peer);
            }
        }
        if losses_now(&slots, group.geometry.data).is_none() {
            stranded.insert(id);
            continue;
        }
        // The next group finds so much less room.
        for (_, peer) in seats {
            for one in candidates.iter_mut().filter(|one| one.peer == peer && one.free != u64::MAX) {
                one.free = one.free.saturating_sub(bytes);
            }
        }
    }
    stranded
}

/// Whether the others are not yet as well off without `me` as they could be.
fn wants_more(
    namespace: &Namespace,
    group: &Group,
    bytes: u64,
    around: &Surroundings,
    me: PeerTag,
    id: GroupId,
) -> bool {
    let survives = losses_now(&slots_without(group, around, me), group.geometry.data);
    let better = |wanted: Geometry| survives.is_none_or(|survives| u32::from(wanted.parity) > survives);
    survives.is_none()
        || fill(group, &live_slots(group, around), bytes, around, id.0).is_some()
        || around.reshaped(group, |geometry| slot_bytes(namespace, id, geometry)).is_some_and(better)
}

/// The groups that hold blocks and in which a peer sits.
fn held(namespace: &Namespace, me: PeerTag) -> impl Iterator<Item = (GroupId, &Group)> {
    namespace.groups_of(me).filter(|(_, group)| group.blocks > 0)
}

fn slots_without(group: &Group, around: &Surroundings, me: PeerTag) -> Vec<BTreeSet<PeerTag>> {
    super::state::live_slots(group, |peer| peer != me && around.is_alive(peer))
}

/// The peers, with `me` leaving.
fn leaving(candidates: &[Candidate], me: PeerTag) -> Vec<Candidate> {
    let mark = |one: &Candidate| Candidate { leaving: one.leaving || one.peer == me, ..one.clone() };
    candidates.iter().map(mark).collect()
}

#[cfg(test)]
mod tests;
