//! How the whole share is looked after, for people: healing and scrubs over all peers, in figures and while they go on.

use super::{Daemon, report};
use crate::group::{self, Backlog, Done, Holdings, UnderWay};
use crate::id::PeerTag;
use crate::io::control::{HealingReport, ProgressSink, ScrubReport, ScrubbedPeer};
use crate::volume::ports::Control;
use crate::wire::{Haste, PeerUpkeep, Request, Response};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often progress is reported.
const LOOK: Duration = Duration::from_millis(500);

/// The longest that somebody watches: whoever wants more watches again.
const WATCHED: Duration = Duration::from_secs(30 * 86_400);

/// So many looks in a row have to find nothing to do: what was just hurried may be about to begin.
const CALM_LOOKS: u32 = 3;

/// What every peer that answers does for its shards and groups, this one included.
pub type Upkeeps = BTreeMap<PeerTag, PeerUpkeep>;

impl Daemon {
    /// Asks every reachable peer how it looks after its shards.
    pub(super) async fn upkeeps(&self) -> Upkeeps {
        let own = self.household.upkeep(&self.host, Some(&self.volume));
        let mut all: Upkeeps = [(self.host.me(), own)].into();
        for (peer, response) in self.ask_all(Request::Upkeep).await {
            if let Response::Upkeep(upkeep) = response {
                all.insert(peer, upkeep);
            }
        }
        all
    }

    async fn hurry_all(&self, haste: Haste) {
        self.household.hurry(&self.host, haste);
        self.ask_all(Request::Hurry(haste)).await;
    }

    async fn hurry(&self, peers: Vec<PeerTag>, haste: Haste) {
        if peers.contains(&self.host.me()) {
            self.household.hurry(&self.host, haste);
        }
        self.ask_each(peers, Request::Hurry(haste)).await;
    }

    pub(super) fn healing_report(&self, upkeeps: &Upkeeps) -> HealingReport {
        let (holdings, under_way) = (known(upkeeps), under_way(upkeeps));
        let candidates = self.host.candidates();
        let Backlog { groups, blocks, bytes } =
            group::backlog(&self.host.namespace(), &candidates, &holdings, &under_way, self.host.now());
        let sum = |of: fn(&PeerUpkeep) -> u64| upkeeps.values().map(of).sum::<u64>();
        let bytes_per_second = sum(|one| one.bytes_per_second);
        let (counts, blocks_unreadable) = report::states(&self.host, &holdings);
        HealingReport {
            groups,
            blocks,
            bytes,
            bytes_per_second,
            seconds_left: if groups == 0 { Some(0) } else { bytes.checked_div(bytes_per_second) },
            shards_rebuilt: sum(|one| one.shards_rebuilt),
            bytes_rebuilt: sum(|one| one.bytes_rebuilt),
            blocks_unreadable,
            groups_cold: counts.cold,
        }
    }

    /// Has all peers look at their groups now; with `watch` it returns when nothing is left to do.
    pub(super) async fn repair(&self, watch: bool, progress: ProgressSink) -> HealingReport {
        self.hurry_all(Haste::Repair).await;
        let end = tokio::time::Instant::now() + WATCHED;
        let (mut most, mut calm) = (0, 0);
        loop {
            let report = self.healing_report(&self.upkeeps().await);
            calm = if report.groups == 0 { calm + 1 } else { 0 };
            if !watch || calm == CALM_LOOKS || progress.is_abandoned() || tokio::time::Instant::now() > end {
                return report;
            }
            most = report.blocks.max(most);
            progress.report(in_words(&report), most - report.blocks, most);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How the shards are checked; with `now` all are read first.
    pub(super) async fn scrub(&self, now: bool, progress: ProgressSink) -> ScrubReport {
        if now {
            let before = self.upkeeps().await;
            self.hurry_all(Haste::Scrub).await;
            let end = tokio::time::Instant::now() + WATCHED;
            while !progress.is_abandoned() && tokio::time::Instant::now() < end {
                tokio::time::sleep(LOOK).await;
                let upkeeps = self.upkeeps().await;
                let Scrubbing { reading, unaware, read, total } = scrubbing(&before, &upkeeps);
                if reading == 0 {
                    break;
                }
                progress.report("reading every shard", read, total);
                self.hurry(unaware, Haste::Scrub).await;
            }
        }
        scrub_report(&self.upkeeps().await)
    }
}

/// What all peers together have done of the work under way. Of two at one group the one that is farther counts.
pub fn under_way(upkeeps: &Upkeeps) -> UnderWay {
    let mut all = UnderWay::new();
    for (group, done) in upkeeps.values().flat_map(|one| &one.under_way) {
        let most = all.entry(*group).or_default();
        *most = Done { blocks: most.blocks.max(done.blocks), bytes: most.bytes.max(done.bytes) };
    }
    all
}

/// What the stores hold, as far as their peers know.
pub fn known(upkeeps: &Upkeeps) -> Holdings {
    Holdings::known(upkeeps.iter().map(|(peer, one)| (*peer, &one.lacking)))
}

/// How far peers are that were asked to read every shard.
#[derive(PartialEq, Eq, Debug)]
struct Scrubbing {
    /// Peers that have not come to the end.
    reading: usize,
    /// Those of them that do not hurry: they did not hear of it, or were started anew since.
    unaware: Vec<PeerTag>,
    /// Shards read, and how many there are.
    read: u64,
    total: u64,
}

/// How far they are since `before`. Peers that were not there then, or are away now, are not waited for.
fn scrubbing(before: &Upkeeps, now: &Upkeeps) -> Scrubbing {
    let at_it = |(peer, one): &(&PeerTag, &PeerUpkeep)| {
        before.get(peer).is_some_and(|then| one.scrub_ended_ms <= then.scrub_ended_ms)
    };
    let (reading, done): (Vec<_>, Vec<_>) = now.iter().partition(at_it);
    let total: u64 = now.values().map(|one| one.to_scrub).sum();
    let read = reading.iter().filter(|(_, one)| one.scrub_hurried).map(|(_, one)| one.scrubbed).sum::<u64>()
        + done.iter().map(|(_, one)| one.to_scrub).sum::<u64>();
    let unaware = reading.iter().filter(|(_, one)| !one.scrub_hurried).map(|(peer, _)| **peer).collect();
    Scrubbing { reading: reading.len(), unaware, read: read.min(total), total }
}

/// What all peers together do.
pub fn scrub_report(upkeeps: &Upkeeps) -> ScrubReport {
    let peer = |(peer, one): (&PeerTag, &PeerUpkeep)| ScrubbedPeer {
        peer: peer.to_string(),
        shards_checked: one.scrubbed,
        shards: one.to_scrub,
        ended: (one.scrub_ended_ms > 0).then_some(one.scrub_ended_ms / 1000),
        rot_found: one.rot_found,
        rot_mended: one.rot_mended,
    };
    let peers: Vec<ScrubbedPeer> = upkeeps.iter().map(peer).collect();
    let sum = |of: fn(&ScrubbedPeer) -> u64| peers.iter().map(of).sum();
    ScrubReport {
        shards_checked: sum(|one| one.shards_checked),
        shards: sum(|one| one.shards),
        rot_found: sum(|one| one.rot_found),
        rot_mended: sum(|one| one.rot_mended),
        peers,
    }
}

fn in_words(report: &HealingReport) -> String {
    let size = |bytes| humansize::format_size(bytes, humansize::BINARY);
    let pace = match report.seconds_left {
        Some(seconds) if report.bytes_per_second > 0 => {
            format!(", {}/s, about {seconds} s more", size(report.bytes_per_second))
        }
        _ => String::new(),
    };
    match report.groups {
        0 => "looking whether all is well".to_owned(),
        1 => format!("1 group wants work, {} to go{pace}", size(report.bytes)),
        groups => format!("{groups} groups want work, {} to go{pace}", size(report.bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(scrub_ended_ms: u64, scrub_hurried: bool, scrubbed: u64) -> PeerUpkeep {
        PeerUpkeep { scrub_ended_ms, scrub_hurried, scrubbed, to_scrub: 10, ..PeerUpkeep::default() }
    }

    #[test]
    fn who_was_started_anew_during_a_scrub_or_did_not_hear_of_it_is_told_again() {
        let tag = PeerTag;
        let before: Upkeeps = [1, 2, 3, 4].map(|n| (tag(n), one(100, false, 7))).into();
        // The second one was started anew, the third ended, the fourth went away, and a fifth came.
        let now: Upkeeps = [
            (tag(1), one(100, true, 3)),
            (tag(2), one(0, false, 7)),
            (tag(3), one(101, false, 0)),
            (tag(5), one(0, false, 0)),
        ]
        .into();
        assert_eq!(scrubbing(&before, &now), Scrubbing { reading: 2, unaware: vec![tag(2)], read: 23, total: 40 });
        let now: Upkeeps = [1, 2, 3].map(|n| (tag(n), one(101, false, 0))).into();
        assert_eq!(scrubbing(&before, &now), Scrubbing { reading: 0, unaware: vec![], read: 30, total: 30 });
    }
}
