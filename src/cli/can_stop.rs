//! `shoal can-stop`: whether machines may be switched off, in words, and by the exit code.

use super::{LOOK_DEADLINE, ask, output, unexpected};
use crate::io::control::{CanStopReport, ControlReply, ControlRequest};
use anyhow::bail;
use output::count;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Machines, by id or name
    #[arg(required = true, value_name = "PEER")]
    pub peers: Vec<String>,
    #[command(flatten)]
    pub format: output::Format,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let request = ControlRequest::CanStop { peers: args.peers.clone() };
    let report = match ask(home, &request, LOOK_DEADLINE)? {
        ControlReply::CanStop(report) => report,
        other => return Err(unexpected(&other)),
    };
    if args.format.json {
        output::print_json(&report)?;
    }
    let who = args.peers.join(", ");
    if !report.readable {
        bail!("{}", refusal(&who, &report));
    }
    if args.format.json { Ok(()) } else { output::print(&text(&who, &report)) }
}

/// Why they had better not be stopped, in one line.
fn refusal(who: &str, report: &CanStopReport) -> String {
    let told = |files, blocks| format!("{} ({})", count(files, "file", "files"), count(blocks, "block", "blocks"));
    let already = report.blocks_unreadable.saturating_sub(report.blocks_cut_off);
    let gone = |files| {
        format!(
            "{} cannot be read already, with {who} or without: start the machines that are gone",
            told(files, already)
        )
    };
    if report.blocks_cut_off == 0 {
        return gone(report.files_unreadable);
    }
    let cut_off = format!(
        "without {who}, {} could not be read; wait until status says that more losses are survived",
        told(report.files_cut_off, report.blocks_cut_off)
    );
    match already {
        0 => cut_off,
        // A file may lack blocks of both kinds.
        _ => format!("{cut_off}. {}", gone(report.files_unreadable.saturating_sub(report.files_cut_off).max(1))),
    }
}

fn text(who: &str, report: &CanStopReport) -> String {
    let losses = |losses: u32| match losses {
        0 => "no further loss".to_owned(),
        losses => format!("the loss of any {} more", count(losses.into(), "machine", "machines")),
    };
    let now = report.survives.unwrap_or(0);
    let healed = match report.survives_healed {
        healed if healed > now => format!("; once healed, {}", losses(healed)),
        _ => String::new(),
    };
    format!("Everything can be read without {who}. It would then survive {}{healed}.\n", losses(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_anyway_is_not_put_down_to_who_is_to_stop() {
        let report = CanStopReport { files_unreadable: 3, blocks_unreadable: 7, ..CanStopReport::default() };
        let said = refusal("a", &report);
        assert!(said.starts_with("3 files (7 blocks) cannot be read already, with a or without"), "{said}");
        let said = refusal("a", &CanStopReport { files_cut_off: 2, blocks_cut_off: 6, ..report.clone() });
        assert!(said.starts_with("without a, 2 files (6 blocks) could not be read;"), "{said}");
        assert!(said.contains("1 file (1 block) cannot be read already"), "{said}");
        let said = refusal("a", &CanStopReport { files_cut_off: 3, blocks_cut_off: 7, ..report });
        assert!(said.starts_with("without a, 3 files (7 blocks)") && !said.contains("already"), "{said}");
    }

    #[test]
    fn it_says_what_is_survived_then_and_once_healed() {
        let said = |survives, survives_healed| {
            text("a, b", &CanStopReport { readable: true, survives, survives_healed, ..CanStopReport::default() })
        };
        let all = "Everything can be read without a, b. It would then survive";
        assert_eq!(said(Some(0), 2), format!("{all} no further loss; once healed, the loss of any 2 machines more.\n"));
        assert_eq!(said(Some(1), 1), format!("{all} the loss of any 1 machine more.\n"));
    }
}
