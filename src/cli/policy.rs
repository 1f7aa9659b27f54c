//! `shoal policy`: how a directory's new files, or a file, are kept.

use super::{CHANGE_DEADLINE, ask, connect, output, sharepath, unexpected};
use crate::io::control::{ControlReply, ControlRequest};
use crate::policy::Policy;
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// A path inside a mount, or a path in the share with a leading /
    pub path: PathBuf,
    /// replicate:N, rs:K+M or survive:M; shown if not given
    pub policy: Option<Policy>,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let path = sharepath::in_share(&connect(home)?, &args.path)?;
    let request = ControlRequest::Policy { path, set: args.policy.map(|policy| policy.to_string()) };
    match ask(home, &request, CHANGE_DEADLINE)? {
        ControlReply::Policy(report) if args.policy.is_some() => {
            output::print(&format!("{}: {} for what is written from now on\n", report.path, report.policy))
        }
        ControlReply::Policy(report) => {
            let from = if report.inherited { " (inherited)" } else { "" };
            output::print(&format!("{}{from}\n", report.policy))
        }
        other => Err(unexpected(&other)),
    }
}
