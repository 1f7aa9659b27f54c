//! `shoal evict`: a machine that is gone for good, or not trusted, off the roster at once.

use super::{CHANGE_DEADLINE, ask, output, unexpected};
use crate::io::control::{ControlReply, ControlRequest};
use output::count;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The machine, by id or name
    pub peer: String,
    /// Evict it even though content would be lost
    #[arg(long)]
    pub accept_loss: bool,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let request = ControlRequest::Evict { peer: args.peer, accept_loss: args.accept_loss };
    let report = match ask(home, &request, CHANGE_DEADLINE)? {
        ControlReply::Evicted(report) => report,
        other => return Err(unexpected(&other)),
    };
    let mut text = format!("{} ({}) is off the roster and cut off.", report.name, report.peer);
    if report.blocks_lost > 0 {
        let (files, blocks) = (count(report.files_lost, "file", "files"), count(report.blocks_lost, "block", "blocks"));
        text += &format!(" {files} ({blocks}) went with it.");
    }
    text += match report.survives {
        Some(_) => " Others take over what it held; shoal status says how far that is.\n",
        None => " Not everything can be read now; shoal status says more.\n",
    };
    output::print(&text)
}
