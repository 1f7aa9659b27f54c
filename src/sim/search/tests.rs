//! Runs of searches: what they find and cost, and that they can be run again.

use super::*;

/// The lineage's experiment, as people run it.
const LINEAGE: &str = include_str!("../../../scripts/scenarios/lineage-search.toml");

fn scenario(text: &str, flags: &[(&str, &str)]) -> Scenario {
    let flags: Vec<(String, String)> =
        flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Scenario::parse(text, &flags).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn summaries(scenario: &Scenario, seeds: std::ops::Range<u64>) -> Vec<Summary> {
    let summary = |case: Case| {
        let runs: Vec<Figures> = seeds.clone().map(|seed| case.run(seed, &|| {})).collect();
        Summary::of(case.technique.name(), scenario.peers, &runs)
    };
    Case::of(scenario).into_iter().map(summary).collect()
}

#[test]
fn guided_searches_find_everything_with_few_messages() {
    let [all, random, guided] = &summaries(&scenario(LINEAGE, &[]), 0..2)[..] else { panic!("three techniques") };
    assert_eq!([all.searches, random.searches, guided.searches], [400; 3]);
    // As many messages as the lineage counted, give or take a few: it is the same experiment.
    assert!((450.0..650.0).contains(&all.messages_per_search), "{all:?}");
    assert_eq!(all.found, 1.0, "{all:?}");
    assert!((150.0..300.0).contains(&random.messages_per_search) && random.found < 1.0, "{random:?}");
    assert_eq!(guided.found, 1.0, "{guided:?}");
    // Every message counts, also those that told neighbours before anybody searched.
    assert!(guided.messages_per_search <= 50.0, "{guided:?}");
    let parts = guided.queries_per_search + guided.answers_per_search + guided.summary_messages / 200.0;
    assert!((guided.messages_per_search - parts).abs() < 0.1, "{guided:?}");
    assert_eq!((all.summary_messages, random.summary_messages), (0.0, 0.0));
    assert!(guided.summary_messages > 0.0 && guided.summary_bytes > 0.0);
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let cases = Case::of(&scenario(LINEAGE, &[("searches", "5")]));
    assert_eq!(cases[2].run(7, &|| {}), cases[2].run(7, &|| {}));
    assert_ne!(cases[2].run(7, &|| {}), cases[2].run(8, &|| {}));
}

#[test]
fn lost_messages_are_made_up_for_by_later_rounds() {
    let scenario =
        scenario(LINEAGE, &[("searches", "10"), ("network.loss", "0.05"), ("techniques", "[\"bloom-guided\"]")]);
    let guided = &summaries(&scenario, 0..4)[0];
    assert!(guided.found > 0.95, "{guided:?}");
}

#[test]
fn wrong_scenarios_say_what_would_do() {
    let wrong = |text: &str| Scenario::parse(text, &[]).expect_err(text).to_string();
    let unknown = wrong("title = \"t\"\npears = 3\n");
    assert!(unknown.contains("line 2") && unknown.contains("pears") && unknown.contains("neighbours"), "{unknown}");
    let hops = wrong("title = \"t\"\n[search]\nhops = 9\n");
    assert!(hops.contains("line 3") && hops.contains("1 to 8"), "{hops}");
    let die = wrong("title = \"t\"\ndie = 1.5\n");
    assert!(die.contains("line 2") && die.contains("0.0 to 1.0"), "{die}");
    let technique = wrong("title = \"t\"\ntechniques = [\"luck\"]\n");
    assert!(technique.contains("line 2") && technique.contains("bloom-guided"), "{technique}");
    let few = wrong("title = \"t\"\npeers = 5\n");
    assert!(few.contains("line 2: 5 peers have no 7 neighbours each: use 4 or fewer"), "{few}");
    assert!(wrong("title = \"t\"\ndie = 0.99\n").contains("line 2: die leaves 1 of 100 peers: leave two alive"));
    let round = wrong("title = \"t\"\n[network]\nlatency = \"1s\"\n");
    assert!(round.contains("line 3: search.round is shorter") && round.contains("14140ms or more"), "{round}");
    assert!(wrong("title = \"t\"\nevery = \"0s\"\n").contains("line 2: every is 0"));
    assert!(wrong("title = \"t\"\npeers = 9\ncopies = 9\n").contains("line 3: with 9 copies"));
    assert_eq!(scenario("title = \"t\"\n", &[("peers", "6"), ("neighbours", "3")]).peers, 6);
    let flag = Scenario::parse("title = \"t\"\n", &[("copies".to_owned(), "0".to_owned())]).expect_err("no copy");
    assert!(flag.to_string().contains("--set copies=0") && flag.to_string().contains("1 to 32"), "{flag}");
}
