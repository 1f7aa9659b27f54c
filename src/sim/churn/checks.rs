//! What must hold at all times, held against the truth of a run and not against what its peers believe.

use super::world::World;
use crate::group::{State, state};
use crate::id::{GroupId, PeerTag};
use crate::sim::queue::between;
use crate::time::Instant;
use std::collections::BTreeMap;

/// Groups outside goldilocks: since when, and since when nothing about it changed that healing did not do.
#[derive(Default)]
pub struct Unrest {
    groups: BTreeMap<GroupId, Unsettled>,
}

struct Unsettled {
    since: Instant,
    disturbed: Instant,
}

impl Unrest {
    /// How many groups are outside goldilocks.
    pub fn count(&self) -> u64 {
        self.groups.len() as u64
    }
}

/// Violations that are written down; the rest is like them.
const KEPT: usize = 20;

impl World<'_> {
    /// Something has changed about a group; `disturbed`: one of its participants came or went.
    pub(super) fn watch_group(&mut self, id: GroupId, disturbed: bool) {
        let now = self.queue.now();
        let Some(group) = self.namespace.group(id) else { return };
        let up = |peer| self.is_up(peer);
        let lost = !self.disks.readable(id, |peer| self.exists(peer));
        if lost || state(group, up) == State::Goldilocks {
            if let Some(unsettled) = self.unrest.groups.remove(&id)
                && !lost
            {
                self.figures.healing += between(unsettled.since, now);
                self.figures.healed += 1;
            }
        } else {
            let unsettled = self.unrest.groups.entry(id).or_insert(Unsettled { since: now, disturbed: now });
            if disturbed {
                unsettled.disturbed = now;
            }
        }
    }

    /// Who reaches whom has changed: all groups have their time anew.
    pub(super) fn disturb_all(&mut self) {
        let now = self.queue.now();
        self.unrest.groups.values_mut().for_each(|unsettled| unsettled.disturbed = now);
    }

    /// No group stays outside goldilocks while enough peers live; no two live participants keep one slot. As long as
    /// some cannot reach others, either side fills the slots of the other, so that they do.
    pub(super) fn check_unrest(&mut self) {
        if self.network.is_cut() {
            return;
        }
        let now = self.queue.now();
        let patience = self.case.healing.repair_after + self.case.healing.patience;
        let up = self.machines.values().filter(|machine| machine.is_up()).count();
        let overdue = self.unrest.groups.iter().filter(|(_, unsettled)| between(unsettled.disturbed, now) > patience);
        let overdue: Vec<GroupId> = overdue.map(|(id, _)| *id).collect();
        for id in overdue {
            let Some(group) = self.namespace.group(id) else { continue };
            // What cannot be read now cannot be repaired now, and with too few peers nothing can be seated.
            if up >= group.slots.len() && self.disks.readable(id, |peer| self.is_up(peer)) {
                let state = state(group, |peer| self.is_up(peer));
                self.violation(format!("group {id} has been {state} for longer than {} s", patience.as_secs()));
            }
            self.unrest.groups.remove(&id);
        }
    }

    /// Participants that lost their seats drop what they held of it; it must not have been needed.
    pub(super) fn drop_unseated(&mut self, id: GroupId) {
        let Some(group) = self.namespace.group(id) else { return };
        let mut unseated = Vec::new();
        for (slot, seats) in (0u8..).zip(&group.slots) {
            for peer in self.disks.holders(id, slot) {
                if self.is_up(peer) && !seats.iter().any(|seat| seat.peer == peer) {
                    unseated.push((slot, peer));
                }
            }
        }
        for (slot, peer) in unseated {
            self.drop_shards(id, slot, peer);
        }
    }

    pub(super) fn drop_shards(&mut self, id: GroupId, slot: u8, peer: PeerTag) {
        if self.disks.drop(id, slot, peer) == 0 {
            self.violation(format!("peer {peer} dropped slot {slot} of group {id}, which nobody else holds"));
        }
    }

    /// A repair has read so much: whatever it filled, the shards of k slots are enough.
    pub(super) fn check_reads(&mut self, id: GroupId, read: u64) {
        let needed = self.namespace.group(id).map_or(0, |group| u64::from(group.geometry.data));
        let budget = needed * self.disks.slot_bytes(id);
        if read > budget {
            self.violation(format!("the repair of group {id} read {read} bytes, more than {budget}"));
        }
    }

    pub(super) fn violation(&mut self, what: String) {
        if self.figures.violations.len() < KEPT {
            let at = self.queue.now().0 as f64 / 1e9;
            self.figures.violations.push(format!("at {at:.1} s {what}"));
        }
    }
}
