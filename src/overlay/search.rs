//! Unstructured search, the safety net: who has shards of this block? Pure.
//!
//! A search is a few rounds, each a query that spreads further than the last: first to where summaries point, then to a
//! random share of the neighbours (Kalogeraki, Gunopulos and Zeinalipour-Yazti, 2002), then to all. Whoever gets a query
//! passes it on in the same way while hops are left, looks into its store, and answers the way the query came. A search
//! ends when enough was found to decode the block, or with its last round.
//!
//! Invariant: a peer passes each query on at most once, and remembers a bounded number of them.

use super::bloom::Bloom;
use super::query::{Answer, MAX_HOPS, MAX_PIECES, Piece, Query, QueryId, SearchMessage, Spread};
use super::summaries::{Summaries, SummarySettings};
use crate::id::{BlockName, PeerTag};
use crate::policy::Geometry;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Queries that are remembered, so that none is passed on twice and its answers find their way back. A query is over
/// within seconds; forgetting one early costs messages and answers, no more.
const REMEMBERED: usize = 4096;

/// The most searches of this peer under way; one more ends at once with nothing.
pub const SEARCHES: usize = 64;

/// The most pieces that one search collects.
const MOST_FOUND: usize = 1024;

/// How a peer searches.
#[derive(Clone, PartialEq, Debug)]
pub struct SearchSettings {
    /// How the query of each round spreads.
    pub rounds: Vec<Spread>,
    /// From the start of one round to that of the next: there and back again over the hops that a query may take.
    pub round: Duration,
    /// Where no neighbour seems to hold the block, a guided query goes to so many that seem closest to it.
    pub width: usize,
    /// The most neighbours to which another peer's query is passed on.
    pub passed_on: usize,
    pub summaries: SummarySettings,
}

impl SearchSettings {
    /// For a share in which everybody is connected to everybody else, as far as the network lets them. Then those who
    /// are asked directly are nearly all there are: for the few others a handful of hops sideways is enough, and all
    /// 98 neighbours of each of 99 would be ten thousand messages.
    ///
    /// A round has time for two hops over a wide network (0.1 s there and back) and for a busy machine. A summary of a
    /// large store (128 KiB) is told every other minute: 1 KiB a second and neighbour, as much as vectors cost.
    pub fn meshed() -> SearchSettings {
        SearchSettings {
            rounds: vec![Spread::Guided, Spread::Share(50), Spread::All],
            round: Duration::from_millis(500),
            width: 2,
            passed_on: 4,
            summaries: SummarySettings { levels: 1, least_bytes: 64, period: Duration::from_secs(10), rate: 1024 },
        }
    }
}

/// What happens to search.
#[derive(Debug)]
pub enum SearchEvent {
    /// A connection to a neighbour stands, and knows nothing of an earlier one.
    Connected(PeerTag),
    Disconnected(PeerTag),
    /// A neighbour's message.
    Heard {
        from: PeerTag,
        message: SearchMessage,
    },
    /// So much time has passed since the last tick.
    Tick(Duration),
    /// The names of what this peer's own store holds.
    Stored(Bloom),
    /// Search for a block, over so many hops. The number is the caller's, to know its answer by.
    Ask {
        search: u64,
        block: BlockName,
        hops: u8,
    },
    /// What [`SearchEffect::LookUp`] found in the store.
    Holds {
        query: QueryId,
        pieces: Vec<Piece>,
    },
    /// A round's time is over.
    Timer(SearchTimer),
}

/// A timer, only to be handed back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SearchTimer {
    search: u64,
    round: usize,
}

/// What search wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum SearchEffect {
    Send {
        to: PeerTag,
        message: SearchMessage,
    },
    /// Look into the store for shards of this block, and answer with [`SearchEvent::Holds`]; nothing need be answered
    /// where there are none.
    LookUp {
        query: QueryId,
        block: BlockName,
    },
    SetTimer {
        after: Duration,
        timer: SearchTimer,
    },
    /// A search is over: who said to hold what. The block may not be decodable from it.
    Ended {
        search: u64,
        block: BlockName,
        found: BTreeSet<(PeerTag, Piece)>,
    },
}

/// Searches of one peer, its own and those it helps others with.
pub struct Search {
    me: PeerTag,
    settings: SearchSettings,
    rng: Xoshiro256PlusPlus,
    summaries: Summaries,
    /// The number of the next query.
    number: u64,
    asking: BTreeMap<u64, Asking>,
    /// Others' queries, and who they came from.
    came_from: BTreeMap<QueryId, PeerTag>,
    /// The same in the order in which they came.
    remembered: VecDeque<QueryId>,
}

/// A search of this peer's own.
struct Asking {
    block: BlockName,
    hops: u8,
    round: usize,
    /// The numbers of its queries: late answers to an earlier one count as well.
    numbers: Vec<u64>,
    found: BTreeSet<(PeerTag, Piece)>,
}

impl Search {
    /// Knows no neighbour yet. The same seed and events give the same effects.
    pub fn new(me: PeerTag, settings: SearchSettings, seed: u64) -> Search {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Search {
            me,
            summaries: Summaries::new(settings.summaries),
            settings,
            number: rng.random(),
            rng,
            asking: BTreeMap::new(),
            came_from: BTreeMap::new(),
            remembered: VecDeque::new(),
        }
    }

    /// Takes in one event.
    pub fn handle(&mut self, event: SearchEvent) -> Vec<SearchEffect> {
        let mut effects = Vec::new();
        match event {
            SearchEvent::Connected(peer) => self.summaries.connect(peer),
            SearchEvent::Disconnected(peer) => self.summaries.disconnect(peer),
            SearchEvent::Stored(own) => self.summaries.set_own(own),
            SearchEvent::Tick(elapsed) => {
                let told = self.summaries.tick(elapsed).into_iter();
                effects.extend(
                    told.map(|(to, levels)| SearchEffect::Send { to, message: SearchMessage::Summary(levels) }),
                );
            }
            SearchEvent::Heard { from, .. } if !self.summaries.is_neighbour(from) => {}
            SearchEvent::Heard { from, message } => match message {
                SearchMessage::Summary(levels) => self.summaries.heard(from, levels),
                SearchMessage::Query(query) => self.asked(from, query, &mut effects),
                SearchMessage::Answer(answer) => self.answered(answer, &mut effects),
            },
            SearchEvent::Holds { query, pieces } => self.answer(query, pieces, &mut effects),
            SearchEvent::Ask { search, block, hops } => self.ask(search, block, hops, &mut effects),
            SearchEvent::Timer(SearchTimer { search, round }) => {
                if self.asking.get(&search).is_some_and(|asking| asking.round == round) {
                    self.next_round(search, &mut effects);
                }
            }
        }
        effects
    }

    fn ask(&mut self, search: u64, block: BlockName, hops: u8, effects: &mut Vec<SearchEffect>) {
        if self.asking.len() >= SEARCHES || self.asking.contains_key(&search) {
            effects.push(SearchEffect::Ended { search, block, found: BTreeSet::new() });
            return;
        }
        let hops = hops.clamp(1, MAX_HOPS);
        let asking = Asking { block, hops, round: 0, numbers: Vec::new(), found: BTreeSet::new() };
        self.asking.insert(search, asking);
        self.send_round(search, effects);
    }

    /// Goes on to the next round, unless what was found is enough.
    fn next_round(&mut self, search: u64, effects: &mut Vec<SearchEffect>) {
        let Some(asking) = self.asking.get_mut(&search) else { return };
        if decodable(&asking.found, 0) || asking.round + 1 >= self.settings.rounds.len() {
            self.end(search, effects);
            return;
        }
        asking.round += 1;
        self.send_round(search, effects);
    }

    fn send_round(&mut self, search: u64, effects: &mut Vec<SearchEffect>) {
        self.number = self.number.wrapping_add(1);
        let id = QueryId { asker: self.me, number: self.number };
        let Some(asking) = self.asking.get_mut(&search) else { return };
        asking.numbers.push(id.number);
        let (block, hops, round) = (asking.block, asking.hops, asking.round);
        let spread = self.settings.rounds.get(round).copied().unwrap_or(Spread::All);
        let query = Query { id, block, hops, spread };
        let to = self.chosen(&query, None);
        // Nobody to ask: the next round need not wait.
        let after = if to.is_empty() { Duration::ZERO } else { self.settings.round };
        effects.push(SearchEffect::SetTimer { after, timer: SearchTimer { search, round } });
        effects.extend(to.into_iter().map(|to| SearchEffect::Send { to, message: SearchMessage::Query(query) }));
    }

    /// Another peer's query: passed on once, and looked up.
    fn asked(&mut self, from: PeerTag, query: Query, effects: &mut Vec<SearchEffect>) {
        if query.id.asker == self.me || self.came_from.contains_key(&query.id) {
            return;
        }
        if self.remembered.len() >= REMEMBERED
            && let Some(oldest) = self.remembered.pop_front()
        {
            self.came_from.remove(&oldest);
        }
        self.remembered.push_back(query.id);
        self.came_from.insert(query.id, from);
        effects.push(SearchEffect::LookUp { query: query.id, block: query.block });
        if query.hops > 1 {
            let passed = Query { hops: query.hops - 1, ..query };
            let to = self.chosen(&passed, Some(from));
            effects.extend(to.into_iter().map(|to| SearchEffect::Send { to, message: SearchMessage::Query(passed) }));
        }
    }

    /// The neighbours that a query goes to from here.
    fn chosen(&mut self, query: &Query, from: Option<PeerTag>) -> Vec<PeerTag> {
        let may = |peer: &PeerTag| Some(*peer) != from && *peer != query.id.asker;
        let mut to: Vec<PeerTag> = match query.spread {
            Spread::All | Spread::Share(_) => self.summaries.neighbours().filter(may).collect(),
            Spread::Guided => Vec::new(),
        };
        match query.spread {
            Spread::All => {}
            Spread::Share(percent) => {
                to.shuffle(&mut self.rng);
                to.truncate((to.len() * usize::from(percent.min(100))).div_ceil(100).max(1));
            }
            Spread::Guided => {
                let mut leads = self.summaries.leads(&query.block);
                leads.retain(|(_, peer)| may(peer));
                // Of those that seem equally close, chance decides.
                leads.shuffle(&mut self.rng);
                leads.sort_by_key(|(behind, _)| *behind);
                let holders = leads.iter().filter(|(behind, _)| *behind == 0).count();
                // A holder need not lead on to itself, which is what it hears of over detours.
                let at_goal = from.is_some() && self.summaries.own_has(&query.block);
                leads.truncate(if holders > 0 || at_goal { holders } else { self.settings.width });
                to = leads.into_iter().map(|(_, peer)| peer).collect();
            }
        }
        if from.is_some() && to.len() > self.settings.passed_on {
            to.shuffle(&mut self.rng);
            to.truncate(self.settings.passed_on);
        }
        to
    }

    /// Sends what the store holds back the way the query came.
    fn answer(&mut self, id: QueryId, mut pieces: Vec<Piece>, effects: &mut Vec<SearchEffect>) {
        pieces.truncate(MAX_PIECES);
        if !pieces.is_empty() {
            self.send_back(Answer { id, holder: self.me, pieces, hops: 1 }, effects);
        }
    }

    fn send_back(&self, answer: Answer, effects: &mut Vec<SearchEffect>) {
        let back = self.came_from.get(&answer.id).filter(|to| self.summaries.is_neighbour(**to));
        effects.extend(back.map(|to| SearchEffect::Send { to: *to, message: SearchMessage::Answer(answer) }));
    }

    /// An answer came by: to a search of this peer's, or to be sent further back.
    fn answered(&mut self, answer: Answer, effects: &mut Vec<SearchEffect>) {
        if answer.id.asker != self.me {
            if answer.hops < MAX_HOPS {
                self.send_back(Answer { hops: answer.hops + 1, ..answer }, effects);
            }
            return;
        }
        let own = self.asking.iter_mut().find(|(_, asking)| asking.numbers.contains(&answer.id.number));
        let Some((&search, asking)) = own else { return };
        let room = MOST_FOUND.saturating_sub(asking.found.len());
        asking.found.extend(answer.pieces.into_iter().take(room).map(|piece| (answer.holder, piece)));
        // One more than needed, for one may turn out damaged; at the round's end just enough will do.
        if decodable(&asking.found, 1) {
            self.end(search, effects);
        }
    }

    fn end(&mut self, search: u64, effects: &mut Vec<SearchEffect>) {
        let Some(Asking { block, found, .. }) = self.asking.remove(&search) else { return };
        effects.push(SearchEffect::Ended { search, block, found });
    }
}

/// Whether these pieces, were they whole, would give the block, with so many to spare.
fn decodable(found: &BTreeSet<(PeerTag, Piece)>, spare: usize) -> bool {
    let mut pieces: BTreeMap<Geometry, BTreeSet<(u8, PeerTag)>> = BTreeMap::new();
    for (holder, Piece { geometry, index }) in found {
        pieces.entry(*geometry).or_default().insert((*index, *holder));
    }
    pieces.iter().any(|(geometry, pieces)| {
        let different = pieces.iter().map(|(index, _)| index).collect::<BTreeSet<_>>().len();
        different >= usize::from(geometry.data) && pieces.len() >= usize::from(geometry.data) + spare
    })
}

#[cfg(test)]
mod tests;
