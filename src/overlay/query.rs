//! What peers say to one another in a search, and its bounds.

use super::bloom::Bloom;
use super::summaries::MAX_LEVELS;
use crate::id::{BlockName, PeerTag};
use crate::policy::{Geometry, MAX_SHARDS};
use serde::{Deserialize, Serialize};

/// The most hops of a query: past any that is of use, where a hundred peers are three or four hops apart.
pub const MAX_HOPS: u8 = 8;

/// The most pieces that one answer names: two geometries of the most shards.
pub const MAX_PIECES: usize = 64;

/// One query of one peer. Numbers begin anywhere at each start of a peer, so that one of an earlier run is not met.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct QueryId {
    pub asker: PeerTag,
    pub number: u64,
}

/// Whom a peer passes a query on to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Spread {
    /// Breadth-first: all neighbours.
    All,
    /// Random breadth-first: so many of a hundred neighbours, at least one, drawn by each peer for each query.
    Share(u8),
    /// The neighbours whose summaries say that the block is there or not far behind.
    Guided,
}

/// Who has shards of this block?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Query {
    pub id: QueryId,
    pub block: BlockName,
    /// Hops that are left, the one to whoever reads this counted: at 1 it is not passed on.
    pub hops: u8,
    pub spread: Spread,
}

/// One shard of the block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Piece {
    pub geometry: Geometry,
    pub index: u8,
}

impl Piece {
    /// Whether there can be such a shard.
    fn is_possible(&self) -> bool {
        let shards = self.geometry.shards();
        self.geometry.data > 0 && shards <= usize::from(MAX_SHARDS) && usize::from(self.index) < shards
    }
}

/// These are here. It travels back the way the query came.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer {
    pub id: QueryId,
    pub holder: PeerTag,
    pub pieces: Vec<Piece>,
    /// Hops it has travelled, the one to whoever reads this counted.
    pub hops: u8,
}

/// One message between neighbours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SearchMessage {
    Query(Query),
    Answer(Answer),
    /// What I hold, then what others beyond me hold, step by step.
    Summary(Vec<Bloom>),
}

impl SearchMessage {
    /// Says what is out of bounds.
    pub fn check(&self) -> Result<(), String> {
        let hops = match self {
            SearchMessage::Query(query) => query.hops,
            SearchMessage::Answer(answer) if answer.pieces.len() > MAX_PIECES => {
                return Err(format!("an answer of {} pieces", answer.pieces.len()));
            }
            SearchMessage::Answer(answer) => match answer.pieces.iter().find(|piece| !piece.is_possible()) {
                Some(piece) => return Err(format!("an answer with the impossible {piece:?}")),
                None => answer.hops,
            },
            SearchMessage::Summary(levels) if levels.len() > MAX_LEVELS => {
                return Err(format!("a summary of {} filters", levels.len()));
            }
            SearchMessage::Summary(_) => return Ok(()),
        };
        if (1..=MAX_HOPS).contains(&hops) { Ok(()) } else { Err(format!("a search over {hops} hops")) }
    }

    /// Bytes of its content, for counting.
    pub fn bytes(&self) -> usize {
        match self {
            SearchMessage::Query(_) => 48,
            SearchMessage::Answer(answer) => 20 + 3 * answer.pieces.len(),
            SearchMessage::Summary(levels) => levels.iter().map(|level| level.size() + 3).sum(),
        }
    }
}
