//! Clocks that are wrong, and peers that lie.

use super::*;

/// Nanoseconds of so many minutes.
pub const fn minutes(minutes: i64) -> i64 {
    minutes * 60 * SECOND as i64
}

fn all_settled(world: &World, names: &BTreeSet<String>) {
    for index in 0..world.machines.len() {
        assert_eq!(&world.names(index).into_iter().collect::<BTreeSet<_>>(), names, "machine {index}");
        assert_eq!(world.machines[index].namespace.unstable(), 0, "machine {index}: all is stable");
    }
}

/// Everybody makes changes, and tells what its store and its clock say.
pub fn all_tell(world: &mut World) {
    all_ready(world);
    for index in 0..world.machines.len() {
        world.handle(index, Event::Usage(StoreUsage::default()));
    }
}

#[test]
fn clocks_that_are_minutes_off_keep_the_order_of_what_is_done() {
    let mut world = World::new(3, 31);
    for (index, off) in [-4, 0, 4].into_iter().enumerate() {
        world.machines[index].skew = minutes(off);
    }
    all_ready(&mut world);
    world.run(5 * SECOND);
    world.create(2, "0");
    for step in 0..30 {
        world.run(SECOND);
        if step == 15 {
            // It is set, and jumps back: what it makes still comes after what it has seen.
            world.machines[2].skew = minutes(-3);
        }
        world.rename(step % 3, &step.to_string(), &(step + 1).to_string());
    }
    world.run(5 * SECOND);
    all_settled(&world, &["30".to_owned()].into());
    assert!(world.clocks.iter().all(|(_, _, left_out)| !left_out), "nothing is refused within the bound");
    let ahead = world.machines[0].peer.clock_ahead(world.machines[1].tag);
    assert!(ahead.unwrap().abs_diff(4 * 60_000) < 1000, "{ahead:?}");
}

#[test]
fn a_clock_far_ahead_is_reported_and_not_obeyed_and_once_it_is_right_its_changes_are_there() {
    let mut world = World::new(3, 32);
    all_tell(&mut world);
    world.run(5 * SECOND);
    world.cut_off(2);
    world.machines[2].skew = minutes(60);
    let (mut made, mut seen) = (BTreeSet::new(), BTreeSet::new());
    create_many(&mut world, 2, "early", 5, &mut made);
    world.cut.clear();
    world.at(0, What::Connect(0, 2));
    world.at(0, What::Connect(1, 2));
    create_many(&mut world, 0, "others", 5, &mut seen);
    world.run(20 * SECOND);
    let wrong = world.machines[2].tag;
    for index in 0..2 {
        assert_eq!(world.names(index).into_iter().collect::<BTreeSet<_>>(), seen, "its changes are left out");
        assert!(world.clocks.contains(&(index, wrong, true)) && world.clocks.contains(&(index, wrong, false)));
        let ahead = world.machines[index].peer.clock_ahead(wrong).unwrap();
        assert!(ahead.abs_diff(60 * 60_000) < 1000, "{ahead}");
        assert_eq!(world.machines[index].peer.own_clock_ahead(), None);
    }
    assert!(world.machines[2].peer.own_clock_ahead().unwrap() > 3_500_000, "it knows that it is the one");
    assert_eq!(world.names(2).len(), 10, "it has what the others make");
    world.machines[2].skew = 0;
    world.run(40 * SECOND);
    made.extend(seen);
    all_settled(&world, &made);
    world.create(2, "right");
    world.run(5 * SECOND);
    made.insert("right".to_owned());
    all_settled(&world, &made);
    assert_eq!(world.machines[2].peer.clock_ahead(world.machines[0].tag), None);
}

#[test]
fn a_clock_far_behind_leaves_out_what_the_others_do_until_it_is_right() {
    let mut world = World::new(3, 33);
    all_tell(&mut world);
    world.run(5 * SECOND);
    world.machines[2].skew = minutes(-60);
    let mut made = BTreeSet::new();
    create_many(&mut world, 0, "now", 5, &mut made);
    create_many(&mut world, 2, "then", 5, &mut made);
    world.run(20 * SECOND);
    assert_eq!(world.names(2).len(), 5);
    assert_eq!(world.names(0).len(), 10, "what it does is taken");
    assert!(world.machines[2].peer.own_clock_ahead().unwrap() < -3_500_000);
    world.machines[2].skew = 0;
    world.run(20 * SECOND);
    all_settled(&world, &made);
}

/// Machine 3 sends these ops to machine 0; what that says of it.
fn tells(world: &mut World, ops: Vec<Op>) -> Vec<(usize, PeerTag, String)> {
    world.liars = Some(Vec::new());
    let from = world.machines[3].tag;
    world.handle(0, Event::Control { from, message: ControlMessage::Ops(ops) });
    world.liars.take().unwrap()
}

#[test]
fn a_peer_that_lies_is_refused_by_name_and_nothing_of_it_is_taken() {
    let mut world = World::new(4, 34);
    all_ready(&mut world);
    world.run(5 * SECOND);
    world.create(3, "settled");
    world.run(10 * SECOND);
    // One that is away keeps the next op from being settled.
    world.cut_off(2);
    world.create(3, "last");
    world.run(2 * SECOND);
    let liar = world.machines[3].tag;
    let author = Author::new(liar, 0);
    let real: Vec<Op> = world.machines[3].log.iter().filter(|op| op.stamp.author == author).cloned().collect();
    let before = (world.names(0), world.machines[0].namespace.vector().clone());
    let (settled, last) = (real[0].clone(), real[1].clone());
    let other = |seq: u64, time: Hlc| Op { stamp: Stamp { time, author }, seq, change: settled.change.clone() };
    let next = Hlc(last.stamp.time.0 + 1);
    let forged = Op { change: Change::Reap { ino: Ino::ROOT }, ..other(3, next) };
    let lies = [
        (other(2, next), "two different ops 2"),
        (other(3, settled.stamp.time), "older than what is settled"),
        (forged, "not valid"),
    ];
    for (op, word) in lies {
        let said = tells(&mut world, vec![op]);
        let [(0, of, how)] = &said[..] else { panic!("{word}: {said:?}") };
        assert!(*of == liar && how.contains(word), "{how}");
    }
    // Replayed as they were, they are nothing new.
    assert_eq!(tells(&mut world, real.clone()), []);
    // Far ahead: left out and reported, and whoever passes it on is not cut off for it.
    let ahead = Hlc((world.wall(0).millis() + 3_600_000) << 16);
    assert_eq!(tells(&mut world, vec![other(3, ahead)]), []);
    assert!(world.clocks.contains(&(0, liar, true)));
    assert_eq!((world.names(0), world.machines[0].namespace.vector().clone()), before, "nothing was taken");
    // What others made, in the same message, is.
    let honest = Author::new(world.machines[1].tag, 0);
    world.cut.insert((0, 1));
    world.disconnect(0, 1);
    world.create(1, "honest");
    let ops = world.machines[1].namespace.missing(world.machines[0].namespace.vector(), usize::MAX);
    let crate::namespace::Missing::Ops(mut ops) = ops else { panic!("the log reaches back") };
    assert!(ops.iter().any(|op| op.stamp.author == honest));
    ops.push(other(3, ahead));
    assert_eq!(tells(&mut world, ops), []);
    assert!(world.names(0).contains(&"honest".to_owned()));
}
