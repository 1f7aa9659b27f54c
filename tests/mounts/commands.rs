//! The commands that do a whole job: `demo` and `compare`, also when they are interrupted.

use crate::harness::{BOUND, Cluster, PATIENCE, Ran, SHOAL, apart, ends_within, mounts_under, run, tree};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// `shoal demo` with its temporary directory below `dir`.
fn demo(dir: &Path, source: &Path) -> Command {
    let mut command = Command::new(&*SHOAL);
    command.arg("demo").arg("--dir").arg(source).env("TMPDIR", dir).env("NO_COLOR", "1").env_remove("SHOAL_HOME");
    command
}

/// Nothing of a demo is left: no process, no mount, no file.
#[track_caller]
fn assert_gone(dir: &Path) {
    assert_eq!(mounts_under(dir), Vec::<std::path::PathBuf>::new(), "mounts are left");
    assert_eq!(processes_of(dir), Vec::new(), "processes are left");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "files are left");
}

/// The processes whose command line names something under `dir`: their ids and command lines.
fn processes_of(dir: &Path) -> Vec<(u32, String)> {
    let processes = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        Some((entry.file_name().to_str()?.parse().ok()?, line))
    });
    processes.filter(|(_, line)| line.contains(dir.to_str().unwrap())).collect()
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
    let mounted = |_: &str| !mounts_under(&dir).is_empty();
    let copying = |_: &str| mounts_under(&dir).iter().any(|mount| mount.join("tree/size-1").exists());
    let reading = |said: &str| said.contains("with SIGKILL");
    for (when, is_then) in
        [("mounted", &mounted as &dyn Fn(&str) -> bool), ("copying", &copying), ("reading", &reading)]
    {
        let (code, said) = disturbed(demo(&dir, &source), is_then, |demo| {
            run(Command::new("kill").arg("-INT").arg(demo.to_string()), PATIENCE).ok();
        });
        assert_eq!(code, Some(1), "interrupted when {when}: {said}");
        assert!(said.contains("interrupted"), "interrupted when {when}: {said}");
        assert_gone(&dir);
    }
}

#[test]
fn a_demo_that_fails_takes_down_what_it_started_and_keeps_its_logs_if_asked() {
    let cluster = Cluster::loopback(0);
    let (dir, source) = (cluster.scratch("demo"), cluster.scratch("source").join("tree"));
    tree::plant(&source, 50);
    let copying = |_: &str| mounts_under(&dir).iter().any(|mount| mount.join("tree/size-1").exists());
    for keep in [false, true] {
        let mut command = demo(&dir, &source);
        if keep {
            command.arg("--keep");
        }
        let (code, said) = disturbed(command, &copying, |_| {
            let writer = processes_of(&dir).into_iter().find(|(_, line)| line.contains("mount-1"));
            let (pid, _) = writer.expect("the machine that writes is a process");
            run(Command::new("kill").arg("-KILL").arg(pid.to_string()), PATIENCE).ok();
        });
        assert_eq!(code, Some(1), "{said}");
        let why: Vec<&str> = said.lines().filter(|line| line.starts_with("shoal: ")).collect();
        assert!(why.len() == 1 && why[0].contains("cp -a"), "one line says why: {said}");
        assert_eq!(why[0].contains("--keep"), !keep, "{said}");
        if keep {
            let kept = fs::read_dir(&dir).unwrap().next().expect("a directory is kept").unwrap().path();
            assert!(said.contains(&format!("Kept {}", kept.display())), "{said}");
            assert!(kept.join("replicate:3/home-1/key").exists(), "the homes are kept");
            assert_eq!((mounts_under(&dir).len(), processes_of(&dir).len()), (0, 0), "but nothing that runs");
            fs::remove_dir_all(kept).unwrap();
        }
        assert_gone(&dir);
    }
}

/// Runs a demo, does something to it at a moment that what it has said so far or what it has mounted tells, and
/// returns how it ends and all it said.
#[track_caller]
fn disturbed(mut command: Command, is_then: &dyn Fn(&str) -> bool, disturb: impl FnOnce(u32)) -> (Option<i32>, String) {
    let output = tempfile::NamedTempFile::new().unwrap();
    let path = output.path().to_owned();
    let file = move || Stdio::from(fs::OpenOptions::new().append(true).open(&path).unwrap());
    let said = || fs::read_to_string(output.path()).unwrap();
    let mut child = apart(move || command.stdout(file()).stderr(file()).spawn().unwrap());
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_then(&said()) {
        assert!(std::time::Instant::now() < deadline, "the demo has not come so far within {PATIENCE:?}: {}", said());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    disturb(child.id());
    let status = ends_within(&mut child, BOUND).expect("a disturbed demo ends");
    (status.code(), said())
}

#[test]
fn a_comparison_mounts_for_itself_and_leaves_nothing_when_interrupted() {
    let mut cluster = Cluster::share(3);
    let scratch = |cluster: &Cluster| -> Vec<_> { mounts_under(&cluster.home(1)) };
    let source = cluster.scratch("source");
    fs::write(source.join("some"), tree::noise(1, 1 << 20)).unwrap();
    let args = ["compare", source.to_str().unwrap(), "--policies", "replicate:2"];
    cluster.run(1, &args).ok();
    assert_eq!(scratch(&cluster).len(), 0, "it lets go of its mount");

    let mut command = cluster.shoal(1, &["compare", "--policies", "replicate:2,replicate:3,rs:2+1"]);
    let mut child = apart(move || command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let begun = |cluster: &Cluster| {
        let rooms = scratch(cluster).into_iter().filter_map(|mount| fs::read_dir(mount).ok()?.next()?.ok());
        rooms.count() > 0
    };
    cluster.wait_until(BOUND, "it has begun", |cluster| begun(cluster));
    run(Command::new("kill").arg("-INT").arg(child.id().to_string()), PATIENCE).ok();
    let status = ends_within(&mut child, BOUND).expect("an interrupted comparison ends");
    assert_eq!(status.code(), Some(1));
    assert_eq!(scratch(&cluster).len(), 0, "it lets go of its mount");
    let left: Vec<_> = fs::read_dir(cluster.mount(0)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "it leaves {left:?} in the share");
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
    assert_eq!(policies.len(), 3);
    for (measured, (policy, times, slots, survives)) in
        policies.iter().zip([("replicate:3", 3.0, 3.0, 2), ("rs:4+2", 1.5, 6.0, 2), ("rs:2+1", 1.5, 3.0, 1)])
    {
        assert_eq!(measured["policy"], policy);
        let figure = |name: &str| measured[name].as_f64().unwrap_or_else(|| panic!("no {name} in {measured}"));
        let overhead = figure("overhead");
        assert!((times..times * 1.03).contains(&overhead), "{policy} stores {overhead} times the files: {measured}");
        // The writer sits in one of the slots, and what lies there is not sent.
        let sent = figure("write_network_bytes") / (figure("stored_bytes") * (slots - 1.0) / slots);
        assert!((0.98..1.25).contains(&sent), "{policy} sent {sent} times what others store: {measured}");
        let fetched = figure("read_network_bytes") / bytes as f64;
        let data = if policy == "rs:4+2" { 0.7..1.5 } else { 0.0..1.5 };
        assert!(data.contains(&fetched), "{policy} fetched {fetched} times the files: {measured}");
        for name in ["write_seconds", "read_seconds", "write_cpu_seconds", "read_cpu_seconds"] {
            assert!(figure(name) > 0.0, "{name}: {measured}");
        }
        assert_eq!(measured["survives"], survives, "{measured}");
    }
    let left: Vec<_> = fs::read_dir(&mount).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["mine"], "compare cleans up");
}

#[test]
fn what_is_logged_is_what_the_settings_say() {
    let mut cluster = Cluster::loopback(1);
    cluster.init(0);
    cluster.configure(0, "log = \"error\"");
    cluster.serve(0);
    cluster.stop(0);
    assert_eq!(cluster.log(0), "", "nothing went wrong");
    let config = cluster.home(0).join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\nlog = \"error\"", "\nlog = \"debug\"")).unwrap();
    cluster.serve(0);
    cluster.stop(0);
    assert!(cluster.log(0).contains("DEBUG"), "{}", cluster.log(0));
}
