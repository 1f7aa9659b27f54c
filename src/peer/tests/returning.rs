//! Peers that are away for long: let go by the others, and back with a snapshot.

use super::*;

#[test]
fn a_peer_that_is_away_for_too_long_is_let_go_and_comes_back_with_its_changes() {
    let mut world = World::new(4, 21);
    world.keep_ops(20);
    all_ready(&mut world);
    world.run(5 * SECOND);
    let mut made = BTreeSet::new();
    create_many(&mut world, 3, "before", 5, &mut made);
    world.cut_off(3);
    create_many(&mut world, 3, "alone", 40, &mut made);
    create_many(&mut world, 0, "without", 15, &mut made);
    world.run(60 * SECOND);
    let away = world.machines[3].tag;
    assert!(!world.machines[1].namespace.is_away(away), "so much is kept for it");
    assert!(world.machines[1].namespace.unstable() >= 15);
    create_many(&mut world, 1, "more", 15, &mut made);
    world.run(10 * SECOND);
    for index in 0..3 {
        assert!(world.machines[index].namespace.is_away(away), "at machine {index}");
        assert_eq!(world.machines[index].namespace.unstable(), 0, "the log of machine {index} is empty again");
        assert!(world.machines[index].peer.hears_everyone_for() > Duration::ZERO, "what is deleted may go");
    }
    assert!(world.machines[3].namespace.unstable() >= 40, "the one that is alone lets go of nobody");
    assert!((0..3).all(|index| !world.machines[3].namespace.is_away(world.machines[index].tag)));
    world.heal();
    world.run(20 * SECOND);
    for index in 0..4 {
        let names: BTreeSet<String> = world.names(index).into_iter().collect();
        assert_eq!(names, made, "machine {index}");
        assert!(!world.machines[index].namespace.is_away(away));
        assert_eq!(world.machines[index].namespace.unstable(), 0, "it counts again");
    }
    assert_eq!(world.machines[3].past, Past { epoch: 1, memory: Memory::Whole });
    // And once more, after a restart.
    world.crash(3);
    world.restart(3);
    world.run(5 * SECOND);
    world.handle(3, Event::Ready);
    let seq = world.create(3, "at last");
    world.run(SECOND);
    assert!(world.machines[3].peer.is_settled(seq, false, Instant(world.now)));
    assert!(world.names(0).contains(&"at last".to_owned()));
}

#[test]
fn of_two_peers_the_one_that_may_not_let_go_waits() {
    let mut world = World::new(2, 22);
    world.keep_ops(5);
    all_ready(&mut world);
    world.run(5 * SECOND);
    world.cut_off(0);
    let mut made = BTreeSet::new();
    create_many(&mut world, 0, "zero", 10, &mut made);
    create_many(&mut world, 1, "one", 10, &mut made);
    world.run(60 * SECOND);
    let away = |world: &World, at: usize| world.machines[at].namespace.is_away(world.machines[1 - at].tag);
    assert!(away(&world, 0) != away(&world, 1), "one of the two lets go of the other");
    world.heal();
    world.run(20 * SECOND);
    for index in 0..2 {
        assert_eq!(world.names(index).into_iter().collect::<BTreeSet<_>>(), made);
        assert_eq!(world.machines[index].namespace.unstable(), 0);
    }
}

#[test]
fn peers_converge_after_any_faults_however_little_of_the_log_is_kept() {
    let mut let_go = 0;
    for seed in 0..100 {
        let mut world = World::new(4, 1000 + seed);
        world.keep_ops(3);
        all_ready(&mut world);
        let mut made = BTreeSet::new();
        for step in 0..40 {
            let (a, b) = (world.rng.random_range(0..4), world.rng.random_range(0..4));
            match world.rng.random_range(0..12) {
                0 if world.machines[a].up => world.crash(a),
                0 | 1 if !world.machines[a].up => {
                    world.restart(a);
                    world.handle(a, Event::Ready);
                }
                2 if a != b => {
                    world.cut.insert((a.min(b), a.max(b)));
                    world.disconnect(a, b);
                }
                3 if a != b => {
                    world.cut.remove(&(a.min(b), a.max(b)));
                    world.at(0, What::Connect(a, b));
                }
                4 => world.cut_off(a),
                5 => {
                    let pause = world.rng.random_range(30 * SECOND..60 * SECOND);
                    world.run(pause);
                }
                _ if world.machines[a].up => {
                    let name = format!("{step}");
                    world.create(a, &name);
                    made.insert(name);
                }
                _ => {}
            }
            let pause = world.rng.random_range(0..SECOND);
            world.run(pause);
            let tags: Vec<PeerTag> = world.machines.iter().map(|machine| machine.tag).collect();
            let_go += usize::from(tags.iter().any(|tag| world.machines[a].namespace.is_away(*tag)));
        }
        world.heal();
        all_ready(&mut world);
        world.run(60 * SECOND);
        for index in 0..4 {
            let names: BTreeSet<String> = world.names(index).into_iter().collect();
            assert_eq!(names, made, "seed {seed}, peer {index}");
            assert_eq!(world.machines[index].namespace.unstable(), 0, "seed {seed}, peer {index}: all is stable");
        }
    }
    assert!(let_go > 100, "peers were let go in these worlds");
}
