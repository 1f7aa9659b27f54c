//! What one group needs to be goldilocks again: which slots are to be filled and by whom, who of two participants of
//! one slot stays, whether its blocks want another geometry. It looks at one moment, and whoever sees the same
//! things comes to the same answer; who acts on it, and when, is in `healing`.

use super::choose::{Crowd, ROOM, choose};
use super::survival::losses_now;
use crate::id::PeerTag;
use crate::namespace::{Group, Seat};
use crate::policy::{Geometry, Policy};
use crate::volume::ports::Candidate;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Seats of one slot that are kept although their peers are dead: each may come back with its shards.
const DEAD_SEATS: usize = 4;

/// What a peer is to have free beside a group's blocks in another geometry, as a part of what it stores and could store
/// for the share: people go on writing, and the blocks in their old geometry go only a while after the last has moved.
const KEPT_FREE: u64 = 10;

/// Peers whose disks are filled to the same tenth count as equally full when one of two participants has to go.
const FULLNESS_STEP: u64 = 10;

/// The peers of a share around one that plans.
pub struct Surroundings<'a> {
    candidates: BTreeMap<PeerTag, &'a Candidate>,
    gone: BTreeSet<PeerTag>,
}

/// What to do for a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Need {
    /// These peers are to take these slots.
    Fill(Vec<(u8, PeerTag)>),
    /// Its blocks are to move to a group of the geometry that its policy asks for now.
    Reencode,
    /// These participants are gone for good: their seats are to be forgotten.
    Forget(Vec<(u8, PeerTag)>),
}

impl<'a> Surroundings<'a> {
    /// `gone`: peers on the roster that are dead for longer than their absence is put up with.
    pub fn new(candidates: &'a [Candidate], gone: BTreeSet<PeerTag>) -> Surroundings<'a> {
        Surroundings { candidates: candidates.iter().map(|one| (one.peer, one)).collect(), gone }
    }

    pub fn is_alive(&self, peer: PeerTag) -> bool {
        self.candidates.get(&peer).is_some_and(|one| one.alive)
    }

    pub fn is_leaving(&self, peer: PeerTag) -> bool {
        self.candidates.get(&peer).is_some_and(|one| one.leaving)
    }

    /// Whether its seat counts as taken: it is alive, or will be again soon.
    fn is_expected(&self, peer: PeerTag) -> bool {
        self.candidates.contains_key(&peer) && !self.gone.contains(&peer)
    }

    /// Those that may be seated and have room for so many bytes more.
    fn usable(&self, bytes: u64) -> Vec<Candidate> {
        let roomy = |one: &&&Candidate| one.alive && !one.leaving && one.free > bytes;
        self.candidates.values().filter(roomy).map(|one| (**one).clone()).collect()
    }

    /// The geometry that a policy asks for with the peers that stay, if enough of them are here to be seated.
    pub fn wanted(&self, policy: Policy) -> Option<Geometry> {
        let staying = self.candidates.values().filter(|one| !one.leaving);
        let alive = staying.clone().filter(|one| one.alive).count();
        let geometry = policy.geometry(staying.count().max(1));
        (geometry.shards() <= alive).then_some(geometry)
    }

    /// The other geometry that a group's blocks are to move to, where enough peers have the room for it. `slot_bytes`:
    /// what the blocks would take in one slot of it.
    pub fn reshaped(&self, group: &Group, slot_bytes: impl Fn(Geometry) -> u64) -> Option<Geometry> {
        let wanted = self.wanted(group.policy).filter(|wanted| *wanted != group.geometry)?;
        let bytes = slot_bytes(wanted);
        let roomy = |one: &&&Candidate| {
            let kept = (one.free.saturating_add(one.stored) / KEPT_FREE).max(ROOM);
            one.alive && !one.leaving && one.free.saturating_sub(bytes) > kept
        };
        (self.candidates.values().filter(roomy).count() >= wanted.shards()).then_some(wanted)
    }

    /// Whether `peer` in this slot would be as far from the other slots' participants as who is there now.
    pub fn places_no_worse(&self, peer: PeerTag, now: PeerTag, slot: usize, slots: &[BTreeSet<PeerTag>]) -> bool {
        let others = slots.iter().enumerate().filter(|(at, _)| *at != slot);
        let crowd = self.crowd(others.filter_map(|(_, live)| live.first().copied()));
        let likeness = |peer| self.candidates.get(&peer).map(|one| crowd.likeness(one));
        likeness(peer) <= likeness(now)
    }

    fn crowd(&self, seated: impl IntoIterator<Item = PeerTag>) -> Crowd {
        let mut crowd = Crowd::default();
        for peer in seated {
            crowd.seat(peer, self.candidates.get(&peer).copied());
        }
        crowd
    }
}

/// What a group needs, if anything. `slot_bytes`: what its blocks take in one slot of a geometry. `reshape`: whether it
/// may be given another geometry. `random` decides among equals.
pub fn need(
    group: &Group,
    slot_bytes: impl Fn(Geometry) -> u64,
    around: &Surroundings,
    reshape: bool,
    random: u64,
) -> Option<Need> {
    let forgettable = forgettable(group, around);
    if !forgettable.is_empty() {
        return Some(Need::Forget(forgettable));
    }
    if is_at_rest(group, around) {
        return None;
    }
    let slots = live_slots(group, around);
    if slots.iter().filter(|slot| !slot.is_empty()).count() < usize::from(group.geometry.data) {
        return None;
    }
    if reshape && around.reshaped(group, &slot_bytes).is_some() {
        return Some(Need::Reencode);
    }
    fill(group, &slots, slot_bytes(group.geometry), around, random).map(Need::Fill)
}

/// The other geometry that some of a group's blocks may move to as things are now. `slot_bytes`: what they would take in
/// one slot of it.
pub fn reshaped(group: &Group, candidates: &[Candidate], slot_bytes: impl Fn(Geometry) -> u64) -> Option<Geometry> {
    Surroundings::new(candidates, BTreeSet::new()).reshaped(group, slot_bytes)
}

/// Where a participant shares its slot with one that is better placed: the slot, and who stays. One slot at a time.
pub fn gives_up(me: PeerTag, group: &Group, around: &Surroundings) -> Option<(u8, PeerTag)> {
    let slots = live_slots(group, around);
    (0..slots.len()).find_map(|slot| {
        let shared = slots[slot].len() > 1 && slots[slot].contains(&me);
        let stays = shared.then(|| stays(slot, group, &slots, around))??;
        (stays != me).then_some((slot as u8, stays))
    })
}

/// The best placed of a slot's live participants.
fn stays(slot: usize, group: &Group, slots: &[BTreeSet<PeerTag>], around: &Surroundings) -> Option<PeerTag> {
    let others = || slots.iter().enumerate().filter(|(at, _)| *at != slot).map(|(_, live)| live);
    let crowd = around.crowd(others().filter_map(|live| live.first().copied()));
    let rank = |seat: &&Seat| {
        let candidate = around.candidates.get(&seat.peer);
        let seats = others().filter(|live| live.contains(&seat.peer)).count();
        let likeness = candidate.map(|one| crowd.likeness(one));
        // One without room could not be given what it lacks of the slot, and the two would stay for as long.
        let full = candidate.is_some_and(|one| one.free < ROOM);
        let fullness = candidate.map(|one| fullness(one) / FULLNESS_STEP);
        // Among equals the one that was seated last: somebody wanted it there.
        (around.is_leaving(seat.peer), full, seats, likeness, fullness, Reverse(seat.stamp), seat.peer)
    };
    group.slots[slot].iter().filter(|seat| slots[slot].contains(&seat.peer)).min_by_key(rank).map(|seat| seat.peer)
}

/// How full a peer's disk is by what it holds for the share, in hundredths.
pub(super) fn fullness(one: &Candidate) -> u64 {
    let (stored, free) = (u128::from(one.stored), u128::from(one.free));
    (stored * 100 / (stored + free).max(1)) as u64
}

/// Seats of peers that are off the roster, and the oldest where dead ones pile up.
fn forgettable(group: &Group, around: &Surroundings) -> Vec<(u8, PeerTag)> {
    let mut seats = Vec::new();
    for (slot, seated) in (0u8..).zip(&group.slots) {
        let dead = seated.iter().filter(|seat| !around.is_alive(seat.peer));
        let (known, unknown): (Vec<&Seat>, Vec<&Seat>) =
            dead.partition(|seat| around.candidates.contains_key(&seat.peer));
        seats.extend(unknown.iter().map(|seat| (slot, seat.peer)));
        if known.len() > DEAD_SEATS {
            let mut oldest = known;
            oldest.sort_by_key(|seat| seat.stamp);
            seats.extend(oldest[..oldest.len() - DEAD_SEATS].iter().map(|seat| (slot, seat.peer)));
        }
    }
    seats
}

/// Whether nothing at all is to do, told at a glance: most groups are so most of the time.
pub(super) fn is_at_rest(group: &Group, around: &Surroundings) -> bool {
    let mut seen = BTreeSet::new();
    let settled = group.slots.iter().all(|slot| match &slot[..] {
        [seat] => around.is_alive(seat.peer) && !around.is_leaving(seat.peer) && seen.insert(seat.peer),
        _ => false,
    });
    settled && around.wanted(group.policy).is_none_or(|wanted| wanted == group.geometry)
}

pub(super) fn live_slots(group: &Group, around: &Surroundings) -> Vec<BTreeSet<PeerTag>> {
    super::state::live_slots(group, |peer| around.is_alive(peer))
}

/// The slots that want somebody, and whom.
pub(super) fn fill(
    group: &Group,
    slots: &[BTreeSet<PeerTag>],
    slot_bytes: u64,
    around: &Surroundings,
    random: u64,
) -> Option<Vec<(u8, PeerTag)>> {
    let staying: Vec<BTreeSet<PeerTag>> =
        slots.iter().map(|live| live.iter().copied().filter(|peer| !around.is_leaving(*peer)).collect()).collect();
    let mut keep: Vec<Option<PeerTag>> = (0..slots.len())
        .map(|slot| {
            let expected = || group.slots[slot].iter().map(|seat| seat.peer).find(|peer| around.is_expected(*peer));
            let expected = || expected().filter(|peer| !around.is_leaving(*peer));
            staying[slot].first().copied().or_else(expected)
        })
        .collect();
    let usable = around.usable(slot_bytes);
    if keep.iter().all(Option::is_some) && slots.iter().all(|live| live.len() <= 1) {
        spread(&mut keep, &usable);
    }
    let vacant: Vec<usize> = (0..keep.len()).filter(|slot| keep[*slot].is_none()).collect();
    if vacant.is_empty() {
        return None;
    }
    let chosen = choose(keep.len(), &keep, &usable, None, random);
    let mut seats: Vec<(u8, PeerTag)> =
        vacant.iter().filter_map(|slot| Some((*slot as u8, *chosen.get(*slot)?))).collect();
    // Who holds the slot already is no news.
    seats.retain(|(slot, peer)| !staying[usize::from(*slot)].contains(peer));
    let mut taken: BTreeSet<PeerTag> = keep.iter().flatten().copied().collect();
    let (alone, doubled): (Vec<_>, Vec<_>) = seats.into_iter().partition(|(_, peer)| taken.insert(*peer));
    let with = |seats: &[(u8, PeerTag)]| {
        let mut slots = staying.clone();
        seats.iter().for_each(|(slot, peer)| {
            slots[usize::from(*slot)].insert(*peer);
        });
        losses_now(&slots, group.geometry.data)
    };
    let all: Vec<(u8, PeerTag)> = alone.iter().chain(&doubled).copied().collect();
    // A second slot on one machine is worth its bytes only where more losses are survived by it.
    let seats = if with(&all) > with(&alone) { all } else { alone };
    (!seats.is_empty()).then_some(seats)
}

/// Vacates slots of peers that hold several, as far as there are peers that hold none.
fn spread(keep: &mut [Option<PeerTag>], usable: &[Candidate]) {
    let mut idle = usable.iter().filter(|one| !keep.contains(&Some(one.peer))).count();
    let mut seen = BTreeSet::new();
    for seat in keep.iter_mut() {
        if idle > 0 && seat.is_some_and(|peer| !seen.insert(peer)) {
            *seat = None;
            idle -= 1;
        }
    }
}
