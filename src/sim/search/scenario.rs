//! What a search run is told.

use crate::overlay::{BLOOM_BYTES, MAX_HOPS, MAX_LEVELS, SearchSettings, Spread, SummarySettings};
use crate::sim::network::Links;
use crate::sim::scenario::{self, ScenarioError, Wrong, chance, in_range, peers, span, wrong};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::time::Duration;

/// Searches in one overlay, by one technique after another.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, for the head of the table.
    pub title: String,
    #[serde(default = "hundred", deserialize_with = "peers")]
    pub peers: u32,
    /// Of each peer, on average; half of them at the least.
    #[serde(default = "seven", deserialize_with = "degree")]
    pub neighbours: u32,
    /// Items of each peer.
    #[serde(default = "one", deserialize_with = "a_peer")]
    pub items: u32,
    /// Peers that hold each item.
    #[serde(default = "one", deserialize_with = "some_copies")]
    pub copies: u32,
    /// This part of the peers dies as the searches begin.
    #[serde(default, deserialize_with = "chance")]
    pub die: f64,
    /// How long a neighbour takes to find out.
    #[serde(default = "three_seconds", deserialize_with = "span")]
    pub detection: Duration,
    /// How many searches, each from some peer for some item that it does not hold, and from one to the next.
    #[serde(default = "hundred", deserialize_with = "some_searches")]
    pub searches: u32,
    #[serde(default = "one_second", deserialize_with = "span")]
    pub every: Duration,
    #[serde(default = "all_techniques", deserialize_with = "some_techniques")]
    pub techniques: Vec<Technique>,
    #[serde(default)]
    pub search: How,
    #[serde(default)]
    pub summaries: Told,
    #[serde(default)]
    pub network: Net,
    /// What others published of the same experiment.
    #[serde(default)]
    pub published: Vec<Published>,
}

/// How peers search.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Technique {
    /// Everybody passes a query on to all neighbours.
    BreadthFirst,
    /// Everybody passes a query on to a share of the neighbours.
    RandomBreadthFirst,
    /// Where summaries point; then to a share of the neighbours; then to all.
    BloomGuided,
}

impl Technique {
    /// As scenarios and figures name it.
    pub fn name(self) -> &'static str {
        match self {
            Technique::BreadthFirst => "breadth-first",
            Technique::RandomBreadthFirst => "random-breadth-first",
            Technique::BloomGuided => "bloom-guided",
        }
    }

    /// Whether neighbours tell one another what they hold.
    pub fn has_summaries(self) -> bool {
        self == Technique::BloomGuided
    }
}

/// A query's way.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct How {
    /// The most hops of a query.
    #[serde(deserialize_with = "some_hops")]
    pub hops: u8,
    /// The share of the neighbours for random breadth-first.
    #[serde(deserialize_with = "chance")]
    pub share: f64,
    /// To how many neighbours a guided query goes where none holds the item.
    #[serde(deserialize_with = "some_links")]
    pub width: u32,
    /// How long a round lasts before the next begins.
    #[serde(deserialize_with = "span")]
    pub round: Duration,
}

/// What neighbours tell one another.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Told {
    /// How many hops away summaries tell of.
    #[serde(deserialize_with = "some_levels")]
    pub levels: u32,
    /// Bytes of the filter for each of these distances.
    #[serde(deserialize_with = "filter_bytes")]
    pub bytes: u32,
    /// A change is told this long after the last one, at the soonest.
    #[serde(deserialize_with = "span")]
    pub period: Duration,
}

/// The links between neighbours.
#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Net {
    #[serde(deserialize_with = "span")]
    pub latency: Duration,
    #[serde(deserialize_with = "span")]
    pub jitter: Duration,
    #[serde(deserialize_with = "chance")]
    pub loss: f64,
}

/// Figures of others.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    pub technique: Technique,
    pub source: String,
    pub found: f64,
    pub messages: f64,
    pub seconds: f64,
}

impl Default for How {
    fn default() -> Self {
        How { hops: 7, share: 0.5, width: 2, round: Duration::from_millis(500) }
    }
}

impl Default for Told {
    fn default() -> Self {
        Told { levels: MAX_LEVELS as u32, bytes: 512, period: Duration::from_secs(1) }
    }
}

impl Default for Net {
    fn default() -> Self {
        Net { latency: Duration::from_millis(10), jitter: Duration::from_millis(10), loss: 0.0 }
    }
}

impl Scenario {
    /// The scenario in this text, with what flags say (a name as `search.hops`, and a TOML value) over it.
    pub fn parse(text: &str, flags: &[(String, String)]) -> Result<Scenario, ScenarioError> {
        scenario::parse(text, flags, Scenario::check)
    }

    /// What no single value shows.
    fn check(&self) -> Result<(), Wrong> {
        let Scenario { peers, neighbours, copies, .. } = *self;
        if peers < 2 {
            return wrong(&["peers"], "one peer has nobody to ask: use 2 peers or more");
        }
        if neighbours >= peers {
            return wrong(
                &["neighbours", "peers"],
                format!(
                    "{peers} peers have no {neighbours} neighbours each: use {} or fewer, or more peers",
                    peers - 1
                ),
            );
        }
        if copies >= peers {
            return wrong(
                &["copies", "peers"],
                format!("with {copies} copies on {peers} peers nobody has to search: use {} or fewer", peers - 1),
            );
        }
        let living = peers - self.dying();
        if living < 2 {
            return wrong(&["die", "peers"], format!("die leaves {living} of {peers} peers: leave two alive"));
        }
        let there_and_back = 2 * u32::from(self.search.hops) * (self.network.latency + self.network.jitter);
        if self.search.round < there_and_back {
            return wrong(
                &["search.round", "network.latency", "network.jitter", "search.hops"],
                format!(
                    "search.round is shorter than a query over {} hops and its answer take: use {}ms or more",
                    self.search.hops,
                    there_and_back.as_millis()
                ),
            );
        }
        if self.summaries.period.is_zero() {
            return wrong(&["summaries.period"], "summaries.period is 0: use a time above it, such as \"1s\"");
        }
        if self.every.is_zero() {
            return wrong(&["every"], "every is 0: use a time above it, such as \"1s\"");
        }
        Ok(())
    }

    /// How many peers die.
    pub fn dying(&self) -> u32 {
        (f64::from(self.peers) * self.die) as u32
    }

    pub fn links(&self) -> Links {
        let Net { latency, jitter, loss } = self.network;
        Links { latency, jitter, loss, bandwidth: u64::MAX }
    }

    /// The core's settings.
    pub fn settings(&self, technique: Technique) -> SearchSettings {
        let share = Spread::Share((self.search.share * 100.0).round() as u8);
        let rounds = match technique {
            Technique::BreadthFirst => vec![Spread::All],
            Technique::RandomBreadthFirst => vec![share],
            Technique::BloomGuided => vec![Spread::Guided, share, Spread::All],
        };
        let Told { levels, bytes, period } = self.summaries;
        SearchSettings {
            rounds,
            round: self.search.round,
            width: self.search.width as usize,
            passed_on: usize::MAX,
            summaries: SummarySettings {
                levels: levels as usize,
                least_bytes: bytes as usize,
                period,
                // The period alone is the bound here.
                rate: u64::MAX,
            },
        }
    }
}

fn hundred() -> u32 {
    100
}

fn seven() -> u32 {
    7
}

fn one() -> u32 {
    1
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn three_seconds() -> Duration {
    Duration::from_secs(3)
}

fn all_techniques() -> Vec<Technique> {
    vec![Technique::BreadthFirst, Technique::RandomBreadthFirst, Technique::BloomGuided]
}

fn degree<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(i64::deserialize(deserializer)?, 1, 1000, "neighbours")
}

fn a_peer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(i64::deserialize(deserializer)?, 1, 10_000, "items a peer")
}

fn some_copies<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(i64::deserialize(deserializer)?, 1, 32, "copies")
}

fn some_searches<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(i64::deserialize(deserializer)?, 1, 1_000_000, "searches")
}

fn some_hops<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    in_range(i64::deserialize(deserializer)?, 1, u32::from(MAX_HOPS), "hops").map(|hops| hops as u8)
}

fn some_links<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(i64::deserialize(deserializer)?, 1, 1000, "neighbours")
}

fn some_levels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    in_range(i64::deserialize(deserializer)?, 1, MAX_LEVELS as u32, "levels")
}

fn filter_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let (least, most) = (*BLOOM_BYTES.start() as u32, *BLOOM_BYTES.end() as u32);
    in_range(i64::deserialize(deserializer)?, least, most, "bytes of a filter")
}

fn some_techniques<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Technique>, D::Error> {
    let all = Vec::<Technique>::deserialize(deserializer)?;
    if all.is_empty() {
        return Err(D::Error::custom("there is no technique; give at least one, such as [\"bloom-guided\"]"));
    }
    Ok(all)
}
