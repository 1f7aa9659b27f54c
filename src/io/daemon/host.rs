//! The shell around the peer core: takes events in, carries effects out, answers the data path.
//!
//! One lock (`core`) orders everything: an event is handled and its effects carried out under it, so that ops
//! are logged and sent in the order they were stamped. Carrying out is quick: an append to the log file, a push
//! on a bounded queue. The namespace has a lock of its own, for readers; whoever writes it holds `core` first.

mod control;

use super::past::PastFile;
use super::reports::{Reports, clock_words};
use crate::group::{Outcome, Work};
use crate::id::{BlockName, Ino, PeerTag, ShareId};
use crate::io::quic::{Network, RosterPeer};
use crate::io::store::OpLog;
use crate::namespace::{Change, Key, LockRequest, Namespace, Op, VersionVector};
use crate::overlay::{Piece, QueryId};
use crate::peer::{Effect, Event, Past, Peer, Timer};
use crate::time::{Instant, Moment, WallTime};
use crate::volume::Volume;
use crate::volume::ports::{Control, Errno, Obtained, ShardId, ShardStore, StoreUsage};
use crate::wire::{ControlMessage, LockOutcome};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::oneshot;

/// An event that takes longer is worth a word: everything else waits for it.
const HELD_UP: Duration = Duration::from_millis(500);

/// Where the answer to a search goes: who said to have which shards.
type Searching = oneshot::Sender<Vec<(PeerTag, ShardId)>>;

/// Who waits for a lock.
struct Applicant {
    tell: oneshot::Sender<LockOutcome>,
    ino: Ino,
    request: LockRequest,
}

/// A running peer.
pub struct Host {
    this: Weak<Host>,
    me: PeerTag,
    share: ShareId,
    core: Mutex<Peer>,
    namespace: RwLock<Namespace>,
    /// What the core thinks of the peers, for those who must not wait for it: they may hold the namespace, which
    /// whoever holds the core may be waiting for.
    view: RwLock<BTreeMap<PeerTag, Seen>>,
    log: Arc<OpLog>,
    store: Arc<dyn ShardStore>,
    network: OnceLock<Arc<Network>>,
    runtime: tokio::runtime::Handle,
    settled: tokio::sync::Notify,
    /// The counter of the next number drawn.
    next_number: AtomicU64,
    /// Who waits for which search, and the number of the next.
    searches: Mutex<BTreeMap<u64, Searching>>,
    next_search: AtomicU64,
    /// Who waits for which leases, or to be in touch, and the number of the next.
    needs: Mutex<BTreeMap<u64, oneshot::Sender<Result<Obtained, Errno>>>>,
    next_need: AtomicU64,
    /// Who waits for what came of which request for a lock; numbered like needs.
    locks: Mutex<BTreeMap<u64, Applicant>>,
    /// Until when this peer is in touch, by the steady clock, in nanoseconds.
    in_touch_until: AtomicU64,
    timers: Mutex<Timers>,
    timer_set: tokio::sync::Notify,
    telling_roster: Mutex<()>,
    /// Told which records other machines changed.
    on_remote_change: OnceLock<Box<dyn Fn(BTreeSet<Key>) + Send + Sync>>,
    /// The epoch of the ops that this peer makes.
    epoch: AtomicU8,
    past_file: PastFile,
    reports: Reports,
    on_suspect: OnceLock<Box<dyn Fn(ShardId) + Send + Sync>>,
    /// Told from whom to fetch a snapshot, to go on from.
    on_outdated: OnceLock<Box<dyn Fn(PeerTag) + Send + Sync>>,
    volume: OnceLock<Volume>,
    stopping: AtomicBool,
    started: WallTime,
}

impl Host {
    /// A host whose network is still to be [`Host::connect`]ed.
    pub fn new(
        share: ShareId,
        core: Peer,
        namespace: Namespace,
        log: Arc<OpLog>,
        store: Arc<dyn ShardStore>,
        past: Past,
        past_file: PastFile,
    ) -> Arc<Host> {
        let me = core.me();
        let next_number = AtomicU64::new(past.next_number(namespace.counter(me)));
        Arc::new_cyclic(|this| Host {
            this: this.clone(),
            me,
            share,
            core: Mutex::new(core),
            namespace: RwLock::new(namespace),
            view: RwLock::default(),
            log,
            store,
            network: OnceLock::new(),
            runtime: tokio::runtime::Handle::current(),
            settled: tokio::sync::Notify::new(),
            next_number,
            searches: Mutex::default(),
            next_search: AtomicU64::new(0),
            needs: Mutex::default(),
            locks: Mutex::default(),
            next_need: AtomicU64::new(0),
            in_touch_until: AtomicU64::new(0),
            timers: Mutex::default(),
            timer_set: tokio::sync::Notify::new(),
            telling_roster: Mutex::new(()),
            on_remote_change: OnceLock::new(),
            epoch: AtomicU8::new(past.epoch),
            past_file,
            reports: Reports::default(),
            on_suspect: OnceLock::new(),
            on_outdated: OnceLock::new(),
            volume: OnceLock::new(),
            stopping: AtomicBool::new(false),
            started: super::setup::now(),
        })
    }

    /// Gives it its network and carries out the first effects.
    pub fn connect(&self, network: Arc<Network>, effects: Vec<Effect>) {
        let _ = self.network.set(network);
        let mut core = self.core.lock();
        self.carry_out(&mut core, effects);
        drop(core);
        self.tell_roster();
        self.runtime.spawn(run_timers(self.this.clone()));
    }

    /// Who is told what other machines change; once.
    pub fn on_remote_change(&self, listener: Box<dyn Fn(BTreeSet<Key>) + Send + Sync>) {
        let _ = self.on_remote_change.set(listener);
    }

    pub fn share(&self) -> ShareId {
        self.share
    }

    pub fn network(&self) -> Option<&Arc<Network>> {
        self.network.get()
    }

    pub fn store(&self) -> &Arc<dyn ShardStore> {
        &self.store
    }

    /// What the peer last said of its store.
    pub fn usage(&self, peer: PeerTag) -> Option<StoreUsage> {
        self.view.read().get(&peer).and_then(|seen| seen.usage)
    }

    /// Takes note of what the peer says of its store.
    pub fn note_usage(&self, peer: PeerTag, usage: StoreUsage) {
        self.view.write().entry(peer).or_default().usage = Some(usage);
    }

    /// Since when a peer that is not alive is not, and whether it said that it ends.
    pub fn lost(&self, peer: PeerTag) -> (WallTime, bool) {
        let seen = self.view.read().get(&peer).copied().unwrap_or_default();
        (seen.lost.unwrap_or(self.started), seen.stopped)
    }

    /// The namespace, to be changed by what is no op (a checkpoint's marks).
    pub fn with_namespace_mut<R>(&self, change: impl FnOnce(&mut Namespace) -> R) -> R {
        let _core = self.core.lock();
        change(&mut self.namespace.write())
    }

    /// Whether some peer said what it has, and everything that was said is here.
    pub fn has_caught_up(&self) -> bool {
        let core = self.core.lock();
        core.has_caught_up(&self.namespace.read())
    }

    /// Handles an event and carries out what follows.
    pub fn handle(&self, event: Event) {
        match &event {
            Event::Usage(usage) => self.note_usage(self.me, *usage),
            Event::Control { from, message: ControlMessage::Load { usage } } => self.note_usage(*from, *usage),
            Event::Control { from, message: ControlMessage::Leaving } => {
                self.view.write().entry(*from).or_default().stopped = true;
            }
            _ => {}
        }
        // Ops, of which there are many, change nothing about being in touch, save where they were waited for.
        let touches =
            !matches!(&event, Event::Control { message: ControlMessage::Ops(_) | ControlMessage::Have { .. }, .. })
                || !self.in_touch();
        let mut core = self.core.lock();
        let started = std::time::Instant::now();
        let effects = {
            let mut namespace = self.namespace.write();
            let effects = core.handle(&mut namespace, event, self.moment());
            if touches {
                self.in_touch_until.store(core.in_touch_until(&namespace).0, Ordering::Relaxed);
            }
            // After a power cut others give this peer back ops of its own: the numbers in them are used up.
            self.next_number.fetch_max(namespace.counter(self.me) + 1, Ordering::Relaxed);
            effects
        };
        self.carry_out(&mut core, effects);
        let took = started.elapsed();
        if took > HELD_UP {
            tracing::warn!(?took, "this peer was held up: others may have thought it dead");
        }
    }

    /// From now on timers run out unheard.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn carry_out(&self, _core: &mut Peer, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist(ops) => {
                    if let Err(error) = self.log.append(&ops) {
                        // Going on would acknowledge what a restart forgets.
                        tracing::error!("the op log cannot be written: {error}; this peer stops");
                        std::process::abort();
                    }
                }
                Effect::Remember(past) => self.remember(&past),
                Effect::FetchSnapshot { from } => self.fetch_snapshot(from),
                Effect::SyncLog(vector) => self.sync_log(vector),
                Effect::SendControl { to, message } => {
                    if let Some(network) = self.network.get() {
                        // Where it fails the connection is gone or going, and the next one begins with Hello.
                        let _ = network.send_control(to, &message);
                    }
                }
                Effect::SendDatagram { to, bytes } => {
                    if let Some(network) = self.network.get() {
                        network.send_datagram(to, bytes);
                    }
                }
                Effect::SetTimer { after, timer } => self.set_timer(after, timer),
                Effect::Invalidate(keys) => {
                    if let Some(listener) = self.on_remote_change.get() {
                        listener(keys);
                    }
                }
                Effect::RosterChanged => self.tell_roster(),
                Effect::Alive { peer, alive } => {
                    tracing::info!(%peer, "is {}", if alive { "alive" } else { "dead" });
                    self.view.write().entry(peer).or_default().note(alive, self.now());
                    if let Some(network) = self.network.get() {
                        network.set_alive(peer, alive);
                    }
                }
                Effect::Begin(work) => self.begin(work),
                Effect::LookUp { query, block } => self.look_up(query, block),
                Effect::Searched { search, found } => {
                    if let Some(waiting) = self.searches.lock().remove(&search) {
                        // Whoever asked may have it from elsewhere by now.
                        let _ = waiting.send(found);
                    }
                }
                Effect::Provided(id) => {
                    if let Some(waiting) = self.needs.lock().remove(&id) {
                        // Whoever waited may have given up.
                        let _ = waiting.send(Ok(Obtained::Leases));
                    }
                }
                Effect::Named { id, outcome } => {
                    if let Some(waiting) = self.needs.lock().remove(&id) {
                        let _ = waiting.send(outcome.map(|gone| Obtained::Done { gone }));
                    }
                }
                Effect::Locked { id, outcome } => {
                    let applicant = self.locks.lock().remove(&id);
                    if let Some(Applicant { tell, ino, request }) = applicant
                        && let Err(outcome) = tell.send(outcome)
                    {
                        self.let_go_of(ino, request, outcome);
                    }
                }
                Effect::LockLost { ino } => {
                    if let Some(volume) = self.volume.get() {
                        volume.lock_lost(ino);
                    }
                }
                Effect::Recall(ino) => self.recall(ino),
                Effect::Deposed => self.deposed(),
                Effect::Settled => self.settled.notify_waiters(),
                Effect::Refused { peer, why } => tracing::debug!(%peer, "was not obeyed: {why}"),
                Effect::FalseClaim { peer, what } => self.reports.note(self.name_of(peer), what, self.now()),
                Effect::ClockDiffers { peer, ahead_ms } => {
                    self.reports.note(self.name_of(peer), clock_words(ahead_ms), self.now());
                }
                Effect::LeftOut { peer, ahead_ms } => {
                    tracing::debug!(%peer, ahead_ms, "stamps are ahead of this clock");
                    let what = "made changes stamped too far ahead of this machine's clock; they are left out until the \
                                clocks are set right";
                    self.reports.note(self.name_of(peer), what.to_owned(), self.now());
                }
                Effect::Misbehaved { peer, how } => {
                    self.reports.note(self.name_of(peer), format!("was cut off: {how}"), self.now());
                    if let Some(network) = self.network.get() {
                        network.disconnect(peer, &how);
                    }
                }
            }
        }
    }

    /// What the roster calls a machine, and its id.
    pub fn name_of(&self, peer: PeerTag) -> String {
        // Recursive: the caller may hold the namespace already.
        let namespace = self.namespace.read_recursive();
        namespace.peer(peer).map_or_else(|| peer.to_string(), |record| format!("{} ({peer})", record.name))
    }

    /// What was refused, or looked wrong, of late.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    fn remember(&self, past: &Past) {
        if let Err(error) = self.past_file.save(past) {
            // Going on could give the number of an op out twice.
            tracing::error!("{error:#}; this peer stops");
            std::process::abort();
        }
        self.epoch.store(past.epoch, Ordering::Relaxed);
        self.next_number.fetch_max(past.next_number(self.namespace.read().counter(self.me)), Ordering::Relaxed);
    }

    fn set_timer(&self, after: Duration, timer: Timer) {
        let mut timers = self.timers.lock();
        timers.set += 1;
        let key = (tokio::time::Instant::now() + after, timers.set);
        timers.due.insert(key, timer);
        self.timer_set.notify_one();
    }

    /// Carries out what the groups need, in a task of its own.
    fn begin(&self, work: Work) {
        let (this, volume) = (self.this.clone(), self.volume.get().cloned());
        tracing::info!(?work, "healing");
        self.runtime.spawn(async move {
            let outcome = match volume {
                Some(volume) => volume.work(&work).await,
                None => Outcome::Failed,
            };
            if outcome == Outcome::Failed {
                tracing::warn!(?work, "healing did not succeed; it is tried again");
            }
            if let Some(host) = this.upgrade() {
                host.handle(Event::Worked { work, outcome });
            }
        });
    }

    /// Tells the core what the store has of a block somebody searches for; from a task of its own, since the core is
    /// held here.
    fn look_up(&self, query: QueryId, block: BlockName) {
        let held = self.store.holding(block);
        if held.is_empty() {
            return;
        }
        let pieces = held.into_iter().map(|id| Piece { geometry: id.geometry, index: id.index }).collect();
        let this = self.this.clone();
        self.runtime.spawn(async move {
            if let Some(host) = this.upgrade() {
                host.handle(Event::Holds { query, pieces });
            }
        });
    }

    /// A lock came for a process that had given up. From a task of its own: the core is held here.
    fn let_go_of(&self, ino: Ino, request: LockRequest, outcome: LockOutcome) {
        if let (LockRequest::Take { lock, .. }, LockOutcome::Done) = (request, outcome) {
            let this = self.this.clone();
            self.runtime.spawn(async move {
                if let Some(host) = this.upgrade() {
                    host.unlock(ino, lock.owner.number, lock.first, lock.last).await;
                }
            });
        }
    }

    /// Has stored what is unsaved of a file, in a task of its own: that makes changes, and the core is held here.
    fn recall(&self, ino: Ino) {
        let (this, volume) = (self.this.clone(), self.volume.get().cloned());
        self.runtime.spawn(async move {
            if let Some(volume) = volume {
                volume.recall(ino).await;
            }
            if let Some(host) = this.upgrade() {
                host.handle(Event::Recalled(ino));
            }
        });
    }

    fn deposed(&self) {
        tracing::warn!("this machine was taken for dead, and others took its leases over");
        if let Some(volume) = self.volume.get().cloned() {
            self.runtime.spawn_blocking(move || volume.deposed());
        }
    }

    fn moment(&self) -> Moment {
        Moment { wall: self.now(), steady: steady() }
    }

    /// Changes the namespace under the core's lock, as far as the core may.
    fn change_in(&self, core: &mut Peer, changes: Vec<Change>) -> Result<u64, Errno> {
        if changes.is_empty() {
            return Ok(0);
        }
        let now = self.now();
        let (before, asked) = {
            let namespace = self.namespace.read();
            // The namespace leaves out what every peer would refuse: nobody may take that for done.
            if let Some(what) = changes.iter().find_map(|change| namespace.check(self.author(), now, change).err()) {
                tracing::error!("a change of this peer is out of bounds and is not made: {what}");
                return Err(Errno(libc::EINVAL));
            }
            (namespace.vector().get(self.author()), changes.len() as u64)
        };
        let (seq, effects) = core.change(&mut self.namespace.write(), changes, now);
        self.carry_out(core, effects);
        // It also leaves out changes of inodes that are not there.
        if seq < before + asked { Err(Errno(libc::ESTALE)) } else { Ok(seq) }
    }

    /// Who carries out what the groups need; once.
    pub fn set_volume(&self, volume: Volume) {
        let _ = self.volume.set(volume);
    }

    /// Who is told of shards that this peer's store should look to; once.
    pub fn on_suspect(&self, listener: Box<dyn Fn(ShardId) + Send + Sync>) {
        let _ = self.on_suspect.set(listener);
    }

    /// Who fetches a snapshot and calls [`Host::rebase`]; once.
    pub fn on_outdated(&self, listener: Box<dyn Fn(PeerTag) + Send + Sync>) {
        let _ = self.on_outdated.set(listener);
    }

    fn fetch_snapshot(&self, from: PeerTag) {
        match self.on_outdated.get() {
            Some(listener) => listener(from),
            // It is still starting, and will be told again.
            None => {
                let this = self.this.clone();
                self.runtime.spawn(async move {
                    if let Some(host) = this.upgrade() {
                        host.handle(Event::SnapshotFailed);
                    }
                });
            }
        }
    }

    /// Makes a peer that was let go count again: it is about to be given a snapshot.
    pub fn take_back(&self, peer: PeerTag) {
        let mut core = self.core.lock();
        let effects = core.take_back(&mut self.namespace.write(), peer, self.now());
        self.carry_out(&mut core, effects);
    }

    /// Goes on from a snapshot. `keep` brings the ops that are made anew on top of it to stable storage, and the snapshot
    /// with them. Nothing else happens here meanwhile. How many ops were made anew.
    pub fn rebase(&self, fresh: Namespace, keep: impl FnOnce(&[Op]) -> anyhow::Result<()>) -> anyhow::Result<usize> {
        let mut core = self.core.lock();
        let (past, rebased) = core.plan_rebase(&self.namespace.read(), fresh, self.now())?;
        let carried = rebased.carried;
        self.past_file.save(&past)?;
        if let Err(error) = keep(&rebased.ops) {
            // Which of the two is on the disk is not known: a restart finds out.
            tracing::error!("going on from a snapshot failed: {error:#}; this peer stops");
            std::process::abort();
        }
        let effects = core.rebased(&mut self.namespace.write(), past, rebased);
        self.carry_out(&mut core, effects);
        Ok(carried)
    }

    /// Somebody could not get this shard whole from here.
    pub fn suspected(&self, id: ShardId) {
        if let Some(listener) = self.on_suspect.get() {
            listener(id);
        }
    }

    /// What the core knows of its groups' healing, looked at under its lock.
    pub fn with_core<R>(&self, look: impl FnOnce(&Peer, &Namespace) -> R) -> R {
        let core = self.core.lock();
        look(&core, &self.namespace.read())
    }

    /// `vector`: what was appended before.
    fn sync_log(&self, vector: VersionVector) {
        let this = self.this.clone();
        let log = self.log.clone();
        let author = self.author();
        let position = log.position();
        self.runtime.spawn(async move {
            match log.sync(position).await {
                Ok(()) => {
                    // In another epoch, what was logged before may be here no more.
                    if let Some(host) = this.upgrade().filter(|host| host.author() == author) {
                        host.handle(Event::LogDurable(vector));
                    }
                }
                Err(error) => tracing::error!("the op log cannot be brought to stable storage: {error}"),
            }
        });
    }

    /// From a task of its own: the network calls us with locks held that it needs for this.
    fn tell_roster(&self) {
        let this = self.this.clone();
        self.runtime.spawn_blocking(move || {
            let Some(host) = this.upgrade() else { return };
            let Some(network) = host.network.get() else { return };
            // Read under the lock, so that of two tellings the later one tells the later roster.
            let _telling = host.telling_roster.lock();
            let roster = host.roster();
            network.set_roster(roster);
        });
    }

    /// The roster as the network wants it.
    pub fn roster(&self) -> Vec<RosterPeer> {
        let namespace = self.namespace.read();
        namespace
            .peers()
            .map(|(_, record)| RosterPeer { key: record.key, addresses: record.addresses.clone() })
            .collect()
    }
}

/// The clock that only goes on, and does so while the machine sleeps.
fn steady() -> Instant {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value of the type asked for, which lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// What is known of a peer.
#[derive(Clone, Copy, Default)]
struct Seen {
    alive: bool,
    usage: Option<StoreUsage>,
    /// Since when it is not alive; none: it is, or never was while this process ran.
    lost: Option<WallTime>,
    /// It said that it ends, and was not heard since.
    stopped: bool,
}

impl Seen {
    fn note(&mut self, alive: bool, now: WallTime) {
        if alive {
            (self.lost, self.stopped) = (None, false);
        } else if self.alive {
            self.lost = Some(now);
        }
        self.alive = alive;
    }
}

/// The timers that run, by when they run out and in which order they were set.
#[derive(Default)]
struct Timers {
    due: BTreeMap<(tokio::time::Instant, u64), Timer>,
    set: u64,
}

/// Hands timers back in the order in which they run out, until the host stops.
async fn run_timers(host: Weak<Host>) {
    loop {
        let Some(this) = host.upgrade() else { return };
        if this.stopping.load(Ordering::Relaxed) {
            return;
        }
        let next = this.timers.lock().due.first_key_value().map(|(key, _)| *key);
        let now = tokio::time::Instant::now();
        match next {
            Some(key) if key.0 <= now => {
                let timer = this.timers.lock().due.remove(&key);
                if let Some(timer) = timer {
                    this.handle(Event::Timer(timer));
                }
            }
            // A bounded wait, so that a host that nobody holds any more is let go.
            _ => {
                let until = next.map_or(now + Duration::from_secs(1), |key| key.0);
                let _ = tokio::time::timeout_at(until, this.timer_set.notified()).await;
            }
        }
    }
}
