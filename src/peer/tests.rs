//! Several peers over a virtual network with delay, broken connections and crashes, from a seed.

use super::*;
use crate::group::HealingSettings;
use crate::id::{BlockName, Ino, PeerKey};
use crate::namespace::{Kind, PeerRecord, Place, Snapshot};
use crate::overlay::{Bloom, Member, Piece, SearchSettings, Settings};
use crate::policy::Geometry;
use crate::time::{Hlc, Stamp};
use crate::volume::ports::ShardId;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

mod leases;
mod locks;

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
                Effect::SyncLog => {
                    let vector = self.machines[from].namespace.vector().clone();
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
                Effect::ClockDiffers { peer, .. } => self.clocks.push((from, peer, false)),
                Effect::LeftOut { peer, .. } => self.clocks.push((from, peer, true)),
                Effect::Locked { id, outcome } => _ = self.locked.insert((from, id), outcome),
                Effect::LockLost { ino } => self.locks_lost.push((from, ino)),
                Effect::Provided(id) => _ = self.provided.insert((from, id)),
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
    let effects = world.machines[2].peer.request_durable(seq);
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

#[test]
fn a_peer_that_is_away_for_too_long_is_let_go_and_comes_back_with_its_changes() {
    let mut world = World::new(4, 21);
    world.keep_ops(20);
    all_ready(&mut world);
    world.run(5 * SECOND);
    let mut made = BTreeSet::new();
    create_many(&mut world, 3, "before", 5, &mut made);
    world.cut_off(3);
    create_many(&mut world, 3, "alone", 40, &mut made);
    create_many(&mut world, 0, "without", 15, &mut made);
    world.run(60 * SECOND);
    let away = world.machines[3].tag;
    assert!(!world.machines[1].namespace.is_away(away), "so much is kept for it");
    assert!(world.machines[1].namespace.unstable() >= 15);
    create_many(&mut world, 1, "more", 15, &mut made);
    world.run(10 * SECOND);
    for index in 0..3 {
        assert!(world.machines[index].namespace.is_away(away), "at machine {index}");
        assert_eq!(world.machines[index].namespace.unstable(), 0, "the log of machine {index} is empty again");
        assert!(world.machines[index].peer.hears_everyone_for() > Duration::ZERO, "what is deleted may go");
    }
    assert!(world.machines[3].namespace.unstable() >= 40, "the one that is alone lets go of nobody");
    assert!((0..3).all(|index| !world.machines[3].namespace.is_away(world.machines[index].tag)));
    world.heal();
    world.run(20 * SECOND);
    for index in 0..4 {
        let names: BTreeSet<String> = world.names(index).into_iter().collect();
        assert_eq!(names, made, "machine {index}");
        assert!(!world.machines[index].namespace.is_away(away));
        assert_eq!(world.machines[index].namespace.unstable(), 0, "it counts again");
    }
    assert_eq!(world.machines[3].past, Past { epoch: 1, memory: Memory::Whole });
    // And once more, after a restart.
    world.crash(3);
    world.restart(3);
    world.run(5 * SECOND);
    world.handle(3, Event::Ready);
    let seq = world.create(3, "at last");
    world.run(SECOND);
    assert!(world.machines[3].peer.is_settled(seq, false, Instant(world.now)));
    assert!(world.names(0).contains(&"at last".to_owned()));
}

#[test]
fn of_two_peers_the_one_that_may_not_let_go_waits() {
    let mut world = World::new(2, 22);
    world.keep_ops(5);
    all_ready(&mut world);
    world.run(5 * SECOND);
    world.cut_off(0);
    let mut made = BTreeSet::new();
    create_many(&mut world, 0, "zero", 10, &mut made);
    create_many(&mut world, 1, "one", 10, &mut made);
    world.run(60 * SECOND);
    let away = |world: &World, at: usize| world.machines[at].namespace.is_away(world.machines[1 - at].tag);
    assert!(away(&world, 0) != away(&world, 1), "one of the two lets go of the other");
    world.heal();
    world.run(20 * SECOND);
    for index in 0..2 {
        assert_eq!(world.names(index).into_iter().collect::<BTreeSet<_>>(), made);
        assert_eq!(world.machines[index].namespace.unstable(), 0);
    }
}

#[test]
fn peers_converge_after_any_faults_however_little_of_the_log_is_kept() {
    let mut let_go = 0;
    for seed in 0..100 {
        let mut world = World::new(4, 1000 + seed);
        world.keep_ops(3);
        all_ready(&mut world);
        let mut made = BTreeSet::new();
        for step in 0..40 {
            let (a, b) = (world.rng.random_range(0..4), world.rng.random_range(0..4));
            match world.rng.random_range(0..12) {
                0 if world.machines[a].up => world.crash(a),
                0 | 1 if !world.machines[a].up => {
                    world.restart(a);
                    world.handle(a, Event::Ready);
                }
                2 if a != b => {
                    world.cut.insert((a.min(b), a.max(b)));
                    world.disconnect(a, b);
                }
                3 if a != b => {
                    world.cut.remove(&(a.min(b), a.max(b)));
                    world.at(0, What::Connect(a, b));
                }
                4 => world.cut_off(a),
                5 => {
                    let pause = world.rng.random_range(30 * SECOND..60 * SECOND);
                    world.run(pause);
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
            let tags: Vec<PeerTag> = world.machines.iter().map(|machine| machine.tag).collect();
            let_go += usize::from(tags.iter().any(|tag| world.machines[a].namespace.is_away(*tag)));
        }
        world.heal();
        all_ready(&mut world);
        world.run(60 * SECOND);
        for index in 0..4 {
            let names: BTreeSet<String> = world.names(index).into_iter().collect();
            assert_eq!(names, made, "seed {seed}, peer {index}");
            assert_eq!(world.machines[index].namespace.unstable(), 0, "seed {seed}, peer {index}: all is stable");
        }
    }
    assert!(let_go > 100, "peers were let go in these worlds");
}

/// Nanoseconds of so many minutes.
const fn minutes(minutes: i64) -> i64 {
    minutes * 60 * SECOND as i64
}

fn all_settled(world: &World, names: &BTreeSet<String>) {
    for index in 0..world.machines.len() {
        assert_eq!(&world.names(index).into_iter().collect::<BTreeSet<_>>(), names, "machine {index}");
        assert_eq!(world.machines[index].namespace.unstable(), 0, "machine {index}: all is stable");
    }
}

/// Everybody makes changes, and tells what its store and its clock say.
fn all_tell(world: &mut World) {
    all_ready(world);
    for index in 0..world.machines.len() {
        world.handle(index, Event::Usage(StoreUsage::default()));
    }
}

#[test]
fn clocks_that_are_minutes_off_keep_the_order_of_what_is_done() {
    let mut world = World::new(3, 31);
    for (index, off) in [-4, 0, 4].into_iter().enumerate() {
        world.machines[index].skew = minutes(off);
    }
    all_ready(&mut world);
    world.run(5 * SECOND);
    world.create(2, "0");
    for step in 0..30 {
        world.run(SECOND);
        if step == 15 {
            // It is set, and jumps back: what it makes still comes after what it has seen.
            world.machines[2].skew = minutes(-3);
        }
        world.rename(step % 3, &step.to_string(), &(step + 1).to_string());
    }
    world.run(5 * SECOND);
    all_settled(&world, &["30".to_owned()].into());
    assert!(world.clocks.iter().all(|(_, _, left_out)| !left_out), "nothing is refused within the bound");
    let ahead = world.machines[0].peer.clock_ahead(world.machines[1].tag);
    assert!(ahead.unwrap().abs_diff(4 * 60_000) < 1000, "{ahead:?}");
}

#[test]
fn a_clock_far_ahead_is_reported_and_not_obeyed_and_once_it_is_right_its_changes_are_there() {
    let mut world = World::new(3, 32);
    all_tell(&mut world);
    world.run(5 * SECOND);
    world.cut_off(2);
    world.machines[2].skew = minutes(60);
    let (mut made, mut seen) = (BTreeSet::new(), BTreeSet::new());
    create_many(&mut world, 2, "early", 5, &mut made);
    world.cut.clear();
    world.at(0, What::Connect(0, 2));
    world.at(0, What::Connect(1, 2));
    create_many(&mut world, 0, "others", 5, &mut seen);
    world.run(20 * SECOND);
    let wrong = world.machines[2].tag;
    for index in 0..2 {
        assert_eq!(world.names(index).into_iter().collect::<BTreeSet<_>>(), seen, "its changes are left out");
        assert!(world.clocks.contains(&(index, wrong, true)) && world.clocks.contains(&(index, wrong, false)));
        let ahead = world.machines[index].peer.clock_ahead(wrong).unwrap();
        assert!(ahead.abs_diff(60 * 60_000) < 1000, "{ahead}");
        assert_eq!(world.machines[index].peer.own_clock_ahead(), None);
    }
    assert!(world.machines[2].peer.own_clock_ahead().unwrap() > 3_500_000, "it knows that it is the one");
    assert_eq!(world.names(2).len(), 10, "it has what the others make");
    world.machines[2].skew = 0;
    world.run(40 * SECOND);
    made.extend(seen);
    all_settled(&world, &made);
    world.create(2, "right");
    world.run(5 * SECOND);
    made.insert("right".to_owned());
    all_settled(&world, &made);
    assert_eq!(world.machines[2].peer.clock_ahead(world.machines[0].tag), None);
}

#[test]
fn a_clock_far_behind_leaves_out_what_the_others_do_until_it_is_right() {
    let mut world = World::new(3, 33);
    all_tell(&mut world);
    world.run(5 * SECOND);
    world.machines[2].skew = minutes(-60);
    let mut made = BTreeSet::new();
    create_many(&mut world, 0, "now", 5, &mut made);
    create_many(&mut world, 2, "then", 5, &mut made);
    world.run(20 * SECOND);
    assert_eq!(world.names(2).len(), 5);
    assert_eq!(world.names(0).len(), 10, "what it does is taken");
    assert!(world.machines[2].peer.own_clock_ahead().unwrap() < -3_500_000);
    world.machines[2].skew = 0;
    world.run(20 * SECOND);
    all_settled(&world, &made);
}

/// Machine 3 sends these ops to machine 0; what that says of it.
fn tells(world: &mut World, ops: Vec<Op>) -> Vec<(usize, PeerTag, String)> {
    world.liars = Some(Vec::new());
    let from = world.machines[3].tag;
    world.handle(0, Event::Control { from, message: ControlMessage::Ops(ops) });
    world.liars.take().unwrap()
}

#[test]
fn a_peer_that_lies_is_refused_by_name_and_nothing_of_it_is_taken() {
    let mut world = World::new(4, 34);
    all_ready(&mut world);
    world.run(5 * SECOND);
    world.create(3, "settled");
    world.run(10 * SECOND);
    // One that is away keeps the next op from being settled.
    world.cut_off(2);
    world.create(3, "last");
    world.run(2 * SECOND);
    let liar = world.machines[3].tag;
    let author = Author::new(liar, 0);
    let real: Vec<Op> = world.machines[3].log.iter().filter(|op| op.stamp.author == author).cloned().collect();
    let before = (world.names(0), world.machines[0].namespace.vector().clone());
    let (settled, last) = (real[0].clone(), real[1].clone());
    let other = |seq: u64, time: Hlc| Op { stamp: Stamp { time, author }, seq, change: settled.change.clone() };
    let next = Hlc(last.stamp.time.0 + 1);
    let forged = Op { change: Change::Reap { ino: Ino::ROOT }, ..other(3, next) };
    let lies = [
        (other(2, next), "two different ops 2"),
        (other(3, settled.stamp.time), "older than what is settled"),
        (forged, "not valid"),
    ];
    for (op, word) in lies {
        let said = tells(&mut world, vec![op]);
        let [(0, of, how)] = &said[..] else { panic!("{word}: {said:?}") };
        assert!(*of == liar && how.contains(word), "{how}");
    }
    // Replayed as they were, they are nothing new.
    assert_eq!(tells(&mut world, real.clone()), []);
    // Far ahead: left out and reported, and whoever passes it on is not cut off for it.
    let ahead = Hlc((world.wall(0).millis() + 3_600_000) << 16);
    assert_eq!(tells(&mut world, vec![other(3, ahead)]), []);
    assert!(world.clocks.contains(&(0, liar, true)));
    assert_eq!((world.names(0), world.machines[0].namespace.vector().clone()), before, "nothing was taken");
    // What others made, in the same message, is.
    let honest = Author::new(world.machines[1].tag, 0);
    world.cut.insert((0, 1));
    world.disconnect(0, 1);
    world.create(1, "honest");
    let ops = world.machines[1].namespace.missing(world.machines[0].namespace.vector(), usize::MAX);
    let crate::namespace::Missing::Ops(mut ops) = ops else { panic!("the log reaches back") };
    assert!(ops.iter().any(|op| op.stamp.author == honest));
    ops.push(other(3, ahead));
    assert_eq!(tells(&mut world, ops), []);
    assert!(world.names(0).contains(&"honest".to_owned()));
}
