//! Many runs of an experiment, on as many cores as there are, and the flags over its scenario.

use crate::cli::output;
use crate::sim::{Going, STEPS};
use indicatif::ProgressBar;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A value of the scenario, as a flag gives it.
pub fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("use NAME=VALUE, with a name from the scenario".to_owned()),
    }
}

/// The progress of so many runs.
pub fn progress(runs: u64) -> ProgressBar {
    output::percent(&output::count(runs, "run", "runs"), runs * u64::from(STEPS))
}

/// Runs every case with every seed; the figures come in the order of cases and seeds.
pub fn run_all<C: Sync, F: Send>(
    cases: &[C],
    seeds: &[u64],
    progress: &ProgressBar,
    run: impl Fn(&C, u64, Going) -> F + Sync,
) -> Vec<F> {
    let wanted: Vec<(&C, u64)> = cases.iter().flat_map(|case| seeds.iter().map(move |seed| (case, *seed))).collect();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(wanted.len());
    let work = || {
        let mut done = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some((case, seed)) = wanted.get(place) else { return done };
            let left = Cell::new(u64::from(STEPS));
            let going = || {
                if left.get() > 0 {
                    left.set(left.get() - 1);
                    progress.inc(1);
                }
            };
            done.push((place, run(case, *seed, &going)));
            progress.inc(left.get());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_shows_within_a_run_and_is_whole_in_the_end() {
        let bar = ProgressBar::with_draw_target(None, indicatif::ProgressDrawTarget::hidden());
        let steps = u64::from(STEPS);
        let seen = run_all(&[()], &[1, 2, 3], &bar, |(), seed, going| {
            let before = bar.position();
            // One run tells less than it should, one more.
            (0..seed * steps / 2).for_each(|_| going());
            bar.position() - before
        });
        assert!(seen.iter().all(|seen| *seen >= steps / 2), "{seen:?}");
        assert_eq!(bar.position(), 3 * steps);
    }
}
