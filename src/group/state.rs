//! Cold, goldilocks or hot.

use crate::id::PeerTag;
use crate::namespace::Group;
use std::collections::BTreeSet;
use std::fmt;

/// How many live participants a group has, against how many it wants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum State {
    /// Too few: its slots do not have a live machine each.
    Cold,
    /// One live participant in every slot, each on a machine of its own.
    Goldilocks,
    /// Too many: some slot has two live participants.
    Hot,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Cold => "cold",
            State::Goldilocks => "goldilocks",
            State::Hot => "hot",
        })
    }
}

/// The state of a group. Every peer counts as a machine of its own, for several peers on one computer is how
/// people try the system out. A group that is cold in one slot and hot in another is cold.
pub fn state(group: &Group, is_alive: impl Fn(PeerTag) -> bool) -> State {
    let live = live_slots(group, is_alive);
    if !each_its_own(&live) {
        State::Cold
    } else if live.iter().any(|slot| slot.len() > 1) {
        State::Hot
    } else {
        State::Goldilocks
    }
}

/// The live participants of each slot.
pub(super) fn live_slots(group: &Group, is_alive: impl Fn(PeerTag) -> bool) -> Vec<BTreeSet<PeerTag>> {
    let live = |seats: &Vec<_>| {
        seats.iter().map(|seat: &crate::namespace::Seat| seat.peer).filter(|peer| is_alive(*peer)).collect()
    };
    group.slots.iter().map(live).collect()
}

/// Whether every slot can be given a live participant that no other slot is given: a matching of slots to peers,
/// by augmenting paths. With one participant a slot it says that none is empty and no peer has two.
fn each_its_own(slots: &[BTreeSet<PeerTag>]) -> bool {
    /// Seats `slot`, asking those in its way to move.
    fn seat(
        slot: usize,
        slots: &[BTreeSet<PeerTag>],
        asked: &mut BTreeSet<PeerTag>,
        seated: &mut std::collections::BTreeMap<PeerTag, usize>,
    ) -> bool {
        for peer in &slots[slot] {
            if !asked.insert(*peer) {
                continue;
            }
            let free = match seated.get(peer).copied() {
                None => true,
                Some(other) => seat(other, slots, asked, seated),
            };
            if free {
                seated.insert(*peer, slot);
                return true;
            }
        }
        false
    }
    let mut seated = Default::default();
    (0..slots.len()).all(|slot| seat(slot, slots, &mut BTreeSet::new(), &mut seated))
}

#[cfg(test)]
mod tests {
    use super::super::survival::tests::group;
    use super::*;

    fn state_of(slots: &[&[u32]], dead: &[u32]) -> State {
        state(&group(2, slots), |peer| !dead.contains(&peer.0))
    }

    #[test]
    fn a_group_is_as_its_live_seats_are() {
        assert_eq!(state_of(&[&[1], &[2], &[3]], &[]), State::Goldilocks);
        assert_eq!(state_of(&[&[1], &[2], &[3]], &[2]), State::Cold);
        assert_eq!(state_of(&[&[1], &[2], &[3, 4]], &[]), State::Hot);
        assert_eq!(state_of(&[&[1], &[2], &[3, 4]], &[4]), State::Goldilocks);
        assert_eq!(state_of(&[&[1], &[], &[3]], &[]), State::Cold);
    }

    #[test]
    fn cold_wins_over_hot() {
        assert_eq!(state_of(&[&[1], &[2], &[3, 4]], &[1]), State::Cold);
    }

    #[test]
    fn two_slots_on_one_peer_are_cold_unless_another_can_take_one() {
        assert_eq!(state_of(&[&[1], &[2], &[1]], &[]), State::Cold);
        assert_eq!(state_of(&[&[1], &[1, 2], &[2, 3]], &[]), State::Hot);
        assert_eq!(state_of(&[&[1], &[1, 2], &[2, 3]], &[3]), State::Cold);
    }
}
