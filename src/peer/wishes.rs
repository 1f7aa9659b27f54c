//! Wishes: what a peer has done to names by the peer that holds their leases.
//!
//! A lease that two peers use all the time would go to and fro between them, and each would mostly wait. So whoever
//! needs leases for something done to names tells their holder what it is (`LeaseMessage::Name`). A holder that is busy
//! under the lease itself, or for a third one, does it then and there, as an op that names the wisher and the wish
//! ([`Change::For`]), and answers when every connected peer has the op; one that is not gives the lease away, as ever.
//!
//! **Once and no more.** A wish is told to one holder, once. If that one is gone before it has answered, or says that it
//! did not do it, the wisher gets the leases: with these comes every op that was made under them, and if the wish is
//! among those it has been done. As soon as the wisher has that op, it takes the holder's place, and calls it done when
//! all the others have it.

use super::exchange::raise;
use super::settling::FOUNDED;
use super::{Effect, Peer};
use crate::id::{Author, Ino, PeerTag};
use crate::namespace::{Change, Decided, Errno, Namespace, Naming, Op, VersionVector, Wished};
use crate::time::{Instant, Moment};
use crate::wire::{LeaseMessage, Named};
use std::collections::BTreeMap;
use std::time::Duration;

/// A lease that was used less long ago by somebody else than who asks for it stays where it is.
const BUSY: Duration = Duration::from_millis(250);

/// A wish that is not known to be done by then is taken for not heard: its wisher asks for the leases.
const UNHEARD: Duration = Duration::from_secs(3);

/// The most answers that wait until every connected peer has what was done.
const MAX_OWED: usize = 1 << 16;

/// Where a wish stands.
#[derive(Debug, Default)]
struct Wish {
    state: State,
    /// It was done, by an op that is here.
    done: Option<Done>,
}

/// The op by which a wish was done, and what lost a name by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    by: Author,
    seq: u64,
    gone: Option<Ino>,
}

#[derive(Debug, Default)]
enum State {
    /// Nobody was told.
    #[default]
    New,
    /// The holder of this lease was, then.
    Told { of: PeerTag, ino: Ino, at: Instant },
    /// Nobody is going to do it, or nobody will say so: the leases will tell.
    Alone,
    /// It was answered by a peer that had all this.
    Answered(Result<Option<Ino>, Errno>, VersionVector),
}

/// Something done for another peer, which is told when every connected peer has it.
#[derive(Debug)]
struct Owed {
    to: PeerTag,
    wish: u64,
    seq: u64,
    gone: Option<Ino>,
}

/// Something that was done for a need here by a holder that does not say so any more. It is told when every connected
/// peer has it; and then, for a while, when all of them and this one have what any of them had by then, for what it is
/// built on is among that.
#[derive(Debug)]
struct Found {
    id: u64,
    done: Done,
    with: Option<(VersionVector, Instant)>,
}

#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// This peer's own, by their numbers, which chance drew.
    own: BTreeMap<u64, Wish>,
    owed: Vec<Owed>,
    found: Vec<Found>,
    /// Who used which directory's lease here of late, and when last.
    users: BTreeMap<Ino, BTreeMap<PeerTag, Instant>>,
    /// The last ops that others made for this peer.
    done_by: VersionVector,
}

/// What is to be done next about a wish.
pub(super) enum Next {
    /// Nothing: somebody is at it.
    Wait,
    /// Tell the holder of this lease.
    Tell,
    /// Get the leases as any other need does.
    Ask,
    /// It was done, and its holder does not say so: see to it that everybody has it.
    Found(Done),
    /// It is over.
    Over(Result<Option<Ino>, Errno>),
}

impl Wishes {
    pub fn begin(&mut self, id: u64) {
        self.own.insert(id, Wish::default());
    }

    pub fn forget(&mut self, id: u64) {
        self.own.remove(&id);
    }

    /// What was needed is not any more.
    pub fn forget_found(&mut self, id: u64) {
        self.found.retain(|found| found.id != id);
    }

    /// The lease of a directory was used, by a process here or for another peer.
    pub fn used(&mut self, ino: Ino, by: PeerTag, now: Instant) {
        self.users.entry(ino).or_default().insert(by, now);
    }

    /// Forgets uses that are long past.
    pub fn tick(&mut self, now: Instant) {
        self.users.retain(|_, users| {
            users.retain(|_, used| used.after(BUSY) > now);
            !users.is_empty()
        });
    }

    fn is_busy(&self, ino: Ino, but_for: PeerTag, now: Instant) -> bool {
        let by_others = |(user, used): (&PeerTag, &Instant)| *user != but_for && used.after(BUSY) > now;
        self.users.get(&ino).is_some_and(|users| users.iter().any(by_others))
    }

    /// Where a wish stands whose leases are `here`, or elsewhere.
    pub fn next(&mut self, id: u64, here: bool, vector: &VersionVector, now: Instant) -> Next {
        let Some(wish) = self.own.get_mut(&id) else { return Next::Ask };
        match &wish.state {
            State::Answered(outcome, theirs) => {
                return if vector.covers(theirs) { Next::Over(*outcome) } else { Next::Wait };
            }
            // It says so when everybody has it.
            State::Told { .. } if wish.done.is_some() => return Next::Wait,
            State::Told { at, .. } if here || at.after(UNHEARD) <= now => wish.state = State::Alone,
            State::Told { .. } => return Next::Wait,
            State::New | State::Alone => {}
        }
        match (wish.done, &wish.state) {
            (Some(done), _) => Next::Found(done),
            (None, State::New) if !here => Next::Tell,
            _ => Next::Ask,
        }
    }

    /// The connection to a peer is gone, and what it might have answered with it.
    pub fn forget_peer(&mut self, peer: PeerTag) {
        self.owed.retain(|owed| owed.to != peer);
        for wish in self.own.values_mut() {
            if matches!(&wish.state, State::Told { of, .. } if *of == peer) {
                wish.state = State::Alone;
            }
        }
    }

    /// Ops of others have come: those that did what this peer wished.
    pub fn note_done(&mut self, me: PeerTag, ops: &[Op]) {
        for op in ops {
            let Change::For { peer, wish, change } = &op.change else { continue };
            if *peer == me && op.stamp.author.peer() != me {
                raise(&mut self.done_by, op.stamp.author, op.seq);
                if let Some(wish) = self.own.get_mut(wish) {
                    let gone = change.0.takes_a_name_from();
                    wish.done = Some(Done { by: op.stamp.author, seq: op.seq, gone });
                }
            }
        }
    }

    /// Whether a wish of this peer's waits for an answer that may be this lease.
    pub fn may_bring(&self, lease: Ino) -> bool {
        self.own.values().any(|wish| matches!(&wish.state, State::Told { ino, .. } if *ino == lease))
    }

    /// What others did for this peer.
    pub fn done_by_others(&self) -> &VersionVector {
        &self.done_by
    }
}

impl Peer {
    /// Tells the holder of a lease what this peer wants done under it.
    pub(super) fn tell_wish(
        &mut self,
        number: u64,
        (of, ino): (PeerTag, Ino),
        naming: Naming,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(wish) = self.wishes.own.get_mut(&number) {
            wish.state = State::Told { of, ino, at: now };
        }
        effects.push(self.lease_message(of, LeaseMessage::Name { wish: number, ino, naming }));
    }

    /// Another peer needs this lease for that. Whether it has its answer: else it waits for the lease.
    pub(super) fn fulfil(
        &mut self,
        namespace: &mut Namespace,
        (from, wish): (PeerTag, u64),
        ino: Ino,
        naming: &Naming,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let mut answer = |peer: &Peer, namespace: &Namespace, outcome| {
            let vector = namespace.vector().clone();
            effects.push(peer.lease_message(from, LeaseMessage::Named { wish, outcome, vector }));
        };
        let busy = self.wishes.is_busy(ino, from, now.steady) && self.wishes.owed.len() < MAX_OWED;
        if !busy || self.may_for(from, namespace, &[ino], now.steady).is_err() {
            answer(self, namespace, Named::Undone);
            return false;
        }
        let Decided { leases, mut changes, gone } = match naming.decide(namespace) {
            Ok(decided) => decided,
            Err(errno) => {
                answer(self, namespace, Named::Refused(errno));
                return true;
            }
        };
        if self.may_for(from, namespace, &leases, now.steady).is_err() {
            answer(self, namespace, Named::Undone);
            return false;
        }
        let Some(first) = changes.first_mut() else {
            answer(self, namespace, Named::Done { gone });
            return true;
        };
        let change = Box::new(first.clone());
        *first = Change::For { peer: from, wish, change: Wished(change) };
        let author = self.author();
        let made = match changes.iter().all(|change| namespace.check(author, now.wall, change).is_ok()) {
            true => namespace.change(author, now.wall, changes),
            false => Default::default(),
        };
        if made.ops.is_empty() {
            answer(self, namespace, Named::Refused(Errno(libc::EINVAL)));
            return true;
        }
        self.wishes.owed.push(Owed { to: from, wish, seq: namespace.vector().get(author), gone });
        self.accepted(namespace, made.ops, &made.touched, None, effects);
        effects.push(Effect::Invalidate(made.touched));
        true
    }

    /// Something that was needed was done by a holder that does not say so any more.
    pub(super) fn found_done(&mut self, id: u64, done: Done) {
        self.wishes.found.push(Found { id, done, with: None });
    }

    /// Whether every peer, this one too, has what was done, and what it is built on.
    fn is_known(&self, namespace: &Namespace, found: &mut Found, now: Instant) -> bool {
        let op = VersionVector([(found.done.by, found.done.seq)].into());
        if !self.everybody_has(&op, now) {
            return false;
        }
        let (with, until) =
            found.with.get_or_insert_with(|| (self.all_that_anybody_has(namespace, now), now.after(FOUNDED)));
        *until <= now || namespace.vector().covers(with) && self.everybody_has(with, now)
    }

    /// Tells others, and who waits here, what was done for them and has got to everybody.
    pub(super) fn answer_wishes(&mut self, namespace: &Namespace, now: Instant, effects: &mut Vec<Effect>) {
        if self.wishes.owed.is_empty() && self.wishes.found.is_empty() {
            return;
        }
        let found = std::mem::take(&mut self.wishes.found);
        for mut found in found {
            match self.is_known(namespace, &mut found, now) {
                true => effects.push(Effect::Named { id: found.id, outcome: Ok(found.done.gone) }),
                false => self.wishes.found.push(found),
            }
        }
        let owed = std::mem::take(&mut self.wishes.owed);
        let (ready, rest) = owed.into_iter().partition(|owed| self.is_settled(owed.seq, false, now));
        self.wishes.owed = rest;
        for Owed { to, wish, gone, .. } in Vec::from_iter::<Vec<Owed>>(ready) {
            let vector = namespace.vector().clone();
            effects.push(self.lease_message(to, LeaseMessage::Named { wish, outcome: Named::Done { gone }, vector }));
        }
    }

    /// A holder has answered a wish.
    pub(super) fn named(
        &mut self,
        namespace: &Namespace,
        (from, number): (PeerTag, u64),
        outcome: Named,
        vector: VersionVector,
        effects: &mut Vec<Effect>,
    ) {
        let Some(wish) = self.wishes.own.get_mut(&number) else { return };
        let State::Told { of, ino, .. } = wish.state else { return };
        if of != from {
            return;
        }
        wish.state = match outcome {
            Named::Done { gone } => State::Answered(Ok(gone), vector.clone()),
            Named::Refused(errno) => State::Answered(Err(errno), vector.clone()),
            Named::Undone => State::Alone,
        };
        match outcome {
            // The lease comes, or word of who has it.
            Named::Undone => self.asks_for(ino, from),
            _ => self.told_enough(ino, from),
        }
        if !namespace.vector().covers(&vector) {
            effects.push(self.lease_message(from, LeaseMessage::Lack { vector: namespace.vector().clone() }));
        }
    }
}
