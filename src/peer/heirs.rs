//! Heirs: what a peer held that is dead, or stopped, passes to one of those that are left.
//!
//! A dead peer's heir is drawn by chance from those alive, the same by everybody who sees the same peers alive
//! (rendezvous hashing). It takes over when somebody needs what the dead one held, and when **every** live peer it is
//! connected to has agreed. Who agrees does not count on the dead one any more: it has not answered its beats for as long
//! as the dead one could still act on the last answer, and answers none until the agreement has lapsed. So a peer that
//! was only paused, or cut off, finds itself out of touch before anybody else acts on its leases.

use super::{Effect, Peer};
use crate::id::PeerTag;
use crate::namespace::{Change, Namespace, Tenure, VersionVector};
use crate::time::{Instant, Moment};
use crate::wire::{ControlMessage, LeaseMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long the agreements to one question are good for.
const ROUND: Duration = Duration::from_secs(2);

/// How long who agreed keeps to it: until no round can be open any more in which it did.
const AGREED: Duration = Duration::from_secs(3);

/// How often those who have not agreed yet are asked again, and the heir is told that it is needed.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// A deposition under way, of which this peer is the heir.
struct Deposing {
    round: u64,
    since: Instant,
    asked: Instant,
    /// Who agreed, and what it had.
    agreed: BTreeMap<PeerTag, VersionVector>,
}

#[derive(Default)]
pub(super) struct Heirs {
    /// Dead peers whose leases somebody here needs.
    pub wanted: BTreeSet<PeerTag>,
    told: BTreeMap<PeerTag, Instant>,
    deposing: BTreeMap<PeerTag, Deposing>,
    rounds: u64,
}

impl Heirs {
    pub fn is_idle(&self) -> bool {
        self.deposing.is_empty()
    }
}

/// A score by which everybody draws the same heir.
fn score(dead: PeerTag, heir: PeerTag) -> u64 {
    // SplitMix64's finisher (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
    let mut bits = u64::from(dead.0) << 32 | u64::from(heir.0);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

impl Peer {
    /// Who inherits from a peer, as this one sees the others.
    pub fn heir(&self, namespace: &Namespace, of: PeerTag) -> PeerTag {
        let live = namespace
            .peers()
            .map(|(peer, _)| peer)
            .filter(|peer| *peer != of && self.is_alive(*peer) && !self.is_ahead_of_time(*peer));
        live.max_by_key(|peer| (score(of, *peer), *peer)).unwrap_or(self.me)
    }

    /// This peer is about to go: another has what it held.
    pub(super) fn bequeath(&mut self, namespace: &mut Namespace, now: Moment, effects: &mut Vec<Effect>) {
        let heir = self.heir(namespace, self.me);
        if heir != self.me && self.links.contains_key(&heir) && self.is_in_touch(namespace, now.steady) {
            let (_, follows) = self.change(namespace, vec![Change::Depose { peer: self.me, heir }], now.wall);
            effects.extend(follows);
        }
    }

    /// Goes on with what dead peers leave behind.
    pub(super) fn look_at_heirs(&mut self, namespace: &mut Namespace, now: Moment, effects: &mut Vec<Effect>) {
        let wanted = std::mem::take(&mut self.heirs.wanted);
        for dead in wanted {
            let heir = self.heir(namespace, dead);
            if heir == self.me {
                self.begin_to_depose(dead, now);
            } else if self.heirs.told.get(&dead).is_none_or(|told| told.after(ASK_AGAIN) <= now.steady) {
                self.heirs.told.insert(dead, now.steady);
                let tenure = namespace.tenure(dead);
                effects.push(self.lease_message(heir, LeaseMessage::Vacant { tenure }));
            }
        }
        self.heirs.told.retain(|_, told| told.after(ASK_AGAIN) > now.steady);
        let deposing: Vec<PeerTag> = self.heirs.deposing.keys().copied().collect();
        for dead in deposing {
            self.depose(namespace, dead, now, effects);
        }
    }

    fn begin_to_depose(&mut self, dead: PeerTag, now: Moment) {
        let heirs = &mut self.heirs;
        if !heirs.deposing.contains_key(&dead) {
            heirs.rounds += 1;
            let fresh =
                Deposing { round: heirs.rounds, since: now.steady, asked: Instant::default(), agreed: BTreeMap::new() };
            heirs.deposing.insert(dead, fresh);
        }
    }

    /// Whether a peer is dead, or off the roster, or nothing it says is taken for now: not only unheard of so far, or about
    /// to be here.
    pub(super) fn is_gone(&self, namespace: &Namespace, peer: PeerTag, now: Instant) -> bool {
        let dead = !self.is_alive(peer) && self.touch.has_met_the_living(now) && !self.touch.expects(peer, now);
        peer != self.me && (dead || self.is_ahead_of_time(peer) || namespace.peer(peer).is_none())
    }

    /// Asks those who have not agreed, or takes over if all have.
    fn depose(&mut self, namespace: &mut Namespace, dead: PeerTag, now: Moment, effects: &mut Vec<Effect>) {
        if !self.is_gone(namespace, dead, now.steady) || self.heir(namespace, dead) != self.me {
            self.heirs.deposing.remove(&dead);
            return;
        }
        let live: Vec<PeerTag> = self.required(namespace).into_iter().filter(|peer| *peer != dead).collect();
        let in_touch = self.is_in_touch(namespace, now.steady);
        let owes = self.touch.owes(dead, now.steady);
        let Some(deposing) = self.heirs.deposing.get_mut(&dead) else { return };
        if deposing.since.after(ROUND) <= now.steady {
            self.heirs.rounds += 1;
            *deposing = Deposing {
                round: self.heirs.rounds,
                since: now.steady,
                asked: Instant::default(),
                agreed: BTreeMap::new(),
            };
        }
        let has_all = |vector: &VersionVector| namespace.vector().covers(vector);
        let all = live.iter().all(|peer| deposing.agreed.get(peer).is_some_and(has_all));
        if all && in_touch && !owes {
            self.heirs.deposing.remove(&dead);
            self.build_on(namespace, namespace.vector().clone(), now.steady);
            let (_, follows) = self.change(namespace, vec![Change::Depose { peer: dead, heir: self.me }], now.wall);
            effects.extend(follows);
            return;
        }
        if deposing.asked.after(ASK_AGAIN) <= now.steady {
            deposing.asked = now.steady;
            let round = deposing.round;
            let asked = live.iter().filter(|peer| !deposing.agreed.get(peer).is_some_and(has_all));
            let message = LeaseMessage::Depose { peer: dead, round };
            let ask = |to: &PeerTag| Effect::SendControl { to: *to, message: ControlMessage::Lease(message.clone()) };
            effects.extend(asked.map(ask));
        }
    }

    /// Somebody needs what this peer is the heir of.
    pub(super) fn called_vacant(
        &mut self,
        namespace: &mut Namespace,
        tenure: Tenure,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let peer = tenure.peer;
        // Who says so may not have heard yet that it was deposed.
        if namespace.tenure(peer) == tenure
            && self.is_gone(namespace, peer, now.steady)
            && self.heir(namespace, peer) == self.me
        {
            self.begin_to_depose(peer, now);
            self.look_at_leases(namespace, now, effects);
        }
    }

    pub(super) fn asked_to_agree(
        &mut self,
        namespace: &mut Namespace,
        from: PeerTag,
        dead: PeerTag,
        round: u64,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let may = self.is_gone(namespace, dead, now.steady)
            && self.heir(namespace, dead) == from
            && !self.touch.owes(dead, now.steady)
            && self.is_in_touch(namespace, now.steady);
        if may {
            self.touch.refused.insert(dead, now.steady.after(AGREED));
            let vector = namespace.vector().clone();
            effects.push(self.lease_message(from, LeaseMessage::Agreed { peer: dead, round, vector }));
        }
    }

    pub(super) fn agreed(
        &mut self,
        namespace: &mut Namespace,
        from: PeerTag,
        (dead, round): (PeerTag, u64),
        vector: VersionVector,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        if self.heirs.deposing.get(&dead).is_none_or(|deposing| deposing.round != round) {
            return;
        }
        if !namespace.vector().covers(&vector) {
            effects.push(self.lease_message(from, LeaseMessage::Lack { vector: namespace.vector().clone() }));
        }
        if let Some(deposing) = self.heirs.deposing.get_mut(&dead) {
            deposing.agreed.insert(from, vector);
        }
        self.look_at_leases(namespace, now, effects);
    }
}
