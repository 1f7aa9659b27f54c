//! `shoal sim search`: how many messages it takes to find what some peer holds.

use super::runs::{progress, run_all, setting};
use super::{plot, table};
use crate::cli::output;
use crate::sim::search::{Case, Scenario, Summary};
use anyhow::Context;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to run: a scenario, such as scripts/scenarios/lineage-search.toml
    pub file: PathBuf,
    /// How many runs of each technique, each from a seed of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub seeds: u64,
    /// The first of the seeds
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How many peers
    #[arg(long)]
    pub peers: Option<u32>,
    /// Any value of the scenario, such as search.share=0.3; wins over the file
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub set: Vec<(String, String)>,
    /// Draw the figures into this file
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    #[command(flatten)]
    pub format: output::Format,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let shown = args.file.display();
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("{shown} cannot be read"))?;
    let peers = args.peers.map(|peers| ("peers".to_owned(), peers.to_string()));
    let flags: Vec<(String, String)> = peers.into_iter().chain(args.set).collect();
    let scenario = Scenario::parse(&text, &flags).with_context(|| format!("{shown} cannot be run"))?;
    let cases = Case::of(&scenario);
    let progress = progress(cases.len() as u64 * args.seeds);
    let seeds: Vec<u64> = (0..args.seeds).map(|number| args.seed.wrapping_add(number)).collect();
    let runs = run_all(&cases, &seeds, &progress, Case::run);
    progress.finish_and_clear();
    let summaries: Vec<Summary> = cases
        .iter()
        .zip(runs.chunks(seeds.len()))
        .map(|(case, runs)| Summary::of(case.technique.name(), scenario.peers, runs))
        .collect();
    if let Some(file) = &args.plot {
        plot::write(file, &plot::search(&scenario, &summaries))?;
    }
    if args.format.json { output::print_json(&summaries) } else { output::print(&table::search(&scenario, &summaries)) }
}
