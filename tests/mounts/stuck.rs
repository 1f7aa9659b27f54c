//! A peer that is killed while the kernel waits on its behalf: it holds nothing that the next one needs, and its mount is let
//! go of, with everybody who waits in it, by itself or by `shoal unmount`.

use crate::harness::{BOUND, Cluster, PATIENCE, ends_within, mounts_under, run, tree};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The thread of a peer that tells the kernel what changed elsewhere, while it waits in the kernel for a page.
fn waits_for_a_page(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.map(|task| task.path()).any(|task| {
        let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
        read("comm").trim() == "fuse-invalidate" && read("wchan").contains("folio_lock")
    })
}

/// A share of four whose first machine has a read under way that nobody answers for a while, with a thread that waits for
/// that read: two of the machines that have the shards are frozen, and the other one changes the file. And the readers: the
/// one that reads, and one that has the file open and reads the end of it when it is told to.
fn caught_in_a_read() -> (Cluster, PathBuf, Child, Child) {
    let mut cluster = Cluster::share(4);
    let (here, there) = (cluster.mount(0), cluster.mount(3));
    let (dir, file) = (there.join("dir"), there.join("dir/file"));
    fs::create_dir(&dir).unwrap();
    run(&mut cluster.shoal(3, &["policy", dir.to_str().unwrap(), "rs:3+1"]), PATIENCE).ok();
    fs::write(&file, tree::noise(1, 8 << 20)).unwrap();
    let late = late_reader(&here.join("dir/file"));
    cluster.pause(1);
    cluster.pause(2);
    let mut reader = Command::new("cat");
    reader.arg(here.join("dir/file")).stdout(Stdio::null()).stderr(Stdio::null());
    let reader = reader.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    // It returns when the frozen machines are known dead.
    std::thread::spawn(move || fs::set_permissions(file, fs::Permissions::from_mode(0o600)));
    let pid = cluster.pid(0);
    cluster.wait_until(BOUND, "the kernel has the peer wait for a page", |_| waits_for_a_page(pid));
    (cluster, here, reader, late)
}

/// A process that has the file open and reads from its last MiB when its input ends. Not this process: what it starts
/// would have to close the file first, which is a call that nobody answers.
fn late_reader(file: &Path) -> Child {
    // Where to read is settled before: the read is to be the only call.
    let script =
        "exec 3< \"$1\"; dd bs=1M skip=7 count=0 <&3; echo open; read -r go; exec dd bs=4096 count=1 of=/dev/null <&3";
    let mut reader = Command::new("bash");
    reader.args(["-c", script, "reader"]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut reader = reader.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(reader.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "open\n");
    reader
}

/// Kills the peer of machine 0 so that its home and its port are free at once.
fn killed_at_once(cluster: &mut Cluster) {
    // SAFETY: takes two numbers; the process is the cluster's, which has not waited for it.
    unsafe { libc::kill(cluster.pid(0), libc::SIGKILL) };
    let lock = cluster.home(0).join("lock");
    cluster.wait_until(Duration::from_secs(5), "the home is free", |_| File::open(&lock).unwrap().try_lock().is_ok());
    UdpSocket::bind(cluster.listen(0)).expect("its port is free too");
}

/// What was left at the mountpoint is named by `shoal mount`, and let go of by `shoal unmount`, which says so.
fn is_let_go(cluster: &Cluster, mount: &Path) -> String {
    let (began, text) = (Instant::now(), mount.to_str().unwrap());
    let refused = cluster.run(0, &["mount", text]);
    assert!(refused.code == Some(1) && refused.stderr.contains("shoal unmount"), "{}", refused.stderr);
    let said = cluster.run(0, &["unmount", text]).ok();
    assert!(began.elapsed() < BOUND, "both took {:?}", began.elapsed());
    assert!(mounts_under(mount).is_empty(), "nothing is mounted there any more");
    said
}

#[test]
fn a_mount_that_a_killed_peer_keeps_is_let_go_with_who_waits_in_it() {
    let (mut cluster, mount, mut reader, mut late) = caught_in_a_read();
    let pid = cluster.pid(0);
    // The kernel ends what the peer has taken from it; a read that it has not is nobody's any more.
    cluster.pause(0);
    std::thread::sleep(Duration::from_millis(300));
    drop(late.stdin.take());
    std::thread::sleep(Duration::from_millis(300));
    killed_at_once(&mut cluster);
    assert!(waits_for_a_page(pid) && late.try_wait().unwrap().is_none(), "both wait for what nobody answers");
    let said = is_let_go(&cluster, &mount);
    assert!(said.contains("killed") && said.contains(&pid.to_string()), "{said}");
    assert!(ends_within(&mut reader, BOUND).is_some(), "the first reader goes on");
    let status = ends_within(&mut late, BOUND).expect("the other one goes on");
    assert!(!status.success(), "it gets an error");
    cluster.resume(1);
    cluster.resume(2);
    cluster.restart(0);
    cluster.wait_until(PATIENCE, "the file is read", |_| {
        fs::read(mount.join("dir/file")).is_ok_and(|found| found == tree::noise(1, 8 << 20))
    });
}

#[test]
fn a_peer_that_is_killed_while_it_waits_for_a_read_keeps_nobody_waiting() {
    let (mut cluster, mount, mut reader, _late) = caught_in_a_read();
    killed_at_once(&mut cluster);
    let ended = ends_within(&mut reader, Duration::from_secs(2)).is_some();
    println!("the reader {}", if ended { "was told by itself" } else { "waits for shoal unmount" });
    is_let_go(&cluster, &mount);
    assert!(ends_within(&mut reader, BOUND).is_some_and(|status| !status.success()), "it gets an error");
    cluster.resume(1);
    cluster.resume(2);
}

#[test]
fn a_peer_that_is_stopped_while_it_waits_for_a_read_ends() {
    let (mut cluster, _, mut reader, late) = caught_in_a_read();
    drop(late);
    cluster.stop(0);
    assert!(ends_within(&mut reader, BOUND).is_some(), "nobody is left waiting in the mount");
    cluster.resume(1);
    cluster.resume(2);
}

/// What a process starts has copies of its open files until it runs a program, and their closing is a call of its own: none
/// of the tests that run at once may have the commands of the others wait for its frozen machines.
#[test]
fn commands_are_run_while_a_file_of_a_frozen_machine_is_open() {
    let mut cluster = Cluster::share(2);
    let mount = cluster.mount(0);
    let _open = File::create(mount.join("file")).unwrap();
    cluster.pause(0);
    cluster.status(1);
    cluster.restart(1);
    run(&mut Command::new("true"), BOUND).ok();
    cluster.resume(0);
}

#[test]
fn a_mount_whose_peer_is_only_slow_is_let_be() {
    let mut cluster = Cluster::share(1);
    let mount = cluster.mount(0);
    fs::write(mount.join("file"), b"still there").unwrap();
    let other = cluster.scratch("other");
    let other = ["--home", other.to_str().unwrap()];
    let with_the_other = |cluster: &Cluster, args: &[&str]| {
        let mut command = cluster.shoal(0, &[args, &other].concat());
        run(command.env_remove("SHOAL_HOME"), PATIENCE)
    };
    with_the_other(&cluster, &["init", "--listen", "127.0.0.1:0"]).ok();
    let pid = cluster.pid(0).to_string();
    cluster.pause(0);
    for command in ["mount", "unmount"] {
        let ran = with_the_other(&cluster, &[command, mount.to_str().unwrap()]);
        assert!(ran.code == Some(1) && ran.stderr.contains(&pid), "{command}: {}", ran.stderr);
    }
    cluster.resume(0);
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"still there");
    cluster.stop(0);
}
