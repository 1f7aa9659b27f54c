//! What groups need, carried out: slots filled, participants checked, blocks stored anew. Rebuilding is reading and
//! then writing: it uses the read path and the write path, there is no third.

use super::Volume;
use super::ports::{Errno, Shard, ShardError, ShardId};
use crate::group::{self, Outcome, UnderWay, Work};
use crate::id::{BlockName, GroupId, PeerTag};
use crate::namespace::{Block, Change, NewBlock, RELOCATED_BLOCKS};
use crate::policy::Geometry;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Shards that one question asks a peer about.
pub const ASKED_AT_ONCE: usize = 256;

/// Blocks rebuilt at the same time: their shards come from different peers.
const REBUILT_AT_ONCE: usize = 4;

/// How often the blocks of a group are gone through: blocks may have come meanwhile, or failed to be read.
const ROUNDS: usize = 4;

/// Blocks of a group that is encoded anew that move by one op.
const MOVED_AT_ONCE: usize = 64;
const _: () = assert!(MOVED_AT_ONCE <= RELOCATED_BLOCKS);

/// Repair has time: it asks one more peer only when another is slow beyond doubt, for every shard read counts.
const PATIENCE: Duration = Duration::from_secs(1);

/// What healing has moved since the start, counted.
#[derive(Default)]
pub struct HealingCounters {
    /// Shards read for repair from other peers and from this one's store, and their bytes.
    pub shards_read: AtomicU64,
    pub bytes_read: AtomicU64,
    /// Shards rebuilt, and their bytes.
    pub shards_rebuilt: AtomicU64,
    pub bytes_rebuilt: AtomicU64,
    under_way: Mutex<UnderWay>,
}

impl HealingCounters {
    fn rebuilt(&self, shards: usize, bytes: usize) {
        self.shards_rebuilt.fetch_add(shards as u64, Ordering::Relaxed);
        self.bytes_rebuilt.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What the work under way has done so far.
    pub fn under_way(&self) -> UnderWay {
        self.under_way.lock().clone()
    }

    fn read(&self, shards: usize, bytes: usize) {
        self.shards_read.fetch_add(shards as u64, Ordering::Relaxed);
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Says how far a piece of work is, until it ends, however it ends.
struct Progress {
    counters: Arc<HealingCounters>,
    target: Target,
    /// Shards that it stores of each block.
    seats: usize,
}

impl Progress {
    /// A block more has its shards where they are wanted.
    fn done(&self, block: &Block) {
        let bytes = self.seats * self.target.geometry.shard_bytes(block.len as usize);
        let mut under_way = self.counters.under_way.lock();
        let done = under_way.entry(self.target.group).or_default();
        (done.blocks, done.bytes) = (done.blocks + 1, done.bytes + bytes as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.counters.under_way.lock().remove(&self.target.group);
    }
}

/// What kept a block from being rebuilt.
enum Unbuilt {
    /// Too few of its shards can be read now.
    Unreadable,
    /// These peers did not take their shards.
    Refused(Vec<(u8, PeerTag, ShardError)>),
}

/// A group as it is when work begins.
#[derive(Clone, Copy)]
pub(super) struct Target {
    group: GroupId,
    pub(super) geometry: Geometry,
}

impl Target {
    pub(super) fn shard(&self, block: BlockName, index: u8) -> ShardId {
        ShardId { block, geometry: self.geometry, index }
    }
}

impl Volume {
    /// Carries out a piece of work to its end. Safe to give up and to repeat at any point.
    pub async fn work(&self, work: &Work) -> Outcome {
        let Some(target) = self.target(work.group()) else { return Outcome::Done { filled: Vec::new() } };
        match work {
            Work::Fill { seats, .. } => self.fill(target, seats).await,
            Work::Verify { slot, keeper, .. } => self.verify(target, *slot, *keeper).await,
            Work::Reencode { .. } => self.reencode(target).await,
        }
    }

    /// What healing has moved so far.
    pub fn healing(&self) -> &HealingCounters {
        &self.inner.healing
    }

    pub(super) fn target(&self, group: GroupId) -> Option<Target> {
        let geometry = self.inner.control.namespace().group(group)?.geometry;
        Some(Target { group, geometry })
    }

    pub(super) fn blocks_of(&self, group: GroupId) -> Vec<(BlockName, Block)> {
        self.inner.control.namespace().blocks_of(group).collect()
    }

    fn progress(&self, target: Target, seats: usize) -> Progress {
        Progress { counters: self.inner.healing.clone(), target, seats }
    }

    /// Gives the seats the shards they lack. A seat whose peer does not take them, or cannot make them durable, is
    /// left out.
    async fn fill(&self, target: Target, seats: &[(u8, PeerTag)]) -> Outcome {
        let mut seats: BTreeSet<(u8, PeerTag)> = seats.iter().copied().collect();
        let mut rebuilt = 0;
        let mut unreadable = 0;
        let progress = self.progress(target, seats.len());
        for _ in 0..ROUNDS {
            let blocks = self.blocks_of(target.group);
            let before = rebuilt;
            unreadable = 0;
            for batch in blocks.chunks(ASKED_AT_ONCE) {
                let lacking = self.lacking_of(target, batch, &mut seats).await;
                batch
                    .iter()
                    .filter(|(name, _)| !lacking.contains_key(name))
                    .for_each(|(_, block)| progress.done(block));
                let (more, lost) = self.rebuild_all(target, lacking, &mut seats, &progress).await;
                (rebuilt, unreadable) = (rebuilt + more, unreadable + lost);
            }
            if seats.is_empty() || (rebuilt == before && unreadable == 0) {
                break;
            }
        }
        if unreadable > 0 {
            tracing::error!(group = %target.group, blocks = unreadable, "blocks of a group under repair cannot be read now: too few of their shards are left");
        }
        for seat in seats.clone() {
            if let Err(why) = self.sync_store(seat.1).await {
                tracing::warn!(group = %target.group, peer = %seat.1, %why, "the shards of a new participant are not durable: it is not seated");
                seats.remove(&seat);
            }
        }
        // Blocks that nobody can read now do not keep the others waiting for their redundancy.
        if seats.is_empty() || (rebuilt == 0 && unreadable > 0) {
            return Outcome::Failed;
        }
        Outcome::Done { filled: seats.into_iter().collect() }
    }

    /// Which of these blocks lack which seat's shard. Seats whose peers do not answer are taken out.
    async fn lacking_of(
        &self,
        target: Target,
        batch: &[(BlockName, Block)],
        seats: &mut BTreeSet<(u8, PeerTag)>,
    ) -> BTreeMap<BlockName, (Block, Vec<(u8, PeerTag)>)> {
        let mut lacking: BTreeMap<BlockName, (Block, Vec<(u8, PeerTag)>)> = BTreeMap::new();
        for seat in seats.clone() {
            let ids = batch.iter().map(|(name, _)| target.shard(*name, seat.0)).collect();
            match self.lacking_at(seat.1, ids, false).await {
                Ok(missing) => {
                    let missing: BTreeSet<BlockName> = missing.into_iter().map(|id| id.block).collect();
                    for (name, block) in batch.iter().filter(|(name, _)| missing.contains(name)) {
                        lacking.entry(*name).or_insert((*block, Vec::new())).1.push(seat);
                    }
                }
                Err(why) => {
                    tracing::warn!(group = %target.group, peer = %seat.1, %why, "a peer to be seated does not answer");
                    seats.remove(&seat);
                }
            }
        }
        lacking
    }

    /// How many shards were rebuilt, and how many blocks could not be read.
    async fn rebuild_all(
        &self,
        target: Target,
        lacking: BTreeMap<BlockName, (Block, Vec<(u8, PeerTag)>)>,
        seats: &mut BTreeSet<(u8, PeerTag)>,
        progress: &Progress,
    ) -> (usize, usize) {
        let mut lacking = lacking.into_iter();
        let mut jobs: JoinSet<(Block, usize, Option<Unbuilt>)> = JoinSet::new();
        let (mut rebuilt, mut unreadable) = (0, 0);
        loop {
            while jobs.len() < REBUILT_AT_ONCE {
                let Some((name, (block, mut wanted))) = lacking.next() else { break };
                wanted.retain(|seat| seats.contains(seat));
                if !wanted.is_empty() {
                    let volume = self.clone();
                    jobs.spawn(async move {
                        let (stored, unbuilt) = volume.rebuild(target, name, block, wanted).await;
                        (block, stored, unbuilt)
                    });
                }
            }
            match jobs.join_next().await {
                None => return (rebuilt, unreadable),
                Some(Ok((block, stored, unbuilt))) => {
                    rebuilt += stored;
                    match unbuilt {
                        None => progress.done(&block),
                        Some(Unbuilt::Unreadable) => unreadable += 1,
                        Some(Unbuilt::Refused(by)) => {
                            for (slot, peer, why) in by {
                                tracing::warn!(group = %target.group, %peer, %why, "a peer to be seated does not take its shards");
                                seats.remove(&(slot, peer));
                            }
                        }
                    }
                }
                Some(Err(_)) => unreadable += 1,
            }
        }
    }

    /// Gives one block's shards to those that lack them; how many were stored.
    async fn rebuild(
        &self,
        target: Target,
        name: BlockName,
        block: Block,
        wanted: Vec<(u8, PeerTag)>,
    ) -> (usize, Option<Unbuilt>) {
        let shard_bytes = target.geometry.shard_bytes(block.len as usize);
        let first = wanted[0].0;
        let copied = if wanted.iter().all(|(slot, _)| *slot == first) {
            self.copy(target, name, first, &wanted).await
        } else {
            None
        };
        let (data, read): (BTreeMap<u8, Bytes>, usize) = match copied {
            Some(bytes) => (BTreeMap::from([(first, bytes)]), 1),
            None => {
                let read = usize::from(target.geometry.data);
                self.inner.pace.take((read * shard_bytes) as u64).await;
                let known = NewBlock { name, group: block.group, len: block.len };
                let Ok(bytes) = self.fetch_patiently(known, PATIENCE).await else {
                    return (0, Some(Unbuilt::Unreadable));
                };
                let Ok(shards) = self.encode(target.geometry, &bytes).await else {
                    return (0, Some(Unbuilt::Unreadable));
                };
                (
                    wanted
                        .iter()
                        .filter_map(|(slot, _)| Some((*slot, shards.get(usize::from(*slot))?.clone())))
                        .collect(),
                    read,
                )
            }
        };
        self.inner.healing.read(read, read * shard_bytes);
        let (mut stored, mut refused) = (0, Vec::new());
        for (slot, peer) in wanted {
            let Some(bytes) = data.get(&slot).cloned() else { continue };
            self.inner.pace.take(bytes.len() as u64).await;
            let crc = crc32c::crc32c(&bytes);
            let shard = Shard { id: target.shard(name, slot), block_bytes: block.len, crc, bytes };
            match self.put_shard(peer, shard).await {
                Ok(()) => {
                    stored += 1;
                    self.inner.healing.rebuilt(1, shard_bytes);
                }
                Err(why) => refused.push((slot, peer, why)),
            }
        }
        (stored, (!refused.is_empty()).then_some(Unbuilt::Refused(refused)))
    }

    /// The shard of a slot from a live participant of that very slot: one shard read instead of k.
    async fn copy(&self, target: Target, name: BlockName, slot: u8, wanted: &[(u8, PeerTag)]) -> Option<Bytes> {
        let holders: Vec<PeerTag> = {
            let namespace = self.inner.control.namespace();
            let seats = namespace.group(target.group)?.slots.get(usize::from(slot))?;
            seats.iter().map(|seat| seat.peer).collect()
        };
        let id = target.shard(name, slot);
        for holder in holders {
            let asked = wanted.iter().any(|(_, peer)| *peer == holder);
            if asked || !self.inner.control.is_alive(holder) {
                continue;
            }
            let local = holder == self.inner.control.me();
            let got = if local { self.inner.store.get(id).await } else { self.inner.network.get(holder, id).await };
            match got {
                Ok(shard) if shard.id == id && crc32c::crc32c(&shard.bytes) == shard.crc => {
                    self.inner.pace.take(shard.bytes.len() as u64).await;
                    return Some(shard.bytes);
                }
                Ok(_) => {
                    tracing::warn!(block = %name, %holder, slot, "a participant handed out another shard than it was asked for")
                }
                Err(why) => self.report(holder, id, &why),
            }
        }
        None
    }

    /// Has `keeper` read what it holds of a slot, and gives it what it lacks.
    async fn verify(&self, target: Target, slot: u8, keeper: PeerTag) -> Outcome {
        for again in [false, true] {
            let mut whole = true;
            let progress = self.progress(target, 0);
            for batch in self.blocks_of(target.group).chunks(ASKED_AT_ONCE) {
                let ids = batch.iter().map(|(name, _)| target.shard(*name, slot)).collect();
                match self.lacking_at(keeper, ids, true).await {
                    Ok(missing) => {
                        whole &= missing.is_empty();
                        batch.iter().for_each(|(_, block)| progress.done(block));
                    }
                    Err(why) => {
                        tracing::warn!(group = %target.group, peer = %keeper, %why, "a participant could not be verified");
                        return Outcome::Failed;
                    }
                }
            }
            drop(progress);
            if whole {
                let durable = self.sync_store(keeper).await.is_ok();
                return if durable { Outcome::Done { filled: Vec::new() } } else { Outcome::Failed };
            }
            if again || self.fill(target, &[(slot, keeper)]).await == Outcome::Failed {
                break;
            }
        }
        Outcome::Failed
    }

    /// Stores every block of a group anew under the group's policy, and has the namespace say so. Stops where the
    /// peers have no room for more, or too few of them are there, as it may have become meanwhile.
    async fn reencode(&self, target: Target) -> Outcome {
        let Some(policy) = self.inner.control.namespace().group(target.group).map(|group| group.policy) else {
            return Outcome::Done { filled: Vec::new() };
        };
        let blocks = self.blocks_of(target.group);
        let mut whole = true;
        for batch in blocks.chunks(MOVED_AT_ONCE) {
            let Some(wanted) = self.reshaped(target.group, batch) else {
                tracing::info!(group = %target.group, "the rest of a group waits for peers with room before it is encoded anew");
                return Outcome::Failed;
            };
            let mut moved: BTreeMap<GroupId, Vec<BlockName>> = BTreeMap::new();
            for (name, block) in batch {
                let shard_bytes = target.geometry.shard_bytes(block.len as usize);
                let read = usize::from(target.geometry.data);
                let stored = wanted.shards() * wanted.shard_bytes(block.len as usize);
                self.inner.pace.take((read * shard_bytes + stored) as u64).await;
                let known = NewBlock { name: *name, group: target.group, len: block.len };
                let Ok(bytes) = self.fetch_patiently(known, PATIENCE).await else {
                    whole = false;
                    continue;
                };
                self.inner.healing.read(read, read * shard_bytes);
                match self.place(policy, *name, &bytes).await {
                    // In any other geometry it would only be moved again.
                    Ok(placed) if self.target(placed.group).is_some_and(|to| to.geometry == wanted) => {
                        self.inner.healing.rebuilt(wanted.shards(), stored);
                        moved.entry(placed.group).or_default().push(*name);
                    }
                    Ok(_) | Err(_) => whole = false,
                }
            }
            // The old shards may be durable, so the new ones must be before the old ones can go.
            if self.sync_shards().await.is_err() || self.relocate(target.group, moved).await.is_err() {
                return Outcome::Failed;
            }
        }
        if whole { Outcome::Done { filled: Vec::new() } } else { Outcome::Failed }
    }

    fn reshaped(&self, group: GroupId, blocks: &[(BlockName, Block)]) -> Option<Geometry> {
        let candidates = self.inner.control.candidates();
        let in_slot = |geometry: Geometry| -> u64 {
            blocks.iter().map(|(_, block)| geometry.shard_bytes(block.len as usize) as u64).sum()
        };
        let namespace = self.inner.control.namespace();
        group::reshaped(namespace.group(group)?, &candidates, in_slot)
    }

    async fn relocate(&self, from: GroupId, moved: BTreeMap<GroupId, Vec<BlockName>>) -> Result<(), Errno> {
        let changes: Vec<Change> =
            moved.into_iter().map(|(to, blocks)| Change::Relocate { from, to, blocks }).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let seq = self.inner.control.change(&mut |_| Ok(changes.clone()))?;
        self.inner.control.settle(seq, false).await
    }

    /// Which of these shards a peer does not have; `read`: or cannot read whole.
    pub(super) async fn lacking_at(
        &self,
        peer: PeerTag,
        ids: Vec<ShardId>,
        read: bool,
    ) -> Result<Vec<ShardId>, ShardError> {
        let inner = &self.inner;
        if peer == inner.control.me() {
            inner.store.lacking(ids, read).await
        } else {
            inner.network.lacking(peer, ids, read).await
        }
    }

    /// Those of these blocks of a group that are whole: of each slot, some live participant has the shard. Before a
    /// shard that its seats do not call for is let go, this says that it is not needed: a block may have been named
    /// while healing seated others than it was put to.
    pub async fn whole(&self, group: GroupId, blocks: Vec<BlockName>) -> BTreeSet<BlockName> {
        let Some(target) = self.target(group) else { return BTreeSet::new() };
        let slots: Vec<Vec<PeerTag>> = {
            let namespace = self.inner.control.namespace();
            let Some(record) = namespace.group(group) else { return BTreeSet::new() };
            record.slots.iter().map(|seats| seats.iter().map(|seat| seat.peer).collect()).collect()
        };
        let mut whole: BTreeSet<BlockName> = blocks.into_iter().collect();
        for (slot, seats) in (0u8..).zip(slots) {
            let mut here = BTreeSet::new();
            for peer in seats.into_iter().filter(|peer| self.inner.control.is_alive(*peer)) {
                let asked: Vec<BlockName> = whole.difference(&here).copied().collect();
                for batch in asked.chunks(ASKED_AT_ONCE) {
                    let ids = batch.iter().map(|name| target.shard(*name, slot)).collect();
                    let Ok(missing) = self.lacking_at(peer, ids, false).await else { continue };
                    let missing: BTreeSet<BlockName> = missing.into_iter().map(|id| id.block).collect();
                    here.extend(batch.iter().filter(|name| !missing.contains(name)));
                }
            }
            whole.retain(|name| here.contains(name));
        }
        whole
    }

    /// Reads a shard of this peer's own, holds it against what the others' give, and puts it right where it is wrong.
    /// False where it is missing and has to be got again; true too where the others cannot tell.
    pub async fn recheck(&self, id: ShardId) -> bool {
        let Ok(own) = self.inner.store.get(id).await else { return false };
        let known = {
            let namespace = self.inner.control.namespace();
            namespace.block(&id.block).map(|block| NewBlock { name: id.block, group: block.group, len: block.len })
        };
        let Some(known) = known else { return true };
        let Ok(block) = self.fetch_patiently(known, PATIENCE).await else { return true };
        let Ok(shards) = self.encode(id.geometry, &block).await else { return true };
        let Some(right) = shards.get(usize::from(id.index)).filter(|right| **right != own.bytes).cloned() else {
            return true;
        };
        tracing::error!(block = %id.block, index = id.index, "a shard here was not what its block says: it is put right");
        let crc = crc32c::crc32c(&right);
        let shard = Shard { id, block_bytes: known.len, crc, bytes: right };
        // Another checksum makes it another form, which takes the place of the one there.
        self.put_shard(self.inner.control.me(), shard).await.is_ok()
    }

    /// Tells a holder that a shard it should have cannot be had from it.
    pub(super) fn report(&self, holder: PeerTag, id: ShardId, why: &ShardError) {
        if matches!(why, ShardError::Missing { .. } | ShardError::Damaged { .. }) {
            self.inner.control.suspect(holder, id);
        }
    }
}
