//! `shoal sim churn`: how much data survives how much churn, and what it costs.

use super::runs::{progress, run_all, setting};
use super::{plot, table};
use crate::cli::output;
use crate::sim::churn::{Case, Scenario, Summary};
use anyhow::{Context, bail};
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to run: a scenario, such as those in scripts/scenarios
    pub file: PathBuf,
    /// How many runs of each case, each from a seed of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub seeds: u64,
    /// The first of the seeds
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How many peers
    #[arg(long)]
    pub peers: Option<u32>,
    /// How long churn lasts, such as 60s or 2h
    #[arg(long)]
    pub time: Option<String>,
    /// The policies, such as replicate:3,rs:4+2
    #[arg(long, value_delimiter = ',', value_name = "POLICY,..")]
    pub policies: Vec<String>,
    /// Any value of the scenario, such as churn.die_per_second=0.01; wins over the file
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub set: Vec<(String, String)>,
    /// Draw the figures into this file
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
    #[command(flatten)]
    pub format: output::Format,
}

/// What `--json` prints where a scenario has several cases; the figures of a single one are printed as they are.
#[derive(serde::Serialize)]
struct Several<'a> {
    title: &'a str,
    cases: &'a [Summary],
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let shown = args.file.display();
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("{shown} cannot be read"))?;
    let scenario = Scenario::parse(&text, &flags(&args)).with_context(|| format!("{shown} cannot be run"))?;
    let cases = Case::of(&scenario);
    let progress = progress(cases.len() as u64 * args.seeds);
    let seeds: Vec<u64> = (0..args.seeds).map(|number| args.seed.wrapping_add(number)).collect();
    let runs = run_all(&cases, &seeds, &progress, Case::run);
    progress.finish_and_clear();
    let summaries: Vec<Summary> = cases
        .iter()
        .zip(runs.chunks(seeds.len()))
        .map(|(case, runs)| Summary::of(case.policy.to_string(), case.churn.name.clone(), runs))
        .collect();
    if let Some(file) = &args.plot {
        plot::write(file, &plot::churn(&scenario, &summaries))?;
    }
    match (args.format.json, summaries.as_slice()) {
        (true, [one]) => output::print_json(one)?,
        (true, cases) => output::print_json(&Several { title: &scenario.title, cases })?,
        (false, cases) => output::print(&table::churn(&scenario, cases))?,
    }
    let violations: Vec<&String> = summaries.iter().flat_map(|summary| &summary.violations).collect();
    match violations.first() {
        Some(first) => {
            bail!("{} broken, the first: {first}", output::count(violations.len() as u64, "rule was", "rules were"))
        }
        None => Ok(()),
    }
}

fn flags(args: &Args) -> Vec<(String, String)> {
    let mut flags = Vec::new();
    let mut flag = |name: &str, value: String| flags.push((name.to_owned(), value));
    if let Some(peers) = args.peers {
        flag("sizes", "[]".to_owned());
        flag("peers", peers.to_string());
    }
    if let Some(time) = &args.time {
        flag("time", format!("{time:?}"));
    }
    if !args.policies.is_empty() {
        flag("policies", format!("{:?}", args.policies));
    }
    flags.extend(args.set.iter().cloned());
    flags
}
