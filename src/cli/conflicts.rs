//! `shoal conflicts`: what two sides did that did not fit together, and settling it.

use super::{CHANGE_DEADLINE, LOOK_DEADLINE, ask, connect, output, scrub, sharepath, unexpected};
use crate::io::control::{ConflictReport, ConflictsReport, ControlReply, ControlRequest, DeedReport};
use output::{count, shown};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only those at or below this path: one inside a mount, or one in the share with a leading /
    pub path: Option<PathBuf>,
    /// Settle the one about PATH: keep-this (the version under the plain name; the other is removed), keep-other (it takes
    /// the plain name) or keep-both (as they are)
    #[arg(long, value_name = "HOW", value_parser = ["keep-this", "keep-other", "keep-both"], requires = "path")]
    pub resolve: Option<String>,
    #[command(flatten)]
    pub format: output::Format,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let path = match &args.path {
        Some(path) => Some(sharepath::in_share(&connect(home)?, path)?),
        None => None,
    };
    if let (Some(how), Some(path)) = (&args.resolve, &path) {
        let request = ControlRequest::Resolve { path: path.clone(), how: how.clone() };
        return match ask(home, &request, CHANGE_DEADLINE)? {
            ControlReply::Resolved { conflicts } => {
                output::print(&format!("{} settled.\n", count(conflicts, "conflict", "conflicts")))
            }
            other => Err(unexpected(&other)),
        };
    }
    match ask(home, &ControlRequest::Conflicts { path }, LOOK_DEADLINE)? {
        ControlReply::Conflicts(report) if args.format.json => output::print_json(&report),
        ControlReply::Conflicts(report) => output::print(&text(&report, scrub::now())),
        other => Err(unexpected(&other)),
    }
}

fn text(report: &ConflictsReport, now: u64) -> String {
    if report.conflicts.is_empty() {
        return "No conflicts.\n".to_owned();
    }
    let mut text: String = report.conflicts.iter().map(|conflict| one(conflict, now)).collect();
    if report.more > 0 {
        text += &format!("And {} more; give a directory to see those below it.\n", report.more);
    }
    text + "Settle one with shoal conflicts PATH --resolve keep-this, keep-other or keep-both.\n"
}

fn one(conflict: &ConflictReport, now: u64) -> String {
    let deed = |deed: &DeedReport| {
        let ago = output::duration(now.saturating_sub(deed.at));
        format!("{} by {} {ago} ago", deed.what.replace('-', " "), shown(&deed.by))
    };
    let mut text =
        format!("{}\n  {}; on the other side {}\n", shown(&conflict.path), deed(&conflict.this), deed(&conflict.other));
    if let Some(path) = &conflict.other_path {
        let what = if conflict.has_other_version { "the other version is" } else { "the other side wanted it at" };
        text += &format!("  {what} {}\n", shown(path));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_says_who_did_what_when_and_where_the_other_version_is() {
        let deed =
            |what: &str, by: &str, at| DeedReport { what: what.into(), by: by.into(), at, ..DeedReport::default() };
        let conflict = ConflictReport {
            path: "/d/f (conflict from p1 1)".into(),
            this: deed("changed", "attic", 100),
            other: deed("moved-in-circle", "cel\nlar", 40),
            other_path: Some("/d/f".into()),
            has_other_version: true,
            ..ConflictReport::default()
        };
        let report = ConflictsReport { conflicts: vec![conflict.clone()], more: 7 };
        let said = text(&report, 160);
        for words in [
            "/d/f (conflict from p1 1)\n",
            "changed by attic 1 min 0 s ago; on the other side moved in circle by cel\\nlar 2 min 0 s ago",
            "the other version is /d/f\n",
            "And 7 more",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let wished = ConflictReport { has_other_version: false, ..conflict };
        assert!(one(&wished, 0).contains("the other side wanted it at /d/f"));
        assert_eq!(text(&ConflictsReport::default(), 0), "No conflicts.\n");
    }
}
