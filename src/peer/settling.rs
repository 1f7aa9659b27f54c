//! When a change is done: every peer that counts has it, and can see it.
//!
//! Whoever takes a lease builds on what its last holder did. That reaches a third peer by a road of its own, and may come
//! later than what is built on it; until then the third peer sees neither. So a change waits for what it is built on as
//! well, and whoever has it without that is sent that too.

use super::Peer;
use super::exchange::{Link, raise};
use crate::id::PeerTag;
use crate::namespace::{Namespace, VersionVector};
use crate::time::Instant;
use std::time::Duration;

/// How long a change waits for what it is built on: more than it takes to send that again. A peer that cannot take it,
/// since its clock is wrong, must not hold up whoever does.
pub(super) const FOUNDED: Duration = Duration::from_secs(5);

/// What own ops are built on.
pub(super) struct Foundation {
    /// Those past this one.
    after: u64,
    vector: VersionVector,
    until: Instant,
}

impl Peer {
    /// Whether every connected, live peer that was up to date has my ops up to `seq` (`durable`: on stable
    /// storage, and here too), and what they are built on. One that lost its connection is waited for a moment longer: it
    /// may still be there, and serve its mount. A peer that is still catching up is not waited for: it serves nothing yet.
    pub fn is_settled(&self, seq: u64, durable: bool, now: Instant) -> bool {
        let here = !durable || self.keeps(&self.durable, seq, now);
        here && self.unsettled(seq, durable, now).next().is_none()
    }

    /// Whether somebody with this on stable storage keeps my ops up to `seq`, and what others did for this peer: that is
    /// no less to be kept.
    fn keeps(&self, durable: &VersionVector, seq: u64, now: Instant) -> bool {
        self.has_settled(durable, seq, now) && durable.covers(self.wishes.done_by_others())
    }

    /// Whether every peer that changes wait for has this, whoever made it.
    pub(super) fn everybody_has(&self, vector: &VersionVector, now: Instant) -> bool {
        let has = |link: &Link| link.theirs.covers(vector);
        self.waited_for(now).all(|peer| self.links.get(&peer).is_some_and(has))
    }

    /// What this peer has, and what those that changes wait for have said to have.
    pub(super) fn all_that_anybody_has(&self, namespace: &Namespace, now: Instant) -> VersionVector {
        let mut all = namespace.vector().clone();
        for link in self.waited_for(now).filter_map(|peer| self.links.get(&peer)) {
            link.theirs.0.iter().for_each(|(author, seq)| raise(&mut all, *author, *seq));
        }
        all
    }

    /// The peers that [`Peer::is_settled`] still waits for.
    pub fn unsettled(&self, seq: u64, durable: bool, now: Instant) -> impl Iterator<Item = PeerTag> {
        let has = move |link: &Link| match durable {
            true => self.keeps(&link.durable, seq, now),
            false => self.has_settled(&link.theirs, seq, now),
        };
        self.waited_for(now).filter(move |peer| !self.links.get(peer).is_some_and(has))
    }

    /// The peers that changes wait for: the live ones, and those that were promised to be.
    fn waited_for(&self, now: Instant) -> impl Iterator<Item = PeerTag> {
        let current = self.links.iter().filter(|(_, link)| link.current).map(|(peer, _)| *peer);
        let live = current.chain(self.absent.keys().copied()).filter(|peer| self.membership.is_alive(*peer));
        live.chain(self.touch.owed(now))
    }

    fn has_settled(&self, vector: &VersionVector, seq: u64, now: Instant) -> bool {
        let built_on = self.foundations.iter().filter(|one| one.after < seq && one.until > now);
        vector.get(self.author()) >= seq && built_on.into_iter().all(|one| vector.covers(&one.vector))
    }

    /// From now on own ops are built on these.
    pub(super) fn build_on(&mut self, namespace: &Namespace, vector: VersionVector, now: Instant) {
        self.forget_foundations(now);
        let after = namespace.vector().get(self.author());
        self.foundations.push(Foundation { after, vector, until: now.after(FOUNDED) });
    }

    /// What everybody has needs no waiting for.
    pub(super) fn forget_foundations(&mut self, now: Instant) {
        let (links, absent) = (&self.links, &self.absent);
        let is_known =
            |one: &Foundation| absent.is_empty() && links.values().all(|link| link.theirs.covers(&one.vector));
        self.foundations.retain(|one| one.until > now && !is_known(one));
    }

    /// Whether somebody who has this has an own op without what it is built on.
    pub(super) fn lacks_foundation(&self, vector: &VersionVector) -> bool {
        let has = vector.get(self.author());
        self.foundations.iter().any(|one| one.after < has && !vector.covers(&one.vector))
    }
}
