//! The figures of a simulation as a picture: what was kept over time, or, where several kinds of churn or sizes were
//! run, how policies fare from one to the next; how soon searches found what they were for, and for how much.

use super::svg::{Axis, Line, Panel, drawing};
use crate::cli::output;
use crate::sim::churn::{Scenario, Summary};
use crate::sim::search;
use anyhow::Context;
use std::path::Path;

/// The least fraction of time that is told from never, on a scale of powers of ten.
const LEAST: f64 = 1e-5;

pub fn churn(scenario: &Scenario, cases: &[Summary]) -> String {
    let panels = if scenario.churn.len() > 1 {
        by_churn(cases)
    } else if scenario.sizes.len() > 1 {
        vec![by_size(cases)]
    } else {
        vec![over_time(cases)]
    };
    drawing(&scenario.title, &panels)
}

pub fn write(file: &Path, drawing: &str) -> anyhow::Result<()> {
    std::fs::write(file, drawing).with_context(|| format!("{} cannot be written", file.display()))
}

/// What techniques of search find how soon, and what each costs.
pub fn search(scenario: &search::Scenario, techniques: &[search::Summary]) -> String {
    let slowest = techniques.iter().filter_map(|one| one.curve.last()).map(|(time, _)| *time).fold(0.0, f64::max);
    // Each goes on to the end with what it has found.
    let found = |one: &search::Summary| {
        let last = one.curve.last().map_or((slowest, 0.0), |(_, found)| (slowest, *found));
        let points = one.curve.iter().copied().chain([last]);
        points.map(|(time, found)| (1000.0 * time, 100.0 * found)).collect()
    };
    let plain = |value: f64| format!("{value}");
    let soon = Panel {
        heading: "Searches that found what they were for".to_owned(),
        x: Axis::linear("milliseconds", 0.0, 1000.0 * slowest, plain),
        y: Axis::linear("%", 0.0, 100.0, plain),
        lines: techniques
            .iter()
            .map(|one| Line { name: one.technique.to_owned(), dashed: false, points: found(one) })
            .collect(),
    };
    let published = |one: &search::Summary| {
        scenario.published.iter().find(|other| other.technique.name() == one.technique).map(|other| other.messages)
    };
    let of = |value: &dyn Fn(&search::Summary) -> Option<f64>| -> Vec<(f64, f64)> {
        techniques.iter().enumerate().filter_map(|(at, one)| Some((at as f64, value(one)?))).collect()
    };
    let lines = vec![
        Line { name: "here".to_owned(), dashed: false, points: of(&|one| Some(one.messages_per_search)) },
        Line { name: "published".to_owned(), dashed: true, points: of(&published) },
    ];
    let most = lines.iter().flat_map(|line| &line.points).map(|(_, messages)| *messages).fold(0.0, f64::max);
    let names: Vec<String> = techniques.iter().map(|one| one.technique.to_owned()).collect();
    let cost = Panel {
        heading: "Messages a search, summaries included".to_owned(),
        x: Axis::named(&names),
        y: Axis::linear("", 0.0, most, plain),
        lines,
    };
    drawing(&scenario.title, &[soon, cost])
}

fn name(case: &Summary) -> String {
    if case.churn.is_empty() { case.policy.clone() } else { format!("{}, {}", case.policy, case.churn) }
}

/// The mean of all runs, and the worst at every moment.
fn over_time(cases: &[Summary]) -> Panel {
    let (number, unit) = match cases.first().map_or(0.0, |case| case.seconds) {
        s if s <= 600.0 => (1.0, "seconds"),
        s if s <= 36_000.0 => (60.0, "minutes"),
        s if s <= 7.0 * 86_400.0 => (3600.0, "hours"),
        _ => (86_400.0, "days"),
    };
    let mut lines = Vec::new();
    for case in cases {
        let step = case.seconds / number / (case.curve.len().max(2) - 1) as f64;
        let points = |of: fn(&(f64, f64)) -> f64| {
            case.curve.iter().enumerate().map(|(at, both)| (at as f64 * step, 100.0 * of(both))).collect()
        };
        lines.push(Line { name: format!("{}, mean", name(case)), dashed: false, points: points(|both| both.0) });
        lines.push(Line { name: "worst run".to_owned(), dashed: true, points: points(|both| both.1) });
    }
    let end = cases.iter().map(|case| case.seconds / number).fold(0.0, f64::max);
    let lowest = lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y).fold(99.0, f64::min);
    Panel {
        heading: "Items that can still be had".to_owned(),
        x: Axis::linear(unit, 0.0, end, |value| format!("{value}")),
        y: Axis::linear("%", lowest, 100.0, |value| format!("{value}")),
        lines,
    }
}

/// Policies over kinds of churn, in the order of the file: where lines cross, one overtakes the other.
fn by_churn(cases: &[Summary]) -> Vec<Panel> {
    let (mut kinds, mut policies) = (Vec::new(), Vec::new());
    for case in cases {
        if !kinds.contains(&case.churn) {
            kinds.push(case.churn.clone());
        }
        if !policies.contains(&case.policy) {
            policies.push(case.policy.clone());
        }
    }
    let lines = |of: &dyn Fn(&Summary) -> f64| -> Vec<Line> {
        let line = |policy: &String| {
            let of_policy = cases.iter().filter(|case| case.policy == *policy);
            let points = of_policy.clone().filter_map(|case| {
                let at = kinds.iter().position(|kind| *kind == case.churn)?;
                Some((at as f64, of(case)))
            });
            let stored = of_policy.map(|case| case.stored_per_byte).fold(f64::MAX, f64::min);
            Line { name: format!("{policy} ({stored:.1} x)"), dashed: false, points: points.collect() }
        };
        policies.iter().map(line).collect()
    };
    let panel = |heading: &str, y: Axis, lines| Panel { heading: heading.to_owned(), x: Axis::named(&kinds), y, lines };
    let repair = lines(&|case| case.repair_bytes_per_peer_hour.max(1.0));
    let most = repair.iter().flat_map(|line| &line.points).map(|(_, y)| *y).fold(10.0, f64::max);
    let part = |value: f64| format!("{} %", 100.0 * value);
    let scale = || Axis::powers("", LEAST, 1.0, part);
    let mut panels = vec![panel(
        "Part of the time in which an item cannot be read",
        scale(),
        lines(&|case| (1.0 - case.available).max(LEAST)),
    )];
    if cases.iter().any(|case| case.items_lost > 0) {
        panels.push(panel("Items lost", scale(), lines(&|case| (1.0 - case.kept).max(LEAST))));
    }
    panels.push(panel(
        "Repair, a peer and hour",
        Axis::powers("", 1.0, most, |value| output::bytes(value as u64)),
        repair,
    ));
    panels
}

/// Messages over the number of peers.
fn by_size(cases: &[Summary]) -> Panel {
    let points = |of: fn(&Summary) -> f64| cases.iter().map(|case| (f64::from(case.peers), of(case))).collect();
    let lines = vec![
        Line {
            name: "membership".to_owned(),
            dashed: false,
            points: points(|case| case.membership_messages_per_peer_second),
        },
        Line {
            name: "groups' upkeep".to_owned(),
            dashed: false,
            points: points(|case| case.upkeep_messages_per_peer_second),
        },
        Line {
            name: "ops, to everybody".to_owned(),
            dashed: true,
            points: points(|case| case.op_messages_per_peer_second),
        },
    ];
    let sizes = || cases.iter().map(|case| f64::from(case.peers));
    let most = lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y).fold(0.0, f64::max);
    Panel {
        heading: "Messages a peer and second".to_owned(),
        x: Axis::powers("peers", sizes().fold(f64::MAX, f64::min), sizes().fold(1.0, f64::max), |value| {
            format!("{value}")
        }),
        y: Axis::linear("", 0.0, most, |value| format!("{value}")),
        lines,
    }
}

#[cfg(test)]
mod tests {
    use super::super::svg::tests::assert_well_formed;
    use super::*;

    fn scenario(text: &str) -> Scenario {
        Scenario::parse(&format!("title = \"a < b & c\"\ntime = \"60s\"\n{text}"), &[]).expect(text)
    }

    fn case(policy: &str, churn: &str, peers: u32) -> Summary {
        Summary {
            policy: policy.to_owned(),
            churn: churn.to_owned(),
            peers,
            seconds: 60.0,
            kept: 0.9,
            available: 1.0,
            curve: vec![(1.0, 1.0), (0.95, 0.93), (0.9, 0.8)],
            ..Summary::default()
        }
    }

    #[test]
    fn each_kind_of_scenario_has_its_picture() {
        let time = churn(&scenario("[churn]"), &[case("replicate:3", "", 9)]);
        assert_well_formed(&time);
        assert!(time.contains("seconds") && time.contains("worst run") && time.contains("a &lt; b &amp; c"), "{time}");
        let cases = [("replicate:3", "<calm>"), ("replicate:3", "storm"), ("rs:4+2", "<calm>"), ("rs:4+2", "storm")];
        let kinds = churn(
            &scenario("[[churn]]\nname = \"<calm>\"\n[[churn]]\nname = \"storm\""),
            &cases.map(|(policy, kind)| case(policy, kind, 9)),
        );
        assert_well_formed(&kinds);
        assert!(kinds.contains("&lt;calm&gt;") && kinds.contains("rs:4+2"), "{kinds}");
        let sizes =
            churn(&scenario("sizes = [10, 100]\n[churn]"), &[10, 100].map(|peers| case("replicate:3", "", peers)));
        assert_well_formed(&sizes);
        assert!(sizes.contains("peers") && sizes.contains("upkeep"), "{sizes}");
    }

    #[test]
    fn searches_have_their_picture() {
        let text = "title = \"a < b & c\"\n[[published]]\ntechnique = \"breadth-first\"\nsource = \"them\"\n\
                    found = 1.0\nmessages = 587\nseconds = 10.1\n";
        let scenario = search::Scenario::parse(text, &[]).expect(text);
        let one = |technique, messages_per_search, curve| search::Summary {
            technique,
            messages_per_search,
            curve,
            ..search::Summary::default()
        };
        let techniques = [
            one("breadth-first", 485.0, vec![(0.01, 0.5), (0.08, 1.0)]),
            one("bloom-guided", 42.0, vec![(0.02, 0.4), (0.5, 0.9)]),
        ];
        let picture = super::search(&scenario, &techniques);
        assert_well_formed(&picture);
        for word in ["milliseconds", "breadth-first", "bloom-guided", "published", "600", "a &lt; b &amp; c"] {
            assert!(picture.contains(word), "no {word}: {picture}");
        }
        assert_well_formed(&super::search(&scenario, &[]));
    }

    #[test]
    fn nothing_to_draw_is_a_picture_too() {
        assert_well_formed(&churn(&scenario("[churn]"), &[]));
    }
}
