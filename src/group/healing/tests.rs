//! Peers that heal over one namespace, with work done in no time.

use super::*;
use crate::group::{ROOM, State, state};
use crate::id::{Author, BlockName, Ino, PeerKey};
use crate::namespace::{Extent, Kind, NewBlock, PeerRecord, Place, Source, Standing};
use crate::policy::Policy;
use bytes::Bytes;

const SECOND: Duration = Duration::from_secs(1);

/// What happened, in order.
#[derive(Clone, PartialEq, Debug)]
struct Act {
    by: PeerTag,
    work: Work,
}

pub(in crate::group) struct World {
    pub namespace: Namespace,
    healings: BTreeMap<PeerTag, Healing>,
    pub candidates: Vec<Candidate>,
    /// Peers that look at nothing, though alive.
    idle: BTreeSet<PeerTag>,
    acts: Vec<Act>,
    numbers: u64,
    seconds: i64,
}

impl World {
    pub fn new(peers: u8, settings: HealingSettings) -> World {
        let mut world = World {
            namespace: Namespace::new(),
            healings: BTreeMap::new(),
            candidates: Vec::new(),
            idle: BTreeSet::new(),
            acts: Vec::new(),
            numbers: 0,
            seconds: 1_700_000_000,
        };
        for n in 1..=peers {
            world.join(n, settings);
        }
        // They have met before anything happens.
        for healing in world.healings.values_mut() {
            let effects = healing.look(&world.namespace, &world.candidates, Duration::ZERO, WallTime(0));
            assert_eq!(effects, []);
        }
        world
    }

    fn join(&mut self, n: u8, settings: HealingSettings) -> PeerTag {
        let key = PeerKey([n; 32]);
        let record =
            PeerRecord { key, name: format!("m{n}"), addresses: vec![], zone: String::new(), host: String::new() };
        let tag = key.tag();
        let by = self.candidates.first().map_or(tag, |one| one.peer);
        self.change(by, Change::Admit { peer: record });
        self.healings.insert(tag, Healing::new(tag, settings));
        self.candidates.push(Candidate {
            peer: tag,
            alive: true,
            zone: String::new(),
            address: None,
            host: n.to_string(),
            free: 100 << 30,
            stored: 0,
            disk: 0,
            leaving: false,
        });
        tag
    }

    pub fn tag(&self, n: usize) -> PeerTag {
        self.candidates[n].peer
    }

    pub fn now(&self) -> WallTime {
        WallTime(self.seconds * 1_000_000_000)
    }

    pub fn change(&mut self, by: PeerTag, change: Change) {
        let now = self.now();
        assert_eq!(self.namespace.change(Author::new(by, 0), now, vec![change.clone()]).ops.len(), 1, "{change:?}");
    }

    /// A group with one block, its slots held by these.
    pub fn group(&mut self, policy: Policy, geometry: Geometry, seats: &[usize]) -> GroupId {
        let by = self.tag(0);
        self.numbers += 2;
        let (group, ino) = (GroupId::new(by, self.numbers), Ino::new(by, self.numbers + 1));
        let seats = seats.iter().map(|n| self.tag(*n)).collect();
        self.change(by, Change::OpenGroup { group, policy, geometry, seats });
        let place = Place { parent: Ino::ROOT, name: Bytes::from(format!("f{}", self.numbers)) };
        let time = self.now();
        self.change(by, Change::Create { place, ino, kind: Kind::File, mode: 0, uid: 0, gid: 0, time });
        let name = BlockName::of(&self.numbers.to_le_bytes());
        let base = self.namespace.inode(ino).expect("it was just made").content;
        let write = Change::Write {
            ino,
            base,
            linked: true,
            extents: vec![(0, Extent { len: 1000, source: Source::Block { name, at: 0 } })],
            blocks: vec![NewBlock { name, group, len: 1000 }],
            size: 1000,
            mtime: time,
            ctime: time,
            clear_suid: false,
        };
        self.change(by, write);
        group
    }

    pub fn rs(&mut self, seats: &[usize]) -> GroupId {
        let policy = Policy::ReedSolomon { data: 4, parity: 2 };
        self.group(policy, Geometry { data: 4, parity: 2 }, seats)
    }

    pub fn alive(&mut self, n: usize, alive: bool) {
        self.candidates[n].alive = alive;
    }

    fn state(&self, group: GroupId) -> State {
        let alive = |peer| self.candidates.iter().any(|one| one.peer == peer && one.alive);
        state(self.namespace.group(group).expect("it is there"), alive)
    }

    fn seats(&self, group: GroupId, slot: usize) -> Vec<PeerTag> {
        self.namespace.group(group).expect("it is there").slots[slot].iter().map(|seat| seat.peer).collect()
    }

    /// So many seconds in which every live peer looks once.
    pub fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.seconds += 1;
            let looking: Vec<PeerTag> = self.candidates.iter().filter(|one| one.alive).map(|one| one.peer).collect();
            for peer in looking {
                if self.idle.contains(&peer) {
                    continue;
                }
                for one in &mut self.candidates {
                    one.leaving = self.namespace.standing(one.peer).leaving;
                }
                let now = self.now();
                let healing = self.healings.get_mut(&peer).expect("it looks");
                let effects = healing.look(&self.namespace, &self.candidates, SECOND, now);
                self.carry_out(peer, effects);
            }
        }
    }

    fn carry_out(&mut self, by: PeerTag, effects: Vec<HealingEffect>) {
        for effect in effects {
            match effect {
                HealingEffect::Change(changes) => changes.into_iter().for_each(|change| self.change(by, change)),
                HealingEffect::Announce(groups) => {
                    for (_, healing) in self.healings.iter_mut().filter(|(peer, _)| **peer != by) {
                        healing.heard(&groups);
                    }
                }
                HealingEffect::Begin(work) => {
                    self.acts.push(Act { by, work: work.clone() });
                    let filled = match &work {
                        Work::Fill { seats, .. } => seats.clone(),
                        _ => Vec::new(),
                    };
                    let healing = self.healings.get_mut(&by).expect("it works");
                    let follows = healing.done(&self.namespace, &work, Outcome::Done { filled });
                    self.carry_out(by, follows);
                }
            }
        }
    }
}

pub(in crate::group) fn quick() -> HealingSettings {
    HealingSettings { repair_after: Duration::from_secs(10), ..HealingSettings::default() }
}

#[test]
fn a_group_that_lost_two_is_filled_once_for_both_after_the_grace_time() {
    let mut w = World::new(8, quick());
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    w.pass(3);
    w.alive(4, false);
    w.alive(5, false);
    w.pass(9);
    assert_eq!((w.state(group), w.acts.len()), (State::Cold, 0));
    w.pass(1);
    assert_eq!(w.state(group), State::Goldilocks);
    let Work::Fill { seats, .. } = &w.acts[0].work else { panic!("{:?}", w.acts) };
    assert_eq!((w.acts.len(), seats.len()), (1, 2), "{:?}", w.acts);
    assert!(seats.iter().all(|(slot, peer)| [4, 5].contains(slot) && [w.tag(6), w.tag(7)].contains(peer)));
    w.pass(60);
    assert_eq!(w.acts.len(), 1);
}

#[test]
fn the_next_in_line_takes_over_from_a_leader_that_does_not_act() {
    let mut w = World::new(7, HealingSettings { repair_after: Duration::ZERO, ..quick() });
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    let mut line: Vec<usize> = (0..5).collect();
    line.sort_by_key(|n| rendezvous(group, w.tag(*n)));
    w.alive(5, false);
    w.idle.extend([w.tag(line[0]), w.tag(line[1])]);
    w.pass(9);
    assert_eq!(w.acts, []);
    w.pass(1);
    assert_eq!((w.acts.len(), w.acts[0].by), (1, w.tag(line[2])));
    assert_eq!(w.state(group), State::Goldilocks);
}

#[test]
fn who_was_never_seen_alive_is_awaited_a_little_longer() {
    let settings = HealingSettings { repair_after: Duration::ZERO, takeover: Duration::ZERO, ..quick() };
    let mut w = World::new(7, settings);
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    w.alive(5, false);
    let me = w.tag(0);
    let mut started = Healing::new(me, settings);
    let mut begun = Vec::new();
    for second in 0..5 {
        let effects = started.look(&w.namespace, &w.candidates, SECOND, WallTime(0));
        begun.extend(effects.into_iter().filter(|effect| matches!(effect, HealingEffect::Begin(_))).map(|_| second));
    }
    assert_eq!(begun, [ACQUAINTANCE.as_secs()], "not at once, as others, who have met it, do for group {group}");
}

#[test]
fn who_is_at_work_is_not_disturbed() {
    let mut w = World::new(7, HealingSettings { repair_after: Duration::ZERO, ..quick() });
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    let leader = (0..5).min_by_key(|n| rendezvous(group, w.tag(*n))).expect("five");
    w.alive(5, false);
    w.idle.insert(w.tag(leader));
    for _ in 0..100 {
        let at_work = w.tag(leader);
        w.carry_out(at_work, vec![HealingEffect::Announce(vec![group])]);
        w.pass(1);
    }
    assert_eq!(w.acts, []);
    w.pass(15);
    assert_eq!(w.acts.len(), 1);
}

#[test]
fn a_peer_that_comes_back_in_time_moves_nothing() {
    let mut w = World::new(8, quick());
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    for _ in 0..5 {
        w.alive(2, false);
        w.pass(9);
        w.alive(2, true);
        w.pass(2);
    }
    assert_eq!((w.state(group), &w.acts[..]), (State::Goldilocks, &[][..]));
}

#[test]
fn a_peer_under_maintenance_is_waited_for_until_its_time_is_over() {
    let mut w = World::new(8, quick());
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    let until = WallTime((w.seconds + 100) * 1_000_000_000);
    let (by, peer) = (w.tag(0), w.tag(2));
    w.change(by, Change::SetStanding { peer, standing: Standing { maintenance_until: until, ..Standing::default() } });
    w.alive(2, false);
    w.pass(99);
    assert_eq!((w.state(group), w.acts.len()), (State::Cold, 0));
    w.pass(2);
    assert_eq!((w.state(group), w.acts.len()), (State::Goldilocks, 1));
}

#[test]
fn a_peer_back_after_its_slot_was_taken_makes_the_group_hot_and_one_gives_up() {
    let mut w = World::new(7, quick());
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    w.alive(5, false);
    w.pass(12);
    w.alive(5, true);
    assert_eq!(w.state(group), State::Hot);
    w.pass(BELIEVED.as_secs() as u32 + 1);
    assert_eq!(w.state(group), State::Goldilocks);
    assert_eq!(w.seats(group, 5), [w.tag(6)]);
    assert_eq!(w.acts[1], Act { by: w.tag(5), work: Work::Verify { group, slot: 5, keeper: w.tag(6) } });
    w.pass(60);
    assert_eq!(w.acts.len(), 2);
}

#[test]
fn a_leaving_peer_is_drained_and_not_seated_again() {
    let mut w = World::new(7, quick());
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    let peer = w.tag(3);
    w.change(peer, Change::SetStanding { peer, standing: Standing { leaving: true, ..Standing::default() } });
    w.pass(30);
    assert_eq!(w.namespace.groups_of(peer).count(), 0);
    assert_eq!(w.state(group), State::Goldilocks);
    w.alive(0, false);
    w.pass(30);
    assert_eq!(w.state(group), State::Cold, "there is nobody but the one that leaves");
    assert_eq!(w.namespace.groups_of(peer).count(), 0);
}

#[test]
fn an_evicted_peers_slots_are_empty_at_once_and_its_seats_forgotten() {
    let mut w = World::new(7, HealingSettings { repair_after: Duration::from_secs(1000), ..quick() });
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    let peer = w.tag(3);
    let by = w.tag(0);
    w.change(by, Change::Evict { peer });
    w.candidates.remove(3);
    w.pass(30);
    assert_eq!(w.state(group), State::Goldilocks);
    assert_eq!(w.seats(group, 3), [w.tag(5)]);
}

#[test]
fn a_group_reshapes_when_enough_peers_have_come_and_stayed() {
    let mut w = World::new(2, quick());
    let group = w.group(Policy::Survive(2), Geometry { data: 1, parity: 1 }, &[0, 1]);
    w.pass(30);
    assert_eq!(w.acts, []);
    w.join(3, quick());
    w.pass(10);
    assert_eq!(w.acts, []);
    w.pass(2);
    assert_eq!(w.acts[0].work, Work::Reencode { group });
}

#[test]
fn a_group_is_not_reshaped_where_that_would_fill_the_disks() {
    let mut w = World::new(3, quick());
    let group = w.group(Policy::Survive(2), Geometry { data: 1, parity: 1 }, &[0, 1]);
    // A block of 1000 bytes takes 500 of each in 2+1.
    w.candidates[2].free = ROOM + 500;
    w.pass(60);
    assert_eq!(w.acts, []);
    (w.candidates[2].free, w.candidates[2].stored) = (9 << 30, 91 << 30);
    w.pass(60);
    assert_eq!(w.acts, [], "a tenth of a disk is left to people");
    (w.candidates[2].free, w.candidates[2].stored) = (11 << 30, 89 << 30);
    w.pass(2);
    assert_eq!(w.acts[0].work, Work::Reencode { group });
}

#[test]
fn a_death_makes_no_group_reshape() {
    let mut w = World::new(6, quick());
    let group = w.group(Policy::Survive(2), Geometry { data: 4, parity: 2 }, &[0, 1, 2, 3, 4, 5]);
    w.alive(5, false);
    w.pass(60);
    assert_eq!((w.state(group), &w.acts[..]), (State::Cold, &[][..]), "no second slot for nothing");
}

#[test]
fn second_slots_are_taken_only_where_more_losses_are_survived_by_them() {
    let mut w = World::new(6, quick());
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    w.alive(4, false);
    w.alive(5, false);
    w.pass(12);
    let live = |w: &World| (0..6).filter(|slot| w.seats(group, *slot).len() > 1).count();
    assert_eq!((w.acts.len(), live(&w)), (1, 2), "six shards on four machines survive one loss, four do not");
    w.pass(30);
    assert_eq!(w.acts.len(), 1);
    w.alive(4, true);
    w.alive(5, true);
    w.pass(20);
    assert_eq!(w.state(group), State::Goldilocks);
}

#[test]
fn slots_doubled_up_on_one_machine_spread_out_when_another_comes() {
    let mut w = World::new(3, quick());
    let group = w.rs(&[0, 0, 1, 1, 2, 2]);
    w.pass(30);
    assert_eq!(w.acts, []);
    for n in 4..=6 {
        w.join(n, quick());
    }
    w.pass(60);
    assert_eq!(w.state(group), State::Goldilocks);
    let fills = w.acts.iter().filter(|act| matches!(act.work, Work::Fill { .. })).count();
    assert_eq!(fills, 1, "only as much moves as must: {:?}", w.acts);
}

/// Forty blocks in two copies on two of four peers, whose disks have room for a hundred; each says for so many seconds
/// more that what it gave up takes room. How many slots each holds after a while, and how many were moved.
fn evened_out(kept: usize) -> (Vec<usize>, usize) {
    let mut w = World::new(4, quick());
    let groups: Vec<GroupId> =
        (0..40).map(|_| w.group(Policy::Replicate(2), Geometry { data: 1, parity: 1 }, &[0, 1])).collect();
    let mut said = vec![Vec::new(); 4];
    for _ in 0..600 {
        for (n, said) in said.iter_mut().enumerate() {
            said.push(w.namespace.groups_of(w.tag(n)).count() as u64);
            let stored = said.iter().rev().take(kept + 1).max().expect("one was just put there");
            (w.candidates[n].stored, w.candidates[n].free) = (stored * 1000, (100 - stored) * 1000);
        }
        w.pass(1);
    }
    assert!(groups.iter().all(|group| w.state(*group) == State::Goldilocks));
    let moved = w.acts.iter().filter(|act| matches!(act.work, Work::Fill { .. })).count();
    ((0..4).map(|n| w.namespace.groups_of(w.tag(n)).count()).collect(), moved)
}

#[test]
fn slots_move_from_the_fullest_to_the_emptiest_until_they_are_about_even() {
    for kept in [0, 60] {
        let (held, moved) = evened_out(kept);
        assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 12, "{kept}: {held:?}");
        assert!(moved <= 40, "{kept}: {moved} moves");
    }
}

#[test]
fn what_would_only_change_places_stays() {
    let mut w = World::new(3, quick());
    let group = w.group(Policy::Replicate(2), Geometry { data: 1, parity: 1 }, &[0, 1]);
    for n in 0..3 {
        (w.candidates[n].stored, w.candidates[n].free) = if n < 2 { (1000, 1000) } else { (0, 2000) };
    }
    w.pass(60);
    assert_eq!((w.state(group), &w.acts[..]), (State::Goldilocks, &[][..]), "the other disk would be as full then");
}

/// Nine peers in three subnets, and a group with two of its slots in each.
fn three_subnets() -> (World, GroupId) {
    let mut w = World::new(9, quick());
    for (n, one) in w.candidates.iter_mut().enumerate() {
        one.address = format!("10.0.{}.{n}", n % 3).parse().ok();
    }
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    assert_eq!(w.in_subnets(group), [2, 2, 2]);
    (w, group)
}

impl World {
    /// Slots of a group with a live participant, by their first participant's subnet.
    fn in_subnets(&self, group: GroupId) -> [usize; 3] {
        let mut counts = [0; 3];
        for slot in &self.namespace.group(group).expect("it is there").slots {
            let mut seated =
                slot.iter().filter_map(|seat| self.candidates.iter().position(|one| one.peer == seat.peer));
            if let Some(n) = seated.find(|n| self.candidates[*n].alive) {
                counts[n % 3] += 1;
            }
        }
        counts
    }
}

#[test]
fn who_is_recruited_keeps_a_group_spread_over_the_subnets() {
    for dead in 0..6 {
        let (mut w, group) = three_subnets();
        w.alive(dead, false);
        w.pass(30);
        assert_eq!((w.state(group), w.in_subnets(group)), (State::Goldilocks, [2, 2, 2]), "without {dead}");
    }
}

#[test]
fn who_stays_in_a_hot_slot_keeps_a_group_spread_over_the_subnets() {
    let (mut w, group) = three_subnets();
    // With nobody left in its subnet to be recruited, another takes its slot, until it is back.
    w.alive(7, false);
    w.alive(1, false);
    w.pass(12);
    assert_eq!(w.in_subnets(group)[1], 1);
    w.alive(1, true);
    assert_eq!(w.state(group), State::Hot);
    w.pass(30);
    assert_eq!((w.state(group), w.in_subnets(group)), (State::Goldilocks, [2, 2, 2]));
    assert_eq!(w.seats(group, 1), [w.tag(1)]);
}

#[test]
fn who_has_no_room_does_not_stay_in_a_hot_slot_however_well_placed() {
    let (mut w, group) = three_subnets();
    w.alive(7, false);
    w.alive(1, false);
    w.pass(12);
    let other = w.seats(group, 1).into_iter().find(|peer| *peer != w.tag(1)).expect("another took its slot");
    // What the group was given meanwhile, it could not take.
    w.candidates[1].free = 0;
    w.alive(1, true);
    assert_eq!(w.state(group), State::Hot);
    w.pass(30);
    assert_eq!((w.state(group), w.seats(group, 1)), (State::Goldilocks, vec![other]));
}

#[test]
fn slots_move_to_an_emptier_disk_only_within_their_subnet() {
    let (mut w, group) = three_subnets();
    let groups: Vec<GroupId> = (0..3).map(|_| w.rs(&[0, 1, 2, 3, 4, 5])).chain([group]).collect();
    // Four shards of 250 bytes are half of the fullest disk.
    for one in &mut w.candidates {
        (one.stored, one.free) = (200, 1800);
    }
    (w.candidates[0].stored, w.candidates[0].free) = (1000, 1000);
    w.candidates[7].stored = 0;
    w.pass(60);
    assert_eq!(w.acts, [], "the emptiest is in another subnet");
    (w.candidates[7].stored, w.candidates[6].stored) = (200, 0);
    w.pass(60);
    assert!(groups.iter().all(|id| w.state(*id) == State::Goldilocks && w.in_subnets(*id) == [2, 2, 2]));
    assert!(groups.iter().any(|id| w.seats(*id, 0) == [w.tag(6)]), "some went to the one in the same subnet");
}

#[test]
fn an_emptied_peers_seats_count_for_nothing_and_are_filled_again() {
    let mut w = World::new(6, quick());
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    let empty = w.tag(2);
    let effects = w.healings[&empty].emptied(&w.namespace);
    w.carry_out(empty, effects);
    assert_eq!(w.state(group), State::Cold);
    w.pass(30);
    assert_eq!((w.state(group), w.seats(group, 2)), (State::Goldilocks, vec![empty]));
}

#[test]
fn work_that_failed_is_tried_again_later_and_later() {
    let mut w = World::new(7, HealingSettings { repair_after: Duration::ZERO, ..quick() });
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    w.alive(5, false);
    let leader = leader_of_five(&w, group);
    assert_eq!(begun_in_vain(&mut w, leader, 100), [0, 5, 15, 35, 75]);
}

#[test]
fn work_that_failed_is_tried_again_soon_once_somebody_comes() {
    let mut w = World::new(8, HealingSettings { repair_after: Duration::ZERO, ..quick() });
    let group = w.rs(&[0, 1, 2, 3, 4, 5]);
    w.alive(5, false);
    w.alive(7, false);
    let leader = leader_of_five(&w, group);
    assert_eq!(begun_in_vain(&mut w, leader, 80), [0, 5, 15, 35, 75]);
    w.alive(7, true);
    assert_eq!(begun_in_vain(&mut w, leader, 30), [4, 9, 19]);
    // One that goes changes nothing.
    w.alive(7, false);
    assert_eq!(begun_in_vain(&mut w, leader, 30), [9]);
}

/// The one that acts first for a group of the first six of whom the last is dead.
fn leader_of_five(w: &World, group: GroupId) -> PeerTag {
    (0..5).min_by_key(|n| rendezvous(group, w.tag(*n))).map(|n| w.tag(n)).expect("five")
}

/// In which of so many seconds a peer begins work, all of which fails.
fn begun_in_vain(w: &mut World, peer: PeerTag, seconds: u32) -> Vec<u32> {
    let healing = w.healings.get_mut(&peer).expect("it is there");
    let mut begun = Vec::new();
    for second in 0..seconds {
        for effect in healing.look(&w.namespace, &w.candidates, SECOND, WallTime(0)) {
            if let HealingEffect::Begin(work) = effect {
                begun.push(second);
                assert_eq!(healing.done(&w.namespace, &work, Outcome::Failed), []);
            }
        }
    }
    begun
}

#[test]
fn the_least_redundant_group_comes_first() {
    let mut w = World::new(
        9,
        HealingSettings { repair_after: Duration::ZERO, at_once: 1, takeover: Duration::ZERO, ..quick() },
    );
    let one = w.rs(&[0, 1, 2, 3, 4, 6]);
    let two = w.rs(&[0, 1, 2, 3, 6, 7]);
    w.alive(6, false);
    w.alive(7, false);
    let healing = w.healings.get_mut(&w.candidates[0].peer).expect("it is there");
    let effects = healing.look(&w.namespace, &w.candidates, SECOND, WallTime(0));
    assert!(matches!(&effects[0], HealingEffect::Begin(work) if work.group() == two), "{effects:?} before {one}");
}
