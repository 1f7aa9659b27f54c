//! A share in memory: several peers over one namespace, each with its own store, linked by a network that can be
//! made to fail. For tests of whatever works over the ports.

use super::ports::*;
use super::{RepairBounds, Volume, VolumeSettings};
use crate::id::{Author, BlockName, GroupId, Ino, PeerKey, PeerTag};
use crate::namespace::{
    Change, Kind, Lock, LockError, LockOwner, LockRequest, LockTable, Namespace, Place, SetAttributes,
};
use crate::policy::Policy;
use crate::time::WallTime;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What is wrong with a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fault {
    #[default]
    None,
    /// Dead, and known to be.
    Dead,
    /// Does not answer, though everybody thinks it lives.
    Silent,
    /// Takes no more shards.
    Full,
    /// Answers after so long.
    Slow(Duration),
}

/// What each peer holds.
pub type Stores = BTreeMap<PeerTag, Vec<ShardId>>;

/// Finds out for a peer who else holds shards of a block. The stores are those of the peers that answer.
pub type Ask = fn(PeerTag, BlockName, &Stores) -> Vec<(PeerTag, ShardId)>;

/// Everybody's answer, whoever would really be asked.
fn told(me: PeerTag, block: BlockName, stores: &Stores) -> Vec<(PeerTag, ShardId)> {
    let others = stores.iter().filter(|(peer, _)| **peer != me);
    let held = others.flat_map(|(peer, shards)| shards.iter().map(move |id| (*peer, *id)));
    held.filter(|(_, id)| id.block == block).collect()
}

/// A share of some peers, all in this process.
#[derive(Clone)]
pub struct Share {
    shared: Arc<Shared>,
}

struct Shared {
    namespace: RwLock<Namespace>,
    peers: BTreeMap<PeerTag, Peer>,
    numbers: AtomicU64,
    random: AtomicU64,
    now: AtomicI64,
    gets: AtomicU64,
    puts: AtomicU64,
    settled: AtomicU64,
    searches: AtomicU64,
    suspected: Mutex<BTreeSet<(PeerTag, ShardId)>>,
    /// How peers search; `None`: they are told.
    asking: Mutex<Option<Ask>>,
    locks: Mutex<LockTable>,
    open_elsewhere: Mutex<BTreeSet<Ino>>,
}

#[derive(Default)]
struct Peer {
    shards: Mutex<BTreeMap<ShardId, Shard>>,
    fault: Mutex<Fault>,
    /// What it still knows, if it hears of nothing new.
    stale: OnceLock<RwLock<Namespace>>,
    syncs: AtomicU64,
    /// What it says that it could still take; `None`: plenty.
    free: Mutex<Option<u64>>,
}

impl Share {
    /// A share of so many live peers with empty stores.
    pub fn new(peers: u8) -> Share {
        let peers = (1..=peers).map(|n| (PeerKey([n; 32]).tag(), Peer::default())).collect();
        let shared = Shared {
            namespace: RwLock::new(Namespace::new()),
            peers,
            numbers: AtomicU64::new(1),
            random: AtomicU64::new(1),
            now: AtomicI64::new(1_700_000_000_000_000_000),
            gets: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            searches: AtomicU64::new(0),
            suspected: Mutex::default(),
            asking: Mutex::default(),
            locks: Mutex::default(),
            open_elsewhere: Mutex::default(),
        };
        Share { shared: Arc::new(shared) }
    }

    /// The peers, in the order of their tags.
    pub fn peers(&self) -> Vec<PeerTag> {
        self.shared.peers.keys().copied().collect()
    }

    fn peer(&self, tag: PeerTag) -> &Peer {
        &self.shared.peers[&tag]
    }

    /// Settings with small bounds and short waits.
    pub fn settings() -> VolumeSettings {
        VolumeSettings {
            dirty_bytes: 16 << 20,
            cache_bytes: 16 << 20,
            read_ahead_blocks: 4,
            hedge: Duration::from_millis(20),
            read_deadline: Duration::from_secs(5),
            repair: RepairBounds { bytes_per_second: 0, busy_percent: 100 },
            write_back_after: Duration::from_secs(3600),
        }
    }

    /// The volume of the `n`th peer.
    pub fn volume(&self, n: usize) -> Volume {
        self.volume_with(n, Share::settings())
    }

    pub fn volume_with(&self, n: usize, settings: VolumeSettings) -> Volume {
        let end = End { me: self.peers()[n], share: self.clone() };
        Volume::new(Arc::new(end.clone()), Arc::new(end.clone()), Arc::new(end), settings)
    }

    /// Makes a file in the root.
    pub fn create(&self, by: usize, name: &str, policy: Option<Policy>) -> Ino {
        let end = End { me: self.peers()[by], share: self.clone() };
        let ino = Ino(end.new_number());
        let place = Place { parent: Ino::ROOT, name: Bytes::copy_from_slice(name.as_bytes()) };
        let create = Change::Create { place, ino, kind: Kind::File, mode: 0o644, uid: 0, gid: 0, time: end.now() };
        let policy = policy.map(|policy| Change::SetPolicy { ino, policy: Some(policy) });
        let changes: Vec<Change> = std::iter::once(create).chain(policy).collect();
        end.change(&mut |_| Ok(changes.clone())).expect("a new name in the root");
        ino
    }

    /// Changes of a peer, which nobody refuses.
    pub fn change(&self, by: usize, changes: Vec<Change>) {
        let end = End { me: self.peers()[by], share: self.clone() };
        end.change(&mut |_| Ok(changes.clone())).expect("nothing is refused here");
    }

    /// Takes a name out of the root.
    pub fn unlink(&self, by: usize, name: &str) {
        let end = End { me: self.peers()[by], share: self.clone() };
        let place = Place { parent: Ino::ROOT, name: Bytes::copy_from_slice(name.as_bytes()) };
        let unlink = |namespace: &Namespace| {
            let ino = namespace.entry(Ino::ROOT, &place.name).ok_or(Errno(libc::ENOENT))?.ino;
            let seen = namespace.inode(ino).ok_or(Errno(libc::ENOENT))?.seen(ino);
            Ok(vec![Change::Unlink { place: place.clone(), seen, time: end.now() }])
        };
        end.change(&mut |namespace| unlink(namespace)).expect("the name is there");
    }

    /// Sets the permission bits of a file.
    pub fn set_mode(&self, by: usize, ino: Ino, mode: u32) {
        let end = End { me: self.peers()[by], share: self.clone() };
        let set = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
        end.change(&mut |_| Ok(vec![Change::SetAttributes { ino, set }])).expect("nothing is refused here");
    }

    pub fn fault(&self, peer: PeerTag, fault: Fault) {
        *self.peer(peer).fault.lock() = fault;
    }

    /// From now on peers search like this.
    pub fn search_by(&self, ask: Ask) {
        *self.shared.asking.lock() = Some(ask);
    }

    /// What the others hear that a peer could still take.
    pub fn report_free(&self, peer: PeerTag, bytes: u64) {
        *self.peer(peer).free.lock() = Some(bytes);
    }

    /// From now on the peer hears of no change.
    pub fn freeze(&self, peer: PeerTag) {
        let now = Namespace::restore(self.namespace().snapshot()).expect("a snapshot of a namespace is one");
        let _ = self.peer(peer).stale.set(RwLock::new(now));
    }

    /// Flips a bit in every shard a peer holds, checksums made right again.
    pub fn corrupt(&self, peer: PeerTag) {
        for shard in self.peer(peer).shards.lock().values_mut() {
            let mut bytes = shard.bytes.to_vec();
            bytes[0] ^= 1;
            shard.crc = crc32c::crc32c(&bytes);
            shard.bytes = bytes.into();
        }
    }

    pub fn namespace(&self) -> RwLockReadGuard<'_, Namespace> {
        self.shared.namespace.read()
    }

    /// Shards in a peer's store.
    pub fn shards(&self, peer: PeerTag) -> usize {
        self.peer(peer).shards.lock().len()
    }

    /// Some machine without a volume here has the inode open, or not any more.
    pub fn open_elsewhere(&self, ino: Ino, open: bool) {
        let mut all = self.shared.open_elsewhere.lock();
        if open {
            all.insert(ino)
        } else {
            all.remove(&ino)
        };
    }

    /// Searches so far, of all peers.
    pub fn searches(&self) -> u64 {
        self.shared.searches.load(Ordering::Relaxed)
    }

    /// Moves all shards that one peer holds to another, which no record says.
    pub fn carry_off(&self, from: PeerTag, to: PeerTag) {
        let moved = std::mem::take(&mut *self.peer(from).shards.lock());
        self.peer(to).shards.lock().extend(moved);
    }

    fn holding(&self, peer: PeerTag, block: BlockName) -> Vec<ShardId> {
        self.peer(peer).shards.lock().keys().filter(|id| id.block == block).copied().collect()
    }

    /// Times a peer was asked to make its shards durable.
    pub fn syncs(&self, peer: PeerTag) -> u64 {
        self.peer(peer).syncs.load(Ordering::Relaxed)
    }

    /// Requests for shards so far, of all peers.
    pub fn gets(&self) -> u64 {
        self.shared.gets.load(Ordering::Relaxed)
    }

    /// Shards sent so far, by all peers.
    pub fn puts(&self) -> u64 {
        self.shared.puts.load(Ordering::Relaxed)
    }

    /// The highest op that was waited for.
    pub fn settled(&self) -> u64 {
        self.shared.settled.load(Ordering::Relaxed)
    }

    fn is_alive(&self, peer: PeerTag) -> bool {
        self.shared.peers.get(&peer).is_some_and(|peer| *peer.fault.lock() != Fault::Dead)
    }

    /// What a request to a peer meets.
    async fn meet(&self, peer: PeerTag, put: bool) -> Result<&Peer, ShardError> {
        let unreachable = |why: &str| ShardError::Unreachable { peer, why: why.to_owned() };
        let there = self.shared.peers.get(&peer).ok_or_else(|| unreachable("it is not on the roster"))?;
        let fault = *there.fault.lock();
        match fault {
            Fault::None => Ok(there),
            Fault::Dead => Err(unreachable("it is dead")),
            Fault::Silent => Err(unreachable("no answer")),
            Fault::Full if put => Err(ShardError::Full { peer }),
            Fault::Full => Ok(there),
            Fault::Slow(by) => {
                tokio::time::sleep(by).await;
                Ok(there)
            }
        }
    }

    async fn put(&self, peer: PeerTag, shard: Shard) -> Result<(), ShardError> {
        self.shared.puts.fetch_add(1, Ordering::Relaxed);
        let there = self.meet(peer, true).await?;
        assert_eq!(shard.bytes.len(), shard.id.geometry.shard_bytes(shard.block_bytes as usize));
        assert_eq!(shard.crc, crc32c::crc32c(&shard.bytes));
        there.shards.lock().insert(shard.id, shard);
        Ok(())
    }

    async fn get(&self, peer: PeerTag, id: ShardId) -> Result<Shard, ShardError> {
        self.shared.gets.fetch_add(1, Ordering::Relaxed);
        let there = self.meet(peer, false).await?;
        let shard = there.shards.lock().get(&id).cloned();
        shard.ok_or(ShardError::Missing { block: id.block, index: id.index })
    }

    async fn sync(&self, peer: PeerTag) -> Result<(), ShardError> {
        self.meet(peer, false).await?.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn lacking(&self, peer: PeerTag, ids: Vec<ShardId>, read: bool) -> Result<Vec<ShardId>, ShardError> {
        let shards = self.meet(peer, false).await?.shards.lock();
        let whole = |shard: &Shard| !read || crc32c::crc32c(&shard.bytes) == shard.crc;
        Ok(ids.into_iter().filter(|id| !shards.get(id).is_some_and(whole)).collect())
    }

    /// The order every writer promises: an op names a block only when all its shards are stored.
    fn check(&self, namespace: &Namespace, change: &Change) {
        let Change::Write { blocks, .. } = change else { return };
        for block in blocks {
            let group = namespace.group(block.group).expect("a group is opened before a block names it");
            for (slot, seats) in group.slots.iter().enumerate() {
                let id = ShardId { block: block.name, geometry: group.geometry, index: slot as u8 };
                for seat in seats {
                    let shards = self.peer(seat.peer).shards.lock();
                    assert!(shards.contains_key(&id), "{id:?} is not at {}", seat.peer);
                }
            }
        }
    }
}

/// One peer's end of the share.
#[derive(Clone)]
struct End {
    me: PeerTag,
    share: Share,
}

impl Control for End {
    fn me(&self) -> PeerTag {
        self.me
    }

    fn author(&self) -> Author {
        Author::new(self.me, 0)
    }

    fn namespace(&self) -> RwLockReadGuard<'_, Namespace> {
        self.share.peer(self.me).stale.get().unwrap_or(&self.share.shared.namespace).read()
    }

    fn change(&self, plan: &mut dyn FnMut(&Namespace) -> Result<Vec<Change>, Errno>) -> Result<u64, Errno> {
        let mut namespace = self.share.shared.namespace.write();
        let changes = plan(&namespace)?;
        let now = self.now();
        for change in &changes {
            self.share.check(&namespace, change);
            assert_eq!(namespace.check(self.author(), now, change), Ok(()), "{change:?}");
        }
        namespace.change(self.author(), now, changes);
        Ok(namespace.vector().get(self.author()))
    }

    fn change_under(&self, plan: &mut dyn FnMut(&Namespace) -> Result<Planned, Errno>) -> Result<u64, Refusal> {
        self.change(&mut |namespace| plan(namespace).map(|planned| planned.changes)).map_err(Refusal::Errno)
    }

    fn pin(&self, _ino: Ino) -> Result<Pin, Refusal> {
        Ok(Pin::new(|| {}))
    }

    fn in_touch(&self) -> bool {
        true
    }

    fn obtain(&self, _leases: Vec<Ino>) -> BoxFuture<'_, Result<(), Errno>> {
        Box::pin(async { Ok(()) })
    }

    fn obtain_for(
        &self,
        _leases: Vec<Ino>,
        _naming: crate::namespace::Naming,
    ) -> BoxFuture<'_, Result<Obtained, Errno>> {
        Box::pin(async { Ok(Obtained::Leases) })
    }

    fn lock(&self, ino: Ino, request: LockRequest) -> BoxFuture<'_, Result<Option<Lock>, Errno>> {
        Box::pin(async move {
            let locks = &self.share.shared.locks;
            match request {
                LockRequest::Test { lock } => Ok(locks.lock().conflict(ino, &lock)),
                LockRequest::Take { lock, wait } => loop {
                    let (taken, held) = {
                        let mut table = locks.lock();
                        (table.take(ino, lock), table.conflict(ino, &lock))
                    };
                    match taken {
                        Ok(_) => return Ok(None),
                        Err(LockError::Held) if wait => tokio::time::sleep(Duration::from_millis(5)).await,
                        Err(LockError::Held) => return Ok(held),
                        Err(_) => return Err(Errno(libc::ENOLCK)),
                    }
                },
            }
        })
    }

    fn unlock(&self, ino: Ino, owner: u64, first: u64, last: u64) -> BoxFuture<'_, ()> {
        self.share.shared.locks.lock().unlock(ino, LockOwner { peer: self.me, number: owner }, first, last);
        Box::pin(async {})
    }

    fn open_elsewhere(&self, inos: Vec<Ino>) -> BoxFuture<'_, BTreeSet<Ino>> {
        let open = self.share.shared.open_elsewhere.lock();
        let open = inos.into_iter().filter(|ino| open.contains(ino)).collect();
        Box::pin(async move { open })
    }

    fn settle(&self, seq: u64, _durable: bool) -> BoxFuture<'_, Result<(), Errno>> {
        self.share.shared.settled.fetch_max(seq, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    }

    fn new_number(&self) -> u64 {
        GroupId::new(self.me, self.share.shared.numbers.fetch_add(1, Ordering::Relaxed)).0
    }

    fn candidates(&self) -> Vec<Candidate> {
        let candidate = |peer: PeerTag| Candidate {
            peer,
            alive: self.share.is_alive(peer),
            zone: String::new(),
            address: None,
            host: peer.to_string(),
            free: self.share.peer(peer).free.lock().unwrap_or(1 << 40),
            stored: 0,
            disk: 0,
            leaving: false,
        };
        self.share.peers().into_iter().map(candidate).collect()
    }

    fn is_alive(&self, peer: PeerTag) -> bool {
        self.share.is_alive(peer)
    }

    fn has_majority(&self) -> bool {
        let peers = self.share.peers();
        peers.iter().filter(|peer| self.share.is_alive(**peer)).count() * 2 > peers.len()
    }

    fn suspect(&self, holder: PeerTag, id: ShardId) {
        self.share.shared.suspected.lock().insert((holder, id));
    }

    fn search(&self, block: BlockName) -> BoxFuture<'_, Vec<(PeerTag, ShardId)>> {
        self.share.shared.searches.fetch_add(1, Ordering::Relaxed);
        let there = |peer: &PeerTag| *peer == self.me || *self.share.peer(*peer).fault.lock() == Fault::None;
        let peers = self.share.peers().into_iter().filter(there);
        let stores = peers.map(|peer| (peer, self.share.peer(peer).shards.lock().keys().copied().collect())).collect();
        let found = match *self.share.shared.asking.lock() {
            Some(ask) => ask(self.me, block, &stores),
            None => told(self.me, block, &stores),
        };
        Box::pin(async move { found })
    }

    fn random(&self) -> u64 {
        self.share.shared.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }

    fn now(&self) -> WallTime {
        WallTime(self.share.shared.now.fetch_add(1_000_000, Ordering::Relaxed))
    }
}

impl ShardStore for End {
    fn put(&self, shard: Shard) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(self.share.put(self.me, shard))
    }

    fn get(&self, id: ShardId) -> BoxFuture<'_, Result<Shard, ShardError>> {
        Box::pin(self.share.get(self.me, id))
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(self.share.sync(self.me))
    }

    fn lacking(&self, ids: Vec<ShardId>, read: bool) -> BoxFuture<'_, Result<Vec<ShardId>, ShardError>> {
        Box::pin(self.share.lacking(self.me, ids, read))
    }

    fn holding(&self, block: BlockName) -> Vec<ShardId> {
        self.share.holding(self.me, block)
    }

    fn held(&self) -> Vec<(ShardId, Duration)> {
        self.share.peer(self.me).shards.lock().keys().map(|id| (*id, Duration::ZERO)).collect()
    }

    fn next(&self, after: Option<ShardId>, count: usize) -> (Vec<ShardId>, usize) {
        let shards = self.share.peer(self.me).shards.lock();
        let later = shards.keys().copied().filter(|id| after.is_none_or(|after| *id > after));
        (later.take(count).collect(), shards.len())
    }

    fn remove(&self, ids: Vec<ShardId>, _unless_put_within: Duration) -> BoxFuture<'_, Result<usize, ShardError>> {
        let mut shards = self.share.peer(self.me).shards.lock();
        let removed = ids.iter().filter(|id| shards.remove(id).is_some()).count();
        Box::pin(async move { Ok(removed) })
    }

    fn set_aside(&self) -> u64 {
        0
    }

    fn damaged_volumes(&self) -> u64 {
        0
    }

    fn usage(&self) -> StoreUsage {
        let stored = self.share.peer(self.me).shards.lock().values().map(|shard| shard.bytes.len() as u64).sum();
        StoreUsage { stored, free: 1 << 40, capacity: 1 << 41, disk: 0 }
    }
}

impl ShardNetwork for End {
    fn put(&self, peer: PeerTag, shard: Shard) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(self.share.put(peer, shard))
    }

    fn get(&self, peer: PeerTag, id: ShardId) -> BoxFuture<'_, Result<Shard, ShardError>> {
        Box::pin(self.share.get(peer, id))
    }

    fn sync(&self, peer: PeerTag) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(self.share.sync(peer))
    }

    fn lacking(&self, peer: PeerTag, ids: Vec<ShardId>, read: bool) -> BoxFuture<'_, Result<Vec<ShardId>, ShardError>> {
        Box::pin(self.share.lacking(peer, ids, read))
    }

    fn latency_us(&self, _peer: PeerTag) -> u64 {
        100
    }
}
