//! `shoal repair`: how far healing is, and a look at every group now.

use super::{LOOK_DEADLINE, ask, follow, output, unexpected};
use crate::io::control::{ControlReply, ControlRequest, HealingReport};
use anyhow::bail;
use output::{bytes, count, duration};
use std::path::Path;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Show progress until nothing is left to do
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub format: output::Format,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let request = ControlRequest::Repair { watch: args.watch };
    let reply = match args.watch && !args.format.json {
        true => follow(home, &request)?,
        false => Some(ask(home, &request, LOOK_DEADLINE)?),
    };
    match reply {
        Some(ControlReply::Healing(report)) if args.format.json => output::print_json(&report),
        Some(ControlReply::Healing(report)) => output::print(&format!("{}\n", text(&report))),
        Some(other) => Err(unexpected(&other)),
        None => bail!("not watched any longer; healing goes on by itself"),
    }
}

/// Healing in one line; `status` has it too.
pub fn text(report: &HealingReport) -> String {
    if report.groups == 0 {
        let but = match (report.blocks_unreadable, report.groups_cold) {
            (0, 0) => String::new(),
            (0, cold) => format!(
                ", but {} cold: too few machines that have room are up for their slots",
                count(cold, "group stays", "groups stay")
            ),
            (blocks, _) => {
                format!(", but {} cannot be read: start the machines that are gone", count(blocks, "block", "blocks"))
            }
        };
        return format!("Nothing is left to heal{but}.");
    }
    let pace = match report.seconds_left {
        Some(seconds) if report.bytes_per_second > 0 => {
            format!(", {} a second, about {} more", bytes(report.bytes_per_second), duration(seconds.max(1)))
        }
        _ => "; nothing moves at the moment".to_owned(),
    };
    format!(
        "Healing: {} of {} to go, {} to be stored{pace}.",
        count(report.blocks, "block", "blocks"),
        count(report.groups, "group", "groups"),
        bytes(report.bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_to_go_at_what_pace_and_how_long_that_takes() {
        assert_eq!(text(&HealingReport::default()), "Nothing is left to heal.");
        let report = HealingReport { groups_cold: 2, ..HealingReport::default() };
        assert!(text(&report).starts_with("Nothing is left to heal, but 2 groups stay cold:"), "{}", text(&report));
        let report = HealingReport { blocks_unreadable: 1, ..report };
        assert!(text(&report).contains("1 block cannot be read"), "{}", text(&report));
        let report = HealingReport { groups: 1, blocks: 30, bytes: 1 << 30, ..HealingReport::default() };
        assert_eq!(
            text(&report),
            "Healing: 30 blocks of 1 group to go, 1 GiB to be stored; nothing moves at the moment."
        );
        let report = HealingReport { bytes_per_second: 8 << 20, seconds_left: Some(128), ..report };
        assert!(text(&report).ends_with("1 GiB to be stored, 8 MiB a second, about 2 min 8 s more."));
    }
}
