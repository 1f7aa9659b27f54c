//! How ops travel between peers: pushes, catching up, comparing vectors.

use super::{Effect, Memory, PROTOCOL, Peer, TICK, Timer, sync_log};
use crate::id::{Author, PeerTag};
use crate::namespace::{Missing, Namespace, Op, OpError, VersionVector};
use crate::overlay::SearchEvent;
use crate::time::{Instant, Moment};
use crate::wire::{ControlMessage, LeaseMessage, MAX_ROSTER};

/// The most bytes of ops in one message while a peer catches up.
const BATCH_BYTES: usize = 1 << 20;

/// The most own ops in one message. Each is well below 512 KiB, so that even that many large ones fit a message.
const PUSH_OPS: usize = 8;

/// For so many ticks changes wait for a peer whose connection broke, or was replaced, to have them after all: a
/// reconnect takes a moment, and meanwhile its mount serves what it has.
const GRACE_TICKS: u8 = 3;

/// What is known of a connected peer.
#[derive(Default)]
pub(super) struct Link {
    /// It said Hello: from then on ops may be sent to it.
    pub(super) greeted: bool,
    /// Everything it lacked is at least on its way: changes now wait for it. To wait until it has arrived could
    /// mean never, while people go on writing.
    pub(super) current: bool,
    /// It once had everything we had.
    kept_up: bool,
    /// What it had when it said Hello is here.
    pub(super) caught_up: bool,
    /// What it had then.
    hello: VersionVector,
    /// Its last beat, if that has not been answered.
    pub(super) beat: Option<u64>,
    /// What it said it has.
    pub(super) theirs: VersionVector,
    /// What it said it has on stable storage.
    pub(super) durable: VersionVector,
    /// What it has once all that was sent arrives.
    sent: VersionVector,
    /// What it was last told at a tick: all ops here, and the durable ones.
    told: (VersionVector, VersionVector),
    /// Ops that came over it were left out, for a clock is wrong: they are asked for again.
    pub(super) refused: bool,
    /// It lacks these, and has to take a snapshot: until it has said Hello with them, nothing is taken from it, nor sent.
    pub(super) needed: Option<VersionVector>,
    /// It lacked something at the last tick already: not just an op in flight from its author.
    pub(super) lagging: bool,
}

impl Link {
    /// The same connection, begun anew with what the other has.
    pub(super) fn anew(&self, needed: Option<VersionVector>) -> Link {
        let (theirs, durable) = (self.theirs.clone(), self.durable.clone());
        Link { greeted: self.greeted, sent: theirs.clone(), theirs, durable, needed, ..Link::default() }
    }

    /// What it has, or will have when all that was sent arrives.
    fn on_its_way(&self) -> VersionVector {
        let mut has = self.theirs.clone();
        for (author, seq) in &self.sent.0 {
            raise(&mut has, *author, *seq);
        }
        has
    }
}

impl Peer {
    pub(super) fn hello(&self, to: PeerTag, namespace: &Namespace) -> Effect {
        let message = ControlMessage::Hello {
            protocol: PROTOCOL,
            share: self.share,
            software: concat!("shoal ", env!("CARGO_PKG_VERSION")).to_owned(),
            vector: namespace.vector().clone(),
            near: self.required(namespace).into_iter().filter(|peer| *peer != to).take(MAX_ROSTER).collect(),
        };
        Effect::SendControl { to, message }
    }

    pub(super) fn control(
        &mut self,
        namespace: &mut Namespace,
        from: PeerTag,
        message: ControlMessage,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let Some(link) = self.links.get_mut(&from) else { return };
        let exchanges = !matches!(
            message,
            ControlMessage::Hello { .. }
                | ControlMessage::Load { .. }
                | ControlMessage::Search(_)
                | ControlMessage::Clock { .. }
        );
        if exchanges && link.needed.is_some() && !matches!(message, ControlMessage::SnapshotNeeded { .. }) {
            return;
        }
        match message {
            ControlMessage::Hello { protocol, share, vector, software, near } => {
                if share != self.share || protocol != PROTOCOL {
                    let how = format!(
                        "it speaks protocol {protocol} of share {share} ({software}), here it is {PROTOCOL} of {}",
                        self.share
                    );
                    effects.push(Effect::Misbehaved { peer: from, how });
                    return;
                }
                let first = !std::mem::replace(&mut link.greeted, true);
                link.sent = vector.clone();
                // It may have forgotten what it was told: after a snapshot it knows of nobody's storage.
                link.told = Default::default();
                link.hello = vector.clone();
                link.caught_up = namespace.vector().covers(&vector);
                let needed = namespace.needed_by(from, &vector);
                link.needed = needed.clone();
                if first {
                    self.told_of_the_living(namespace, &near, now.steady);
                }
                if needed.is_some()
                    && let Some(link) = self.links.get_mut(&from)
                {
                    // It is told at the next tick, if nothing has come by then that says otherwise.
                    link.theirs = vector;
                    link.current = false;
                    self.absent.remove(&from);
                    effects.push(Effect::Settled);
                    return;
                }
                self.heard(namespace, from, vector, None, effects);
                let sent = now.steady.0;
                effects.push(self.lease_message(from, LeaseMessage::Beat { sent }));
                effects.push(self.tell_locks(from, true));
            }
            ControlMessage::Have { vector, durable, sure } => {
                if sure {
                    // Only what a peer has on stable storage is sure to be there after a power cut: nothing is called
                    // stable, and taken out of the log, on less. A log is durable from its beginning on, so what the
                    // peer made before an op that is durable there is durable, too.
                    namespace.heard(from, &durable);
                }
                self.heard(namespace, from, vector, Some(durable), effects);
                self.answer_beat(from, now.steady, effects);
            }
            ControlMessage::Ops(ops) => {
                self.receive(namespace, from, ops, now, effects);
                for link in self.links.values_mut().filter(|link| link.greeted && !link.caught_up) {
                    link.caught_up = namespace.vector().covers(&link.hello);
                }
                if self.waits_for_ops() {
                    self.look_at_leases(namespace, now, effects);
                }
            }
            ControlMessage::Lock(message) => self.lock(namespace, from, message, now, effects),
            ControlMessage::Lease(message) => self.lease(namespace, from, message, now, effects),
            ControlMessage::SyncUpTo { epoch, seq } => {
                let author = Author::new(from, epoch);
                let waits = self.awaiting_durable.entry(from).or_default();
                *waits = (author, seq).max(*waits);
                // It may ask for the sake of what others did for it, too.
                if self.durable.covers(namespace.vector()) && self.durable.get(author) >= seq {
                    self.answer_durable(namespace, effects);
                } else {
                    effects.push(sync_log(namespace));
                }
            }
            ControlMessage::SnapshotNeeded { needed } => self.must_take_snapshot(namespace, from, &needed, effects),
            ControlMessage::Load { usage } => {
                self.loads.insert(from, usage);
            }
            ControlMessage::Clock { now: theirs } => self.heard_clock(from, theirs, now.wall, effects),
            ControlMessage::Search(message) => {
                self.searching(SearchEvent::Heard { from, message }, effects);
            }
            ControlMessage::Working { groups } => self.healing.heard(&groups),
            ControlMessage::Leaving => {
                link.current = false;
                // It hears of nothing more on this connection, so what it still says does not make it current again.
                link.greeted = false;
                self.absent.remove(&from);
                self.touch.forget(from);
                effects.push(Effect::Settled);
            }
        }
    }

    /// Sends own new ops to everyone who has all earlier ones on the way.
    pub(super) fn push_own(&mut self, ops: &[Op], effects: &mut Vec<Effect>) {
        let author = self.author();
        for ops in ops.chunks(PUSH_OPS) {
            let Some((first, last)) = ops.first().zip(ops.last()) else { return };
            for (peer, link) in &mut self.links {
                if link.greeted && link.needed.is_none() && link.sent.get(author) + 1 == first.seq {
                    link.sent.0.insert(author, last.seq);
                    effects.push(Effect::SendControl { to: *peer, message: ControlMessage::Ops(ops.to_vec()) });
                }
            }
        }
    }

    fn receive(
        &mut self,
        namespace: &mut Namespace,
        from: PeerTag,
        mut ops: Vec<Op>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(link) = self.links.get_mut(&from) {
            for op in &ops {
                raise(&mut link.theirs, op.stamp.author, op.seq);
                raise(&mut link.sent, op.stamp.author, op.seq);
            }
        }
        self.leave_out_the_future(namespace, from, &mut ops, now.wall, effects);
        match namespace.receive(ops, now.wall) {
            Ok(applied) => {
                self.note_grants(namespace, &applied.ops, now.steady);
                self.accepted(namespace, applied.ops, &applied.touched, Some(from), effects);
                effects.push(self.have(from, namespace));
            }
            // An author's earlier ops are missing, or the op that admits it: start over from the vectors.
            Err(OpError::Gap { .. } | OpError::Stranger { .. }) => effects.push(self.hello(from, namespace)),
            Err(error) => effects.push(Effect::Misbehaved { peer: from, how: error.to_string() }),
        }
    }

    /// A peer said what it has: note it, and send what it lacks if it is catching up.
    fn heard(
        &mut self,
        namespace: &mut Namespace,
        from: PeerTag,
        vector: VersionVector,
        durable: Option<VersionVector>,
        effects: &mut Vec<Effect>,
    ) {
        let author = self.author();
        let lacks_foundation = self.lacks_foundation(&vector);
        let Some(link) = self.links.get_mut(&from) else { return };
        link.theirs = vector;
        if let Some(durable) = durable {
            link.durable = durable;
        }
        link.kept_up |= link.greeted && link.theirs.covers(namespace.vector());
        effects.push(Effect::Settled);
        // Where own ops are not on their way, as after a Hello in the middle of a connection, none are pushed either.
        let (has, had) = (link.on_its_way().get(author), namespace.vector().get(author));
        if !link.current || has < had || lacks_foundation {
            self.catch_up(namespace, from, effects);
        }
        if self.links.get(&from).is_some_and(|link| link.current) {
            self.absent.remove(&from);
        }
    }

    /// The connection to a peer is gone, or about to be replaced.
    pub(super) fn unlink(&mut self, peer: PeerTag) {
        if self.links.remove(&peer).is_some_and(|link| link.current && link.kept_up) {
            self.absent.insert(peer, GRACE_TICKS);
        }
    }

    /// Sends the next batch of what the peer neither has nor was sent.
    pub(super) fn catch_up(&mut self, namespace: &Namespace, to: PeerTag, effects: &mut Vec<Effect>) {
        let Some(link) = self.links.get_mut(&to) else { return };
        if !link.greeted || link.needed.is_some() {
            return;
        }
        let has = link.on_its_way();
        if has.covers(namespace.vector()) {
            link.current = true;
            return;
        }
        match namespace.missing(&has, BATCH_BYTES) {
            Missing::Ops(ops) if ops.is_empty() => {}
            Missing::Ops(ops) => {
                for op in &ops {
                    raise(&mut link.sent, op.stamp.author, op.seq);
                }
                link.current |= link.on_its_way().covers(namespace.vector());
                effects.push(Effect::SendControl { to, message: ControlMessage::Ops(ops) });
            }
            Missing::Snapshot => {
                link.needed = namespace.needed_by(to, &has);
                self.ask_to_take_snapshot(to, effects);
            }
        }
    }

    /// A peer says what it has, and waits for the rest.
    pub(super) fn send_missing(
        &mut self,
        namespace: &Namespace,
        to: PeerTag,
        has: VersionVector,
        effects: &mut Vec<Effect>,
    ) {
        let Some(link) = self.links.get_mut(&to) else { return };
        for (author, seq) in has.0 {
            raise(&mut link.theirs, author, seq);
        }
        self.catch_up(namespace, to, effects);
    }

    /// Notes who has said by now what it has of this peer's ops.
    fn note_heard(&mut self, namespace: &Namespace, effects: &mut Vec<Effect>) {
        if self.unheard.is_empty() {
            return;
        }
        let told = |link: &Link| link.greeted && namespace.vector().covers(&link.theirs);
        // One that was let go makes anew what it has of this peer's, which numbers its ops anew by then.
        let apart = self.past.memory == Memory::Apart;
        let gone = |peer: PeerTag| namespace.peer(peer).is_none() || (apart && namespace.is_away(peer));
        self.unheard.retain(|peer| !gone(*peer) && !self.links.get(peer).is_some_and(told));
        self.remembers(effects);
    }

    pub(super) fn tick(&mut self, namespace: &mut Namespace, now: Instant, effects: &mut Vec<Effect>) {
        let required = self.required(namespace);
        let others = namespace.peers().map(|(peer, _)| peer).filter(|peer| *peer != self.me);
        self.touch.tick(now, required, others);
        // What was lacking may have come with a snapshot.
        for link in self.links.values_mut().filter(|link| link.greeted && !link.caught_up) {
            link.caught_up = namespace.vector().covers(&link.hello);
        }
        self.note_heard(namespace, effects);
        // What others said to have may have come here since, and they say nothing twice.
        namespace.advance();
        self.forget_foundations(now);
        effects.push(Effect::SetTimer { after: TICK, timer: Timer::Tick });
        if !self.durable.covers(namespace.vector()) {
            effects.push(sync_log(namespace));
        }
        let waited_for = self.absent.len();
        self.absent.retain(|_, ticks| {
            *ticks -= 1;
            *ticks > 0
        });
        if self.absent.len() < waited_for || self.touch.lapsed(now) {
            effects.push(Effect::Settled);
        }
        let state = (namespace.vector().clone(), self.durable.clone());
        let peers: Vec<PeerTag> = self.links.keys().copied().collect();
        for peer in peers {
            if let Some(link) = self.links.get_mut(&peer).filter(|link| link.needed.is_some()) {
                link.needed = namespace.needed_by(peer, &link.theirs);
                if link.needed.is_some() {
                    self.ask_to_take_snapshot(peer, effects);
                } else {
                    // What it sent meanwhile was not taken: it starts over.
                    effects.push(self.hello(peer, namespace));
                }
                continue;
            }
            if self.links.get(&peer).is_some_and(|link| link.told != state) {
                effects.push(self.have(peer, namespace));
            }
            if self.links.get(&peer).is_some_and(|link| link.greeted) {
                effects.push(self.lease_message(peer, LeaseMessage::Beat { sent: now.0 }));
            }
            if let Some(usage) = self.usage {
                effects.push(Effect::SendControl { to: peer, message: ControlMessage::Load { usage } });
            }
            let Some(link) = self.links.get_mut(&peer) else { continue };
            link.told = state.clone();
            let lacks = !link.theirs.covers(namespace.vector());
            if lacks && link.lagging {
                self.catch_up(namespace, peer, effects);
            } else {
                link.lagging = lacks;
            }
        }
    }

    pub(super) fn log_durable(&mut self, namespace: &Namespace, vector: VersionVector, effects: &mut Vec<Effect>) {
        for (author, seq) in vector.0 {
            // A sync that began before a snapshot was taken speaks of ops that went with the old log.
            raise(&mut self.durable, author, seq.min(namespace.vector().get(author)));
        }
        self.answer_durable(namespace, effects);
        effects.push(Effect::Settled);
    }

    fn answer_durable(&mut self, namespace: &Namespace, effects: &mut Vec<Effect>) {
        let ready: Vec<PeerTag> = self
            .awaiting_durable
            .iter()
            .filter(|(_, (author, seq))| self.durable.get(*author) >= *seq)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in ready {
            self.awaiting_durable.remove(&peer);
            effects.push(self.have(peer, namespace));
        }
    }

    fn have(&self, to: PeerTag, namespace: &Namespace) -> Effect {
        let (vector, durable) = (namespace.vector().clone(), self.durable.clone());
        let message = ControlMessage::Have { vector, durable, sure: self.has_heard_everyone() };
        Effect::SendControl { to, message }
    }
}

pub(super) fn raise(vector: &mut VersionVector, author: Author, seq: u64) {
    let entry = vector.0.entry(author).or_default();
    *entry = seq.max(*entry);
}
