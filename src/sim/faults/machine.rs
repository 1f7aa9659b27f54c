//! One machine of a run: the real peer's core, its namespace, its log, and a disk that is only a list of shards.

use crate::group::{Comparison, HealingSettings};
use crate::id::{BlockName, GroupId, PeerKey, PeerTag, ShareId};
use crate::namespace::{Namespace, Op, PeerRecord, Snapshot};
use crate::overlay::{Member, Membership, Search, SearchSettings, Settings};
use crate::peer::{Effect, Memory, Past, Peer};
use crate::policy::{Geometry, Policy};
use crate::time::{Instant, WallTime};
use crate::volume::ports::{ShardId, StoreUsage};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(super) const SHARE: ShareId = ShareId([7; 16]);

/// What the disks of a run are said to hold, in bytes: far more than is written.
pub(super) const CAPACITY: u64 = 1 << 40;

/// Found dead within this: slower than real peers, for the sake of the number of runs.
const DETECTION: Duration = Duration::from_secs(6);

/// One machine.
pub(super) struct Machine {
    pub tag: PeerTag,
    /// `None` while it is down.
    pub peer: Option<Peer>,
    pub namespace: Namespace,
    /// What it was given when it joined, and every op since, as on its disk.
    pub base: Snapshot,
    pub log: Vec<Op>,
    /// So many of the ops are on stable storage.
    pub synced: usize,
    pub store: BTreeMap<ShardId, Held>,
    /// Counts its starts: what an earlier run had asked for is void.
    pub run: u64,
    pub full: bool,
    /// Since when it has waited to hear what others have of its ops; `None`: it need not.
    pub hearing: Option<Instant>,
    /// What it knows of its own ops, as on its disk.
    pub past: Past,
    /// What its messages take longer.
    pub slow: Duration,
    pub comparison: Comparison,
    /// Damaged shards it knows of.
    pub rotten: BTreeSet<ShardId>,
    pub next_number: u64,
    /// The groups it puts blocks into, by policy.
    pub open: BTreeMap<Policy, Open>,
    /// When each group was last given a block.
    pub used: BTreeMap<GroupId, Instant>,
    pub settings: HealingSettings,
    /// Off the roster, and off.
    pub left: bool,
}

/// A shard on a disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub put: Instant,
    pub rotten: bool,
}

/// A group that a writer puts blocks into.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub group: GroupId,
    pub geometry: Geometry,
    pub seats: Vec<PeerTag>,
}

pub(super) fn key(n: usize) -> PeerKey {
    let mut key = [0x5a; 32];
    key[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
    PeerKey(key)
}

pub(super) fn record(n: usize) -> PeerRecord {
    PeerRecord {
        key: key(n),
        name: format!("m{n}"),
        addresses: Vec::new(),
        zone: ["", "attic", "cellar"][n % 3].to_owned(),
        host: format!("h{n}"),
    }
}

impl Machine {
    /// A machine that has what `base` holds, and is off.
    pub fn new(n: usize, base: Snapshot, settings: HealingSettings) -> Machine {
        Machine {
            tag: key(n).tag(),
            peer: None,
            namespace: Namespace::new(),
            base,
            log: Vec::new(),
            synced: 0,
            store: BTreeMap::new(),
            run: 0,
            full: false,
            hearing: None,
            past: Past::default(),
            slow: Duration::ZERO,
            comparison: Comparison::default(),
            rotten: BTreeSet::new(),
            next_number: 0,
            open: BTreeMap::new(),
            used: BTreeMap::new(),
            settings,
            left: false,
        }
    }

    pub fn is_up(&self) -> bool {
        self.peer.is_some()
    }

    /// Starts from its disk.
    pub fn start(&mut self, now: WallTime, seed: u64) -> Vec<Effect> {
        self.run += 1;
        self.namespace = Namespace::restore(self.base.clone()).expect("a snapshot of a namespace is one");
        self.namespace.receive(self.log.clone(), WallTime(i64::MAX)).expect("its own log fits");
        self.namespace.set_me(self.tag);
        self.next_number = self.past.next_number(self.namespace.counter(self.tag));
        self.comparison = Comparison::default();
        self.rotten.clear();
        self.open.clear();
        let membership = Membership::new(Member::starting(self.tag, now), Settings::within(DETECTION), seed);
        let search = Search::new(self.tag, SearchSettings::meshed(), seed);
        let (peer, effects) =
            Peer::start(self.tag, self.past, SHARE, membership, self.settings, search, &self.namespace);
        self.peer = Some(peer);
        effects
    }

    /// Stops at once. `power`: without what was not synced.
    pub fn stop(&mut self, power: bool) {
        self.peer = None;
        if power {
            self.past.memory = Memory::Unsure;
            self.log.truncate(self.synced);
        }
    }

    /// Keeps on its disk what it knows of its own ops.
    pub fn remember(&mut self, past: Past) {
        self.past = past;
        // Some may be drawn that no op has yet.
        self.next_number = self.next_number.max(past.next_number(self.namespace.counter(self.tag)));
    }

    pub fn number(&mut self) -> u64 {
        self.next_number = self.next_number.max(self.namespace.counter(self.tag) + 1) + 1;
        self.next_number - 1
    }

    pub fn usage(&self) -> StoreUsage {
        let stored = self.store.len() as u64 * 1000;
        StoreUsage { stored, free: if self.full { 0 } else { CAPACITY - stored }, capacity: CAPACITY, disk: 0 }
    }

    /// What its disk has of a block.
    pub fn shards_of(&self, block: BlockName) -> impl Iterator<Item = ShardId> {
        let first = ShardId { block, geometry: Geometry { data: 0, parity: 0 }, index: 0 };
        self.store.range(first..).map(|(id, _)| *id).take_while(move |id| id.block == block)
    }

    /// A shard that can be read whole; one that cannot is found out by that, and is not there any more.
    pub fn read(&mut self, id: &ShardId) -> bool {
        match self.store.get(id) {
            Some(held) if held.rotten => {
                self.store.remove(id);
                self.rotten.insert(*id);
                false
            }
            found => found.is_some(),
        }
    }

    /// Takes a shard; false where there is no room.
    pub fn put(&mut self, id: ShardId, now: Instant) -> bool {
        if self.full && !self.store.contains_key(&id) {
            return false;
        }
        let rotten = self.store.get(&id).is_some_and(|held| held.rotten);
        self.store.insert(id, Held { put: now, rotten });
        true
    }
}
