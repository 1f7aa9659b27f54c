//! `shoal sim`: experiments with whole overlays in one process, from a seed.

mod faults;

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Faults(faults::Args),
}

pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Faults(args) => faults::run(args),
    }
}
