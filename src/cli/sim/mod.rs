//! `shoal sim`: experiments with whole overlays in one process, from a seed.

mod churn;
mod faults;
mod plot;
mod runs;
mod search;
mod svg;
mod table;

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Measure how much data survives peers that come and go, and what that costs
    Churn(churn::Args),
    Faults(faults::Args),
    /// Measure how many messages it takes to find what some peer holds
    Search(search::Args),
}

pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Churn(args) => churn::run(args),
        Command::Faults(args) => faults::run(args),
        Command::Search(args) => search::run(args),
    }
}
