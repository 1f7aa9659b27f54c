//! One run: a random graph of peers, what they hold, who dies, and search after search.

use super::figures::Figures;
use super::scenario::{Scenario, Technique};
use crate::id::{BlockName, PeerTag};
use crate::overlay::{Bloom, Piece, Search, SearchEffect, SearchEvent, SearchMessage, SearchTimer};
use crate::policy::Geometry;
use crate::sim::chance::Chance;
use crate::sim::network::Network;
use crate::sim::queue::{Queue, between, later};
use crate::sim::{Going, STEPS};
use crate::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A whole copy, which is what items have here.
const COPY: Piece = Piece { geometry: Geometry { data: 1, parity: 0 }, index: 0 };

enum What {
    Arrives {
        from: PeerTag,
        to: PeerTag,
        message: SearchMessage,
    },
    Timer(PeerTag, SearchTimer),
    Tick(PeerTag),
    /// The neighbours of a dead peer find out.
    Missed(PeerTag),
    Search(u32),
}

pub struct World<'a> {
    scenario: &'a Scenario,
    technique: Technique,
    queue: Queue<What>,
    network: Network,
    chance: Chance,
    /// The cores of the live.
    peers: BTreeMap<PeerTag, Search>,
    links: BTreeMap<PeerTag, BTreeSet<PeerTag>>,
    items: Vec<BlockName>,
    holders: BTreeMap<BlockName, BTreeSet<PeerTag>>,
    /// The searches that have no answer yet: by whom, for what, and since when.
    asking: BTreeMap<u64, (PeerTag, Instant)>,
    figures: Figures,
}

impl<'a> World<'a> {
    pub fn new(scenario: &'a Scenario, technique: Technique, seed: u64) -> World<'a> {
        let mut chance = Chance::new(seed);
        let tags: Vec<PeerTag> = (1..=scenario.peers).map(PeerTag).collect();
        let links = graph(&tags, scenario.neighbours as usize, &mut chance);
        let (mut items, mut holders) = (Vec::new(), BTreeMap::new());
        for owner in &tags {
            for _ in 0..scenario.items {
                let name = BlockName(chance.bytes());
                let others: Vec<PeerTag> = tags.iter().copied().filter(|peer| peer != owner).collect();
                let mut copies: BTreeSet<PeerTag> =
                    chance.some(others, scenario.copies as usize - 1).into_iter().collect();
                copies.insert(*owner);
                items.push(name);
                holders.insert(name, copies);
            }
        }
        let settings = scenario.settings(technique);
        let core = |peer: &PeerTag| (*peer, Search::new(*peer, settings.clone(), seed ^ u64::from(peer.0) << 32));
        World {
            scenario,
            technique,
            queue: Queue::default(),
            network: Network::new(scenario.links()),
            peers: tags.iter().map(core).collect(),
            chance,
            links,
            items,
            holders,
            asking: BTreeMap::new(),
            figures: Figures::default(),
        }
    }

    pub fn run(mut self, going: Going) -> Figures {
        self.connect();
        // Summaries have travelled as far as they go.
        let told = self.scenario.summaries.period * (self.scenario.summaries.levels + 2);
        self.pass(told);
        self.kill();
        for number in 0..self.scenario.searches {
            self.queue.after(self.scenario.every * number, What::Search(number));
        }
        let rounds = self.scenario.settings(self.technique).rounds.len() as u32;
        let (start, searching) = (self.queue.now(), self.scenario.every * self.scenario.searches);
        for step in 1..=STEPS {
            self.pass(between(self.queue.now(), later(start, searching * step / STEPS)));
            going();
        }
        self.pass(self.scenario.search.round * (rounds + 1));
        self.figures
    }

    fn pass(&mut self, time: Duration) {
        let end = later(self.queue.now(), time);
        while let Some(what) = self.queue.next(end) {
            match what {
                What::Arrives { from, to, message } => self.event(to, SearchEvent::Heard { from, message }),
                What::Timer(peer, timer) => self.event(peer, SearchEvent::Timer(timer)),
                What::Tick(peer) => {
                    let period = self.scenario.summaries.period;
                    self.event(peer, SearchEvent::Tick(period));
                    self.queue.after(period, What::Tick(peer));
                }
                What::Missed(dead) => {
                    for neighbour in self.links.get(&dead).cloned().unwrap_or_default() {
                        self.event(neighbour, SearchEvent::Disconnected(dead));
                    }
                }
                What::Search(number) => self.search(u64::from(number)),
            }
        }
    }

    fn connect(&mut self) {
        for (peer, neighbours) in self.links.clone() {
            for neighbour in neighbours {
                self.event(peer, SearchEvent::Connected(neighbour));
            }
            if self.technique.has_summaries() {
                let held: Vec<BlockName> =
                    self.holders.iter().filter(|(_, by)| by.contains(&peer)).map(|(name, _)| *name).collect();
                let bytes = self.scenario.summaries.bytes as usize;
                self.event(peer, SearchEvent::Stored(Bloom::of(held.into_iter(), bytes)));
                let first = self.chance.up_to(self.scenario.summaries.period);
                self.queue.after(first, What::Tick(peer));
            }
        }
    }

    fn kill(&mut self) {
        let dying = self.chance.some(self.peers.keys().copied().collect(), self.scenario.dying() as usize);
        for dead in dying {
            self.peers.remove(&dead);
            self.queue.after(self.scenario.detection, What::Missed(dead));
        }
    }

    /// Some live peer looks for some item that it does not hold and that can be had.
    fn search(&mut self, number: u64) {
        let living: Vec<PeerTag> = self.peers.keys().copied().collect();
        let asker = living[self.chance.below(living.len())];
        let reached = self.reached(asker);
        let wanted = |name: &BlockName| {
            let by = self.holders.get(name)?;
            (!by.contains(&asker) && by.iter().any(|holder| reached.contains(holder))).then_some(*name)
        };
        let wanted: Vec<BlockName> = self.items.iter().filter_map(wanted).collect();
        if wanted.is_empty() {
            return;
        }
        let block = wanted[self.chance.below(wanted.len())];
        self.figures.searches += 1;
        self.asking.insert(number, (asker, self.queue.now()));
        self.event(asker, SearchEvent::Ask { search: number, block, hops: self.scenario.search.hops });
    }

    /// The peers to which a way of live ones leads from this one.
    fn reached(&self, from: PeerTag) -> BTreeSet<PeerTag> {
        let (mut reached, mut next) = (BTreeSet::from([from]), VecDeque::from([from]));
        while let Some(peer) = next.pop_front() {
            for neighbour in self.links.get(&peer).into_iter().flatten() {
                if self.peers.contains_key(neighbour) && reached.insert(*neighbour) {
                    next.push_back(*neighbour);
                }
            }
        }
        reached
    }

    fn event(&mut self, at: PeerTag, event: SearchEvent) {
        if let SearchEvent::Heard { message: SearchMessage::Answer(answer), .. } = &event
            && answer.id.asker == at
        {
            self.answered(at, answer.hops);
        }
        let Some(peer) = self.peers.get_mut(&at) else { return };
        for effect in peer.handle(event) {
            match effect {
                SearchEffect::Send { to, message } => self.send(at, to, message),
                SearchEffect::SetTimer { after, timer } => self.queue.after(after, What::Timer(at, timer)),
                SearchEffect::LookUp { query, block } => {
                    if self.holders.get(&block).is_some_and(|by| by.contains(&at)) {
                        self.event(at, SearchEvent::Holds { query, pieces: vec![COPY] });
                    }
                }
                SearchEffect::Ended { search, .. } => {
                    self.asking.remove(&search);
                }
            }
        }
    }

    fn send(&mut self, from: PeerTag, to: PeerTag, message: SearchMessage) {
        match &message {
            SearchMessage::Query(_) => self.figures.queries += 1,
            SearchMessage::Answer(_) => self.figures.answers += 1,
            SearchMessage::Summary(_) => {
                self.figures.summaries += 1;
                self.figures.summary_bytes += message.bytes() as u64;
            }
        }
        if let Some(time) = self.network.datagram(from, to, &mut self.chance) {
            self.queue.after(time, What::Arrives { from, to, message });
        }
    }

    /// The first answer to a search is its finding.
    fn answered(&mut self, asker: PeerTag, hops: u8) {
        let first = self.asking.iter().find(|(_, (by, _))| *by == asker).map(|(number, _)| *number);
        let Some((_, since)) = first.and_then(|number| self.asking.remove(&number)) else { return };
        self.figures.found += 1;
        self.figures.hops += u64::from(hops);
        let seconds = between(since, self.queue.now()).as_secs_f64();
        self.figures.seconds += seconds;
        self.figures.times.push(seconds);
    }
}

/// A random graph in which every peer has a way to every other: each newcomer links to half as many earlier ones as a
/// peer has neighbours on average, and chance adds the rest.
fn graph(tags: &[PeerTag], degree: usize, chance: &mut Chance) -> BTreeMap<PeerTag, BTreeSet<PeerTag>> {
    let mut links: BTreeMap<PeerTag, BTreeSet<PeerTag>> = tags.iter().map(|tag| (*tag, BTreeSet::new())).collect();
    let mut count = 0;
    let mut link = |one: PeerTag, other: PeerTag| {
        if one == other || !links.entry(one).or_default().insert(other) {
            return 0;
        }
        links.entry(other).or_default().insert(one);
        1
    };
    for (at, newcomer) in tags.iter().enumerate().skip(1) {
        for earlier in chance.some(tags[..at].to_vec(), (degree / 2).max(1)) {
            count += link(*newcomer, earlier);
        }
    }
    let wanted = (tags.len() * degree / 2).min(tags.len() * (tags.len() - 1) / 2);
    while count < wanted {
        count += link(tags[chance.below(tags.len())], tags[chance.below(tags.len())]);
    }
    links
}
