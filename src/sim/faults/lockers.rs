//! Users take locks of the file they share, try for them or wait for them, hold them for a moment and let go of them; some
//! have enough of waiting. On each machine it is one at a time; who gave up asks as somebody else the next time.

use super::acts::{Holders, Locking};
use super::order::Record;
use super::sides::Done;
use super::users::{Users, Wish};
use super::world::{What, World};
use crate::namespace::{Lock, LockKind, LockOwner, LockRequest};
use crate::peer::Event;
use crate::sim::queue::later;
use crate::time::Instant;
use crate::wire::LockOutcome;
use std::collections::BTreeSet;
use std::time::Duration;

/// The longest that a lock is held, mostly...
const HELD: Duration = Duration::from_millis(200);

/// ...and now and then: over what befalls others, and whoever keeps the lock.
const HELD_LONG: Duration = Duration::from_secs(15);

/// The longest that somebody waits who has not all day.
const WAITING: Duration = Duration::from_secs(5);

/// What is not answered after so long is given up.
const DEADLINE: Duration = Duration::from_secs(20);

/// For so long something may still come of a request that was given up.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// Sets those who never learned that they had a lock apart from those who use it.
const IN_VAIN: u64 = 1 << 63;

/// Who takes locks on one machine.
pub(super) struct Locker {
    run: u64,
    owner: LockOwner,
    phase: Phase,
    /// What is written under the lock that is held, and since when.
    writes: Option<(u64, Instant)>,
    /// Requests that were given up, and when.
    given_up: Vec<(LockOwner, bool, Instant)>,
}

#[derive(Clone, Copy)]
enum Phase {
    Idle,
    Asking { id: u64, exclusive: bool, called: Instant },
    Holding { exclusive: bool },
    Freeing { id: u64, called: Instant },
}

impl Locker {
    fn is_busy(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }

    /// From now on somebody else.
    fn next(&mut self) {
        self.owner.number += 1;
        self.phase = Phase::Idle;
    }
}

impl Users {
    /// As if somebody held a lock.
    #[cfg(test)]
    pub fn hold_for_test(&mut self, n: usize, owner: LockOwner) {
        let phase = Phase::Holding { exclusive: true };
        let locker = Locker { run: 1, owner, phase, writes: None, given_up: Vec::new() };
        self.lockers.insert(n, locker);
    }

    /// Who of a machine may hold a lock, or be about to.
    pub fn owner(&self, n: usize) -> Option<LockOwner> {
        self.lockers.get(&n).filter(|locker| locker.is_busy()).map(|locker| locker.owner)
    }

    /// Whether those who believe that they hold locks are those for whom they are kept.
    pub fn agree(&self, kept: &Holders, members: &BTreeSet<usize>, run: impl Fn(usize) -> u64) -> bool {
        let lockers = members.iter().filter_map(|n| self.lockers.get(n).filter(|locker| locker.run == run(*n)));
        let busy: Vec<&Locker> = lockers.filter(|locker| locker.is_busy()).collect();
        let knows = |locker: &&Locker| !matches!(locker.phase, Phase::Asking { .. });
        kept.keys().all(|owner| busy.iter().filter(|locker| knows(locker)).any(|locker| locker.owner == *owner))
            && busy.iter().all(|locker| match locker.phase {
                Phase::Holding { exclusive } => kept.get(&locker.owner) == Some(&exclusive),
                _ => true,
            })
    }

    /// What these machines want of the locks, which are kept so, and have had no answer to.
    pub fn under_way(
        &mut self,
        kept: &Holders,
        members: &BTreeSet<usize>,
        now: Instant,
    ) -> Vec<(u64, Record<Locking>)> {
        let mut found = Vec::new();
        let given_up = self.lockers.values().map(|locker| locker.given_up.len() as u64).sum::<u64>();
        let mut numbers = self.take_numbers(2 * given_up);
        for (by, locker) in self.lockers.iter().filter(|(by, _)| members.contains(by)) {
            let (by, owner) = (*by, locker.owner);
            let record = |step, called| Record { by, step, called, returned: None };
            match locker.phase {
                Phase::Asking { id, exclusive, called } => {
                    found.push((id, record(Locking::Take { owner, exclusive }, called)));
                }
                Phase::Freeing { id, called } if kept.contains_key(&owner) => {
                    found.push((id, record(Locking::Free { owner }, called)));
                }
                // It is free, though that is not answered yet.
                Phase::Freeing { .. } | Phase::Idle | Phase::Holding { .. } => {}
            }
            for (owner, exclusive, _) in locker.given_up.iter().copied().filter(|(.., at)| later(*at, FORGOTTEN) > now)
            {
                let steps = [Locking::Take { owner, exclusive }, Locking::Free { owner }];
                let steps = steps.into_iter().map(|step| record(step, Instant::default()));
                found.extend(numbers.by_ref().zip(steps));
            }
        }
        found
    }
}

impl World<'_> {
    /// Somebody wants the lock, if nobody on this machine does.
    pub(super) fn want_lock(&mut self, n: usize, exclusive: bool, wait: bool) {
        let (now, file, run) = (self.queue.now(), self.users.furniture.file, self.machines[n].run);
        let owner = LockOwner { peer: self.machines[n].tag, number: 1 };
        let id = self.users.number();
        let fresh = Locker { run, owner, phase: Phase::Idle, writes: None, given_up: Vec::new() };
        let locker = self.users.lockers.entry(n).or_insert(fresh);
        if locker.run != run {
            locker.next();
            (locker.run, locker.given_up) = (run, Vec::new());
        }
        if locker.is_busy() {
            return;
        }
        locker.phase = Phase::Asking { id, exclusive, called: now };
        let owner = locker.owner;
        self.report.acts += 1;
        let judged = self.note(id, n, Done::Locking(Locking::Take { owner, exclusive }), now, None);
        self.report.judged_acts += u32::from(judged);
        let patience = if wait && self.users.calm.is_none() { self.users.chance.up_to(WAITING) } else { DEADLINE };
        self.queue.after(patience, What::EnoughOfLock(n, id));
        let kind = if exclusive { LockKind::Exclusive } else { LockKind::Shared };
        let lock = Lock { owner, kind, first: 0, last: u64::MAX, pid: 1 };
        self.handle(n, Event::Lock { id, ino: file, request: LockRequest::Take { lock, wait } });
    }

    /// The connection over which somebody may have asked is gone. What was given over it nobody learned of, and whoever
    /// keeps it finds out: for a while it was in others' way.
    pub(super) fn may_have_asked_in_vain(&mut self, n: usize) {
        let run = self.machines[n].run;
        let Some(locker) = self.users.lockers.get(&n).filter(|locker| locker.run == run) else { return };
        let Phase::Asking { id, exclusive, called } = locker.phase else { return };
        let owner = LockOwner { number: IN_VAIN | id, ..locker.owner };
        for step in [Locking::Take { owner, exclusive }, Locking::Free { owner }] {
            let number = self.users.number();
            self.note(number, n, Done::Locking(step), called, None);
        }
    }

    /// What came of it.
    pub(super) fn locked(&mut self, n: usize, id: u64, outcome: LockOutcome) {
        let now = self.queue.now();
        let Some(locker) = self.users.lockers.get_mut(&n) else { return };
        let (owner, run) = (locker.owner, locker.run);
        let Phase::Asking { id: asked, exclusive, called } = locker.phase else { return };
        if asked != id || self.machines[n].run != run {
            return;
        }
        match outcome {
            LockOutcome::Done => {
                locker.phase = Phase::Holding { exclusive };
                self.note_returned(id, n);
                let long = self.users.calm.is_none() && self.users.chance.happens(0.1);
                let after = self.users.chance.up_to(if long { HELD_LONG } else { HELD });
                self.queue.after(after, What::Unlock(n, owner));
                self.check_written_under_lock(n);
                let writes = exclusive && self.users.chance.happens(0.5);
                let writes = writes.then(|| (self.do_now(n, Wish::Append), now));
                if let Some(locker) = self.users.lockers.get_mut(&n) {
                    locker.writes = writes;
                }
            }
            LockOutcome::Held(_) => {
                locker.phase = Phase::Idle;
                self.note(id, n, Done::Locking(Locking::Refused { owner, exclusive }), called, Some(now));
            }
            outcome => {
                locker.next();
                self.violation(format!("{} asked for a lock and was told {outcome:?}", owner.peer));
            }
        }
    }

    /// Somebody lets go of the lock.
    pub(super) fn unlock(&mut self, n: usize, owner: LockOwner) {
        let (now, id, file) = (self.queue.now(), self.users.number(), self.users.furniture.file);
        let run = self.machines[n].run;
        let Some(locker) = self.users.lockers.get_mut(&n) else { return };
        let holds = matches!(locker.phase, Phase::Holding { .. }) && locker.owner == owner && locker.run == run;
        if !holds || !self.machines[n].is_up() {
            return;
        }
        locker.phase = Phase::Freeing { id, called: now };
        let wrote = locker.writes.take();
        self.wrote_under_lock(n, wrote);
        self.note(id, n, Done::Locking(Locking::Free { owner }), now, None);
        self.queue.after(DEADLINE, What::EnoughOfLock(n, id));
        self.handle(n, Event::Unlock { id, ino: file, owner: owner.number, first: 0, last: u64::MAX });
    }

    /// Whether this is the answer to somebody who lets go.
    pub(super) fn is_unlocked(&mut self, n: usize, id: u64) -> bool {
        let Some(locker) = self.users.lockers.get_mut(&n) else { return false };
        let freed = matches!(locker.phase, Phase::Freeing { id: freeing, .. } if freeing == id);
        if freed {
            locker.phase = Phase::Idle;
            self.note_returned(id, n);
        }
        freed
    }

    /// Somebody has waited long enough.
    pub(super) fn enough_of_lock(&mut self, n: usize, id: u64) {
        let (now, run, calm) = (self.queue.now(), self.machines[n].run, self.users.calm.is_some());
        let ready = self.is_ready(n);
        let Some(locker) = self.users.lockers.get_mut(&n).filter(|locker| locker.run == run) else { return };
        let owner = locker.owner;
        match locker.phase {
            Phase::Asking { id: asked, exclusive, .. } if asked == id => {
                locker.given_up.retain(|(.., at)| later(*at, FORGOTTEN) > now);
                locker.given_up.push((owner, exclusive, now));
                locker.next();
                let free = self.users.number();
                self.note(free, n, Done::Locking(Locking::Free { owner }), now, None);
                self.handle(n, Event::ForgetLock { id });
            }
            Phase::Freeing { id: freeing, .. } if freeing == id => locker.next(),
            _ => return,
        }
        if calm && ready {
            self.violation(format!("{} waits for the lock of the file in the calm", owner.peer));
        }
    }

    /// A lock was given to others.
    pub(super) fn lock_lost(&mut self, n: usize) {
        let run = self.machines[n].run;
        let Some(locker) = self.users.lockers.get_mut(&n).filter(|locker| locker.run == run) else { return };
        if matches!(locker.phase, Phase::Holding { .. }) {
            let owner = locker.owner;
            locker.next();
            if self.is_judged_for_locks(n) {
                self.violation(format!("{} lost its lock, although nobody was away", owner.peer));
            }
        }
    }

    /// Somebody who is still to be given a lock.
    pub(super) fn lock_in_want(&self) -> Option<String> {
        let waits = |(n, locker): &(&usize, &Locker)| {
            locker.is_busy() && locker.run == self.machines[**n].run && self.is_ready(**n)
        };
        let (_, locker) = self.users.lockers.iter().find(waits)?;
        Some(format!("{} has still to do with the lock of the file", locker.owner.peer))
    }
}
