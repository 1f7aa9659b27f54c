//! What is counted in a run, and what several runs come to.

use crate::overlay::Purpose;
use std::collections::BTreeMap;
use std::time::Duration;

/// What one run came to.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Figures {
    pub seed: u64,
    pub peers: u32,
    pub time: Duration,
    pub items: u64,
    pub items_lost: u64,
    /// Bytes of all items.
    pub data_bytes: u64,
    /// Datagrams of membership, every one that was sent: probes and their answers, objections, news, calls.
    pub membership_messages: u64,
    pub membership_bytes: u64,
    /// The same messages by what they were sent for.
    pub messages: BTreeMap<Purpose, u64>,
    /// What healing told others: who is at work on which groups.
    pub upkeep_messages: u64,
    pub upkeep_bytes: u64,
    /// Ops of the roster and of seats, times the peers that each has to reach: all others.
    pub op_messages: u64,
    /// Bytes that repair moved over the network.
    pub repair_bytes: u64,
    /// Shards that repair read, times their groups' slots' bytes, and those it made.
    pub repair_read_bytes: u64,
    pub repair_made_bytes: u64,
    /// Bytes on all disks at the end.
    pub stored_bytes: u64,
    pub deaths: u64,
    pub departures: u64,
    /// Peers that were declared dead and were not.
    pub mistaken: u64,
    /// From a death to the first peer's knowing it, summed over those found.
    pub detection: Duration,
    pub detected: u64,
    /// From the first loss of a group to goldilocks again, summed.
    pub healing: Duration,
    pub healed: u64,
    /// Looks at items, and how many of those could be read.
    pub looks: u64,
    pub readable: u64,
    /// At moments that lie equally far apart: how many items could still be had, from peers that were away too.
    pub kept: Vec<u64>,
    /// Groups that were not at rest in the end, though what they hold was not lost.
    pub unsettled: u64,
    /// What the checkers found, a line each.
    pub violations: Vec<String>,
}

/// What several runs of one case came to.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize)]
pub struct Summary {
    pub policy: String,
    pub churn: String,
    pub peers: u32,
    pub seeds: u64,
    pub seconds: f64,
    /// Of each run.
    pub items: u64,
    /// The fraction of items that could still be had at the end, over all runs.
    pub kept: f64,
    /// The lowest of any run.
    pub kept_worst: f64,
    pub items_lost: u64,
    /// The fraction of moments, over all items, at which they could be read.
    pub available: f64,
    /// These are means of a run.
    pub membership_messages: f64,
    pub membership_messages_most: u64,
    pub membership_messages_per_peer_second: f64,
    pub membership_bytes_per_peer_second: f64,
    /// By what they were sent for.
    pub messages: BTreeMap<Purpose, f64>,
    pub upkeep_messages: f64,
    pub upkeep_messages_per_peer_second: f64,
    pub upkeep_bytes_per_peer_second: f64,
    pub op_messages: f64,
    pub op_messages_per_peer_second: f64,
    pub repair_bytes: f64,
    pub repair_bytes_per_peer_hour: f64,
    /// Shards read for each shard made.
    pub repair_reads_per_shard: f64,
    pub data_bytes: u64,
    pub stored_bytes: f64,
    /// Bytes on disks for each byte of data.
    pub stored_per_byte: f64,
    pub deaths: f64,
    pub departures: f64,
    pub mistaken: f64,
    pub detection_seconds: f64,
    pub healing_seconds: f64,
    /// The fraction of items kept over time, from start to end: the mean of all runs, and the lowest.
    #[serde(skip)]
    pub curve: Vec<(f64, f64)>,
    pub violations: Vec<String>,
}

/// Violations that are shown; the rest is like them.
const SHOWN: usize = 20;

impl Summary {
    pub fn of(policy: String, churn: String, runs: &[Figures]) -> Summary {
        let Some(first) = runs.first() else { return Summary::default() };
        let sum = |of: fn(&Figures) -> u64| runs.iter().map(of).sum::<u64>();
        let mean = |of: fn(&Figures) -> u64| sum(of) as f64 / runs.len() as f64;
        let seconds = first.time.as_secs_f64();
        let rate = |of: fn(&Figures) -> u64| mean(of) / f64::from(first.peers) / seconds;
        let part = |of: u64, all: u64| if all == 0 { 1.0 } else { of as f64 / all as f64 };
        let kept = |run: &Figures| part(run.items - run.items_lost, run.items);
        let per = |total: Duration, number: u64| total.as_secs_f64() / number.max(1) as f64;
        let violations =
            runs.iter().flat_map(|run| run.violations.iter().map(|what| format!("seed {}: {what}", run.seed)));
        let mut messages: BTreeMap<Purpose, f64> = BTreeMap::new();
        for (purpose, count) in runs.iter().flat_map(|run| &run.messages) {
            *messages.entry(*purpose).or_default() += *count as f64 / runs.len() as f64;
        }
        let moments = runs.iter().map(|run| run.kept.len()).min().unwrap_or(0);
        let curve = (0..moments).map(|at| {
            let parts = runs.iter().map(|run| part(run.kept[at], run.items));
            (parts.clone().sum::<f64>() / runs.len() as f64, parts.fold(1.0, f64::min))
        });
        Summary {
            policy,
            churn,
            peers: first.peers,
            seeds: runs.len() as u64,
            seconds,
            items: first.items,
            kept: part(sum(|run| run.items - run.items_lost), sum(|run| run.items)),
            kept_worst: runs.iter().map(kept).fold(1.0, f64::min),
            items_lost: sum(|run| run.items_lost),
            available: part(sum(|run| run.readable), sum(|run| run.looks)),
            membership_messages: mean(|run| run.membership_messages),
            membership_messages_most: runs.iter().map(|run| run.membership_messages).max().unwrap_or(0),
            membership_messages_per_peer_second: rate(|run| run.membership_messages),
            membership_bytes_per_peer_second: rate(|run| run.membership_bytes),
            messages,
            upkeep_messages: mean(|run| run.upkeep_messages),
            upkeep_messages_per_peer_second: rate(|run| run.upkeep_messages),
            upkeep_bytes_per_peer_second: rate(|run| run.upkeep_bytes),
            op_messages: mean(|run| run.op_messages),
            op_messages_per_peer_second: rate(|run| run.op_messages),
            repair_bytes: mean(|run| run.repair_bytes),
            repair_bytes_per_peer_hour: rate(|run| run.repair_bytes) * 3600.0,
            repair_reads_per_shard: sum(|run| run.repair_read_bytes) as f64
                / sum(|run| run.repair_made_bytes).max(1) as f64,
            data_bytes: first.data_bytes,
            stored_bytes: mean(|run| run.stored_bytes),
            stored_per_byte: mean(|run| run.stored_bytes) / first.data_bytes.max(1) as f64,
            deaths: mean(|run| run.deaths),
            departures: mean(|run| run.departures),
            mistaken: mean(|run| run.mistaken),
            detection_seconds: per(runs.iter().map(|run| run.detection).sum(), sum(|run| run.detected)),
            healing_seconds: per(runs.iter().map(|run| run.healing).sum(), sum(|run| run.healed)),
            curve: curve.collect(),
            violations: violations.take(SHOWN).collect(),
        }
    }
}
