//! `shoal init`: the first peer of a new share.

use super::output;
use crate::io::daemon::{self, InitOptions};
use crate::policy::Policy;
use std::net::SocketAddr;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where to listen for other peers; all addresses and a fixed port unless given
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// What to call this machine; its host name unless given
    #[arg(long)]
    pub name: Option<String>,
    /// The share's policy: replicate:N, rs:K+M or survive:M [default: survive:2]
    #[arg(long)]
    pub policy: Option<Policy>,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let report = daemon::init(home, InitOptions { listen: args.listen, name: args.name, policy: args.policy })?;
    output::print(&format!(
        "Made share {}.\nThis is peer {} ({}), listening on {}.\nNext: shoal mount MOUNTPOINT here, and shoal invite for each other machine.\n",
        report.share, report.name, report.peer, report.address
    ))
}
