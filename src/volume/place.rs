//! Where blocks go: one open group per policy and geometry, participants replaced when a put to them fails.

use super::Volume;
use super::ports::{Candidate, Errno, Shard, ShardError, ShardId};
use crate::group::{ROOM, choose};
use crate::id::{BlockName, GroupId, PeerTag};
use crate::namespace::{Change, Group, Namespace, NewBlock};
use crate::policy::{Geometry, Policy};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// The most blocks of one group: its repair stays a bounded piece of work.
const GROUP_BLOCKS: u32 = 4096;

/// How many groups a block is offered to before its write fails.
const ROUNDS: usize = 16;

/// For how long one shard is put, and one store made durable, before its peer counts as failed; the network gives
/// up sooner on peers known to be dead.
const PUT: Duration = Duration::from_secs(15);
const SYNC: Duration = Duration::from_secs(60);

/// For how long after it was last given a block a group counts as one that may get more.
const BUSY: Duration = Duration::from_secs(120);

/// The most groups closed in one go.
const CLOSED_AT_ONCE: usize = 256;

/// For how long a peer that failed a put is not seated again: until the membership has had time to notice, or
/// its owner to make room.
const SHUN: Duration = Duration::from_secs(3);

/// The groups this writer has open, and the peers it leaves out for now.
#[derive(Default)]
pub(super) struct Placer {
    open: Mutex<HashMap<(Policy, Geometry), OpenGroup>>,
    shunned: Mutex<HashMap<PeerTag, Instant>>,
    /// Groups with shards that may not be on stable storage.
    unsynced: Mutex<BTreeMap<GroupId, Unsynced>>,
    /// The groups that were given blocks lately.
    used: Mutex<BTreeMap<GroupId, Used>>,
    /// One makes durable at a time: the next has less to do.
    syncing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct OpenGroup {
    id: GroupId,
    seats: Arc<[PeerTag]>,
    blocks: u32,
    /// Peers that could have been seated when it was opened.
    usable: usize,
}

/// A group that was given a block.
struct Used {
    at: Instant,
    /// Whom the block's shards went to.
    seats: Arc<[PeerTag]>,
}

#[derive(Clone)]
struct Unsynced {
    /// Counts the blocks put, to see whether some came while the others were made durable.
    puts: u64,
    geometry: Geometry,
    seats: Arc<[PeerTag]>,
}

/// The peers asked to take a block that would not.
#[derive(Default)]
struct Refused {
    peers: BTreeMap<PeerTag, ShardError>,
}

impl Refused {
    /// What the caller of `write` is told when nobody is left to ask.
    fn errno(&self) -> Errno {
        let full = self.peers.values().any(|why| matches!(why, ShardError::Full { .. }));
        Errno(if full { libc::ENOSPC } else { libc::EIO })
    }
}

impl Placer {
    /// Whether the participants that this writer put a group's last shards to still sit in it: healing may have
    /// seated others, and an op that names a block must find its shards where the seats say.
    pub fn still_sit(&self, namespace: &Namespace, group: GroupId) -> bool {
        let used = self.used.lock().get(&group).map(|used| used.seats.clone());
        used.is_some_and(|seats| namespace.group(group).is_some_and(|now| sit(now, &seats)))
    }
}

/// Whether each of these sits in its slot.
fn sit(group: &Group, seats: &[PeerTag]) -> bool {
    group.slots.len() == seats.len()
        && group.slots.iter().zip(seats).all(|(slot, peer)| slot.iter().any(|seat| seat.peer == *peer))
}

impl Volume {
    /// Stores a block under a policy: every shard of it is put when this returns.
    pub(super) async fn place(&self, policy: Policy, name: BlockName, block: &Bytes) -> Result<NewBlock, Errno> {
        let inner = &self.inner;
        let mut refused = Refused::default();
        let mut encoded: Option<(Geometry, Vec<Bytes>)> = None;
        let mut stored: BTreeSet<(u8, PeerTag)> = BTreeSet::new();
        for _ in 0..ROUNDS {
            let Some((geometry, group)) = self.group_for(policy, &refused)? else { break };
            let shards = match &encoded {
                Some((same, shards)) if *same == geometry => shards.clone(),
                _ => {
                    stored.clear();
                    let shards = self.encode(geometry, block).await?;
                    encoded = Some((geometry, shards.clone()));
                    shards
                }
            };
            let mut puts = JoinSet::new();
            for (index, (bytes, peer)) in shards.into_iter().zip(group.seats.iter().copied()).enumerate() {
                let index = index as u8;
                if stored.contains(&(index, peer)) {
                    continue;
                }
                let volume = self.clone();
                let id = ShardId { block: name, geometry, index };
                let block_bytes = block.len() as u32;
                puts.spawn(async move {
                    let crc = crc32c::crc32c(&bytes);
                    let shard = Shard { id, block_bytes, crc, bytes };
                    let put = volume.put_shard(peer, shard).await;
                    (index, peer, put)
                });
            }
            let mut failed = false;
            while let Some(joined) = puts.join_next().await {
                let Ok((index, peer, put)) = joined else {
                    failed = true;
                    continue;
                };
                match put {
                    Ok(()) => {
                        stored.insert((index, peer));
                    }
                    Err(why) => {
                        failed = true;
                        tracing::warn!(block = %name, group = %group.id, %peer, index, %why, "a participant did not take a shard: seating another");
                        inner.placer.shunned.lock().insert(peer, Instant::now() + SHUN);
                        refused.peers.insert(peer, why);
                    }
                }
            }
            if !failed {
                self.note_unsynced(group.id, geometry, group.seats.clone());
                return Ok(NewBlock { name, group: group.id, len: block.len() as u32 });
            }
        }
        let asked: Vec<String> = refused.peers.iter().map(|(peer, why)| format!("{peer} ({why})")).collect();
        let group = inner.placer.open.lock().values().map(|group| group.id.to_string()).collect::<Vec<_>>().join(" ");
        tracing::error!(block = %name, %policy, %group, asked = %asked.join(", "), "no peers would take the block: the write fails");
        Err(refused.errno())
    }

    /// Puts a shard here or there; ends.
    pub(super) async fn put_shard(&self, peer: PeerTag, shard: Shard) -> Result<(), ShardError> {
        let inner = &self.inner;
        let local = peer == inner.control.me();
        let put = if local { inner.store.put(shard) } else { inner.network.put(peer, shard) };
        timeout(PUT, put).await.unwrap_or_else(|_| Err(late(peer, PUT)))
    }

    pub(super) async fn sync_store(&self, peer: PeerTag) -> Result<(), ShardError> {
        let inner = &self.inner;
        let local = peer == inner.control.me();
        let sync = if local { inner.store.sync() } else { inner.network.sync(peer) };
        timeout(SYNC, sync).await.unwrap_or_else(|_| Err(late(peer, SYNC)))
    }

    pub(super) async fn encode(&self, geometry: Geometry, block: &Bytes) -> Result<Vec<Bytes>, Errno> {
        let (volume, block) = (self.clone(), block.clone());
        let parity = usize::from(geometry.parity) * geometry.shard_bytes(block.len());
        let light = geometry.data == 1 || parity <= 32 << 10;
        let encoded = self.compute(light, move || volume.inner.codec.encode(geometry, &block)).await?;
        encoded.map_err(|why| {
            tracing::error!(%geometry, %why, "a block could not be encoded");
            Errno(libc::EIO)
        })
    }

    /// The open group of a policy, without the peers that refused; a new one where that is not to be had.
    /// `None` when there is nobody to seat.
    fn group_for(&self, policy: Policy, refused: &Refused) -> Result<Option<(Geometry, OpenGroup)>, Errno> {
        let inner = &self.inner;
        let usable = self.usable(refused);
        if usable.is_empty() {
            return Ok(None);
        }
        let geometry = policy.geometry(usable.len());
        let is_usable = |peer: &PeerTag| usable.iter().any(|one| one.peer == *peer);
        let mut open = inner.placer.open.lock();
        let mut keep = Vec::new();
        if let Some(group) = open.get_mut(&(policy, geometry)) {
            let distinct = group.seats.iter().collect::<BTreeSet<_>>().len();
            let cramped = distinct < group.seats.len() && usable.len() > distinct;
            let resized = matches!(policy, Policy::Survive(_)) && group.usable != usable.len();
            let alive = group.seats.iter().all(is_usable);
            let there = inner.control.namespace().group(group.id).is_some_and(|now| sit(now, &group.seats));
            if there && alive && !cramped && !resized && group.blocks < GROUP_BLOCKS {
                group.blocks += 1;
                inner.placer.used.lock().insert(group.id, Used { at: Instant::now(), seats: group.seats.clone() });
                return Ok(Some((geometry, group.clone())));
            }
            if !alive && group.blocks < GROUP_BLOCKS {
                keep = group.seats.iter().map(|peer| is_usable(peer).then_some(*peer)).collect();
            }
        }
        let me = inner.control.me();
        let seats = choose(geometry.shards(), &keep, &usable, Some(me), inner.control.random());
        if seats.len() != geometry.shards() {
            return Ok(None);
        }
        let id = GroupId(inner.control.new_number());
        let change = Change::OpenGroup { group: id, policy, geometry, seats: seats.clone() };
        inner.control.change(&mut |_| Ok(vec![change.clone()]))?;
        let group = OpenGroup { id, seats: seats.into(), blocks: 1, usable: usable.len() };
        tracing::debug!(group = %id, %policy, %geometry, seats = ?group.seats, "opened a group");
        inner.placer.used.lock().insert(id, Used { at: Instant::now(), seats: group.seats.clone() });
        open.insert((policy, geometry), group.clone());
        Ok(Some((geometry, group)))
    }

    /// Closes groups of this peer, and of peers that left for good, that nothing refers to and nobody will put anything
    /// into: a writer that takes longer than two minutes to name a block stores it anew.
    pub fn close_groups(&self) -> Result<(), Errno> {
        let inner = &self.inner;
        let me = inner.control.me();
        // Held all along: no group is handed out between the look and the op.
        let mut open = inner.placer.open.lock();
        let busy: BTreeSet<GroupId> = {
            let mut used = inner.placer.used.lock();
            used.retain(|_, used| used.at.elapsed() < BUSY);
            used.keys().copied().collect()
        };
        inner.control.change(&mut |namespace| {
            let ours = |id: &GroupId| id.creator() == me || !namespace.is_member(id.creator());
            let empty = namespace.groups().map(|(id, _)| id).filter(|id| ours(id) && namespace.is_empty_group(*id));
            let idle = empty.filter(|id| !busy.contains(id)).take(CLOSED_AT_ONCE);
            Ok(idle.map(|group| Change::CloseGroup { group }).collect())
        })?;
        let namespace = inner.control.namespace();
        open.retain(|_, group| namespace.group(group.id).is_some());
        Ok(())
    }

    /// The peers that may be seated: those that may be asked and have room. Where only full ones are left they are
    /// asked: a stale report of a full disk must not end a write, and whoever is full says so.
    fn usable(&self, refused: &Refused) -> Vec<Candidate> {
        let asked = self.asked(refused);
        let roomy: Vec<Candidate> = asked.iter().filter(|one| one.free >= ROOM).cloned().collect();
        if roomy.is_empty() { asked } else { roomy }
    }

    /// The peers that may be asked: alive, did not refuse this block, did not fail another just now. When only such
    /// are left, they are asked again.
    fn asked(&self, refused: &Refused) -> Vec<Candidate> {
        let all = self.inner.control.candidates();
        let willing = all.into_iter().filter(|one| one.alive && !one.leaving && !refused.peers.contains_key(&one.peer));
        let mut willing: Vec<Candidate> = willing.collect();
        // `choose` seats nobody who has no room at all.
        willing.iter_mut().for_each(|one| one.free = one.free.max(1));
        let mut shunned = self.inner.placer.shunned.lock();
        let now = Instant::now();
        shunned.retain(|_, until| *until > now);
        let fresh: Vec<Candidate> = willing.iter().filter(|one| !shunned.contains_key(&one.peer)).cloned().collect();
        if fresh.is_empty() { willing } else { fresh }
    }

    /// The block as it is stored already, if that is as good as storing it under `policy`; `Err` with the
    /// geometry if it is stored with another one.
    pub(super) fn stored_already(
        &self,
        policy: Policy,
        name: &BlockName,
        len: usize,
    ) -> Result<Option<NewBlock>, Geometry> {
        let wanted = policy.geometry(self.usable(&Refused::default()).len().max(1));
        // Those that are full now hold what they hold.
        let asked = self.asked(&Refused::default());
        let namespace = self.inner.control.namespace();
        let Some(block) = namespace.block(name).filter(|block| block.uses > 0) else { return Ok(None) };
        let Some(group) = namespace.group(block.group) else { return Ok(None) };
        if group.geometry != wanted {
            return Err(group.geometry);
        }
        let alive = |peer: PeerTag| asked.iter().any(|one| one.peer == peer);
        let whole = group.slots.iter().all(|slot| slot.iter().any(|seat| alive(seat.peer)));
        if !whole || block.len as usize != len {
            return Ok(None);
        }
        self.note_group_unsynced(block.group, group);
        Ok(Some(NewBlock { name: *name, group: block.group, len: block.len }))
    }

    /// Notes a group of whichever writer as one with shards that may not be on stable storage.
    pub(super) fn note_group_unsynced(&self, id: GroupId, group: &Group) {
        let seats = group.slots.iter().flatten().map(|seat| seat.peer).collect();
        self.note_unsynced(id, group.geometry, seats);
    }

    fn note_unsynced(&self, group: GroupId, geometry: Geometry, seats: Arc<[PeerTag]>) {
        let mut unsynced = self.inner.placer.unsynced.lock();
        unsynced.entry(group).or_insert(Unsynced { puts: 0, geometry, seats }).puts += 1;
    }

    /// Everything put so far is on stable storage at its participants when this returns. Participants that are
    /// gone count as lost: `EIO` if a group has lost more than its parity.
    pub(super) async fn sync_shards(&self) -> Result<(), Errno> {
        let inner = &self.inner;
        let _turn = inner.placer.syncing.lock().await;
        let groups = inner.placer.unsynced.lock().clone();
        let peers: BTreeSet<PeerTag> = groups.values().flat_map(|group| group.seats.iter().copied()).collect();
        let mut syncs = JoinSet::new();
        for peer in peers {
            let volume = self.clone();
            syncs.spawn(async move { (peer, volume.sync_store(peer).await) });
        }
        let mut lost = BTreeMap::new();
        while let Some(joined) = syncs.join_next().await {
            let Ok((peer, synced)) = joined else { return Err(Errno(libc::EIO)) };
            if let Err(why) = synced {
                tracing::warn!(%peer, %why, "a participant did not make its shards durable");
                lost.insert(peer, why);
            }
        }
        let mut result = Ok(());
        for (id, Unsynced { puts, geometry, seats }) in groups {
            if seats.iter().filter(|peer| lost.contains_key(peer)).count() > usize::from(geometry.parity) {
                tracing::error!(group = %id, lost = ?lost.keys().collect::<Vec<_>>(), "too few participants made their shards durable");
                result = Err(Errno(libc::EIO));
                continue;
            }
            let mut unsynced = inner.placer.unsynced.lock();
            if unsynced.get(&id).is_some_and(|now| now.puts == puts) {
                unsynced.remove(&id);
            }
        }
        result
    }
}

fn late(peer: PeerTag, after: Duration) -> ShardError {
    ShardError::Unreachable { peer, why: format!("not done within {after:?}") }
}
