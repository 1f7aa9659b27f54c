//! What a peer's store owes the share, and what in it nobody needs any more.

use crate::id::{BlockName, GroupId, PeerTag};
use crate::namespace::{Group, Namespace};
use crate::volume::ports::ShardId;
use std::collections::BTreeSet;

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
