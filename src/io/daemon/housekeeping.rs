//! What the store holds against what it owes: missing shards are got again, what nobody needs is let go, every shard
//! is read now and then. The rules are in `group::custody`; here they are applied to a real store, round after round,
//! so that no lost message stays lost.

use super::Daemon;
use crate::group::{self, Comparison, Custody, Findings, KEPT_FOR, Unsettled};
use crate::id::GroupId;
use crate::namespace::VersionVector;
use crate::peer::Event;
use crate::volume::ports::{Control, ShardId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// From the end of one round to the start of the next.
const ROUND: Duration = Duration::from_secs(5);

/// With nothing changed, so many rounds are left out: a quiet share stays quiet.
const QUIET_ROUNDS: u32 = 60;

/// Shards looked at under one look into the namespace, and removed at a time.
const BATCH: usize = 1024;

/// Shards that one step of a scrub reads.
const SCRUBBED_AT_ONCE: usize = 16;

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
    /// Shards that were missing at the last round.
    pub lacking: AtomicU64,
    rotten: Mutex<BTreeSet<ShardId>>,
    /// Wakes the rounds before their time.
    look: tokio::sync::Notify,
}

impl Household {
    /// Notes a shard that was found damaged.
    fn found_rotten(&self, id: ShardId) {
        if self.rotten.lock().insert(id) {
            self.rot_found.fetch_add(1, Ordering::Relaxed);
        }
        self.look.notify_one();
    }
}

/// Starts the rounds, the scrub, and the ear for suspicions.
pub fn start(daemon: &Arc<Daemon>) {
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
    tokio::spawn(scrub(Arc::downgrade(daemon)));
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
        if found.quiet.as_ref() == Some(&state) && found.quiet_rounds < QUIET_ROUNDS {
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
        self.household.lacking.store(missing as u64, Ordering::Relaxed);
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

    async fn scrub_some(&self, ids: &[ShardId]) {
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
        self.household.scrubbed.fetch_add(ids.len() as u64, Ordering::Relaxed);
    }
}

/// Reads every shard within the set time, again and again.
async fn scrub(daemon: Weak<Daemon>) {
    let Some(within) = daemon.upgrade().map(|this| this.scrub_within) else { return };
    loop {
        let Some(this) = daemon.upgrade() else { return };
        let mut ids: Vec<ShardId> = this.host.store().held().into_iter().map(|(id, _)| id).collect();
        this.household.to_scrub.store(ids.len() as u64, Ordering::Relaxed);
        this.household.scrubbed.store(0, Ordering::Relaxed);
        drop(this);
        ids.sort_unstable();
        if ids.is_empty() {
            tokio::time::sleep(within.min(Duration::from_secs(3600))).await;
        }
        let steps = u32::try_from(ids.len().div_ceil(SCRUBBED_AT_ONCE)).unwrap_or(u32::MAX);
        for step in ids.chunks(SCRUBBED_AT_ONCE) {
            tokio::time::sleep(within / steps.max(1)).await;
            let Some(this) = daemon.upgrade() else { return };
            this.scrub_some(step).await;
        }
    }
}
