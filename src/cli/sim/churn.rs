//! `shoal sim churn`: how much data survives how much churn, and what it costs.

use super::{plot, table};
use crate::cli::output;
use crate::sim::churn::{Case, Figures, Scenario, Summary};
use anyhow::{Context, bail};
use indicatif::ProgressBar;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

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

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("use NAME=VALUE, with a name from the scenario".to_owned()),
    }
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
    let progress = output::steps("runs", cases.len() as u64 * args.seeds);
    let seeds: Vec<u64> = (0..args.seeds).map(|number| args.seed.wrapping_add(number)).collect();
    let runs = run_all(&cases, &seeds, &progress);
    progress.finish_and_clear();
    let summaries: Vec<Summary> = cases
        .iter()
        .zip(runs.chunks(seeds.len()))
        .map(|(case, runs)| Summary::of(case.policy.to_string(), case.churn.name.clone(), runs))
        .collect();
    if let Some(file) = &args.plot {
        let drawing = plot::churn(&scenario, &summaries);
        std::fs::write(file, drawing).with_context(|| format!("{} cannot be written", file.display()))?;
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

/// Runs every case with every seed, on as many cores as there are; the figures come in the order of cases and seeds.
fn run_all(cases: &[Case], seeds: &[u64], progress: &ProgressBar) -> Vec<Figures> {
    let wanted: Vec<(&Case, u64)> = cases.iter().flat_map(|case| seeds.iter().map(move |seed| (case, *seed))).collect();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(wanted.len());
    let work = || {
        let mut done = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some((case, seed)) = wanted.get(place) else { return done };
            done.push((place, case.run(*seed)));
            progress.inc(1);
        }
    };
    let mut all: Vec<(usize, Figures)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = running.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.flatten().collect()
    });
    all.sort_unstable_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, figures)| figures).collect()
}
