//! What stores lack of what the seats say is in them. A store that was damaged is filled again by its peer; until then
//! nobody may count on it who asks what can be read without a machine.

use crate::id::{GroupId, PeerTag};
use crate::namespace::Group;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// The most groups that a peer names.
pub const NAMED_LACKING: usize = 4096;

/// What a peer knows its own store to lack.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lacking {
    /// The store was compared with the seats since the start, and `groups` are all.
    pub sure: bool,
    /// Groups of which shards are missing, [`NAMED_LACKING`] at most.
    pub groups: Vec<GroupId>,
}

impl Lacking {
    /// What a comparison found.
    pub fn of(groups: impl ExactSizeIterator<Item = GroupId>) -> Lacking {
        Lacking { sure: groups.len() <= NAMED_LACKING, groups: groups.take(NAMED_LACKING).collect() }
    }
}

/// What is known of the stores of those that told.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    lacking: BTreeMap<PeerTag, BTreeSet<GroupId>>,
    /// Peers that nobody may count on in any group.
    unsure: BTreeSet<PeerTag>,
}

impl Holdings {
    /// Of what is known: a store that was not compared yet is taken to hold what it should.
    pub fn known<'a>(told: impl IntoIterator<Item = (PeerTag, &'a Lacking)>) -> Holdings {
        let lacking = |(peer, one): (PeerTag, &Lacking)| (peer, one.groups.iter().copied().collect());
        Holdings { lacking: told.into_iter().map(lacking).collect(), unsure: BTreeSet::new() }
    }

    /// Of what is sure: of `peers`, whoever has not told, or does not know yet itself, is taken to hold nothing.
    pub fn sure<'a>(
        peers: impl IntoIterator<Item = PeerTag>,
        told: impl IntoIterator<Item = (PeerTag, &'a Lacking)>,
    ) -> Holdings {
        let told: Vec<_> = told.into_iter().collect();
        let sure: BTreeSet<PeerTag> = told.iter().filter(|(_, one)| one.sure).map(|(peer, _)| *peer).collect();
        let unsure = peers.into_iter().filter(|peer| !sure.contains(peer)).collect();
        Holdings { unsure, ..Holdings::known(told) }
    }

    /// Whether there is somebody whose store nobody can speak for.
    pub fn is_sure(&self) -> bool {
        self.unsure.is_empty()
    }

    fn lacks(&self, peer: PeerTag, id: GroupId) -> bool {
        self.unsure.contains(&peer) || self.lacking.get(&peer).is_some_and(|groups| groups.contains(&id))
    }

    /// The group with only those in its seats whose stores have its shards.
    pub fn held<'a>(&self, id: GroupId, group: &'a Group) -> Cow<'a, Group> {
        let lacks = |peer| self.lacks(peer, id);
        if !group.slots.iter().flatten().any(|seat| lacks(seat.peer)) {
            return Cow::Borrowed(group);
        }
        let mut held = group.clone();
        held.slots.iter_mut().for_each(|seats| seats.retain(|seat| !lacks(seat.peer)));
        Cow::Owned(held)
    }
}
