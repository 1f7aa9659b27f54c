//! File locks among several peers.

use super::*;
use crate::namespace::{Lock, LockKind, LockOwner, LockRequest};
use crate::wire::{LeaseMessage, LockOutcome};

const FILE: Ino = Ino::ROOT;

/// An exclusive lock of a process of this machine.
pub fn held_by(peer: PeerTag) -> Lock {
    Lock { owner: LockOwner { peer, number: 1 }, kind: LockKind::Exclusive, first: 0, last: 9, pid: 1 }
}

impl World {
    /// Whether something is in the way of an exclusive lock, as the keeper says.
    pub fn is_locked(&mut self, index: usize, id: u64) -> bool {
        let lock = held_by(self.machines[index].tag);
        self.handle(index, Event::Lock { id, ino: FILE, request: LockRequest::Test { lock } });
        matches!(self.outcome(index, id, SECOND), Some(LockOutcome::Held(_)))
    }

    fn lock(&mut self, index: usize, id: u64, kind: LockKind, wait: bool) {
        let owner = LockOwner { peer: self.machines[index].tag, number: 1 };
        let lock = Lock { owner, kind, first: 0, last: 9, pid: 1 };
        self.handle(index, Event::Lock { id, ino: FILE, request: LockRequest::Take { lock, wait } });
    }

    fn unlock(&mut self, index: usize) {
        self.handle(index, Event::Unlock { id: 0, ino: FILE, owner: 1, first: 0, last: 9 });
    }

    /// The request is given up, and may have been answered in the same moment.
    fn give_up(&mut self, index: usize, id: u64) {
        match self.locked.remove(&(index, id)) {
            Some(_) => self.unlock(index),
            None => self.handle(index, Event::ForgetLock { id }),
        }
    }

    fn outcome(&mut self, index: usize, id: u64, within: u64) -> Option<LockOutcome> {
        let end = self.now + within;
        while self.now < end && !self.locked.contains_key(&(index, id)) {
            self.run(SECOND / 100);
        }
        self.locked.remove(&(index, id))
    }

    pub fn must_lock(&mut self, index: usize, id: u64) {
        self.lock(index, id, LockKind::Exclusive, true);
        assert_eq!(self.outcome(index, id, 8 * SECOND), Some(LockOutcome::Done), "machine {index}");
    }
}

fn world(seed: u64) -> World {
    let mut world = World::new(4, seed);
    world.run(5 * SECOND);
    world
}

#[test]
fn one_machine_at_a_time_holds_an_exclusive_lock() {
    let mut world = world(1);
    world.must_lock(1, 1);
    world.lock(2, 1, LockKind::Exclusive, false);
    assert!(
        matches!(world.outcome(2, 1, SECOND), Some(LockOutcome::Held(lock)) if lock.owner.peer == world.machines[1].tag)
    );
    // The keeper itself has to wait as well.
    world.lock(0, 1, LockKind::Exclusive, true);
    world.lock(3, 1, LockKind::Exclusive, true);
    assert_eq!(world.outcome(0, 1, SECOND), None);
    world.unlock(1);
    assert_eq!(world.outcome(0, 1, SECOND), Some(LockOutcome::Done));
    assert_eq!(world.outcome(3, 1, SECOND), None);
    world.unlock(0);
    assert_eq!(world.outcome(3, 1, SECOND), Some(LockOutcome::Done));
}

#[test]
fn shared_locks_are_held_together() {
    let mut world = world(2);
    for index in 0..4 {
        world.lock(index, 1, LockKind::Shared, false);
        assert_eq!(world.outcome(index, 1, SECOND), Some(LockOutcome::Done));
    }
    world.lock(2, 2, LockKind::Exclusive, false);
    assert!(matches!(world.outcome(2, 2, SECOND), Some(LockOutcome::Held(_))));
    [0, 1, 3].into_iter().for_each(|index| world.unlock(index));
    world.run(SECOND / 4);
    world.lock(2, 3, LockKind::Exclusive, false);
    assert_eq!(world.outcome(2, 3, SECOND), Some(LockOutcome::Done), "its own is no hindrance");
}

#[test]
fn locks_go_with_the_lease() {
    let mut world = world(3);
    world.must_lock(1, 1);
    world.lock(2, 1, LockKind::Exclusive, true);
    world.run(SECOND / 4);
    world.handle(3, Event::Need { id: 7, need: Need::Leases(BTreeSet::from([FILE])) });
    world.run(SECOND);
    assert!(world.provided.contains(&(3, 7)));
    world.lock(3, 1, LockKind::Shared, false);
    assert!(matches!(world.outcome(3, 1, SECOND), Some(LockOutcome::Held(_))), "the new keeper knows");
    assert_eq!(world.outcome(2, 1, SECOND), None);
    world.unlock(1);
    assert_eq!(world.outcome(2, 1, SECOND), Some(LockOutcome::Done), "who waited waits on");
}

#[test]
fn the_locks_of_a_dead_machine_are_freed_and_a_dead_keeper_s_are_told_to_its_heir() {
    for seed in 0..10 {
        let mut world = world(seed);
        world.must_lock(1, 1);
        world.machines[1].up = false;
        world.must_lock(2, 1);
        // The keeper dies; who holds the lock goes on holding it.
        world.machines[0].up = false;
        world.lock(3, 1, LockKind::Exclusive, true);
        assert_eq!(world.outcome(3, 1, 12 * SECOND), None, "seed {seed}: machine 2 still holds it");
        assert!(world.locks_lost.is_empty(), "seed {seed}");
        world.unlock(2);
        assert_eq!(world.outcome(3, 1, 2 * SECOND), Some(LockOutcome::Done), "seed {seed}");
    }
}

#[test]
fn an_heir_of_several_machines_hears_of_the_locks_that_the_last_of_them_kept() {
    for seed in 0..60 {
        let mut world = world(seed);
        // Each of two machines holds a lease; one of them keeps the lock of a third.
        world.create(3, "other");
        let other = world.machines[3].namespace.entry(FILE, b"other").unwrap().ino;
        world.must_lock(1, 1);
        [0, 3].into_iter().for_each(|dead| world.machines[dead].up = false);
        // Both leases are wanted as soon as their holders are found dead, and the lock, too.
        world.handle(2, Event::Need { id: 7, need: Need::Leases(BTreeSet::from([other])) });
        world.lock(2, 1, LockKind::Exclusive, true);
        assert_eq!(world.outcome(2, 1, 12 * SECOND), None, "seed {seed}: machine 1 still holds it");
        assert!(world.locks_lost.is_empty(), "seed {seed}");
        world.unlock(1);
        assert_eq!(world.outcome(2, 1, 2 * SECOND), Some(LockOutcome::Done), "seed {seed}");
    }
}

#[test]
fn a_machine_that_was_stopped_is_told_that_its_lock_was_given_to_others() {
    let mut world = world(5);
    world.must_lock(1, 1);
    world.machines[1].stopped = Some(Vec::new());
    world.run(4 * SECOND);
    [0, 2, 3].into_iter().for_each(|other| world.disconnect(1, other));
    world.must_lock(2, 1);
    world.run(60 * SECOND);
    for event in world.machines[1].stopped.take().unwrap() {
        world.handle(1, event);
    }
    world.heal();
    world.run(5 * SECOND);
    assert_eq!(world.locks_lost, [(1, FILE)]);
    world.unlock(1);
    world.run(SECOND);
    world.lock(3, 1, LockKind::Exclusive, false);
    assert!(matches!(world.outcome(3, 1, SECOND), Some(LockOutcome::Held(_))), "letting go of it takes nothing away");
}

#[test]
fn a_lock_outlives_a_broken_connection() {
    let mut world = world(6);
    world.must_lock(1, 1);
    world.disconnect(0, 1);
    world.lock(2, 1, LockKind::Exclusive, true);
    world.at(SECOND / 2, What::Connect(0, 1));
    world.run(10 * SECOND);
    assert_eq!(world.outcome(2, 1, SECOND), None);
    assert!(world.locks_lost.is_empty());
    // One let go of while the connection was down is free when it is back.
    world.disconnect(0, 1);
    world.unlock(1);
    world.at(SECOND / 2, What::Connect(0, 1));
    assert_eq!(world.outcome(2, 1, 3 * SECOND), Some(LockOutcome::Done));
}

#[test]
fn no_two_connected_machines_hold_an_exclusive_lock_whatever_happens() {
    for seed in 0..100 {
        let mut world = world(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut holds: BTreeSet<usize> = BTreeSet::new();
        let mut asked: BTreeMap<usize, u64> = BTreeMap::new();
        let (mut id, mut given) = (10, 0);
        for _ in 0..1500 {
            world.run(SECOND / 50);
            let index = rng.random_range(0..4);
            match rng.random_range(0..300) {
                0 => {
                    world.crash(index);
                    holds.remove(&index);
                    asked.remove(&index);
                }
                1..=2 if !world.machines[index].up => world.restart(index),
                3 => world.disconnect(index, (index + 1) % 4),
                4..=20 => {
                    id += 1;
                    world.handle(index, Event::Need { id, need: Need::Leases(BTreeSet::from([FILE])) });
                }
                21..=120 if world.machines[index].up => {
                    if holds.remove(&index) {
                        world.unlock(index);
                    } else if let Some(id) = asked.get(&index).copied() {
                        if rng.random_bool(0.1) {
                            asked.remove(&index);
                            world.give_up(index, id);
                        }
                    } else {
                        id += 1;
                        asked.insert(index, id);
                        world.lock(index, id, LockKind::Exclusive, true);
                    }
                }
                _ => {}
            }
            for a in 0..4 {
                for b in 0..a {
                    world.at(0, What::Connect(a, b));
                }
            }
            for (index, _) in std::mem::take(&mut world.locks_lost) {
                holds.remove(&index);
            }
            let done: Vec<(usize, u64)> = asked.iter().map(|(index, id)| (*index, *id)).collect();
            for (index, id) in done {
                match world.locked.remove(&(index, id)) {
                    Some(LockOutcome::Done) => {
                        asked.remove(&index);
                        holds.insert(index);
                        given += 1;
                    }
                    Some(other) => panic!("seed {seed}: {other:?}"),
                    None => {}
                }
            }
            assert!(holds.len() <= 1, "seed {seed} at {}: {holds:?}", world.now);
        }
        assert!(given > 20, "seed {seed}: {given}");
        world.heal();
        world.run(8 * SECOND);
        holds.iter().for_each(|index| world.unlock(*index));
        for (index, id) in asked {
            world.give_up(index, id);
        }
        world.run(SECOND);
        for index in 0..4 {
            world.must_lock(index, 9999);
            world.unlock(index);
        }
    }
}

#[test]
fn an_answer_to_a_machine_before_it_restarted_is_none_to_what_it_asks_after() {
    let mut world = world(7);
    world.lock(1, 1, LockKind::Exclusive, true);
    let is_storing = |what: &What| matches!(what, What::Recalled(0, ..));
    while !world.queue.values().any(is_storing) {
        world.run(SECOND / 1000);
    }
    // The keeper takes long to store what is unsaved, and gives the lock only then.
    world.queue.retain(|_, what| !is_storing(what));
    world.crash(1);
    world.restart(1);
    world.run(8 * SECOND);
    world.must_lock(2, 1);
    // It numbers its requests anew: this is another one, with the number of the first.
    world.lock(1, 1, LockKind::Exclusive, true);
    world.run(SECOND);
    world.handle(0, Event::Recalled(FILE));
    assert_eq!(world.outcome(1, 1, SECOND), None, "machine 2 holds it");
    world.unlock(2);
    assert_eq!(world.outcome(1, 1, SECOND), Some(LockOutcome::Done));
}

#[test]
fn a_lease_whose_locks_were_lost_on_the_way_is_not_taken_for_one_without() {
    for seed in 0..20 {
        let mut world = world(seed);
        world.must_lock(2, 1);
        // It asked for the lease long ago, and somebody else since.
        let from = world.machines[1].tag;
        world.handle(0, Event::Control { from, message: ControlMessage::Lease(LeaseMessage::Want { ino: FILE }) });
        let brings = |what: &What| {
            matches!(what, What::Control { message: ControlMessage::Lease(LeaseMessage::Granted { .. }), .. })
        };
        while !world.queue.values().any(brings) {
            world.run(SECOND / 1000);
        }
        // The message goes down with its connection, and the op comes another way.
        world.queue.retain(|_, what| !brings(what));
        world.disconnect(0, 1);
        world.connect(0, 1);
        world.lock(3, 1, LockKind::Exclusive, true);
        assert_eq!(world.outcome(3, 1, 8 * SECOND), None, "seed {seed}: machine 2 holds it");
        assert_eq!(world.machines[3].namespace.holder(FILE), from);
        world.unlock(2);
        assert_eq!(world.outcome(3, 1, SECOND), Some(LockOutcome::Done), "seed {seed}");
    }
}

#[test]
fn an_heir_keeps_nothing_that_was_let_go_of_at_its_predecessor() {
    // Who follows machine 0, and somebody else: it is drawn from who is there, the same by all.
    let (heir, other) = {
        let mut world = world(1);
        world.crash(0);
        world.lock(1, 1, LockKind::Exclusive, true);
        assert_eq!(world.outcome(1, 1, 12 * SECOND), Some(LockOutcome::Done));
        let heir = world.index(world.machines[1].namespace.holder(FILE));
        (heir, 1 + heir % 3)
    };
    for seed in 0..20 {
        let mut world = world(seed);
        world.must_lock(other, 1);
        // It hears of the lock because the lease may be on its way to it, when it is not.
        world.handle(heir, Event::Need { id: 1, need: Need::Leases(BTreeSet::from([FILE])) });
        world.disconnect(0, heir);
        world.connect(0, heir);
        world.handle(heir, Event::Forget { id: 1 });
        world.run(SECOND / 4);
        assert_eq!(world.machines[other].namespace.holder(FILE), world.machines[0].tag);
        world.unlock(other);
        world.run(SECOND / 4);
        world.crash(0);
        world.lock(heir, 1, LockKind::Exclusive, true);
        assert_eq!(world.outcome(heir, 1, 12 * SECOND), Some(LockOutcome::Done), "seed {seed}");
        assert_eq!(world.machines[other].namespace.holder(FILE), world.machines[heir].tag);
    }
}
