//! The cores composed: one peer as a state machine. Events come in with the time, effects go out.
//!
//! It decides how ops travel: a peer's own ops are pushed to every connected peer at once; what a peer missed
//! is sent when it connects, and by comparing version vectors on every tick. On every tick it also looks after the
//! groups it sits in. It carries searches, its own and others'. It never touches a clock, a socket
//! or a disk; the namespace is handed in, because the data path reads it under a lock of its own.
//!
//! Invariant: on one connection the ops of one author are sent in order and without gaps, each at most once.

mod clocks;
mod effect;
mod event;
mod exchange;
mod healing;
mod heirs;
mod leases;
mod locks;
mod merging;
mod past;
mod returning;
mod searching;
mod settling;
mod touch;
mod wishes;

pub use effect::Effect;
pub use event::{Event, Timer};
pub use leases::{Hindrance, Need};
pub use past::{Memory, Past};
pub use returning::LogBound;
pub use touch::LEASE_TIME;

use crate::group::{Healing, HealingSettings};
use crate::id::{Author, PeerTag, ShareId};
use crate::namespace::{Applied, Change, Key, Namespace, Op, VersionVector};
use crate::overlay::{Membership, MembershipEffect, MembershipEvent, Search, SearchEvent};
use crate::time::{Moment, WallTime};
use crate::volume::ports::StoreUsage;
use crate::wire::ControlMessage;
use exchange::Link;
use heirs::Heirs;
use leases::Leases;
use locks::Locks;
use settling::Foundation;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use touch::Touch;
use wishes::Wishes;

/// How often vectors are compared and usage is told. A missed op is thus repaired within two ticks; a
/// second keeps an idle share at one small message a peer and second.
pub const TICK: Duration = Duration::from_secs(1);

/// The version of the control protocol, in every Hello.
pub const PROTOCOL: u16 = 1;

/// One peer of a share, without its namespace and its devices.
pub struct Peer {
    me: PeerTag,
    share: ShareId,
    membership: Membership,
    /// Peers with a standing connection.
    links: BTreeMap<PeerTag, Link>,
    /// Peers that were up to date and lost their connection, and for how many more ticks changes wait for them.
    absent: BTreeMap<PeerTag, u8>,
    /// What this peer's store takes and could take; the others are told at each tick.
    usage: Option<StoreUsage>,
    /// What of the log is on stable storage here.
    durable: VersionVector,
    /// What the others' stores take and could take, as they last said.
    loads: BTreeMap<PeerTag, StoreUsage>,
    healing: Healing,
    search: Search,
    hears_everyone_for: Duration,
    /// It may make changes without being asked.
    ready: bool,
    /// Peers that wait to hear that our log is durable, and the own seq they wait for.
    awaiting_durable: BTreeMap<PeerTag, (Author, u64)>,
    past: Past,
    /// How much of the log is kept for peers that are away, and for how many ticks each has been.
    log_bound: LogBound,
    away_for: BTreeMap<PeerTag, u32>,
    /// A snapshot is being fetched, to go on from.
    rebasing: bool,
    /// By how many milliseconds the others' clocks are ahead of this one, as they last said.
    clocks: BTreeMap<PeerTag, i64>,
    /// Ticks since the start.
    ticks: u32,
    /// Conflicts came or went since it was last looked which directories' names clash.
    clashes: bool,
    /// Where this peer's disk may have lost ops it made: who may have them, and has not said since what it has.
    unheard: BTreeSet<PeerTag>,
    touch: Touch,
    leases: Leases,
    locks: Locks,
    heirs: Heirs,
    wishes: Wishes,
    /// What own ops are built on that some peer may not have yet.
    foundations: Vec<Foundation>,
}

/// Brings all that the namespace has by now to stable storage.
fn sync_log(namespace: &Namespace) -> Effect {
    Effect::SyncLog(namespace.vector().clone())
}

impl Peer {
    /// A peer that has just started; `Event`s follow. The first effects set the timers.
    pub fn start(
        me: PeerTag,
        past: Past,
        share: ShareId,
        membership: Membership,
        healing: HealingSettings,
        search: Search,
        namespace: &Namespace,
    ) -> (Peer, Vec<Effect>) {
        let mut peer = Peer {
            me,
            share,
            membership,
            links: BTreeMap::new(),
            absent: BTreeMap::new(),
            usage: None,
            loads: BTreeMap::new(),
            healing: Healing::new(me, healing),
            search,
            hears_everyone_for: Duration::ZERO,
            ready: false,
            awaiting_durable: BTreeMap::new(),
            past,
            log_bound: LogBound::default(),
            away_for: BTreeMap::new(),
            rebasing: false,
            clocks: BTreeMap::new(),
            ticks: 0,
            clashes: true,
            unheard: BTreeSet::new(),
            // What was read from the log at the start may lie in the page cache only.
            durable: VersionVector::default(),
            touch: Touch::default(),
            leases: Leases::default(),
            locks: Locks::default(),
            heirs: Heirs::default(),
            wishes: Wishes::default(),
            foundations: Vec::new(),
        };
        let mut effects = vec![Effect::SetTimer { after: TICK, timer: Timer::Tick }, sync_log(namespace)];
        let others: Vec<PeerTag> = namespace.peers().map(|(tag, _)| tag).filter(|tag| *tag != me).collect();
        if past.memory != Memory::Whole {
            peer.unheard.extend(&others);
        }
        peer.membership(MembershipEvent::Introduce(others), &mut effects);
        (peer, effects)
    }

    /// Under which name it makes ops.
    pub fn author(&self) -> Author {
        Author::new(self.me, self.past.epoch)
    }

    /// Whether every peer that may have ops this one made and lost has said what it has, and that is here.
    pub fn has_heard_everyone(&self) -> bool {
        self.unheard.is_empty()
    }

    pub fn me(&self) -> PeerTag {
        self.me
    }

    /// Whether the membership believes the peer alive; this one always is.
    pub fn is_alive(&self, peer: PeerTag) -> bool {
        peer == self.me || self.membership.is_alive(peer)
    }

    /// Whether at least one peer has said what it has, and all that any said is here.
    pub fn has_caught_up(&self, namespace: &Namespace) -> bool {
        let mut greeted = self.links.values().filter(|link| link.greeted && link.needed.is_none()).peekable();
        greeted.peek().is_some() && greeted.all(|link| namespace.vector().covers(&link.theirs))
    }

    /// Asks every connected peer to make my ops up to `seq` durable.
    pub fn request_durable(&mut self, namespace: &Namespace, seq: u64) -> Vec<Effect> {
        let author = self.author();
        let message = || ControlMessage::SyncUpTo { epoch: author.epoch(), seq };
        let ask = |peer: &PeerTag| Effect::SendControl { to: *peer, message: message() };
        let mut effects = vec![sync_log(namespace)];
        let lacks =
            |durable: &VersionVector| durable.get(author) < seq || !durable.covers(self.wishes.done_by_others());
        effects.extend(self.links.iter().filter(|(_, link)| lacks(&link.durable)).map(|(peer, _)| ask(peer)));
        effects
    }

    /// Makes changes of this machine's own: stamped, applied, logged and pushed. The number is the last op's seq.
    pub fn change(&mut self, namespace: &mut Namespace, changes: Vec<Change>, now: WallTime) -> (u64, Vec<Effect>) {
        let Applied { ops, touched } = namespace.change(self.author(), now, changes);
        let seq = namespace.vector().get(self.author());
        let mut effects = Vec::new();
        self.accepted(namespace, ops, &touched, None, &mut effects);
        (seq, effects)
    }

    /// Takes in one event.
    pub fn handle(&mut self, namespace: &mut Namespace, event: Event, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Connected(peer) => {
                // One connection may take the place of another without a word.
                self.unlink(peer);
                self.forget_asked(peer, now.steady, &mut effects);
                self.links.insert(peer, Link::default());
                if !self.membership.is_alive(peer) {
                    // That it lives is news that the membership still has to hear.
                    self.touch.is_arriving(peer, now.steady);
                }
                effects.push(self.hello(peer, namespace));
                self.tell_clock(peer, now.wall, &mut effects);
                self.membership(MembershipEvent::Introduce(vec![peer]), &mut effects);
                self.searching(SearchEvent::Connected(peer), &mut effects);
            }
            Event::Disconnected(peer) => {
                self.unlink(peer);
                self.forget_asked(peer, now.steady, &mut effects);
                self.awaiting_durable.remove(&peer);
                self.searching(SearchEvent::Disconnected(peer), &mut effects);
                effects.push(Effect::Settled);
            }
            Event::Datagram { from, bytes } => self.membership(MembershipEvent::Datagram { from, bytes }, &mut effects),
            Event::Timer(Timer::Membership(timer)) => self.membership(MembershipEvent::Timer(timer), &mut effects),
            Event::Timer(Timer::Tick) => {
                self.tick(namespace, now.steady, &mut effects);
                self.wishes.tick(now.steady);
                self.let_go_of_the_absent(namespace, now.wall, &mut effects);
                self.look_at_clocks(namespace, now.wall, &mut effects);
                self.free_locks_of_the_dead(namespace, now.steady, &mut effects);
                self.look_at_leases(namespace, now, &mut effects);
                self.merge_directories(namespace, now.wall, &mut effects);
                self.look_after_groups(namespace, now.wall, &mut effects);
                self.searching(SearchEvent::Tick(TICK), &mut effects);
            }
            Event::Timer(Timer::Leases) => self.leases_timer(namespace, now, &mut effects),
            Event::Timer(Timer::Search(timer)) => {
                self.searching(SearchEvent::Timer(timer), &mut effects);
            }
            Event::Control { from, message } => self.control(namespace, from, message, now, &mut effects),
            Event::LogDurable(vector) => self.log_durable(namespace, vector, &mut effects),
            Event::Usage(usage) => {
                self.usage = Some(usage);
            }
            Event::Worked { work, outcome } => self.worked(namespace, &work, outcome, now.wall, &mut effects),
            Event::Lacking { group, slots } => self.lacking(namespace, group, slots, now.wall, &mut effects),
            Event::Stored(names) => self.searching(SearchEvent::Stored(names), &mut effects),
            Event::Search { search, block } => self.look_for(namespace, search, block, &mut effects),
            Event::Holds { query, pieces } => {
                self.searching(SearchEvent::Holds { query, pieces }, &mut effects);
            }
            Event::Hurry => self.healing.hurry(),
            Event::SnapshotFailed => self.rebasing = false,
            Event::Ready => self.is_ready(namespace, &mut effects),
            Event::Emptied => self.emptied(namespace, now.wall, &mut effects),
            Event::Need { id, need } => self.need(namespace, id, need, now, &mut effects),
            Event::Forget { id } => self.forget_need(id),
            Event::Lock { id, ino, request } => self.want_lock(namespace, id, (ino, request), now, &mut effects),
            Event::ForgetLock { id } => self.forget_lock(id, now.steady, &mut effects),
            Event::Unlock { id, ino, owner, first, last } => {
                self.unlock(namespace, id, (ino, owner), (first, last), now, &mut effects);
            }
            Event::Recalled(ino) => self.recalled(namespace, ino, now, &mut effects),
            Event::Leaving => {
                self.bequeath(namespace, now, &mut effects);
                effects.extend(
                    self.links.keys().map(|to| Effect::SendControl { to: *to, message: ControlMessage::Leaving }),
                );
                self.membership(MembershipEvent::Leave, &mut effects);
            }
        }
        self.answer_wishes(namespace, now.steady, &mut effects);
        effects
    }

    /// It may make ops: those that its disk lost are here again, or keep their numbers.
    fn is_ready(&mut self, namespace: &Namespace, effects: &mut Vec<Effect>) {
        self.ready = true;
        if self.past.memory == Memory::Unsure {
            self.past.memory = Memory::Apart;
            if !self.unheard.is_empty() {
                self.past.epoch = self.past.next_epoch(namespace.counter(self.me));
            }
            effects.push(Effect::Remember(self.past));
            self.remembers(effects);
        }
    }

    fn remembers(&mut self, effects: &mut Vec<Effect>) {
        if self.past.memory == Memory::Apart && self.unheard.is_empty() {
            self.past.memory = Memory::Whole;
            effects.push(Effect::Remember(self.past));
        }
    }

    /// What follows from ops that are now part of the namespace, whoever made them.
    fn accepted(
        &mut self,
        namespace: &Namespace,
        ops: Vec<Op>,
        touched: &BTreeSet<Key>,
        from: Option<PeerTag>,
        effects: &mut Vec<Effect>,
    ) {
        if ops.is_empty() {
            return;
        }
        self.clashes |= touched.iter().any(|key| matches!(key, Key::Conflict(..)));
        effects.push(Effect::Persist(ops.clone()));
        self.note_away(namespace, touched, effects);
        if from.is_some() {
            self.wishes.note_done(self.me, &ops);
        }
        self.locks.inherited |= touched.iter().any(|key| matches!(key, Key::Tenures(_)));
        if from.is_none() {
            self.push_own(&ops, effects);
        } else {
            // What a process here is about to be told it has done itself the kernel need not be told by others; and it
            // holds the directory until then, so that nobody could.
            let own_wish = |op: &Op| matches!(op.change, Change::For { peer, .. } if peer == self.me);
            if !ops.iter().all(own_wish) {
                effects.push(Effect::Invalidate(touched.clone()));
            }
            if touched.contains(&Key::Tenures(self.me)) {
                effects.push(Effect::Deposed);
            }
        }
        if touched.iter().any(|key| matches!(key, Key::Peer(_))) {
            self.roster_changed(namespace, touched, effects);
        }
    }

    fn roster_changed(&mut self, namespace: &Namespace, touched: &BTreeSet<Key>, effects: &mut Vec<Effect>) {
        for key in touched {
            let Key::Peer(tag) = key else { continue };
            if namespace.peer(*tag).is_none() {
                let follows = self.membership.forget(*tag);
                self.membership_effects(follows, effects);
                self.links.remove(tag);
                self.searching(SearchEvent::Disconnected(*tag), effects);
                self.absent.remove(tag);
                self.touch.forget(*tag);
                self.loads.remove(tag);
                self.clocks.remove(tag);
            } else if *tag != self.me {
                self.membership(MembershipEvent::Introduce(vec![*tag]), effects);
            }
        }
        effects.push(Effect::RosterChanged);
    }

    fn membership(&mut self, event: MembershipEvent, effects: &mut Vec<Effect>) {
        let follows = self.membership.handle(event);
        self.membership_effects(follows, effects);
    }

    fn membership_effects(&mut self, follows: Vec<MembershipEffect>, effects: &mut Vec<Effect>) {
        for effect in follows {
            match effect {
                MembershipEffect::Send { to, bytes } => effects.push(Effect::SendDatagram { to, bytes }),
                MembershipEffect::SetTimer { after, timer } => {
                    effects.push(Effect::SetTimer { after, timer: Timer::Membership(timer) });
                }
                MembershipEffect::Up(peer) => effects.push(Effect::Alive { peer, alive: true }),
                MembershipEffect::Down(peer) => {
                    effects.push(Effect::Alive { peer, alive: false });
                    effects.push(Effect::Settled);
                }
                MembershipEffect::Rejoin => {}
                MembershipEffect::Refused { from, why } => effects.push(Effect::Refused { peer: from, why }),
            }
        }
    }
}

#[cfg(test)]
mod tests;
