//! What the store holds against what it owes: missing shards are got again, and what nobody needs is let go. The rules
//! are in `group::custody`; here they are applied to a real store, round after round, so that no lost message stays lost.

use super::{Daemon, Host, scrub};
use crate::group::{self, ANNOUNCED, Comparison, Custody, Findings, KEPT_FOR, Lacking, Unsettled};
use crate::id::GroupId;
use crate::namespace::VersionVector;
use crate::peer::Event;
use crate::volume::Volume;
use crate::volume::ports::{Control, ShardId};
use crate::wire::{Haste, PeerUpkeep};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// From the end of one round to the start of the next.
const ROUND: Duration = Duration::from_secs(5);

/// With nothing changed, so many rounds are left out: a quiet share stays quiet.
const QUIET_ROUNDS: u32 = 60;

/// Shards looked at under one look into the namespace, and removed at a time.
const BATCH: usize = 1024;

/// The most suspicions that wait; the rounds and the scrub find what is dropped.
const SUSPICIONS: usize = 4096;

/// What housekeeping knows and did, for people to see.
#[derive(Default)]
pub struct Household {
    /// Damaged shards found since the start, and how many of them are whole again.
    pub rot_found: AtomicU64,
    pub rot_mended: AtomicU64,
    /// Shards let go of since the start.
    pub freed: AtomicU64,
    /// Shards read by the scrub under way, and how many there are.
    pub scrubbed: AtomicU64,
    pub to_scrub: AtomicU64,
    /// When a scrub last ended, in milliseconds since 1970.
    pub scrub_ended_ms: AtomicU64,
    /// Bytes rebuilt by the last time somebody measured, and a second then.
    rebuilt: AtomicU64,
    rebuilt_per_second: AtomicU64,
    rotten: Mutex<BTreeSet<ShardId>>,
    lacking: Mutex<Lacking>,
    /// Wakes the rounds before their time.
    look: tokio::sync::Notify,
    /// The next round is not to be left out.
    hurried: AtomicBool,
    /// Has the scrub begin anew, and not rest.
    pub scrub_now: tokio::sync::Notify,
    /// Somebody asked for that, and it has not come to its end yet.
    pub scrub_hurried: AtomicBool,
}

impl Household {
    /// Notes a shard that was found damaged.
    fn found_rotten(&self, id: ShardId) {
        if self.rotten.lock().insert(id) {
            self.rot_found.fetch_add(1, Ordering::Relaxed);
        }
        self.look.notify_one();
    }

    /// Does now what would be done some time.
    pub fn hurry(&self, host: &Host, haste: Haste) {
        match haste {
            Haste::Repair => {
                host.handle(Event::Hurry);
                self.hurried.store(true, Ordering::Relaxed);
                self.look.notify_one();
            }
            Haste::Scrub => self.hurry_scrub(),
        }
    }

    /// Has every shard read now. Who asks again meanwhile does not have it begin anew.
    pub fn hurry_scrub(&self) {
        if !self.scrub_hurried.swap(true, Ordering::Relaxed) {
            self.scrub_now.notify_one();
        }
    }

    /// Notes how fast shards were rebuilt since the last time, which was so long ago.
    pub fn measure(&self, volume: &Volume, elapsed: Duration) {
        let rebuilt = volume.healing().bytes_rebuilt.load(Ordering::Relaxed);
        let more = rebuilt - self.rebuilt.swap(rebuilt, Ordering::Relaxed).min(rebuilt);
        // Half of it is what was before, so that a moment without a block does not look like the end.
        let now = (more as f64 / elapsed.as_secs_f64()) as u64;
        let before = self.rebuilt_per_second.load(Ordering::Relaxed);
        self.rebuilt_per_second.store((before + now) / 2, Ordering::Relaxed);
    }

    /// What this peer does for its shards and groups, for whoever asks.
    pub fn upkeep(&self, host: &Host, volume: Option<&Volume>) -> PeerUpkeep {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let healing = volume.map(Volume::healing);
        PeerUpkeep {
            shards_rebuilt: healing.map_or(0, |healing| read(&healing.shards_rebuilt)),
            bytes_rebuilt: healing.map_or(0, |healing| read(&healing.bytes_rebuilt)),
            bytes_per_second: read(&self.rebuilt_per_second),
            scrubbed: read(&self.scrubbed),
            to_scrub: read(&self.to_scrub),
            scrub_hurried: self.scrub_hurried.load(Ordering::Relaxed),
            scrub_ended_ms: read(&self.scrub_ended_ms),
            rot_found: read(&self.rot_found),
            rot_mended: read(&self.rot_mended),
            set_aside: host.store().set_aside(),
            damaged_volumes: host.store().damaged_volumes(),
            under_way: healing
                .map_or_else(Vec::new, |healing| healing.under_way().into_iter().take(ANNOUNCED).collect()),
            lacking: self.lacking.lock().clone(),
        }
    }
}

/// Starts the rounds, the scrub, and the ear for suspicions.
pub fn start(daemon: &Arc<Daemon>, home: &Path) {
    let (suspect, mut suspected) = tokio::sync::mpsc::channel(SUSPICIONS);
    daemon.host.on_suspect(Box::new(move |id| {
        let _ = suspect.try_send(id);
    }));
    let this = Arc::downgrade(daemon);
    tokio::spawn(async move {
        while let Some(id) = suspected.recv().await {
            let Some(daemon) = this.upgrade() else { return };
            daemon.recheck(id).await;
        }
    });
    tokio::spawn(rounds(Arc::downgrade(daemon)));
    tokio::spawn(scrub::scrub(Arc::downgrade(daemon), home.to_owned()));
}

/// What the last rounds found.
#[derive(Default)]
struct Found {
    comparison: Comparison,
    /// What the namespace was, and how many bytes the store took, when a round had nothing to do.
    quiet: Option<(VersionVector, u64)>,
    quiet_rounds: u32,
}

async fn rounds(daemon: Weak<Daemon>) {
    let mut found = Found::default();
    loop {
        let Some(this) = daemon.upgrade() else { return };
        let household = this.household.clone();
        let started = Instant::now();
        this.round(&mut found).await;
        drop(this);
        // However large the store is, most of the time goes to other things.
        let pause = ROUND.max(started.elapsed() * 10);
        let _ = tokio::time::timeout(pause, household.look.notified()).await;
    }
}

impl Daemon {
    async fn round(&self, found: &mut Found) {
        if !self.host.has_caught_up() && self.host.roster().len() > 1 {
            return;
        }
        let state = (self.host.namespace().vector().clone(), self.host.store().usage().stored);
        let hurried = self.household.hurried.swap(false, Ordering::Relaxed);
        if !hurried && found.quiet.as_ref() == Some(&state) && found.quiet_rounds < QUIET_ROUNDS {
            found.quiet_rounds += 1;
            return;
        }
        let in_order = self.compare(found).await;
        let freed_all = self.free().await;
        self.close_groups();
        let idle = in_order && freed_all && state.0 == *self.host.namespace().vector();
        found.quiet = idle.then_some(state);
        found.quiet_rounds = 0;
    }

    /// What the seats say is here against what is; whether nothing is missing.
    async fn compare(&self, found: &mut Found) -> bool {
        let me = self.host.me();
        let groups: Vec<GroupId> = self.host.namespace().groups_of(me).map(|(id, _)| id).collect();
        let (mut owed, mut lacking) = (0, BTreeMap::<GroupId, Vec<ShardId>>::new());
        for id in groups {
            let shards = group::owed(&self.host.namespace(), id, me);
            owed += shards.len();
            match self.host.store().lacking(shards, false).await {
                Ok(missing) if missing.is_empty() => {}
                Ok(missing) => {
                    lacking.insert(id, missing);
                }
                Err(error) => tracing::error!("the store cannot be compared with the groups: {error}"),
            }
        }
        let missing: usize = lacking.values().map(Vec::len).sum();
        *self.household.lacking.lock() = Lacking::of(lacking.keys().copied());
        self.note_mended(&lacking);
        let rotten = self.household.rotten.lock().clone();
        match found.comparison.round(owed, &lacking, &rotten) {
            Findings::Emptied => {
                tracing::warn!(
                    "the store has none of the {owed} shards it should: its seats are given up, and others take over"
                );
                self.host.handle(Event::Emptied);
            }
            Findings::Lacking(groups) => {
                for (group, slots) in groups {
                    self.host.handle(Event::Lacking { group, slots });
                }
            }
        }
        missing == 0
    }

    fn note_mended(&self, lacking: &BTreeMap<GroupId, Vec<ShardId>>) {
        let missing: BTreeSet<&ShardId> = lacking.values().flatten().collect();
        let mut rotten = self.household.rotten.lock();
        let before = rotten.len();
        rotten.retain(|id| missing.contains(id));
        self.household.rot_mended.fetch_add((before - rotten.len()) as u64, Ordering::Relaxed);
    }

    /// Lets go of what nobody needs; whether nothing is left that may go later.
    async fn free(&self) -> bool {
        let held = self.host.store().held();
        let heard_for = self.host.with_core(|core, _| core.hears_everyone_for());
        let everyone = heard_for >= KEPT_FOR;
        tracing::debug!(held = held.len(), ?heard_for, "looking for shards that nobody needs");
        let mut all = true;
        for batch in held.chunks(BATCH) {
            let (unowed, useless) = self.useless(batch);
            let old = batch.iter().filter(|(id, age)| useless.contains(id) && *age >= KEPT_FOR).map(|(id, _)| *id);
            let old: Vec<ShardId> = if everyone { old.collect() } else { Vec::new() };
            let old = self.not_needed(old).await;
            tracing::debug!(useless = useless.len(), old = old.len(), "of {} shards", batch.len());
            all &= old.len() == unowed;
            if old.is_empty() {
                continue;
            }
            match self.host.store().remove(old, KEPT_FOR).await {
                Ok(freed) => {
                    self.household.freed.fetch_add(freed as u64, Ordering::Relaxed);
                }
                Err(error) => tracing::error!("shards that nobody needs stay: {error}"),
            }
        }
        all
    }

    /// Those of these shards whose blocks nobody names, or are whole where they belong.
    async fn not_needed(&self, ids: Vec<ShardId>) -> Vec<ShardId> {
        let mut by_group: BTreeMap<Option<GroupId>, Vec<ShardId>> = BTreeMap::new();
        for id in ids {
            let group = self.host.namespace().block(&id.block).map(|block| block.group);
            by_group.entry(group).or_default().push(id);
        }
        let mut gone = by_group.remove(&None).unwrap_or_default();
        for (group, ids) in by_group {
            let Some(group) = group else { continue };
            let whole = self.volume.whole(group, ids.iter().map(|id| id.block).collect()).await;
            gone.extend(ids.into_iter().filter(|id| whole.contains(&id.block)));
        }
        gone
    }

    /// How many of these shards this peer does not owe, and those that nobody needs, as far as it knows.
    fn useless(&self, batch: &[(ShardId, Duration)]) -> (usize, BTreeSet<ShardId>) {
        self.host.with_core(|core, namespace| {
            let held = batch.iter().map(|(id, _)| *id);
            group::useless(namespace, core.me(), held, |peer| core.is_alive(peer), |group| core.is_worked_on(group))
        })
    }

    /// Forgets groups of this peer's, and of peers that were taken off the roster, that nothing refers to any more.
    fn close_groups(&self) {
        // After a power cut others may have ops of this peer that name blocks in groups which look empty here.
        if !self.host.with_core(|core, _| core.has_heard_everyone()) {
            return;
        }
        if let Err(error) = self.volume.close_groups() {
            tracing::warn!("empty groups stay for now: {error}");
        }
    }

    /// Somebody could not get a shard from here, or got a wrong one: it is read, and held against the others'.
    async fn recheck(&self, id: ShardId) {
        let unsettled = Unsettled::default();
        let owed = group::custody(&self.host.namespace(), &unsettled, self.host.me(), &id, |_| true) == Custody::Owed;
        if owed && !self.volume.recheck(id).await {
            self.household.found_rotten(id);
        }
    }

    /// Reads these shards; what is damaged and should be here is looked to.
    pub(super) async fn scrub_some(&self, ids: &[ShardId]) {
        match self.host.store().lacking(ids.to_vec(), true).await {
            Ok(damaged) => {
                let held: BTreeSet<ShardId> = damaged.into_iter().collect();
                let unsettled = Unsettled::default();
                for id in held {
                    let me = self.host.me();
                    if group::custody(&self.host.namespace(), &unsettled, me, &id, |_| true) == Custody::Owed {
                        self.household.found_rotten(id);
                    }
                }
            }
            Err(error) => tracing::error!("the scrub cannot read the store: {error}"),
        }
    }
}
