//! The machines of a run, what lies between them, and what happens next.

use super::Report;
use super::jobs::Job;
use super::leases::Leases;
use super::machine::{Machine, key, record};
use super::plan::{Fault, Plan};
use super::quiet::{LOOK, Unrest};
use super::sides::Sides;
use super::users::{self, SCENE, Users, Wish};
use crate::group::{self, Findings, HealingSettings, KEPT_FOR};
use crate::id::{Author, BlockName, GroupId, Ino, PeerTag};
use crate::namespace::{Change, LockOwner, Namespace, Snapshot, Standing, VersionVector};
use crate::peer::{Effect, Event, Memory, Timer};
use crate::sim::chance::Chance;
use crate::sim::queue::{Queue, between, later};
use crate::time::{Instant, Moment, WallTime};
use crate::volume::ports::ShardId;
use crate::wire::ControlMessage;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const LATENCY: Duration = Duration::from_millis(20);
const SYNC: Duration = Duration::from_millis(30);
const ROUND: Duration = Duration::from_secs(5);
const SCRUB: Duration = Duration::from_secs(60);
const DIAL: Duration = Duration::from_millis(500);
/// After a fault people want something at these times: while others find out, and as soon as they have.
const AFTER: [Duration; 3] = [Duration::from_millis(700), Duration::from_millis(3500), Duration::from_millis(7000)];
/// How long machines have to meet when all is calm, before people do everything once more.
const MEETING: Duration = Duration::from_secs(12);
/// How often one that leaves looks whether somebody has heard of it.
pub(super) const GOODBYE: Duration = Duration::from_secs(2);

pub(super) enum What {
    Timer(usize, u64, Timer),
    Control {
        from: usize,
        to: usize,
        connection: u64,
        message: ControlMessage,
    },
    Datagram {
        from: usize,
        to: usize,
        bytes: Bytes,
    },
    Dial,
    Synced {
        of: usize,
        run: u64,
        vector: VersionVector,
        ops: usize,
    },
    /// The next step of something a machine is doing.
    Step {
        of: usize,
        run: u64,
        job: Job,
    },
    Round(usize, u64),
    Scrub(usize, u64),
    Recalled(usize, u64, Ino),
    /// Some machine wants a lease.
    Wish,
    /// Some people want something of one thing.
    Scene,
    ExtraScene,
    LastScene,
    Act {
        n: usize,
        run: u64,
        wish: Wish,
    },
    GoOn(u64),
    GiveUp(u64),
    EnoughOfLock(usize, u64),
    Unlock(usize, LockOwner),
    /// A fault is about to happen.
    Fault,
    Strike,
    Use,
    Start(usize),
    Hear {
        of: usize,
        run: u64,
        first: Option<Instant>,
    },
    Mend(usize),
    Join,
    /// Groups are looked at.
    Look,
}

/// A file as its writer knows it.
pub(super) struct File {
    pub block: BlockName,
    pub ino: Ino,
    pub name: String,
    pub acknowledged: bool,
    /// Somebody set out to delete it: from then on nothing is promised.
    pub doomed: bool,
}

pub(super) struct World<'a> {
    pub plan: &'a Plan,
    pub chance: Chance,
    pub queue: Queue<What>,
    pub machines: Vec<Machine>,
    /// Standing connections: their number (messages of an earlier one are lost), and since when they stand.
    connections: BTreeMap<(usize, usize), (u64, Instant)>,
    made: u64,
    /// Arrival of the last message on each, so that they stay in order.
    arrivals: BTreeMap<(usize, usize), Instant>,
    /// Machines on the other side.
    cut: BTreeSet<usize>,
    /// Machines that are not heard.
    unheard: BTreeSet<usize>,
    pub files: Vec<File>,
    /// Machines whose shards were destroyed and may not all be rebuilt yet.
    pub destroyed: BTreeSet<usize>,
    /// Machines that said goodbye.
    gone: BTreeSet<usize>,
    pub storm: bool,
    /// The lull has been.
    lulled: bool,
    pub unrest: Unrest,
    pub leases: Leases,
    pub users: Users,
    pub sides: Sides,
    pub counts: BTreeMap<Fault, u32>,
    pub report: Report,
}

impl<'a> World<'a> {
    pub fn new(seed: u64, plan: &'a Plan) -> World<'a> {
        let mut world = World {
            plan,
            chance: Chance::new(seed ^ 0x5eed),
            queue: Queue::default(),
            machines: Vec::new(),
            connections: BTreeMap::new(),
            made: 0,
            arrivals: BTreeMap::new(),
            cut: BTreeSet::new(),
            unheard: BTreeSet::new(),
            files: Vec::new(),
            destroyed: BTreeSet::new(),
            gone: BTreeSet::new(),
            storm: true,
            lulled: false,
            unrest: Unrest::default(),
            leases: Leases::new(seed ^ 0x1ea5e),
            users: Users::new(seed ^ 0x05e5, key(0).tag()),
            sides: Sides::default(),
            counts: BTreeMap::new(),
            report: Report::default(),
        };
        let mut founder = Namespace::new();
        let admit = |n| Change::Admit { peer: record(n) };
        let mut changes: Vec<Change> = (0..plan.machines).map(admit).collect();
        changes.extend(world.users.furniture.changes(world.wall()));
        founder.change(Author::new(key(0).tag(), 0), world.wall(), changes);
        let base = founder.snapshot();
        for n in 0..plan.machines {
            world.add(n, base.clone());
        }
        world.queue.after(DIAL, What::Dial);
        world.queue.after(LOOK, What::Look);
        let (fault, usage) = (world.chance.exponential(plan.fault_every), world.chance.exponential(plan.use_every));
        world.queue.after(fault, What::Fault);
        world.queue.after(usage, What::Use);
        world.queue.after(DIAL, What::Wish);
        world.queue.after(DIAL, What::Scene);
        world
    }

    fn add(&mut self, n: usize, base: Snapshot) {
        let settings = HealingSettings { repair_after: self.plan.repair_after, ..HealingSettings::default() };
        self.machines.push(Machine::new(n, base, settings));
        self.start(n);
    }

    pub fn wall(&self) -> WallTime {
        WallTime(1_700_000_000_000_000_000 + self.queue.now().0 as i64)
    }

    pub fn index(&self, tag: PeerTag) -> Option<usize> {
        self.machines.iter().position(|machine| machine.tag == tag)
    }

    pub fn start(&mut self, n: usize) {
        if self.machines[n].is_up() || self.machines[n].left {
            return;
        }
        self.touched();
        self.sides.changed = true;
        let (wall, seed) = (self.wall(), self.chance.bits());
        let effects = self.machines[n].start(wall, seed);
        self.carry_out(n, effects);
        let run = self.machines[n].run;
        self.queue.after(self.chance_up_to(ROUND), What::Round(n, run));
        self.queue.after(SCRUB, What::Scrub(n, run));
        let usage = self.machines[n].usage();
        self.handle(n, Event::Usage(usage));
        match self.machines[n].hearing {
            None => self.handle(n, Event::Ready),
            Some(_) => {
                self.machines[n].hearing = Some(self.queue.now());
                self.queue.after(LATENCY, What::Hear { of: n, run, first: None });
            }
        }
    }

    /// A machine whose power was cut hears first what others have of its ops: as the daemon does.
    fn hear(&mut self, n: usize, run: u64, first: Option<Instant>) {
        const DEADLINE: Duration = Duration::from_secs(15);
        const MEET: Duration = Duration::from_secs(2);
        let now = self.queue.now();
        let machine = &self.machines[n];
        let (Some(peer), Some(since)) = (machine.peer.as_ref(), machine.hearing) else { return };
        let namespace = &machine.namespace;
        let first = first.or(peer.has_caught_up(namespace).then_some(now));
        let all = peer.has_caught_up(namespace) && peer.has_heard_everyone();
        let met = first.is_some_and(|first| between(first, now) > MEET);
        if all || met || between(since, now) > DEADLINE || namespace.peers().count() < 2 {
            self.machines[n].hearing = None;
            self.handle(n, Event::Ready);
        } else {
            self.queue.after(LATENCY * 2, What::Hear { of: n, run, first });
        }
    }

    fn chance_up_to(&self, most: Duration) -> Duration {
        // Rounds of different machines need not fall together; which does not matter.
        most.mul_f64(((self.queue.now().0 / 1_000_000) % 997) as f64 / 997.0)
    }

    pub fn stop(&mut self, n: usize, power: bool) {
        self.touched();
        self.sides.changed = true;
        self.machines[n].stop(power);
        let unsure = self.machines[n].past.memory == Memory::Unsure;
        self.machines[n].hearing = unsure.then(|| self.queue.now());
        let broken: Vec<(usize, usize)> =
            self.connections.keys().copied().filter(|pair| pair.0 == n || pair.1 == n).collect();
        broken.into_iter().for_each(|pair| self.disconnect(pair));
    }

    /// Whether what one sends arrives at the other.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        let both_up = self.machines[from].is_up() && self.machines[to].is_up();
        both_up && self.cut.contains(&from) == self.cut.contains(&to) && !self.unheard.contains(&from)
    }

    /// Whether what a machine says arrives at those on its side.
    pub fn is_heard(&self, n: usize) -> bool {
        !self.unheard.contains(&n)
    }

    pub fn is_cut_off(&self, n: usize) -> bool {
        self.cut.contains(&n)
    }

    /// Whether one can ask the other and hear the answer.
    pub fn answers(&self, from: usize, to: usize) -> bool {
        from == to && self.machines[from].is_up() || self.reaches(from, to) && self.reaches(to, from)
    }

    pub fn latency(&mut self, a: usize, b: usize) -> Duration {
        let extra = self.machines[a].slow + self.machines[b].slow;
        LATENCY / 4 + self.chance.up_to(LATENCY) + extra
    }

    /// Time passes.
    pub fn pass(&mut self, time: Duration) {
        let until = later(self.queue.now(), time);
        while let Some(what) = self.queue.next(until) {
            self.happen(what);
        }
    }

    fn happen(&mut self, what: What) {
        self.happens(what);
        self.look_at_sides();
    }

    fn happens(&mut self, what: What) {
        let runs = |world: &World, n: usize, run| world.machines[n].is_up() && world.machines[n].run == run;
        match what {
            What::Timer(n, run, timer) if runs(self, n, run) => self.handle(n, Event::Timer(timer)),
            What::Control { from, to, connection, .. }
                if self.connection(from, to).map(|(number, _)| number) != Some(connection) => {}
            What::Control { from, to, message, .. } => {
                // How often connections break is not for the beats to say, which make up most of what goes over an idle one.
                let is_beat = matches!(&message, ControlMessage::Lease(message) if message.is_beat());
                if !is_beat && self.chance.happens(self.plan.loss / 50.0) {
                    return self.disconnect((from.min(to), from.max(to)));
                }
                let from = self.machines[from].tag;
                self.handle(to, Event::Control { from, message });
            }
            What::Datagram { from, to, bytes } if self.reaches(from, to) => {
                let from = self.machines[from].tag;
                self.handle(to, Event::Datagram { from, bytes });
            }
            What::Dial => self.dial(),
            What::Synced { of, run, vector, ops } if runs(self, of, run) => {
                self.machines[of].synced = self.machines[of].synced.max(ops);
                self.handle(of, Event::LogDurable(vector));
            }
            What::Step { of, run, job } if runs(self, of, run) => self.step(of, job),
            What::Round(n, run) if runs(self, n, run) => {
                self.round(n);
                self.queue.after(ROUND, What::Round(n, run));
            }
            What::Scrub(n, run) if runs(self, n, run) => {
                let ids: Vec<ShardId> = self.machines[n].store.keys().copied().collect();
                ids.iter().for_each(|id| {
                    self.machines[n].read(id);
                });
                self.queue.after(SCRUB, What::Scrub(n, run));
            }
            What::Recalled(n, run, ino) if runs(self, n, run) => {
                let stored = ino != self.users.furniture.file || self.store_before_it_goes(n);
                if stored {
                    self.handle(n, Event::Recalled(ino));
                }
            }
            What::Scene => self.next_scene(),
            What::ExtraScene => self.begin_scene(),
            What::LastScene => self.begin_last_scene(),
            What::Act { n, run, wish } if runs(self, n, run) => self.act(n, wish),
            What::GoOn(id) => self.go_on(id),
            What::GiveUp(id) => self.give_up(id),
            What::EnoughOfLock(n, id) => self.enough_of_lock(n, id),
            What::Unlock(n, owner) => self.unlock(n, owner),
            What::Fault => self.fault_amid_a_scene(),
            What::Strike => self.fault(),
            What::Use => self.use_share(),
            What::Wish => self.wish_for_leases(),
            What::Start(n) => self.start(n),
            What::Hear { of, run, first } if runs(self, of, run) => self.hear(of, run, first),
            What::Mend(n) => {
                self.touched();
                self.cut.remove(&n);
                self.unheard.remove(&n);
                self.machines[n].slow = Duration::ZERO;
                self.machines[n].full = false;
            }
            What::Join => self.join(),
            What::Look => {
                self.check_groups();
                self.queue.after(LOOK, What::Look);
            }
            _ => {}
        }
    }

    pub fn handle(&mut self, n: usize, event: Event) {
        let now = Moment { wall: self.wall(), steady: self.queue.now() };
        let machine = &mut self.machines[n];
        let Some(peer) = machine.peer.as_mut() else { return };
        let effects = peer.handle(&mut machine.namespace, event, now);
        self.carry_out(n, effects);
    }

    /// A change of a machine's own; the seq of its op, 0 if it was not made.
    pub fn change(&mut self, n: usize, changes: Vec<Change>) -> u64 {
        let wall = self.wall();
        let machine = &mut self.machines[n];
        let Some(peer) = machine.peer.as_mut() else { return 0 };
        let (before, asked) = (machine.namespace.vector().get(peer.author()), changes.len() as u64);
        let (seq, effects) = peer.change(&mut machine.namespace, changes, wall);
        self.carry_out(n, effects);
        if seq < before + asked { 0 } else { seq }
    }

    pub fn carry_out(&mut self, n: usize, effects: Vec<Effect>) {
        let run = self.machines[n].run;
        for effect in effects {
            match effect {
                Effect::Persist(ops) => {
                    self.users_served(n, &ops);
                    self.machines[n].log.extend(ops);
                }
                Effect::Remember(past) => self.machines[n].remember(past),
                Effect::SyncLog(vector) => {
                    let ops = self.machines[n].log.len();
                    self.queue.after(SYNC, What::Synced { of: n, run, vector, ops });
                }
                Effect::SendControl { to, message } => self.send(n, to, message),
                Effect::SendDatagram { to, bytes } => {
                    let Some(to) = self.index(to) else { continue };
                    if !self.chance.happens(self.plan.loss) {
                        let after = self.latency(n, to);
                        self.queue.after(after, What::Datagram { from: n, to, bytes });
                    }
                }
                Effect::SetTimer { after, timer } => self.queue.after(after, What::Timer(n, run, timer)),
                Effect::Begin(work) => {
                    let after = self.chance.up_to(LATENCY);
                    self.queue.after(after, What::Step { of: n, run, job: Job::work(work) });
                }
                // Nobody is away for as long as logs reach back.
                Effect::FetchSnapshot { from } => {
                    self.violation(format!("{} has to take a snapshot of {from}", self.machines[n].tag));
                }
                Effect::Alive { peer, alive } => self.found(n, peer, alive),
                Effect::Provided(id) if id > users::FIRST => self.user_provided(n, id),
                Effect::Provided(id) => self.provided(id),
                Effect::Named { id, outcome } if id > users::FIRST => self.user_named(n, id, outcome),
                Effect::Named { id, outcome } => self.named(id, outcome),
                Effect::Settled => self.users_settled(n),
                Effect::Locked { id, outcome } => self.locked(n, id, outcome),
                Effect::LockLost { .. } => self.lock_lost(n),
                Effect::Deposed => self.users_deposed(n),
                Effect::Recall(ino) => self.queue.after(Duration::ZERO, What::Recalled(n, run, ino)),
                Effect::FalseClaim { peer, what } => {
                    self.violation(format!("{} believes that {peer} lies: it {what}", self.machines[n].tag));
                }
                Effect::Misbehaved { peer, how } => {
                    self.violation(format!("{} calls {peer} faulty: {how}", self.machines[n].tag));
                }
                Effect::Invalidate(_)
                | Effect::RosterChanged
                | Effect::ClockDiffers { .. }
                | Effect::LeftOut { .. }
                | Effect::LookUp { .. }
                | Effect::Searched { .. }
                | Effect::Refused { .. } => {}
            }
        }
    }

    fn connection(&self, a: usize, b: usize) -> Option<(u64, Instant)> {
        self.connections.get(&(a.min(b), a.max(b))).copied()
    }

    /// Since when two machines are connected, if they are.
    pub fn connected_since(&self, a: usize, b: usize) -> Option<Instant> {
        self.connection(a, b).map(|(_, since)| since)
    }

    fn send(&mut self, from: usize, to: PeerTag, message: ControlMessage) {
        let Some(to) = self.index(to) else { return };
        let Some((connection, _)) = self.connection(from, to) else { return };
        let arrives = later(self.queue.now(), self.latency(from, to));
        let last = self.arrivals.entry((from, to)).or_default();
        *last = (*last).max(arrives);
        let at = *last;
        self.queue.at(at, What::Control { from, to, connection, message });
    }

    /// Connections come and go as far as the network lets them.
    fn dial(&mut self) {
        // One that was killed over its goodbye stays away once anybody has heard that.
        for n in self.gone.clone() {
            if !self.machines[n].left && self.is_missed(n) {
                self.machines[n].left = true;
                self.stop(n, false);
            }
        }
        for a in 0..self.machines.len() {
            for b in a + 1..self.machines.len() {
                let standing = self.connections.contains_key(&(a, b));
                let on_roster = |x: usize, y: usize| {
                    self.machines[x].is_up() && self.machines[x].namespace.peer(self.machines[y].tag).is_some()
                };
                let wanted = self.answers(a, b) && on_roster(a, b) && on_roster(b, a);
                if wanted && !standing {
                    self.made += 1;
                    self.connections.insert((a, b), (self.made, self.queue.now()));
                    self.sides.changed = true;
                    let (one, other) = (self.machines[a].tag, self.machines[b].tag);
                    self.handle(a, Event::Connected(other));
                    self.handle(b, Event::Connected(one));
                } else if standing && !wanted {
                    self.disconnect((a, b));
                }
            }
        }
        self.queue.after(DIAL, What::Dial);
    }

    /// Whether some other machine that stays, itself on the roster, knows that this one is off it. One that leaves too may
    /// take what it heard away with it.
    pub fn is_missed(&self, n: usize) -> bool {
        let tag = self.machines[n].tag;
        let stays = |one: &Machine| one.namespace.peer(one.tag).is_some() && !one.namespace.standing(one.tag).leaving;
        let knows = |one: &Machine| one.is_up() && stays(one) && one.namespace.peer(tag).is_none();
        self.machines.iter().any(|one| one.tag != tag && knows(one))
    }

    fn disconnect(&mut self, (a, b): (usize, usize)) {
        if self.connections.remove(&(a, b)).is_some() {
            self.sides.changed = true;
            let (one, other) = (self.machines[a].tag, self.machines[b].tag);
            [a, b].into_iter().for_each(|n| self.may_have_asked_in_vain(n));
            self.handle(a, Event::Disconnected(other));
            self.handle(b, Event::Disconnected(one));
        }
    }

    /// What a machine holds against what it owes.
    fn round(&mut self, n: usize) {
        let usage = self.machines[n].usage();
        self.handle(n, Event::Usage(usage));
        let now = self.queue.now();
        let machine = &mut self.machines[n];
        let Some(peer) = machine.peer.as_ref() else { return };
        let namespace = &machine.namespace;
        if machine.hearing.is_some() || !peer.has_caught_up(namespace) && namespace.peers().count() > 1 {
            return;
        }
        let groups: Vec<GroupId> = namespace.groups_of(machine.tag).map(|(id, _)| id).collect();
        let (mut owed, mut lacking) = (0, BTreeMap::new());
        for id in groups {
            let shards = group::owed(namespace, id, machine.tag);
            owed += shards.len();
            let missing: Vec<ShardId> = shards.into_iter().filter(|id| !machine.store.contains_key(id)).collect();
            if !missing.is_empty() {
                lacking.insert(id, missing);
            }
        }
        let found = machine.comparison.round(owed, &lacking, &machine.rotten);
        machine.rotten.retain(|id| !machine.store.contains_key(id));
        let (_, useless) = group::useless(
            namespace,
            machine.tag,
            machine.store.keys().copied(),
            |one| peer.is_alive(one),
            |group| peer.is_worked_on(group),
        );
        let old = |id: &ShardId| machine.store.get(id).is_some_and(|held| between(held.put, now) >= KEPT_FOR);
        let goes: Vec<ShardId> =
            if peer.hears_everyone_for() >= KEPT_FOR { useless.into_iter().filter(old).collect() } else { Vec::new() };
        for id in goes {
            if self.is_not_needed(n, id.block) {
                self.let_go(n, id);
            }
        }
        match found {
            Findings::Emptied => self.handle(n, Event::Emptied),
            Findings::Lacking(groups) => {
                for (group, slots) in groups {
                    self.handle(n, Event::Lacking { group, slots });
                }
            }
        }
        self.close_groups(n);
        self.say_goodbye(n);
    }

    /// As a volume closes its groups.
    fn close_groups(&mut self, n: usize) {
        const BUSY: Duration = Duration::from_secs(120);
        let now = self.queue.now();
        let machine = &self.machines[n];
        if machine.peer.as_ref().is_none_or(|peer| !peer.has_heard_everyone()) {
            return;
        }
        let used = machine.used.iter().filter(|(_, at)| between(**at, now) < BUSY);
        let busy: BTreeSet<GroupId> = used.map(|(group, _)| *group).collect();
        let namespace = &machine.namespace;
        let empty = namespace.groups().map(|(id, _)| id).filter(|id| {
            let ours = id.creator() == machine.tag || !namespace.is_member(id.creator());
            ours && !busy.contains(id) && namespace.is_empty_group(*id)
        });
        let changes: Vec<Change> = empty.take(16).map(|group| Change::CloseGroup { group }).collect();
        if !changes.is_empty() {
            self.change(n, changes);
            let namespace = &self.machines[n].namespace;
            let there: BTreeSet<GroupId> = namespace.groups().map(|(id, _)| id).collect();
            self.machines[n].open.retain(|_, open| there.contains(&open.group));
        }
    }

    /// A machine that leaves goes when it has handed everything over, as the real peer does.
    fn say_goodbye(&mut self, n: usize) {
        let machine = &self.machines[n];
        let tag = machine.tag;
        let leaving = machine.namespace.standing(tag).leaving;
        let Some(peer) = machine.peer.as_ref().filter(|_| leaving) else { return };
        let candidates = peer.candidates(&machine.namespace);
        let (holdings, under_way) = (group::Holdings::default(), group::UnderWay::new());
        let needed = group::handing_over(&machine.namespace, &candidates, &holdings, &under_way, tag, false).groups > 0;
        let heard = peer.hears_everyone_for() > Duration::from_secs(5);
        if leaving && !needed && heard {
            self.change(n, vec![Change::Evict { peer: tag }]);
            self.gone.insert(n);
            let run = self.machines[n].run;
            self.queue.after(GOODBYE, What::Step { of: n, run, job: Job::Off });
        }
    }

    /// Faults come while people are at it, and people go on after them.
    fn fault_amid_a_scene(&mut self) {
        if self.storm {
            self.begin_scene();
            self.queue.after(self.chance_up_to(SCENE), What::Strike);
            AFTER.into_iter().for_each(|after| self.queue.after(after, What::ExtraScene));
        }
    }

    fn fault(&mut self) {
        if !self.storm {
            return;
        }
        let next = self.chance.exponential(self.plan.fault_every);
        // In the lull nothing else happens, but what befalls a machine as it begins lasts as long.
        let lull = !self.lulled && self.queue.now() >= later(Instant::default(), self.plan.storm / 2);
        self.lulled |= lull;
        self.queue.after(if lull { self.plan.lull.max(next) } else { next }, What::Fault);
        let fault = Fault::ALL[self.chance.below(Fault::ALL.len())];
        let n = self.chance.below(self.machines.len());
        let for_a_while = if lull { self.plan.lull } else { Duration::from_secs(1 + self.chance.below(60) as u64) };
        let present = !self.machines[n].left;
        let up = self.machines[n].is_up();
        let happened = match fault {
            Fault::Kill | Fault::PowerCut if up => {
                self.stop(n, fault == Fault::PowerCut);
                self.queue.after(for_a_while, What::Start(n));
                true
            }
            Fault::Wipe if up && self.may_destroy(n) => {
                self.stop(n, false);
                self.doom_unacknowledged();
                self.machines[n].store.clear();
                self.destroyed.insert(n);
                self.queue.after(for_a_while, What::Start(n));
                true
            }
            Fault::Partition if self.cut.is_empty() => {
                let all: Vec<usize> = (0..self.machines.len()).collect();
                let some = 1 + self.chance.below(all.len());
                self.cut = self.chance.some(all, some).into_iter().collect();
                let cut = self.cut.clone();
                cut.into_iter().for_each(|n| self.queue.after(for_a_while, What::Mend(n)));
                true
            }
            Fault::Deaf if present => {
                self.unheard.insert(n);
                self.queue.after(for_a_while, What::Mend(n));
                true
            }
            Fault::Slow if present => {
                self.machines[n].slow = Duration::from_millis(100 + self.chance.below(900) as u64);
                self.queue.after(for_a_while, What::Mend(n));
                true
            }
            Fault::Full if present => {
                self.machines[n].full = true;
                self.queue.after(for_a_while, What::Mend(n));
                true
            }
            Fault::Rot if present && self.may_destroy(n) => {
                let ids: Vec<ShardId> = self.machines[n].store.keys().copied().collect();
                let bad = self.chance.some(ids, 3);
                for id in &bad {
                    if let Some(held) = self.machines[n].store.get_mut(id) {
                        held.rotten = true;
                    }
                }
                if !bad.is_empty() {
                    self.doom_unacknowledged();
                    self.destroyed.insert(n);
                }
                !bad.is_empty()
            }
            Fault::Join if self.machines.len() < 12 => {
                self.queue.after(Duration::ZERO, What::Join);
                true
            }
            Fault::Leave
                if up
                    && self.machines[n].hearing.is_none()
                    && self.machines.iter().filter(|one| !one.left).count() > 4 =>
            {
                let peer = self.machines[n].tag;
                let standing = Standing { leaving: true, ..Standing::default() };
                self.change(n, vec![Change::SetStanding { peer, standing }]) > 0
            }
            _ => false,
        };
        if happened {
            self.touched();
            *self.counts.entry(fault).or_default() += 1;
        }
    }

    /// A new machine is admitted by one that is up, and takes its namespace.
    fn join(&mut self) {
        let ready = |n: &usize| {
            let one = &self.machines[*n];
            let stays = one.namespace.peer(one.tag).is_some() && !one.namespace.standing(one.tag).leaving;
            one.is_up() && one.hearing.is_none() && stays
        };
        let up: Vec<usize> = (0..self.machines.len()).filter(ready).collect();
        let Some(inviter) = self.chance.some(up, 1).first().copied() else { return };
        let n = self.machines.len();
        if self.change(inviter, vec![Change::Admit { peer: record(n) }]) > 0 {
            // Welcomed when this is on stable storage, as the daemon does.
            self.machines[inviter].synced = self.machines[inviter].log.len();
            let base = self.machines[inviter].namespace.snapshot();
            self.add(n, base);
        }
    }

    /// No more faults: all machines are up, and all links.
    pub fn calm(&mut self) {
        self.storm = false;
        self.cut.clear();
        self.unheard.clear();
        for n in 0..self.machines.len() {
            self.machines[n].slow = Duration::ZERO;
            self.machines[n].full = false;
            self.start(n);
        }
        self.wish_for_all_leases();
        self.queue.after(MEETING, What::LastScene);
    }

    pub fn violation(&mut self, what: String) {
        if self.report.violations.len() < 20 {
            let at = self.queue.now().0 as f64 / 1e9;
            self.report.violations.push(format!("at {at:.1} s {what}"));
        }
    }
}
