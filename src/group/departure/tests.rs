//! Machines that go, out of the world of the healing tests.

use super::super::backlog::Done;
use super::super::healing::tests::{World, quick};
use super::super::holdings::Lacking;
use super::*;
use crate::namespace::{Change, Standing};
use crate::policy::{Geometry, Policy};

const COPIES: fn(u8) -> (Policy, Geometry) =
    |copies| (Policy::Replicate(copies), Geometry { data: 1, parity: copies - 1 });

fn copies(w: &mut World, seats: &[usize]) -> GroupId {
    let (policy, geometry) = COPIES(seats.len() as u8);
    w.group(policy, geometry, seats)
}

fn set(w: &World, machines: &[usize]) -> BTreeSet<PeerTag> {
    machines.iter().map(|n| w.tag(*n)).collect()
}

/// Files and blocks.
fn pair(loss: Loss) -> (u64, u64) {
    (loss.files, loss.blocks)
}

#[test]
fn without_some_machines_the_rest_survives_so_much_or_lacks_so_much() {
    let mut w = World::new(7, quick());
    w.rs(&[0, 1, 2, 3, 4, 5]);
    copies(&mut w, &[0, 6]);
    let all = set(&w, &[0, 1, 2, 3, 4, 5, 6]);
    let found = |w: &World, gone: &[usize]| {
        let found = without(&w.namespace, &all, &Holdings::default(), &set(w, gone));
        (found.survives, pair(found.unreadable), pair(found.lost))
    };
    assert_eq!(found(&w, &[1]), (Some(1), (0, 0), (0, 0)));
    assert_eq!(found(&w, &[0, 1]), (Some(0), (0, 0), (0, 0)));
    assert_eq!(found(&w, &[0, 6]), (None, (1, 1), (1, 1)));
    assert_eq!(found(&w, &[0, 1, 6]), (None, (1, 1), (1, 1)));
    assert_eq!(found(&w, &[0, 1, 2, 6]), (None, (2, 2), (2, 2)));
    // What is unreadable without them anyway is lost by nobody who holds none of it.
    let alive = set(&w, &[1, 2, 3, 4, 5]);
    let found = without(&w.namespace, &alive, &Holdings::default(), &set(&w, &[1]));
    assert_eq!((pair(found.unreadable), pair(found.lost)), ((1, 1), (0, 0)));
    assert_eq!(pair(found.caused), (0, 0));
    let found = without(&w.namespace, &alive, &Holdings::default(), &set(&w, &[1, 2]));
    assert_eq!((pair(found.unreadable), pair(found.caused)), ((2, 2), (1, 1)), "the copies are gone already");
}

#[test]
fn a_machine_that_holds_the_only_copy_strands_it_where_nobody_has_room() {
    let mut w = World::new(3, quick());
    copies(&mut w, &[0]);
    copies(&mut w, &[0, 1]);
    let me = w.tag(0);
    assert!(stranded(&w.namespace, &w.candidates, me).is_none());
    w.candidates[1].free = 10;
    assert!(stranded(&w.namespace, &w.candidates, me).is_none(), "the third one takes it");
    w.candidates[2].free = 1000;
    assert_eq!(pair(stranded(&w.namespace, &w.candidates, me)), (1, 1));
    w.candidates[2].free = u64::MAX;
    w.candidates[2].leaving = true;
    assert_eq!(pair(stranded(&w.namespace, &w.candidates, me)), (1, 1));
    w.candidates[1].alive = false;
    assert_eq!(pair(stranded(&w.namespace, &w.candidates, me)), (2, 2), "with nobody there all goes");
}

#[test]
fn room_is_counted_once_for_all_groups() {
    let mut w = World::new(2, quick());
    for _ in 0..3 {
        copies(&mut w, &[0]);
    }
    // Two blocks of a thousand bytes and not a third: a peer is not filled to its last byte.
    w.candidates[1].free = 2500;
    assert_eq!(stranded(&w.namespace, &w.candidates, w.tag(0)).blocks, 1);
}

#[test]
fn a_machine_that_leaves_has_handed_over_when_the_others_are_as_well_off() {
    let mut w = World::new(7, quick());
    let groups = [w.rs(&[0, 1, 2, 3, 4, 5]), copies(&mut w, &[0]), copies(&mut w, &[0, 1])];
    let me = w.tag(0);
    let left = |w: &World| handing_over(&w.namespace, &w.candidates, &Holdings::default(), &UnderWay::new(), me, false);
    assert_eq!((left(&w).groups, left(&w).blocks, left(&w).bytes), (3, 3, 250 + 1000 + 1000));
    let under_way = [(groups[1], Done { blocks: 1, bytes: 400 })].into();
    let less = handing_over(&w.namespace, &w.candidates, &Holdings::default(), &under_way, me, false);
    assert_eq!((less.groups, less.blocks, less.bytes), (3, 2, 250 + 600 + 1000), "some of it is on its way");
    w.change(me, Change::SetStanding { peer: me, standing: Standing { leaving: true, ..Standing::default() } });
    w.pass(30);
    assert_eq!(left(&w), HandingOver::default());
    let rest = set(&w, &[1, 2, 3, 4, 5, 6]);
    let found = without(&w.namespace, &rest, &Holdings::default(), &set(&w, &[0]));
    assert!(found.unreadable.is_none());
    assert!(groups.iter().all(|id| w.namespace.group(*id).unwrap().slots.iter().flatten().all(|seat| seat.peer != me)));
}

#[test]
fn with_too_few_machines_for_its_slot_it_may_go_as_soon_as_all_can_be_read_without_it() {
    let mut w = World::new(6, quick());
    w.rs(&[0, 1, 2, 3, 4, 5]);
    // No second slot on one machine would make the other five survive more.
    assert_eq!(
        handing_over(&w.namespace, &w.candidates, &Holdings::default(), &UnderWay::new(), w.tag(0), false),
        HandingOver::default()
    );
    w.alive(4, false);
    w.alive(5, false);
    assert_eq!(
        handing_over(&w.namespace, &w.candidates, &Holdings::default(), &UnderWay::new(), w.tag(0), false).groups,
        1
    );
}

#[test]
fn what_nobody_can_take_is_not_waited_for_where_its_loss_is_accepted() {
    let mut w = World::new(2, quick());
    copies(&mut w, &[0]);
    w.candidates[1].free = 0;
    assert_eq!(
        handing_over(&w.namespace, &w.candidates, &Holdings::default(), &UnderWay::new(), w.tag(0), false).groups,
        1
    );
    assert_eq!(
        handing_over(&w.namespace, &w.candidates, &Holdings::default(), &UnderWay::new(), w.tag(0), true).groups,
        0
    );
}

#[test]
fn a_store_that_lacks_shards_is_counted_on_by_nobody_until_it_has_them() {
    let mut w = World::new(3, quick());
    let whole = copies(&mut w, &[0, 1, 2]);
    let damaged = copies(&mut w, &[0, 1, 2]);
    let (me, all, gone) = (w.tag(0), set(&w, &[0, 1, 2]), set(&w, &[0]));
    let left = |holdings: &Holdings| {
        let over = handing_over(&w.namespace, &w.candidates, holdings, &UnderWay::new(), me, false);
        let found = without(&w.namespace, &all, holdings, &gone);
        (over.groups, pair(found.lost), found.survives)
    };
    let lacking = |groups: Vec<GroupId>| Lacking { sure: true, groups };
    assert_eq!(left(&Holdings::default()), (0, (0, 0), Some(1)));
    let nothing = lacking(vec![]);
    let told = |others| [(w.tag(0), &nothing), (w.tag(1), others), (w.tag(2), others)];
    let some = lacking(vec![damaged]);
    assert_eq!(left(&Holdings::sure(all.clone(), told(&some))), (1, (1, 1), None));
    assert_eq!(left(&Holdings::sure(all.clone(), told(&nothing))), (0, (0, 0), Some(1)));
    let both = lacking(vec![damaged, whole]);
    assert_eq!(left(&Holdings::sure(all.clone(), told(&both))), (2, (2, 2), None));
    // Who has not compared its store since it started is counted on for what people are shown, and for nothing else.
    let unknown = Lacking::default();
    assert_eq!(left(&Holdings::known(told(&unknown))), (0, (0, 0), Some(1)));
    assert_eq!(left(&Holdings::sure(all.clone(), told(&unknown))), (2, (2, 2), None));
    let silent = Holdings::sure(all.clone(), told(&nothing).into_iter().take(1));
    assert!(!silent.is_sure());
    assert_eq!(left(&silent), (2, (2, 2), None));
}
