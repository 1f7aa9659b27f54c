//! `shoal maintenance`: this machine is away for a while, and nobody is to make up for it.

use super::{CHANGE_DEADLINE, ask, invite, output, unexpected};
use crate::io::control::{ControlReply, ControlRequest};
use std::path::Path;
use std::time::Duration;

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// No repair for this machine from now on, until the time is over
    On {
        /// For how long at most: a number and s, m, h or d
        #[arg(long = "for", default_value = "30m", value_parser = invite::duration, value_name = "TIME")]
        length: Duration,
    },
    /// The machine is back
    Off,
}

pub fn run(home: &Path, command: Command) -> anyhow::Result<()> {
    let (secs, said) = match command {
        Command::On { length } => (
            length.as_secs(),
            format!(
                "No repair for this machine within the next {}. End it before that with shoal maintenance off.\n",
                output::duration(length.as_secs())
            ),
        ),
        Command::Off => (0, "Maintenance is over.\n".to_owned()),
    };
    match ask(home, &ControlRequest::Maintenance { secs }, CHANGE_DEADLINE)? {
        ControlReply::Done => output::print(&said),
        other => Err(unexpected(&other)),
    }
}
