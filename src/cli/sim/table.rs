//! The figures of a simulation for people, those that others published beside them.

use crate::cli::output;
use crate::sim::churn::{Scenario, Summary};
use crate::sim::search;

pub fn churn(scenario: &Scenario, cases: &[Summary]) -> String {
    let mut table = output::table(&[
        "policy",
        "churn",
        "peers",
        "kept",
        "worst run",
        "available",
        "deaths",
        "messages a run",
        "a peer and s",
        "ops a peer and s",
        "found in",
        "healed in",
        "repair a peer and h",
        "stored a byte",
    ]);
    for case in cases {
        let name = if case.churn.is_empty() { "-" } else { &case.churn };
        table.add_row([
            case.policy.clone(),
            name.to_owned(),
            case.peers.to_string(),
            percent(case.kept),
            percent(case.kept_worst),
            percent(case.available),
            format!("{:.0}", case.deaths),
            format!("{:.0}", case.membership_messages),
            format!("{:.2}", case.membership_messages_per_peer_second),
            format!("{:.2}", case.op_messages_per_peer_second),
            time(case.detection_seconds),
            time(case.healing_seconds),
            output::bytes(case.repair_bytes_per_peer_hour as u64),
            format!("{:.2}", case.stored_per_byte),
        ]);
    }
    output::right(&mut table, &(2..14).collect::<Vec<_>>());
    let purposes = purposes(cases);
    let runs = output::count(cases.first().map_or(0, |case| case.seeds), "run", "runs");
    let mut text = format!("{}\n{runs} of each case.\n\n{}\n", scenario.title, output::text(&table));
    if let Some(purposes) = purposes {
        text.push_str(&format!("\n{purposes}\n"));
    }
    if let Some(published) = &scenario.published {
        let kept = published.kept.map(|kept| format!("kept {}", percent(kept)));
        let messages = published.messages.map(|messages| format!("with {messages:.0} messages"));
        let said: Vec<String> = kept.into_iter().chain(messages).collect();
        text.push_str(&format!("\nPublished ({}): {}.\n", published.source, said.join(" ")));
    }
    for violation in cases.iter().flat_map(|case| &case.violations) {
        text.push_str(&format!("broken: {violation}\n"));
    }
    text
}

pub fn search(scenario: &search::Scenario, techniques: &[search::Summary]) -> String {
    let mut table = output::table(&[
        "technique",
        "found",
        "messages a search",
        "queries",
        "answers",
        "summaries",
        "hops",
        "found in",
        "summaries a run",
        "",
    ]);
    for one in techniques {
        table.add_row([
            one.technique.to_owned(),
            percent(one.found),
            format!("{:.1}", one.messages_per_search),
            format!("{:.1}", one.queries_per_search),
            format!("{:.1}", one.answers_per_search),
            format!("{:.1}", one.summary_messages_per_search),
            format!("{:.1}", one.hops),
            time(one.seconds),
            format!("{:.0}", one.summary_messages),
            output::bytes(one.summary_bytes as u64),
        ]);
    }
    output::right(&mut table, &(1..10).collect::<Vec<_>>());
    let (runs, searches) = techniques.first().map_or((0, 0), |one| (one.seeds, one.searches));
    let (runs, searches) = (output::count(runs, "run", "runs"), output::count(searches, "search", "searches"));
    let mut text = format!("{}\n{runs} of each technique, {searches}.\n\n{}\n", scenario.title, output::text(&table));
    for other in &scenario.published {
        text.push_str(&format!(
            "\nPublished ({}), {}: found {} with {:.0} messages in {}.",
            other.source,
            other.technique.name(),
            percent(other.found),
            other.messages,
            time(other.seconds)
        ));
    }
    if !scenario.published.is_empty() {
        text.push('\n');
    }
    text
}

/// What the messages of a single case were sent for.
fn purposes(cases: &[Summary]) -> Option<String> {
    let [case] = cases else { return None };
    let mut all: Vec<_> = case.messages.iter().collect();
    all.sort_by(|a, b| b.1.total_cmp(a.1));
    let named: Vec<String> =
        all.iter().map(|(purpose, count)| format!("{count:.0} {}", format!("{purpose:?}").to_lowercase())).collect();
    (!named.is_empty()).then(|| format!("Messages of membership a run, by what for: {}.", named.join(", ")))
}

/// Enough digits to tell 99.9 % from 100 %.
fn percent(part: f64) -> String {
    let percent = part * 100.0;
    if percent == 100.0 || percent < 99.0 { format!("{percent:.1} %") } else { format!("{:.3} %", percent.min(99.999)) }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 600.0 => format!("{s:.2} s"),
        s if s < 36_000.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
