//! Wishes: a busy holder does what another peer needs its lease for, once and no more.

use super::*;
use crate::namespace::{Errno, Naming};

const ROOT: Ino = Ino::ROOT;
const A_MOMENT: u64 = SECOND / 50;

impl World {
    /// Has a file made with this name, the number of the need being the wish's, too. Its inode.
    fn wish_for(&mut self, index: usize, id: u64, name: &str) -> Ino {
        let time = self.wall(index);
        let tag = self.machines[index].tag;
        let place = Place { parent: ROOT, name: Bytes::copy_from_slice(name.as_bytes()) };
        let ino = Ino::new(tag, 1000 + id);
        let naming = Naming::Make { place, ino, kind: Kind::File, mode: 0o644, umask: 0, uid: 0, gid: 0, time };
        let need = Need::Naming { wish: id, naming, leases: BTreeSet::from([ROOT]) };
        self.handle(index, Event::Need { id, need });
        ino
    }

    /// Uses the root's lease, if it is here.
    fn work(&mut self, index: usize) -> bool {
        let now = Instant(self.now);
        let machine = &mut self.machines[index];
        machine.up && machine.peer.may(&machine.namespace, &[ROOT], now).is_ok()
    }

    /// Machine 0 works in the root all the while. What came of the wish, if the holder answered it.
    fn until_over(&mut self, index: usize, id: u64) -> Option<Result<Option<Ino>, Errno>> {
        for _ in 0..1000 {
            self.work(0);
            self.run(A_MOMENT);
            if let Some(outcome) = self.named.remove(&(index, id)) {
                return Some(outcome);
            }
            if self.provided.contains(&(index, id)) {
                return None;
            }
        }
        panic!("machine {index} waits for wish {id} for ever");
    }

    fn has(&self, at: usize, name: &str) -> Option<Ino> {
        self.machines[at].namespace.entry(ROOT, name.as_bytes()).map(|entry| entry.ino)
    }
}

#[test]
fn a_busy_holder_does_what_others_wish_and_keeps_the_lease() {
    let mut world = World::new(4, 1);
    world.run(5 * SECOND);
    world.work(0);
    for id in 0..20 {
        let (by, name) = (1 + id as usize % 3, format!("f{id}"));
        let ino = world.wish_for(by, id, &name);
        assert_eq!(world.until_over(by, id), Some(Ok(None)));
        assert!((0..4).all(|at| world.has(at, &name) == Some(ino)), "all see it when it is done");
        let holders = [ROOT, ino].map(|lease| world.machines[3].namespace.holder(lease));
        assert_eq!(holders, [0, by].map(|index| world.machines[index].tag), "a new inode's lease is its wisher's");
    }
    world.wish_for(1, 20, "f3");
    assert_eq!(world.until_over(1, 20), Some(Err(Errno(libc::EEXIST))));
}

#[test]
fn what_a_holder_did_for_another_is_kept_by_all_when_that_one_asks() {
    let mut world = World::new(4, 1);
    world.run(5 * SECOND);
    world.work(0);
    let seq = world.create(1, "own");
    let keep = |world: &mut World| {
        let machine = &mut world.machines[1];
        let effects = machine.peer.request_durable(&machine.namespace, seq);
        world.carry_out(1, effects);
        world.run(SECOND / 2);
        world.machines[1].peer.is_settled(seq, true, Instant(world.now))
    };
    assert!(keep(&mut world));
    // The others have what this one did itself on their disks, and are asked for the sake of the rest.
    world.wish_for(1, 7, "wished");
    assert_eq!(world.until_over(1, 7), Some(Ok(None)));
    assert!(!world.machines[1].peer.is_settled(seq, true, Instant(world.now)));
    assert!(keep(&mut world));
}

#[test]
fn a_holder_that_is_not_busy_gives_its_lease_away() {
    let mut world = World::new(4, 2);
    world.run(5 * SECOND);
    world.wish_for(2, 0, "f");
    while !world.provided.contains(&(2, 0)) {
        world.run(A_MOMENT);
        assert!(world.now < 8 * SECOND);
    }
    assert!(world.work(2) && !world.work(0));
    assert_eq!(world.has(2, "f"), None, "it is still to be done");
    // Nor is one that works for nobody but who asks.
    for id in 1..10 {
        world.wish_for(3, id, "g");
        world.run(SECOND / 2);
    }
    assert!(world.work(3));
}

#[test]
fn a_wish_is_done_once_whatever_becomes_of_the_holder() {
    let (mut answered, mut alone) = (0, 0);
    for seed in 0..80 {
        let mut world = World::new(4, seed);
        world.run(5 * SECOND);
        world.work(0);
        for id in 0..6 {
            world.wish_for(1 + id as usize % 3, id, &format!("f{id}"));
            let pause = world.rng.random_range(0..SECOND / 20);
            world.run(pause);
        }
        match seed % 4 {
            0 => world.crash(0),
            1 => {
                world.disconnect(0, 1);
                world.at(SECOND / 5, What::Connect(0, 1));
            }
            2 => {
                world.disconnect(0, 2);
                world.disconnect(0, 3);
                world.at(SECOND / 3, What::Connect(0, 2));
                world.at(SECOND / 2, What::Connect(0, 3));
            }
            _ => {}
        }
        for id in 0..6 {
            let (by, name) = (1 + id as usize % 3, format!("f{id}"));
            let ino = Ino::new(world.machines[by].tag, 1000 + id);
            match world.until_over(by, id) {
                Some(outcome) => {
                    answered += 1;
                    assert_eq!(outcome, Ok(None), "seed {seed}: wish {id}");
                    assert_eq!(world.has(by, &name), Some(ino), "seed {seed}: wish {id}");
                }
                None => {
                    alone += 1;
                    assert_eq!(world.has(by, &name), None, "seed {seed}: wish {id} was done, and is to be done again");
                }
            }
        }
    }
    assert!(answered > 200 && alone > 20, "{answered} answered, {alone} left to their wishers");
}

#[test]
fn what_others_did_for_a_peer_is_on_stable_storage_when_it_asks_for_that() {
    let mut world = World::new(3, 4);
    world.run(5 * SECOND);
    world.work(0);
    let ino = world.wish_for(1, 0, "f");
    assert_eq!(world.until_over(1, 0), Some(Ok(None)));
    assert_eq!(world.has(1, "f"), Some(ino));
    let done = world.machines[0].namespace.vector().get(Author::new(world.machines[0].tag, 0));
    let (mut waited, now) = (0, |world: &World| Instant(world.now));
    while !world.machines[1].peer.is_settled(0, true, now(&world)) {
        if waited == 0 {
            let machine = &mut world.machines[1];
            let effects = machine.peer.request_durable(&machine.namespace, 0);
            world.carry_out(1, effects);
        }
        waited += 1;
        world.run(A_MOMENT);
        assert!(waited < 200, "it is never on stable storage");
    }
    let by = Author::new(world.machines[0].tag, 0);
    assert!(world.machines[1].peer.durable.get(by) >= done, "not what the holder did");
}

#[test]
fn what_a_holder_did_and_did_not_live_to_say_is_over_when_all_the_others_have_it() {
    for seed in 0..40 {
        let mut world = World::new(4, seed);
        world.run(5 * SECOND);
        world.work(0);
        // For half a second nothing of machine 0 arrives at machine 3.
        let slow = world.now + SECOND / 2;
        world.arrivals.insert((0, 3), slow);
        let ino = world.wish_for(1, 0, "f");
        while world.has(1, "f").is_none() {
            world.work(0);
            world.run(A_MOMENT / 4);
        }
        assert_eq!(world.has(3, "f"), None, "seed {seed}");
        world.crash(0);
        assert_eq!(world.until_over(1, 0), Some(Ok(None)), "seed {seed}");
        assert!((1..4).all(|at| world.has(at, "f") == Some(ino)), "seed {seed}: all see it when it is done");
    }
}
