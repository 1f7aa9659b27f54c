//! Runs of churn: what they keep, that they can be run again, and that the checkers hold.

use super::*;

fn scenario(text: &str) -> Scenario {
    Scenario::parse(text, &[]).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Runs every case with these seeds; the figures, with nothing violated.
fn run(text: &str, seeds: std::ops::Range<u64>) -> Vec<Figures> {
    let mut all = Vec::new();
    for case in Case::of(&scenario(text)) {
        for seed in seeds.clone() {
            let figures = case.run(seed, &|| {});
            assert_eq!(figures.violations, Vec::<String>::new(), "seed {seed}");
            all.push(figures);
        }
    }
    all
}

const CALM: &str = r#"
title = "calm"
peers = 12
time = "60s"
[membership]
settings = "frugal"
[churn]
"#;

#[test]
fn without_churn_nothing_moves_and_nothing_is_lost() {
    for figures in run(CALM, 0..3) {
        assert_eq!((figures.items, figures.items_lost, figures.deaths, figures.mistaken), (12, 0, 0, 0));
        assert_eq!((figures.repair_bytes, figures.upkeep_messages, figures.op_messages), (0, 0, 0));
        assert_eq!(figures.stored_bytes, 3 * figures.data_bytes);
        assert_eq!(figures.readable, figures.looks);
    }
}

const LOSSES: &str = r#"
title = "losses"
peers = 20
time = "120s"
settle = "60s"
policies = ["replicate:3", "rs:4+2"]
[items]
bytes = 3000000
[membership]
settings = "high-churn"
introduced = 2
[healing]
repair_after = "0s"
patience = "60s"
[churn]
die_per_second = 0.001
"#;

#[test]
fn rare_losses_are_made_good_within_the_budget() {
    let runs = run(LOSSES, 0..4);
    let deaths: u64 = runs.iter().map(|run| run.deaths).sum();
    assert!(deaths > 4);
    // Newcomers are admitted and seats change: all others have to hear of each.
    let ops: u64 = runs.iter().map(|run| run.op_messages).sum();
    assert!(ops.is_multiple_of(19) && ops > 3 * 19 * deaths, "{ops} for {deaths} deaths");
    for figures in runs {
        assert_eq!(figures.items_lost, 0, "seed {}", figures.seed);
        assert!(figures.repair_read_bytes <= 4 * figures.repair_made_bytes);
    }
}

const SESSIONS: &str = r#"
title = "sessions"
peers = 16
time = "10d"
policies = ["replicate:3", "rs:4+2"]
[membership]
settings = "oracle"
[healing]
repair_after = "1h"
takeover = "10m"
patience = "6h"
[churn]
session = "1d"
absence = "2h"
lifetime = "60d"
"#;

#[test]
fn peers_that_return_find_their_slots_taken_and_groups_settle() {
    for figures in run(SESSIONS, 0..3) {
        assert!(figures.departures > 50 && figures.healed > 50, "{figures:?}");
        assert_eq!(figures.items_lost, 0, "seed {}", figures.seed);
    }
}

const PART: &str = r#"
title = "partial views"
peers = 60
time = "10m"
[membership]
settings = "frugal"
cycle = "2s"
view = 4
introduced = 2
[healing]
repair_after = "20s"
[churn]
session = "10m"
absence = "40s"
"#;

#[test]
fn peers_that_return_to_a_partial_view_are_found_there() {
    for figures in run(PART, 0..1) {
        assert!(figures.departures > 20, "{figures:?}");
        assert_eq!((figures.items_lost, figures.mistaken), (0, 0));
    }
}

const ROUGH: &str = include_str!("../../../scripts/scenarios/rough-network.toml");

/// The same with a cut of this kind.
fn rough(one_way: bool) -> Vec<Figures> {
    let flags = [("network.cut_one_way", one_way.to_string()), ("time", "\"4m\"".to_owned())];
    let flags = flags.map(|(name, value)| (name.to_owned(), value));
    let cases = Case::of(&Scenario::parse(ROUGH, &flags).expect("it is shipped"));
    cases.iter().map(|case| case.run(0, &|| {})).collect()
}

#[test]
fn peers_that_are_cut_off_and_lost_datagrams_cost_no_item() {
    for one_way in [false, true] {
        for figures in rough(one_way) {
            assert_eq!(figures.violations, Vec::<String>::new(), "one way: {one_way}");
            assert_eq!(figures.items_lost, 0, "{figures:?}");
            // Ten were taken for dead, and their slots filled; all was well again when they could be reached.
            assert!(figures.mistaken > 10 && figures.repair_made_bytes > 0, "{figures:?}");
            assert_eq!(figures.unsettled, 0, "{figures:?}");
        }
    }
}

#[test]
fn lost_datagrams_alone_move_nothing() {
    for figures in run(&format!("{CALM}[network]\nloss = 0.02\n"), 0..2) {
        assert_eq!((figures.items_lost, figures.mistaken, figures.repair_bytes), (0, 0, 0), "{figures:?}");
    }
}

#[test]
fn a_run_tells_how_far_it_is() {
    let told = std::cell::Cell::new(0);
    Case::of(&scenario(CALM))[0].run(0, &|| told.set(told.get() + 1));
    assert_eq!(told.get(), crate::sim::STEPS);
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let cases = Case::of(&scenario(LOSSES));
    assert_eq!(cases[1].run(7, &|| {}), cases[1].run(7, &|| {}));
    assert_ne!(cases[1].run(7, &|| {}), cases[1].run(8, &|| {}));
}

/// A scenario as it is shipped, with a few seeds; with `SHOAL_TEST_FULL=1`, with the twenty of the published figures.
fn shipped(text: &str, few: u64) -> Summary {
    let full = std::env::var_os("SHOAL_TEST_FULL").is_some_and(|value| value == "1");
    let seeds = if full { 20 } else { few };
    let runs = std::thread::scope(|scope| {
        let half = seeds / 2;
        let other = scope.spawn(move || run(text, half..seeds));
        let mut runs = run(text, 0..half);
        runs.extend(other.join().expect("runs do not panic"));
        runs
    });
    let summary = Summary::of(String::new(), String::new(), &runs);
    assert_eq!(summary.messages.values().sum::<f64>().round(), summary.membership_messages.round());
    // Who is seated elsewhere a moment ago is not made good again: a slot is filled once for each participant lost.
    assert!(summary.repair_bytes < 4.5 * summary.deaths * (1 << 20) as f64, "{summary:?}");
    summary
}

#[test]
fn more_is_kept_than_the_lineage_kept_with_no_more_messages() {
    let summary = shipped(include_str!("../../../scripts/scenarios/lineage-churn-50-frugal.toml"), 5);
    assert!(summary.kept >= 0.95 && summary.membership_messages <= 6000.0, "{summary:?}");
}

#[test]
fn with_settings_for_high_churn_next_to_nothing_is_lost() {
    let summary = shipped(include_str!("../../../scripts/scenarios/lineage-churn-50.toml"), 2);
    assert!(summary.kept >= 0.99, "{summary:?}");
}

#[test]
fn where_one_in_a_hundred_dies_each_second_nearly_all_is_kept() {
    let summary = shipped(include_str!("../../../scripts/scenarios/lineage-churn-100.toml"), 4);
    assert!(summary.kept >= 0.995, "{summary:?}");
}

#[test]
fn what_a_peer_sends_does_not_grow_with_the_share() {
    let text = include_str!("../../../scripts/scenarios/scale-peers.toml");
    let flags =
        [("sizes", "[30, 300, 1000]"), ("time", "\"60s\"")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let scenario = Scenario::parse(text, &flags).expect("it is shipped");
    let rates: Vec<(f64, f64)> = Case::of(&scenario)
        .iter()
        .map(|case| Summary::of(String::new(), String::new(), &[case.run(0, &|| {})]))
        .map(|summary| (summary.membership_messages_per_peer_second, summary.upkeep_messages_per_peer_second))
        .collect();
    let [(few, _), more @ ..] = &rates[..] else { panic!("three sizes") };
    assert!(*few > 0.5 && more.len() == 2, "{rates:?}");
    assert!(more.iter().all(|(membership, upkeep)| *membership < few * 1.1 && *upkeep < few * 0.1), "{rates:?}");
}

#[test]
fn every_shipped_scenario_is_read() {
    for text in [
        include_str!("../../../scripts/scenarios/lineage-churn-50-250.toml"),
        include_str!("../../../scripts/scenarios/lineage-churn-1000.toml"),
        include_str!("../../../scripts/scenarios/lineage-churn-10000.toml"),
        include_str!("../../../scripts/scenarios/policies-churn.toml"),
        include_str!("../../../scripts/scenarios/rough-network.toml"),
        include_str!("../../../scripts/scenarios/policies-subnets-blind.toml"),
        include_str!("../../../scripts/scenarios/policies-subnets-diverse.toml"),
        include_str!("../../../scripts/scenarios/scale-peers.toml"),
        include_str!("../../../scripts/scenarios/scale-hour.toml"),
    ] {
        assert!(!Case::of(&scenario(text)).is_empty());
    }
}
