//! What must hold while faults go on: a share that nothing has befallen for a while has seen to its groups, as far as
//! machines can reach one another, though others are still down or cut off.

use super::world::World;
use crate::group::{State, state};
use crate::id::{GroupId, PeerTag};
use crate::policy::Geometry;
use crate::sim::queue::between;
use crate::time::Instant;
use crate::volume::ports::ShardId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long groups may take, besides the time that an absence is put up with.
pub(super) const PATIENCE: Duration = Duration::from_secs(75);

/// How often groups are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// Groups outside goldilocks, by the machine that sees them so: since when.
#[derive(Default)]
pub(super) struct Unrest {
    groups: BTreeMap<(usize, GroupId), Instant>,
    /// When something last befell a machine.
    touched: Instant,
}

impl World<'_> {
    /// Something has befallen a machine: all groups have their time anew.
    pub(super) fn touched(&mut self) {
        self.unrest = Unrest { groups: BTreeMap::new(), touched: self.queue.now() };
    }

    /// No group stays outside goldilocks, and so no slot with two live participants, while enough machines that reach
    /// one another could see to it.
    pub(super) fn check_groups(&mut self) {
        let now = self.queue.now();
        let patience = PATIENCE + self.plan.repair_after;
        let mut unsettled = BTreeMap::new();
        let (mut overdue, mut judged) = (Vec::new(), 0);
        let quiet = between(self.unrest.touched, now) > patience;
        for side in self.sides() {
            for &n in &side {
                // One whose admission only a dead machine has heard of reaches nobody else.
                let side: BTreeSet<usize> = side.iter().copied().filter(|at| self.know_each_other(n, *at)).collect();
                let namespace = &self.machines[n].namespace;
                for (id, group) in namespace.groups().filter(|(_, group)| group.blocks > 0) {
                    let alive = |peer| self.index(peer).is_some_and(|at| side.contains(&at));
                    let state = state(group, alive);
                    judged += u32::from(quiet);
                    if state == State::Goldilocks || !self.can_settle(n, id, &side) {
                        continue;
                    }
                    let since = self.unrest.groups.get(&(n, id)).copied().unwrap_or(now);
                    unsettled.insert((n, id), since);
                    if between(since, now) > patience {
                        let (tag, slots) = (self.machines[n].tag, &group.slots);
                        overdue.push(format!(
                            "group {id} as {tag} sees it is {state}, with nothing in its way: {slots:?}"
                        ));
                    }
                }
            }
        }
        self.unrest.groups = unsettled;
        self.report.judged += judged;
        for what in overdue {
            self.violation(what);
            self.touched();
        }
    }

    /// Machines that reach one another, on either side of a cut. A side with a slow machine is none: that one is now
    /// thought dead, now alive.
    fn sides(&self) -> Vec<BTreeSet<usize>> {
        let there = |n: &usize| self.machines[*n].is_up() && self.machines[*n].hearing.is_none() && self.is_heard(*n);
        let (one, other): (BTreeSet<usize>, BTreeSet<usize>) =
            (0..self.machines.len()).filter(there).partition(|n| self.is_cut_off(*n));
        let even = |side: &BTreeSet<usize>| side.iter().all(|n| self.machines[*n].slow.is_zero());
        [one, other].into_iter().filter(even).collect()
    }

    fn know_each_other(&self, a: usize, b: usize) -> bool {
        let knows = |a: usize, b: usize| self.machines[a].namespace.peer(self.machines[b].tag).is_some();
        knows(a, b) && knows(b, a)
    }

    /// Whether there are machines with room for all slots, and every block can be read from those who sit there.
    fn can_settle(&self, n: usize, id: GroupId, side: &BTreeSet<usize>) -> bool {
        let namespace = &self.machines[n].namespace;
        let Some(group) = namespace.group(id) else { return false };
        let takes = |at: &&usize| {
            let one = &self.machines[**at];
            !one.full && namespace.peer(one.tag).is_some() && !namespace.standing(one.tag).leaving
        };
        let holds = |peer: PeerTag, shard: &ShardId| {
            let at = self.index(peer).filter(|at| side.contains(at));
            at.is_some_and(|at| self.machines[at].store.get(shard).is_some_and(|held| !held.rotten))
        };
        let readable = |(block, _)| {
            let Geometry { data, .. } = group.geometry;
            let slots = (0u8..).zip(&group.slots).filter(|(index, seats)| {
                let shard = ShardId { block, geometry: group.geometry, index: *index };
                seats.iter().any(|seat| holds(seat.peer, &shard))
            });
            slots.count() >= usize::from(data)
        };
        side.iter().filter(takes).count() >= group.slots.len() && namespace.blocks_of(id).all(readable)
    }

    /// A repair has read so many shards to have so many blocks: those of k slots are enough, whatever it filled.
    pub(super) fn check_reads(&mut self, id: GroupId, geometry: Geometry, blocks: usize, read: usize) {
        if read > blocks * usize::from(geometry.data) {
            self.violation(format!("the repair of group {id} read {read} shards for {blocks} blocks of {geometry}"));
        }
    }
}
