//! Machines that go: what the share would be without them, taking one off the roster, draining this one until it may
//! be switched off, and announcing that one is away for a while.

use super::Daemon;
use super::looking_after::{Upkeeps, under_way};
use crate::group::{self, HandingOver, Holdings, Loss, UnderWay};
use crate::id::PeerTag;
use crate::io::control::{CanStopReport, ControlReply, EvictReport, LeaveReport, ProgressSink};
use crate::namespace::{Change, Namespace, Standing};
use crate::time::WallTime;
use crate::volume::ports::Control;
use std::collections::BTreeSet;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often a machine that leaves looks at what is left to hand over.
const LOOK: Duration = Duration::from_millis(500);

/// For so long nothing may have been left before it goes: a writer elsewhere may be about to name a block whose shard
/// it put here before it knew.
const CALM: Duration = Duration::from_secs(3);

/// For so long a decision about the content of the share waits until every peer that is there has compared its store
/// with what it should hold: it does so as it starts.
const COMPARED: Duration = Duration::from_secs(15);

/// A machine's way out of the share.
#[derive(Default)]
pub struct Parting {
    /// What nobody else can take may be lost with this machine. Said by a person, for this run.
    accept_loss: AtomicBool,
    /// This machine is off the roster, and what went with it.
    gone: watch::Sender<Option<LeaveReport>>,
}

impl Daemon {
    /// The peer that a person means by its id or its name.
    fn find_peer(&self, text: &str) -> Result<PeerTag, String> {
        let namespace = self.host.namespace();
        let named =
            |(tag, record): &(PeerTag, &crate::namespace::PeerRecord)| tag.to_string() == text || record.name == text;
        let found: Vec<PeerTag> = namespace.peers().filter(named).map(|(tag, _)| tag).collect();
        match found[..] {
            [peer] => Ok(peer),
            [] => Err(format!(
                "'{}' is no peer of this share; give an id or a name from shoal peers",
                text.escape_debug()
            )),
            _ => Err(format!("{} machines are called '{text}'; give an id from shoal peers", found.len())),
        }
    }

    fn alive(&self) -> BTreeSet<PeerTag> {
        self.host.candidates().into_iter().filter(|one| one.alive).map(|one| one.peer).collect()
    }

    /// What the stores of the peers that are there surely have.
    async fn holdings(&self) -> Holdings {
        let end = Instant::now() + COMPARED;
        loop {
            let holdings = self.sure(&self.upkeeps().await);
            if holdings.is_sure() || Instant::now() > end {
                return holdings;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn sure(&self, upkeeps: &Upkeeps) -> Holdings {
        Holdings::sure(self.alive(), upkeeps.iter().map(|(peer, one)| (*peer, &one.lacking)))
    }

    pub(super) async fn can_stop(&self, peers: &[String]) -> Result<CanStopReport, String> {
        let gone: BTreeSet<PeerTag> = peers.iter().map(|peer| self.find_peer(peer)).collect::<Result<_, _>>()?;
        let holdings = self.holdings().await;
        let found = group::without(&self.host.namespace(), &self.alive(), &holdings, &gone);
        Ok(CanStopReport {
            peers: gone.iter().map(ToString::to_string).collect(),
            readable: found.unreadable.is_none(),
            files_unreadable: found.unreadable.files,
            blocks_unreadable: found.unreadable.blocks,
            files_cut_off: found.caused.files,
            blocks_cut_off: found.caused.blocks,
            survives: found.survives,
            survives_healed: found.survives_healed,
        })
    }

    pub(super) async fn evict(&self, text: &str, accept_loss: bool) -> Result<EvictReport, String> {
        let peer = self.find_peer(text)?;
        if peer == self.host.me() {
            return Err("that is this machine; have it leave with shoal leave".to_owned());
        }
        let holdings = self.holdings().await;
        let found = group::without(&self.host.namespace(), &self.alive(), &holdings, &[peer].into());
        if !found.lost.is_none() && !accept_loss {
            return Err(format!(
                "without {text}, {} would be lost: start the machines that are gone, or have {text} hand over with shoal leave there; give --accept-loss to lose that",
                told(found.lost)
            ));
        }
        let name = self.host.namespace().peer(peer).map(|record| record.name.clone()).unwrap_or_default();
        // Nobody else forgets the files that it had open when their last names went.
        let reaped = |namespace: &Namespace| namespace.orphans_of(peer).into_iter().map(|ino| Change::Reap { ino });
        self.tell(&mut |namespace| std::iter::once(Change::Evict { peer }).chain(reaped(namespace)).collect()).await?;
        Ok(EvictReport {
            peer: peer.to_string(),
            name,
            files_lost: found.lost.files,
            blocks_lost: found.lost.blocks,
            survives: found.survives,
        })
    }

    /// Has this machine drained, and says how far that is, until it has gone or is to stay.
    pub(super) async fn leave(&self, accept_loss: bool, progress: ProgressSink) -> Result<ControlReply, String> {
        let stranded = self.stranded();
        if !stranded.is_none() && !accept_loss {
            return Err(format!(
                "{} would be lost with this machine: no other is there, or has the room, to take over; let one join with shoal invite, or give --accept-loss to lose that",
                told(stranded)
            ));
        }
        self.parting.accept_loss.store(accept_loss, Ordering::Relaxed);
        self.set_standing(|standing| standing.leaving = true).await?;
        let mut gone = self.parting.gone.subscribe();
        let mut most = 0;
        loop {
            if let Some(report) = gone.borrow_and_update().clone() {
                return Ok(ControlReply::Left(report));
            }
            if !self.is_leaving() && self.host.namespace().peer(self.host.me()).is_some() {
                return Err("it was taken back: this machine stays in the share".to_owned());
            }
            if progress.is_abandoned() {
                return Ok(ControlReply::Done);
            }
            let upkeeps = self.upkeeps().await;
            let left = self.handing_over(&self.sure(&upkeeps), &under_way(&upkeeps));
            most = left.blocks.max(most);
            let text = match left.blocks {
                0 => self.farewell(),
                _ => format!("handing over, {} left", humansize::format_size(left.bytes, humansize::BINARY)),
            };
            progress.report(text, most - left.blocks, most);
            let _ = tokio::time::timeout(LOOK, gone.changed()).await;
        }
    }

    /// What is waited for when all is handed over.
    fn farewell(&self) -> String {
        if let Err(why) = self.may_part() {
            return why;
        }
        let namespace = self.host.namespace();
        let away = self.host.candidates().into_iter().filter(|one| !one.alive).map(|one| one.peer);
        let names: Vec<&str> = away.filter_map(|peer| Some(namespace.peer(peer)?.name.as_str())).collect();
        match names[..] {
            [] => "all is handed over; taking leave".to_owned(),
            _ => format!(
                "all is handed over; waiting for {}: start what is away, or evict what is gone for good",
                names.join(", ")
            ),
        }
    }

    pub(super) async fn cancel_leave(&self) -> Result<(), String> {
        if !self.is_leaving() {
            return Err("this machine is not leaving".to_owned());
        }
        self.set_standing(|standing| standing.leaving = false).await
    }

    pub(super) async fn maintenance(&self, secs: u64) -> Result<(), String> {
        let length = i64::try_from(secs).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        let until = if secs == 0 { WallTime::default() } else { WallTime(self.host.now().0.saturating_add(length)) };
        self.set_standing(|standing| standing.maintenance_until = until).await
    }

    fn is_leaving(&self) -> bool {
        self.host.namespace().standing(self.host.me()).leaving
    }

    fn stranded(&self) -> Loss {
        group::stranded(&self.host.namespace(), &self.host.candidates(), self.host.me())
    }

    fn accepts_loss(&self) -> bool {
        self.parting.accept_loss.load(Ordering::Relaxed)
    }

    fn handing_over(&self, holdings: &Holdings, under_way: &UnderWay) -> HandingOver {
        let (me, accepted) = (self.host.me(), self.accepts_loss());
        group::handing_over(&self.host.namespace(), &self.host.candidates(), holdings, under_way, me, accepted)
    }

    /// Whether all that this machine hands over is with somebody who stays. Of machines that leave at once, each counts on
    /// those of higher numbers only, so that no two count on one another; and none counts on them for good.
    fn may_part(&self) -> Result<(), String> {
        let me = self.host.me();
        let namespace = self.host.namespace();
        let leaves = |peer: &PeerTag| *peer < me && namespace.standing(*peer).leaving;
        let gone = self.alive().into_iter().filter(leaves).chain([me]).collect();
        let without = group::without(&namespace, &self.alive(), &Holdings::default(), &gone);
        drop(namespace);
        let lost = if without.lost.is_none() { self.stranded() } else { without.lost };
        if lost.is_none() || self.accepts_loss() {
            return Ok(());
        }
        Err(format!(
            "{} would be lost, as other machines leave too; waiting for one to stay (shoal leave --cancel there) or to join",
            told(lost)
        ))
    }

    async fn set_standing(&self, set: impl Fn(&mut Standing) + Send + Sync) -> Result<(), String> {
        let peer = self.host.me();
        self.tell(&mut |namespace| {
            let mut standing = namespace.standing(peer);
            set(&mut standing);
            if standing == namespace.standing(peer) { Vec::new() } else { vec![Change::SetStanding { peer, standing }] }
        })
        .await
    }

    /// Makes changes that every connected peer has when this returns.
    async fn tell(&self, plan: &mut (dyn FnMut(&Namespace) -> Vec<Change> + Send)) -> Result<(), String> {
        let seq = self.host.change(&mut |namespace| Ok(plan(namespace))).map_err(|error| error.to_string())?;
        let settled = self.host.settle(seq, false).await;
        settled.map_err(|error| format!("it is done here, but not every connected peer has heard of it: {error}"))
    }

    /// Whether the others surely have what this machine is to hand over.
    async fn has_handed_over(&self) -> Result<(), String> {
        let left = self.handing_over(&self.sure(&self.upkeeps().await), &UnderWay::new());
        if left.groups > 0 {
            return Err(format!("{} blocks more are to be handed over", left.blocks));
        }
        self.may_part()
    }

    /// Takes this machine, which has handed everything over, off the roster and ends it.
    async fn part(&self) -> Result<(), String> {
        self.has_handed_over().await?;
        // What people wrote here is stored and named before nobody hears this machine any more.
        self.let_go_of_all().await?;
        self.has_handed_over().await?;
        let lost = self.stranded();
        let peer = self.host.me();
        let leave = |namespace: &Namespace| {
            // Nobody else would forget what was open here without a name.
            let orphans = namespace.orphans_of(peer).into_iter().map(|ino| Change::Reap { ino });
            orphans.chain([Change::Evict { peer }]).collect()
        };
        self.tell(&mut |namespace| leave(namespace)).await?;
        tracing::info!("this machine has left the share and may be switched off");
        let report = LeaveReport { peer: peer.to_string(), files_lost: lost.files, blocks_lost: lost.blocks };
        self.parting.gone.send_replace(Some(report));
        self.finish().await
    }
}

/// Watches for this machine's leaving, which goes on over restarts, and carries it out to its end. One that others took
/// off the roster stops.
pub async fn watch_for_leaving(daemon: Weak<Daemon>) {
    let mut nothing_left: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(this) = daemon.upgrade() else { return };
        if this.host.namespace().peer(this.host.me()).is_none() {
            // What people wrote here from now on would be nobody's.
            tracing::error!(
                "this machine was taken off the roster of the share; its peer lets go of its mounts and stops"
            );
            if let Err(error) = this.finish().await {
                tracing::error!("{error}");
            }
            return;
        }
        // What one that is away has of this machine's, or wrote with shards here, must come to the others first.
        let heard = || this.host.with_core(|core, _| core.hears_everyone_for()) >= CALM;
        let may_go = || this.accepts_loss() || heard();
        let seats = Holdings::default();
        let ready = this.is_leaving() && may_go() && this.handing_over(&seats, &UnderWay::new()).groups == 0;
        if !ready {
            nothing_left = None;
            continue;
        }
        if nothing_left.get_or_insert_with(Instant::now).elapsed() < CALM {
            continue;
        }
        match this.part().await {
            Ok(()) => return,
            Err(why) => tracing::warn!("this machine cannot leave yet: {why}"),
        }
        nothing_left = None;
    }
}

/// "3 files (12 blocks)".
fn told(loss: Loss) -> String {
    let many = |number: u64, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    format!("{} ({})", many(loss.files, "file"), many(loss.blocks, "block"))
}
