//! What a peer's store owes the share, and what in it nobody needs any more.

use crate::id::{BlockName, GroupId, PeerTag};
use crate::namespace::{Group, Namespace};
use crate::volume::ports::ShardId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a shard in a peer's store is to the share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Custody {
    /// A block that files use, in a slot that the peer sits in.
    Owed,
    /// Not owed, but what says so is not settled everywhere: it is kept.
    Open,
    /// Nothing names the block, and nothing that is known can name it again. A writer that has stored it may be about
    /// to.
    Unnamed,
    /// Others hold its slot.
    Surplus,
}

/// Blocks and groups that ops touched which some peers may lack: those ops may yet be applied in another order.
#[derive(Clone, Debug, Default)]
pub struct Unsettled {
    pub blocks: BTreeSet<BlockName>,
    pub groups: BTreeSet<GroupId>,
}

/// What this shard is in the store of `me`. `is_alive` says whose shards can be had: where a slot has nobody, what
/// others hold of its group is open too, as the last resort of a search.
pub fn custody(
    namespace: &Namespace,
    unsettled: &Unsettled,
    me: PeerTag,
    id: &ShardId,
    is_alive: impl Fn(PeerTag) -> bool,
) -> Custody {
    let Some(block) = namespace.block(&id.block) else {
        return if unsettled.blocks.contains(&id.block) { Custody::Open } else { Custody::Unnamed };
    };
    if block.uses == 0 {
        return Custody::Open;
    }
    let Some(group) = namespace.group(block.group) else { return Custody::Open };
    let sits = |group: &Group| {
        group.geometry == id.geometry
            && group.slots.get(usize::from(id.index)).is_some_and(|seats| seats.iter().any(|seat| seat.peer == me))
    };
    if sits(group) {
        return Custody::Owed;
    }
    let whole = group.slots.iter().all(|seats| seats.iter().any(|seat| is_alive(seat.peer)));
    if !whole || unsettled.blocks.contains(&id.block) || unsettled.groups.contains(&block.group) {
        Custody::Open
    } else {
        Custody::Surplus
    }
}

/// How long a shard that nobody needs is kept after it was last put: whoever put it may be about to name it. Twice what
/// a writer lets pass before it puts anew (`volume::commit`).
pub const KEPT_FOR: Duration = Duration::from_secs(60);

/// Of these shards in the store of `me`, how many it does not owe, and those that nobody needs: they may go once
/// they were put [`KEPT_FOR`] ago, if everybody's ops have been heard for as long. `is_worked_on`: groups whose
/// shards may be on their way to peers that do not sit in them yet.
pub fn useless(
    namespace: &Namespace,
    me: PeerTag,
    held: impl IntoIterator<Item = ShardId>,
    is_alive: impl Fn(PeerTag) -> bool,
    is_worked_on: impl Fn(GroupId) -> bool,
) -> (usize, BTreeSet<ShardId>) {
    let settled = Unsettled::default();
    let unowed: Vec<ShardId> = held
        .into_iter()
        .filter(|id| custody(namespace, &settled, me, id, &is_alive) != Custody::Owed)
        .collect();
    if unowed.is_empty() {
        return (0, BTreeSet::new());
    }
    let (blocks, groups) = namespace.unsettled();
    let unsettled = Unsettled { blocks, groups };
    let worked_on = |id: &ShardId| namespace.block(&id.block).is_some_and(|block| is_worked_on(block.group));
    let useless = |id: &ShardId| match custody(namespace, &unsettled, me, id, &is_alive) {
        Custody::Unnamed => true,
        Custody::Surplus => !worked_on(id),
        Custody::Owed | Custody::Open => false,
    };
    (unowed.len(), unowed.iter().copied().filter(useless).collect())
}

/// What a store is held to, round after round.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// There was a round since the start.
    compared: bool,
    /// What was missing the last time.
    lacking: BTreeSet<ShardId>,
}

/// What a round found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Findings {
    /// The store lost everything it had: its seats count for nothing.
    Emptied,
    /// In these groups shards of these slots are missing, and are not just on their way.
    Lacking(Vec<(GroupId, Vec<u8>)>),
}

impl Comparison {
    /// The store owes so many shards, and these of them are missing, by group. `known_lost`: shards that were found
    /// damaged. Others are believed missing when they were so the last time too: an op may be here before the shards.
    pub fn round(
        &mut self,
        owed: usize,
        lacking: &BTreeMap<GroupId, Vec<ShardId>>,
        known_lost: &BTreeSet<ShardId>,
    ) -> Findings {
        let missing: usize = lacking.values().map(Vec::len).sum();
        if !std::mem::replace(&mut self.compared, true) && owed > 0 && missing == owed {
            return Findings::Emptied;
        }
        let before = std::mem::replace(&mut self.lacking, lacking.values().flatten().copied().collect());
        let lost = |id: &&ShardId| before.contains(id) || known_lost.contains(id);
        let slots = |missing: &[ShardId]| -> BTreeSet<u8> { missing.iter().filter(lost).map(|id| id.index).collect() };
        let found = lacking.iter().map(|(group, missing)| (*group, slots(missing).into_iter().collect()));
        Findings::Lacking(found.filter(|(_, slots): &(_, Vec<u8>)| !slots.is_empty()).collect())
    }
}

/// The slots of a group that a peer sits in.
pub fn slots_of(group: &Group, peer: PeerTag) -> impl Iterator<Item = u8> {
    (0u8..).zip(&group.slots).filter(move |(_, seats)| seats.iter().any(|seat| seat.peer == peer)).map(|(slot, _)| slot)
}

/// The shards that a peer owes to one group.
pub fn owed(namespace: &Namespace, id: GroupId, me: PeerTag) -> Vec<ShardId> {
    let Some(group) = namespace.group(id) else { return Vec::new() };
    let slots: Vec<u8> = slots_of(group, me).collect();
    let geometry = group.geometry;
    let of_block = |block| slots.iter().map(move |index| ShardId { block, geometry, index: *index });
    namespace.blocks_of(id).flat_map(|(name, _)| of_block(name)).collect()
}
