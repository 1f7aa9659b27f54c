//! What a change costs where its lease is held, and where another machine holds it: the table of `docs/benchmarks.md`.

use crate::harness::{Cluster, PATIENCE, full_size};
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

/// The median of what `act` takes, each time after `prepare`.
fn median(mut prepare: impl FnMut(usize), mut act: impl FnMut(usize)) -> Duration {
    let rounds = if full_size() { 300 } else { 30 };
    let mut took: Vec<Duration> = (0..rounds)
        .map(|round| {
            prepare(round);
            let started = Instant::now();
            act(round);
            started.elapsed()
        })
        .collect();
    took.sort();
    took[took.len() / 2]
}

fn name(directory: &Path, what: &str, round: usize) -> std::path::PathBuf {
    directory.join(format!("{what}{round}"))
}

fn make(path: &Path) {
    File::create_new(path).unwrap();
}

#[test]
fn a_change_costs_no_more_than_a_moment_wherever_its_lease_is() {
    let mut cluster = Cluster::share(3);
    let mounts: Vec<_> = (0..3).map(|i| cluster.mount(i)).collect();
    fs::create_dir(mounts[0].join("d")).unwrap();
    let [one, other] = [0, 1].map(|machine| mounts[machine].join("d"));
    let nothing = |_| {};
    let here = [
        ("create and close", median(nothing, |n| make(&name(&one, "here", n)))),
        ("stat", median(nothing, |n| _ = fs::metadata(name(&one, "here", n)).unwrap())),
        ("rename", median(nothing, |n| fs::rename(name(&one, "here", n), name(&one, "moved", n)).unwrap())),
        ("flock", median(nothing, |n| File::open(name(&one, "moved", n)).unwrap().lock().unwrap())),
        (
            "open and read what was closed",
            median(
                |n| fs::write(name(&one, "written", n), b"x").unwrap(),
                |n| assert_eq!(fs::read(name(&one, "written", n)).unwrap(), b"x"),
            ),
        ),
    ];
    // Each time the other machine has just had the directory's lease; the locks are of files that it made.
    let elsewhere = [
        median(|n| make(&name(&other, "before", n)), |n| make(&name(&one, "there", n))),
        median(nothing, |n| _ = fs::metadata(name(&one, "before", n)).unwrap()),
        median(
            |n| make(&name(&other, "again", n)),
            |n| fs::rename(name(&one, "before", n), name(&one, "taken", n)).unwrap(),
        ),
        median(nothing, |n| File::open(name(&one, "again", n)).unwrap().lock().unwrap()),
        median(
            |n| fs::write(name(&other, "closed", n), b"x").unwrap(),
            |n| assert_eq!(fs::read(name(&one, "closed", n)).unwrap(), b"x"),
        ),
    ];
    println!("| median, in microseconds       | lease here | lease elsewhere |");
    println!("| ----------------------------- | ---------- | --------------- |");
    for ((what, here), elsewhere) in here.into_iter().zip(elsewhere) {
        println!("| {what:<29} | {:<10} | {:<15} |", here.as_micros(), elsewhere.as_micros());
        assert!(here < PATIENCE && elsewhere < PATIENCE);
    }
}
