//! File locks across machines: a file's locks are kept by the peer that holds its lease, and go with it.
//!
//! Whoever wants a lock asks that peer; the lease stays where it is. Before another machine gets a lock, what the holder
//! wrote and has not stored is stored, and who gets it waits until it has all of that. Every peer remembers which locks
//! its own processes have been given: when a holder dies it tells the heir (which gives none until the others have
//! told), and when a connection comes back it tells the peer at its end, so that both know the same. A lock that was
//! given to others meanwhile is lost, and its process is told.

use super::{Effect, Peer};
use crate::id::{Ino, PeerTag};
use crate::namespace::{Asked, Lock, LockError, LockOwner, LockRequest, LockTable, Namespace, VersionVector, WaiterId};
use crate::time::{Instant, Moment};
use crate::wire::{ControlMessage, LeaseMessage, LockMessage, LockOutcome, MAX_LOCKS};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How soon a request is made again that could not be dealt with.
const AGAIN: Duration = Duration::from_millis(25);

/// After which an unanswered request that does not wait for anybody is made again: it or its answer was lost.
const UNANSWERED: Duration = Duration::from_secs(2);

/// After which no answer comes any more to a request that was given up.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// How long an heir waits for the others to tell it which locks they hold.
const GRACE: Duration = Duration::from_secs(3);

/// A request of this machine.
struct Request {
    ino: Ino,
    request: LockRequest,
    /// Whom it was put to, and when.
    put_to: Option<(PeerTag, Instant)>,
    not_before: Instant,
    /// It was given by a peer that had all this.
    given: Option<VersionVector>,
}

/// Who a lock, or the place in a queue for one, is for.
type Applicant = (PeerTag, u64);

#[derive(Default)]
pub(super) struct Locks {
    /// The locks of the files whose leases are here.
    table: LockTable,
    waiters: BTreeMap<WaiterId, Applicant>,
    /// The locks that processes of this machine hold, wherever they are kept.
    own: LockTable,
    requests: BTreeMap<u64, Request>,
    /// Requests that were given up, and are not answered yet.
    withdrawn: BTreeMap<u64, Withdrawn>,
    /// What processes let go of, to be said to whoever keeps it.
    unlocks: Vec<Unlock>,
    /// Given to others as soon as what is unsaved of the file has been stored.
    storing: BTreeMap<Ino, Vec<Applicant>>,
    /// An heir's: until when it waits for whom.
    grace: Option<(Instant, BTreeSet<PeerTag>)>,
    /// A tenure ended, and nothing has followed from that yet.
    pub(super) inherited: bool,
    /// Leases that may have come without the files' locks, and until when those are waited for.
    bare: BTreeMap<Ino, Instant>,
}

/// A request for a lock that was given up, by whom it may have been given all the same, and since when.
struct Withdrawn {
    ino: Ino,
    lock: Lock,
    put_to: PeerTag,
    since: Instant,
}

/// A range of a file that an owner lets go of.
#[derive(Clone, Copy)]
struct Unlock {
    ino: Ino,
    owner: LockOwner,
    first: u64,
    last: u64,
    /// Whom it was said to, who has not answered yet.
    said_to: Option<PeerTag>,
    /// Who waits for it to be done.
    id: Option<u64>,
}

impl Peer {
    /// A process of this machine wants something of a file's locks; [`Effect::Locked`] answers.
    pub(super) fn want_lock(
        &mut self,
        namespace: &mut Namespace,
        id: u64,
        (ino, request): (Ino, LockRequest),
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let fresh = Request { ino, request, put_to: None, not_before: Instant::default(), given: None };
        self.locks.requests.insert(id, fresh);
        self.look_at_leases(namespace, now, effects);
    }

    /// The process does not want it any more.
    pub(super) fn forget_lock(&mut self, id: u64, now: Instant, effects: &mut Vec<Effect>) {
        let Some(request) = self.locks.requests.remove(&id) else { return };
        let Some((holder, _)) = request.put_to else { return };
        if holder == self.me {
            return self.withdraw((self.me, id));
        }
        effects.push(lock_message(holder, LockMessage::Withdraw { id }));
        if let LockRequest::Take { lock, .. } = request.request {
            self.locks.withdrawn.insert(id, Withdrawn { ino: request.ino, lock, put_to: holder, since: now });
        }
    }

    /// A process of this machine lets go of what it holds in a range.
    pub(super) fn unlock(
        &mut self,
        namespace: &mut Namespace,
        id: u64,
        (ino, owner): (Ino, u64),
        (first, last): (u64, u64),
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let owner = LockOwner { peer: self.me, number: owner };
        let holds = |lock: &Lock| lock.owner == owner && lock.first <= last && first <= lock.last;
        if !self.locks.own.held(ino).iter().any(holds) {
            // Every close of a file lets go of what its process may hold, which mostly is nothing.
            return effects.push(Effect::Provided(id));
        }
        self.locks.own.unlock(ino, owner, first, last);
        self.locks.unlocks.push(Unlock { ino, owner, first, last, said_to: None, id: Some(id) });
        self.look_at_leases(namespace, now, effects);
    }

    /// Says to whoever keeps them which locks were let go of.
    fn send_unlocks(&mut self, namespace: &Namespace, effects: &mut Vec<Effect>) {
        for mut unlock in std::mem::take(&mut self.locks.unlocks) {
            let Unlock { ino, owner, first, last, said_to, id } = unlock;
            let holder = namespace.holder(ino);
            if holder == self.me && !self.is_asked_for(ino) {
                self.release_range(namespace, ino, owner, (first, last), effects);
                effects.extend(id.map(Effect::Provided));
                continue;
            }
            if said_to.is_none() && self.links.get(&holder).is_some_and(|link| link.greeted) {
                effects.push(lock_message(holder, LockMessage::Unlock { ino, owner: owner.number, first, last }));
                unlock.said_to = Some(holder);
            }
            // A dead keeper's heir hears of the locks that are held, and not of this one.
            if holder == self.me || self.is_alive(holder) {
                self.locks.unlocks.push(unlock);
            } else {
                effects.extend(id.map(Effect::Provided));
            }
        }
    }

    /// An unlock was answered.
    fn unlock_answered(
        &mut self,
        from: PeerTag,
        (ino, owner): (Ino, u64),
        range: (u64, u64),
        done: bool,
        effects: &mut Vec<Effect>,
    ) {
        let said = |unlock: &Unlock| {
            let same = unlock.ino == ino && unlock.owner.number == owner && (unlock.first, unlock.last) == range;
            same && unlock.said_to == Some(from)
        };
        let Some(at) = self.locks.unlocks.iter().position(said) else { return };
        match done {
            true => effects.extend(self.locks.unlocks.remove(at).id.map(Effect::Provided)),
            false => self.locks.unlocks[at].said_to = None,
        }
    }

    fn release_range(
        &mut self,
        namespace: &Namespace,
        ino: Ino,
        owner: LockOwner,
        (first, last): (u64, u64),
        effects: &mut Vec<Effect>,
    ) {
        let granted = self.locks.table.unlock(ino, owner, first, last);
        self.give_to_waiters(namespace, ino, granted, effects);
    }

    fn give_to_waiters(&mut self, namespace: &Namespace, ino: Ino, granted: Vec<WaiterId>, effects: &mut Vec<Effect>) {
        for waiter in granted {
            if let Some(applicant) = self.locks.waiters.remove(&waiter) {
                self.give(namespace, ino, applicant, effects);
            }
        }
    }

    /// The table has the lock; its applicant is told, when what it protects is stored.
    fn give(&mut self, namespace: &Namespace, ino: Ino, applicant: Applicant, effects: &mut Vec<Effect>) {
        if applicant.0 == self.me {
            return self.lock_answered(namespace, applicant.1, self.me, LockOutcome::Done, None, effects);
        }
        let waiting = self.locks.storing.entry(ino).or_default();
        waiting.push(applicant);
        if waiting.len() == 1 {
            effects.push(Effect::Recall(ino));
        }
    }

    /// What was unsaved of a file is stored.
    pub(super) fn stored_for_locks(&mut self, namespace: &Namespace, ino: Ino, effects: &mut Vec<Effect>) {
        for (peer, id) in self.locks.storing.remove(&ino).unwrap_or_default() {
            let vector = namespace.vector().clone();
            effects.push(lock_message(peer, LockMessage::Outcome { id, outcome: LockOutcome::Done, vector }));
        }
    }

    /// Deals with a request for a lock that is kept here; `None`: it cannot be now.
    fn decide(
        &mut self,
        namespace: &Namespace,
        ino: Ino,
        request: LockRequest,
        applicant: Applicant,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Option<LockOutcome> {
        if self.in_grace(namespace, ino) || !self.is_in_touch(namespace, now) || !self.holds(namespace, ino) {
            return None;
        }
        match request {
            LockRequest::Test { lock } => {
                Some(self.locks.table.conflict(ino, &lock).map_or(LockOutcome::Done, LockOutcome::Held))
            }
            LockRequest::Take { lock, wait } => {
                // Asked again, its place in the queue is its old one.
                if self.locks.waiters.values().any(|waiting| *waiting == applicant) {
                    return Some(LockOutcome::Queued);
                }
                let taken = match wait {
                    true => self.locks.table.ask(ino, lock),
                    false => self.locks.table.take(ino, lock).map(|granted| (Asked::Granted, granted)),
                };
                match taken {
                    Ok((asked, granted)) => {
                        self.give_to_waiters(namespace, ino, granted, effects);
                        match asked {
                            Asked::Granted => {
                                self.give(namespace, ino, applicant, effects);
                                Some(LockOutcome::Queued)
                            }
                            Asked::Waiting(waiter) => {
                                self.locks.waiters.insert(waiter, applicant);
                                Some(LockOutcome::Queued)
                            }
                        }
                    }
                    Err(LockError::Held) => {
                        Some(self.locks.table.conflict(ino, &lock).map_or(LockOutcome::Again, LockOutcome::Held))
                    }
                    Err(LockError::Deadlock) => Some(LockOutcome::Deadlock),
                    Err(LockError::TooMany) => Some(LockOutcome::TooMany),
                }
            }
        }
    }

    /// The locks of a file, if this peer keeps them and knows of all.
    pub fn locks_kept(&self, namespace: &Namespace, ino: Ino) -> Option<&[Lock]> {
        (self.holds(namespace, ino) && !self.in_grace(namespace, ino)).then(|| self.locks.table.held(ino))
    }

    /// Whether locks of the file may be held that have not been told of.
    fn in_grace(&self, namespace: &Namespace, ino: Ino) -> bool {
        let locks = &self.locks;
        let inherited = (locks.grace.is_some() || locks.inherited) && namespace.is_inherited(ino);
        inherited || locks.bare.contains_key(&ino)
    }

    fn withdraw(&mut self, applicant: Applicant) {
        let waiting: Vec<WaiterId> =
            self.locks.waiters.iter().filter(|(_, waiting)| **waiting == applicant).map(|(id, _)| *id).collect();
        for waiter in waiting {
            self.locks.waiters.remove(&waiter);
            self.locks.table.cancel(waiter);
        }
    }

    /// What came of a request of this machine.
    fn lock_answered(
        &mut self,
        namespace: &Namespace,
        id: u64,
        from: PeerTag,
        outcome: LockOutcome,
        vector: Option<VersionVector>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(Withdrawn { ino, lock, .. }) = self.locks.withdrawn.remove(&id)
            && outcome == LockOutcome::Done
        {
            let (owner, first, last) = (lock.owner, lock.first, lock.last);
            self.locks.unlocks.push(Unlock { ino, owner, first, last, said_to: None, id: None });
            return self.send_unlocks(namespace, effects);
        }
        let Some(request) = self.locks.requests.get_mut(&id) else { return };
        if request.put_to.is_none_or(|(to, _)| to != from) {
            return;
        }
        let behind = vector.filter(|vector| !namespace.vector().covers(vector));
        match (outcome, behind) {
            (LockOutcome::Again, _) => request.put_to = None,
            (LockOutcome::Queued, _) => {}
            (LockOutcome::Done, Some(vector)) => {
                request.given = Some(vector);
                let vector = namespace.vector().clone();
                let message = LeaseMessage::Lack { vector };
                effects.push(Effect::SendControl { to: from, message: ControlMessage::Lease(message) });
            }
            (outcome, _) => self.lock_settled(id, outcome, effects),
        }
    }

    fn lock_settled(&mut self, id: u64, outcome: LockOutcome, effects: &mut Vec<Effect>) {
        let Some(request) = self.locks.requests.remove(&id) else { return };
        if let (LockOutcome::Done, LockRequest::Take { lock, .. }) = (&outcome, request.request) {
            // Where it was lost meanwhile, what the others hold is not for this table to know.
            let _ = self.locks.own.take(request.ino, lock);
        }
        effects.push(Effect::Locked { id, outcome });
    }

    /// Goes on with what waits.
    pub(super) fn look_at_locks(&mut self, namespace: &Namespace, now: Moment, effects: &mut Vec<Effect>) {
        if std::mem::take(&mut self.locks.inherited) {
            self.leases_were_inherited(namespace, now.steady, effects);
        }
        self.send_unlocks(namespace, effects);
        let came: Vec<Ino> =
            self.locks.bare.iter().filter(|(_, until)| **until <= now.steady).map(|(ino, _)| *ino).collect();
        for ino in came {
            self.locks.bare.remove(&ino);
            if namespace.holder(ino) == self.me {
                // What was told may have been let go of since, at whoever kept it then.
                self.say_what_is_kept(ino, effects);
            } else {
                self.take_out_locks(ino, effects);
            }
        }
        self.locks.withdrawn.retain(|_, withdrawn| withdrawn.since.after(FORGOTTEN) > now.steady);
        if self.locks.grace.as_ref().is_some_and(|(until, of)| *until <= now.steady || of.is_empty()) {
            self.locks.grace = None;
            let kept: Vec<Ino> = self.locks.table.files().filter(|ino| namespace.is_inherited(*ino)).collect();
            kept.into_iter().for_each(|ino| self.say_what_is_kept(ino, effects));
        }
        let in_touch = self.is_in_touch(namespace, now.steady);
        let ids: Vec<u64> = self.locks.requests.keys().copied().collect();
        for id in ids {
            let Some(request) = self.locks.requests.get(&id) else { continue };
            if let Some(vector) = &request.given {
                if namespace.vector().covers(vector) {
                    self.lock_settled(id, LockOutcome::Done, effects);
                }
                continue;
            }
            let (ino, what, holder) = (request.ino, request.request, namespace.holder(request.ino));
            let wants_again = match request.put_to {
                // One that waits for its turn is asked about, too: who keeps the queue may have forgotten it.
                Some((to, at)) => to != holder || (holder != self.me && at.after(UNANSWERED) <= now.steady),
                None => request.not_before <= now.steady,
            };
            // What its process let go of before must not come after.
            let (LockRequest::Test { lock } | LockRequest::Take { lock, .. }) = what;
            let releasing = self.is_releasing(ino, lock.owner);
            if !in_touch || !wants_again || releasing {
                continue;
            }
            let put_to = if holder == self.me || self.links.get(&holder).is_some_and(|link| link.greeted) {
                Some((holder, now.steady))
            } else {
                None
            };
            if let Some(request) = self.locks.requests.get_mut(&id) {
                request.put_to = put_to;
            }
            if holder == self.me {
                match self.decide(namespace, ino, what, (self.me, id), now.steady, effects) {
                    Some(LockOutcome::Queued) => {}
                    Some(outcome) => self.lock_settled(id, outcome, effects),
                    None => self.try_lock_later(id, now.steady),
                }
            } else if self.is_gone(namespace, holder, now.steady) {
                self.heirs.wanted.insert(holder);
            } else if put_to.is_some() {
                effects.push(lock_message(holder, LockMessage::Request { id, ino, request: what }));
            }
        }
    }

    /// Whether an owner is about to let go of something in a file.
    fn is_releasing(&self, ino: Ino, owner: LockOwner) -> bool {
        let Locks { unlocks, withdrawn, .. } = &self.locks;
        unlocks.iter().any(|unlock| unlock.ino == ino && unlock.owner == owner)
            || withdrawn.values().any(|withdrawn| withdrawn.ino == ino && withdrawn.lock.owner == owner)
    }

    fn try_lock_later(&mut self, id: u64, now: Instant) {
        if let Some(request) = self.locks.requests.get_mut(&id) {
            request.put_to = None;
            request.not_before = now.after(AGAIN);
        }
    }

    pub(super) fn waits_for_locks(&self) -> bool {
        let locks = &self.locks;
        !(locks.requests.is_empty() && locks.unlocks.is_empty())
            || locks.grace.is_some()
            || locks.inherited
            || !locks.bare.is_empty()
    }

    /// A connected peer says something of locks.
    pub(super) fn lock(
        &mut self,
        namespace: &mut Namespace,
        from: PeerTag,
        message: LockMessage,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        match message {
            LockMessage::Request { id, ino, request } => {
                // Nobody takes locks in another's name.
                let request = request.of(from);
                let outcome = match self.decide(namespace, ino, request, (from, id), now.steady, effects) {
                    Some(LockOutcome::Queued) => return,
                    Some(outcome) => outcome,
                    None => LockOutcome::Again,
                };
                let vector = namespace.vector().clone();
                effects.push(lock_message(from, LockMessage::Outcome { id, outcome, vector }));
            }
            LockMessage::Outcome { id, outcome, vector } => {
                let asked_there =
                    self.locks.requests.get(&id).is_some_and(|r| r.put_to.is_some_and(|(to, _)| to == from));
                let again = asked_there && outcome == LockOutcome::Again;
                self.lock_answered(namespace, id, from, outcome, Some(vector), effects);
                if again {
                    self.try_lock_later(id, now.steady);
                }
                self.look_at_leases(namespace, now, effects);
            }
            LockMessage::Unlock { ino, owner, first, last } => {
                if namespace.holder(ino) != self.me || self.is_asked_for(ino) {
                    return effects.push(lock_message(from, LockMessage::Elsewhere { ino, owner, first, last }));
                }
                let number = owner;
                let owner = LockOwner { peer: from, number };
                self.release_range(namespace, ino, owner, (first, last), effects);
                effects.push(lock_message(from, LockMessage::Unlocked { ino, owner: number, first, last }));
            }
            LockMessage::Elsewhere { ino, owner, first, last } => {
                self.unlock_answered(from, (ino, owner), (first, last), false, effects);
                self.look_at_leases(namespace, now, effects);
            }
            LockMessage::Unlocked { ino, owner, first, last } => {
                self.unlock_answered(from, (ino, owner), (first, last), true, effects);
                self.look_at_leases(namespace, now, effects);
            }
            LockMessage::Withdraw { id } => {
                self.withdraw((from, id));
                // One that is being given is answered by that.
                if !self.locks.storing.values().flatten().any(|applicant| *applicant == (from, id)) {
                    let (outcome, vector) = (LockOutcome::Again, VersionVector::default());
                    effects.push(lock_message(from, LockMessage::Outcome { id, outcome, vector }));
                }
            }
            LockMessage::Holds { locks, all } => self.told_of_locks(namespace, from, (locks, all), effects),
            LockMessage::Keeps { ino, locks } => {
                let own = |lock: Lock| Lock { owner: LockOwner { peer: self.me, ..lock.owner }, ..lock };
                self.told_of_keeper(ino, locks.into_iter().map(own).collect());
                self.look_at_leases(namespace, now, effects);
            }
            LockMessage::Tell => effects.push(self.tell_locks(from, false)),
            LockMessage::Lost { ino, owner } => {
                self.locks.own.release(ino, LockOwner { peer: self.me, number: owner });
                effects.push(Effect::LockLost { ino });
            }
        }
    }

    /// A peer says which locks its processes hold that are kept here; with `all`, the others it does not.
    fn told_of_locks(
        &mut self,
        namespace: &Namespace,
        from: PeerTag,
        (locks, all): (Vec<(Ino, Lock)>, bool),
        effects: &mut Vec<Effect>,
    ) {
        let said: Vec<(Ino, Lock)> = locks
            .into_iter()
            .map(|(ino, lock)| (ino, Lock { owner: LockOwner { peer: from, ..lock.owner }, ..lock }))
            .collect();
        let files: Vec<Ino> = if all { self.locks.table.files().collect() } else { Vec::new() };
        for ino in files {
            let held: Vec<Lock> = self.locks.table.held(ino).iter().filter(|l| l.owner.peer == from).copied().collect();
            for lock in held {
                let still = |(at, said): &(Ino, Lock)| *at == ino && said.owner == lock.owner;
                if !said.iter().any(still) {
                    self.release_range(namespace, ino, lock.owner, (0, u64::MAX), effects);
                }
            }
        }
        for (ino, lock) in said {
            let here = namespace.holder(ino) == self.me && !self.is_asked_for(ino);
            let known = self.locks.table.held(ino).iter().any(|held| held.owner == lock.owner);
            // Of a file that is kept elsewhere nothing is to be left here: its keeper may be followed by this peer.
            let mine = namespace.holder(ino) == self.me || self.locks.bare.contains_key(&ino);
            let stands = known || (mine && self.in_grace(namespace, ino) && self.locks.table.restore(ino, lock));
            if here && !stands {
                effects.push(lock_message(from, LockMessage::Lost { ino, owner: lock.owner.number }));
            }
        }
        if let Some((_, waited_for)) = &mut self.locks.grace {
            waited_for.remove(&from);
        }
    }

    /// Tells a peer which locks of this machine's processes it keeps, or should know of: every one, since it may have
    /// become a file's keeper by news that has not arrived here, and waits for nothing but this.
    pub(super) fn tell_locks(&self, to: PeerTag, all: bool) -> Effect {
        let locks =
            self.locks.own.files().flat_map(|ino| self.locks.own.held(ino).iter().map(move |lock| (ino, *lock)));
        lock_message(to, LockMessage::Holds { locks: locks.take(MAX_LOCKS).collect(), all })
    }

    /// A tenure ended: this peer, where it is the heir, waits to hear of the locks; the others tell theirs.
    pub(super) fn leases_were_inherited(&mut self, namespace: &Namespace, now: Instant, effects: &mut Vec<Effect>) {
        let others = self.required(namespace);
        let own: Vec<(Ino, Lock)> = self
            .locks
            .own
            .files()
            .filter(|ino| namespace.holder(*ino) == self.me)
            .flat_map(|ino| self.locks.own.held(ino).iter().map(move |lock| (ino, *lock)))
            .collect();
        for (ino, lock) in own {
            self.locks.table.restore(ino, lock);
        }
        // What is kept elsewhere now is not this peer's to give.
        let gone: Vec<Ino> = self.locks.table.files().filter(|ino| namespace.holder(*ino) != self.me).collect();
        for ino in gone {
            self.take_out_locks(ino, effects);
        }
        for peer in &others {
            effects.push(self.tell_locks(*peer, false));
        }
        self.locks.grace = Some((now.after(GRACE), others));
    }

    /// A file's locks, to go with its lease; who waited asks anew.
    pub(super) fn take_out_locks(&mut self, ino: Ino, effects: &mut Vec<Effect>) -> Vec<Lock> {
        let (held, waiting) = self.locks.table.take_out(ino);
        for waiter in waiting {
            match self.locks.waiters.remove(&waiter) {
                Some((peer, id)) if peer == self.me => {
                    if let Some(request) = self.locks.requests.get_mut(&id) {
                        request.put_to = None;
                    }
                }
                Some((peer, id)) => {
                    let (outcome, vector) = (LockOutcome::Again, VersionVector::default());
                    effects.push(lock_message(peer, LockMessage::Outcome { id, outcome, vector }));
                }
                None => {}
            }
        }
        held
    }

    /// A file's locks came with its lease. Their owners are told who keeps them now: what one let go of, or forgot when it
    /// started anew, while they were on their way, it says again.
    pub(super) fn put_in_locks(&mut self, ino: Ino, locks: Vec<Lock>, effects: &mut Vec<Effect>) {
        // What comes is how it is, whatever is left here from an earlier time.
        self.take_out_locks(ino, effects);
        let lost: BTreeSet<LockOwner> = self.locks.own.held(ino).iter().map(|lock| lock.owner).collect();
        for owner in lost.into_iter().filter(|owner| !locks.iter().any(|lock| lock.owner == *owner)) {
            self.locks.own.release(ino, owner);
            effects.push(Effect::LockLost { ino });
        }
        for lock in locks {
            self.locks.table.restore(ino, lock);
        }
        self.say_what_is_kept(ino, effects);
    }

    /// Tells the owners of a file's locks which of theirs are kept here.
    fn say_what_is_kept(&mut self, ino: Ino, effects: &mut Vec<Effect>) {
        let mut of: BTreeMap<PeerTag, Vec<Lock>> = BTreeMap::new();
        for lock in self.locks.table.held(ino) {
            of.entry(lock.owner.peer).or_default().push(*lock);
        }
        for (peer, mut locks) in of {
            locks.truncate(MAX_LOCKS);
            if peer == self.me {
                self.told_of_keeper(ino, locks);
            } else {
                effects.push(lock_message(peer, LockMessage::Keeps { ino, locks }));
            }
        }
    }

    /// Somebody keeps these locks for this machine: those that no process holds or is about to be given are let go of.
    fn told_of_keeper(&mut self, ino: Ino, locks: Vec<Lock>) {
        for Lock { owner, first, last, .. } in locks {
            let wanted = |request: &Request| matches!(request.request, LockRequest::Take { lock, .. } if request.ino == ino && lock.owner == owner);
            let held = self.locks.own.held(ino).iter().any(|lock| lock.owner == owner);
            if !held && !self.locks.requests.values().any(wanted) && !self.is_releasing(ino, owner) {
                self.locks.unlocks.push(Unlock { ino, owner, first, last, said_to: None, id: None });
            }
        }
    }

    /// The answer to a question for these leases may have been lost: should they be here, their locks are not.
    pub(super) fn leases_came_bare(&mut self, inos: Vec<Ino>, now: Instant, effects: &mut Vec<Effect>) {
        for ino in &inos {
            for lock in self.locks.own.held(*ino).to_vec() {
                self.locks.table.restore(*ino, lock);
            }
        }
        if !inos.is_empty() {
            self.locks.bare.extend(inos.into_iter().map(|ino| (ino, now.after(GRACE))));
            effects.extend(self.links.keys().map(|peer| lock_message(*peer, LockMessage::Tell)));
        }
    }

    /// Whether a file's locks can go with its lease: all are known, none is just being given, and they fit a message.
    pub(super) fn locks_may_go(&self, namespace: &Namespace, ino: Ino) -> bool {
        !self.in_grace(namespace, ino)
            && !self.locks.storing.contains_key(&ino)
            && self.locks.table.held(ino).len() <= MAX_LOCKS
    }

    /// Frees the locks of machines that are dead and know it, or would find out before they acted on them.
    pub(super) fn free_locks_of_the_dead(&mut self, namespace: &Namespace, now: Instant, effects: &mut Vec<Effect>) {
        let files: Vec<Ino> = self.locks.table.files().collect();
        for ino in files {
            let owners: BTreeSet<LockOwner> = self.locks.table.held(ino).iter().map(|lock| lock.owner).collect();
            for owner in owners {
                if self.is_gone(namespace, owner.peer, now) && !self.touch.owes(owner.peer, now) {
                    self.release_range(namespace, ino, owner, (0, u64::MAX), effects);
                }
            }
        }
        let dead: Vec<Applicant> =
            self.locks.waiters.values().copied().filter(|(peer, _)| !self.is_alive(*peer)).collect();
        dead.into_iter().for_each(|applicant| self.withdraw(applicant));
    }

    /// A connection is gone: what was asked over it is asked anew, and who waited asks anew.
    pub(super) fn forget_lock_requests(&mut self, peer: PeerTag) {
        for request in self.locks.requests.values_mut() {
            if request.put_to.is_some_and(|(to, _)| to == peer) {
                request.put_to = None;
            }
        }
        // What it was about to be given it asks for again, if it still wants it. After a restart it numbers its requests
        // anew, and must not take this for the answer to another one.
        for applicants in self.locks.storing.values_mut() {
            applicants.retain(|(by, _)| *by != peer);
        }
        // That it holds none of these it is told when it is connected again.
        self.locks.withdrawn.retain(|_, withdrawn| withdrawn.put_to != peer);
        self.locks.unlocks.iter_mut().filter(|unlock| unlock.said_to == Some(peer)).for_each(|u| u.said_to = None);
        let waited: Vec<Applicant> = self.locks.waiters.values().copied().filter(|(by, _)| *by == peer).collect();
        waited.into_iter().for_each(|applicant| self.withdraw(applicant));
    }
}

fn lock_message(to: PeerTag, message: LockMessage) -> Effect {
    Effect::SendControl { to, message: ControlMessage::Lock(message) }
}
