//! When what users do can be held against one order: only among machines that are connected. A side of a partition goes
//! on by itself, and what both did is merged when they meet.
//!
//! A **side** is all machines that are in sight of one another, over others too, where each takes each for alive. Its
//! histories go on for as long as it loses machines only: what it was told is done stays done, and everybody who is left
//! sees it. A connection may break, and be there again a moment later. What a lost machine had under way is done at any
//! later time or never, what it held is let go of at any later time, and what it alone saw nobody knows. When somebody
//! comes, or two that are left take one another for dead, the histories end and are judged. They begin anew, from how
//! things are, when all have been connected, and alive to one another, for a while, and every change that anybody has is
//! with all of them.

use super::acts::{Holders, Locking, Put};
use super::leases::ACQUAINTED;
use super::order::{Record, Step, Verdict, verdict};
use super::users::Thing;
use super::world::World;
use crate::sim::queue::between;
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// Past so many records a history is judged, and a fresh one begun.
const LONG: usize = 400;

/// What was done to one thing, from how it was at the beginning.
#[derive(Clone)]
pub(super) struct History<S: Step> {
    begin: S::State,
    began: Instant,
    /// By the number of what was done.
    records: BTreeMap<u64, Record<S>>,
}

impl<S: Step + Clone + std::fmt::Debug> History<S>
where
    S::State: std::fmt::Debug,
{
    fn new(begin: S::State, began: Instant) -> History<S> {
        History { begin, began, records: BTreeMap::new() }
    }

    /// As it goes on among those who are left.
    fn among(&self, members: &BTreeSet<usize>) -> History<S> {
        let known = |record: &&Record<S>| members.contains(&record.by) || !record.step.is_look();
        let records = self.records.iter().filter(|(_, record)| known(record));
        let (begin, began) = (self.begin.clone(), self.began);
        History { begin, began, records: records.map(|(id, record)| (*id, record.clone())).collect() }
    }

    /// What no order explains, if there is such a thing. `Err`: that is not known.
    fn fault(&self) -> Result<Option<String>, Tangled> {
        let records: Vec<Record<S>> = self.records.values().cloned().collect();
        let stuck = match verdict(&self.begin, &records) {
            Verdict::Explained => return Ok(None),
            Verdict::Tangled => return Err(Tangled),
            Verdict::Unexplained(at) => records[at].clone(),
        };
        // What was going on around it.
        let from = Instant(stuck.called.0.saturating_sub(2_000_000_000));
        let near = |record: &&Record<S>| {
            stuck.returned.is_none_or(|until| record.called <= until) && record.returned.is_none_or(|at| at >= from)
        };
        let near: Vec<String> = records.iter().filter(near).map(told).collect();
        Ok(Some(format!("no order explains {}; from {:?}, and near it: {}", told(&stuck), self.begin, near.join(", "))))
    }
}

/// There are too many orders in which a history may have come about.
struct Tangled;

fn told<S: std::fmt::Debug>(record: &Record<S>) -> String {
    let at = |time: Instant| format!("{:.3}", time.0 as f64 / 1e9);
    let returned = record.returned.map_or("?".to_owned(), at);
    format!("m{} {:?} ({} to {returned})", record.by, record.step, at(record.called))
}

/// Machines that are to see one order, and what was done among them.
#[derive(Clone)]
struct Side {
    members: BTreeSet<usize>,
    /// Since when all have taken one another for alive.
    since: Instant,
    names: Option<History<Put>>,
    file: Option<History<Put>>,
    locks: Option<History<Locking>>,
    /// What was written under locks that have been let go of: which record, and where.
    under_lock: BTreeSet<(u64, usize)>,
}

impl Side {
    fn new(members: BTreeSet<usize>, since: Instant) -> Side {
        Side { members, since, names: None, file: None, locks: None, under_lock: BTreeSet::new() }
    }
}

#[derive(Default)]
pub(super) struct Sides {
    all: Vec<Side>,
    /// Connections came or went, or somebody found somebody else alive or dead, since the sides were last looked at.
    pub changed: bool,
}

/// What was done to which thing.
pub(super) enum Done {
    Put(Thing, Put),
    Locking(Locking),
}

impl World<'_> {
    /// Goes on with the sides that there are now.
    pub(super) fn look_at_sides(&mut self) {
        if !std::mem::take(&mut self.sides.changed) {
            return;
        }
        let before = std::mem::take(&mut self.sides.all);
        let mut went_on = BTreeSet::new();
        for (members, since) in self.companies() {
            let is_left = |side: &Side| since <= side.since && members.is_subset(&side.members);
            let side = match before.iter().position(is_left) {
                Some(at) if before[at].members == members => {
                    went_on.insert(at);
                    before[at].clone()
                }
                Some(at) => {
                    went_on.insert(at);
                    self.among(&before[at], members)
                }
                None => Side::new(members, since),
            };
            self.sides.all.push(side);
        }
        before.iter().enumerate().filter(|(at, _)| !went_on.contains(at)).for_each(|(_, side)| self.judge(side));
    }

    /// All machines that are up, by who is in sight of whom; strangers to one another are left out.
    fn companies(&self) -> Vec<(BTreeSet<usize>, Instant)> {
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for n in (0..self.machines.len()).filter(|n| self.machines[*n].is_up()) {
            if seen.contains(&n) {
                continue;
            }
            let company = self.company(n);
            seen.extend(company.iter().copied());
            found.extend(self.all_alive_since(&company).map(|since| (company, since)));
        }
        found
    }

    /// A side that has lost some of its machines.
    fn among(&mut self, side: &Side, members: BTreeSet<usize>) -> Side {
        let lost: Vec<usize> = side.members.difference(&members).copied().collect();
        let now = self.queue.now();
        let mut locks = side.locks.as_ref().map(|history| history.among(&members));
        if let Some(history) = &mut locks {
            for by in lost {
                let Some(owner) = self.users.owner(by) else { continue };
                let step = Locking::Free { owner };
                history.records.insert(self.users.number(), Record { by, step, called: now, returned: None });
            }
        }
        Side {
            names: side.names.as_ref().map(|history| history.among(&members)),
            file: side.file.as_ref().map(|history| history.among(&members)),
            locks,
            // What a machine wrote and had not stored when it was lost is lost, too.
            under_lock: side.under_lock.iter().copied().filter(|(_, by)| members.contains(by)).collect(),
            since: side.since,
            members,
        }
    }

    fn judge(&mut self, side: &Side) {
        let faults = [
            ("names", side.names.as_ref().map(History::fault)),
            ("file", side.file.as_ref().map(History::fault)),
            ("locks", side.locks.as_ref().map(History::fault)),
        ];
        for (thing, found) in faults {
            match found {
                Some(Ok(Some(what))) => self.violation(format!("{thing}: {what}")),
                Some(Err(Tangled)) => self.report.tangled += 1,
                Some(Ok(None)) | None => {}
            }
        }
    }

    /// The run is over.
    pub(super) fn judge_all_sides(&mut self) {
        let all = std::mem::take(&mut self.sides.all);
        all.iter().for_each(|side| self.judge(side));
    }

    fn side_of(&mut self, n: usize) -> Option<&mut Side> {
        self.sides.all.iter_mut().find(|side| side.members.contains(&n))
    }

    /// Something is about to be done on a machine: histories begin where they can.
    pub(super) fn begin_histories(&mut self, n: usize) {
        self.look_at_sides();
        self.end_long_histories(n);
        let now = self.queue.now();
        let Some(at) = self.sides.all.iter().position(|side| side.members.contains(&n)) else { return };
        let acquainted = self.company_since(n).is_some_and(|(_, since)| between(since, now) >= ACQUAINTED);
        if !acquainted {
            return;
        }
        let side = &self.sides.all[at];
        if side.names.is_none() && self.users.all_or_none(&self.machines, Thing::Names, &side.members) {
            let begin = History::new(self.names_at(n), now);
            self.sides.all[at].names = Some(begin);
        }
        let side = &self.sides.all[at];
        if side.file.is_none()
            && !self.users.has_unsaved(&side.members)
            && self.users.all_or_none(&self.machines, Thing::File, &side.members)
        {
            let begin = History::new(vec![self.content_at(n)], now);
            self.sides.all[at].file = Some(begin);
        }
        let side = &self.sides.all[at];
        if side.locks.is_none()
            && let Some(begin) = self.locks_among(&side.members)
        {
            let mut history = History::new(begin, now);
            let under_way = self.users.under_way(&history.begin, &side.members, now);
            history.records.extend(under_way);
            self.sides.all[at].locks = Some(history);
        }
    }

    /// Who holds a lock, where whoever keeps them and those who hold them say the same.
    fn locks_among(&self, members: &BTreeSet<usize>) -> Option<Holders> {
        let (first, file) = (members.first()?, self.users.furniture.file);
        let keeper = self.machines[*first].namespace.holder(file);
        let keeper = self.index(keeper).filter(|at| members.contains(at))?;
        let machine = &self.machines[keeper];
        let kept = machine.peer.as_ref()?.locks_kept(&machine.namespace, file)?;
        let kept: Holders =
            kept.iter().map(|lock| (lock.owner, lock.kind == crate::namespace::LockKind::Exclusive)).collect();
        self.users.agree(&kept, members, |n| self.machines[n].run).then_some(kept)
    }

    /// Notes that something was done, and by when that was answered; whether it will be judged.
    pub(super) fn note(&mut self, id: u64, by: usize, done: Done, called: Instant, returned: Option<Instant>) -> bool {
        let Some(side) = self.side_of(by) else { return false };
        match done {
            Done::Put(Thing::Names, step) => insert(&mut side.names, id, Record { by, step, called, returned }),
            Done::Put(Thing::File, step) => insert(&mut side.file, id, Record { by, step, called, returned }),
            Done::Locking(step) => {
                // A refusal may have been decided when it was asked for: by how things were before the beginning.
                if let Some(history) = side.locks.as_mut().filter(|history| step.is_look() && called < history.began) {
                    history.records.remove(&id);
                    return false;
                }
                insert(&mut side.locks, id, Record { by, step, called, returned })
            }
        }
    }

    /// Whether it is judged what is done to the locks on this machine.
    pub(super) fn is_judged_for_locks(&mut self, n: usize) -> bool {
        self.side_of(n).is_some_and(|side| side.locks.is_some())
    }

    /// A lock is about to be let go of under which a record was written, and when that was begun. What was written before
    /// this side met may have been merged with what others wrote meanwhile.
    pub(super) fn wrote_under_lock(&mut self, n: usize, wrote: Option<(u64, Instant)>) {
        let Some((id, at)) = wrote.filter(|(id, _)| self.users.written.contains(id)) else { return };
        if let Some(side) = self.side_of(n)
            && side.locks.as_ref().is_some_and(|history| history.began <= at)
        {
            side.under_lock.insert((id, n));
        }
    }

    /// Whoever gets a lock finds everything that was written under it before.
    pub(super) fn check_written_under_lock(&mut self, n: usize) {
        let there = self.records_at(n);
        let Some(side) = self.side_of(n).filter(|side| side.locks.is_some()) else { return };
        let missing = side.under_lock.iter().find(|(id, _)| !there.contains(id)).copied();
        if let Some((id, by)) = missing {
            let what = format!("m{n} got the lock and does not find record {id}, which m{by} had written under it");
            self.violation(what);
        }
    }

    /// What was done is answered now.
    pub(super) fn note_returned(&mut self, id: u64, by: usize) {
        let now = self.queue.now();
        let Some(side) = self.side_of(by) else { return };
        let puts = [&mut side.names, &mut side.file];
        for record in puts.into_iter().flatten().filter_map(|history| history.records.get_mut(&id)) {
            record.returned = Some(now);
        }
        if let Some(record) = side.locks.as_mut().and_then(|history| history.records.get_mut(&id)) {
            record.returned = Some(now);
        }
    }

    /// What is long enough is judged; it goes on with a fresh one.
    fn end_long_histories(&mut self, n: usize) {
        let Some(side) = self.side_of(n) else { return };
        let mut ended = Side::new(BTreeSet::new(), side.since);
        if side.names.as_ref().is_some_and(|history| history.records.len() >= LONG) {
            ended.names = side.names.take();
        }
        if side.file.as_ref().is_some_and(|history| history.records.len() >= LONG) {
            ended.file = side.file.take();
        }
        if side.locks.as_ref().is_some_and(|history| history.records.len() >= LONG) {
            ended.locks = side.locks.take();
            side.under_lock.clear();
        }
        self.judge(&ended);
    }
}

fn insert<S: Step>(history: &mut Option<History<S>>, id: u64, record: Record<S>) -> bool {
    let Some(history) = history else { return false };
    history.records.insert(id, record);
    true
}

#[cfg(test)]
mod tests {
    use super::super::Plan;
    use super::*;
    use crate::namespace::LockOwner;
    use crate::sim::chance::Chance;
    use std::time::Duration;

    fn plan() -> Plan {
        let forever = Duration::from_secs(1 << 30);
        Plan { machines: 3, fault_every: forever, loss: 0.0, ..Plan::new(&mut Chance::new(3)) }
    }

    /// A share that nothing befalls, after a while, with fresh histories.
    fn undisturbed(plan: &Plan) -> World<'_> {
        let mut world = World::new(3, plan);
        world.pass(Duration::from_secs(120));
        assert!(world.report.judged_acts > 30, "{:?}", world.report);
        world.storm = false;
        world.pass(Duration::from_secs(60));
        world.judge_all_sides();
        assert_eq!(world.report.violations, Vec::<String>::new());
        world.sides.changed = true;
        world.begin_histories(0);
        world
    }

    fn put(world: &mut World, by: usize, step: Put, answered: bool) {
        let (id, now) = (world.users.number(), world.queue.now());
        assert!(world.note(id, by, Done::Put(Thing::Names, step), now, answered.then_some(now)));
        world.pass(Duration::from_secs(1));
    }

    fn lock(world: &mut World, by: usize, step: Locking) {
        let (id, now) = (world.users.number(), world.queue.now());
        assert!(world.note(id, by, Done::Locking(step), now, Some(now)));
        world.pass(Duration::from_secs(1));
    }

    fn told(mut world: World, what: &str) -> bool {
        world.judge_all_sides();
        let told = world.report.violations.iter().any(|violation| violation.contains(what));
        assert_eq!(told, !world.report.violations.is_empty(), "{:?}", world.report.violations);
        told
    }

    #[test]
    fn two_that_made_one_name_are_told() {
        let plan = plan();
        let mut world = undisturbed(&plan);
        let before = world.names_at(0)[0];
        put(&mut world, 0, Put(vec![(0, before, 1000)]), true);
        put(&mut world, 1, Put(vec![(0, before, 1001)]), true);
        assert!(told(world, "names: no order explains m1"));
    }

    #[test]
    fn what_a_lost_machine_had_under_way_may_be_done_or_not_and_what_it_saw_does_not_count() {
        for done in [false, true] {
            let plan = plan();
            let mut world = undisturbed(&plan);
            let before = world.names_at(0)[0];
            put(&mut world, 0, Put(vec![(0, before, 1000)]), false);
            put(&mut world, 0, Put::look(0, 1000), true);
            put(&mut world, 0, Put::look(0, 2000), true);
            world.stop(0, false);
            world.look_at_sides();
            let found = if done { 1000 } else { before };
            put(&mut world, 1, Put(vec![(0, found, 1001)]), true);
            assert!(!told(world, "names"), "{done}");
        }
    }

    #[test]
    fn what_a_lost_machine_was_told_is_done_stays_done() {
        let plan = plan();
        let mut world = undisturbed(&plan);
        let before = world.names_at(0)[0];
        put(&mut world, 0, Put(vec![(0, before, 1000)]), true);
        world.stop(0, false);
        world.look_at_sides();
        put(&mut world, 1, Put::look(0, before), true);
        assert!(told(world, "names: no order explains m1"));
    }

    #[test]
    fn a_lock_is_held_by_one_until_its_machine_is_lost() {
        for lost in [false, true] {
            let plan = plan();
            let mut world = undisturbed(&plan);
            let owner = |world: &World, n: usize| LockOwner { peer: world.machines[n].tag, number: 99 };
            let (one, other) = (owner(&world, 0), owner(&world, 1));
            world.users.hold_for_test(0, one);
            lock(&mut world, 0, Locking::Take { owner: one, exclusive: true });
            if lost {
                world.stop(0, false);
                world.look_at_sides();
            }
            lock(&mut world, 1, Locking::Take { owner: other, exclusive: true });
            assert_eq!(told(world, "locks: no order explains m1"), !lost);
        }
    }
}
