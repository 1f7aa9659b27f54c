//! The commands that do a whole job: `demo` and `compare`, also when they are interrupted.

use crate::harness::{BOUND, Cluster, PATIENCE, Ran, SHOAL, ends_within, mounts_under, run, tree};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// `shoal demo` with its temporary directory below `dir`.
fn demo(dir: &Path, source: &Path) -> Command {
    let mut command = Command::new(SHOAL);
    command.arg("demo").arg("--dir").arg(source).env("TMPDIR", dir).env("NO_COLOR", "1").env_remove("SHOAL_HOME");
    command
}

/// Nothing of a demo is left: no process, no mount, no file.
#[track_caller]
fn assert_gone(dir: &Path) {
    assert_eq!(mounts_under(dir), Vec::<std::path::PathBuf>::new(), "mounts are left");
    let processes = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(dir.to_str().unwrap())
    });
    assert_eq!(processes.count(), 0, "processes are left");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "files are left");
}

#[test]
fn the_demo_reads_everything_back_and_leaves_nothing_behind() {
    let cluster = Cluster::loopback(0);
    let (dir, source) = (cluster.scratch("demo"), cluster.scratch("source").join("tree"));
    tree::plant(&source, 50);
    let said = run(&mut demo(&dir, &source), PATIENCE * 3).ok();
    for policy in ["replicate:3", "rs:4+2"] {
        let row = said.lines().find(|line| line.starts_with(policy)).unwrap_or_else(|| panic!("no {policy}: {said}"));
        let counts: Vec<&str> = row.rsplitn(4, ' ').take(3).collect();
        assert_eq!(counts[0], counts[2], "everything was read back right: {row}");
        assert!(row.contains("2 of 6"), "two machines of six were lost: {row}");
    }
    assert_gone(&dir);
}

#[test]
fn an_interrupted_demo_takes_down_what_it_started() {
    let cluster = Cluster::loopback(0);
    let (dir, source) = (cluster.scratch("demo"), cluster.scratch("source").join("tree"));
    tree::plant(&source, 50);
    let mut child = demo(&dir, &source).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = std::time::Instant::now() + BOUND;
    while mounts_under(&dir).is_empty() {
        assert!(std::time::Instant::now() < deadline, "the demo has mounted nothing within {BOUND:?}");
        std::thread::yield_now();
    }
    run(Command::new("kill").arg("-INT").arg(child.id().to_string()), PATIENCE).ok();
    let status = ends_within(&mut child, BOUND).expect("an interrupted demo ends");
    assert!(!status.success(), "it was interrupted, and says so by its exit code");
    assert_gone(&dir);
}

#[test]
fn compare_counts_what_each_policy_costs() {
    let mut cluster = Cluster::share(6);
    let mount = cluster.mount(0);
    fs::write(mount.join("mine"), b"untouched").unwrap();
    let source = cluster.scratch("source");
    let bytes = 12 << 20;
    fs::write(source.join("large"), tree::noise(1, bytes)).unwrap();
    let Ran { code, stdout, stderr, .. } =
        cluster.run(0, &["compare", source.to_str().unwrap(), "--policies", "replicate:3,rs:4+2,rs:2+1", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let found: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(found["files_bytes"], bytes);
    let policies = found["policies"].as_array().expect("a list of policies");
    for (measured, (policy, times)) in policies.iter().zip([("replicate:3", 3.0), ("rs:4+2", 1.5), ("rs:2+1", 1.5)]) {
        assert_eq!(measured["policy"], policy);
        let overhead = measured["overhead"].as_f64().expect("an overhead");
        assert!((times..times * 1.03).contains(&overhead), "{policy} stores {overhead} times the files: {measured}");
    }
    let left: Vec<_> = fs::read_dir(&mount).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["mine"], "compare cleans up");
}
