//! How many machine losses the data survives, in whole machines, without rounding up.

use super::state::live_slots;
use crate::id::PeerTag;
use crate::namespace::Group;
use crate::policy::{Geometry, Policy};
use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

/// How many machines may be lost before some block of the share cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Survival {
    /// Right now, whichever machines they are. `None`: some data cannot be read as it is, until a dead peer returns.
    pub now: Option<u32>,
    /// Once every group has a live participant in every slot again, with the peers that are alive now.
    pub healed: u32,
}

/// What a share survives: what its worst group does. Groups without blocks hold no data and do not count; where
/// no group counts, what the next write under `default` would survive. The namespace, and with it the content
/// kept inline, is whole on every peer, so it never is the worst.
pub fn losses_survived(
    groups: impl IntoIterator<Item = impl Borrow<Group>>,
    alive: &BTreeSet<PeerTag>,
    default: Policy,
) -> Survival {
    let mut worst: Option<Survival> = None;
    for group in groups.into_iter().filter(|group| group.borrow().blocks > 0) {
        let this = of_group(group.borrow(), alive);
        // `None` is less than any number: unreadable now is the worst there is.
        worst =
            Some(worst.map_or(this, |worst| Survival {
                now: worst.now.min(this.now),
                healed: worst.healed.min(this.healed),
            }));
    }
    worst.unwrap_or_else(|| {
        let fresh = healed(default.geometry(alive.len().max(1)), alive.len());
        Survival { now: Some(fresh), healed: fresh }
    })
}

fn of_group(group: &Group, alive: &BTreeSet<PeerTag>) -> Survival {
    let slots = live_slots(group, |peer| alive.contains(&peer));
    Survival { now: losses_now(&slots, group.geometry.data), healed: healed(group.geometry, alive.len()) }
}

/// The fewest live peers whose loss leaves less than `data` shards, less one. A slot with several live
/// participants is counted as if only one of them held it, so that the number may be too low but never too high.
pub(super) fn losses_now(slots: &[BTreeSet<PeerTag>], data: u8) -> Option<u32> {
    let mut held: BTreeMap<PeerTag, usize> = BTreeMap::new();
    let mut live = 0;
    for slot in slots {
        let holder = slot.iter().min_by_key(|peer| held.get(peer).copied().unwrap_or(0));
        if let Some(peer) = holder {
            *held.entry(*peer).or_default() += 1;
            live += 1;
        }
    }
    losses(live, held.into_values().collect(), usize::from(data))
}

/// What the geometry survives when its slots are spread evenly over `peers`.
fn healed(geometry: Geometry, peers: usize) -> u32 {
    let (slots, data) = (geometry.shards(), usize::from(geometry.data));
    if peers == 0 {
        return 0;
    }
    let held = (0..peers.min(slots)).map(|peer| slots / peers + usize::from(peer < slots % peers)).collect();
    losses(slots, held, data).unwrap_or(0)
}

/// The largest holders go first; each slot has one holder, so no other choice of peers does more harm.
fn losses(mut live: usize, mut held: Vec<usize>, data: usize) -> Option<u32> {
    held.sort_unstable_by(|a, b| b.cmp(a));
    let mut survived = None;
    for slots in std::iter::once(0).chain(held) {
        live -= slots;
        if live < data {
            break;
        }
        survived = Some(survived.map_or(0, |n| n + 1));
    }
    survived
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::namespace::Seat;

    /// A group of `data` data shards and these participants.
    pub(in crate::group) fn group(data: u8, slots: &[&[u32]]) -> Group {
        let seat = |peer: &u32| Seat { peer: PeerTag(*peer), stamp: Default::default() };
        let geometry = Geometry { data, parity: slots.len() as u8 - data };
        Group {
            policy: Policy::ReedSolomon { data, parity: geometry.parity },
            geometry,
            slots: slots.iter().map(|peers| peers.iter().map(seat).collect()).collect(),
            blocks: 1,
        }
    }

    fn survived(groups: &[Group], alive: &[u32]) -> (Option<u32>, u32) {
        let alive = alive.iter().map(|peer| PeerTag(*peer)).collect();
        let Survival { now, healed } = losses_survived(groups, &alive, crate::policy::DEFAULT_POLICY);
        (now, healed)
    }

    const SIX: [&[u32]; 6] = [&[1], &[2], &[3], &[4], &[5], &[6]];

    #[test]
    fn parity_is_what_a_whole_group_survives_and_each_death_takes_one() {
        let groups = [group(4, &SIX)];
        assert_eq!(survived(&groups, &[1, 2, 3, 4, 5, 6, 7, 8]), (Some(2), 2));
        assert_eq!(survived(&groups, &[1, 2, 3, 4, 5, 7]), (Some(1), 2));
        assert_eq!(survived(&groups, &[1, 2, 3, 4, 7, 8]), (Some(0), 2));
        assert_eq!(survived(&groups, &[1, 2, 3, 7, 8, 9]), (None, 2));
    }

    #[test]
    fn healing_onto_fewer_peers_than_slots_survives_less() {
        let groups = [group(4, &SIX)];
        assert_eq!(survived(&groups, &[1, 2, 3, 4, 5]), (Some(1), 1));
        assert_eq!(survived(&groups, &[1, 2, 3]).1, 1);
        assert_eq!(survived(&groups, &[1, 2]).1, 0);
        assert_eq!(survived(&groups, &[1]).1, 0);
    }

    #[test]
    fn a_peer_with_several_slots_takes_them_all_along() {
        assert_eq!(survived(&[group(4, &[&[1], &[1], &[2], &[2], &[3], &[3]])], &[1, 2, 3]), (Some(1), 1));
        assert_eq!(survived(&[group(4, &[&[1], &[1], &[1], &[2], &[2], &[3]])], &[1, 2, 3]), (Some(0), 1));
    }

    #[test]
    fn copies_survive_all_but_the_last() {
        assert_eq!(survived(&[group(1, &[&[1], &[2], &[3]])], &[1, 2, 3]), (Some(2), 2));
        assert_eq!(survived(&[group(1, &[&[1], &[2], &[3]])], &[2]), (Some(0), 0));
        assert_eq!(survived(&[group(1, &[&[1]])], &[2, 3]), (None, 0));
    }

    #[test]
    fn the_share_survives_what_its_worst_group_does_and_empty_groups_do_not_count() {
        let mut groups = [group(4, &SIX), group(1, &[&[1], &[2]]), group(1, &[&[3]])];
        groups[2].blocks = 0;
        assert_eq!(survived(&groups, &[1, 2, 3, 4, 5, 6]), (Some(1), 1));
    }

    #[test]
    fn a_second_participant_in_a_slot_never_makes_it_promise_too_much() {
        let groups = [group(2, &[&[1, 2], &[1, 2], &[3]])];
        // Peers 1 and 2 both hold slots 0 and 1; losing both leaves one shard of the two needed.
        assert!(survived(&groups, &[1, 2, 3]).0 <= Some(1));
    }

    #[test]
    fn without_data_the_next_write_is_what_counts() {
        for (peers, expected) in [(1, 0), (2, 1), (3, 1), (4, 2), (6, 2), (9, 2)] {
            let alive: Vec<u32> = (1..=peers).collect();
            assert_eq!(survived(&[], &alive), (Some(expected), expected), "{peers} peers");
        }
    }
}
