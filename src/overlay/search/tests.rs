//! Searches over small overlays whose messages are handed over at once, in the order in which they were sent.

use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const COPY: Piece = Piece { geometry: Geometry { data: 1, parity: 0 }, index: 0 };

type Found = BTreeSet<(PeerTag, Piece)>;

/// Peers that are linked as a test wants.
struct Overlay {
    peers: BTreeMap<PeerTag, Search>,
    holding: BTreeMap<PeerTag, BTreeMap<BlockName, Vec<Piece>>>,
    sent: u32,
    timers: VecDeque<(PeerTag, SearchTimer)>,
    ended: BTreeMap<u64, Found>,
}

fn tag(number: usize) -> PeerTag {
    PeerTag(number as u32 + 1)
}

fn block(number: u8) -> BlockName {
    BlockName::of(&[number])
}

fn settings(levels: usize) -> SearchSettings {
    let summaries = SummarySettings { levels, least_bytes: 512, period: SECOND, rate: u64::MAX };
    SearchSettings { passed_on: usize::MAX, summaries, ..SearchSettings::meshed() }
}

impl Overlay {
    fn new(peers: usize, links: &[(usize, usize)], settings: &SearchSettings) -> Overlay {
        let peer = |number: usize| (tag(number), Search::new(tag(number), settings.clone(), number as u64));
        let mut overlay = Overlay {
            peers: (0..peers).map(peer).collect(),
            holding: BTreeMap::new(),
            sent: 0,
            timers: VecDeque::new(),
            ended: BTreeMap::new(),
        };
        for (a, b) in links {
            overlay.event(tag(*a), SearchEvent::Connected(tag(*b)));
            overlay.event(tag(*b), SearchEvent::Connected(tag(*a)));
        }
        overlay
    }

    fn store(&mut self, peer: usize, block: BlockName, pieces: Vec<Piece>) {
        let holding = self.holding.entry(tag(peer)).or_default();
        holding.insert(block, pieces);
        let names: Vec<BlockName> = holding.keys().copied().collect();
        self.event(tag(peer), SearchEvent::Stored(Bloom::of(names.into_iter(), 512)));
    }

    /// Lets summaries travel as far as they go.
    fn tell(&mut self) {
        for _ in 0..=crate::overlay::MAX_LEVELS {
            for peer in self.peers.keys().copied().collect::<Vec<_>>() {
                self.event(peer, SearchEvent::Tick(SECOND));
            }
        }
        self.sent = 0;
    }

    fn event(&mut self, at: PeerTag, event: SearchEvent) {
        let mut coming = VecDeque::from([(at, event)]);
        while let Some((at, event)) = coming.pop_front() {
            let Some(peer) = self.peers.get_mut(&at) else { continue };
            for effect in peer.handle(event) {
                match effect {
                    SearchEffect::Send { to, message } => {
                        message.check().unwrap();
                        self.sent += 1;
                        coming.push_back((to, SearchEvent::Heard { from: at, message }));
                    }
                    SearchEffect::LookUp { query, block } => {
                        let pieces = self.holding.get(&at).and_then(|holding| holding.get(&block)).cloned();
                        coming.push_back((at, SearchEvent::Holds { query, pieces: pieces.unwrap_or_default() }));
                    }
                    SearchEffect::SetTimer { timer, .. } => self.timers.push_back((at, timer)),
                    SearchEffect::Ended { search, found, .. } => {
                        assert!(self.ended.insert(search, found).is_none(), "a search ends once");
                    }
                }
            }
        }
    }

    /// Asks, and lets round after round pass until the search is over: what it found, and in which round.
    fn search(&mut self, asker: usize, block: BlockName, hops: u8) -> (Found, usize) {
        self.sent = 0;
        self.event(tag(asker), SearchEvent::Ask { search: 1, block, hops });
        let mut round = 0;
        loop {
            if let Some(found) = self.ended.remove(&1) {
                self.timers.clear();
                return (found, round);
            }
            let (peer, timer) = self.timers.pop_front().expect("a search that runs has a timer");
            round = timer.round;
            self.event(peer, SearchEvent::Timer(timer));
        }
    }
}

fn line(peers: usize) -> Vec<(usize, usize)> {
    (1..peers).map(|number| (number - 1, number)).collect()
}

fn mesh(peers: usize) -> Vec<(usize, usize)> {
    (0..peers).flat_map(|a| (0..a).map(move |b| (b, a))).collect()
}

#[test]
fn summaries_lead_straight_to_the_holder() {
    let mut overlay = Overlay::new(5, &line(5), &settings(4));
    overlay.store(4, block(1), vec![COPY]);
    overlay.tell();
    assert_eq!(overlay.search(0, block(1), 4), (BTreeSet::from([(tag(4), COPY)]), 0));
    assert_eq!(overlay.sent, 8, "four hops there and four back");
}

#[test]
fn hops_are_a_bound() {
    let mut overlay = Overlay::new(5, &line(5), &settings(4));
    overlay.store(4, block(1), vec![COPY]);
    overlay.tell();
    assert_eq!(overlay.search(0, block(1), 3).0, BTreeSet::new());
    assert_eq!(overlay.search(0, block(1), 0).0, BTreeSet::new(), "an impossible number is as good as one");
}

#[test]
fn what_no_summary_tells_of_is_found_by_asking_all() {
    let mut overlay = Overlay::new(6, &line(6), &settings(2));
    overlay.tell();
    // Stored since the summaries were told.
    overlay.holding.entry(tag(5)).or_default().insert(block(1), vec![COPY]);
    let (found, round) = overlay.search(0, block(1), 6);
    assert_eq!(found, BTreeSet::from([(tag(5), COPY)]));
    assert!(round >= 1);
}

#[test]
fn a_search_collects_as_many_shards_as_decoding_takes_and_one_more() {
    let geometry = Geometry { data: 4, parity: 2 };
    let mut overlay = Overlay::new(20, &mesh(20), &settings(1));
    for index in 0..6 {
        overlay.store(usize::from(index) + 10, block(1), vec![Piece { geometry, index }]);
    }
    overlay.tell();
    let (found, _) = overlay.search(0, block(1), 1);
    assert_eq!(found.len(), 5);
    assert_eq!(overlay.sent, 12, "a query to each holder and an answer from each");
    for dead in 10..12 {
        overlay.peers.remove(&tag(dead));
    }
    assert_eq!(overlay.search(0, block(1), 1).0.len(), 4, "just enough will do");
    overlay.peers.remove(&tag(12));
    let (found, round) = overlay.search(0, block(1), 1);
    assert_eq!((found.len(), round), (3, 2), "too few are told after the last round");
}

#[test]
fn shards_of_two_geometries_do_not_add_up() {
    let (old, new) = (Geometry { data: 2, parity: 0 }, Geometry { data: 3, parity: 0 });
    let piece = |geometry, index| (tag(index as usize), Piece { geometry, index });
    assert!(!decodable(&BTreeSet::from([piece(old, 0), piece(new, 0), piece(new, 1)]), 0));
    assert!(decodable(&BTreeSet::from([piece(old, 0), piece(old, 1), piece(new, 1)]), 0));
    let same = [(tag(1), Piece { geometry: old, index: 0 }), (tag(2), Piece { geometry: old, index: 0 })];
    assert!(!decodable(&same.into(), 0), "the same shard twice is one");
}

#[test]
fn a_query_is_passed_on_once_and_memory_is_bounded() {
    let mut search = Search::new(tag(0), settings(1), 1);
    search.handle(SearchEvent::Connected(tag(1)));
    search.handle(SearchEvent::Connected(tag(2)));
    let query = |number| {
        let query = Query { id: QueryId { asker: tag(9), number }, block: block(1), hops: 3, spread: Spread::All };
        SearchEvent::Heard { from: tag(1), message: SearchMessage::Query(query) }
    };
    let passed_on = search.handle(query(0));
    assert!(passed_on.iter().any(|effect| matches!(effect, SearchEffect::Send { to, .. } if *to == tag(2))));
    assert_eq!(search.handle(query(0)), []);
    for number in 1..=REMEMBERED as u64 + 10 {
        search.handle(query(number));
    }
    assert_eq!((search.came_from.len(), search.remembered.len()), (REMEMBERED, REMEMBERED));
}

#[test]
fn strangers_own_queries_and_answers_nobody_asked_for_are_ignored() {
    let mut search = Search::new(tag(0), settings(1), 1);
    let query = |asker| Query { id: QueryId { asker, number: 1 }, block: block(1), hops: 3, spread: Spread::All };
    let message = SearchMessage::Query(query(tag(9)));
    assert_eq!(search.handle(SearchEvent::Heard { from: tag(7), message }), [], "no neighbour");
    search.handle(SearchEvent::Connected(tag(1)));
    let message = SearchMessage::Query(query(tag(0)));
    assert_eq!(search.handle(SearchEvent::Heard { from: tag(1), message }), [], "its own");
    for asker in [tag(0), tag(5)] {
        let id = QueryId { asker, number: 77 };
        let message = SearchMessage::Answer(Answer { id, holder: tag(1), pieces: vec![COPY], hops: 1 });
        assert_eq!(search.handle(SearchEvent::Heard { from: tag(1), message }), []);
    }
}

#[test]
fn one_search_too_many_ends_at_once() {
    let mut search = Search::new(tag(0), settings(1), 1);
    for number in 0..SEARCHES as u64 {
        let effects = search.handle(SearchEvent::Ask { search: number, block: block(1), hops: 1 });
        assert!(matches!(effects[..], [SearchEffect::SetTimer { .. }]));
    }
    let effects = search.handle(SearchEvent::Ask { search: 1000, block: block(1), hops: 1 });
    assert_eq!(effects, [SearchEffect::Ended { search: 1000, block: block(1), found: BTreeSet::new() }]);
}

#[test]
fn messages_out_of_bounds_are_told_from_others() {
    let id = QueryId { asker: tag(1), number: 1 };
    let query = |hops| SearchMessage::Query(Query { id, block: block(1), hops, spread: Spread::Guided });
    assert!(query(0).check().is_err() && query(MAX_HOPS + 1).check().is_err() && query(1).check().is_ok());
    let answer = |pieces| SearchMessage::Answer(Answer { id, holder: tag(1), pieces: vec![COPY; pieces], hops: 1 });
    assert!(answer(MAX_PIECES + 1).check().is_err() && answer(MAX_PIECES).check().is_ok());
    let impossible = Piece { geometry: Geometry { data: 4, parity: 2 }, index: 6 };
    let answer = Answer { id, holder: tag(1), pieces: vec![impossible], hops: 1 };
    assert!(SearchMessage::Answer(answer).check().is_err());
    assert!(SearchMessage::Summary(vec![Bloom::default(); crate::overlay::MAX_LEVELS + 1]).check().is_err());
}

proptest! {
    #[test]
    fn whatever_is_within_reach_is_found(
        parents in prop::collection::vec(any::<prop::sample::Index>(), 1..30),
        more in prop::collection::vec((0usize..30, 0usize..30), 0..30),
        (asker, holder) in (0usize..30, 0usize..30),
        told in any::<bool>(),
    ) {
        let peers = parents.len() + 1;
        let mut links: Vec<_> = parents.iter().enumerate().map(|(at, parent)| (parent.index(at + 1), at + 1)).collect();
        links.extend(more.into_iter().map(|(a, b)| (a % peers, b % peers)).filter(|(a, b)| a != b));
        let (asker, holder) = (asker % peers, holder % peers);
        prop_assume!(asker != holder);
        let mut overlay = Overlay::new(peers, &links, &settings(4));
        overlay.tell();
        overlay.store(holder, block(1), vec![COPY]);
        if told {
            overlay.tell();
        }
        let mut reached = BTreeSet::from([asker]);
        let mut far = 0;
        while !reached.contains(&holder) {
            far += 1;
            let next = links.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
            let next: Vec<usize> = next.filter(|(a, _)| reached.contains(a)).map(|(_, b)| b).collect();
            reached.extend(next);
        }
        prop_assume!(far <= usize::from(MAX_HOPS));
        let (found, round) = overlay.search(asker, block(1), MAX_HOPS);
        prop_assert_eq!(found, BTreeSet::from([(tag(holder), COPY)]));
        if told && far <= 4 {
            prop_assert_eq!(round, 0, "{} hops", far);
        }
    }
}
