//! The running peer: every device wired to the cores. (Signatures only in this branch.)

use crate::policy::Policy;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What `shoal init` may choose.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    pub listen: Option<SocketAddr>,
    pub name: Option<String>,
    pub policy: Option<Policy>,
}

/// What `shoal init` made.
#[derive(Clone, Debug)]
pub struct InitReport {
    pub share: String,
    pub peer: String,
    pub name: String,
    pub address: String,
}

/// What `shoal join` may choose.
#[derive(Clone, Debug, Default)]
pub struct JoinOptions {
    pub listen: Option<SocketAddr>,
    pub name: Option<String>,
}

/// What `shoal join` joined.
#[derive(Clone, Debug)]
pub struct JoinReport {
    pub share: String,
    pub peer: String,
    pub name: String,
    pub address: String,
    /// Peers on the roster, this one included.
    pub peers: usize,
}

/// How to run a peer.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Mount there before being ready.
    pub mountpoint: Option<PathBuf>,
    pub foreground: bool,
    /// Settings that win over `config.toml`: name and value.
    pub overrides: Vec<(String, String)>,
}

/// Makes `home` the first peer of a new share.
pub fn init(home: &Path, options: InitOptions) -> anyhow::Result<InitReport> {
    let _ = (home, options);
    anyhow::bail!("not in this branch")
}

/// Makes `home` a peer of the share that the ticket invites to.
pub fn join(home: &Path, ticket: &str, options: JoinOptions) -> anyhow::Result<JoinReport> {
    let _ = (home, ticket, options);
    anyhow::bail!("not in this branch")
}

/// Runs the peer of `home` until it is stopped; calls `ready` when it answers.
pub fn run(home: &Path, options: RunOptions, ready: impl FnOnce()) -> anyhow::Result<()> {
    let _ = (home, options, ready);
    anyhow::bail!("not in this branch")
}
