//! For tests: a share of one machine, all in memory.

use super::ports::{
    BoxFuture, Candidate, Control, Errno, Shard, ShardError, ShardId, ShardNetwork, ShardStore, StoreUsage,
};
use super::{Volume, VolumeSettings};
use crate::id::{Ino, PeerTag};
use crate::namespace::{Change, Namespace};
use crate::time::WallTime;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const ME: PeerTag = PeerTag(7);
/// Room that the store says it has.
pub(crate) const FREE: u64 = 1 << 40;

/// A volume of a share that has only this machine.
pub(crate) fn volume() -> Volume {
    let machine = Arc::new(OneMachine {
        namespace: RwLock::new(Namespace::new()),
        counter: AtomicU64::new(1),
        random: AtomicU64::new(1),
        shards: Mutex::default(),
    });
    Volume::new(machine.clone(), machine.clone(), machine, VolumeSettings::default())
}

struct OneMachine {
    namespace: RwLock<Namespace>,
    counter: AtomicU64,
    random: AtomicU64,
    shards: Mutex<BTreeMap<ShardId, Shard>>,
}

impl Control for OneMachine {
    fn me(&self) -> PeerTag {
        ME
    }

    fn namespace(&self) -> RwLockReadGuard<'_, Namespace> {
        self.namespace.read()
    }

    fn change(&self, plan: &mut dyn FnMut(&Namespace) -> Result<Vec<Change>, Errno>) -> Result<u64, Errno> {
        let mut namespace = self.namespace.write();
        let changes = plan(&namespace)?;
        let now = self.now();
        for change in &changes {
            assert_eq!(namespace.check(ME, now, change), Ok(()), "{change:?}");
        }
        namespace.change(ME, now, changes);
        Ok(namespace.vector().get(ME))
    }

    fn settle(&self, _seq: u64, _durable: bool) -> BoxFuture<'_, Result<(), Errno>> {
        Box::pin(async { Ok(()) })
    }

    fn new_number(&self) -> u64 {
        Ino::new(ME, self.counter.fetch_add(1, Ordering::Relaxed)).0
    }

    fn candidates(&self) -> Vec<Candidate> {
        let me =
            Candidate { peer: ME, alive: true, zone: String::new(), address: None, host: String::new(), free: FREE };
        vec![me]
    }

    fn is_alive(&self, peer: PeerTag) -> bool {
        peer == ME
    }

    fn random(&self) -> u64 {
        self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }

    fn now(&self) -> WallTime {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        WallTime(since.as_nanos() as i64)
    }
}

impl ShardStore for OneMachine {
    fn put(&self, shard: Shard) -> BoxFuture<'_, Result<(), ShardError>> {
        self.shards.lock().insert(shard.id, shard);
        Box::pin(async { Ok(()) })
    }

    fn get(&self, id: ShardId) -> BoxFuture<'_, Result<Shard, ShardError>> {
        let found = self.shards.lock().get(&id).cloned();
        Box::pin(async move { found.ok_or(ShardError::Missing { block: id.block, index: id.index }) })
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(async { Ok(()) })
    }

    fn usage(&self) -> StoreUsage {
        StoreUsage { stored: 0, free: FREE, capacity: FREE }
    }
}

impl ShardNetwork for OneMachine {
    fn put(&self, peer: PeerTag, _shard: Shard) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(async move { Err(alone(peer)) })
    }

    fn get(&self, peer: PeerTag, _id: ShardId) -> BoxFuture<'_, Result<Shard, ShardError>> {
        Box::pin(async move { Err(alone(peer)) })
    }

    fn sync(&self, peer: PeerTag) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(async move { Err(alone(peer)) })
    }

    fn latency_us(&self, _peer: PeerTag) -> u64 {
        0
    }
}

fn alone(peer: PeerTag) -> ShardError {
    ShardError::Unreachable { peer, why: "this machine is alone".into() }
}
