//! Leases among several peers: one holder, whoever asks gets them, and the dead do not keep them.

use super::*;
use crate::namespace::MOVES;
use crate::wire::LeaseMessage;

const ROOT: Ino = Ino::ROOT;

/// Longer than it takes to find a peer dead, twice.
const PATIENCE: u64 = 6 * SECOND;

pub fn is_beat(message: &ControlMessage) -> bool {
    matches!(message, ControlMessage::Lease(message) if message.is_beat())
}

pub fn is_about_leases(message: &ControlMessage) -> bool {
    matches!(message, ControlMessage::Lease(_)) && !is_beat(message)
}

impl World {
    fn need(&mut self, index: usize, id: u64, inos: &[Ino]) {
        let need = if inos.is_empty() { Need::Touch } else { Need::Leases(inos.iter().copied().collect()) };
        self.handle(index, Event::Need { id, need });
    }

    fn may(&mut self, index: usize, ino: Ino) -> bool {
        let machine = &mut self.machines[index];
        machine.up
            && machine.stopped.is_none()
            && machine.peer.may(&machine.namespace, &[ino], Instant(self.now)).is_ok()
    }

    fn is_in_touch(&self, index: usize) -> bool {
        let machine = &self.machines[index];
        machine.peer.is_in_touch(&machine.namespace, Instant(self.now))
    }

    fn holder(&self, at: usize, ino: Ino) -> usize {
        self.index(self.machines[at].namespace.holder(ino))
    }

    /// Until it is provided; nanoseconds.
    fn until_provided(&mut self, index: usize, id: u64) -> u64 {
        let started = self.now;
        while !self.provided.contains(&(index, id)) {
            self.run(SECOND / 100);
            assert!(self.now < started + 10 * PATIENCE, "machine {index} waits for need {id} for ever");
        }
        self.now - started
    }

    fn stop(&mut self, index: usize) {
        self.machines[index].stopped = Some(Vec::new());
    }

    fn go_on(&mut self, index: usize) {
        for event in self.machines[index].stopped.take().unwrap() {
            self.handle(index, event);
        }
    }

    fn split(&mut self, sides: [&[usize]; 2]) {
        for (a, b) in sides[0].iter().flat_map(|a| sides[1].iter().map(move |b| (*a, *b))) {
            self.cut.insert((a.min(b), a.max(b)));
        }
    }

    /// Connections over a cut are noticed to be gone.
    fn drop_cut(&mut self) {
        for (a, b) in self.cut.clone() {
            self.disconnect(a, b);
        }
    }
}

#[test]
fn a_lease_goes_to_who_asks_and_costs_nothing_where_it_is_held() {
    let mut world = World::new(4, 1);
    world.run(5 * SECOND);
    assert!((0..4).all(|index| world.may(index, ROOT) == (index == 0)));
    let before = world.lease_messages;
    for n in 0..50 {
        assert!(world.may(0, ROOT) && world.may(0, MOVES));
        world.create(0, &format!("f{n}"));
        world.run(SECOND / 10);
    }
    assert_eq!(world.lease_messages, before, "no message for a lease that is held");
    world.need(2, 1, &[ROOT]);
    // A question and its answer, 50 ms at most each.
    assert!(world.until_provided(2, 1) <= SECOND / 10 + SECOND / 50);
    assert_eq!(world.lease_messages, before + 2);
    assert!(world.may(2, ROOT) && !world.may(0, ROOT));
    assert_eq!(world.names(2).len(), 50, "with the lease comes all that was done under it");
    world.run(SECOND);
    assert!((0..4).all(|at| world.holder(at, ROOT) == 2));
}

#[test]
fn a_change_is_done_when_the_others_can_see_what_it_is_built_on() {
    for seed in 0..50 {
        let mut world = World::new(3, seed);
        world.run(5 * SECOND);
        // For half a second nothing of machine 0 arrives at machine 2.
        let slow = world.now + SECOND / 2;
        world.arrivals.insert((0, 2), slow);
        world.create(0, "below");
        world.need(1, 1, &[ROOT]);
        world.until_provided(1, 1);
        let seq = world.create(1, "above");
        while !world.machines[1].peer.is_settled(seq, false, Instant(world.now)) {
            world.run(SECOND / 1000);
        }
        assert_eq!(world.names(2), ["above", "below"], "seed {seed}");
        assert!(world.now < slow, "seed {seed}: nobody waits for the slow way");
    }
}

/// How often each of four machines gets two leases in 20 seconds that all of them need all the time.
fn turns(seed: u64) -> [u64; 4] {
    let mut world = World::new(4, seed);
    world.run(5 * SECOND);
    let mut had = [0u64; 4];
    for index in 0..4 {
        world.need(index, 0, &[ROOT, MOVES]);
    }
    let end = world.now + 20 * SECOND;
    while world.now < end {
        world.run(SECOND / 200);
        let holders: Vec<usize> = (0..4).filter(|index| world.may(*index, ROOT)).collect();
        assert!(holders.len() <= 1, "seed {seed}: {holders:?} hold one lease");
        for (index, times) in had.iter_mut().enumerate() {
            if world.provided.contains(&(index, *times)) {
                *times += 1;
                world.need(index, *times, &[ROOT, MOVES]);
            }
        }
    }
    had
}

#[test]
fn whoever_needs_the_same_leases_gets_them_in_turn() {
    let mut all = [0; 4];
    for seed in 0..16 {
        let had = turns(seed);
        assert!(had.iter().all(|times| *times > 2), "seed {seed}: nobody starves: {had:?}");
        all.iter_mut().zip(had).for_each(|(all, times)| *all += times);
    }
    let equal = all.iter().sum::<u64>() / 4;
    assert!(
        all.iter().all(|times| *times > equal / 2),
        "over many worlds each gets at least half an equal share: {all:?}"
    );
}

#[test]
fn two_who_need_one_another_s_lease_both_get_both() {
    for seed in 0..20 {
        let mut world = World::new(3, seed);
        world.run(5 * SECOND);
        world.need(1, 1, &[ROOT]);
        world.need(2, 1, &[MOVES]);
        world.until_provided(1, 1);
        world.until_provided(2, 1);
        for round in 2..12 {
            world.need(1, round, &[ROOT, MOVES]);
            world.need(2, round, &[ROOT, MOVES]);
            let waited = world.until_provided(1, round) + world.until_provided(2, round);
            assert!(waited < 2 * SECOND, "seed {seed}, round {round}: {waited}");
        }
    }
}

#[test]
fn the_lease_of_what_was_reaped_is_waited_for_by_nobody() {
    for seed in 0..10 {
        let mut world = World::new(4, seed);
        world.run(5 * SECOND);
        world.make(1, "d", Kind::Directory);
        world.run(SECOND);
        let place = Place { parent: ROOT, name: Bytes::from_static(b"d") };
        let ino = world.machines[0].namespace.entry(ROOT, b"d").unwrap().ino;
        world.need(0, 1, &[ino]);
        world.until_provided(0, 1);
        // Two want to remove it. The second waits for the parent's lease until it is done, and forgotten everywhere.
        world.need(2, 2, &[ROOT, ino]);
        let (time, now) = (world.wall(0), Instant(world.now));
        let machine = &mut world.machines[0];
        machine.peer.pin(&machine.namespace, ROOT, now).unwrap();
        let changes = vec![Change::Rmdir { place, ino, time }, Change::Reap { ino }];
        let (_, effects) = machine.peer.change(&mut machine.namespace, changes, time);
        world.carry_out(0, effects);
        world.run(10 * SECOND);
        assert!(!world.provided.contains(&(2, 2)));
        let now = world.moment(0);
        let machine = &mut world.machines[0];
        let effects = machine.peer.unpin(&mut machine.namespace, ROOT, now);
        world.carry_out(0, effects);
        assert!(world.until_provided(2, 2) < SECOND, "seed {seed}");
        world.need(3, 3, &[ROOT]);
        assert!(world.until_provided(3, 3) < SECOND, "seed {seed}: nor does anybody keep the parent's for it");
    }
}

#[test]
fn the_leases_of_a_dead_holder_pass_to_one_heir() {
    for seed in 0..10 {
        let mut world = World::new(5, seed);
        world.run(5 * SECOND);
        world.need(3, 1, &[ROOT]);
        world.until_provided(3, 1);
        // Without a word, and with the connection standing for a while.
        world.machines[3].up = false;
        for index in [0, 1, 2, 4] {
            world.need(index, 2, &[ROOT]);
        }
        let waited: Vec<u64> = [0, 1, 2, 4].map(|index| world.until_provided(index, 2)).to_vec();
        assert!(waited.iter().sum::<u64>() < PATIENCE, "seed {seed}: {waited:?}");
        world.run(2 * SECOND);
        let tenure = world.machines[0].namespace.tenure(world.machines[3].tag).number;
        assert_eq!(tenure, 1, "seed {seed}: deposed once");
    }
}

#[test]
fn a_holder_that_was_stopped_for_a_minute_knows_that_it_is_none() {
    for seed in 0..10 {
        let mut world = World::new(3, seed);
        world.run(5 * SECOND);
        assert!(world.may(0, ROOT));
        world.stop(0);
        world.run(4 * SECOND);
        (1..3).for_each(|other| world.disconnect(0, other));
        world.need(1, 1, &[ROOT]);
        world.until_provided(1, 1);
        world.run(60 * SECOND);
        world.go_on(0);
        for _ in 0..2000 {
            assert!(!world.may(0, ROOT) || !world.may(1, ROOT), "seed {seed}: two holders");
            assert!(!world.may(0, ROOT) || world.holder(0, ROOT) == 0);
            world.run(SECOND / 200);
            if world.now.is_multiple_of(SECOND / 2) {
                (1..3).for_each(|other| world.at(0, What::Connect(0, other)));
            }
        }
        assert_eq!((world.holder(0, ROOT), world.holder(1, ROOT)), (1, 1), "seed {seed}");
        world.need(0, 2, &[ROOT]);
        world.until_provided(0, 2);
    }
}

#[test]
fn each_side_of_a_partition_goes_on_and_one_holder_is_left_when_they_meet() {
    for seed in 0..10 {
        let mut world = World::new(4, seed);
        world.run(5 * SECOND);
        world.split([&[0, 1], &[2, 3]]);
        world.need(1, 1, &[ROOT]);
        world.need(2, 1, &[ROOT]);
        world.run(4 * SECOND);
        world.drop_cut();
        world.until_provided(1, 1);
        world.until_provided(2, 1);
        world.run(SECOND);
        world.heal();
        world.run(10 * SECOND);
        let holders: BTreeSet<usize> = (0..4).map(|at| world.holder(at, ROOT)).collect();
        assert_eq!(holders.len(), 1, "seed {seed}: {holders:?}");
        let may = (0..4).filter(|index| world.may(*index, ROOT)).count();
        assert!(may <= 1, "seed {seed}");
        for index in 0..4 {
            world.need(index, 9, &[ROOT]);
            world.until_provided(index, 9);
        }
    }
}

#[test]
fn one_that_goes_leaves_its_leases_to_another_at_once() {
    let mut world = World::new(3, 4);
    world.run(5 * SECOND);
    world.handle(0, Event::Leaving);
    world.run(SECOND / 4);
    world.crash(0);
    world.need(1, 1, &[ROOT]);
    assert!(world.until_provided(1, 1) < SECOND / 2);
}

#[test]
fn no_two_connected_peers_hold_one_lease_whatever_happens() {
    for seed in 0..60 {
        let mut world = World::new(4, seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        world.run(5 * SECOND);
        let mut connected: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        let mut id = 1;
        for _ in 0..600 {
            world.run(SECOND / 10);
            let index = rng.random_range(0..4);
            match rng.random_range(0..60) {
                0 => world.crash(index),
                1 if world.machines[index].stopped.is_none() => world.stop(index),
                2..=4 if world.machines[index].stopped.is_some() => world.go_on(index),
                5..=6 if !world.machines[index].up => world.restart(index),
                7 => {
                    let other = (index + 1) % 4;
                    world.disconnect(index, other);
                }
                8 => {
                    let rest: Vec<usize> = (0..4).filter(|other| *other != index).collect();
                    world.split([&[index], &rest]);
                }
                9..=10 => world.cut.clear(),
                11..=30 => {
                    id += 1;
                    world.need(index, id, &[ROOT]);
                }
                _ => {}
            }
            if rng.random_bool(0.2) {
                world.drop_cut();
            }
            for a in 0..4 {
                for b in 0..a {
                    world.at(0, What::Connect(a, b));
                    let stands = world.linked(a, b)
                        && world.connections.contains_key(&(b, a))
                        && [a, b].iter().all(|index| world.machines[*index].stopped.is_none());
                    if !stands {
                        connected.remove(&(b, a));
                        continue;
                    }
                    let since = *connected.entry((b, a)).or_insert(world.now);
                    // They have to hear of one another first.
                    if world.now - since > 3 * SECOND {
                        assert!(!(world.may(a, ROOT) && world.may(b, ROOT)), "seed {seed}: {a} and {b} hold one lease");
                    }
                }
            }
        }
        for index in 0..4 {
            if world.machines[index].stopped.is_some() {
                world.go_on(index);
            }
        }
        world.heal();
        world.run(10 * SECOND);
        for index in 0..4 {
            world.need(index, 9999, &[ROOT]);
            world.until_provided(index, 9999);
        }
        world.run(3 * SECOND);
        let holders: BTreeSet<usize> = (0..4).map(|at| world.holder(at, ROOT)).collect();
        assert_eq!(holders.len(), 1, "seed {seed}");
    }
}

#[test]
fn two_sides_that_meet_do_not_both_go_on_with_what_each_took_over() {
    for seed in 0..10 {
        let mut world = World::new(2, seed);
        world.run(5 * SECOND);
        world.split([&[0], &[1]]);
        world.drop_cut();
        world.need(1, 1, &[ROOT]);
        world.until_provided(1, 1);
        assert!(world.may(0, ROOT) && world.may(1, ROOT), "each side goes on alone");
        world.cut.clear();
        // Each still takes the other for dead.
        world.connect(0, 1);
        for _ in 0..2000 {
            assert!(!(world.may(0, ROOT) && world.may(1, ROOT)), "seed {seed}: both hold one lease");
            world.run(SECOND / 200);
        }
        assert!(world.may(0, ROOT) || world.may(1, ROOT), "seed {seed}");
    }
}

#[test]
fn who_meets_one_of_the_other_side_waits_for_those_it_is_in_touch_with() {
    for seed in 0..10 {
        let mut world = World::new(3, seed);
        world.run(5 * SECOND);
        world.split([&[0], &[1, 2]]);
        world.drop_cut();
        world.need(2, 1, &[ROOT]);
        world.until_provided(2, 1);
        world.run(3 * SECOND);
        assert!(world.may(0, ROOT) && world.may(2, ROOT), "each side goes on alone");
        world.cut.clear();
        world.connect(0, 1);
        for step in 0..2000 {
            // The third is there a little later.
            if step == 600 {
                world.connect(0, 2);
            }
            assert!(!(world.may(0, ROOT) && world.may(2, ROOT)), "seed {seed}: both hold one lease");
            assert!(step > 600 || !world.is_in_touch(0), "seed {seed}: one is missing");
            world.run(SECOND / 200);
        }
        let may = (0..3).filter(|index| world.may(*index, ROOT)).count();
        assert_eq!(may, 1, "seed {seed}");
    }
}

#[test]
fn a_lease_that_comes_before_the_op_that_gives_it_is_waited_for() {
    let mut world = World::new(3, 5);
    world.run(5 * SECOND);
    world.must_lock(0, 1);
    world.need(1, 1, &[ROOT]);
    // The question is lost, and the holder gives the lease by an op that goes to nobody by itself.
    world.queue.retain(|_, what| !matches!(what, What::Control { message: ControlMessage::Lease(_), .. }));
    let (now, to) = (world.wall(0), world.machines[1].tag);
    let holder = &mut world.machines[0];
    let made = holder.namespace.change(holder.peer.author(), now, vec![Change::Grant { ino: ROOT, to }]);
    holder.log.extend(made.ops);
    let (from, vector) = (holder.tag, holder.namespace.vector().clone());
    let granted = LeaseMessage::Granted { ino: ROOT, vector, locks: vec![locks::held_by(from)] };
    world.handle(1, Event::Control { from, message: ControlMessage::Lease(granted) });
    assert!(!world.may(1, ROOT));
    assert!(world.until_provided(1, 1) < SECOND / 2, "it asks for what it lacks at once");
    assert!(world.may(1, ROOT));
    assert!(world.is_locked(1, 2), "what came with it is there");
}

#[test]
fn a_lease_that_a_peer_gave_whose_clock_is_far_ahead_has_another_holder_soon() {
    for seed in 0..10 {
        let mut world = World::new(3, seed);
        clocks::all_tell(&mut world);
        world.run(5 * SECOND);
        world.need(2, 1, &[ROOT]);
        world.until_provided(2, 1);
        world.run(SECOND);
        world.machines[2].skew = clocks::minutes(60);
        // Nobody has been told the time since: it is asked, and gives by an op that everybody leaves out.
        world.need(0, 2, &[ROOT]);
        let waited = world.until_provided(0, 2);
        assert!(waited < 20 * SECOND, "seed {seed}: it took {} s", waited / SECOND);
        assert!(world.may(0, ROOT) && !world.may(2, ROOT), "seed {seed}");
    }
}

#[test]
fn one_that_gives_away_what_it_does_not_hold_is_not_believed_and_named() {
    let mut world = World::new(3, 11);
    world.liars = Some(Vec::new());
    world.run(5 * SECOND);
    let liar = world.machines[2].tag;
    let vector = world.machines[2].namespace.vector().clone();
    let claim = LeaseMessage::Granted { ino: ROOT, vector, locks: Vec::new() };
    world.handle(1, Event::Control { from: liar, message: ControlMessage::Lease(claim) });
    // Nor does an op that only it has made move anything.
    let (author, now) = (Author::new(liar, 0), world.wall(2));
    let grant = Change::Grant { ino: ROOT, to: liar };
    let effects = {
        let machine = &mut world.machines[2];
        machine.peer.change(&mut machine.namespace, vec![grant], now).1
    };
    world.carry_out(2, effects);
    world.run(SECOND);
    assert!(world.machines[1].namespace.vector().get(author) > 0);
    assert!((0..3).all(|at| world.holder(at, ROOT) == 0) && world.may(0, ROOT) && !world.may(1, ROOT));
    let liars: Vec<(usize, PeerTag)> = world.liars.iter().flatten().map(|(by, of, _)| (*by, *of)).collect();
    assert_eq!(liars, [(1, liar)]);
}
