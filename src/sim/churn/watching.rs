//! How the peers of a run watch one another and look after their groups: their cores are driven as the real peer drives
//! them.

use super::share::{address, wall};
use super::world::{Event, World};
use super::{Watch, WatchSettings};
use crate::group::HealingEffect;
use crate::id::{Author, GroupId, PeerTag};
use crate::namespace::{Change, Key};
use crate::overlay::{
    Member, Membership, MembershipEffect, MembershipEvent, MembershipTimer, Purpose, Settings, neighbours,
};
use crate::sim::queue::{between, later};
use crate::time::Instant;
use crate::volume::ports::Candidate;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::time::Duration;

/// How often a peer looks after its groups while one of them needs something; the real one always does.
const STEP: Duration = Duration::from_secs(1);

/// The same where time is counted in months: so many times in the time that an absence is put up with.
const LONG_STEPS: u32 = 16;

/// What an announcement takes on the wire besides its groups, and for each: postcard of a group's number.
const ANNOUNCEMENT_BYTES: u64 = 4;
const GROUP_BYTES: u64 = 9;

/// What a disk of a run takes. Large enough never to matter.
const DISK_BYTES: u64 = 1 << 44;

impl Watch {
    /// What membership is run with; `None`: the oracle.
    fn membership(&self) -> Option<Settings> {
        match self.settings {
            WatchSettings::Within => Some(Settings::within(self.detection)),
            WatchSettings::Frugal => Some(Settings::frugal(self.cycle)),
            WatchSettings::HighChurn => Some(Settings::high_churn()),
            WatchSettings::Oracle => None,
        }
    }
}

impl World<'_> {
    /// A peer that has just started meets those it is to watch.
    pub(super) fn start_watching(&mut self, of: PeerTag) {
        let Some(settings) = self.case.membership.membership() else {
            let life = self.machines[&of].life;
            if life > 1 || self.queue.now() > Instant::default() {
                self.queue.after(self.case.membership.detection, Event::Told { of, up: true, life });
            } else {
                self.known_up.insert(of);
            }
            return;
        };
        let member = Member::starting(of, wall(self.queue.now()));
        let membership = Membership::new(member, settings, self.chance.bits());
        let view = self.wanted_view(of);
        let Some(machine) = self.machines.get_mut(&of) else { return };
        machine.membership = Some(membership);
        machine.view = view.clone();
        let all: Vec<PeerTag> = view.iter().copied().collect();
        let called = match self.case.membership.introduced {
            0 => all.clone(),
            // Whether they are alive, it does not know. Whoever returns also calls those it shares groups with: nobody
            // else need know both it and them.
            wanted => {
                let mut called = self.participants_with(of);
                let others = all.iter().copied().filter(|peer| !called.contains(peer)).collect();
                called.extend(self.chance.some(others, wanted));
                called.into_iter().collect()
            }
        };
        let expected = all.iter().copied().filter(|peer| !called.contains(peer)).collect();
        self.membership(of, MembershipEvent::Expect(expected));
        self.membership(of, MembershipEvent::Introduce(called));
        for other in all {
            if let Some(machine) = self.machines.get_mut(&other)
                && machine.is_up()
                && machine.view.insert(of)
            {
                self.membership(other, MembershipEvent::Expect(vec![of]));
            }
        }
    }

    /// Whom a peer is to watch: everybody, or its neighbours and those it shares groups with.
    fn wanted_view(&self, of: PeerTag) -> BTreeSet<PeerTag> {
        let mut view = match self.case.membership.view {
            0 => self.ring.clone(),
            each_way => {
                let mut view = neighbours(of, &self.ring, each_way);
                view.extend(self.participants_with(of));
                view
            }
        };
        view.remove(&of);
        view
    }

    /// Those that sit in a group with this peer.
    fn participants_with(&self, of: PeerTag) -> BTreeSet<PeerTag> {
        let seats = self.namespace.groups_of(of).flat_map(|(_, group)| group.slots.iter().flatten());
        seats.map(|seat| seat.peer).filter(|peer| *peer != of).collect()
    }

    /// Brings a partial view up to date.
    fn refresh_view(&mut self, of: PeerTag) {
        if self.case.membership.view == 0 || self.case.membership.settings == WatchSettings::Oracle || !self.is_up(of) {
            return;
        }
        let wanted = self.wanted_view(of);
        let Some(machine) = self.machines.get_mut(&of) else { return };
        let come: Vec<PeerTag> = wanted.difference(&machine.view).copied().collect();
        let gone: Vec<PeerTag> = machine.view.difference(&wanted).copied().collect();
        machine.view = wanted;
        // One of the two calls.
        let (called, expected): (Vec<PeerTag>, Vec<PeerTag>) = come.into_iter().partition(|peer| of < *peer);
        if !expected.is_empty() {
            self.membership(of, MembershipEvent::Expect(expected));
        }
        if !called.is_empty() {
            self.membership(of, MembershipEvent::Introduce(called));
        }
        for peer in gone {
            let Some(membership) = self.machines.get_mut(&of).and_then(|machine| machine.membership.as_mut()) else {
                return;
            };
            // That it is not watched any more says nothing about whether it lives.
            let effects = membership.forget(peer);
            let effects = effects.into_iter().filter(|effect| !matches!(effect, MembershipEffect::Down(_))).collect();
            self.membership_effects(of, effects, false);
        }
    }

    pub(super) fn datagram(&mut self, from: PeerTag, to: PeerTag, bytes: Bytes) {
        let partial = self.case.membership.view > 0;
        if let Some(machine) = self.machines.get_mut(&to).filter(|machine| machine.is_up()) {
            // Views change at different moments: who is watched watches back, or it would seem silent.
            if partial && machine.view.insert(from) {
                self.membership(to, MembershipEvent::Expect(vec![from]));
            }
            self.membership(to, MembershipEvent::Datagram { from, bytes });
        }
    }

    pub(super) fn timer(&mut self, of: PeerTag, timer: MembershipTimer) {
        self.membership(of, MembershipEvent::Timer(timer));
    }

    fn membership(&mut self, of: PeerTag, event: MembershipEvent) {
        // Who learns of a death by its own timer, and not from others, is the first to know.
        let first_hand = matches!(event, MembershipEvent::Timer(_));
        let Some(membership) = self.machines.get_mut(&of).and_then(|machine| machine.membership.as_mut()) else {
            return;
        };
        let effects = membership.handle(event);
        self.membership_effects(of, effects, first_hand);
    }

    fn membership_effects(&mut self, of: PeerTag, effects: Vec<MembershipEffect>, first_hand: bool) {
        for effect in effects {
            match effect {
                MembershipEffect::Send { to, bytes } => self.send(of, to, bytes),
                MembershipEffect::SetTimer { after, timer } => {
                    let life = self.machines.get(&of).map_or(0, |machine| machine.life);
                    self.queue.after(after, Event::Timer { of, life, timer });
                }
                MembershipEffect::Up(peer) => self.noticed(of, peer, false),
                MembershipEffect::Down(peer) => {
                    self.found_down(peer);
                    if first_hand {
                        self.tell_concerned(of, peer);
                    }
                    self.noticed(of, peer, true);
                }
                MembershipEffect::Rejoin | MembershipEffect::Refused { .. } => {}
            }
        }
    }

    fn send(&mut self, from: PeerTag, to: PeerTag, bytes: Bytes) {
        self.figures.membership_messages += 1;
        self.figures.membership_bytes += bytes.len() as u64;
        if let Some(purpose) = Purpose::of(&bytes) {
            *self.figures.messages.entry(purpose).or_default() += 1;
        }
        if let Some(delay) = self.network.datagram(from, to, &mut self.chance) {
            self.queue.after(delay, Event::Datagram { from, to, bytes });
        }
    }

    fn found_down(&mut self, peer: PeerTag) {
        let now = self.queue.now();
        let Some(machine) = self.machines.get_mut(&peer) else { return };
        if machine.is_up() {
            self.figures.mistaken += 1;
        } else if let Some(went) = machine.went.take() {
            self.figures.detection += between(went, now);
            self.figures.detected += 1;
        }
    }

    /// Whoever shares a group with a dead peer is told of it, and, where not all are watched by all, whoever watches it.
    fn tell_concerned(&mut self, of: PeerTag, dead: PeerTag) {
        if self.case.membership.settings == WatchSettings::Within && self.case.membership.view == 0 {
            return;
        }
        let mut concerned = self.participants_with(dead);
        if self.case.membership.view > 0 {
            concerned.extend(neighbours(dead, &self.ring, self.case.membership.view));
        }
        let Some(membership) = self.machines.get(&of).and_then(|machine| machine.membership.as_ref()) else { return };
        let told = membership.tell(dead, concerned);
        self.membership_effects(of, told, false);
    }

    /// The oracle speaks.
    pub(super) fn told(&mut self, peer: PeerTag, up: bool) {
        let changed = if up { self.known_up.insert(peer) } else { self.known_up.remove(&peer) };
        if !up {
            self.found_down(peer);
        }
        if changed {
            for of in self.participants_with(peer) {
                self.noticed(of, peer, !up);
            }
        }
    }

    /// Whether that peer is alive, as this one sees it.
    pub(super) fn believes(&self, of: PeerTag, peer: PeerTag) -> bool {
        match self.machines.get(&of).map(|machine| &machine.membership) {
            Some(Some(membership)) => membership.is_alive(peer),
            Some(None) => of == peer || self.known_up.contains(&peer),
            None => false,
        }
    }

    /// A peer has learnt that another is up or down: where the two share a group, it looks at once.
    fn noticed(&mut self, of: PeerTag, peer: PeerTag, down: bool) {
        let concerns = self.is_up(of) && self.participants_with(of).contains(&peer);
        if concerns && self.case.membership.settings == WatchSettings::Oracle {
            // Where months pass, the next look is soon enough.
            self.look_soon(of, self.long_step());
        } else if concerns {
            // The time that has passed was one in which it believed otherwise.
            self.look(of, Some((peer, down)));
            self.look(of, None);
            self.look_soon(of, self.next_look(of));
            if down {
                self.look_soon(of, self.case.healing.repair_after);
            }
        }
    }

    fn next_look(&self, of: PeerTag) -> Duration {
        let busy = self.machines.get(&of).is_some_and(|machine| machine.healing.in_need() > 0);
        let long = self.case.membership.settings == WatchSettings::Oracle;
        let step = if long { self.long_step() } else { STEP };
        if busy { step } else { (self.case.healing.repair_after / 4).max(step) }
    }

    fn long_step(&self) -> Duration {
        STEP.max(self.case.healing.repair_after / LONG_STEPS)
    }

    /// The next look comes after so long at the latest.
    pub(super) fn look_soon(&mut self, of: PeerTag, after: Duration) {
        let at = later(self.queue.now(), after);
        if let Some(machine) = self.machines.get_mut(&of)
            && at < machine.look_due
        {
            machine.look_due = at;
            let life = machine.life;
            self.queue.at(at, Event::Look { of, life, at });
        }
    }

    pub(super) fn look_and_again(&mut self, of: PeerTag) {
        if let Some(machine) = self.machines.get_mut(&of) {
            machine.look_due = Instant(u64::MAX);
        }
        self.look(of, None);
        self.look_soon(of, self.next_look(of));
    }

    /// Looks after the groups of a peer; `otherwise`: as if it still believed this of that peer.
    fn look(&mut self, of: PeerTag, otherwise: Option<(PeerTag, bool)>) {
        let mut candidates = self.candidates(of);
        if let Some((peer, alive)) = otherwise {
            candidates.iter_mut().filter(|one| one.peer == peer).for_each(|one| one.alive = alive);
        }
        let now = self.queue.now();
        let Some(machine) = self.machines.get_mut(&of) else { return };
        let elapsed = between(machine.looked, now);
        machine.looked = now;
        let effects = machine.healing.look(&self.namespace, &candidates, elapsed, wall(now));
        self.healing_effects(of, effects);
    }

    /// The peers that one knows of, as it sees them.
    pub(super) fn candidates(&self, of: PeerTag) -> Vec<Candidate> {
        let known: Vec<PeerTag> = match self.machines.get(&of) {
            Some(machine) if machine.membership.is_some() => machine.view.iter().copied().chain([of]).collect(),
            _ => self.ring.iter().copied().collect(),
        };
        let candidate = |peer: PeerTag| {
            let machine = self.machines.get(&peer)?;
            let stored = self.disks.stored(peer);
            Some(Candidate {
                peer,
                alive: self.believes(of, peer),
                zone: String::new(),
                address: address(machine.subnet, self.case.network.diversity),
                host: String::new(),
                free: DISK_BYTES - stored,
                stored,
                disk: 0,
                leaving: false,
            })
        };
        known.into_iter().filter_map(candidate).collect()
    }

    pub(super) fn healing_effects(&mut self, of: PeerTag, effects: Vec<HealingEffect>) {
        for effect in effects {
            match effect {
                HealingEffect::Begin(work) => self.begin(of, work),
                HealingEffect::Change(changes) => self.change(of, changes),
                HealingEffect::Announce(groups) => self.announce(of, groups),
            }
        }
    }

    fn change(&mut self, of: PeerTag, changes: Vec<Change>) {
        self.figures.op_messages += changes.len() as u64 * u64::from(self.case.peers - 1);
        let touched = self.namespace.change(Author::new(of, 0), wall(self.queue.now()), changes).touched;
        for key in touched {
            if let Key::Group(id) = key {
                self.group_changed(id, false);
            }
        }
    }

    /// The seats of a group have changed: participants drop what is not theirs any more, watch one another, and look.
    pub(super) fn group_changed(&mut self, id: GroupId, disturbed: bool) {
        self.drop_unseated(id);
        self.watch_group(id, disturbed);
        for of in self.participants(id) {
            self.refresh_view(of);
            self.look_soon(of, STEP);
        }
    }

    fn participants(&self, id: GroupId) -> BTreeSet<PeerTag> {
        let seats = self.namespace.group(id).into_iter().flat_map(|group| group.slots.iter().flatten());
        seats.map(|seat| seat.peer).filter(|peer| self.is_up(*peer)).collect()
    }

    /// Those who sit in the groups hear that this peer is at work on them.
    fn announce(&mut self, of: PeerTag, groups: Vec<GroupId>) {
        let concerned: BTreeSet<PeerTag> = groups.iter().flat_map(|id| self.participants(*id)).collect();
        for to in concerned.into_iter().filter(|peer| *peer != of) {
            self.figures.upkeep_messages += 1;
            self.figures.upkeep_bytes += ANNOUNCEMENT_BYTES + GROUP_BYTES * groups.len() as u64;
            if let Some(delay) = self.network.datagram(of, to, &mut self.chance) {
                self.queue.after(delay, Event::Announced { to, groups: groups.clone() });
            }
        }
    }
}
