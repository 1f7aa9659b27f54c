//! The main job: files go in, machines die, files come out.

use crate::harness::{BOUND, Cluster, PATIENCE, full_size, run, tool, tree};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The policies everything is copied in under; None is what the share was founded with.
const POLICIES: [Option<&str>; 3] = [Some("replicate:3"), Some("rs:4+2"), None];

/// What was copied in, and what it has to look like.
pub struct Copied {
    dirs: Vec<(String, &'static str)>,
    tree: BTreeMap<Vec<u8>, tree::Facts>,
    big: String,
}

/// Copies a tree and a large file in through the mount of `writer`, once per policy.
pub fn copy_in(cluster: &Cluster, writer: usize) -> Copied {
    let source = cluster.scratch("source");
    let (files, megabytes) = if full_size() { (5000, 1024) } else { (300, 64) };
    let tree = source.join("tree");
    tree::plant(&tree, files);
    let big = source.join("big");
    write_noise(&big, megabytes);
    let mount = cluster.path(writer);
    let mut dirs = Vec::new();
    for policy in POLICIES {
        let name = policy.unwrap_or("default").replace([':', '+'], "-");
        let dir = mount.join(&name);
        fs::create_dir(&dir).unwrap();
        if let Some(policy) = policy {
            cluster.run(writer, &["policy", dir.to_str().unwrap(), policy]).ok();
        }
        copy(&tree, &dir.join("tree"));
        copy(&big, &dir.join("big"));
        dirs.push((name, policy.unwrap_or("survive:2")));
    }
    Copied { dirs, tree: tree::survey(&tree), big: tree::sha256(&big) }
}

fn write_noise(path: &Path, megabytes: u64) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    (0..megabytes).for_each(|i| file.write_all(&tree::noise(7_000 + i, 1 << 20)).unwrap());
}

/// `cp -a`, with a deadline that only a hang reaches.
pub fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to), PATIENCE * if full_size() { 20 } else { 3 }).ok();
}

impl Copied {
    /// Everything, compared through the mount of `reader`.
    #[track_caller]
    pub fn compare(&self, cluster: &Cluster, reader: usize, when: &str) {
        for (name, policy) in &self.dirs {
            let dir = cluster.path(reader).join(name);
            let what = format!("{policy} through peer{reader}, {when}");
            tree::assert_same(&what, &self.tree, &tree::survey(&dir.join("tree")));
            assert_eq!(tree::sha256(&dir.join("big")), self.big, "the large file under {what}");
        }
    }

    /// Each directory's policy, as the share was told.
    fn policies(&self) -> impl Iterator<Item = (&str, &str)> {
        self.dirs.iter().map(|(name, policy)| (name.as_str(), *policy))
    }
}

/// The whole story, on whatever machines the cluster has: six of them, running, in sight of one another.
pub fn files_survive_two_dead_machines(cluster: &mut Cluster) {
    cluster.mount(0);
    cluster.mount(1);
    let copied = copy_in(cluster, 0);
    copied.compare(cluster, 1, "with all peers alive");
    for (name, policy) in copied.policies() {
        let dir = cluster.path(1).join(name);
        let shown = cluster.run(1, &["policy", dir.to_str().unwrap()]).ok();
        assert!(shown.contains(policy), "`shoal policy` of {name} says {shown:?}, not {policy}");
    }
    let pairs: &[(usize, usize)] = if full_size() {
        &[
            (0, 1),
            (0, 2),
            (0, 3),
            (0, 4),
            (0, 5),
            (1, 2),
            (1, 3),
            (1, 4),
            (1, 5),
            (2, 3),
            (2, 4),
            (2, 5),
            (3, 4),
            (3, 5),
            (4, 5),
        ]
    } else {
        &[(0, 3), (1, 2), (4, 5)]
    };
    for (a, b) in pairs {
        // On a machine with too much to do a live peer may have been called dead while files were written; then slots
        // were doubled up, `status` says so, and they spread again by themselves.
        let limit = PATIENCE * if full_size() { 10 } else { 2 };
        cluster.wait_until(limit, "everything survives two losses", |c| c.status(1)["survives_now"] == 2);
        // A reader that was not there for the writing, and has just started: nothing is in its memory.
        let reader = (0..6).rev().find(|i| i != a && i != b).unwrap();
        cluster.kill_all(&[*a, *b, reader]);
        cluster.mount(reader);
        copied.compare(cluster, reader, &format!("with peer{a} and peer{b} killed"));
        [*a, *b].iter().for_each(|i| cluster.restart(*i));
        cluster.all_in_sight();
    }
    for i in 0..6 {
        cluster.stop(i);
    }
    (0..6).for_each(|i| cluster.restart(i));
    cluster.all_in_sight();
    cluster.mount(2);
    copied.compare(cluster, 2, "after all peers were stopped and started again");
}

#[test]
fn six_homes_carry_a_tree_through_the_death_of_any_two() {
    files_survive_two_dead_machines(&mut Cluster::share(6));
}

#[test]
fn a_share_of_one_machine_holds_files_and_grows() {
    let mut cluster = Cluster::loopback(3);
    cluster.init(0);
    let mount = cluster.mount(0);
    fs::write(mount.join("alone"), tree::noise(1, 3 << 20)).unwrap();
    let status = cluster.status(0);
    assert_eq!(status["survives_now"], 0, "one machine survives no loss: {status}");
    for i in 1..3 {
        let ticket = cluster.invite(0);
        cluster.join(i, &ticket);
        let there = cluster.mount(i);
        assert_eq!(fs::read(there.join("alone")).unwrap(), tree::noise(1, 3 << 20));
        fs::write(there.join(format!("from {i}")), b"hello").unwrap();
        assert_eq!(fs::read(mount.join(format!("from {i}"))).unwrap(), b"hello");
    }
}

#[test]
fn large_files_take_half_as_much_again_under_rs_4_2_and_thrice_under_replicate_3() {
    let mut cluster = Cluster::share(6);
    let mount = cluster.mount(0);
    for (policy, most) in [("rs:4+2", 1.02 * 1.5), ("replicate:3", 1.02 * 3.0)] {
        let before = cluster.status(0)["stored_bytes"].as_u64().expect("stored_bytes is a number");
        let dir = mount.join(policy);
        fs::create_dir(&dir).unwrap();
        cluster.run(0, &["policy", dir.to_str().unwrap(), policy]).ok();
        let bytes = 32 << 20;
        fs::write(dir.join("file"), tree::noise(before + 5, bytes)).unwrap();
        // The other peers' figures come with what they next report.
        let least = (bytes as f64 * if policy == "rs:4+2" { 1.5 } else { 3.0 }) as u64;
        let stored = |cluster: &Cluster| cluster.status(0)["stored_bytes"].as_u64().unwrap() - before;
        cluster.wait_until(BOUND, "the peers report what they store", |c| stored(c) >= least);
        let overhead = stored(&cluster) as f64 / bytes as f64;
        assert!(overhead <= most, "{policy} stores {overhead:.3} times the file");
    }
}

#[test]
fn a_hole_costs_nothing_and_reads_as_zeros() {
    let mut cluster = Cluster::share(3);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    let file = fs::File::create(a.join("hole")).unwrap();
    file.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", (1 << 40) - 3).unwrap();
    drop(file);
    let there = fs::File::open(b.join("hole")).unwrap();
    let mut bytes = vec![1; 70_000];
    std::os::unix::fs::FileExt::read_exact_at(&there, &mut bytes, (1 << 40) - 70_000).unwrap();
    assert!(bytes[..69_997].iter().all(|b| *b == 0) && bytes.ends_with(b"end"));
    let stored = cluster.status(0)["stored_bytes"].as_u64().unwrap();
    assert!(stored < 16 << 20, "a hole of 1 TiB takes {stored} bytes");
}

#[test]
fn tools_people_use_work_across_two_mounts() {
    let mut cluster = Cluster::share(3);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    let source = cluster.scratch("tools").join("tree");
    tree::plant(&source, 60);
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (source, rsynced) = (text(&source), text(&a.join("rsynced")));

    tool(&["rsync", "-aHX", &format!("{source}/"), &rsynced]);
    let again = tool(&["rsync", "-aHXcni", &format!("{source}/"), &text(&b.join("rsynced"))]);
    assert_eq!(again, "", "a second rsync from the other machine finds nothing to do");

    let archive = text(&a.join("tree.tar"));
    tool(&["tar", "-C", &source, "-cf", &archive, "."]);
    tool(&["tar", "-C", &source, "-df", &text(&b.join("tree.tar"))]);

    let (there, here) = (text(&a.join("repo")), text(&b.join("clone")));
    let git = |words: &[&str]| {
        let who = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "safe.directory=*", "-c", "gc.auto=0"];
        tool(&[&["git"], &who[..], words].concat())
    };
    git(&["init", "-q", &there]);
    for i in 0..40 {
        fs::write(format!("{there}/file-{i}"), tree::noise(i, 2000)).unwrap();
    }
    git(&["-C", &there, "add", "."]);
    git(&["-C", &there, "commit", "-qm", "first"]);
    git(&["clone", "-q", &there, &here]);
    git(&["-C", &here, "fsck", "--full", "--strict"]);
    git(&["-C", &here, "gc", "-q"]);
    assert_eq!(git(&["-C", &here, "status", "--porcelain"]), "");
    assert_eq!(git(&["-C", &text(&b.join("repo")), "status", "--porcelain"]), "");

    let database = text(&a.join("db.sqlite"));
    let fill = "create table t(i integer primary key, v blob);
                with recursive n(i) as (select 1 union all select i+1 from n where i < 2000)
                insert into t select i, randomblob(200) from n;
                delete from t where i % 3 = 0; vacuum;";
    tool(&["sqlite3", &database, fill]);
    let sums = "pragma integrity_check; select count(*), sum(length(v)) from t;";
    let (first, second) = (tool(&["sqlite3", &database, sums]), tool(&["sqlite3", &text(&b.join("db.sqlite")), sums]));
    assert!(first.starts_with("ok") && first == second, "{first} {second}");

    // With a backup that is renamed to, and with one that is copied to.
    for (line, backup) in [("first", "no"), ("second", "yes")] {
        let note = if backup == "no" { a.join("note") } else { b.join("note") };
        let (keep, add) = (format!("set backupskip= backup backupcopy={backup}"), format!("$put ='{line} line'"));
        tool(&["vim", "-es", "-u", "NONE", "-c", &keep, "-c", &add, "-c", "wq", &text(&note)]);
        assert!(fs::read_to_string(&note).unwrap().ends_with(&format!("{line} line\n")));
    }
    assert!(fs::read_to_string(a.join("note")).unwrap().contains("first line\nsecond line\n"));
    assert!(fs::read_to_string(a.join("note~")).unwrap().ends_with("first line\n"), "the backup is what was there");

    tool(&["mv", &rsynced, &text(&a.join("moved"))]);
    assert!(!b.join("rsynced").exists() && b.join("moved/size-4096").exists());
    tool(&["rm", "-rf", &text(&b.join("moved"))]);
    assert!(!a.join("moved").exists());
}

#[test]
fn a_crate_is_built_on_one_machine_and_run_on_another() {
    let mut cluster = Cluster::share(3);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    let dir = a.join("crate");
    fs::create_dir_all(dir.join("src")).unwrap();
    fs::write(dir.join("Cargo.toml"), "[package]\nname = \"made\"\nversion = \"0.1.0\"\nedition = \"2021\"\n").unwrap();
    fs::write(dir.join("src/lib.rs"), "pub fn text() -> &'static str { \"built on a share\" }\n").unwrap();
    fs::write(dir.join("src/main.rs"), "fn main() { println!(\"{}\", made::text()); }\n").unwrap();
    let build = |dir: &Path| {
        let mut command = Command::new(env!("CARGO"));
        // Everything lies on the share: whatever this test itself was built with must not show through.
        command.args(["build", "--offline", "--quiet"]).current_dir(dir).env("CARGO_TARGET_DIR", dir.join("target"));
        run(&mut command, PATIENCE * 2).ok();
    };
    build(&dir);
    assert_eq!(tool(&[b.join("crate/target/debug/made")]), "built on a share\n");
    // A change on the other machine is noticed by its time alone, and built upon what is there.
    fs::write(b.join("crate/src/lib.rs"), "pub fn text() -> &'static str { \"and built again\" }\n").unwrap();
    build(&b.join("crate"));
    assert_eq!(tool(&[a.join("crate/target/debug/made")]), "and built again\n");
}

#[test]
fn df_says_what_can_still_be_stored() {
    let mut cluster = Cluster::share(3);
    let mount = cluster.mount(0);
    let figures = tool(&["stat", "-f", "-c", "%S %b %a", mount.to_str().unwrap()]);
    let figures: Vec<u64> = figures.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let (unit, total, free) = (figures[0], figures[1], figures[2]);
    assert!(unit >= 512 && total > 0 && free > 0 && free <= total, "{figures:?}");
    // The homes lie on one disk, so what one machine can take is the most there can be of each copy.
    let disk = tool(&["stat", "-f", "-c", "%S %a", cluster.home(0).to_str().unwrap()]);
    let disk: Vec<u64> = disk.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert!(unit * free <= 3 * disk[0] * disk[1], "three machines cannot take more than three disks");
}
