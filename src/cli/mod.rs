//! The commands, one file each. [`parse`] reads the command line, [`run`] does what it says.
//!
//! What they share: `output` (tables, sizes, progress), `sharepath` (which path of the share is meant),
//! `background` (peers as processes of their own), `interrupt` (Ctrl-C).

mod background;
mod can_stop;
mod check;
mod compare;
mod conflicts;
mod demo;
mod evict;
mod groups;
mod holder;
mod init;
mod interrupt;
mod invite;
mod join;
mod leave;
mod maintenance;
mod mount;
mod output;
mod peers;
mod policy;
mod repair;
mod scrub;
mod serve;
mod sharepath;
mod sim;
mod status;
mod stop;
mod unmount;
mod r#where;

use crate::io::control::{Client, ControlError, ControlReply, ControlRequest};
use anyhow::{Context, bail};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One directory on several Linux machines: no server, erasure-coded, survives lost machines.
#[derive(Parser, Debug)]
#[command(name = "shoal", version, max_term_width = 100)]
pub struct Cli {
    /// Where the peer keeps its state [default: /var/lib/shoal as root, else shoal in the XDG data directory]
    #[arg(long, global = true, env = "SHOAL_HOME", hide_env_values = true, value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make this machine the first peer of a new share
    Init(init::Args),
    /// Print a ticket that lets another machine join
    Invite(invite::Args),
    /// Join the share that a ticket invites to
    Join(join::Args),
    /// Mount the share, starting the peer if it is not running
    Mount(mount::Args),
    /// Run the peer without a mount: a storage-only machine
    Serve(serve::Args),
    /// Flush everything and let go of a mount
    Unmount(unmount::Args),
    /// Flush everything, unmount, and end the peer
    Stop,
    /// Say what the share holds and what it survives
    Status(output::Format),
    /// List the peers
    Peers(output::Format),
    /// List the groups and who sits in them
    Groups(output::Format),
    /// Show which peers hold a file
    Where(r#where::Args),
    /// Show or set the policy of a directory or a file
    Policy(policy::Args),
    /// Check that the tree is sound and every shard where it should be
    Check(check::Args),
    /// Say whether machines may be stopped: whether everything could be read, and what it would then survive
    CanStop(can_stop::Args),
    /// Hand over what this machine holds, take it off the roster, and say when it may be switched off
    Leave(leave::Args),
    /// Take a machine that is gone for good, or not trusted, off the roster at once
    Evict(evict::Args),
    /// Announce that this machine is away for a while: no repair for it meanwhile
    #[command(subcommand)]
    Maintenance(maintenance::Command),
    /// Look now what the groups need, and say how far healing is
    Repair(repair::Args),
    /// Say how far the checking of all shards is, or check them all now
    Scrub(scrub::Args),
    /// List what two sides of a partition did that did not fit together, or settle it
    Conflicts(conflicts::Args),
    /// Measure what policies cost, on your files and machines
    Compare(compare::Args),
    /// Show it all on this machine: start peers, copy files in, kill two peers, read everything back
    Demo(demo::Args),
    /// Simulate a whole share in this process, from a seed
    #[command(subcommand)]
    Sim(sim::Command),
}

/// What to print instead of doing anything, and the exit code: help, the version, or wrong usage (2).
#[derive(Debug)]
pub struct Usage {
    pub text: String,
    pub code: u8,
}

/// Reads the command line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Usage> {
    Cli::command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches)).map_err(|error| {
        let rendered = error.render().to_string();
        match error.use_stderr() {
            true => Usage { text: format!("shoal: {}\n", usage_line(&rendered)), code: 2 },
            false => Usage { text: rendered, code: 0 },
        }
    })
}

/// What is wrong, in one line, from the several that the parser makes of it.
fn usage_line(rendered: &str) -> String {
    if let Some(help) = rendered.find("Usage:").filter(|_| !rendered.starts_with("error:")) {
        let usage = rendered[help..].lines().next().unwrap_or_default();
        return format!("no command given; {}; see shoal --help", usage.replacen("Usage:", "usage:", 1).trim());
    }
    let said: Vec<&str> = rendered
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let said = said.join(" ");
    format!("{}; see --help", said.strip_prefix("error:").unwrap_or(&said).trim().trim_end_matches('.'))
}

/// Does what the command line says.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let home = || home(cli.home.as_deref());
    match cli.command {
        Command::Init(args) => init::run(&home()?, args),
        Command::Invite(args) => invite::run(&home()?, args),
        Command::Join(args) => join::run(&home()?, args),
        Command::Mount(args) => mount::run(&home()?, args),
        Command::Serve(args) => serve::run(&home()?, args),
        Command::Unmount(args) => unmount::run(&home()?, args),
        Command::Stop => stop::run(&home()?),
        Command::Status(format) => status::run(&home()?, format),
        Command::Peers(format) => peers::run(&home()?, format),
        Command::Groups(format) => groups::run(&home()?, format),
        Command::Where(args) => r#where::run(&home()?, args),
        Command::Policy(args) => policy::run(&home()?, args),
        Command::Check(args) => check::run(&home()?, args),
        Command::CanStop(args) => can_stop::run(&home()?, args),
        Command::Leave(args) => leave::run(&home()?, args),
        Command::Evict(args) => evict::run(&home()?, args),
        Command::Maintenance(command) => maintenance::run(&home()?, command),
        Command::Repair(args) => repair::run(&home()?, args),
        Command::Scrub(args) => scrub::run(&home()?, args),
        Command::Conflicts(args) => conflicts::run(&home()?, args),
        Command::Compare(args) => compare::run(&home()?, args),
        Command::Demo(args) => demo::run(args),
        Command::Sim(command) => sim::run(command),
    }
}

/// An error with its causes, in one line.
pub fn one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The home that is meant: as given, or root's, or the user's own. Absolute.
fn home(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = match given {
        Some(given) if given.as_os_str().is_empty() => bail!("the home is an empty path; give a directory to --home"),
        Some(given) => given.into(),
        // SAFETY: it only reads this process's user id.
        None if unsafe { libc::geteuid() } == 0 => PathBuf::from("/var/lib/shoal"),
        None => match (variable("XDG_DATA_HOME").filter(|path| path.is_absolute()), variable("HOME")) {
            (Some(data), _) => data.join("shoal"),
            (None, Some(user)) => user.join(".local/share/shoal"),
            (None, None) => bail!("HOME is not set, so there is no default home; give one with --home DIR"),
        },
    };
    std::path::absolute(&home).with_context(|| format!("the home {} cannot be made absolute", home.display()))
}

/// How long a command that only looks may be silent.
const LOOK_DEADLINE: Duration = Duration::from_secs(30);

/// How long a command that flushes, mounts or changes something may be silent.
const CHANGE_DEADLINE: Duration = Duration::from_secs(120);

/// Finds the running peer of `home`.
fn connect(home: &Path) -> anyhow::Result<Client> {
    match Client::connect(home) {
        Err(ControlError::NotRunning { .. }) if !home.exists() => Err(no_home(home)),
        found => Ok(found?),
    }
}

fn no_home(home: &Path) -> anyhow::Error {
    anyhow::anyhow!("{} is no peer's home yet; make it one with shoal init or shoal join TICKET", home.display())
}

/// Asks the running peer of `home`, and shows progress where people watch.
fn ask(home: &Path, request: &ControlRequest, deadline: Duration) -> anyhow::Result<ControlReply> {
    let client = connect(home)?;
    let mut watch = output::Watch::default();
    let reply = client.call(request, deadline, |progress| watch.show(&progress));
    watch.clear();
    Ok(reply?)
}

/// Asks for what takes long and goes on by itself, with a bar or lines of progress; `None` once somebody interrupts.
fn follow(home: &Path, request: &ControlRequest) -> anyhow::Result<Option<ControlReply>> {
    interrupt::watch()?;
    let client = connect(home)?;
    let mut watch = output::Watch::in_lines_elsewhere();
    let reply = client.follow(request, CHANGE_DEADLINE, |progress| {
        watch.show(&progress);
        if interrupt::check().is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    watch.clear();
    match reply {
        Err(ControlError::Abandoned) => Ok(None),
        reply => Ok(Some(reply?)),
    }
}

/// The peer is of a version that answers something else.
fn unexpected(reply: &ControlReply) -> anyhow::Error {
    let answer: String = format!("{reply:?}").chars().take(60).collect();
    anyhow::anyhow!(
        "the running peer gave another answer than was asked for ({answer}); it may be of another version: stop and start it"
    )
}

#[cfg(test)]
mod tests;
