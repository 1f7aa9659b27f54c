//! How much healing has before it, over the whole share, as one peer sees it.

use super::healing::slot_bytes;
use super::holdings::Holdings;
use super::plan::{Surroundings, fill, is_at_rest, live_slots};
use super::survival::losses_now;
use crate::id::{GroupId, PeerTag};
use crate::namespace::{Group, Namespace};
use crate::time::WallTime;
use crate::volume::ports::Candidate;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is to be done until every group is as good as the peers that are there allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backlog {
    pub groups: u64,
    pub blocks: u64,
    /// Bytes of shards to be stored.
    pub bytes: u64,
}

/// What the work on a group has done so far. The seats show it only when all of it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    pub blocks: u64,
    /// Bytes of shards that are where they are wanted.
    pub bytes: u64,
}

/// The groups that somebody is at work on, as far as is known.
pub type UnderWay = BTreeMap<GroupId, Done>;

/// The groups that want work, those included whose dead participants are still waited for. Groups that cannot be read
/// now, and slots that nobody can take, are not in it: no work helps there. Where a store lacks something of a group, all
/// it should have of it counts, for how much that is only its peer knows.
pub fn backlog(
    namespace: &Namespace,
    candidates: &[Candidate],
    holdings: &Holdings,
    under_way: &UnderWay,
    now: WallTime,
) -> Backlog {
    let excused = |peer: PeerTag| namespace.standing(peer).maintenance_until > now;
    let gone = candidates.iter().filter(|one| !one.alive && !excused(one.peer)).map(|one| one.peer).collect();
    let around = Surroundings::new(candidates, gone);
    let mut backlog = Backlog::default();
    for (id, group) in namespace.groups().filter(|(_, group)| group.blocks > 0) {
        let wanted = || if is_at_rest(group, &around) { None } else { wanted_bytes(namespace, id, group, &around) };
        if let Some(bytes) = wanted().or_else(|| lacked_bytes(namespace, id, group, &around, holdings)) {
            let done = under_way.get(&id).copied().unwrap_or_default();
            backlog.groups += 1;
            backlog.blocks += u64::from(group.blocks).saturating_sub(done.blocks);
            backlog.bytes += bytes.saturating_sub(done.bytes);
        }
    }
    backlog
}

/// What is to be stored for a group that wants work; `None` where it wants none.
fn wanted_bytes(namespace: &Namespace, id: GroupId, group: &Group, around: &Surroundings) -> Option<u64> {
    let slots: Vec<BTreeSet<PeerTag>> = live_slots(group, around);
    losses_now(&slots, group.geometry.data)?;
    let in_slot = |geometry| slot_bytes(namespace, id, geometry);
    if let Some(wanted) = around.reshaped(group, in_slot) {
        return Some(in_slot(wanted) * wanted.shards() as u64);
    }
    let bytes = in_slot(group.geometry);
    if let Some(seats) = fill(group, &slots, bytes, around, id.0) {
        return Some(bytes * seats.len() as u64);
    }
    // Two participants of one slot only have to settle.
    slots.iter().any(|live| live.len() > 1).then_some(0)
}

/// What is to be stored at most in stores that lack something of a group; `None` if none does, or no work helps.
fn lacked_bytes(
    namespace: &Namespace,
    id: GroupId,
    group: &Group,
    around: &Surroundings,
    holdings: &Holdings,
) -> Option<u64> {
    let live = |group: &Group| live_slots(group, around);
    let held = live(&holdings.held(id, group));
    losses_now(&held, group.geometry.data)?;
    let lacked: usize = live(group).iter().zip(&held).map(|(seated, held)| seated.len() - held.len()).sum();
    (lacked > 0).then(|| slot_bytes(namespace, id, group.geometry) * lacked as u64)
}

#[cfg(test)]
mod tests {
    use super::super::healing::tests::{World, quick};
    use super::*;
    use crate::namespace::{Change, Standing};
    use crate::policy::{Geometry, Policy};

    fn of(w: &World) -> (u64, u64) {
        let found = backlog(&w.namespace, &w.candidates, &Holdings::default(), &UnderWay::new(), w.now());
        assert_eq!(found.groups, found.blocks, "each group has one block here");
        (found.groups, found.bytes)
    }

    #[test]
    fn what_is_to_be_repaired_goes_down_to_nothing_as_healing_works() {
        let mut w = World::new(8, quick());
        w.rs(&[0, 1, 2, 3, 4, 5]);
        w.rs(&[1, 2, 3, 4, 5, 6]);
        assert_eq!(of(&w), (0, 0));
        w.alive(0, false);
        assert_eq!(of(&w), (1, 250));
        w.alive(1, false);
        assert_eq!(of(&w), (2, 3 * 250));
        w.pass(30);
        assert_eq!(of(&w), (0, 0));
        w.alive(0, true);
        assert_eq!(of(&w), (1, 0), "it only has to settle");
        w.pass(30);
        assert_eq!(of(&w), (0, 0));
    }

    #[test]
    fn what_work_under_way_has_done_is_not_left_to_do() {
        let mut w = World::new(7, quick());
        let group = w.rs(&[0, 1, 2, 3, 4, 5]);
        w.alive(0, false);
        let left = |done| backlog(&w.namespace, &w.candidates, &Holdings::default(), &[(group, done)].into(), w.now());
        assert_eq!(left(Done { blocks: 0, bytes: 100 }), Backlog { groups: 1, blocks: 1, bytes: 150 });
        assert_eq!(left(Done { blocks: 1, bytes: 250 }), Backlog { groups: 1, blocks: 0, bytes: 0 });
        assert_eq!(
            left(Done { blocks: 9, bytes: 999 }),
            Backlog { groups: 1, blocks: 0, bytes: 0 },
            "not below nothing"
        );
    }

    #[test]
    fn maintenance_and_what_no_work_helps_are_left_out() {
        let mut w = World::new(6, quick());
        w.rs(&[0, 1, 2, 3, 4, 5]);
        w.alive(5, false);
        assert_eq!(of(&w), (0, 0), "nobody is there to take the slot");
        let mut w = World::new(3, quick());
        w.group(Policy::Replicate(2), Geometry { data: 1, parity: 1 }, &[0, 1]);
        let (me, until) = (w.tag(1), WallTime(w.now().0 + 1_000_000_000));
        let standing = Standing { maintenance_until: until, ..Standing::default() };
        w.change(me, Change::SetStanding { peer: me, standing });
        w.alive(1, false);
        assert_eq!(of(&w), (0, 0));
        w.pass(1);
        assert_eq!(of(&w), (1, 1000));
        w.alive(0, false);
        assert_eq!(of(&w), (0, 0), "it cannot be read");
    }

    #[test]
    fn another_geometry_is_stored_whole() {
        let mut w = World::new(3, quick());
        w.group(Policy::Survive(2), Geometry { data: 1, parity: 0 }, &[0]);
        assert_eq!(of(&w), (1, 3 * 500));
        w.candidates[1].free = 500;
        assert_eq!(of(&w), (0, 0), "not without the room for it");
    }
}
