//! Several peers over a virtual network with delay, broken connections and crashes, from a seed.

use super::*;
use crate::group::HealingSettings;
use crate::id::{BlockName, Ino, PeerKey};
use crate::namespace::{Kind, PeerRecord, Place, Snapshot};
use crate::overlay::{Bloom, Member, Piece, SearchSettings, Settings};
use crate::policy::Geometry;
use crate::time::{Hlc, Instant, Stamp};
use crate::volume::ports::ShardId;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

mod clocks;
mod leases;
mod locks;
mod returning;
mod wishes;

const SECOND: u64 = 1_000_000_000;
/// When the worlds begin, in nanoseconds since 1970.
const START: i64 = 1_700_000_000 * SECOND as i64;
const SHARE: ShareId = ShareId([9; 16]);

enum What {
    Timer(usize, u64, Timer),
    Control { from: usize, to: usize, connection: u64, message: ControlMessage },
    Datagram { from: usize, to: usize, bytes: Bytes },
    Connect(usize, usize),
    Recalled(usize, u64, Ino),
    Synced(usize, u64, VersionVector),
    Snapshot { from: usize, to: usize },
}

struct Machine {
    tag: PeerTag,
    peer: Peer,
    namespace: Namespace,
    /// What it would read at a restart: nothing is lost by a crash, only by a power cut.
    base: Option<Snapshot>,
    log: Vec<Op>,
    past: Past,
    up: bool,
    /// Counts its starts: timers of an earlier run are void.
    run: u64,
    /// Nanoseconds that its clock is ahead.
    skew: i64,
    /// What happened to it while it was stopped, if it is.
    stopped: Option<Vec<Event>>,
}

impl Machine {
    /// The ops that it would have after a restart.
    fn kept(&self) -> VersionVector {
        let base = self.base.as_ref();
        let mut kept = base.map_or_else(VersionVector::default, |base| base.vector.clone());
        for op in base.map_or(&[][..], |base| &base.ops).iter().chain(&self.log) {
            kept.0.insert(op.stamp.author, op.seq);
        }
        kept
    }
}

/// Peers that all know one another, a queue of what is to happen, and one clock.
struct World {
    rng: SmallRng,
    now: u64,
    queue: BTreeMap<(u64, u64), What>,
    order: u64,
    machines: Vec<Machine>,
    /// Standing connections and their number; messages of an earlier one are lost.
    connections: BTreeMap<(usize, usize), u64>,
    /// Arrival of the last message on each, so that they stay in order.
    arrivals: BTreeMap<(usize, usize), u64>,
    cut: BTreeSet<(usize, usize)>,
    messages: u64,
    /// What each machine's store has of any block that is searched for.
    holding: BTreeMap<usize, Vec<Piece>>,
    searched: BTreeMap<u64, Vec<(PeerTag, ShardId)>>,
    /// Somebody lies, and is found out: who said it of whom.
    liars: Option<Vec<(usize, PeerTag, String)>>,
    /// What was said of clocks: by whom, of whom, and whether ops were left out.
    clocks: Vec<(usize, PeerTag, bool)>,
    /// Messages about leases, beats not counted.
    lease_messages: u64,
    beats: u64,
    /// What was needed and is there: by machine and number.
    provided: BTreeSet<(usize, u64)>,
    /// What came of wishes that a holder answered.
    named: BTreeMap<(usize, u64), Result<Option<Ino>, crate::namespace::Errno>>,
    /// What came of requests for locks, and who lost one.
    locked: BTreeMap<(usize, u64), crate::wire::LockOutcome>,
    locks_lost: Vec<(usize, Ino)>,
}

fn key(index: usize) -> PeerKey {
    PeerKey([index as u8 + 1; 32])
}

fn start(tag: PeerTag, past: Past, namespace: &Namespace, seed: u64, generation: u64) -> (Peer, Vec<Effect>) {
    let membership = Membership::new(
        Member::starting(tag, WallTime(generation as i64)),
        Settings::within(Duration::from_secs(3)),
        seed,
    );
    let search = Search::new(tag, SearchSettings::meshed(), seed);
    Peer::start(tag, past, SHARE, membership, HealingSettings::default(), search, namespace)
}

impl World {
    fn new(peers: usize, seed: u64) -> World {
        let mut founder = Namespace::new();
        let admit = |index: usize| Change::Admit {
            peer: PeerRecord {
                key: key(index),
                name: format!("peer-{index}"),
                addresses: Vec::new(),
                zone: String::new(),
                host: String::new(),
            },
        };
        let ops = founder.change(Author::new(key(0).tag(), 0), WallTime(START), (0..peers).map(admit).collect()).ops;
        let mut world = World {
            rng: SmallRng::seed_from_u64(seed),
            now: 2 * SECOND,
            queue: BTreeMap::new(),
            order: 0,
            machines: Vec::new(),
            connections: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            cut: BTreeSet::new(),
            messages: 0,
            holding: BTreeMap::new(),
            searched: BTreeMap::new(),
            liars: None,
            clocks: Vec::new(),
            lease_messages: 0,
            beats: 0,
            provided: BTreeSet::new(),
            named: BTreeMap::new(),
            locked: BTreeMap::new(),
            locks_lost: Vec::new(),
        };
        for index in 0..peers {
            let tag = key(index).tag();
            let mut namespace = Namespace::new();
            namespace.receive(ops.clone(), WallTime(START)).unwrap();
            namespace.set_me(tag);
            let past = Past::default();
            let (peer, effects) = start(tag, past, &namespace, seed + index as u64, 1);
            world.machines.push(Machine {
                tag,
                peer,
                namespace,
                base: None,
                log: ops.clone(),
                past,
                up: true,
                run: 0,
                skew: 0,
                stopped: None,
            });
            world.carry_out(index, effects);
        }
        for a in 0..peers {
            for b in 0..a {
                world.at(0, What::Connect(a, b));
            }
        }
        world
    }

    fn at(&mut self, after: u64, what: What) {
        self.order += 1;
        self.queue.insert((self.now + after, self.order), what);
    }

    /// What the clock of a machine says.
    fn wall(&self, index: usize) -> WallTime {
        WallTime(START + self.now as i64 + self.machines[index].skew)
    }

    fn moment(&self, index: usize) -> Moment {
        Moment { wall: self.wall(index), steady: Instant(self.now) }
    }

    fn index(&self, tag: PeerTag) -> usize {
        (0..16).position(|index| key(index).tag() == tag).unwrap()
    }

    fn linked(&self, a: usize, b: usize) -> bool {
        self.machines[a].up && self.machines[b].up && !self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn handle(&mut self, index: usize, event: Event) {
        let now = self.moment(index);
        let machine = &mut self.machines[index];
        if let Some(happened) = &mut machine.stopped {
            happened.push(event);
        } else if machine.up {
            let effects = machine.peer.handle(&mut machine.namespace, event, now);
            self.carry_out(index, effects);
        }
    }

    fn carry_out(&mut self, from: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Persist(ops) => self.machines[from].log.extend(ops),
                Effect::Remember(past) => self.machines[from].past = past,
                Effect::FetchSnapshot { from: of } => {
                    let (of, after) = (self.index(of), self.rng.random_range(0..SECOND));
                    self.at(after, What::Snapshot { from: of, to: from });
                }
                Effect::SyncLog(vector) => {
                    assert!(self.machines[from].kept().covers(&vector), "durable can only be what is in the log");
                    let run = self.machines[from].run;
                    let after = self.rng.random_range(0..SECOND / 50);
                    self.at(after, What::Synced(from, run, vector));
                }
                Effect::SendControl { to, message } => {
                    let to = self.index(to);
                    let Some(connection) = self.connections.get(&(from.min(to), from.max(to))).copied() else {
                        continue;
                    };
                    let after = self.rng.random_range(0..SECOND / 20);
                    let last = self.arrivals.entry((from, to)).or_default();
                    *last = (*last).max(self.now + after);
                    let after = *last - self.now;
                    match leases::is_beat(&message) {
                        true => self.beats += 1,
                        false => self.messages += 1,
                    }
                    self.lease_messages += u64::from(leases::is_about_leases(&message));
                    self.at(after, What::Control { from, to, connection, message });
                }
                Effect::SendDatagram { to, bytes } => {
                    let (to, after) = (self.index(to), self.rng.random_range(0..SECOND / 20));
                    self.at(after, What::Datagram { from, to, bytes });
                }
                Effect::SetTimer { after, timer } => {
                    let run = self.machines[from].run;
                    self.at(after.as_nanos() as u64, What::Timer(from, run, timer));
                }
                Effect::LookUp { query, .. } => {
                    let pieces = self.holding.get(&from).cloned().unwrap_or_default();
                    self.handle(from, Event::Holds { query, pieces });
                }
                Effect::Searched { search, found } => {
                    self.searched.insert(search, found);
                }
                Effect::Misbehaved { peer, how } => match &mut self.liars {
                    Some(liars) => liars.push((from, peer, how)),
                    None => panic!("{peer}: {how}"),
                },
                Effect::FalseClaim { peer, what } => match &mut self.liars {
                    Some(liars) => liars.push((from, peer, what)),
                    None => panic!("{peer} {what}"),
                },
                Effect::ClockDiffers { peer, .. } => self.clocks.push((from, peer, false)),
                Effect::LeftOut { peer, .. } => self.clocks.push((from, peer, true)),
                Effect::Locked { id, outcome } => _ = self.locked.insert((from, id), outcome),
                Effect::LockLost { ino } => self.locks_lost.push((from, ino)),
                Effect::Provided(id) => _ = self.provided.insert((from, id)),
                Effect::Named { id, outcome } => _ = self.named.insert((from, id), outcome),
                Effect::Recall(ino) => {
                    let (run, after) = (self.machines[from].run, self.rng.random_range(0..SECOND / 100));
                    self.at(after, What::Recalled(from, run, ino));
                }
                Effect::Invalidate(_)
                | Effect::RosterChanged
                | Effect::Alive { .. }
                | Effect::Begin(_)
                | Effect::Deposed
                | Effect::Settled
                | Effect::Refused { .. } => {}
            }
        }
    }

    fn run(&mut self, duration: u64) {
        let end = self.now + duration;
        while let Some(next) = self.queue.first_entry().filter(|next| next.key().0 <= end) {
            self.now = next.key().0;
            match next.remove() {
                What::Timer(index, run, timer) if self.machines[index].run == run => {
                    self.handle(index, Event::Timer(timer))
                }
                What::Synced(index, run, vector) if self.machines[index].run == run => {
                    self.handle(index, Event::LogDurable(vector));
                }
                What::Recalled(index, run, ino) if self.machines[index].run == run => {
                    self.handle(index, Event::Recalled(ino));
                }
                What::Timer(..) | What::Synced(..) | What::Recalled(..) => {}
                What::Control { from, to, connection, message } => {
                    if self.connections.get(&(from.min(to), from.max(to))) == Some(&connection) {
                        let from = self.machines[from].tag;
                        self.handle(to, Event::Control { from, message });
                    }
                }
                What::Datagram { from, to, bytes } => {
                    if self.linked(from, to) {
                        let from = self.machines[from].tag;
                        self.handle(to, Event::Datagram { from, bytes });
                    }
                }
                What::Connect(a, b) => self.connect(a, b),
                What::Snapshot { from, to } => self.snapshot(from, to),
            }
        }
        self.now = end;
    }

    fn snapshot(&mut self, from: usize, to: usize) {
        if !self.linked(from, to) {
            return self.handle(to, Event::SnapshotFailed);
        }
        let (wall, tag) = (self.wall(from), self.machines[to].tag);
        let machine = &mut self.machines[from];
        let effects = machine.peer.take_back(&mut machine.namespace, tag, wall);
        let snapshot = machine.namespace.snapshot();
        self.carry_out(from, effects);
        let wall = self.wall(to);
        let machine = &mut self.machines[to];
        let fresh = Namespace::restore(snapshot.clone()).unwrap();
        let Ok((past, rebased)) = machine.peer.plan_rebase(&machine.namespace, fresh, wall) else {
            return self.handle(to, Event::SnapshotFailed);
        };
        machine.log = rebased.ops.clone();
        (machine.past, machine.base) = (past, Some(snapshot));
        let effects = machine.peer.rebased(&mut machine.namespace, past, rebased);
        self.carry_out(to, effects);
    }

    fn keep_ops(&mut self, ops: u64) {
        for machine in &mut self.machines {
            machine.peer.set_log_bound(LogBound { ops, ..LogBound::default() });
        }
    }

    fn cut_off(&mut self, index: usize) {
        for other in 0..self.machines.len() {
            if other != index {
                self.cut.insert((index.min(other), index.max(other)));
                self.disconnect(index, other);
            }
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        if self.linked(a, b) && !self.connections.contains_key(&(a.min(b), a.max(b))) {
            self.order += 1;
            self.connections.insert((a.min(b), a.max(b)), self.order);
            let (a_tag, b_tag) = (self.machines[a].tag, self.machines[b].tag);
            self.handle(a, Event::Connected(b_tag));
            self.handle(b, Event::Connected(a_tag));
        }
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        if self.connections.remove(&(a.min(b), a.max(b))).is_some() {
            let (a_tag, b_tag) = (self.machines[a].tag, self.machines[b].tag);
            self.handle(a, Event::Disconnected(b_tag));
            self.handle(b, Event::Disconnected(a_tag));
        }
    }

    fn crash(&mut self, index: usize) {
        self.machines[index].up = false;
        for other in 0..self.machines.len() {
            self.disconnect(index, other);
        }
    }

    /// Loses its power, and with it all ops from `kept` on.
    fn lose_power(&mut self, index: usize, kept: usize) {
        self.crash(index);
        self.machines[index].log.truncate(kept);
        self.machines[index].past.memory = Memory::Unsure;
    }

    fn restart(&mut self, index: usize) {
        let wall = self.wall(index);
        let seed = self.rng.random();
        let machine = &mut self.machines[index];
        let mut namespace = machine.base.clone().map_or_else(Namespace::new, |base| Namespace::restore(base).unwrap());
        namespace.receive(machine.log.clone(), wall).unwrap();
        namespace.set_me(machine.tag);
        let (mut peer, effects) = start(machine.tag, machine.past, &namespace, seed, self.now);
        peer.set_log_bound(machine.peer.log_bound);
        (machine.peer, machine.namespace, machine.up, machine.run) = (peer, namespace, true, machine.run + 1);
        self.carry_out(index, effects);
        for other in 0..self.machines.len() {
            if other != index {
                self.at(SECOND / 10, What::Connect(index, other));
            }
        }
    }

    fn create(&mut self, index: usize, name: &str) -> u64 {
        self.make(index, name, Kind::File)
    }

    fn make(&mut self, index: usize, name: &str, kind: Kind) -> u64 {
        let wall = self.wall(index);
        let machine = &mut self.machines[index];
        let counter = machine.past.next_number(machine.namespace.counter(machine.tag));
        let change = Change::Create {
            place: Place { parent: Ino::ROOT, name: Bytes::copy_from_slice(name.as_bytes()) },
            ino: Ino::new(machine.tag, counter),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            time: wall,
        };
        let (seq, effects) = machine.peer.change(&mut machine.namespace, vec![change], wall);
        self.carry_out(index, effects);
        seq
    }

    fn rename(&mut self, index: usize, from: &str, to: &str) {
        let wall = self.wall(index);
        let place = |name: &str| Place { parent: Ino::ROOT, name: Bytes::copy_from_slice(name.as_bytes()) };
        let machine = &mut self.machines[index];
        let ino = machine.namespace.entry(Ino::ROOT, from.as_bytes()).unwrap().ino;
        let change = Change::Rename { from: place(from), to: place(to), ino, replaced: None, time: wall };
        let (_, effects) = machine.peer.change(&mut machine.namespace, vec![change], wall);
        self.carry_out(index, effects);
    }

    fn names(&self, index: usize) -> Vec<String> {
        let entries = self.machines[index].namespace.entries(Ino::ROOT);
        entries.map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    fn heal(&mut self) {
        self.cut.clear();
        for index in 0..self.machines.len() {
            if !self.machines[index].up {
                self.restart(index);
            }
            for other in 0..index {
                self.at(SECOND / 10, What::Connect(index, other));
            }
        }
    }
}

#[test]
fn a_change_reaches_every_connected_peer_and_settles() {
    let mut world = World::new(5, 1);
    world.run(5 * SECOND);
    let seq = world.create(2, "hello");
    assert!(!world.machines[2].peer.is_settled(seq, false, Instant(world.now)));
    world.run(SECOND / 4);
    assert!(world.machines[2].peer.is_settled(seq, false, Instant(world.now)));
    for index in 0..5 {
        assert_eq!(world.names(index), ["hello"]);
    }
    let machine = &mut world.machines[2];
    let effects = machine.peer.request_durable(&machine.namespace, seq);
    world.carry_out(2, effects);
    world.run(SECOND / 2);
    assert!(world.machines[2].peer.is_settled(seq, true, Instant(world.now)));
}

#[test]
fn a_dead_peer_is_waited_for_no_longer_than_its_detection() {
    let mut world = World::new(4, 2);
    world.run(5 * SECOND);
    // The connection stands, as it does for a while when a machine loses power.
    world.machines[3].up = false;
    let seq = world.create(0, "a");
    world.run(4 * SECOND);
    assert!(world.machines[0].peer.is_settled(seq, false, Instant(world.now)));
    assert!(!world.machines[0].peer.is_alive(world.machines[3].tag));
}

#[test]
fn a_change_waits_for_a_live_peer_whose_connection_breaks() {
    let mut world = World::new(3, 7);
    world.run(5 * SECOND);
    let seq = world.create(0, "a");
    // The op is lost with the connection; the peer lives, and a new connection stands soon.
    world.disconnect(0, 1);
    world.run(SECOND / 4);
    assert!(world.machines[0].peer.is_alive(world.machines[1].tag));
    assert!(!world.machines[0].peer.is_settled(seq, false, Instant(world.now)) && world.names(1).is_empty());
    world.at(0, What::Connect(0, 1));
    let mut steps = 0;
    while !world.machines[0].peer.is_settled(seq, false, Instant(world.now)) {
        world.run(SECOND / 100);
        steps += 1;
        assert!(steps < 400, "a reconnected peer is caught up with");
    }
    assert_eq!(world.names(1), ["a"]);
    // Nobody waits for long when it does not come back, though others still see it alive.
    world.cut.insert((0, 1));
    world.disconnect(0, 1);
    let seq = world.create(0, "b");
    world.run(4 * SECOND);
    assert!(world.machines[0].peer.is_settled(seq, false, Instant(world.now)));
}

#[test]
fn a_change_waits_for_a_peer_that_came_while_people_write() {
    let mut world = World::new(2, 8);
    world.run(3 * SECOND);
    world.disconnect(0, 1);
    world.run(5 * SECOND);
    world.at(0, What::Connect(0, 1));
    // There is always an op on its way.
    for n in 0..200 {
        let seq = world.create(0, &format!("{n}"));
        world.run(SECOND / 100);
        let has = world.machines[1].namespace.vector().get(Author::new(world.machines[0].tag, 0));
        let settled = world.machines[0].peer.is_settled(seq, false, Instant(world.now));
        assert!(n < 150 || !settled || has >= seq, "{n}: nobody waits for the peer");
    }
}

#[test]
fn an_idle_share_is_quiet_and_its_log_is_empty() {
    let mut world = World::new(4, 3);
    world.run(3 * SECOND);
    world.create(0, "a");
    world.run(10 * SECOND);
    for machine in &world.machines {
        assert_eq!(machine.namespace.unstable(), 0, "every peer has every op on stable storage");
    }
    let (before, beats) = (world.messages, world.beats);
    world.run(10 * SECOND);
    assert_eq!(world.messages - before, 0, "no store has told its figures in this world");
    assert_eq!(world.beats - beats, 10 * 12 * 2, "a beat and its answer, from each to each, a second");
}

#[test]
fn peers_converge_after_any_faults() {
    for seed in 0..200 {
        let mut world = World::new(4, seed);
        let mut made = BTreeSet::new();
        for step in 0..40 {
            let (a, b) = (world.rng.random_range(0..4), world.rng.random_range(0..4));
            match world.rng.random_range(0..10) {
                0 if world.machines[a].up => world.crash(a),
                0 | 1 if !world.machines[a].up => world.restart(a),
                2 if a != b => {
                    world.cut.insert((a.min(b), a.max(b)));
                    world.disconnect(a, b);
                }
                3 if a != b => {
                    world.cut.remove(&(a.min(b), a.max(b)));
                    world.at(0, What::Connect(a, b));
                }
                4 if a != b => {
                    world.disconnect(a, b);
                    world.at(SECOND / 10, What::Connect(a, b));
                }
                _ if world.machines[a].up => {
                    let name = format!("{step}");
                    world.create(a, &name);
                    made.insert(name);
                }
                _ => {}
            }
            let pause = world.rng.random_range(0..SECOND);
            world.run(pause);
        }
        world.heal();
        world.run(20 * SECOND);
        for index in 0..4 {
            let names: BTreeSet<String> = world.names(index).into_iter().collect();
            assert_eq!(names, made, "seed {seed}, peer {index}");
            assert_eq!(world.machines[index].namespace.unstable(), 0, "seed {seed}, peer {index}: all is stable");
        }
    }
}

#[test]
fn directories_of_one_name_become_one_once_their_makers_meet() {
    let mut world = World::new(4, 1);
    world.run(5 * SECOND);
    (0..4).for_each(|index| world.handle(index, Event::Ready));
    for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        world.cut.insert((a, b));
        world.disconnect(a, b);
    }
    for (index, name) in [(0, "d"), (3, "d"), (1, "only here"), (2, "e"), (1, "e")] {
        world.make(index, name, Kind::Directory);
        world.run(SECOND);
    }
    world.run(10 * SECOND);
    assert_eq!(world.names(2), ["d", "e"]);
    world.heal();
    world.run(20 * SECOND);
    for index in 0..4 {
        let namespace = &world.machines[index].namespace;
        assert_eq!((world.names(index), namespace.unstable()), (vec!["d".into(), "e".into(), "only here".into()], 0));
        assert_eq!(namespace.conflicts().count(), 0);
    }
    let merges = |machine: &Machine| machine.log.iter().filter(|op| matches!(op.change, Change::Merge { .. })).count();
    assert_eq!(merges(&world.machines[0]), 2, "one peer says so, once");
}

#[test]
fn a_directory_that_was_moved_twice_stays_where_the_first_move_put_it() {
    let mut world = World::new(2, 1);
    world.run(5 * SECOND);
    (0..2).for_each(|index| world.handle(index, Event::Ready));
    world.make(0, "d", Kind::Directory);
    world.run(SECOND);
    world.cut.insert((0, 1));
    world.disconnect(0, 1);
    world.rename(0, "d", "first");
    world.make(0, "second", Kind::Directory);
    world.run(SECOND);
    world.rename(1, "d", "second");
    world.run(5 * SECOND);
    world.heal();
    world.run(20 * SECOND);
    for index in 0..2 {
        assert_eq!(world.names(index), ["first", "second"], "what has the other name is another directory");
    }
}

/// Machine 0 makes an op that only machine 2 gets, and loses its power, and the op.
fn an_op_that_only_one_other_has() -> World {
    let mut world = World::new(3, 11);
    world.run(5 * SECOND);
    let kept = world.machines[0].log.len();
    world.cut.extend([(0, 1), (1, 2)]);
    world.disconnect(0, 1);
    world.disconnect(1, 2);
    world.create(0, "before");
    world.run(SECOND / 2);
    world.lose_power(0, kept);
    world
}

#[test]
fn ops_lost_in_a_power_cut_come_back_from_whoever_has_them() {
    let mut world = an_op_that_only_one_other_has();
    world.restart(0);
    world.run(3 * SECOND);
    assert!(!world.machines[0].peer.has_heard_everyone(), "nobody heard machine 1");
    assert_eq!(world.names(0), ["before"]);
    world.heal();
    world.run(3 * SECOND);
    world.handle(0, Event::Ready);
    assert_eq!(world.machines[0].past, Past::default(), "all is known, and the epoch is the old one");
}

#[test]
fn an_op_whose_number_may_be_given_out_gets_another() {
    let mut world = an_op_that_only_one_other_has();
    // The only one that has the op cannot be reached, nor can it be waited for for ever.
    world.cut = [(0, 2), (1, 2)].into();
    world.restart(0);
    world.run(20 * SECOND);
    world.handle(0, Event::Ready);
    assert_eq!(world.machines[0].past, Past { epoch: 1, memory: Memory::Apart });
    world.create(0, "after");
    world.create(1, "elsewhere");
    world.run(5 * SECOND);
    let settled = world.machines[1].namespace.unstable();
    assert!(settled > 0, "nothing becomes stable that an op of before may come below");
    world.heal();
    world.run(10 * SECOND);
    for index in 0..3 {
        assert_eq!(world.names(index), ["after", "before", "elsewhere"], "at machine {index}");
    }
    assert_eq!(world.machines[0].past, Past { epoch: 1, memory: Memory::Whole });
    // Once more after a crash: the epoch is kept.
    world.crash(0);
    world.restart(0);
    world.run(3 * SECOND);
    world.handle(0, Event::Ready);
    world.create(0, "later");
    world.run(3 * SECOND);
    assert_eq!(world.names(2).len(), 4);
}

/// Shards 0 to 3 of a block, one each on machines 1 to 4.
fn scattered(world: &mut World) -> BlockName {
    let block = BlockName::of(b"block");
    for index in 0..4u8 {
        let machine = usize::from(index) + 1;
        world.holding.insert(machine, vec![Piece { geometry: Geometry { data: 3, parity: 1 }, index }]);
        world.handle(machine, Event::Stored(Bloom::of([block].into_iter(), 64)));
    }
    block
}

#[test]
fn a_search_finds_the_holders_of_shards_that_no_record_names() {
    let mut world = World::new(6, 9);
    world.run(3 * SECOND);
    let block = scattered(&mut world);
    world.run(15 * SECOND);
    let before = world.messages;
    world.handle(0, Event::Search { search: 7, block });
    world.run(SECOND / 4);
    let found: BTreeSet<PeerTag> = world.searched[&7].iter().map(|(peer, _)| *peer).collect();
    assert_eq!(found, (1..5).map(|machine| world.machines[machine].tag).collect());
    assert!(world.searched[&7].iter().all(|(_, id)| id.block == block && id.geometry.data == 3));
    assert_eq!(world.messages - before, 8, "summaries tell whom to ask");
}

#[test]
fn a_search_reaches_beyond_a_broken_link_and_ends_when_nobody_has_anything() {
    let mut world = World::new(6, 10);
    world.run(3 * SECOND);
    let block = scattered(&mut world);
    for far in 3..5 {
        world.cut.insert((0, far));
        world.disconnect(0, far);
    }
    world.run(15 * SECOND);
    world.handle(0, Event::Search { search: 1, block });
    world.run(2 * SECOND);
    assert_eq!(world.searched[&1].len(), 4, "{:?}", world.searched[&1]);
    world.holding.clear();
    world.handle(0, Event::Search { search: 2, block });
    world.run(2 * SECOND);
    assert_eq!(world.searched[&2], []);
}

/// Everybody makes changes without being asked.
fn all_ready(world: &mut World) {
    for index in 0..world.machines.len() {
        world.handle(index, Event::Ready);
    }
}

fn create_many(world: &mut World, index: usize, mark: &str, count: usize, made: &mut BTreeSet<String>) {
    for n in 0..count {
        let name = format!("{mark}{n}");
        world.create(index, &name);
        made.insert(name);
        world.run(SECOND / 10);
    }
}
