//! Clocks that are wrong: each peer says what its own says, and ops stamped too far ahead are left out. Nothing is
//! decided by anybody's clock; a person has to know which one is to be set.

use super::exchange::Link;
use super::{Effect, Peer, TICK};
use crate::id::{Author, PeerTag};
use crate::namespace::{CLOCK_AHEAD_MS, Namespace, Op};
use crate::time::WallTime;
use crate::wire::ControlMessage;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a peer says what its clock says: a clock that is set right is known to be right soon.
const TELL: Duration = Duration::from_secs(8);

/// How often ops that were left out are asked for again: until then the clock may have been set.
const ASK_AGAIN: Duration = Duration::from_secs(8);

/// From here on a difference is worth a word: well above what a message takes, and what people notice in the times of
/// files.
const WORTH_A_WORD_MS: i64 = 60 * 1000;

impl Peer {
    pub(super) fn tell_clock(&self, to: PeerTag, now: WallTime, effects: &mut Vec<Effect>) {
        effects.push(Effect::SendControl { to, message: ControlMessage::Clock { now } });
    }

    /// By how much another's clock is ahead of this one, as far as can be told from a message.
    pub(super) fn heard_clock(&mut self, from: PeerTag, theirs: WallTime, now: WallTime, effects: &mut Vec<Effect>) {
        let ahead = clamped(theirs) - clamped(now);
        let before = self.clocks.insert(from, ahead);
        if is_off(ahead) && !before.is_some_and(is_off) {
            effects.push(Effect::ClockDiffers { peer: from, ahead_ms: ahead });
        }
    }

    /// By how many milliseconds a connected peer's clock is ahead of this one, if it is worth a word.
    pub fn clock_ahead(&self, peer: PeerTag) -> Option<i64> {
        self.clocks.get(&peer).copied().filter(|ahead| self.links.contains_key(&peer) && is_off(*ahead))
    }

    /// Whether what the peer makes is left out here, since its clock is too far ahead.
    pub(super) fn is_ahead_of_time(&self, peer: PeerTag) -> bool {
        self.clocks.get(&peer).is_some_and(|ahead| *ahead > CLOCK_AHEAD_MS as i64)
    }

    /// By how many milliseconds this peer's own clock is ahead of all others, where all that are connected (two at
    /// least) say that it is off in the same direction: then it is this one that is to be set.
    pub fn own_clock_ahead(&self) -> Option<i64> {
        let heard: Vec<i64> = self.links.keys().filter_map(|peer| self.clocks.get(peer)).copied().collect();
        let same = heard.iter().all(|ahead| is_off(*ahead) && (*ahead < 0) == (heard[0] < 0));
        (heard.len() >= 2 && same).then(|| -heard.iter().copied().min_by_key(|ahead| ahead.abs()).unwrap_or(0))
    }

    /// Whether another refuses what this peer makes, though its clock was set right: stamps never go back. It has to go
    /// on from a snapshot.
    fn is_ahead_of_itself(&self, namespace: &Namespace, link: &Link, now: WallTime) -> bool {
        let unheard = link.lagging && link.theirs.get(self.author()) < namespace.vector().get(self.author());
        unheard && namespace.clock().millis() > now.millis().saturating_add(CLOCK_AHEAD_MS)
    }

    /// Leaves out what is stamped too far ahead: somebody's clock is wrong, and the ops of nobody else wait for that.
    pub(super) fn leave_out_the_future(
        &mut self,
        namespace: &Namespace,
        from: PeerTag,
        ops: &mut Vec<Op>,
        now: WallTime,
        effects: &mut Vec<Effect>,
    ) {
        let ahead = |op: &Op| op.stamp.time.millis().saturating_sub(now.millis());
        let early = |op: &&Op| ahead(op) > CLOCK_AHEAD_MS && namespace.vector().get(op.stamp.author) < op.seq;
        let authors: BTreeMap<Author, u64> =
            ops.iter().filter(early).map(|op| (op.stamp.author, ahead(op))).rev().collect();
        if authors.is_empty() {
            return;
        }
        ops.retain(|op| !authors.contains_key(&op.stamp.author) || ahead(op) <= CLOCK_AHEAD_MS);
        let Some(link) = self.links.get_mut(&from) else { return };
        if !std::mem::replace(&mut link.refused, true) {
            effects
                .extend(authors.into_iter().map(|(author, ms)| Effect::LeftOut { peer: author.peer(), ahead_ms: ms }));
        }
    }

    pub(super) fn look_at_clocks(&mut self, namespace: &Namespace, now: WallTime, effects: &mut Vec<Effect>) {
        self.ticks = self.ticks.wrapping_add(1);
        let due = |every: Duration| self.ticks.is_multiple_of((every.as_secs() / TICK.as_secs()) as u32);
        if due(TELL) && self.usage.is_some() {
            let peers: Vec<PeerTag> = self.links.keys().copied().collect();
            peers.into_iter().for_each(|to| self.tell_clock(to, now, effects));
        }
        if due(ASK_AGAIN) {
            let links = self.links.iter_mut();
            let refused: Vec<PeerTag> =
                links.filter_map(|(peer, link)| std::mem::take(&mut link.refused).then_some(*peer)).collect();
            effects.extend(refused.into_iter().map(|peer| self.hello(peer, namespace)));
        }
        // Not as long as the clock may still be wrong: what is made anew by it would be refused again.
        let right = |peer: &PeerTag| self.clocks.get(peer).is_some_and(|ahead| !is_off(*ahead));
        let usable = |(peer, link): &(&PeerTag, &Link)| {
            link.greeted && link.needed.is_none() && right(peer) && self.is_ahead_of_itself(namespace, link, now)
        };
        let from = self.links.iter().find(usable).map(|(peer, _)| *peer);
        if let Some(from) = from.filter(|_| self.ready && !self.rebasing) {
            self.rebasing = true;
            effects.push(Effect::FetchSnapshot { from });
        }
    }
}

fn is_off(ahead_ms: i64) -> bool {
    ahead_ms.abs() > WORTH_A_WORD_MS
}

/// Milliseconds since 1970, within what can be subtracted.
fn clamped(time: WallTime) -> i64 {
    time.0 / 1_000_000
}
