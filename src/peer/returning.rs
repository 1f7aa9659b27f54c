//! Peers that are away for long: letting go of them, so that the log does not grow without end; and their return, with
//! a snapshot. The rules of what that does are the namespace's; here it is decided when.

use super::{Effect, Past, Peer, TICK};
use crate::id::{Author, PeerTag};
use crate::namespace::{Change, Key, Lack, Namespace, OpError, Rebased, VersionVector};
use crate::time::WallTime;
use crate::wire::ControlMessage;
use std::collections::BTreeSet;
use std::time::Duration;

/// How much of the log is kept for a peer that is away. Past any of the three it is let go, and takes a snapshot when it
/// returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogBound {
    /// Ops that it lacks.
    pub ops: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Since the first of them was made.
    pub age: Duration,
}

impl Default for LogBound {
    fn default() -> Self {
        LogBound { ops: 100_000, bytes: 64 << 20, age: Duration::from_secs(7 * 86_400) }
    }
}

impl LogBound {
    fn is_exceeded(&self, lack: Lack, now: WallTime) -> bool {
        let old = |oldest: crate::time::Hlc| now.millis().saturating_sub(oldest.millis()) > self.age.as_millis() as u64;
        lack.ops > self.ops || lack.bytes > self.bytes || lack.oldest.is_some_and(old)
    }
}

/// A peer that has been gone for less is not let go, whatever it lacks: everybody may have been away, and it may be
/// about to come up as well.
const GONE_TICKS: u32 = 30;

impl Peer {
    /// How much of the log is kept for a peer that is away.
    pub fn set_log_bound(&mut self, bound: LogBound) {
        self.log_bound = bound;
    }

    /// Lets go of dead peers that lack more of the log than is kept for them. One peer alone decides, the lowest tag
    /// among those that are connected; and only where they are most of those that count, or half of them and the
    /// lowest of all: so that of two sides that do not see one another one waits for the other.
    pub(super) fn let_go_of_the_absent(&mut self, namespace: &mut Namespace, now: WallTime, effects: &mut Vec<Effect>) {
        let here = |peer: PeerTag| {
            peer == self.me || self.links.get(&peer).is_some_and(|link| link.greeted && link.needed.is_none())
        };
        let gone: Vec<PeerTag> = namespace
            .peers()
            .map(|(peer, _)| peer)
            .filter(|peer| !here(*peer) && !self.is_alive(*peer) && !namespace.is_away(*peer))
            .collect();
        self.away_for.retain(|peer, _| gone.contains(peer));
        for peer in &gone {
            let ticks = self.away_for.entry(*peer).or_default();
            *ticks = ticks.saturating_add(1);
        }
        let long = |peer: &PeerTag| self.away_for.get(peer).is_some_and(|ticks| *ticks >= GONE_TICKS);
        // What any one lacks is at most all.
        if !self.ready || !gone.iter().any(long) || !self.log_bound.is_exceeded(namespace.log_size(), now) {
            return;
        }
        let reckoned = namespace.reckoned();
        let side: BTreeSet<PeerTag> = reckoned.iter().copied().filter(|peer| here(*peer)).collect();
        let most =
            2 * side.len() > reckoned.len() || (2 * side.len() == reckoned.len() && side.first() == reckoned.first());
        if !most || side.first() != Some(&self.me) {
            return;
        }
        let bound = self.log_bound;
        let lost = gone.into_iter().filter(|peer| long(peer) && bound.is_exceeded(namespace.lack(*peer), now));
        let changes: Vec<Change> = lost.map(|peer| Change::LetGo { peer }).collect();
        if !changes.is_empty() {
            effects.extend(self.change(namespace, changes, now).1);
        }
    }

    /// Makes a peer that was let go count again, before it is given a snapshot: what it makes on top of that comes
    /// above anything that becomes stable without its word.
    pub fn take_back(&mut self, namespace: &mut Namespace, peer: PeerTag, now: WallTime) -> Vec<Effect> {
        if !namespace.is_away(peer) {
            return Vec::new();
        }
        self.change(namespace, vec![Change::TakeBack { peer }], now).1
    }

    /// Where peers were let go, nothing more is taken from those that are connected all the same.
    pub(super) fn note_away(&mut self, namespace: &Namespace, touched: &BTreeSet<Key>, effects: &mut Vec<Effect>) {
        for key in touched {
            let Key::Away(peer) = key else { continue };
            let Some(link) = self.links.get_mut(peer).filter(|link| link.greeted && link.needed.is_none()) else {
                continue;
            };
            link.needed = namespace.needed_by(*peer, &link.theirs);
            if link.needed.is_some() {
                self.ask_to_take_snapshot(*peer, effects);
            }
        }
    }

    /// Tells a peer that it has to take a snapshot.
    pub(super) fn ask_to_take_snapshot(&mut self, to: PeerTag, effects: &mut Vec<Effect>) {
        let Some(link) = self.links.get_mut(&to) else { return };
        let Some(needed) = link.needed.clone() else { return };
        link.current = false;
        self.absent.remove(&to);
        effects.push(Effect::SendControl { to, message: ControlMessage::SnapshotNeeded { needed } });
        effects.push(Effect::Settled);
    }

    /// A peer takes nothing from this one that has not got what is needed.
    pub(super) fn must_take_snapshot(
        &mut self,
        namespace: &Namespace,
        from: PeerTag,
        needed: &VersionVector,
        effects: &mut Vec<Effect>,
    ) {
        // It was said before the last snapshot came, or by one that has not heard for long what is here.
        if namespace.vector().covers(needed) {
            effects.push(self.hello(from, namespace));
            return;
        }
        // It takes none of this peer's ops, so changes need not wait for it.
        if let Some(link) = self.links.get_mut(&from) {
            link.current = false;
        }
        self.absent.remove(&from);
        effects.push(Effect::Settled);
        if !self.rebasing && self.ready {
            self.rebasing = true;
            effects.push(Effect::FetchSnapshot { from });
        }
    }

    /// What this peer goes on with, and in which epoch, when it takes the snapshot `fresh` of another. Nothing is
    /// changed yet: both are to be on stable storage first, the epoch before the rest.
    pub fn plan_rebase(
        &self,
        namespace: &Namespace,
        fresh: Namespace,
        now: WallTime,
    ) -> Result<(Past, Rebased), OpError> {
        let counter = namespace.counter(self.me).max(fresh.counter(self.me));
        let past = Past { epoch: self.past.next_epoch(counter), ..self.past };
        let author = Author::new(self.me, past.epoch);
        if past.epoch == self.past.epoch {
            return Err(OpError::NoEpoch);
        }
        let rebased = namespace.rebase(fresh, author, past.next_number(counter), now)?;
        Ok((past, rebased))
    }

    /// Goes on with what [`Peer::plan_rebase`] gave, which is on stable storage.
    pub fn rebased(&mut self, namespace: &mut Namespace, past: Past, rebased: Rebased) -> Vec<Effect> {
        *namespace = rebased.namespace;
        self.past = past;
        self.rebasing = false;
        self.durable = namespace.vector().clone();
        self.absent.clear();
        self.awaiting_durable.clear();
        let mut effects = vec![Effect::Remember(past), Effect::Invalidate(rebased.touched.clone())];
        if rebased.touched.iter().any(|key| matches!(key, Key::Peer(_))) {
            self.roster_changed(namespace, &rebased.touched, &mut effects);
        }
        for (peer, link) in &mut self.links {
            let needed = namespace.needed_by(*peer, &link.theirs).filter(|_| link.greeted);
            *link = link.anew(needed);
        }
        let peers: Vec<PeerTag> = self.links.keys().copied().collect();
        for peer in peers {
            effects.push(self.hello(peer, namespace));
            self.ask_to_take_snapshot(peer, &mut effects);
            self.catch_up(namespace, peer, &mut effects);
        }
        effects.push(Effect::Settled);
        effects
    }

    /// For how long a peer has been neither connected nor alive, as far as this one has run.
    pub fn gone_for(&self, peer: PeerTag) -> Duration {
        TICK * self.away_for.get(&peer).copied().unwrap_or(0)
    }
}
