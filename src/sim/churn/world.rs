//! The peers of a run, and what happens to them: they start, die, go away, come back, and are replaced.

use super::checks::Unrest;
use super::disk::Disks;
use super::figures::Figures;
use super::share::{admit, new_key, store_item, wall};
use super::work::Undertaking;
use super::{Case, WatchSettings};
use crate::group::{Healing, HealingSettings};
use crate::id::{Author, GroupId, PeerTag};
use crate::namespace::Namespace;
use crate::overlay::{Membership, MembershipTimer};
use crate::sim::chance::Chance;
use crate::sim::network::{Cut, Network};
use crate::sim::queue::{Queue, later};
use crate::sim::{Going, STEPS};
use crate::time::Instant;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Peers of a run start within so long, and have met after twice that.
const START: Duration = Duration::from_secs(10);

/// What happens in a run. A `life` tells what was meant for a peer before it went away.
pub(super) enum Event {
    Start {
        of: PeerTag,
    },
    Datagram {
        from: PeerTag,
        to: PeerTag,
        bytes: Bytes,
    },
    Timer {
        of: PeerTag,
        life: u32,
        timer: MembershipTimer,
    },
    /// A peer looks after its groups.
    Look {
        of: PeerTag,
        life: u32,
        at: Instant,
    },
    /// Everybody hears, without a message, that a peer has gone or come.
    Told {
        of: PeerTag,
        up: bool,
        life: u32,
    },
    /// Another peer is at work on these groups.
    Announced {
        to: PeerTag,
        groups: Vec<GroupId>,
    },
    Worked {
        of: PeerTag,
        life: u32,
        undertaking: Undertaking,
    },
    Dies {
        of: PeerTag,
    },
    Leaves {
        of: PeerTag,
        life: u32,
    },
    Returns {
        of: PeerTag,
    },
    SubnetFails,
    Cut {
        begins: bool,
    },
    Sample,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Presence {
    Up,
    /// Its disk is intact, and it may come back.
    Away,
    Gone,
}

/// One peer.
pub(super) struct Machine {
    presence: Presence,
    pub subnet: u32,
    /// How often it was started.
    pub life: u32,
    /// `None` with the oracle.
    pub membership: Option<Membership>,
    pub healing: Healing,
    pub looked: Instant,
    pub look_due: Instant,
    /// Whom it watches.
    pub view: BTreeSet<PeerTag>,
    /// When it went, until somebody has found out.
    pub went: Option<Instant>,
}

impl Machine {
    pub fn is_up(&self) -> bool {
        self.presence == Presence::Up
    }
}

/// A run.
pub(super) struct World<'a> {
    pub case: &'a Case,
    pub queue: Queue<Event>,
    pub chance: Chance,
    pub network: Network,
    pub namespace: Namespace,
    pub disks: Disks,
    pub machines: BTreeMap<PeerTag, Machine>,
    /// The roster, for those who watch a part of it.
    pub ring: BTreeSet<PeerTag>,
    /// Whom the oracle says to be up.
    pub known_up: BTreeSet<PeerTag>,
    pub unrest: Unrest,
    pub figures: Figures,
    lost: BTreeSet<GroupId>,
    churning: bool,
}

impl World<'_> {
    pub fn new(case: &Case, seed: u64) -> World<'_> {
        let mut world = World {
            case,
            queue: Queue::default(),
            chance: Chance::new(seed),
            network: Network::new(case.network.links()),
            namespace: Namespace::new(),
            disks: Disks::default(),
            machines: BTreeMap::new(),
            ring: BTreeSet::new(),
            known_up: BTreeSet::new(),
            unrest: Unrest::default(),
            figures: Figures { seed, peers: case.peers, time: case.time, ..Figures::default() },
            lost: BTreeSet::new(),
            churning: false,
        };
        let mut founder = None;
        for number in 0..case.peers {
            let peer = world.admit(number % case.network.subnets, founder);
            founder.get_or_insert(peer);
        }
        world
    }

    /// From start to end.
    pub fn run(mut self, going: Going) -> Figures {
        self.meet();
        self.fill_up();
        let met = std::mem::take(&mut self.figures);
        self.figures = Figures {
            seed: met.seed,
            peers: met.peers,
            time: met.time,
            items: met.items,
            data_bytes: met.data_bytes,
            violations: met.violations,
            ..Figures::default()
        };
        self.churn();
        let start = self.queue.now();
        for step in 1..=STEPS {
            self.go_on(later(start, self.case.time * step / STEPS));
            going();
        }
        self.churning = false;
        // What settling costs is not part of the churn.
        let counted = self.figures.clone();
        let end = later(self.queue.now(), self.case.settle);
        self.go_on(end);
        self.check_unrest();
        self.figures.unsettled = self.unrest.count();
        self.figures.membership_messages = counted.membership_messages;
        self.figures.membership_bytes = counted.membership_bytes;
        self.figures.messages = counted.messages;
        self.figures.op_messages = counted.op_messages;
        (self.figures.upkeep_messages, self.figures.upkeep_bytes) = (counted.upkeep_messages, counted.upkeep_bytes);
        self.figures.items_lost = self.lost.len() as u64;
        self.figures.stored_bytes = self.disks.stored_in_all();
        self.figures
    }

    /// All peers start, one after the other, and meet.
    pub fn meet(&mut self) {
        let all: Vec<PeerTag> = self.machines.keys().copied().collect();
        if self.case.membership.settings == WatchSettings::Oracle {
            all.into_iter().for_each(|peer| self.start(peer));
            return;
        }
        for of in all {
            let pause = self.chance.up_to(START);
            self.queue.after(pause, Event::Start { of });
        }
        let end = later(self.queue.now(), 3 * START);
        self.go_on(end);
    }

    /// Every peer stores its items.
    pub fn fill_up(&mut self) {
        let all: Vec<PeerTag> = self.machines.keys().copied().collect();
        for _ in 0..self.case.items.per_peer {
            for &writer in &all {
                // Whoever watches a part of the share chooses among those.
                let candidates = self.candidates(writer);
                let now = wall(self.queue.now());
                let stored = store_item(
                    &mut self.namespace,
                    &mut self.disks,
                    &mut self.chance,
                    self.case,
                    writer,
                    &candidates,
                    now,
                );
                if let Some(id) = stored {
                    self.figures.items += 1;
                    self.figures.data_bytes += self.case.items.bytes;
                    self.group_changed(id, true);
                }
            }
        }
    }

    fn go_on(&mut self, end: Instant) {
        while let Some(event) = self.queue.next(end) {
            self.happens(event);
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Start { of } => self.start(of),
            Event::Datagram { from, to, bytes } => self.datagram(from, to, bytes),
            Event::Timer { of, life, timer } if self.lives(of, life) => self.timer(of, timer),
            Event::Look { of, life, at } if self.lives(of, life) && self.machines[&of].look_due == at => {
                self.look_and_again(of);
            }
            Event::Told { of, up, life } if self.machines.get(&of).is_some_and(|machine| machine.life == life) => {
                self.told(of, up);
            }
            Event::Announced { to, groups } => {
                if let Some(machine) = self.machines.get_mut(&to).filter(|machine| machine.is_up()) {
                    machine.healing.heard(&groups);
                }
            }
            Event::Worked { of, life, undertaking } if self.lives(of, life) => self.worked(of, undertaking),
            Event::Dies { of } if self.churning => self.die(of),
            Event::Leaves { of, life } if self.churning && self.lives(of, life) => self.leave(of),
            Event::Returns { of } if self.machines.get(&of).is_some_and(|one| one.presence == Presence::Away) => {
                self.start(of);
            }
            Event::SubnetFails if self.churning => self.subnet_fails(),
            Event::Cut { begins } => self.cut(begins),
            Event::Sample => self.sample(),
            _ => {}
        }
    }

    fn lives(&self, of: PeerTag, life: u32) -> bool {
        self.machines.get(&of).is_some_and(|machine| machine.is_up() && machine.life == life)
    }

    pub(super) fn is_up(&self, peer: PeerTag) -> bool {
        self.machines.get(&peer).is_some_and(Machine::is_up)
    }

    /// Whether it may still come back.
    pub(super) fn exists(&self, peer: PeerTag) -> bool {
        self.machines.get(&peer).is_some_and(|machine| machine.presence != Presence::Gone)
    }

    /// A new peer on the roster, not yet started.
    fn admit(&mut self, subnet: u32, inviter: Option<PeerTag>) -> PeerTag {
        let key = new_key(&self.namespace, &mut self.chance);
        let (peer, now) = (key.tag(), wall(self.queue.now()));
        self.figures.op_messages += u64::from(self.case.peers - 1);
        self.namespace.change(Author::new(inviter.unwrap_or(peer), 0), now, vec![admit(key)]);
        self.ring.insert(peer);
        let machine = Machine {
            presence: Presence::Away,
            subnet,
            life: 0,
            membership: None,
            healing: Healing::new(peer, self.healing_settings()),
            looked: self.queue.now(),
            look_due: Instant(u64::MAX),
            view: BTreeSet::new(),
            went: None,
        };
        self.machines.insert(peer, machine);
        peer
    }

    fn healing_settings(&self) -> HealingSettings {
        let heal = &self.case.healing;
        HealingSettings {
            repair_after: heal.repair_after,
            takeover: heal.takeover,
            at_once: heal.at_once,
            ..HealingSettings::default()
        }
    }

    /// A peer starts, for the first time or again.
    fn start(&mut self, of: PeerTag) {
        let settings = self.healing_settings();
        let now = self.queue.now();
        let Some(machine) = self.machines.get_mut(&of) else { return };
        machine.presence = Presence::Up;
        machine.life += 1;
        machine.went = None;
        machine.healing = Healing::new(of, settings);
        machine.looked = now;
        // The look that its last life still had before it does not come any more.
        machine.look_due = Instant(u64::MAX);
        self.start_watching(of);
        let life = self.machines[&of].life;
        if self.churning {
            self.ends_some_time(of, life);
        }
        self.rejoin_groups(of);
        self.look_soon(of, Duration::ZERO);
    }

    /// What it held when it went, it may have lost its seats for.
    fn rejoin_groups(&mut self, of: PeerTag) {
        let held: BTreeSet<GroupId> = self.disks.of(of).map(|(id, _)| id).collect();
        for id in held {
            self.drop_unseated(id);
            self.watch_group(id, true);
        }
    }

    /// Draws when each peer will go, and when subnets will.
    fn churn(&mut self) {
        self.churning = true;
        let up: Vec<(PeerTag, u32)> =
            self.machines.iter().filter(|(_, one)| one.is_up()).map(|(peer, one)| (*peer, one.life)).collect();
        for (peer, life) in up {
            self.ends_some_time(peer, life);
            self.dies_some_time(peer, true);
        }
        let churn = &self.case.churn;
        if !churn.subnet_every.is_zero() {
            let after = self.chance.exponential(churn.subnet_every);
            self.queue.after(after, Event::SubnetFails);
        }
        let net = &self.case.network;
        if net.cut > 0.0 {
            self.queue.after(net.cut_at, Event::Cut { begins: true });
            self.queue.after(net.cut_at + net.cut_for, Event::Cut { begins: false });
        }
        self.queue.after(Duration::ZERO, Event::Sample);
    }

    fn ends_some_time(&mut self, of: PeerTag, life: u32) {
        if !self.case.churn.session.is_zero() {
            let session = self.chance.exponential(self.case.churn.session);
            self.queue.after(session, Event::Leaves { of, life });
        }
    }

    /// Draws the end of a new peer; `running`: its dice are cast at any time of the second.
    fn dies_some_time(&mut self, of: PeerTag, running: bool) {
        let churn = &self.case.churn;
        if churn.die_per_second > 0.0 {
            let casts = self.chance.casts(churn.die_per_second);
            let phase = if running { self.chance.part() } else { 0.0 };
            self.queue.after(Duration::from_secs_f64(casts - phase), Event::Dies { of });
        }
        if !churn.lifetime.is_zero() {
            let lifetime = self.chance.exponential(churn.lifetime);
            self.queue.after(lifetime, Event::Dies { of });
        }
    }

    /// A peer and its disk are gone for good, and a new one comes.
    fn die(&mut self, of: PeerTag) {
        let Some(machine) = self.machines.get_mut(&of).filter(|one| one.presence != Presence::Gone) else { return };
        let (was_up, subnet) = (machine.is_up(), machine.subnet);
        self.figures.deaths += 1;
        self.goes(of, Presence::Gone, was_up);
        for id in self.disks.destroy(of) {
            if !self.disks.readable(id, |peer| self.exists(peer)) {
                self.lost.insert(id);
            }
            self.watch_group(id, true);
        }
        let up: Vec<PeerTag> = self.machines.iter().filter(|(_, one)| one.is_up()).map(|(peer, _)| *peer).collect();
        let inviter = (!up.is_empty()).then(|| up[self.chance.below(up.len())]);
        let newcomer = self.admit(subnet, inviter);
        self.start(newcomer);
        self.dies_some_time(newcomer, false);
    }

    fn leave(&mut self, of: PeerTag) {
        self.figures.departures += 1;
        self.goes(of, Presence::Away, true);
        let absence = self.chance.exponential(self.case.churn.absence);
        self.queue.after(absence, Event::Returns { of });
    }

    fn goes(&mut self, of: PeerTag, presence: Presence, was_up: bool) {
        let now = self.queue.now();
        let Some(machine) = self.machines.get_mut(&of) else { return };
        machine.presence = presence;
        machine.membership = None;
        if was_up {
            machine.went = Some(now);
            let life = machine.life;
            if self.case.membership.settings == WatchSettings::Oracle {
                self.queue.after(self.case.membership.detection, Event::Told { of, up: false, life });
            }
        }
        self.network.forget(of);
        let held: BTreeSet<GroupId> = self.disks.of(of).map(|(id, _)| id).collect();
        held.into_iter().for_each(|id| self.watch_group(id, true));
    }

    fn subnet_fails(&mut self) {
        let churn = &self.case.churn;
        let subnet = self.chance.below(self.case.network.subnets as usize) as u32;
        let members: Vec<PeerTag> = self
            .machines
            .iter()
            .filter(|(_, one)| one.subnet == subnet && one.presence != Presence::Gone)
            .map(|(peer, _)| *peer)
            .collect();
        for of in members {
            if churn.subnet_outage.is_zero() {
                self.die(of);
            } else if self.is_up(of) {
                self.figures.departures += 1;
                self.goes(of, Presence::Away, true);
                self.queue.after(churn.subnet_outage, Event::Returns { of });
            }
        }
        let after = self.chance.exponential(churn.subnet_every);
        self.queue.after(after, Event::SubnetFails);
    }

    fn cut(&mut self, begins: bool) {
        let up: Vec<PeerTag> = self.machines.iter().filter(|(_, one)| one.is_up()).map(|(peer, _)| *peer).collect();
        let wanted = (up.len() as f64 * self.case.network.cut).round() as usize;
        let peers = self.chance.some(up, wanted).into_iter().collect();
        self.network.cut(begins.then_some(Cut { peers, heard: self.case.network.cut_one_way }));
        self.disturb_all();
    }

    fn sample(&mut self) {
        let all: Vec<GroupId> = self.disks.groups().collect();
        self.figures.looks += all.len() as u64;
        let count =
            |counts: &dyn Fn(PeerTag) -> bool| all.iter().filter(|id| self.disks.readable(**id, counts)).count() as u64;
        let (readable, kept) = (count(&|peer| self.is_up(peer)), count(&|peer| self.exists(peer)));
        self.figures.readable += readable;
        self.figures.kept.push(kept);
        self.check_unrest();
        if self.churning {
            self.queue.after(self.case.time / STEPS, Event::Sample);
        }
    }
}
