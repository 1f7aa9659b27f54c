//! Whether this peer is in touch: what it takes for the newest is the newest, and the leases it holds are still its own.
//!
//! Once a tick a peer sends a beat to each peer it is connected to; the other answers when it counts on this one. An
//! answer is a promise, for [`LEASE_TIME`] from when the beat was **sent**: until then the answerer calls no change of
//! its own done that this peer has not got, and does not agree that others take this peer's leases over. (As a
//! leader's lease in Gray and Cheriton, "Leases", 1989; every peer gives one to every other.) So a peer whose last
//! answers are older does not know what it missed. It waits until it is in touch again, or knows the others dead for
//! itself: after a partition each side goes on alone.

use super::Peer;
use crate::id::PeerTag;
use crate::namespace::Namespace;
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// For how long an answer is good, from when its beat was sent. More than two ticks, and less than it takes to find a
/// peer dead, so that a death holds nobody up for longer than that.
pub const LEASE_TIME: Duration = Duration::from_millis(2500);

/// For how long who answered keeps the promise: longer, since two clocks need not run equally fast.
const PROMISE: Duration = Duration::from_millis(2750);

/// Between two ticks there is one second. After a gap like this one this peer was not running, and what its timers say
/// of others' silence means nothing.
const SLEPT: Duration = Duration::from_millis(2200);

/// How long after such a gap those it was in touch with are not taken for dead: longer than it takes to connect again.
const DROWSY: Duration = Duration::from_secs(5);

/// How long one that has just started waits for those who live to be there.
const MEETING: Duration = Duration::from_millis(1500);

/// What was promised to this peer, and what it promised.
#[derive(Default)]
pub(super) struct Touch {
    /// When the last beat was sent that the peer answered.
    answered: BTreeMap<PeerTag, Instant>,
    /// Until when this peer counts on the other.
    promised: BTreeMap<PeerTag, Instant>,
    /// Whom this peer agreed to depose, and until when that may still be done: meanwhile it promises nothing.
    pub(super) refused: BTreeMap<PeerTag, Instant>,
    /// When this peer was first told the time.
    started: Option<Instant>,
    last_tick: Instant,
    /// Whom it had to be in touch with when it fell asleep, and how long that still counts.
    drowsy: (Instant, BTreeSet<PeerTag>),
}

impl Touch {
    /// Takes note of the time. Who is required now is remembered over a sleep; and when it has just begun to run, any of
    /// the others may be alive and have gone on without it.
    pub fn tick(&mut self, now: Instant, required: BTreeSet<PeerTag>, others: impl Iterator<Item = PeerTag>) {
        if self.started.is_none() {
            self.started = Some(now);
            self.drowsy = (now.after(MEETING), others.collect());
        } else if now > self.last_tick.after(SLEPT) {
            self.drowsy = (now.after(DROWSY), required);
        }
        self.last_tick = now;
        self.refused.retain(|_, until| *until > now);
    }

    /// Whether it has run for long enough to have met who is alive.
    pub fn has_met_the_living(&self, now: Instant) -> bool {
        self.started.is_some_and(|started| started.after(DROWSY) <= now)
    }

    pub fn answered(&mut self, by: PeerTag, sent: Instant) {
        let last = self.answered.entry(by).or_default();
        *last = sent.max(*last);
    }

    pub fn promise(&mut self, to: PeerTag, now: Instant) {
        self.promised.insert(to, now.after(PROMISE));
    }

    /// Whether the peer may still believe that it is in touch with this one.
    pub fn owes(&self, to: PeerTag, now: Instant) -> bool {
        self.promised.get(&to).is_some_and(|until| *until > now)
    }

    /// Who may still believe that.
    pub fn owed(&self, now: Instant) -> impl Iterator<Item = PeerTag> {
        self.promised.iter().filter(move |(_, until)| **until > now).map(|(peer, _)| *peer)
    }

    /// Whether a promise has run out since this was last asked.
    pub fn lapsed(&mut self, now: Instant) -> bool {
        let before = self.promised.len();
        self.promised.retain(|_, until| *until > now);
        self.promised.len() < before
    }

    /// The peer has said that it is going, or is off the roster.
    pub fn forget(&mut self, peer: PeerTag) {
        self.answered.remove(&peer);
        self.promised.remove(&peer);
        self.drowsy.1.remove(&peer);
    }
}

impl Peer {
    /// Until when this peer may take what it has for the newest, if nothing more is heard.
    pub fn in_touch_until(&self, namespace: &Namespace) -> Instant {
        let touch = &self.touch;
        let good = |peer: &PeerTag| {
            let link = self.links.get(peer);
            let caught_up = link.is_some_and(|link| link.caught_up);
            let asked = touch.answered.get(peer).copied().filter(|_| caught_up || link.is_none());
            asked.map_or(Instant::default(), |sent| sent.after(LEASE_TIME))
        };
        // Without a tick for so long, it was not even running.
        let running = touch.last_tick.after(LEASE_TIME);
        let required = self.required(namespace);
        let awake = touch.drowsy.1.iter().filter(|_| touch.last_tick < touch.drowsy.0);
        required.iter().chain(awake).map(good).chain([running]).min().unwrap_or_default()
    }

    /// Whether it may, now.
    pub fn is_in_touch(&self, namespace: &Namespace, now: Instant) -> bool {
        now < self.in_touch_until(namespace)
    }

    /// The live peers that it must be in touch with: those it is, or just was, connected to.
    pub(super) fn required(&self, namespace: &Namespace) -> BTreeSet<PeerTag> {
        let near = self.links.keys().chain(self.absent.keys()).copied();
        let counts = |peer: &PeerTag| self.membership.is_alive(*peer) && !self.is_ahead_of_time(*peer);
        near.filter(|peer| counts(peer) && namespace.peer(*peer).is_some()).collect()
    }
}
