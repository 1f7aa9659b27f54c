//! Whether every block's shards are where the namespace says, asked of every store that is there.

use super::Volume;
use super::heal::ASKED_AT_ONCE;
use super::ports::ShardId;
use crate::id::{BlockName, GroupId, PeerTag};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The most shards that are named.
const NAMED: usize = 100;

/// A shard that is found missing is looked for once more after this: it may have been let go, or moved, meanwhile.
const AGAIN: Duration = Duration::from_secs(2);

/// What the stores have of what they should.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShardsFound {
    pub blocks: u64,
    /// Shards that were asked for, and those of them that were not there.
    pub shards: u64,
    pub missing: u64,
    /// Some of those, where they should be.
    pub named: Vec<(PeerTag, ShardId)>,
    /// Blocks of which fewer shards are there than a read takes.
    pub unreadable: u64,
    /// Participants that are not there, or did not answer: theirs were not looked for.
    pub silent: BTreeSet<PeerTag>,
}

impl Volume {
    /// Asks every store that is there for every shard it should have; `read`: has it read each of them. `progress` is
    /// told how many groups of how many were gone through.
    pub async fn find_shards(&self, read: bool, progress: impl Fn(u64, u64)) -> ShardsFound {
        let groups: Vec<GroupId> = {
            let namespace = self.inner.control.namespace();
            namespace.groups().filter(|(_, group)| group.blocks > 0).map(|(id, _)| id).collect()
        };
        let mut found = ShardsFound::default();
        for (done, group) in (1u64..).zip(&groups) {
            self.find_shards_of(*group, read, &mut found).await;
            progress(done, groups.len() as u64);
        }
        found
    }

    async fn find_shards_of(&self, group: GroupId, read: bool, found: &mut ShardsFound) {
        let Some(target) = self.target(group) else { return };
        let slots: Vec<Vec<PeerTag>> = {
            let namespace = self.inner.control.namespace();
            let Some(record) = namespace.group(group) else { return };
            record.slots.iter().map(|seats| seats.iter().map(|seat| seat.peer).collect()).collect()
        };
        let blocks: Vec<BlockName> = self.blocks_of(group).into_iter().map(|(name, _)| name).collect();
        found.blocks += blocks.len() as u64;
        let mut there: BTreeMap<BlockName, BTreeSet<u8>> = blocks.iter().map(|name| (*name, BTreeSet::new())).collect();
        let mut missing: BTreeMap<PeerTag, Vec<ShardId>> = BTreeMap::new();
        for (slot, seats) in (0u8..).zip(slots) {
            for peer in seats {
                for batch in blocks.chunks(ASKED_AT_ONCE) {
                    let ids: Vec<ShardId> = batch.iter().map(|name| target.shard(*name, slot)).collect();
                    let answer = match self.inner.control.is_alive(peer) {
                        true => self.lacking_at(peer, ids.clone(), read).await.ok(),
                        false => None,
                    };
                    let Some(lacks) = answer else {
                        found.silent.insert(peer);
                        break;
                    };
                    found.shards += ids.len() as u64;
                    let has = |id: &&ShardId| !lacks.contains(id);
                    for id in ids.iter().filter(has) {
                        there.entry(id.block).or_default().insert(slot);
                    }
                    missing.entry(peer).or_default().extend(lacks);
                }
            }
        }
        missing.retain(|_, ids| !ids.is_empty());
        if !missing.is_empty() {
            tokio::time::sleep(AGAIN).await;
            self.look_again(group, missing, &mut there, found).await;
        }
        let in_use = |name: &BlockName| self.inner.control.namespace().block(name).is_some_and(|block| block.uses > 0);
        let needed = usize::from(target.geometry.data);
        let few = there.iter().filter(|(name, slots)| slots.len() < needed && in_use(name));
        found.unreadable += few.count() as u64;
    }

    /// Looks once more for what was missing, as far as it should still be there.
    async fn look_again(
        &self,
        group: GroupId,
        missing: BTreeMap<PeerTag, Vec<ShardId>>,
        there: &mut BTreeMap<BlockName, BTreeSet<u8>>,
        found: &mut ShardsFound,
    ) {
        for (peer, mut ids) in missing {
            {
                let namespace = self.inner.control.namespace();
                let seated = |slot: u8| {
                    let seats = namespace.group(group).and_then(|record| record.slots.get(usize::from(slot)));
                    seats.is_some_and(|seats| seats.iter().any(|seat| seat.peer == peer))
                };
                let due = |id: &ShardId| {
                    let named = namespace.block(&id.block).is_some_and(|block| block.uses > 0 && block.group == group);
                    named && seated(id.index)
                };
                ids.retain(due);
            }
            for batch in ids.chunks(ASKED_AT_ONCE) {
                let Ok(lacks) = self.lacking_at(peer, batch.to_vec(), false).await else {
                    found.silent.insert(peer);
                    break;
                };
                for id in batch.iter().filter(|id| !lacks.contains(id)) {
                    there.entry(id.block).or_default().insert(id.index);
                }
                found.missing += lacks.len() as u64;
                let room = NAMED.saturating_sub(found.named.len());
                found.named.extend(lacks.into_iter().take(room).map(|id| (peer, id)));
            }
        }
    }
}
