//! `shoal where`: which peers hold a file.

use super::{LOOK_DEADLINE, ask, connect, output, sharepath, unexpected};
use crate::io::control::{ControlReply, ControlRequest, WhereReport};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// A path inside a mount, or a path in the share with a leading /
    pub path: PathBuf,
    #[command(flatten)]
    pub format: output::Format,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let path = sharepath::in_share(&connect(home)?, &args.path)?;
    match ask(home, &ControlRequest::Where { path }, LOOK_DEADLINE)? {
        ControlReply::Where(report) if args.format.json => output::print_json(&report),
        ControlReply::Where(report) => output::print(&text(&report)),
        other => Err(unexpected(&other)),
    }
}

fn text(report: &WhereReport) -> String {
    let mut text =
        format!("{}: {}, policy {}\n", output::shown(&report.path), output::bytes(report.size), report.policy);
    if report.inline_bytes > 0 {
        text += &format!("{} lie in the namespace, which every peer has.\n", output::bytes(report.inline_bytes));
    }
    if report.blocks.is_empty() {
        if report.inline_bytes == 0 {
            text += match report.kind.as_str() {
                "directory" => "A directory lies in the namespace, which every peer has.\n",
                "symlink" => "A symbolic link lies in the namespace, which every peer has; ask for what it leads to.\n",
                _ => "It has no blocks.\n",
            };
        }
        return text;
    }
    let mut table = output::table(&["block", "bytes", "name", "group", "state", "shards by slot"]);
    for block in &report.blocks {
        let shards: Vec<String> = block
            .shards
            .iter()
            .map(|shard| format!("{}:{}{}", shard.slot, shard.peer, if shard.alive { "" } else { " (gone)" }))
            .collect();
        table.add_row([
            block.index.to_string(),
            block.bytes.to_string(),
            block.block.chars().take(12).collect(),
            block.group.clone(),
            block.state.clone(),
            shards.join(", "),
        ]);
    }
    output::right(&mut table, &[0, 1]);
    text + &output::text(&table) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::control::{BlockReport, ShardReport};

    #[test]
    fn where_says_what_is_inline_and_where_the_shards_are() {
        let small = WhereReport { path: "/s\n".into(), size: 9, inline_bytes: 9, ..WhereReport::default() };
        assert!(text(&small).starts_with("/s\\n: 9 B"), "no name breaks the line: {}", text(&small));
        assert!(text(&small).contains("9 B lie in the namespace"), "{}", text(&small));
        let link = WhereReport { kind: "symlink".into(), ..WhereReport::default() };
        assert!(text(&link).contains("what it leads to"), "{}", text(&link));
        let shard = |slot, alive| ShardReport { slot, peer: format!("p{slot}"), alive };
        let large = WhereReport {
            path: "/l".into(),
            blocks: vec![BlockReport { shards: vec![shard(0, true), shard(1, false)], ..BlockReport::default() }],
            ..WhereReport::default()
        };
        assert!(text(&large).contains("0:p0, 1:p1 (gone)"), "{}", text(&large));
    }
}
