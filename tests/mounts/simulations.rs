//! `shoal sim` as scripts use it: what it prints and draws, the same each time, and what it says of wrong scenarios.

use crate::harness::{PATIENCE, SHOAL, ends_within, run};
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/scenarios").join(name)
}

/// Runs an experiment twice; what it printed, and its picture: the same both times.
fn twice(words: &[&str], name: &str) -> (Value, String) {
    let dir = tempfile::tempdir().unwrap();
    let once = |picture: &str| {
        let picture = dir.path().join(picture);
        let mut command = Command::new(&*SHOAL);
        command.arg("sim").args(words).arg(scenario(name)).arg("--json").arg("--plot").arg(&picture);
        (run(&mut command, PATIENCE).ok(), std::fs::read_to_string(picture).unwrap())
    };
    let (first, second) = (once("1.svg"), once("2.svg"));
    assert!(first == second, "{name} gave other bytes the second time:\n{}\n{}", first.0, second.0);
    (serde_json::from_str(&first.0).unwrap(), first.1)
}

#[track_caller]
fn number(figures: &Value, key: &str) -> f64 {
    figures[key].as_f64().unwrap_or_else(|| panic!("{key} is no number: {figures}"))
}

#[test]
fn churn_gives_scripts_one_object_and_the_same_bytes_again() {
    for name in ["lineage-churn-50.toml", "lineage-churn-50-frugal.toml", "lineage-churn-100.toml"] {
        let (figures, picture) = twice(&["churn", "--seeds", "2", "--time", "4s"], name);
        assert_eq!(number(&figures, "seeds"), 2.0);
        let items = if name.contains("100") { 250.0 } else { 100.0 };
        assert_eq!(number(&figures, "items"), items, "{figures}");
        assert!((0.9..=1.0).contains(&number(&figures, "kept")), "{figures}");
        assert!(number(&figures, "membership_messages") > items, "{figures}");
        assert!(number(&figures, "repair_bytes") > 0.0, "{figures}");
        // Three copies of 1 MiB each, but for what is being repaired as time is up.
        assert!(number(&figures, "stored_bytes") > 2.7 * items * 1048576.0, "{figures}");
        assert!(picture.starts_with("<svg ") && picture.contains("worst run"), "{picture}");
    }
}

#[test]
fn search_gives_scripts_an_object_for_each_technique_and_the_same_bytes_again() {
    let (figures, picture) = twice(&["search", "--seeds", "2", "--set", "searches=20"], "lineage-search.toml");
    let all = figures.as_array().unwrap_or_else(|| panic!("no list: {figures}"));
    let names: Vec<&str> = all.iter().filter_map(|one| one["technique"].as_str()).collect();
    assert_eq!(names, ["breadth-first", "random-breadth-first", "bloom-guided"]);
    for one in all {
        assert!((0.5..=1.0).contains(&number(one, "found")), "{one}");
        assert!(number(one, "messages_per_search") > 1.0 && number(one, "hops") >= 1.0, "{one}");
    }
    assert!(picture.starts_with("<svg ") && picture.contains("bloom-guided"), "{picture}");
}

#[test]
fn several_cases_are_one_object_too() {
    let words = ["churn", "--time", "2s", "--peers", "12", "--policies", "replicate:3,rs:4+2"];
    let (figures, _) = twice(&words, "lineage-churn-50.toml");
    assert_eq!(figures["cases"].as_array().map(Vec::len), Some(2), "{figures}");
    assert_eq!(figures["cases"][1]["policy"], "rs:4+2");
}

#[test]
fn a_wrong_scenario_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wrong.toml");
    std::fs::write(&file, "title = \"t\"\ntime = \"60s\"\npeers = 2\n[churn]\n").unwrap();
    let ran = run(Command::new(&*SHOAL).args(["sim", "churn"]).arg(&file), PATIENCE);
    assert!(ran.code != Some(0) && ran.stdout.is_empty(), "{ran:?}");
    assert!(ran.stderr.contains("line 3: 2 peers cannot hold 3 shards"), "{}", ran.stderr);
}

/// A terminal: the end that reads what is written to the other one.
fn terminal() -> (File, File) {
    use std::ptr::{null, null_mut};
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: both places are there; no name, settings or size are asked for.
    let opened = unsafe { libc::openpty(&mut ours, &mut theirs, null_mut(), null(), null()) };
    assert_eq!(opened, 0, "no terminal: {}", std::io::Error::last_os_error());
    // SAFETY: they were just opened, and are nobody else's.
    unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) }
}

#[test]
fn progress_is_shown_where_people_look_also_when_the_figures_go_to_a_file() {
    let (mut ours, theirs) = terminal();
    let figures = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new(&*SHOAL)
        .args(["sim", "churn", "--json", "--time", "20s"])
        .arg(scenario("lineage-churn-50.toml"))
        .env("TERM", "xterm")
        .stdout(figures.reopen().unwrap())
        .stderr(theirs)
        .spawn()
        .unwrap();
    // The terminal ends with an error when nobody writes to it any more.
    let reader = std::thread::spawn(move || {
        let (mut seen, mut some) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = ours.read(&mut some) {
            seen.extend_from_slice(&some[..count]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    });
    let ended = ends_within(&mut child, PATIENCE);
    let _ = child.kill();
    let seen = reader.join().unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{seen}");
    // Also within the single run, not only at its end.
    let within = (1..100).any(|percent| seen.contains(&format!("] {percent} %")));
    assert!(seen.contains("1 run [") && within, "{seen:?}");
    assert!(std::fs::read_to_string(figures.path()).unwrap().starts_with('{'));
}
