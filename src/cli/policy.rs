//! `shoal policy`: how a directory's new files, or a file, are kept.

use super::{CHANGE_DEADLINE, ask, connect, output, sharepath, unexpected};
use crate::io::control::{ControlReply, ControlRequest};
use crate::policy::{Partition, Policy};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// A path inside a mount, or a path in the share with a leading /
    pub path: PathBuf,
    /// replicate:N, rs:K+M or survive:M; shown if not given
    pub policy: Option<Policy>,
    /// What a directory asks for in a partition: keep-both (both sides go on) or refuse (a side that is no majority of
    /// the machines is read-only below it)
    #[arg(long, value_name = "MODE")]
    pub partition: Option<Partition>,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let path = sharepath::in_share(&connect(home)?, &args.path)?;
    let (set, partition) = (args.policy.map(|policy| policy.to_string()), args.partition.map(|mode| mode.to_string()));
    let request = ControlRequest::Policy { path, set, partition };
    let report = match ask(home, &request, CHANGE_DEADLINE)? {
        ControlReply::Policy(report) => report,
        other => return Err(unexpected(&other)),
    };
    let mut text = String::new();
    if args.policy.is_some() {
        text += &format!("{}: {} for what is written from now on\n", report.path, report.policy);
    }
    if args.partition.is_some() {
        text += &format!("{}: {} in a partition\n", report.path, report.partition);
    }
    if text.is_empty() {
        let from = |inherited| if inherited { " (inherited)" } else { "" };
        text = format!("{}{}\n", report.policy, from(report.inherited));
        text += &format!("in a partition: {}{}\n", report.partition, from(report.partition_inherited));
    }
    output::print(&text)
}
