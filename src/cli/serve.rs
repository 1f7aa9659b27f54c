//! `shoal serve`: the peer without a mount. And what running a peer in this process takes, for `mount` too.

use super::{background, no_home, output};
use crate::io::control::{Client, ControlError, ControlReply, ControlRequest};
use crate::io::daemon::{self, RunOptions};
use anyhow::bail;
use std::path::{Path, PathBuf};
use tracing_subscriber::filter::Targets;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub run: RunArgs,
}

/// How to run a peer.
#[derive(clap::Args, Debug, Default)]
pub struct RunArgs {
    /// Stay in the foreground and log to standard error
    #[arg(long)]
    pub foreground: bool,
    /// A setting that wins over config.toml, for this run
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub settings: Vec<(String, String)>,
    /// Where to say that the peer is ready: the other end waits for it
    #[arg(long, hide = true, value_parser = clap::value_parser!(i32).range(0..), requires = "foreground")]
    pub ready_fd: Option<i32>,
}

pub fn run(home: &Path, args: Args) -> anyhow::Result<()> {
    if args.run.foreground {
        return run_here(home, None, args.run);
    }
    match running(home)? {
        Some(_) => output::print("The peer is already running.\n"),
        None => {
            let peer = background::start(home, None, &args.run.settings, background::Life::OfItsOwn)?;
            output::print(&format!("The peer is running (process {}).\n", peer.id()))
        }
    }
}

/// The running peer of `home`, if there is one.
pub fn running(home: &Path) -> anyhow::Result<Option<Client>> {
    match Client::connect(home) {
        Ok(client) => Ok(Some(client)),
        Err(ControlError::NotRunning { .. }) if home.exists() => Ok(None),
        Err(ControlError::NotRunning { .. }) => Err(no_home(home)),
        Err(error) => Err(error.into()),
    }
}

/// Is the peer of `home` in this process until it is stopped.
pub fn run_here(home: &Path, mountpoint: Option<PathBuf>, args: RunArgs) -> anyhow::Result<()> {
    let readiness = args.ready_fd.map(background::Readiness::open).transpose()?;
    let answer = readiness.as_ref().map(background::Readiness::share).transpose()?;
    let result = run_until_stopped(home, mountpoint, args.settings, move || {
        if let Some(readiness) = readiness {
            readiness.ready();
        }
    });
    if let (Err(error), Some(answer)) = (&result, answer) {
        // Heard only if the peer was never ready: afterwards nobody is at the other end.
        answer.failed(&super::one_line(error));
    }
    result
}

fn run_until_stopped(
    home: &Path,
    mountpoint: Option<PathBuf>,
    overrides: Vec<(String, String)>,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    if let Some(client) = running(home)? {
        let process = match client.call(&ControlRequest::Ping, super::LOOK_DEADLINE, |_| ())? {
            ControlReply::Pong { pid, .. } => format!(" (process {pid})"),
            _ => String::new(),
        };
        bail!(
            "the peer of {} is already running{process}; leave out --foreground, or stop it with shoal stop",
            home.display()
        );
    }
    log_to_stderr(&daemon::log_filter(home, &overrides));
    daemon::run(home, RunOptions { mountpoint, overrides }, ready)
}

/// `SHOAL_LOG` in the environment wins over the settings.
fn log_to_stderr(filter: &str) {
    use std::io::IsTerminal;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let given = std::env::var("SHOAL_LOG").ok();
    let asked: Option<Targets> = given.and_then(|filter| filter.parse().ok());
    let filter = asked.or_else(|| filter.parse().ok()).unwrap_or_default();
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // A second call, in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(lines).with(filter).try_init();
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("use NAME=VALUE, with a name from config.toml".to_owned()),
    }
}
