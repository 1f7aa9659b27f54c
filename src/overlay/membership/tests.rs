use super::*;
use proptest::prelude::*;
use rand::RngExt;
use std::collections::BTreeMap;

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
/// What the clocks show when the network starts: milliseconds of sixty years.
const CLOCK: u64 = 60 * 365 * 86_400_000;

/// What is on its way to a peer.
#[derive(Debug)]
enum Coming {
    Datagram { from: PeerTag, bytes: Bytes },
    Timer { life: u32, timer: MembershipTimer },
}

/// Peers on a network with a clock that moves when nothing else is left to do.
struct Share {
    now: u64,
    peers: BTreeMap<PeerTag, Membership>,
    /// How often each was started: timers of an earlier life come to nobody.
    lives: BTreeMap<PeerTag, u32>,
    queue: BTreeMap<(u64, u64), (PeerTag, Coming)>,
    queued: u64,
    random: Xoshiro256PlusPlus,
    /// Datagrams of a thousand that are lost.
    lost: u32,
    /// Peers below this and from this on do not hear each other.
    split: Option<PeerTag>,
    news: Vec<(u64, PeerTag, MembershipEffect)>,
    sent: u64,
    size: u32,
    settings: Settings,
}

impl Share {
    /// `size` peers, started within half a second, that have met.
    fn of(size: u32, seed: u64) -> Share {
        Share::with(size, seed, Settings::default(), 5 * SECOND)
    }

    /// The same with these settings, after so long.
    fn with(size: u32, seed: u64, settings: Settings, met: u64) -> Share {
        let mut share = Share {
            now: 0,
            peers: BTreeMap::new(),
            lives: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            lost: 0,
            split: None,
            news: Vec::new(),
            sent: 0,
            size,
            settings,
        };
        for tag in 1..=size {
            share.start(tag, CLOCK);
            let pause = share.random.random_range(0..500 * MS) / u64::from(size);
            share.run(pause);
        }
        share.run(met);
        assert_eq!(share.views(), share.whole(), "all have met");
        share.news.clear();
        share
    }

    /// Starts a peer whose clock shows so many milliseconds more than this network's.
    fn start(&mut self, tag: u32, clock: u64) {
        let peer = PeerTag(tag);
        *self.lives.entry(peer).or_default() += 1;
        let seed = self.random.random();
        let member = Member { tag: peer, generation: clock + self.now / MS };
        self.peers.insert(peer, Membership::new(member, self.settings, seed));
        self.event(peer, MembershipEvent::Introduce((1..=self.size).map(PeerTag).collect()));
    }

    fn kill(&mut self, tag: u32) {
        self.peers.remove(&PeerTag(tag));
    }

    fn event(&mut self, peer: PeerTag, event: MembershipEvent) {
        let Some(membership) = self.peers.get_mut(&peer) else { return };
        for effect in membership.handle(event) {
            self.effect(peer, effect);
        }
    }

    fn effect(&mut self, peer: PeerTag, effect: MembershipEffect) {
        match effect {
            MembershipEffect::Send { to, bytes } => {
                assert!(bytes.len() <= DATAGRAM_BYTES);
                self.sent += 1;
                let cut = self.split.is_some_and(|first| (peer < first) != (to < first));
                if !cut && self.random.random_range(0..1000) >= self.lost {
                    let delay = self.random.random_range(MS / 5..3 * MS);
                    self.later(delay, to, Coming::Datagram { from: peer, bytes });
                }
            }
            MembershipEffect::SetTimer { after, timer } => {
                let life = self.lives[&peer];
                self.later(after.as_nanos() as u64, peer, Coming::Timer { life, timer });
            }
            other => self.news.push((self.now, peer, other)),
        }
    }

    fn later(&mut self, after: u64, to: PeerTag, what: Coming) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), (to, what));
    }

    fn run(&mut self, time: u64) {
        let until = self.now + time;
        while let Some(next) = self.queue.first_entry() {
            if next.key().0 > until {
                break;
            }
            let ((at, _), (peer, what)) = next.remove_entry();
            self.now = at;
            match what {
                Coming::Datagram { from, bytes } => self.event(peer, MembershipEvent::Datagram { from, bytes }),
                Coming::Timer { life, timer } if life == self.lives[&peer] => {
                    self.event(peer, MembershipEvent::Timer(timer));
                }
                Coming::Timer { .. } => {}
            }
        }
        self.now = until;
    }

    /// Whom each running peer believes alive.
    fn views(&self) -> BTreeMap<PeerTag, Vec<u32>> {
        self.peers.iter().map(|(peer, view)| (*peer, view.alive().map(|tag| tag.0).collect())).collect()
    }

    /// What the views are when everybody who runs is known to.
    fn whole(&self) -> BTreeMap<PeerTag, Vec<u32>> {
        let all: Vec<u32> = self.peers.keys().map(|tag| tag.0).collect();
        self.peers.keys().map(|peer| (*peer, all.clone())).collect()
    }

    /// How long after `since` the last of the others heard that this one is down, in milliseconds.
    fn known_down(&self, tag: u32, since: u64) -> Option<u64> {
        let down = MembershipEffect::Down(PeerTag(tag));
        let heard = self.news.iter().filter(|(_, _, what)| *what == down);
        let times: BTreeMap<PeerTag, u64> = heard.map(|(at, peer, _)| (*peer, (at - since) / MS)).collect();
        (times.len() == self.peers.len()).then(|| times.into_values().max()).flatten()
    }
}

#[test]
fn a_killed_peer_is_known_dead_to_all_within_three_seconds() {
    for (size, seeds) in [(2, 40), (3, 40), (6, 40), (30, 12)] {
        for seed in 0..seeds {
            let mut share = Share::of(size, seed);
            let pause = share.random.random_range(0..SECOND);
            share.run(pause);
            let killed = 1 + seed as u32 % size;
            let since = share.now;
            share.kill(killed);
            share.run(4 * SECOND);
            let took = share.known_down(killed, since);
            assert!(took.is_some_and(|took| took <= 3000), "{size} peers, seed {seed}: {took:?} ms");
            assert_eq!(share.views(), share.whole());
        }
    }
}

#[test]
fn two_peers_killed_at_once_are_known_dead_within_three_seconds() {
    for seed in 0..20 {
        let mut share = Share::of(6, seed);
        let since = share.now;
        share.kill(2);
        share.kill(5);
        share.run(4 * SECOND);
        for killed in [2, 5] {
            let took = share.known_down(killed, since);
            assert!(took.is_some_and(|took| took <= 3000), "seed {seed}: {took:?} ms");
        }
    }
}

#[test]
fn a_peer_that_starts_again_is_up_again_everywhere() {
    for (size, away) in [(2, 10 * SECOND), (6, 10 * SECOND), (6, SECOND / 10), (30, 5 * SECOND)] {
        let mut share = Share::of(size, 1);
        share.kill(1);
        share.run(away);
        share.start(1, CLOCK);
        share.run(3 * SECOND);
        assert_eq!(share.views(), share.whole(), "{size} peers, away {away}");
    }
}

#[test]
fn a_peer_whose_clock_was_set_back_comes_back() {
    for size in [2, 6] {
        let mut share = Share::of(size, 2);
        share.kill(1);
        share.run(10 * SECOND);
        share.start(1, 0);
        share.run(5 * SECOND);
        assert_eq!(share.views(), share.whole());
    }
}

#[test]
fn a_peer_whose_clock_was_set_back_while_nobody_missed_it_comes_back() {
    let mut share = Share::of(6, 2);
    share.kill(1);
    share.run(SECOND / 10);
    share.start(1, 0);
    share.run(5 * SECOND);
    assert_eq!(share.views(), share.whole());
}

#[test]
fn both_sides_of_a_partition_know_it_and_meet_again() {
    for (size, first) in [(2, 2), (6, 2), (6, 4), (30, 16)] {
        let mut share = Share::of(size, 3);
        share.split = Some(PeerTag(first));
        share.run(10 * SECOND);
        for (peer, view) in share.views() {
            assert!(view.iter().all(|other| (*other < first) == (peer.0 < first)), "{peer} {view:?}");
        }
        share.split = None;
        share.run(5 * SECOND);
        assert_eq!(share.views(), share.whole(), "{size} peers");
        assert!(share.news.iter().any(|(_, _, what)| *what == MembershipEffect::Rejoin));
    }
}

#[test]
fn nobody_is_declared_dead_by_a_network_that_loses_a_tenth() {
    for (size, seeds) in [(2, 10), (6, 10), (30, 3)] {
        for seed in 0..seeds {
            let mut share = Share::of(size, seed);
            share.lost = 100;
            share.run(60 * SECOND);
            assert_eq!(share.news, [], "{size} peers, seed {seed}");
        }
    }
}

#[test]
fn who_leaves_is_down_at_once() {
    for size in [2, 6, 30] {
        let mut share = Share::of(size, 4);
        share.event(PeerTag(1), MembershipEvent::Leave);
        share.kill(1);
        share.run(SECOND / 2);
        assert_eq!(share.views(), share.whole());
    }
}

#[test]
fn who_is_forgotten_does_not_come_back() {
    let mut share = Share::of(6, 5);
    for tag in 2..=6 {
        let effects = share.peers.get_mut(&PeerTag(tag)).unwrap().forget(PeerTag(1));
        assert!(effects.contains(&MembershipEffect::Down(PeerTag(1))));
        effects.into_iter().for_each(|effect| share.effect(PeerTag(tag), effect));
    }
    share.run(20 * SECOND);
    assert!((2..=6).all(|tag| !share.peers[&PeerTag(tag)].is_alive(PeerTag(1))));
    assert!(share.news.iter().all(|(_, _, what)| *what != MembershipEffect::Up(PeerTag(1))));

    // Admitted again, it is there again.
    for tag in 2..=6 {
        share.event(PeerTag(tag), MembershipEvent::Introduce(vec![PeerTag(1)]));
    }
    share.run(5 * SECOND);
    assert_eq!(share.views(), share.whole());
}

#[test]
fn an_idle_peer_sends_the_same_however_large_the_share_is() {
    let per_peer_and_second = |size| {
        let mut share = Share::of(size, 6);
        // What is left of the news of the start has been told.
        share.run(20 * SECOND);
        share.sent = 0;
        share.run(20 * SECOND);
        share.sent / 20 / u64::from(size)
    };
    let (few, many) = (per_peer_and_second(6), per_peer_and_second(60));
    assert!(few <= 10 && many <= 10, "{few} and {many} datagrams a second");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = || {
        let mut share = Share::of(6, 7);
        share.lost = 50;
        share.kill(3);
        share.run(10 * SECOND);
        (share.news, share.sent)
    };
    assert_eq!(history(), history());
}

#[test]
fn news_of_strangers_and_from_strangers_is_not_believed() {
    let mut known = Share::of(3, 8);
    let mut one = Membership::new(Member { tag: PeerTag(1), generation: 1 }, Settings::default(), 0);
    one.handle(MembershipEvent::Introduce(vec![PeerTag(2)]));
    // Peer 2 knows peer 3 and says so; peer 1 has not been introduced to it.
    let mut from_two = Vec::new();
    for _ in 0..3 {
        for effect in one.handle(MembershipEvent::Introduce(vec![PeerTag(2)])) {
            if let MembershipEffect::Send { bytes, .. } = effect {
                let peer = known.peers.get_mut(&PeerTag(2)).unwrap();
                from_two.extend(peer.handle(MembershipEvent::Datagram { from: PeerTag(1), bytes }));
            }
        }
    }
    let mut heard = Vec::new();
    for effect in from_two {
        if let MembershipEffect::Send { to: PeerTag(1), bytes } = effect {
            let stranger = one.handle(MembershipEvent::Datagram { from: PeerTag(3), bytes: bytes.clone() });
            assert!(matches!(stranger[..], [MembershipEffect::Refused { .. }]), "{stranger:?}");
            heard.extend(one.handle(MembershipEvent::Datagram { from: PeerTag(2), bytes }));
        }
    }
    assert!(heard.contains(&MembershipEffect::Up(PeerTag(2))));
    assert!(!one.is_alive(PeerTag(3)) && !heard.contains(&MembershipEffect::Up(PeerTag(3))));
}

/// The first to find out that a killed peer is dead tells those who need to know; how long that took, in milliseconds.
fn found_and_told(share: &mut Share, killed: u32, to: &[u32]) -> u64 {
    let since = share.now;
    share.kill(killed);
    let down = MembershipEffect::Down(PeerTag(killed));
    while !share.news.iter().any(|(_, _, what)| *what == down) {
        assert!(share.now < since + 60 * SECOND, "nobody found out");
        share.run(SECOND / 100);
    }
    let (at, finder, _) = share.news.iter().find(|(_, _, what)| *what == down).cloned().expect("it was found");
    let told = share.peers[&finder].tell(PeerTag(killed), to.iter().map(|tag| PeerTag(*tag)));
    told.into_iter().for_each(|effect| share.effect(finder, effect));
    share.run(SECOND / 100);
    assert!(to.iter().all(|tag| !share.peers[&PeerTag(*tag)].is_alive(PeerTag(killed))), "{finder} told {to:?}");
    (at - since) / MS
}

#[test]
fn frugal_peers_find_the_dead_in_a_cycle_or_so_and_tell_who_needs_to_know() {
    let mut took = Vec::new();
    for seed in 0..20 {
        let mut share = Share::with(30, seed, Settings::frugal(Duration::from_millis(2500)), 60 * SECOND);
        let pause = share.random.random_range(0..3 * SECOND);
        share.run(pause);
        took.push(found_and_told(&mut share, 7, &[3, 12, 29]));
    }
    // A cycle until somebody's probe on average, and 0.7 s until its verdict.
    let mean = took.iter().sum::<u64>() / took.len() as u64;
    assert!((1500..5000).contains(&mean), "{took:?}");
}

#[test]
fn peers_in_high_churn_find_the_dead_in_little_more_than_a_second() {
    let took: Vec<u64> = (0..20)
        .map(|seed| found_and_told(&mut Share::with(30, seed, Settings::high_churn(), 30 * SECOND), 7, &[3, 12, 29]))
        .collect();
    let mean = took.iter().sum::<u64>() / took.len() as u64;
    assert!((700..1700).contains(&mean), "{took:?}");
}

#[test]
fn a_frugal_peer_sends_two_datagrams_a_cycle() {
    for size in [6, 60] {
        let mut share = Share::with(size, 9, Settings::frugal(Duration::from_secs(2)), 60 * SECOND);
        share.sent = 0;
        share.run(60 * SECOND);
        let a_minute = share.sent / u64::from(size);
        assert!((55..=66).contains(&a_minute), "{size} peers: {a_minute} datagrams a peer and minute");
    }
}

#[test]
fn without_gossip_a_suspect_objects_all_the_same() {
    for seed in 0..10 {
        let mut share = Share::with(6, seed, Settings::frugal(Duration::from_secs(1)), 30 * SECOND);
        share.lost = 20;
        share.run(120 * SECOND);
        assert_eq!(share.news, [], "seed {seed}");
    }
}

#[test]
fn both_sides_of_a_partition_of_frugal_peers_meet_again() {
    let mut share = Share::with(6, 3, Settings::frugal(Duration::from_secs(1)), 30 * SECOND);
    share.split = Some(PeerTag(4));
    share.run(60 * SECOND);
    for (peer, view) in share.views() {
        assert!(view.iter().all(|other| (*other < 4) == (peer.0 < 4)), "{peer} {view:?}");
    }
    share.split = None;
    share.run(120 * SECOND);
    assert_eq!(share.views(), share.whole());
}

#[test]
fn who_is_expected_is_not_called_but_believed() {
    let mut one = Membership::new(Member { tag: PeerTag(1), generation: 1 }, Settings::default(), 0);
    let mut two = Membership::new(Member { tag: PeerTag(2), generation: 1 }, Settings::default(), 0);
    let effects = one.handle(MembershipEvent::Expect(vec![PeerTag(2)]));
    assert!(!effects.iter().any(|effect| matches!(effect, MembershipEffect::Send { .. })), "{effects:?}");
    let mut heard = Vec::new();
    for effect in two.handle(MembershipEvent::Introduce(vec![PeerTag(1)])) {
        if let MembershipEffect::Send { to: PeerTag(1), bytes } = effect {
            heard.extend(one.handle(MembershipEvent::Datagram { from: PeerTag(2), bytes }));
        }
    }
    assert!(heard.contains(&MembershipEffect::Up(PeerTag(2))));
}

#[test]
fn news_comes_from_anybody_but_of_the_roster_only() {
    let mut one = Membership::new(Member { tag: PeerTag(1), generation: 1 }, Settings::default(), 0);
    let mut two = Membership::new(Member { tag: PeerTag(2), generation: 1 }, Settings::default(), 0);
    one.handle(MembershipEvent::Expect(vec![PeerTag(2), PeerTag(3)]));
    // Peer 1 is nobody it watches.
    two.handle(MembershipEvent::Expect(vec![PeerTag(3), PeerTag(4)]));
    let down = |tag| foca::Member::down(Member { tag: PeerTag(tag), generation: 5 });
    for tag in [3, 4] {
        two.foca.apply_many(std::iter::once(down(tag)), false, &mut two.outbox).unwrap();
        for effect in two.tell(PeerTag(tag), [PeerTag(1), PeerTag(2), PeerTag(tag)]) {
            let MembershipEffect::Send { to: PeerTag(1), bytes } = effect else { panic!("{effect:?}") };
            // From a peer that is not on this roster.
            let effects = one.handle(MembershipEvent::Datagram { from: PeerTag(9), bytes });
            assert_eq!(matches!(effects[..], [MembershipEffect::Refused { .. }]), tag == 4, "{effects:?}");
        }
    }
    assert!(one.known(PeerTag(3)).is_some_and(|member| member.state() == foca::State::Down));
    assert!(one.known(PeerTag(4)).is_none());
}

proptest! {
    #[test]
    fn bytes_of_any_kind_never_make_it_panic(junk in prop::collection::vec(any::<u8>(), 0..80), at in 0usize..60, flip: u8) {
        let mut one = Membership::new(Member { tag: PeerTag(1), generation: 1 }, Settings::default(), 0);
        let mut two = Membership::new(Member { tag: PeerTag(2), generation: 1 }, Settings::default(), 0);
        one.handle(MembershipEvent::Introduce(vec![PeerTag(2)]));
        one.handle(MembershipEvent::Datagram { from: PeerTag(2), bytes: junk.into() });
        // A real datagram with one byte changed.
        for effect in two.handle(MembershipEvent::Introduce(vec![PeerTag(1)])) {
            if let MembershipEffect::Send { bytes, .. } = effect {
                let mut bytes = bytes.to_vec();
                let at = at % bytes.len();
                bytes[at] ^= flip;
                one.handle(MembershipEvent::Datagram { from: PeerTag(2), bytes: bytes.into() });
            }
        }
    }
}
