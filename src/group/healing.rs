//! How the groups of one peer come back to goldilocks: what it does for them, when, and what it leaves to others.
//!
//! Every participant sees the same records and looks at them for itself ([`Healing::look`]). For each group the live
//! participants stand in an order that chance drew once for all (rendezvous hashing: Thaler and Ravishankar, 1998);
//! the first leads, and each one after it takes over when it has seen nothing done for as long as its place in the
//! line is far. Nobody is elected, and two that act at once do no harm: what they rebuild is the same, and where
//! both seat somebody the group is hot, and settles.
//!
//! A participant that shares its slot with a better placed one gives its seat up by itself, after it has made sure
//! that the other holds everything. Nothing here drops a shard: what may go follows from the seats.

use super::custody::slots_of;
use super::plan::{Need, Surroundings, fullness, gives_up, live_slots, need};
use super::survival::losses_now;
use crate::id::{GroupId, PeerTag};
use crate::namespace::{Change, Group, Namespace};
use crate::policy::Geometry;
use crate::time::WallTime;
use crate::volume::ports::Candidate;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The most groups named in one announcement.
pub const ANNOUNCED: usize = 64;

/// For how long an announcement is believed; it is made anew at every look.
const BELIEVED: Duration = Duration::from_secs(5);

/// The most groups that others may be at work on, as far as this peer remembers.
const REMEMBERED: usize = 1 << 16;

/// How much longer a peer is awaited that was never seen alive: after a start, or where it was seated by others a moment
/// ago, it need not have been heard of yet.
const ACQUAINTANCE: Duration = Duration::from_secs(3);

/// The longest wait before a group whose work failed is tried again.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// The first such wait; it doubles with every failure until somebody comes who was not there.
const FIRST_REST: Duration = Duration::from_secs(5);

/// When what is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealingSettings {
    /// How long a dead participant's return is awaited before another takes its slot.
    pub repair_after: Duration,
    /// How long the next in line waits for each one before it to act.
    pub takeover: Duration,
    /// Groups that one peer works on at a time. Their blocks go in parallel anyway.
    pub at_once: usize,
    /// How much fuller than the emptiest peer's, in hundredths, a disk may be before slots move away from it.
    pub uneven: u64,
}

impl Default for HealingSettings {
    fn default() -> Self {
        HealingSettings {
            repair_after: Duration::from_secs(60),
            takeover: Duration::from_secs(5),
            at_once: 2,
            uneven: 10,
        }
    }
}

/// Something that takes a while, for whoever runs this core to carry out and to answer with [`Healing::done`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Work {
    /// Have these peers hold, of every block of the group, the shard of this slot: from a live participant of the very
    /// slot where there is one, else from k others, read once for all slots. What a peer holds already is left.
    Fill { group: GroupId, seats: Vec<(u8, PeerTag)> },
    /// Have `keeper` check that it holds, of every block of the group, the shard of this slot, whole.
    Verify { group: GroupId, slot: u8, keeper: PeerTag },
    /// Store every block of the group anew under its policy, and say so by ops.
    Reencode { group: GroupId },
}

impl Work {
    pub fn group(&self) -> GroupId {
        match self {
            Work::Fill { group, .. } | Work::Verify { group, .. } | Work::Reencode { group } => *group,
        }
    }
}

/// What came of a piece of work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All of it, or, of a `Fill`, these seats.
    Done { filled: Vec<(u8, PeerTag)> },
    /// Nothing that could be relied on.
    Failed,
}

/// What healing wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum HealingEffect {
    Begin(Work),
    Change(Vec<Change>),
    /// Tell every connected peer that this one is at work on these groups.
    Announce(Vec<GroupId>),
}

/// What one peer does for the groups it sits in.
pub struct Healing {
    me: PeerTag,
    settings: HealingSettings,
    /// For how long each peer of the roster has not been alive.
    away: BTreeMap<PeerTag, Duration>,
    /// For how long nobody has come, gone or died: reshaping waits for calm.
    calm: Duration,
    alive: BTreeSet<PeerTag>,
    /// Those of the roster that were alive at any time.
    met: BTreeSet<PeerTag>,
    cases: BTreeMap<GroupId, Case>,
    running: BTreeMap<GroupId, Work>,
    /// Groups that others are at work on, and for how long their last word is believed.
    elsewhere: BTreeMap<GroupId, Duration>,
    /// Counts choices, so that one that failed is not simply made again.
    choices: u64,
}

/// A group that needs something.
#[derive(Clone, Copy, Debug, Default)]
struct Case {
    /// Since when nothing was done for it that this peer knows of.
    idle: Duration,
    failures: u32,
    /// Left alone for so long.
    rest: Duration,
    /// Still needed at the last look.
    seen: bool,
}

impl Healing {
    pub fn new(me: PeerTag, settings: HealingSettings) -> Healing {
        Healing {
            me,
            settings,
            away: BTreeMap::new(),
            calm: Duration::ZERO,
            alive: BTreeSet::new(),
            met: BTreeSet::new(),
            cases: BTreeMap::new(),
            running: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            choices: 0,
        }
    }

    /// The groups this peer sits in that need something, those at work on included.
    pub fn in_need(&self) -> usize {
        self.cases.len()
    }

    /// Looks at everything; `elapsed` is the time since the last look. `candidates` are all peers of the roster, as
    /// this one sees them.
    pub fn look(
        &mut self,
        namespace: &Namespace,
        candidates: &[Candidate],
        elapsed: Duration,
        now: WallTime,
    ) -> Vec<HealingEffect> {
        let mut effects = Vec::new();
        let gone = self.absences(namespace, candidates, elapsed, now);
        let around = Surroundings::new(candidates, gone);
        self.elsewhere.retain(|_, rest| {
            *rest = rest.saturating_sub(elapsed);
            !rest.is_zero()
        });
        self.cases.values_mut().for_each(|case| case.seen = false);
        let mut waiting = Vec::new();
        for (id, group) in namespace.groups_of(self.me).filter(|(_, group)| group.blocks > 0) {
            if self.running.contains_key(&id) {
                self.cases.entry(id).or_default().seen = true;
                continue;
            }
            let Some((wanted, place)) = self.wants(namespace, id, group, &around) else { continue };
            let elsewhere = self.elsewhere.contains_key(&id);
            let case = self.cases.entry(id).or_default();
            case.seen = true;
            case.idle = if elsewhere { Duration::ZERO } else { case.idle + elapsed };
            case.rest = case.rest.saturating_sub(elapsed);
            let turn = self.settings.takeover.saturating_mul(place as u32);
            if case.rest.is_zero() && !elsewhere && case.idle >= turn {
                let spare = losses_now(&live_slots(group, &around), group.geometry.data);
                waiting.push(((spare, id), wanted));
            }
        }
        self.cases.retain(|_, case| case.seen);
        // Least redundancy first.
        waiting.sort_by_key(|(order, _)| *order);
        for ((_, id), wanted) in waiting {
            match wanted {
                Wanted::Change(changes) => effects.push(HealingEffect::Change(changes)),
                Wanted::Work(work) if self.running.len() < self.settings.at_once => {
                    self.running.insert(id, work.clone());
                    effects.push(HealingEffect::Begin(work));
                }
                Wanted::Work(_) => {}
            }
        }
        if let Some(work) = self.even_out(namespace, &around, candidates) {
            self.running.insert(work.group(), work.clone());
            effects.push(HealingEffect::Begin(work));
        }
        if !self.running.is_empty() {
            effects.push(HealingEffect::Announce(self.running.keys().copied().take(ANNOUNCED).collect()));
        }
        effects
    }

    /// Another peer says that it is at work on these groups.
    pub fn heard(&mut self, groups: &[GroupId]) {
        for id in groups.iter().take(ANNOUNCED) {
            if self.elsewhere.len() < REMEMBERED {
                self.elsewhere.insert(*id, BELIEVED);
            }
        }
    }

    /// What failed is tried again at the next look, and not after a rest.
    pub fn hurry(&mut self) {
        self.cases.values_mut().for_each(|case| case.rest = Duration::ZERO);
    }

    /// Whether somebody is at work on a group, as far as this peer knows: shards of it may be on their way to peers
    /// that do not sit in it yet.
    pub fn is_worked_on(&self, group: GroupId) -> bool {
        self.running.contains_key(&group) || self.elsewhere.contains_key(&group)
    }

    /// A piece of work has ended.
    pub fn done(&mut self, namespace: &Namespace, work: &Work, outcome: Outcome) -> Vec<HealingEffect> {
        let id = work.group();
        self.running.remove(&id);
        let Outcome::Done { filled } = outcome else {
            let case = self.cases.entry(id).or_default();
            case.rest = FIRST_REST.saturating_mul(1 << case.failures.min(8)).min(LONGEST_REST);
            case.failures += 1;
            self.choices += 1;
            return Vec::new();
        };
        self.cases.remove(&id);
        let Some(group) = namespace.group(id) else { return Vec::new() };
        let changes: Vec<Change> = match work {
            Work::Fill { .. } => {
                let sits = |slot: u8, peer| {
                    group.slots.get(usize::from(slot)).is_some_and(|seats| seats.iter().any(|seat| seat.peer == peer))
                };
                let new = filled.into_iter().filter(|(slot, peer)| !sits(*slot, *peer));
                new.map(|(slot, peer)| Change::Seat { group: id, slot, peer }).collect()
            }
            Work::Verify { slot, keeper, .. } => {
                vec![Change::Unseat { group: id, slot: *slot, peer: self.me, keeper: Some(*keeper) }]
            }
            Work::Reencode { .. } => Vec::new(),
        };
        if changes.is_empty() { Vec::new() } else { vec![HealingEffect::Change(changes)] }
    }

    /// This peer lacks shards that its seat in the group says it holds: it gets them again.
    pub fn lacks(&mut self, group: GroupId, slots: Vec<u8>) -> Vec<HealingEffect> {
        if self.running.contains_key(&group) || self.cases.get(&group).is_some_and(|case| !case.rest.is_zero()) {
            return Vec::new();
        }
        let work = Work::Fill { group, seats: slots.into_iter().map(|slot| (slot, self.me)).collect() };
        self.running.insert(group, work.clone());
        vec![HealingEffect::Begin(work)]
    }

    /// This peer's store was found empty although its seats say otherwise: they count for nothing.
    pub fn emptied(&self, namespace: &Namespace) -> Vec<HealingEffect> {
        let mut changes = Vec::new();
        for (id, group) in namespace.groups_of(self.me) {
            for (slot, seats) in (0u8..).zip(&group.slots) {
                if seats.iter().any(|seat| seat.peer == self.me) {
                    changes.push(Change::Unseat { group: id, slot, peer: self.me, keeper: None });
                }
            }
        }
        if changes.is_empty() { Vec::new() } else { vec![HealingEffect::Change(changes)] }
    }

    /// Somebody has come: what failed may succeed now, and something else may be wanted than what did. It is tried again
    /// after a first rest at the most, so one that comes and goes all the time has nothing tried more often than that.
    fn try_anew(&mut self) {
        for case in self.cases.values_mut() {
            case.failures = 0;
            case.rest = case.rest.min(FIRST_REST);
        }
    }

    /// Counts absences, and says whose have lasted too long.
    fn absences(
        &mut self,
        namespace: &Namespace,
        candidates: &[Candidate],
        elapsed: Duration,
        now: WallTime,
    ) -> BTreeSet<PeerTag> {
        let alive: BTreeSet<PeerTag> = candidates.iter().filter(|one| one.alive).map(|one| one.peer).collect();
        self.calm = if alive == self.alive { self.calm.saturating_add(elapsed) } else { Duration::ZERO };
        if !alive.is_subset(&self.alive) {
            self.try_anew();
        }
        self.met.extend(&alive);
        self.alive = alive;
        let missing: BTreeSet<PeerTag> = candidates.iter().filter(|one| !one.alive).map(|one| one.peer).collect();
        self.away.retain(|peer, _| missing.contains(peer));
        self.met.retain(|peer| missing.contains(peer) || self.alive.contains(peer));
        for peer in missing {
            let known = self.met.contains(&peer) || self.away.contains_key(&peer);
            *self.away.entry(peer).or_default() += if known { elapsed } else { Duration::ZERO };
        }
        let excused = |peer| namespace.standing(peer).maintenance_until > now;
        let awaited = |peer| {
            let acquaintance = if self.met.contains(&peer) { Duration::ZERO } else { ACQUAINTANCE };
            self.settings.repair_after + acquaintance
        };
        let gone = self.away.iter().filter(|(peer, away)| **away >= awaited(**peer) && !excused(**peer));
        gone.map(|(peer, _)| *peer).collect()
    }

    /// What this peer would do for a group, and how many come before it.
    fn wants(
        &self,
        namespace: &Namespace,
        id: GroupId,
        group: &Group,
        around: &Surroundings,
    ) -> Option<(Wanted, usize)> {
        if let Some((slot, keeper)) = gives_up(self.me, group, around) {
            return Some((Wanted::Work(Work::Verify { group: id, slot, keeper }), 0));
        }
        let slot_bytes = |geometry| slot_bytes(namespace, id, geometry);
        let random = id.0 ^ self.choices.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let calm = self.calm >= self.settings.repair_after;
        let wanted = match need(group, slot_bytes, around, calm, random)? {
            Need::Fill(seats) => Wanted::Work(Work::Fill { group: id, seats }),
            Need::Reencode => Wanted::Work(Work::Reencode { group: id }),
            Need::Forget(seats) => {
                let unseat = |(slot, peer)| Change::Unseat { group: id, slot, peer, keeper: None };
                Wanted::Change(seats.into_iter().map(unseat).collect())
            }
        };
        Some((wanted, self.place_in_line(id, group, around)?))
    }

    /// How many live participants would lead before this one. Those that leave come last.
    fn place_in_line(&self, id: GroupId, group: &Group, around: &Surroundings) -> Option<usize> {
        let live: BTreeSet<PeerTag> = live_slots(group, around).into_iter().flatten().collect();
        let mut line: Vec<PeerTag> = live.into_iter().collect();
        line.sort_by_key(|peer| (around.is_leaving(*peer), rendezvous(id, *peer)));
        line.iter().position(|peer| *peer == self.me)
    }

    /// This peer as if it held no more than its seats say.
    fn as_owed(&self, namespace: &Namespace, one: &Candidate) -> Candidate {
        let in_slot = |(id, group): (GroupId, &Group)| {
            slots_of(group, self.me).count() as u64 * slot_bytes(namespace, id, group.geometry)
        };
        let stored = one.stored.min(namespace.groups_of(self.me).map(in_slot).sum());
        Candidate { stored, free: one.free.saturating_add(one.stored - stored), ..one.clone() }
    }

    /// A slot of the fullest peer for the emptiest, when nothing else is to do and this peer is the fullest. As
    /// little as possible: one group at a time, and only while the difference is large.
    fn even_out(&self, namespace: &Namespace, around: &Surroundings, candidates: &[Candidate]) -> Option<Work> {
        if !self.cases.is_empty() || !self.running.is_empty() || self.calm < self.settings.repair_after {
            return None;
        }
        let known = || candidates.iter().filter(|one| one.alive && !one.leaving && one.free != u64::MAX);
        let fullest = known().max_by_key(|one| (fullness(one), one.peer)).filter(|one| one.peer == self.me)?;
        let emptiest = known().min_by_key(|one| (fullness(one), one.peer))?;
        let uneven = |one: &Candidate| fullness(one) >= fullness(emptiest) + self.settings.uneven;
        // What it has given up lies there for a while yet: then the seats say what it really keeps.
        let fullest = Some(fullest).filter(|one| uneven(one)).map(|one| self.as_owed(namespace, one))?;
        if !uneven(&fullest) {
            return None;
        }
        namespace.groups_of(self.me).filter(|(_, group)| group.blocks > 0).find_map(|(group, record)| {
            let slots = live_slots(record, around);
            let outsider = slots.iter().all(|live| !live.contains(&emptiest.peer));
            let slot = slots.iter().position(|live| live.contains(&self.me))?;
            let bytes = slot_bytes(namespace, group, record.geometry);
            // Else the next look would move it back.
            let after = Candidate {
                stored: emptiest.stored.saturating_add(bytes),
                free: emptiest.free.saturating_sub(bytes),
                ..emptiest.clone()
            };
            let eased = fullness(&after) + self.settings.uneven / 2 <= fullness(&fullest);
            let fits = bytes < emptiest.free && eased;
            let better = outsider && fits && around.places_no_worse(emptiest.peer, self.me, slot, &slots);
            better.then(|| Work::Fill { group, seats: vec![(slot as u8, emptiest.peer)] })
        })
    }
}

/// What a look at a group comes to.
enum Wanted {
    Work(Work),
    Change(Vec<Change>),
}

/// What the blocks of a group take in one slot of a geometry, in bytes.
pub(super) fn slot_bytes(namespace: &Namespace, id: GroupId, geometry: Geometry) -> u64 {
    let bytes = |(_, block): (_, crate::namespace::Block)| geometry.shard_bytes(block.len as usize) as u64;
    namespace.blocks_of(id).map(bytes).sum()
}

/// A number that is drawn once for each pair; the lowest leads.
fn rendezvous(group: GroupId, peer: PeerTag) -> u64 {
    let mut z = group.0 ^ u64::from(peer.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
pub(super) mod tests;
