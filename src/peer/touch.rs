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

/// How long those that are expected are not taken for dead: longer than it takes to connect.
const ARRIVING: Duration = Duration::from_secs(5);

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
    /// Who may be alive and be here in a moment, and how long that is waited for: meanwhile nothing is done without them.
    expected: BTreeMap<PeerTag, Instant>,
}

impl Touch {
    /// Takes note of the time. Who is required now is remembered over a sleep; and when it has just begun to run, any of
    /// the others may be alive and have gone on without it.
    pub fn tick(&mut self, now: Instant, required: BTreeSet<PeerTag>, others: impl Iterator<Item = PeerTag>) {
        if self.started.is_none() {
            self.started = Some(now);
            others.for_each(|peer| self.expect(peer, now.after(MEETING)));
        } else if now > self.last_tick.after(SLEPT) {
            required.into_iter().for_each(|peer| self.expect(peer, now.after(ARRIVING)));
        }
        self.last_tick = now;
        self.expected.retain(|_, until| *until > now);
        self.refused.retain(|_, until| *until > now);
    }

    /// Whether it has run for long enough to have met who is alive.
    pub fn has_met_the_living(&self, now: Instant) -> bool {
        self.started.is_some_and(|started| started.after(ARRIVING) <= now)
    }

    fn expect(&mut self, peer: PeerTag, until: Instant) {
        let expected = self.expected.entry(peer).or_default();
        *expected = until.max(*expected);
    }

    /// The peer is about to be here, as far as anybody knows.
    pub fn is_arriving(&mut self, peer: PeerTag, now: Instant) {
        self.expect(peer, now.after(ARRIVING));
    }

    /// Whether the peer may be here in a moment.
    pub fn expects(&self, peer: PeerTag, now: Instant) -> bool {
        self.expected.get(&peer).is_some_and(|until| *until > now)
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
        self.expected.remove(&peer);
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
        let expected = touch.expected.iter().filter(|(_, until)| **until > touch.last_tick).map(|(peer, _)| peer);
        required.iter().chain(expected).map(good).chain([running]).min().unwrap_or_default()
    }

    /// Whether it may, now.
    pub fn is_in_touch(&self, namespace: &Namespace, now: Instant) -> bool {
        now < self.in_touch_until(namespace)
    }

    /// A peer that has just connected names those it is in touch with. Whoever of them is not connected here lives all the
    /// same, and is about to: after a partition the one machine of the other side that is there first speaks for the rest.
    pub(super) fn told_of_the_living(&mut self, namespace: &Namespace, near: &[PeerTag], now: Instant) {
        for peer in near.iter().filter(|peer| **peer != self.me && !self.links.contains_key(peer)) {
            if namespace.peer(*peer).is_some() {
                self.touch.is_arriving(*peer, now);
            }
        }
    }

    /// The live peers that it must be in touch with: those it is, or just was, connected to.
    pub(super) fn required(&self, namespace: &Namespace) -> BTreeSet<PeerTag> {
        let near = self.links.keys().chain(self.absent.keys()).copied();
        let counts = |peer: &PeerTag| self.membership.is_alive(*peer) && !self.is_ahead_of_time(*peer);
        near.filter(|peer| counts(peer) && namespace.peer(*peer).is_some()).collect()
    }
}
