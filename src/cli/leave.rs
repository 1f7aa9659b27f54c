//! `shoal leave`: this machine hands over what it holds, and goes.

use super::{CHANGE_DEADLINE, ask, follow, output, unexpected};
use crate::io::control::{ControlReply, ControlRequest};
use anyhow::bail;
use output::count;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Leave even though content would be lost
    #[arg(long)]
    pub accept_loss: bool,
    /// Stay after all
    #[arg(long, conflicts_with = "accept_loss")]
    pub cancel: bool,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    if args.cancel {
        return match ask(home, &ControlRequest::CancelLeave, CHANGE_DEADLINE)? {
            ControlReply::Done => output::print("This machine stays in the share.\n"),
            other => Err(unexpected(&other)),
        };
    }
    match follow(home, &ControlRequest::Leave { accept_loss: args.accept_loss })? {
        Some(ControlReply::Left(report)) => {
            let lost = match report.blocks_lost {
                0 => String::new(),
                blocks => format!(
                    "{} ({}) went with it. ",
                    count(report.files_lost, "file", "files"),
                    count(blocks, "block", "blocks")
                ),
            };
            output::print(&format!(
                "This machine has left the share. {lost}Its peer has stopped: the machine may be switched off, and {} removed.\n",
                home.display()
            ))
        }
        Some(other) => Err(unexpected(&other)),
        None => bail!(
            "not waited for any longer: the machine goes on leaving, and must not be switched off yet. Watch it with shoal leave; take it back with shoal leave --cancel"
        ),
    }
}
