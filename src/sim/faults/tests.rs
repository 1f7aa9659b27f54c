use super::*;

/// Seeds that the tests run through; `scripts/sim.sh` runs as many as one likes.
const SEEDS: u64 = 200;

#[test]
fn shares_are_well_again_after_all_faults_at_once() {
    let failed: Vec<String> = std::thread::scope(|scope| {
        let half = |from: u64| {
            (from..SEEDS).step_by(2).filter_map(|seed| {
                let report = run(seed);
                (!report.violations.is_empty()).then(|| format!("seed {seed}: {}", report.violations.join("; ")))
            })
        };
        let other = scope.spawn(move || half(1).collect::<Vec<_>>());
        let mut failed: Vec<String> = half(0).collect();
        failed.extend(other.join().expect("runs do not panic"));
        failed
    });
    assert!(failed.is_empty(), "{} of {SEEDS} seeds failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(5), run(5));
}

#[test]
fn a_run_that_panics_has_failed_and_says_so() {
    let none = Plan { policies: Vec::new(), ..Plan::new(&mut Chance::new(1)) };
    let report = run_plan(1, &none);
    assert!(report.violations.len() == 1 && report.violations[0].starts_with("the run panicked: "), "{report:?}");
}
