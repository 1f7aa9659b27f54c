//! One policy measured: counters before and after writing, and before and after reading.

use super::files::{Item, Variant};
use crate::cli::{LOOK_DEADLINE, output, unexpected};
use crate::io::control::{Client, ControlReply, ControlRequest, GroupsReport, StatsReport};
use crate::policy::Policy;
use anyhow::bail;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// What one policy cost, all machines together.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize)]
pub struct Measured {
    pub policy: String,
    pub files_bytes: u64,
    /// By how much the stores grew.
    pub stored_bytes: u64,
    pub overhead: f64,
    /// Bytes sent on the network while writing, and while reading back.
    pub write_network_bytes: u64,
    pub read_network_bytes: u64,
    pub write_seconds: f64,
    pub read_seconds: f64,
    /// Processor time of all peers' processes.
    pub write_cpu_seconds: f64,
    pub read_cpu_seconds: f64,
    /// Any this many machines may be lost, and the files can still be read.
    pub survives: u32,
    pub peers: u32,
}

/// Puts the files through `directory`, which has the policy.
pub fn measure(
    client: &Client,
    policy: Policy,
    directory: &Path,
    items: &[Item],
    variant: Variant,
) -> anyhow::Result<Measured> {
    let files_bytes: u64 = items.iter().map(|item| item.bytes).sum();
    let mut buffer = vec![0; 2 << 20];
    let groups_before = groups(client)?;
    let before = stats(client)?;

    let bar = output::bar(&format!("{policy}: writing"), files_bytes);
    let start = Instant::now();
    for item in items {
        item.write(directory, variant, &mut buffer, |bytes| bar.inc(bytes))?;
    }
    let write_seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let written = stats(client)?;
    let survives = survives(&groups_before, &groups(client)?, written.peers_answered);

    drop_caches(client)?;
    let dropped = stats(client)?;
    let bar = output::bar(&format!("{policy}: reading"), files_bytes);
    let start = Instant::now();
    for item in items {
        item.check(directory, variant, &mut buffer, |bytes| bar.inc(bytes))?;
    }
    let read_seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let read = stats(client)?;

    if [written, dropped, read].iter().any(|stats| stats.peers_answered != before.peers_answered) {
        bail!("a machine came or went while {policy} was measured, so the figures would be wrong; run it again");
    }
    let stored_bytes = written.stored_bytes.saturating_sub(before.stored_bytes);
    let seconds = |from: StatsReport, to: StatsReport| to.cpu_us.saturating_sub(from.cpu_us) as f64 / 1e6;
    Ok(Measured {
        policy: policy.to_string(),
        files_bytes,
        stored_bytes,
        overhead: stored_bytes as f64 / files_bytes.max(1) as f64,
        write_network_bytes: written.sent_bytes.saturating_sub(before.sent_bytes),
        read_network_bytes: read.sent_bytes.saturating_sub(dropped.sent_bytes),
        write_seconds,
        read_seconds,
        write_cpu_seconds: seconds(before, written),
        read_cpu_seconds: seconds(dropped, read),
        survives,
        peers: before.peers_answered,
    })
}

/// What the weakest of the groups that took blocks meanwhile survives. Where none did, all lies in the namespace,
/// which every machine has.
fn survives(before: &GroupsReport, after: &GroupsReport, machines: u32) -> u32 {
    let before: BTreeMap<&str, u64> = before.iter().map(|group| (group.id.as_str(), group.blocks)).collect();
    let grown = after.iter().filter(|group| group.blocks > before.get(group.id.as_str()).copied().unwrap_or(0));
    grown.map(|group| group.survives_now.unwrap_or(0)).min().unwrap_or(machines.saturating_sub(1))
}

/// The counters of all reachable peers.
pub fn stats(client: &Client) -> anyhow::Result<StatsReport> {
    match client.call(&ControlRequest::Stats, LOOK_DEADLINE, |_| ())? {
        ControlReply::Stats(stats) => Ok(stats),
        other => Err(unexpected(&other)),
    }
}

fn groups(client: &Client) -> anyhow::Result<GroupsReport> {
    match client.call(&ControlRequest::Groups, LOOK_DEADLINE, |_| ())? {
        ControlReply::Groups(groups) => Ok(groups),
        other => Err(unexpected(&other)),
    }
}

fn drop_caches(client: &Client) -> anyhow::Result<()> {
    match client.call(&ControlRequest::DropCaches, LOOK_DEADLINE, |_| ())? {
        ControlReply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::control::GroupReport;

    #[test]
    fn the_weakest_group_that_grew_counts() {
        let group = |id: &str, blocks, survives_now| GroupReport {
            id: id.into(),
            blocks,
            survives_now,
            ..GroupReport::default()
        };
        let before = vec![group("g1", 5, Some(0)), group("g2", 5, Some(2))];
        let after = vec![group("g1", 5, Some(0)), group("g2", 9, Some(2)), group("g3", 1, Some(1))];
        assert_eq!(survives(&before, &after, 6), 1);
        assert_eq!(survives(&before, &before, 6), 5);
        assert_eq!(survives(&before, &vec![group("g4", 1, None)], 6), 0);
    }
}
