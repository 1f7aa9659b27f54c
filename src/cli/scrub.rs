//! `shoal scrub`: whether every shard was read and checked lately, or a check of all of them now.

use super::{LOOK_DEADLINE, ask, follow, output, unexpected};
use crate::io::control::{ControlReply, ControlRequest, ScrubReport, ScrubbedPeer};
use anyhow::bail;
use output::count;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Read and check every shard on all reachable machines now
    #[arg(long)]
    pub now: bool,
    #[command(flatten)]
    pub format: output::Format,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let request = ControlRequest::Scrub { now: args.now };
    let reply = match args.now && !args.format.json {
        true => follow(home, &request)?,
        false => Some(ask(home, &request, LOOK_DEADLINE)?),
    };
    match reply {
        Some(ControlReply::Scrub(report)) if args.format.json => output::print_json(&report),
        Some(ControlReply::Scrub(report)) => output::print(&text(&report, now())),
        Some(other) => Err(unexpected(&other)),
        None => bail!("not watched any longer; the machines go on reading"),
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn text(report: &ScrubReport, now: u64) -> String {
    let mut table = output::table(&["peer", "read", "shards", "all read", "damaged", "whole again"]);
    for peer in &report.peers {
        table.add_row([
            peer.peer.clone(),
            peer.shards_checked.to_string(),
            peer.shards.to_string(),
            ended(peer, now),
            peer.rot_found.to_string(),
            peer.rot_mended.to_string(),
        ]);
    }
    output::right(&mut table, &[1, 2, 4, 5]);
    format!("{}\n\n{}\n", output::text(&table), damage(report))
}

fn ended(peer: &ScrubbedPeer, now: u64) -> String {
    match peer.ended {
        Some(at) => format!("{} ago", output::duration(now.saturating_sub(at))),
        None => "not yet".to_owned(),
    }
}

/// What was found, in one line; `status` has it too.
pub fn damage(report: &ScrubReport) -> String {
    match report.rot_found {
        0 => "No damaged shard was found since the machines were started.".to_owned(),
        found => format!(
            "{} found since the machines were started; {} whole again.",
            count(found, "damaged shard was", "damaged shards were"),
            count(report.rot_mended, "is", "are")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_machine_says_when_it_last_read_everything() {
        let peer = |peer: &str, ended| ScrubbedPeer { peer: peer.into(), ended, ..ScrubbedPeer::default() };
        let mut report =
            ScrubReport { peers: vec![peer("p1", Some(1000)), peer("p2", None)], ..ScrubReport::default() };
        let said = text(&report, 1000 + 7200);
        assert!(said.contains("2 h 0 min ago") && said.contains("not yet"), "{said}");
        assert!(said.contains("No damaged shard was found"), "{said}");
        (report.rot_found, report.rot_mended) = (3, 1);
        assert!(
            text(&report, 0).contains("3 damaged shards were found since the machines were started; 1 is whole again.")
        );
    }
}
