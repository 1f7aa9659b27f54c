//! `shoal join`: one more peer.

use super::output;
use crate::io::daemon::{self, JoinOptions};
use std::net::SocketAddr;
use std::path::Path;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The line that shoal invite printed on a machine of the share
    pub ticket: String,
    /// Where to listen for other peers; all addresses and a fixed port unless given
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// What to call this machine; its host name unless given
    #[arg(long)]
    pub name: Option<String>,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    let report = daemon::join(home, args.ticket.trim(), JoinOptions { listen: args.listen, name: args.name })?;
    output::print(&format!(
        "Joined share {}, now of {} machines.\nThis is peer {} ({}), listening on {}.\nNext: shoal mount MOUNTPOINT, or shoal serve for a machine that only stores.\n",
        report.share, report.peers, report.name, report.peer, report.address
    ))
}
