//! Membership of one peer: datagrams and timers in, datagrams, timers and news out.

use super::codec::{Codec, DATAGRAM_BYTES, Member, decode_news, encode_news};
use super::probe::Probe;
use super::settings::Settings;
use crate::id::PeerTag;
use bytes::{Buf, BufMut, Bytes};
use foca::{AccumulatingRuntime, Codec as _, Foca, NoCustomBroadcast, OwnedNotification};
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use std::collections::BTreeSet;
use std::time::Duration;

/// What happens to membership.
#[derive(Clone, Debug)]
pub enum MembershipEvent {
    /// Bytes that peer `from` of the share sent: by the connection they came on, not by what they say.
    Datagram { from: PeerTag, bytes: Bytes },
    /// A timer that was set has run out. Timers are given back in the order in which they run out.
    Timer(MembershipTimer),
    /// These are on the roster: they are called, and called again from time to time while they are not alive. Peers
    /// that were never introduced do not exist here, whatever others say of them; so this may be a part of the share
    /// only, see [`super::neighbours`].
    Introduce(Vec<PeerTag>),
    /// These are on the roster too, and will call this peer, or somebody who tells of them: they are not called now, as
    /// they would be by everybody at once.
    Expect(Vec<PeerTag>),
    /// This peer is leaving: the others are told, and nothing happens here any more.
    Leave,
}

/// What membership wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MembershipEffect {
    /// To be sent once, unreliably; never longer than [`DATAGRAM_BYTES`].
    Send {
        to: PeerTag,
        bytes: Bytes,
    },
    /// Hand this timer back after this time.
    SetTimer {
        after: Duration,
        timer: MembershipTimer,
    },
    Up(PeerTag),
    Down(PeerTag),
    /// The others had declared this peer dead; it has come back as its next generation. What it took for granted
    /// as a live peer may not hold any more.
    Rejoin,
    /// A datagram was thrown away: for the log.
    Refused {
        from: PeerTag,
        why: String,
    },
}

/// A timer, only to be handed back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MembershipTimer(Timer);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Timer {
    Foca(foca::Timer<Member>),
    /// Foca's, held back while the last probe, which was answered, rests.
    Rested(foca::Timer<Member>),
    Call,
}

/// What one peer knows of who is alive.
pub struct Membership {
    foca: Foca<Member, Codec, Xoshiro256PlusPlus, NoCustomBroadcast>,
    outbox: AccumulatingRuntime<Member>,
    settings: Settings,
    probe: Probe,
    me: PeerTag,
    /// Everybody who was introduced, without this peer.
    roster: BTreeSet<PeerTag>,
    /// Those of them that are alive.
    alive: BTreeSet<PeerTag>,
    /// The last one called.
    called: PeerTag,
    calling: bool,
    /// How often it came back as its next generation.
    rejoins: u32,
    left: bool,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership").field("me", &self.me).field("alive", &self.alive).finish_non_exhaustive()
    }
}

impl Membership {
    /// Knows nobody yet. The same seed and events give the same effects.
    pub fn new(me: Member, settings: Settings, seed: u64) -> Membership {
        Membership {
            foca: Foca::new(me, settings.foca(), Xoshiro256PlusPlus::seed_from_u64(seed), Codec),
            outbox: AccumulatingRuntime::new(),
            settings,
            probe: Probe::default(),
            me: me.tag,
            roster: BTreeSet::new(),
            alive: BTreeSet::new(),
            called: PeerTag(0),
            calling: false,
            rejoins: 0,
            left: false,
        }
    }

    /// Whether this peer believes that one alive; itself always.
    pub fn is_alive(&self, peer: PeerTag) -> bool {
        peer == self.me || self.alive.contains(&peer)
    }

    /// All peers alive, this one among them, in order.
    pub fn alive(&self) -> impl Iterator<Item = PeerTag> {
        let mut all = self.alive.clone();
        all.insert(self.me);
        all.into_iter()
    }

    /// One thing has happened.
    pub fn handle(&mut self, event: MembershipEvent) -> Vec<MembershipEffect> {
        let mut effects = Vec::new();
        if self.left {
            return effects;
        }
        match event {
            MembershipEvent::Datagram { from, bytes } => {
                if let Err(why) = self.hear(from, &bytes) {
                    effects.push(MembershipEffect::Refused { from, why });
                }
            }
            MembershipEvent::Timer(MembershipTimer(Timer::Foca(timer @ foca::Timer::ProbeRandomMember(_))))
                if !self.settings.probe_rest.is_zero() && !self.probe.is_unanswered() =>
            {
                let timer = MembershipTimer(Timer::Rested(timer));
                effects.push(MembershipEffect::SetTimer { after: self.settings.probe_rest, timer });
            }
            MembershipEvent::Timer(MembershipTimer(Timer::Foca(timer) | Timer::Rested(timer))) => {
                self.timer(timer, &mut effects);
            }
            MembershipEvent::Timer(MembershipTimer(Timer::Call)) => {
                self.call_some();
                effects.push(self.call_later());
            }
            MembershipEvent::Introduce(peers) => {
                let others = self.enroll(peers, &mut effects);
                for peer in others {
                    self.call(peer);
                }
            }
            MembershipEvent::Expect(peers) => {
                self.enroll(peers, &mut effects);
            }
            MembershipEvent::Leave => {
                self.left = true;
                let _ = self.foca.leave_cluster(&mut self.outbox);
            }
        }
        self.drain(&mut effects);
        effects
    }

    /// Tells these peers what is known here of that one: for news that some need at once and that would reach them too
    /// late with the probes. They need not be on this peer's roster; those known dead are left out.
    pub fn tell(&self, news_of: PeerTag, to: impl IntoIterator<Item = PeerTag>) -> Vec<MembershipEffect> {
        let Some(bytes) = self.known(news_of).and_then(|news| encode_news(news).ok()) else { return Vec::new() };
        let dead = |peer: PeerTag| self.roster.contains(&peer) && !self.alive.contains(&peer);
        let others = to.into_iter().filter(|peer| *peer != self.me && *peer != news_of && !dead(*peer));
        others.map(|to| MembershipEffect::Send { to, bytes: bytes.clone() }).collect()
    }

    fn known(&self, peer: PeerTag) -> Option<&foca::Member<Member>> {
        self.foca.iter_membership_state().find(|member| member.id().tag == peer)
    }

    /// This peer is off the roster: it is neither alive nor called nor listened to any more.
    pub fn forget(&mut self, peer: PeerTag) -> Vec<MembershipEffect> {
        let mut effects = Vec::new();
        self.roster.remove(&peer);
        if let Some(member) = self.known(peer).map(|member| *member.id()) {
            let down = std::iter::once(foca::Member::down(member));
            let _ = self.foca.apply_many(down, false, &mut self.outbox);
            let _ = self.foca.handle_timer(foca::Timer::RemoveDown(member), &mut self.outbox);
        }
        self.drain(&mut effects);
        effects
    }

    /// Puts peers on the roster; those of them that are others are handed back.
    fn enroll(&mut self, peers: Vec<PeerTag>, effects: &mut Vec<MembershipEffect>) -> Vec<PeerTag> {
        let others: Vec<PeerTag> = peers.into_iter().filter(|peer| *peer != self.me).collect();
        self.roster.extend(&others);
        if !self.calling {
            self.calling = true;
            effects.push(self.call_later());
        }
        others
    }

    fn timer(&mut self, timer: foca::Timer<Member>, effects: &mut Vec<MembershipEffect>) {
        // foca 2.0 tells a suspect that it is dead when its time is up, even if it has objected.
        if self.has_objected(&timer) {
            return;
        }
        let verdict = matches!(timer, foca::Timer::ProbeRandomMember(_));
        let silent = if verdict { self.probe.end() } else { None };
        // The errors say that timers came late or out of order; it starts another probe and goes on.
        let _ = self.foca.handle_timer(timer, &mut self.outbox);
        if let (Some(silent), None) = (silent, self.settings.gossip_period) {
            // Without gossip nobody would tell the suspect that it has to object.
            let suspect = self.foca.iter_members().find(|member| *member.id() == silent);
            let suspect = suspect.filter(|member| member.state() == foca::State::Suspect);
            if let Some(bytes) = suspect.and_then(|suspect| self.probe.last_chance(*self.foca.identity(), suspect).ok())
            {
                effects.push(MembershipEffect::Send { to: silent.tag, bytes });
            }
        }
    }

    /// Whether this timer would declare a suspect dead that is no longer one.
    fn has_objected(&self, timer: &foca::Timer<Member>) -> bool {
        let foca::Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer else { return false };
        let suspect = foca::Member::new(*member_id, *incarnation, foca::State::Suspect);
        !self.foca.iter_members().any(|member| *member == suspect)
    }

    fn hear(&mut self, from: PeerTag, bytes: &Bytes) -> Result<(), String> {
        let heard = match decode_news(bytes).map_err(|error| error.to_string())? {
            Some(news) if news.id().tag == self.me || self.roster.contains(&news.id().tag) => {
                self.foca.apply_many(std::iter::once(news), true, &mut self.outbox)
            }
            Some(news) => return Err(format!("it tells of peer {}, which is not on the roster", news.id().tag)),
            None => {
                let bytes = self.screen(from, bytes)?;
                self.probe.received(&bytes);
                self.foca.handle_data(&bytes, &mut self.outbox)
            }
        };
        heard.map_err(|error| error.to_string())
    }

    /// Passes on what may be listened to: the sender is who it says, and it and everybody it talks of is on the
    /// roster. News of others is left out, so that no member can fill this peer's memory with made-up ones.
    fn screen(&self, from: PeerTag, bytes: &Bytes) -> Result<Bytes, String> {
        if bytes.len() > DATAGRAM_BYTES {
            return Err(format!("it has {} bytes, more than {DATAGRAM_BYTES}", bytes.len()));
        }
        let mut rest = &bytes[..];
        let header = Codec.decode_header(&mut rest).map_err(|error| error.to_string())?;
        if header.src.tag != from {
            return Err(format!("it says that it comes from peer {}", header.src.tag));
        }
        if !self.roster.contains(&from) {
            return Err("it comes from a peer that is not on the roster".to_owned());
        }
        if rest.is_empty() {
            return Ok(bytes.clone());
        }
        let mut screened = bytes[..bytes.len() - rest.len()].to_vec();
        let tally_at = screened.len();
        screened.put_u16(0);
        let (tally, mut kept) = (rest.try_get_u16().map_err(|_| "it is cut short".to_owned())?, 0);
        for _ in 0..tally {
            let member = Codec.decode_member(&mut rest).map_err(|error| error.to_string())?;
            let tag = member.id().tag;
            if tag == self.me || self.roster.contains(&tag) {
                Codec.encode_member(&member, &mut screened).map_err(|error| error.to_string())?;
                kept += 1;
            }
        }
        if !rest.is_empty() {
            return Err(format!("it has {} bytes too many", rest.len()));
        }
        (&mut screened[tally_at..tally_at + 2]).put_u16(kept);
        Ok(screened.into())
    }

    /// Calls a peer unless it is alive. An answer makes it alive here, and this one there; where it thinks this
    /// one dead, or is thought dead here, that comes out too, and the next generation takes over.
    fn call(&mut self, peer: PeerTag) {
        if !self.alive.contains(&peer) {
            let _ = self.foca.announce(Member::any(peer), &mut self.outbox);
        }
    }

    fn call_some(&mut self) {
        let missing = |peer: &&PeerTag| !self.alive.contains(peer);
        let after = self.roster.range((std::ops::Bound::Excluded(self.called), std::ops::Bound::Unbounded));
        let before = self.roster.range(..=self.called);
        let some: Vec<PeerTag> = after.chain(before).filter(missing).take(self.settings.calls).copied().collect();
        for peer in some {
            self.called = peer;
            self.call(peer);
        }
    }

    /// Whoever is alone looks for company without delay.
    fn call_later(&self) -> MembershipEffect {
        let after = if self.alive.is_empty() { self.settings.probe_period } else { self.settings.announce_period };
        MembershipEffect::SetTimer {
            after: after.min(self.settings.announce_period),
            timer: MembershipTimer(Timer::Call),
        }
    }

    /// Turns what foca has to say into effects.
    fn drain(&mut self, effects: &mut Vec<MembershipEffect>) {
        let (mut news, mut rejoined) = (false, false);
        while let Some(notification) = self.outbox.to_notify() {
            match notification {
                OwnedNotification::MemberUp(member) if self.roster.contains(&member.tag) => {
                    news = true;
                    if self.alive.insert(member.tag) {
                        effects.push(MembershipEffect::Up(member.tag));
                    }
                }
                OwnedNotification::MemberDown(member) => {
                    news = true;
                    if self.alive.remove(&member.tag) {
                        effects.push(MembershipEffect::Down(member.tag));
                    }
                }
                OwnedNotification::Rejoin(_) => {
                    rejoined = true;
                    effects.push(MembershipEffect::Rejoin);
                }
                // A member that took its next generation in one step was alive all the time.
                _ => {}
            }
        }
        if news && !self.left && self.settings.gossip_period.is_some() {
            // Told on at once rather than with the next probe: news crosses the share in a few hops.
            let _ = self.foca.gossip(&mut self.outbox);
        }
        if rejoined {
            // One generation more is enough for a peer that was declared dead, not for one whose clock was set back
            // before it started: steps that double make up for decades within some forty refusals, a message each.
            self.rejoins += 1;
            if let Some(next) = self.foca.identity().later(1 << self.rejoins.min(42)) {
                let _ = self.foca.change_identity(next, &mut self.outbox);
            }
            self.call_some();
        }
        while let Some((to, bytes)) = self.outbox.to_send() {
            self.probe.sent(&bytes);
            if self.roster.contains(&to.tag) {
                effects.push(MembershipEffect::Send { to: to.tag, bytes });
            }
        }
        while let Some((after, timer)) = self.outbox.to_schedule() {
            effects.push(MembershipEffect::SetTimer { after, timer: MembershipTimer(Timer::Foca(timer)) });
        }
    }
}

#[cfg(test)]
mod tests;
