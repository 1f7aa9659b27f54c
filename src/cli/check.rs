//! `shoal check`: whether everything is as it should be, in words, and by the exit code.

use super::{CHANGE_DEADLINE, ask, follow, output, unexpected};
use crate::io::control::{CheckReport, ControlReply, ControlRequest};
use anyhow::bail;
use output::count;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Have every shard read, and not only looked for
    #[arg(long)]
    pub read: bool,
    #[command(flatten)]
    pub format: output::Format,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let request = ControlRequest::Check { read: args.read };
    let reply = match args.format.json {
        true => Some(ask(home, &request, CHANGE_DEADLINE)?),
        false => follow(home, &request)?,
    };
    let report = match reply {
        Some(ControlReply::Check(report)) => report,
        Some(other) => return Err(unexpected(&other)),
        None => bail!("the check was not ended; run shoal check again"),
    };
    if args.format.json {
        output::print_json(&report)?;
    } else {
        output::print(&text(&report))?;
    }
    if !report.sound {
        bail!("{}", verdict(&report));
    }
    Ok(())
}

fn text(report: &CheckReport) -> String {
    let mut lines = vec![format!(
        "Looked at {} in {}, {} and {}.",
        count(report.files, "file", "files"),
        count(report.directories, "directory", "directories"),
        count(report.blocks, "block", "blocks"),
        count(report.shards, "shard", "shards"),
    )];
    lines.extend(report.findings.iter().cloned());
    if !report.silent.is_empty() {
        lines.push(format!("Not looked at, for they are away: the shards on {}.", report.silent.join(", ")));
    }
    if report.sound {
        lines.push("Everything is as it should be.".to_owned());
    }
    lines.join("\n") + "\n"
}

/// What is wrong and what to do, in one line.
fn verdict(report: &CheckReport) -> String {
    let missing = count(report.shards_missing, "shard is", "shards are");
    match report.shards_missing {
        0 => format!(
            "{}; stop and start this machine's peer, and if it stays, report it with its log",
            count(report.findings.len() as u64, "thing is wrong", "things are wrong")
        ),
        _ => format!(
            "{missing} not where they should be; have them rebuilt with shoal scrub --now and shoal repair --watch"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_looked_at_and_what_to_do() {
        let whole =
            CheckReport { sound: true, files: 1, directories: 2, blocks: 3, shards: 9, ..CheckReport::default() };
        assert_eq!(
            text(&whole),
            "Looked at 1 file in 2 directories, 3 blocks and 9 shards.\nEverything is as it should be.\n"
        );
        let away = text(&CheckReport { silent: vec!["a".into(), "b".into()], ..whole.clone() });
        assert!(away.contains("the shards on a, b."), "{away}");
        let lost = CheckReport { sound: false, shards_missing: 2, findings: vec!["x".into()], ..whole.clone() };
        assert!(text(&lost).contains("\nx\n") && !text(&lost).contains("as it should"), "{}", text(&lost));
        assert!(verdict(&lost).starts_with("2 shards are not where they should be; have them rebuilt"));
        let odd = CheckReport { sound: false, findings: vec!["x".into()], ..whole };
        assert!(verdict(&odd).starts_with("1 thing is wrong; stop and start"), "{}", verdict(&odd));
    }
}
