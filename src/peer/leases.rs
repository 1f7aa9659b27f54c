//! Leases: asking for them, using them, and handing them over.
//!
//! Who holds a lease is in the namespace ([`crate::namespace::Tenure`]); here is what goes on around it. Whoever needs a
//! lease asks its holder, which finishes what is in flight, has what is unsaved of a file stored, grants it by an op, and
//! says so with its version vector: the new holder acts only when it has all of that. The op comes first on the stream,
//! so a lease has never two holders among connected peers. If the holder is dead, its heir takes over (`heirs`); if it is
//! busy under the lease itself, it does what is wanted in the other's place (`wishes`).

use super::wishes::Next;
use super::{Effect, Peer, Timer};
use crate::id::{Ino, PeerTag};
use crate::namespace::{Change, Kind, Lock, Namespace, Naming, Op, VersionVector};
use crate::time::{Instant, Moment};
use crate::wire::{ControlMessage, LeaseMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often what waits for others is looked at again.
const LOOK: Duration = Duration::from_millis(10);

/// After which an unanswered question is asked again: it or its answer went down with a connection.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A lease that was asked for stays at least so long, or until it has been used...
const UNUSED: Duration = Duration::from_millis(250);

/// ...and a file's this much longer: who appends records appends several before another does.
const QUANTUM: Duration = Duration::from_millis(20);

/// The most leases that other peers wait for here. Who asks past it asks again.
const MAX_WANTED: usize = 1 << 16;

/// What somebody on this machine waits for.
#[derive(Clone, PartialEq, Debug)]
pub enum Need {
    /// To be in touch.
    Touch,
    /// To hold those of these that are still there, and to be in touch.
    Leases(BTreeSet<Ino>),
    /// This done to names, under these: to hold them, or that their holder does it. The number tells the wish from all
    /// others that any peer ever has.
    Naming { wish: u64, naming: Naming, leases: BTreeSet<Ino> },
}

impl Need {
    fn leases(&self) -> Option<&BTreeSet<Ino>> {
        match self {
            Need::Touch => None,
            Need::Leases(leases) | Need::Naming { leases, .. } => Some(leases),
        }
    }
}

/// What stands in the way of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hindrance {
    /// This peer does not know whether what it has is the newest.
    OutOfTouch,
    /// Another peer holds the lease, or waits for it.
    Elsewhere,
}

/// A lease that this peer asked for.
struct Asked {
    of: PeerTag,
    at: Instant,
    /// Not only by telling its holder of a wish, which it may answer instead.
    outright: bool,
}

/// What came with a lease before the op that gives it: that takes another road while this peer is being caught up with.
struct Early {
    from: PeerTag,
    vector: VersionVector,
    locks: Vec<Lock>,
}

/// What is to come with a lease after the op that gave it.
struct Due {
    from: PeerTag,
    since: Instant,
}

/// A lease that came here not long ago.
struct Gained {
    at: Instant,
    used: Option<Instant>,
}

/// What goes on around the leases.
#[derive(Default)]
pub(super) struct Leases {
    needs: BTreeMap<u64, Need>,
    asked: BTreeMap<Ino, Asked>,
    /// Granted by a peer that had all this: to be used when it is here.
    behind: BTreeMap<Ino, VersionVector>,
    /// Granted by an op that is not here yet.
    early: BTreeMap<Ino, Early>,
    /// Granted by an op that came alone so far.
    due: BTreeMap<Ino, Due>,
    gained: BTreeMap<Ino, Gained>,
    /// How many on this machine are in the midst of using it.
    pins: BTreeMap<Ino, u32>,
    /// Who waits for what this peer holds, the first one first.
    wanted: BTreeMap<Ino, Vec<PeerTag>>,
    /// On its way out: whether what is unsaved of it has been stored. Nobody here uses it any more.
    leaving: BTreeMap<Ino, bool>,
    looking: bool,
}

impl Peer {
    /// Whether this peer may act on these leases now; they count as used.
    pub fn may(&mut self, namespace: &Namespace, leases: &[Ino], now: Instant) -> Result<(), Hindrance> {
        self.may_for(self.me, namespace, leases, now)
    }

    /// As [`Peer::may`], for something that this peer, or another one, wants done.
    pub(super) fn may_for(
        &mut self,
        user: PeerTag,
        namespace: &Namespace,
        leases: &[Ino],
        now: Instant,
    ) -> Result<(), Hindrance> {
        if !self.is_in_touch(namespace, now) {
            return Err(Hindrance::OutOfTouch);
        }
        if leases.iter().any(|ino| !self.holds(namespace, *ino)) {
            return Err(Hindrance::Elsewhere);
        }
        for ino in leases {
            if let Some(gained) = self.leases.gained.get_mut(ino) {
                gained.used.get_or_insert(now);
            }
            if namespace.inode(*ino).is_some_and(|inode| inode.kind == Kind::Directory) {
                self.wishes.used(*ino, user, now);
            }
        }
        Ok(())
    }

    /// Whether it may store what was written under these leases: also when they are about to go elsewhere.
    pub fn may_store(&mut self, namespace: &Namespace, leases: &[Ino], now: Instant) -> Result<(), Hindrance> {
        let about_to_go = |ino: &Ino| self.leases.leaving.contains_key(ino) && namespace.holder(*ino) == self.me;
        match leases.iter().all(about_to_go) && self.is_in_touch(namespace, now) {
            true => Ok(()),
            false => self.may(namespace, leases, now),
        }
    }

    /// What keeps these leases from being used here, for messages.
    pub fn what_is_missing(&self, namespace: &Namespace, leases: &[Ino], now: Instant) -> String {
        if !self.is_in_touch(namespace, now) {
            return format!("this peer is out of touch with {:?}", self.required(namespace));
        }
        let held = leases.iter().filter(|ino| !self.holds(namespace, **ino));
        let held: Vec<String> = held.map(|ino| format!("{ino} is held by {}", namespace.holder(*ino))).collect();
        held.join(", ")
    }

    /// As [`Peer::may`], and the lease stays until [`Peer::unpin`].
    pub fn pin(&mut self, namespace: &Namespace, ino: Ino, now: Instant) -> Result<(), Hindrance> {
        self.may(namespace, &[ino], now)?;
        *self.leases.pins.entry(ino).or_default() += 1;
        Ok(())
    }

    pub fn unpin(&mut self, namespace: &mut Namespace, ino: Ino, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(pins) = self.leases.pins.get_mut(&ino) {
            *pins -= 1;
            if *pins == 0 {
                self.leases.pins.remove(&ino);
                self.hand_over(namespace, ino, now, &mut effects);
            }
        }
        effects
    }

    /// Whether ops that come may be what somebody here waits for.
    pub(super) fn waits_for_ops(&self) -> bool {
        let Leases { needs, wanted, behind, early, due, .. } = &self.leases;
        let waits = [needs.is_empty(), wanted.is_empty(), behind.is_empty(), early.is_empty(), due.is_empty()];
        waits.contains(&false) || self.waits_for_locks()
    }

    /// Whether the lease, and what comes with it, is on its way here, or was asked for.
    pub(super) fn is_asked_for(&self, ino: Ino) -> bool {
        let leases = &self.leases;
        leases.asked.contains_key(&ino) || leases.early.contains_key(&ino) || leases.due.contains_key(&ino)
    }

    /// Ops came that may give leases to this peer. What goes with one comes in a message, over the connection to whoever
    /// gave it: this peer may have asked others since, who have answered, or the message may be lost.
    pub(super) fn note_grants(&mut self, namespace: &Namespace, ops: &[Op], now: Instant) {
        for op in ops {
            let from = op.stamp.author.peer();
            if let Change::Grant { ino, to } = op.change
                && to == self.me
                && from != self.me
                && namespace.holder(ino) == self.me
                && !self.leases.early.contains_key(&ino)
            {
                self.leases.due.insert(ino, Due { from, since: now });
            }
        }
    }

    /// Whether the lease is this peer's to use: it holds it, has what its last holder had, and nobody waits for it.
    pub(super) fn holds(&self, namespace: &Namespace, ino: Ino) -> bool {
        let leases = &self.leases;
        namespace.holder(ino) == self.me
            && !self.is_asked_for(ino)
            && !leases.behind.contains_key(&ino)
            && !leases.leaving.contains_key(&ino)
    }

    /// Somebody needs something; [`Effect::Provided`] says when it is there.
    pub(super) fn need(
        &mut self,
        namespace: &mut Namespace,
        id: u64,
        need: Need,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        if let Need::Naming { wish, .. } = &need {
            self.wishes.begin(*wish);
        }
        self.leases.needs.insert(id, need);
        self.look_at_leases(namespace, now, effects);
    }

    /// What was needed is not any more.
    pub(super) fn forget_need(&mut self, id: u64) {
        if let Some(Need::Naming { wish, .. }) = self.leases.needs.remove(&id) {
            self.wishes.forget(wish);
        }
        self.wishes.forget_found(id);
    }

    /// Goes on with whatever waits.
    pub(super) fn look_at_leases(&mut self, namespace: &mut Namespace, now: Moment, effects: &mut Vec<Effect>) {
        // What one whose clock is far ahead gives comes by an op that is left out: it would be waited for for ever.
        let givers = self.leases.asked.values().map(|asked| asked.of);
        let givers = givers.chain(self.leases.early.values().map(|early| early.from));
        let givers = givers.chain(self.leases.due.values().map(|due| due.from));
        let gone = |peer: &PeerTag| !self.is_alive(*peer) || self.is_ahead_of_time(*peer);
        let gone: BTreeSet<PeerTag> = givers.filter(gone).collect();
        gone.into_iter().for_each(|peer| self.forget_asked(peer, now.steady, effects));
        let leases = &mut self.leases;
        leases.behind.retain(|_, vector| !namespace.vector().covers(vector));
        let has_come = |early: &Early| namespace.vector().covers(&early.vector);
        let (come, early) = std::mem::take(&mut leases.early).into_iter().partition(|(_, early)| has_come(early));
        leases.early = early;
        for (ino, Early { from, vector, locks }) in Vec::from_iter::<BTreeMap<Ino, Early>>(come) {
            self.granted(namespace, from, (ino, locks), vector, now, effects);
        }
        let leases = &mut self.leases;
        let late = |due: &Due| due.since.after(ASK_AGAIN) <= now.steady;
        let bare: Vec<Ino> = leases.due.iter().filter(|(_, due)| late(due)).map(|(ino, _)| *ino).collect();
        leases.due.retain(|_, due| !late(due));
        self.leases_came_bare(bare, now.steady, effects);
        let leases = &mut self.leases;
        leases.gained.retain(|_, gained| gained.at.after(UNUSED) > now.steady);
        let wanted: Vec<Ino> = leases.wanted.keys().copied().collect();
        for ino in wanted {
            self.hand_over(namespace, ino, now, effects);
        }
        let in_touch = self.is_in_touch(namespace, now.steady);
        let needs: Vec<(u64, Need)> = self.leases.needs.iter().map(|(id, need)| (*id, need.clone())).collect();
        let mut asking = BTreeSet::new();
        for (id, need) in needs {
            // In the order of their numbers, one after the other: so that of two who need the same two, one waits. What
            // was reaped meanwhile does not come any more: whoever needed it looks again, and finds it gone.
            let lacks = |ino: &Ino| !self.holds(namespace, *ino) && namespace.has_lease(*ino);
            let lacking = need.leases().and_then(|inos| inos.iter().copied().find(lacks));
            let next = match &need {
                Need::Naming { wish, .. } => {
                    let here = in_touch && lacking.is_none();
                    self.wishes.next(*wish, here, namespace.vector(), now.steady)
                }
                _ => Next::Ask,
            };
            match (next, lacking, &need) {
                (Next::Over(outcome), ..) => {
                    self.forget_need(id);
                    effects.push(Effect::Named { id, outcome });
                }
                (Next::Found(done), ..) => {
                    self.forget_need(id);
                    self.found_done(id, done);
                }
                (Next::Wait, ..) => {}
                (Next::Tell, Some(ino), Need::Naming { wish, naming, .. }) if in_touch => {
                    self.ask_for(namespace, ino, Some((*wish, naming)), now, effects);
                }
                (_, Some(ino), _) if in_touch => _ = asking.insert(ino),
                (_, None, _) if in_touch => {
                    self.forget_need(id);
                    effects.push(Effect::Provided(id));
                }
                _ => {}
            }
        }
        for ino in asking {
            self.ask_for(namespace, ino, None, now, effects);
        }
        self.look_at_locks(namespace, now, effects);
        self.look_at_heirs(namespace, now, effects);
        let leases = &self.leases;
        let idle = leases.needs.is_empty() && leases.wanted.is_empty() && leases.due.is_empty() && self.heirs.is_idle();
        if !leases.looking && (!idle || self.waits_for_locks()) {
            self.leases.looking = true;
            effects.push(Effect::SetTimer { after: LOOK, timer: Timer::Leases });
        }
    }

    pub(super) fn leases_timer(&mut self, namespace: &mut Namespace, now: Moment, effects: &mut Vec<Effect>) {
        self.leases.looking = false;
        self.look_at_leases(namespace, now, effects);
    }

    /// Asks for a lease, or tells its holder what is to be done under it.
    fn ask_for(
        &mut self,
        namespace: &Namespace,
        ino: Ino,
        wish: Option<(u64, &Naming)>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let holder = namespace.holder(ino);
        if holder == self.me {
            // It is here, and about to go elsewhere or to be told of.
            return;
        }
        if self.is_gone(namespace, holder, now.steady) {
            self.heirs.wanted.insert(holder);
            return;
        }
        if !self.links.get(&holder).is_some_and(|link| link.greeted) {
            return;
        }
        let asked = self.leases.asked.get(&ino).filter(|asked| asked.of == holder);
        let outright = asked.is_some_and(|asked| asked.outright);
        if let Some((wish, naming)) = wish {
            self.leases.asked.insert(ino, Asked { of: holder, at: now.steady, outright });
            self.tell_wish(wish, (holder, ino), naming.clone(), now.steady, effects);
        } else if !outright || asked.is_none_or(|asked| asked.at.after(ASK_AGAIN) <= now.steady) {
            self.leases.asked.insert(ino, Asked { of: holder, at: now.steady, outright: true });
            effects.push(self.lease_message(holder, LeaseMessage::Want { ino }));
        }
    }

    /// The holder of a lease gives it to this peer when it can.
    pub(super) fn asks_for(&mut self, ino: Ino, of: PeerTag) {
        if let Some(asked) = self.leases.asked.get_mut(&ino).filter(|asked| asked.of == of) {
            asked.outright = true;
        }
    }

    /// The holder of a lease has answered a wish, and does not give the lease away for it.
    pub(super) fn told_enough(&mut self, ino: Ino, of: PeerTag) {
        let told = self.leases.asked.get(&ino).is_some_and(|asked| asked.of == of && !asked.outright);
        if told && !self.wishes.may_bring(ino) {
            self.leases.asked.remove(&ino);
        }
    }

    pub(super) fn lease_message(&self, to: PeerTag, message: LeaseMessage) -> Effect {
        Effect::SendControl { to, message: ControlMessage::Lease(message) }
    }

    /// A connected peer says something of leases.
    pub(super) fn lease(
        &mut self,
        namespace: &mut Namespace,
        from: PeerTag,
        message: LeaseMessage,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        match message {
            LeaseMessage::Beat { sent } => {
                if let Some(link) = self.links.get_mut(&from) {
                    link.beat = Some(sent);
                }
                self.answer_beat(from, now.steady, effects);
            }
            LeaseMessage::Answer { sent } => {
                // No peer can have answered what is still to be sent.
                if sent <= now.steady.0 {
                    self.touch.answered(from, Instant(sent));
                }
                self.look_at_leases(namespace, now, effects);
            }
            LeaseMessage::Want { ino } => self.wanted(namespace, from, ino, now, effects),
            LeaseMessage::Name { wish, ino, naming } => {
                if !self.fulfil(namespace, (from, wish), ino, &naming, now, effects) {
                    self.wanted(namespace, from, ino, now, effects);
                }
            }
            LeaseMessage::Named { wish, outcome, vector } => {
                self.named(namespace, (from, wish), outcome, vector, effects);
                self.look_at_leases(namespace, now, effects);
            }
            LeaseMessage::Granted { .. } if self.is_ahead_of_time(from) => {}
            LeaseMessage::Granted { ino, vector, locks } => {
                let asked = self.leases.asked.get(&ino).is_some_and(|asked| asked.of == from);
                if asked {
                    self.leases.asked.remove(&ino);
                }
                if asked && namespace.holder(ino) != self.me && !namespace.vector().covers(&vector) {
                    effects.push(self.lease_message(from, LeaseMessage::Lack { vector: namespace.vector().clone() }));
                    self.leases.early.insert(ino, Early { from, vector, locks });
                } else {
                    self.granted(namespace, from, (ino, locks), vector, now, effects);
                }
                self.look_at_leases(namespace, now, effects);
            }
            LeaseMessage::Elsewhere { ino, vector } => {
                if self.leases.asked.get(&ino).is_some_and(|asked| asked.of == from) {
                    self.leases.asked.remove(&ino);
                }
                if !namespace.vector().covers(&vector) {
                    effects.push(self.lease_message(from, LeaseMessage::Lack { vector: namespace.vector().clone() }));
                } else if namespace.holder(ino) == from {
                    // Nothing more can come of this one.
                    let why = format!("it does not know that it holds the lease of {ino}");
                    effects.push(Effect::Refused { peer: from, why });
                } else {
                    self.look_at_leases(namespace, now, effects);
                }
            }
            LeaseMessage::Lack { vector } => self.send_missing(namespace, from, vector, effects),
            LeaseMessage::Vacant { tenure } => self.called_vacant(namespace, tenure, now, effects),
            LeaseMessage::Depose { peer, round } => self.asked_to_agree(namespace, from, peer, round, now, effects),
            LeaseMessage::Agreed { peer, round, vector } => {
                self.agreed(namespace, from, (peer, round), vector, now, effects);
            }
        }
    }

    /// Another peer waits for a lease.
    fn wanted(&mut self, namespace: &mut Namespace, from: PeerTag, ino: Ino, now: Moment, effects: &mut Vec<Effect>) {
        if namespace.holder(ino) != self.me {
            let vector = namespace.vector().clone();
            return effects.push(self.lease_message(from, LeaseMessage::Elsewhere { ino, vector }));
        }
        if self.leases.wanted.len() < MAX_WANTED {
            let queue = self.leases.wanted.entry(ino).or_default();
            if !queue.contains(&from) {
                queue.push(from);
            }
        }
        self.look_at_leases(namespace, now, effects);
    }

    /// A lease came with what goes with it, if the ops say so.
    fn granted(
        &mut self,
        namespace: &Namespace,
        from: PeerTag,
        (ino, locks): (Ino, Vec<Lock>),
        vector: VersionVector,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        if namespace.holder(ino) != self.me {
            // Its op may have come after one of the other side of a partition that ended its tenure.
            if namespace.has_tried_to_grant(from, ino, self.me) {
                return;
            }
            let what = format!("says that it gave away the lease of {ino}, which was not its own; it is not believed");
            return effects.push(Effect::FalseClaim { peer: from, what });
        }
        if self.leases.due.get(&ino).is_some_and(|due| due.from == from) {
            self.leases.due.remove(&ino);
        }
        self.leases.gained.insert(ino, Gained { at: now.steady, used: None });
        self.put_in_locks(ino, locks, effects);
        self.build_on(namespace, vector.clone(), now.steady);
        self.catch_up_for(namespace, from, ino, vector, effects);
    }

    /// Answers a peer's last beat, if this peer counts on it: everything it lacked is at least on its way.
    pub(super) fn answer_beat(&mut self, from: PeerTag, now: Instant, effects: &mut Vec<Effect>) {
        let counts = self.is_alive(from) && !self.touch.refused.contains_key(&from) && !self.is_ahead_of_time(from);
        let Some(link) = self.links.get_mut(&from).filter(|link| link.current && counts) else { return };
        if let Some(sent) = link.beat.take() {
            self.touch.promise(from, now);
            effects.push(self.lease_message(from, LeaseMessage::Answer { sent }));
        }
    }

    /// A lease may be used when this peer has what its last holder had.
    fn catch_up_for(
        &mut self,
        namespace: &Namespace,
        from: PeerTag,
        ino: Ino,
        vector: VersionVector,
        effects: &mut Vec<Effect>,
    ) {
        if !namespace.vector().covers(&vector) {
            self.leases.behind.insert(ino, vector);
            effects.push(self.lease_message(from, LeaseMessage::Lack { vector: namespace.vector().clone() }));
        }
    }

    /// What is unsaved of a file whose lease is to go has been stored, as far as it could be.
    pub(super) fn recalled(&mut self, namespace: &mut Namespace, ino: Ino, now: Moment, effects: &mut Vec<Effect>) {
        self.stored_for_locks(namespace, ino, effects);
        if let Some(stored) = self.leases.leaving.get_mut(&ino) {
            *stored = true;
            self.hand_over(namespace, ino, now, effects);
            self.look_at_leases(namespace, now, effects);
        }
    }

    /// Gives a lease to the first who waits for it, when nothing here needs it any more.
    fn hand_over(&mut self, namespace: &mut Namespace, ino: Ino, now: Moment, effects: &mut Vec<Effect>) {
        let Some(queue) = self.leases.wanted.get(&ino) else { return };
        let waiting: Vec<PeerTag> = queue.iter().copied().filter(|peer| self.links.contains_key(peer)).collect();
        let (true, Some(next)) = (namespace.holder(ino) == self.me, waiting.first().copied()) else {
            self.leases.wanted.remove(&ino);
            self.leases.leaving.remove(&ino);
            let vector = namespace.vector().clone();
            let tell = |to| self.lease_message(to, LeaseMessage::Elsewhere { ino, vector: vector.clone() });
            return effects.extend(waiting.into_iter().map(tell));
        };
        let is_file = namespace.inode(ino).is_some_and(|inode| inode.kind == Kind::File);
        let leases = &self.leases;
        let just_came = leases.gained.get(&ino).is_some_and(|gained| match gained.used {
            Some(used) => is_file && used.after(QUANTUM) > now.steady,
            None => true,
        });
        // Of two who need the same two, the one that has the first keeps it until it has the second.
        let is_first = |need: &Need| {
            let among = need.leases().filter(|inos| inos.contains(&ino));
            among.is_some_and(|inos| inos.range(..ino).all(|lower| self.holds(namespace, *lower)))
        };
        let kept = !leases.leaving.contains_key(&ino) && leases.needs.values().any(is_first);
        // The op that gives it comes before the message that brings what goes with it.
        let half_here = self.is_asked_for(ino) || leases.behind.contains_key(&ino);
        if just_came || kept || half_here || leases.pins.contains_key(&ino) || !self.locks_may_go(namespace, ino) {
            return;
        }
        let leases = &mut self.leases;
        match leases.leaving.get(&ino) {
            None if is_file => {
                leases.leaving.insert(ino, false);
                effects.push(Effect::Recall(ino));
                return;
            }
            Some(false) => return,
            None | Some(true) => {}
        }
        // One that is not in touch may have been deposed.
        if !self.is_in_touch(namespace, now.steady) {
            return;
        }
        self.leases.leaving.remove(&ino);
        self.leases.gained.remove(&ino);
        let (_, follows) = self.change(namespace, vec![Change::Grant { ino, to: next }], now.wall);
        effects.extend(follows);
        let (vector, locks) = (namespace.vector().clone(), self.take_out_locks(ino, effects));
        effects.push(self.lease_message(next, LeaseMessage::Granted { ino, vector, locks }));
        self.leases.wanted.remove(&ino);
        let vector = namespace.vector().clone();
        for peer in waiting.into_iter().skip(1) {
            effects.push(self.lease_message(peer, LeaseMessage::Elsewhere { ino, vector: vector.clone() }));
        }
    }

    /// A connection is gone: what was asked over it is asked again over another.
    pub(super) fn forget_asked(&mut self, peer: PeerTag, now: Instant, effects: &mut Vec<Effect>) {
        self.forget_lock_requests(peer);
        self.wishes.forget_peer(peer);
        let asked = self.leases.asked.iter().filter(|(_, asked)| asked.of == peer).map(|(ino, _)| *ino);
        let early = self.leases.early.iter().filter(|(_, early)| early.from == peer).map(|(ino, _)| *ino);
        let due = self.leases.due.iter().filter(|(_, due)| due.from == peer).map(|(ino, _)| *ino);
        let lost: Vec<Ino> = asked.chain(early).chain(due).collect();
        self.leases.asked.retain(|_, asked| asked.of != peer);
        self.leases.early.retain(|_, early| early.from != peer);
        self.leases.due.retain(|_, due| due.from != peer);
        self.leases_came_bare(lost, now, effects);
        for queue in self.leases.wanted.values_mut() {
            queue.retain(|waiting| *waiting != peer);
        }
    }
}
