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
        bail!(
            "without {who}, {} ({}) could not be read; wait until status says that more losses are survived",
            count(report.files_unreadable, "file", "files"),
            count(report.blocks_unreadable, "block", "blocks")
        );
    }
    if args.format.json { Ok(()) } else { output::print(&text(&who, &report)) }
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
    fn it_says_what_is_survived_then_and_once_healed() {
        let said = |survives, survives_healed| {
            text("a, b", &CanStopReport { readable: true, survives, survives_healed, ..CanStopReport::default() })
        };
        let all = "Everything can be read without a, b. It would then survive";
        assert_eq!(said(Some(0), 2), format!("{all} no further loss; once healed, the loss of any 2 machines more.\n"));
        assert_eq!(said(Some(1), 1), format!("{all} the loss of any 1 machine more.\n"));
    }
}
