//! How this peer looks after its groups: what it knows of the others goes in, changes and work come out.

use super::{Effect, Peer, TICK};
use crate::group::{HealingEffect, Outcome, Work};
use crate::id::{GroupId, PeerTag};
use crate::namespace::{Namespace, PeerRecord};
use crate::time::WallTime;
use crate::volume::ports::Candidate;
use crate::wire::ControlMessage;

impl Peer {
    /// Every peer on the roster as this one sees it now, this one included.
    pub fn candidates(&self, namespace: &Namespace) -> Vec<Candidate> {
        let candidate = |(peer, record): (PeerTag, &PeerRecord)| {
            let usage = if peer == self.me { self.usage } else { self.loads.get(&peer).copied() };
            Candidate {
                peer,
                alive: self.is_alive(peer),
                zone: record.zone.clone(),
                address: record.addresses.first().map(|address| address.ip()),
                host: record.host.clone(),
                free: usage.map_or(u64::MAX, |usage| usage.free),
                stored: usage.map_or(0, |usage| usage.stored),
                disk: usage.map_or(0, |usage| usage.disk),
                leaving: namespace.standing(peer).leaving,
            }
        };
        namespace.peers().map(candidate).collect()
    }

    /// The groups this peer sits in that are not as they should be.
    pub fn groups_in_need(&self) -> usize {
        self.healing.in_need()
    }

    /// Whether somebody is filling slots of a group: see [`crate::group::Healing::is_worked_on`].
    pub fn is_worked_on(&self, group: GroupId) -> bool {
        self.healing.is_worked_on(group)
    }

    /// For how long every other peer of the roster that is not let go has been alive, connected and up to date with this
    /// one, without a break. Whoever is waits for nobody's ops, save those that are on their way this moment.
    pub fn hears_everyone_for(&self) -> std::time::Duration {
        self.hears_everyone_for
    }

    pub(super) fn look_after_groups(&mut self, namespace: &mut Namespace, now: WallTime, effects: &mut Vec<Effect>) {
        let reckoned = |peer: &PeerTag| !namespace.is_away(*peer);
        let heard = namespace.peers().map(|(peer, _)| peer).filter(reckoned).all(|peer| {
            let current = |link: &super::Link| link.current && namespace.vector().covers(&link.theirs);
            peer == self.me || (self.is_alive(peer) && self.links.get(&peer).is_some_and(current))
        });
        self.hears_everyone_for = if heard { self.hears_everyone_for + TICK } else { std::time::Duration::ZERO };
        if !self.ready {
            return;
        }
        let candidates = self.candidates(namespace);
        let follows = self.healing.look(namespace, &candidates, TICK, now);
        self.healing_effects(namespace, follows, now, effects);
    }

    pub(super) fn worked(
        &mut self,
        namespace: &mut Namespace,
        work: &Work,
        outcome: Outcome,
        now: WallTime,
        effects: &mut Vec<Effect>,
    ) {
        let follows = self.healing.done(namespace, work, outcome);
        self.healing_effects(namespace, follows, now, effects);
    }

    pub(super) fn lacking(
        &mut self,
        namespace: &mut Namespace,
        group: GroupId,
        slots: Vec<u8>,
        now: WallTime,
        effects: &mut Vec<Effect>,
    ) {
        let follows = self.healing.lacks(group, slots);
        self.healing_effects(namespace, follows, now, effects);
    }

    pub(super) fn emptied(&mut self, namespace: &mut Namespace, now: WallTime, effects: &mut Vec<Effect>) {
        let follows = self.healing.emptied(namespace);
        self.healing_effects(namespace, follows, now, effects);
    }

    fn healing_effects(
        &mut self,
        namespace: &mut Namespace,
        follows: Vec<HealingEffect>,
        now: WallTime,
        effects: &mut Vec<Effect>,
    ) {
        for effect in follows {
            match effect {
                HealingEffect::Begin(work) => effects.push(Effect::Begin(work)),
                HealingEffect::Change(changes) => effects.extend(self.change(namespace, changes, now).1),
                HealingEffect::Announce(groups) => {
                    let message = ControlMessage::Working { groups };
                    let greeted = self.links.iter().filter(|(_, link)| link.greeted).map(|(peer, _)| *peer);
                    effects.extend(greeted.map(|to| Effect::SendControl { to, message: message.clone() }));
                }
            }
        }
    }
}
