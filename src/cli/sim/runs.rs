//! Many runs of an experiment, on as many cores as there are, and the flags over its scenario.

use indicatif::ProgressBar;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A value of the scenario, as a flag gives it.
pub fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("use NAME=VALUE, with a name from the scenario".to_owned()),
    }
}

/// Runs every case with every seed; the figures come in the order of cases and seeds.
pub fn run_all<C: Sync, F: Send>(
    cases: &[C],
    seeds: &[u64],
    progress: &ProgressBar,
    run: impl Fn(&C, u64) -> F + Sync,
) -> Vec<F> {
    let wanted: Vec<(&C, u64)> = cases.iter().flat_map(|case| seeds.iter().map(move |seed| (case, *seed))).collect();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(wanted.len());
    let work = || {
        let mut done = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some((case, seed)) = wanted.get(place) else { return done };
            done.push((place, run(case, *seed)));
            progress.inc(1);
        }
    };
    let mut all: Vec<(usize, F)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = running.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.flatten().collect()
    });
    all.sort_unstable_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, figures)| figures).collect()
}
