use super::*;
use crate::id::{GroupId, PeerTag};
use crate::policy::{Geometry, Policy};
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds that are run with all assertions of an unoptimised build; `scripts/test.sh` runs 200 by the optimised one, and
/// `scripts/sim.sh` as many as one likes.
const SEEDS: u64 = 10;

#[test]
fn shares_are_well_again_after_all_faults_at_once() {
    let counts: [AtomicU64; 5] = Default::default();
    let failed: Vec<String> = std::thread::scope(|scope| {
        let half = |from: u64| {
            let counts = &counts;
            (from..SEEDS).step_by(2).filter_map(move |seed| {
                let report = run(seed);
                let found = [report.judged, report.taken, report.acts, report.judged_acts, report.served];
                for (count, found) in counts.iter().zip(found) {
                    count.fetch_add(found.into(), Ordering::Relaxed);
                }
                (!report.violations.is_empty()).then(|| format!("seed {seed}: {}", report.violations.join("; ")))
            })
        };
        let other = scope.spawn(move || half(1).collect::<Vec<_>>());
        let mut failed: Vec<String> = half(0).collect();
        failed.extend(other.join().expect("runs do not panic"));
        failed
    });
    // Not only in the end: groups were held to goldilocks while machines were down and cut off.
    let [judged, taken, acts, judged_acts, served] = counts.map(AtomicU64::into_inner);
    assert!(judged > 100 * SEEDS, "{judged}");
    assert!(taken > 50 * SEEDS, "{taken}");
    // Most of what people did was held against one order.
    assert!(judged_acts > 300 * SEEDS && judged_acts * 4 > acts * 3, "{judged_acts} of {acts}");
    assert!(served > SEEDS, "{served} done by a busy holder");
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

/// What the checkers say of a share of five in which one machine is down for minutes, its fellows putting up with an
/// absence for `repair_after`.
fn one_down(repair_after: Duration) -> Report {
    let forever = Duration::from_secs(1 << 30);
    let mut plan = Plan { machines: 5, fault_every: forever, loss: 0.0, ..Plan::new(&mut Chance::new(3)) };
    plan.repair_after = Duration::from_secs(5);
    plan.policies = vec![Policy::Replicate(3)];
    let mut world = World::new(3, &plan);
    for n in 0..5 {
        world.stop(n, false);
        world.machines[n].settings.repair_after = repair_after;
        world.start(n);
    }
    world.pass(Duration::from_secs(60));
    let written = world.files.iter().filter(|file| file.acknowledged).count();
    assert!(written > 5, "{written}");
    world.stop(0, false);
    world.pass(Duration::from_secs(300));
    world.finish()
}

#[test]
fn groups_are_held_to_goldilocks_while_a_machine_is_down() {
    let seen_to = one_down(Duration::from_secs(5));
    assert_eq!(seen_to.violations, Vec::<String>::new());
    assert!(seen_to.judged > 0);
    let left_alone = one_down(Duration::from_secs(3600));
    assert!(
        left_alone.violations.iter().any(|what| what.contains("is cold, with nothing in its way")),
        "{left_alone:?}"
    );
}

#[test]
fn repairs_that_read_more_than_they_need_are_told() {
    let plan = Plan::new(&mut Chance::new(3));
    let mut world = World::new(3, &plan);
    let (group, geometry) = (GroupId::new(PeerTag(1), 1), Geometry { data: 2, parity: 2 });
    world.check_reads(group, geometry, 3, 6);
    assert_eq!(world.report.violations, Vec::<String>::new());
    world.check_reads(group, geometry, 3, 7);
    assert!(world.report.violations[0].contains("7 shards for 3 blocks"), "{:?}", world.report.violations);
}
