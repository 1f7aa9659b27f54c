//! Leases amid the faults: machines take them in turns, each leaves an op behind, and two things are checked. Of machines
//! that have been connected for a while, and know it, and nobody new among them, never two hold one lease; and who takes one has what those who held it
//! before did, as far as they have been connected to it ever since. So what is done under one lease has one order that everybody
//! would agree on who watched: a machine that does something sees all that was done, and nobody else does anything
//! meanwhile.

use super::jobs::Job;
use super::world::{What, World};
use crate::id::{Author, Ino, PeerTag};
use crate::namespace::{Errno, Kind, MOVES, Naming, Place};
use crate::peer::{Event, Need};
use crate::sim::chance::Chance;
use crate::sim::queue::between;
use crate::time::{Instant, Moment};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The leases that machines take from one another.
const LEASES: [Ino; 2] = [Ino::ROOT, MOVES];

/// From one wish for a lease to the next, in the mean.
const EVERY: Duration = Duration::from_secs(2);

/// The longest from when a lease is there until it is used.
const AT_ONCE: Duration = Duration::from_millis(5);

/// Machines among which somebody came less long ago may still hold what each took over while they were apart.
pub(super) const ACQUAINTED: Duration = Duration::from_secs(3);

/// Who wants which lease, and who did what under one.
pub(super) struct Leases {
    chance: Chance,
    wishes: u64,
    /// What machines wait for: machine, run and lease, and what they would have done under it.
    wanted: BTreeMap<u64, (usize, u64, Ino)>,
    /// What is to be done under the root's lease, by the number of the need.
    namings: BTreeMap<u64, Naming>,
    /// The last op that each machine made under each lease, and when.
    done: BTreeMap<(Ino, usize), (Author, u64, Instant)>,
    /// Since when a machine, in its present run, takes another one for alive.
    alive: BTreeMap<(usize, u64, PeerTag), Instant>,
    files: u64,
}

impl Leases {
    pub fn new(seed: u64) -> Leases {
        Leases {
            chance: Chance::new(seed),
            wishes: 0,
            wanted: BTreeMap::new(),
            namings: BTreeMap::new(),
            done: BTreeMap::new(),
            alive: BTreeMap::new(),
            files: 0,
        }
    }
}

impl World<'_> {
    /// The next wish of some machine.
    pub(super) fn wish_for_leases(&mut self) {
        if !self.storm {
            return;
        }
        let next = self.leases.chance.exponential(EVERY);
        self.queue.after(next, What::Wish);
        let ready: Vec<usize> = (0..self.machines.len()).filter(|n| self.is_ready(*n)).collect();
        if let Some(n) = self.leases.chance.some(ready, 1).first().copied() {
            let lease = LEASES[self.leases.chance.below(LEASES.len())];
            self.wish(n, lease);
        }
    }

    /// In the calm everybody wants everything once more.
    pub(super) fn wish_for_all_leases(&mut self) {
        for n in 0..self.machines.len() {
            LEASES
                .into_iter()
                .filter(|_| self.is_ready(n))
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|ino| self.wish(n, ino));
        }
    }

    /// Whether somebody could do something on a machine.
    pub(super) fn is_ready(&self, n: usize) -> bool {
        let one = &self.machines[n];
        one.is_up() && one.hearing.is_none() && one.namespace.peer(one.tag).is_some()
    }

    fn wish(&mut self, n: usize, lease: Ino) {
        self.leases.wishes += 1;
        let id = self.leases.wishes;
        self.leases.wanted.insert(id, (n, self.machines[n].run, lease));
        let leases = BTreeSet::from([lease]);
        // The root's is wanted for something that its holder may do instead, when it is busy under it.
        let need = match lease == Ino::ROOT && self.leases.chance.below(2) == 0 {
            true => {
                let naming = self.new_file(n);
                self.leases.namings.insert(id, naming.clone());
                Need::Naming { wish: self.leases.chance.bits(), naming, leases }
            }
            false => Need::Leases(leases),
        };
        self.handle(n, Event::Need { id, need });
    }

    /// A new file of a name of its own.
    fn new_file(&mut self, n: usize) -> Naming {
        self.leases.files += 1;
        let place = Place { parent: Ino::ROOT, name: Bytes::from(format!("under-a-lease-{}", self.leases.files)) };
        let ino = Ino::new(self.machines[n].tag, self.machines[n].number());
        Naming::Make { place, ino, kind: Kind::File, mode: 0o644, umask: 0, uid: 0, gid: 0, time: self.wall() }
    }

    /// What was to be done under a lease has been, by its holder, for a machine that sees it: nobody else asked for it.
    pub(super) fn named(&mut self, id: u64, outcome: Result<Option<Ino>, Errno>) {
        let Some((n, ..)) = self.leases.wanted.remove(&id) else { return };
        let Some(Naming::Make { place, ino, .. }) = self.leases.namings.remove(&id) else { return };
        let tag = self.machines[n].tag;
        let there = self.machines[n].namespace.entry(place.parent, &place.name).map(|entry| entry.ino);
        self.report.taken += 1;
        match outcome {
            Ok(_) if there == Some(ino) => {}
            Ok(_) => self.violation(format!("{tag} is told that {place:?} is made, and it is not there")),
            Err(errno) => self.violation(format!("{tag} is told that {place:?} cannot be made: {}", errno.0)),
        }
    }

    /// A machine has found another one alive, or dead.
    pub(super) fn found(&mut self, n: usize, peer: PeerTag, alive: bool) {
        let (key, now) = ((n, self.machines[n].run, peer), self.queue.now());
        self.sides.changed = true;
        if alive {
            self.leases.alive.entry(key).or_insert(now);
        } else {
            self.leases.alive.remove(&key);
        }
    }

    /// Since when each of two machines has taken the other for alive.
    fn alive_since(&self, a: usize, b: usize) -> Option<Instant> {
        let found = |n: usize, other: usize| {
            self.leases.alive.get(&(n, self.machines[n].run, self.machines[other].tag)).copied()
        };
        Some(found(a, b)?.max(found(b, a)?))
    }

    /// Since when all of them have taken one another for alive; none while some do not.
    pub(super) fn all_alive_since(&self, company: &BTreeSet<usize>) -> Option<Instant> {
        let mut since = Instant::default();
        for one in company {
            for two in company.range(one + 1..) {
                since = since.max(self.alive_since(*one, *two)?);
            }
        }
        Some(since)
    }

    /// Since when two machines have been connected, and each has taken the other for alive. Of two that are so slow that
    /// each finds the other dead, each goes on alone, as in a partition, though messages still come through.
    fn acquainted_since(&self, a: usize, b: usize) -> Option<Instant> {
        Some(self.connected_since(a, b)?.max(self.alive_since(a, b)?))
    }

    /// All that a machine is connected to, over others too.
    pub(super) fn company(&self, n: usize) -> BTreeSet<usize> {
        let (mut company, mut next) = (BTreeSet::from([n]), vec![n]);
        while let Some(one) = next.pop() {
            let connected = |two: &usize| self.connected_since(one, *two).is_some();
            next.extend((0..self.machines.len()).filter(connected).filter(|two| company.insert(*two)));
        }
        company
    }

    /// Since when a machine's company have been connected, each to each, and known to one another as
    /// alive; none while some are not. When two sides meet, each goes on for a moment with the leases that it held alone,
    /// and passes them on to those of its own side; the op that ended them may take a second to get to everybody.
    pub(super) fn company_since(&self, n: usize) -> Option<(BTreeSet<usize>, Instant)> {
        let company = self.company(n);
        let mut since = Instant::default();
        for one in &company {
            for two in company.range(one + 1..) {
                since = since.max(self.acquainted_since(*one, *two)?);
            }
        }
        Some((company, since))
    }

    /// A lease is there; whoever wanted it uses it in a moment.
    pub(super) fn provided(&mut self, id: u64) {
        let Some((n, run, lease)) = self.leases.wanted.remove(&id) else { return };
        let after = self.leases.chance.up_to(AT_ONCE);
        self.queue.after(after, What::Step { of: n, run, job: Job::Use { lease, need: id } });
    }

    /// Does something under a lease, if it is still there.
    pub(super) fn use_lease(&mut self, n: usize, lease: Ino, need: u64) {
        let naming = self.leases.namings.remove(&need);
        let now = Moment { wall: self.wall(), steady: self.queue.now() };
        let machine = &mut self.machines[n];
        let Some(peer) = machine.peer.as_mut() else { return };
        if machine.namespace.peer(machine.tag).is_none() {
            return;
        }
        if peer.may(&machine.namespace, &[lease], now.steady).is_err() {
            return self.wish(n, lease);
        }
        self.check_lease(n, lease);
        let naming = naming.unwrap_or_else(|| self.new_file(n));
        let changes = match naming.decide(&self.machines[n].namespace) {
            Ok(decided) => decided.changes,
            Err(errno) => {
                let tag = self.machines[n].tag;
                return self.violation(format!("{tag} finds done what it wished to do, {naming:?}: {}", errno.0));
            }
        };
        let seq = self.change(n, changes);
        let author = self.machines[n].peer.as_ref().map(|peer| peer.author());
        if let Some(author) = author.filter(|_| seq > 0) {
            self.report.taken += 1;
            self.leases.done.insert((lease, n), (author, seq, now.steady));
        }
    }

    /// Nobody in the company of this machine, which takes a lease, holds it as well, or did something under it that this
    /// one has not.
    fn check_lease(&mut self, n: usize, lease: Ino) {
        let Some((company, since)) = self.company_since(n) else { return };
        let now = self.queue.now();
        let one = self.machines[n].tag;
        if between(since, now) >= ACQUAINTED {
            self.report.judged_leases += 1;
        }
        for other in company.into_iter().filter(|other| *other != n) {
            let machine = &self.machines[other];
            let two = machine.tag;
            let holds = machine
                .peer
                .as_ref()
                .is_some_and(|peer| peer.what_is_missing(&machine.namespace, &[lease], now).is_empty());
            if holds && between(since, now) >= ACQUAINTED {
                self.violation(format!("{one} and {two} both hold the lease of {lease}"));
            }
            let done = self.leases.done.get(&(lease, other)).copied();
            if let Some((author, seq, _)) = done.filter(|(.., at)| since <= *at)
                && self.machines[n].namespace.vector().get(author) < seq
            {
                self.violation(format!("{one} took the lease of {lease} without what {two} did under it"));
            }
        }
    }

    /// A lease that a machine waits for, in vain so far.
    pub(super) fn lease_in_want(&self) -> Option<String> {
        let waits = |(n, run, _): &&(usize, u64, Ino)| self.is_ready(*n) && self.machines[*n].run == *run;
        let (n, _, lease) = self.leases.wanted.values().find(waits)?;
        Some(format!("{} waits for the lease of {lease}", self.machines[*n].tag))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Plan;
    use super::*;
    use crate::namespace::Change;

    /// A share that nothing befalls, after a while.
    fn undisturbed(plan: &Plan) -> World<'_> {
        let mut world = World::new(3, plan);
        world.pass(Duration::from_secs(60));
        assert_eq!(world.report.violations, Vec::<String>::new());
        assert!(world.report.taken > 10, "{}", world.report.taken);
        world
    }

    fn plan() -> Plan {
        let forever = Duration::from_secs(1 << 30);
        Plan { machines: 3, fault_every: forever, loss: 0.0, ..Plan::new(&mut Chance::new(3)) }
    }

    #[test]
    fn two_that_hold_one_lease_are_told() {
        let plan = plan();
        let mut world = undisturbed(&plan);
        let holder = world.machines[0].namespace.holder(Ino::ROOT);
        let (author, now) = (Author::new(holder, 0), world.wall());
        let one = (0..3).find(|n| world.machines[*n].tag != holder).expect("there are three");
        let to = world.machines[one].tag;
        // An op that only the one it is good for knows of.
        world.machines[one].namespace.change(author, now, vec![Change::Grant { ino: Ino::ROOT, to }]);
        world.check_lease(one, Ino::ROOT);
        assert!(world.report.violations.iter().any(|what| what.contains("both hold the lease")), "{:?}", world.report);
    }

    #[test]
    fn one_that_takes_a_lease_without_what_was_done_under_it_is_told() {
        let plan = plan();
        let mut world = undisturbed(&plan);
        let (author, now) = (Author::new(world.machines[1].tag, 0), world.queue.now());
        world.leases.done.insert((MOVES, 1), (author, u64::MAX, now));
        world.check_lease(0, MOVES);
        assert!(world.report.violations.iter().any(|what| what.contains("without what")), "{:?}", world.report);
    }
}
