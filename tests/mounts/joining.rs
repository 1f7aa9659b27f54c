//! Who gets in, and how: tickets, several inviters, joiners to a share that is full of files.

use crate::harness::{BOUND, Cluster, PATIENCE, apart, ends_within, full_size, tree};
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Machine 0 founded the share and runs; the others have empty homes.
fn founded(machines: usize) -> Cluster {
    let mut cluster = Cluster::loopback(machines);
    cluster.init(0);
    cluster.serve(0);
    cluster
}

/// A refused join: exit code 1, one line, these words in it, and the home as empty as before.
#[track_caller]
fn refused(cluster: &mut Cluster, i: usize, ticket: &str, words: &[&str]) -> String {
    let ran = cluster.try_join(i, ticket);
    assert_eq!(ran.code, Some(1), "{}\n{}{}", ran.line, ran.stdout, ran.stderr);
    let message = ran.stderr.trim().to_lowercase();
    assert_eq!(message.lines().count(), 1, "one line says it: {message}");
    assert!(words.iter().any(|w| message.contains(w)), "none of {words:?} in: {message}");
    message
}

#[test]
fn a_ticket_is_one_line_and_good_for_one_machine() {
    let mut cluster = founded(3);
    let ticket = cluster.invite(0);
    cluster.join(1, &ticket);
    refused(&mut cluster, 2, &ticket, &["used"]);
    // What was refused left nothing behind: a good ticket works.
    let another = cluster.invite(0);
    cluster.join(2, &another);
}

#[test]
fn a_ticket_for_two_uses_is_good_for_two_machines() {
    let mut cluster = founded(4);
    let ticket = cluster.run(0, &["invite", "--uses", "2"]).ok().trim().to_owned();
    cluster.join(1, &ticket);
    cluster.join(2, &ticket);
    refused(&mut cluster, 3, &ticket, &["used"]);
}

#[test]
fn an_expired_ticket_is_refused() {
    let mut cluster = founded(2);
    let ticket = cluster.run(0, &["invite", "--expires", "1s"]).ok().trim().to_owned();
    let mut ended = None;
    cluster.wait_until(PATIENCE, "the ticket's second is over", |_| {
        let since = std::time::SystemTime::now();
        let start = *ended.get_or_insert(since);
        since.duration_since(start).is_ok_and(|d| d.as_millis() > 2500)
    });
    refused(&mut cluster, 1, &ticket, &["expired"]);
}

#[test]
fn a_ticket_that_was_tampered_with_is_refused_wherever_it_was_changed() {
    let mut cluster = founded(2);
    let ticket = cluster.invite(0);
    let swap = |c: char| if c == 'A' || c == 'a' || c == '2' { 'b' } else { 'a' };
    for place in [ticket.len() / 4, ticket.len() / 2, ticket.len() * 3 / 4, ticket.len() - 2] {
        let changed: String =
            ticket.char_indices().map(|(i, c)| if i == place && c.is_alphanumeric() { swap(c) } else { c }).collect();
        if changed != ticket {
            refused(&mut cluster, 1, &changed, &["checksum"]);
        }
    }
    for nonsense in ["", "nonsense", "shoal", &ticket[..ticket.len() / 2], &format!("{ticket}{ticket}")] {
        let ran = cluster.try_join(1, nonsense);
        assert!(ran.code == Some(1) || ran.code == Some(2), "'{nonsense}': {:?} {}", ran.code, ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    cluster.join(1, &ticket);
}

#[test]
fn a_ticket_of_another_share_does_not_open_this_one() {
    let mut cluster = founded(3);
    cluster.init(1);
    cluster.serve(1);
    let ticket = cluster.invite(1);
    // The other share's inviter is gone, and this share's peer has its address.
    cluster.kill(1);
    let address = cluster.listen(1);
    fs::remove_dir_all(cluster.home(0)).ok();
    cluster.kill(0);
    cluster.run(0, &["init", "--listen", &address, "--name", "peer0"]).ok();
    cluster.serve(0);
    refused(&mut cluster, 2, &ticket, &["it is not the inviter"]);
}

#[test]
fn a_join_says_so_when_nobody_answers() {
    let mut cluster = founded(2);
    let ticket = cluster.invite(0);
    cluster.kill(0);
    refused(&mut cluster, 1, &ticket, &["reach", "answer"]);
}

#[test]
fn two_machines_join_at_once_through_different_inviters() {
    let mut cluster = founded(6);
    let ticket = cluster.invite(0);
    cluster.join(1, &ticket);
    cluster.serve(1);
    cluster.all_in_sight();
    let tickets: Vec<_> = [0, 1, 0, 1].into_iter().map(|inviter| cluster.invite(inviter)).collect();
    let mut joining: Vec<_> = tickets
        .iter()
        .enumerate()
        .map(|(n, ticket)| {
            let mut command = cluster.join_command(n + 2, ticket);
            apart(move || command.stdout(Stdio::null()).spawn().unwrap())
        })
        .collect();
    for (n, child) in joining.iter_mut().enumerate() {
        let status = ends_within(child, PATIENCE).expect("a join ends");
        assert!(status.success(), "machine {} was refused", n + 2);
    }
    (2..6).for_each(|i| cluster.serve(i));
    cluster.all_in_sight();
    let (a, b) = (cluster.mount(2), cluster.mount(5));
    fs::write(a.join("file"), tree::noise(1, 2 << 20)).unwrap();
    assert!(fs::read(b.join("file")).unwrap() == tree::noise(1, 2 << 20));
}

#[test]
fn a_joiner_finds_everything_that_was_there_before_it() {
    let mut cluster = Cluster::loopback(4);
    cluster.form(3);
    let mount = cluster.mount(0);
    let source = cluster.scratch("source").join("tree");
    tree::plant(&source, 400);
    crate::share::copy(&source, &mount.join("tree"));
    let ticket = cluster.invite(2);
    cluster.join(3, &ticket);
    let there = cluster.mount(3);
    tree::assert_same("what a late joiner sees", &tree::survey(&source), &tree::survey(&there.join("tree")));
    fs::write(there.join("from the late one"), b"hello").unwrap();
    assert_eq!(fs::read(mount.join("from the late one")).unwrap(), b"hello");
}

#[test]
fn peers_find_one_another_again_after_they_all_restarted() {
    let mut cluster = Cluster::share(5);
    cluster.kill_all(&[0, 1, 2, 3, 4]);
    // The founder is the last to come back: nobody depends on it.
    [4, 3, 2, 1].into_iter().for_each(|i| cluster.serve(i));
    cluster.wait_until(BOUND, "four peers without the founder", |c| (1..5).all(|i| (1..5).all(|j| c.sees_alive(i, j))));
    cluster.serve(0);
    cluster.all_in_sight();
}

/// The longest that one small file may take to be written while a machine joins: what a busy machine of two cores
/// takes at times without anyone joining, and far below the time of a join.
const HELD_UP: Duration = Duration::from_secs(2);

/// Makes `files` small files under `dir`, in directories of a thousand, from a few threads.
fn fill(dir: &Path, files: usize) {
    const THREADS: usize = 4;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for i in (thread..files).step_by(THREADS) {
                    let parent = dir.join(format!("{:03}", i / 1000));
                    let _ = fs::create_dir(&parent);
                    fs::write(parent.join(format!("file-{i:06}")), format!("this is file {i}")).unwrap();
                }
            });
        }
    });
}

/// Writes small files into `dir` until told to stop; the longest that one of them took, and how many there were.
fn keep_writing(dir: PathBuf, stop: &AtomicBool) -> (Duration, usize) {
    let (mut longest, mut count) = (Duration::ZERO, 0);
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        fs::write(dir.join(format!("during-{count}")), b"while someone joins").unwrap();
        longest = longest.max(started.elapsed());
        count += 1;
    }
    (longest, count)
}

#[test]
fn a_joiner_to_a_full_share_holds_nobody_up() {
    let files = if full_size() { 100_000 } else { 3_000 };
    let mut cluster = Cluster::loopback(4);
    cluster.form(3);
    let mounts = [cluster.mount(0), cluster.mount(1)];
    let many = mounts[0].join("many");
    fs::create_dir(&many).unwrap();
    fill(&many, files);
    let dirs = [mounts[0].join("a"), mounts[1].join("b")];
    dirs.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let ticket = cluster.invite(0);
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let (ready, written) = std::thread::scope(|scope| {
        let stop = &stop;
        let writers = dirs.each_ref().map(|dir| scope.spawn(move || keep_writing(dir.clone(), stop)));
        // A join that fails must not leave the writers writing.
        let joined = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cluster.join(3, &ticket);
            cluster.mount(3);
            cluster.all_in_sight();
        }));
        let ready = started.elapsed();
        stop.store(true, Ordering::Relaxed);
        let written = writers.map(|writer| writer.join().expect("a writer goes on while someone joins"));
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (ready, written)
    });
    let [(a, in_a), (b, in_b)] = written;
    println!(
        "{files} files: ready after {ready:?}; {} files written meanwhile, the slowest in {:?}",
        in_a + in_b,
        a.max(b)
    );
    assert!(a.max(b) < HELD_UP, "a writer was held up for {:?} while a machine joined", a.max(b));
    let there = cluster.path(3);
    let count = |dir: PathBuf| fs::read_dir(dir).unwrap().count();
    let found: usize = fs::read_dir(there.join("many")).unwrap().map(|entry| count(entry.unwrap().path())).sum();
    assert_eq!((found, count(there.join("a")), count(there.join("b"))), (files, in_a, in_b));
    let last = files - 1;
    let text = fs::read_to_string(there.join(format!("many/{:03}/file-{last:06}", last / 1000))).unwrap();
    assert_eq!(text, format!("this is file {last}"));
}

#[test]
fn a_machine_that_comes_back_at_another_address_is_found_there() {
    let mut cluster = Cluster::share(3);
    let (a, b) = (cluster.mount(0), cluster.mount(1));
    // The founder, whose address stood in every ticket.
    cluster.stop(0);
    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    cluster.move_to(0, &elsewhere);
    cluster.restart(0);
    cluster.all_in_sight();
    fs::write(a.join("file"), tree::noise(1, 2 << 20)).unwrap();
    assert!(fs::read(b.join("file")).unwrap() == tree::noise(1, 2 << 20));
    let told = cluster.run(2, &["peers"]).ok();
    assert!(told.contains(&elsewhere), "the others know the new address: {told}");
    // They find it there also when it is they who come back.
    cluster.kill_all(&[1, 2]);
    [1, 2].into_iter().for_each(|i| cluster.restart(i));
    cluster.all_in_sight();
}
