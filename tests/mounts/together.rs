//! Several machines change the same tree at the same moment: one winner, every record, no lock held twice.

use crate::harness::{BOUND, Cluster, DETECTION, PATIENCE, apart, ends_within, full_size, run, tool, tree};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn three_mounts() -> (Cluster, Vec<PathBuf>) {
    let mut cluster = Cluster::share(3);
    let mounts = (0..3).map(|i| cluster.mount(i)).collect();
    (cluster, mounts)
}

/// Every machine sees these very names in that directory.
fn all_see(mounts: &[PathBuf], dir: &str, names: &BTreeSet<String>) {
    for mount in mounts {
        let seen: BTreeSet<String> = fs::read_dir(mount.join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(seen, *names, "in {}", mount.display());
    }
}

/// All machines try to make each of these names; each time one succeeds, and the others are told that it is there.
fn race(mounts: &[PathBuf], dir: &str, rounds: usize, make: impl Fn(usize, &Path) -> std::io::Result<()> + Sync) {
    fs::create_dir(mounts[0].join(dir)).unwrap();
    let (start, won) = (Barrier::new(mounts.len()), (0..rounds).map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for (machine, mount) in mounts.iter().enumerate() {
            let (start, won, make) = (&start, &won, &make);
            scope.spawn(move || {
                for (round, won) in won.iter().enumerate() {
                    start.wait();
                    match make(machine, &mount.join(dir).join(format!("n{round}"))) {
                        Ok(()) => _ = won.fetch_add(1, Ordering::Relaxed),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "round {round}: {error}"),
                    }
                }
            });
        }
    });
    let wins: Vec<usize> = won.iter().map(|won| won.load(Ordering::Relaxed)).collect();
    assert!(wins.iter().all(|wins| *wins == 1), "winners of each round: {wins:?}");
    all_see(mounts, dir, &(0..rounds).map(|round| format!("n{round}")).collect());
}

fn rounds() -> usize {
    if full_size() { 1000 } else { 200 }
}

#[test]
fn of_three_machines_that_make_one_name_exactly_one_succeeds() {
    let (_cluster, mounts) = three_mounts();
    race(&mounts, "exclusive", rounds(), |_, path| {
        OpenOptions::new().write(true).create_new(true).open(path).map(|_| ())
    });
    race(&mounts, "directories", rounds(), |_, path| fs::create_dir(path));
    for machine in 0..3 {
        fs::write(mounts[0].join(format!("source{machine}")), format!("{machine}")).unwrap();
    }
    race(&mounts, "links", rounds(), |machine, path| {
        fs::hard_link(path.parent().unwrap().parent().unwrap().join(format!("source{machine}")), path)
    });
    race(&mounts, "symlinks", rounds() / 4, |machine, path| std::os::unix::fs::symlink(format!("{machine}"), path));
}

#[test]
fn a_directory_that_goes_takes_nothing_along_that_was_made_in_it() {
    let (_cluster, mounts) = three_mounts();
    for round in 0..rounds() / 4 {
        let dir = format!("d{round}");
        fs::create_dir(mounts[round % 3].join(&dir)).unwrap();
        let start = Barrier::new(2);
        let (made, gone) = std::thread::scope(|scope| {
            let maker = scope.spawn(|| {
                start.wait();
                File::create_new(mounts[1].join(&dir).join("f")).map(|_| ())
            });
            let remover = scope.spawn(|| {
                start.wait();
                fs::remove_dir(mounts[2].join(&dir))
            });
            (maker.join().unwrap(), remover.join().unwrap())
        });
        assert!(made.is_ok() != gone.is_ok(), "round {round}: made {made:?}, gone {gone:?}");
        for mount in &mounts {
            assert_eq!(mount.join(&dir).join("f").exists(), made.is_ok(), "round {round}");
        }
    }
}

#[test]
fn of_three_machines_that_move_to_one_name_without_replacing_one_succeeds() {
    let (_cluster, mounts) = three_mounts();
    for round in 0..rounds() / 4 {
        for (machine, mount) in mounts.iter().enumerate() {
            fs::write(mount.join(format!("from{machine}")), format!("{machine}")).unwrap();
        }
        let start = Barrier::new(3);
        let won: Vec<bool> = std::thread::scope(|scope| {
            let movers: Vec<_> = (0..3)
                .map(|machine| {
                    let (start, mount) = (&start, &mounts[machine]);
                    scope.spawn(move || {
                        start.wait();
                        rename_no_replace(&mount.join(format!("from{machine}")), &mount.join(format!("to{round}")))
                    })
                })
                .collect();
            movers.into_iter().map(|mover| mover.join().unwrap()).collect()
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}: {won:?}");
        let winner = won.iter().position(|won| *won).unwrap();
        for mount in &mounts {
            assert_eq!(fs::read_to_string(mount.join(format!("to{round}"))).unwrap(), format!("{winner}"));
        }
    }
}

fn rename_no_replace(from: &Path, to: &Path) -> bool {
    let name = |path: &Path| std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let (from, to) = (name(from), name(to));
    // SAFETY: both are strings that live through the call.
    let done =
        unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::RENAME_NOREPLACE) };
    if done != 0 {
        assert_eq!(std::io::Error::last_os_error().kind(), ErrorKind::AlreadyExists);
    }
    done == 0
}

#[test]
fn directories_that_move_into_one_another_never_make_a_circle() {
    let (_cluster, mounts) = three_mounts();
    for round in 0..rounds() / 8 {
        let (x, y) = (format!("x{round}"), format!("y{round}"));
        fs::create_dir(mounts[0].join(&x)).unwrap();
        fs::create_dir(mounts[1].join(&y)).unwrap();
        let start = Barrier::new(2);
        let moved = std::thread::scope(|scope| {
            let (start, x, y, mounts) = (&start, &x, &y, &mounts);
            let one = scope.spawn(move || {
                start.wait();
                fs::rename(mounts[1].join(x), mounts[1].join(y).join("in"))
            });
            let other = scope.spawn(move || {
                start.wait();
                fs::rename(mounts[2].join(y), mounts[2].join(x).join("in"))
            });
            [one.join().unwrap(), other.join().unwrap()]
        });
        assert_eq!(moved.iter().filter(|moved| moved.is_ok()).count(), 1, "round {round}: {moved:?}");
        for mount in &mounts {
            let there = [mount.join(&x), mount.join(&y)].iter().filter(|path| path.exists()).count();
            assert_eq!(there, 1, "round {round}");
        }
    }
}

#[test]
fn records_that_three_machines_append_are_all_whole() {
    const RECORD: usize = 64;
    let (_cluster, mounts) = three_mounts();
    let each = if full_size() { 2000 } else { 500 };
    File::create(mounts[0].join("log")).unwrap();
    std::thread::scope(|scope| {
        for (machine, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                let mut log = OpenOptions::new().append(true).open(mount.join("log")).unwrap();
                for n in 0..each {
                    let record = format!("{machine} {n} {}", "x".repeat(RECORD));
                    log.write_all(format!("{}\n", &record[..RECORD - 1]).as_bytes()).unwrap();
                }
            });
        }
    });
    for mount in &mounts {
        let text = fs::read_to_string(mount.join("log")).unwrap();
        let mut next = [0; 3];
        for line in text.lines() {
            assert_eq!(line.len(), RECORD - 1, "a record is torn: {line}");
            let mut words = line.split(' ');
            let mut number = || words.next().unwrap().parse::<usize>().unwrap();
            let (machine, n) = (number(), number());
            assert_eq!(n, next[machine], "machine {machine}'s records are in its order");
            next[machine] += 1;
        }
        assert_eq!(next, [each; 3], "seen by {}", mount.display());
    }
}

/// `fcntl` over the whole file.
fn lock(file: &File, kind: i32, wait: bool) -> std::io::Result<()> {
    lock_bytes(file, kind, wait, 0, 0)
}

/// `fcntl` over so many bytes from `start`; 0: to the end.
fn lock_bytes(file: &File, kind: i32, wait: bool, start: i64, len: i64) -> std::io::Result<()> {
    let lock =
        libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 };
    // SAFETY: the descriptor is open, the pointer is to a lock that lives through the call.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), if wait { libc::F_SETLKW } else { libc::F_SETLK }, &lock) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Takes the number in a file and puts back the next one.
fn count_up(file: &mut File) {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    let number: usize = if text.is_empty() { 0 } else { text.trim().parse().unwrap() };
    file.write_all_at(format!("{:08}\n", number + 1).as_bytes(), 0).unwrap();
}

#[test]
fn what_is_counted_under_a_lock_is_counted_once() {
    let (_cluster, mounts) = three_mounts();
    let each = if full_size() { 400 } else { 100 };
    for (name, posix) in [("fcntl", true), ("flock", false)] {
        open(&mounts[0].join(name));
        std::thread::scope(|scope| {
            for mount in &mounts {
                scope.spawn(move || {
                    let mut file = open(&mount.join(name));
                    for _ in 0..each {
                        match posix {
                            true => lock(&file, libc::F_WRLCK, true).unwrap(),
                            false => file.lock().unwrap(),
                        }
                        count_up(&mut file);
                        match posix {
                            true => lock(&file, libc::F_UNLCK, true).unwrap(),
                            false => file.unlock().unwrap(),
                        }
                    }
                });
            }
        });
        for mount in &mounts {
            let counted: usize = fs::read_to_string(mount.join(name)).unwrap().trim().parse().unwrap();
            assert_eq!(counted, 3 * each, "under {name}");
        }
    }
}

/// As ctdb's `ping_pong -rw`: each machine goes round a ring of one cell more than there are machines, and lets go of a
/// cell only when it has the next one; before it does, it counts the cell up.
#[test]
fn machines_that_go_round_a_ring_of_locks_neither_get_stuck_nor_lose_a_count() {
    const CELL: i64 = 8;
    let (_cluster, mounts) = three_mounts();
    let (laps, cells) = (if full_size() { 250 } else { 25 }, mounts.len() as i64 + 1);
    fs::write(mounts[0].join("ring"), vec![0; (cells * CELL) as usize]).unwrap();
    std::thread::scope(|scope| {
        for (machine, mount) in mounts.iter().enumerate() {
            scope.spawn(move || {
                let file = open(&mount.join("ring"));
                let mut seen = vec![0; cells as usize];
                lock_bytes(&file, libc::F_WRLCK, true, 0, CELL).unwrap();
                for cell in (0..laps).flat_map(|_| 0..cells) {
                    lock_bytes(&file, libc::F_WRLCK, true, (cell + 1) % cells * CELL, CELL).unwrap();
                    let (mut count, at) = ([0; CELL as usize], (cell * CELL) as u64);
                    file.read_exact_at(&mut count, at).unwrap();
                    let count = u64::from_le_bytes(count);
                    assert!(count >= seen[cell as usize], "machine {machine} reads {count} in cell {cell} of {seen:?}");
                    seen[cell as usize] = count + 1;
                    file.write_all_at(&(count + 1).to_le_bytes(), at).unwrap();
                    lock_bytes(&file, libc::F_UNLCK, true, cell * CELL, CELL).unwrap();
                }
                lock_bytes(&file, libc::F_UNLCK, true, 0, 0).unwrap();
            });
        }
    });
    let every = (laps as u64 * mounts.len() as u64).to_le_bytes();
    for mount in &mounts {
        let counted = fs::read(mount.join("ring")).unwrap();
        assert!(counted.chunks(CELL as usize).all(|cell| cell == every), "{counted:?} in {}", mount.display());
    }
}

#[test]
fn shared_locks_are_shared_and_ranges_do_not_get_in_one_another_s_way() {
    let (_cluster, mounts) = three_mounts();
    let files: Vec<File> = mounts.iter().map(|mount| open(&mount.join("f"))).collect();
    for file in &files {
        lock(file, libc::F_RDLCK, false).unwrap();
    }
    let held = lock(&files[2], libc::F_WRLCK, false).unwrap_err();
    assert!(matches!(held.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)), "{held}");
    for file in &files {
        lock(file, libc::F_UNLCK, false).unwrap();
    }
    let range = |file: &File, kind: i32, from: i64, len: i64| lock_bytes(file, kind, false, from, len).is_ok();
    for (n, file) in files.iter().enumerate() {
        assert!(range(file, libc::F_WRLCK, n as i64 * 10, 10));
    }
    assert!(!range(&files[0], libc::F_WRLCK, 15, 1));
    assert!(range(&files[1], libc::F_UNLCK, 15, 1));
    assert!(range(&files[0], libc::F_WRLCK, 15, 1));
    assert!(!range(&files[0], libc::F_WRLCK, 14, 1));
}

#[test]
fn a_dead_machine_s_locks_are_free_again_and_a_dead_holder_s_file_has_an_heir() {
    let (mut cluster, mounts) = three_mounts();
    // Made on 0, so its lease and its locks are there; the lock is 1's.
    let made = open(&mounts[0].join("f"));
    drop(made);
    let mut program = lock_holder(&cluster, &mounts[1].join("f"));
    let waiting = open(&mounts[2].join("f"));
    assert!(lock(&waiting, libc::F_WRLCK, false).is_err());
    cluster.kill(1);
    let started = Instant::now();
    lock(&waiting, libc::F_WRLCK, true).unwrap();
    assert!(started.elapsed() < DETECTION * 2, "a dead machine's lock was held for {:?}", started.elapsed());
    let _ = program.kill();
    let _ = program.wait();
    // Now the keeper dies, and the lock is still 2's.
    fs::write(mounts[0].join("acknowledged"), b"before it died").unwrap();
    cluster.kill(0);
    let started = Instant::now();
    fs::write(mounts[2].join("g"), b"x").unwrap();
    assert!(started.elapsed() < DETECTION * 2, "its directory was without a holder for {:?}", started.elapsed());
    assert_eq!(fs::read(mounts[2].join("acknowledged")).unwrap(), b"before it died");
    cluster.restart(1);
    let other = open(&mounts[1].join("f"));
    assert!(lock(&other, libc::F_WRLCK, false).is_err(), "machine 2 holds the lock");
    lock(&waiting, libc::F_UNLCK, false).unwrap();
    lock(&other, libc::F_WRLCK, true).unwrap();
}

/// A program that holds an exclusive lock on a file until it is killed.
fn lock_holder(cluster: &Cluster, file: &Path) -> std::process::Child {
    let ready = cluster.scratch("locked").join("ready");
    let _ = fs::remove_file(&ready);
    let script = format!("touch '{}'; exec sleep 600", ready.display());
    // In one process, so that its end is that of the lock.
    let mut command = Command::new("flock");
    command.arg("--no-fork").arg(file).args(["sh", "-c", &script]);
    let child = apart(move || command.spawn().unwrap());
    let started = Instant::now();
    while !ready.exists() {
        assert!(started.elapsed() < BOUND, "the lock was not given");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[test]
fn a_program_that_ends_lets_go_of_its_locks() {
    let (cluster, mounts) = three_mounts();
    open(&mounts[0].join("f"));
    let mut program = lock_holder(&cluster, &mounts[1].join("f"));
    let waiting = open(&mounts[2].join("f"));
    assert!(lock(&waiting, libc::F_WRLCK, false).is_err());
    program.kill().unwrap();
    program.wait().unwrap();
    let started = Instant::now();
    lock(&waiting, libc::F_WRLCK, true).unwrap();
    assert!(started.elapsed() < PATIENCE);
}

#[test]
fn a_file_that_is_open_elsewhere_outlives_its_name() {
    let (mut cluster, mounts) = three_mounts();
    let bytes = tree::noise(5, 3 << 20);
    fs::write(mounts[0].join("f"), &bytes).unwrap();
    let mut reader = File::open(mounts[1].join("f")).unwrap();
    let writer = OpenOptions::new().read(true).write(true).open(mounts[2].join("f")).unwrap();
    fs::remove_file(mounts[0].join("f")).unwrap();
    for mount in &mounts {
        assert!(!mount.join("f").exists());
    }
    // Longer than anything lingers, and past every cache.
    std::thread::sleep(Duration::from_secs(6));
    cluster.run(1, &["status"]).ok();
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert!(read == bytes, "the reader's handle works on");
    writer.write_all_at(b"still here", 100).unwrap();
    let mut back = [0; 10];
    writer.read_exact_at(&mut back, 100).unwrap();
    assert_eq!(&back, b"still here");
    let stored = |cluster: &Cluster| cluster.status(0)["peers"].as_array().unwrap().len();
    assert!(stored(&cluster) >= 3);
    drop(reader);
    drop(writer);
    let (limit, what) = (Duration::from_secs(150), "its content is given up when the last handle is closed");
    cluster.wait_until(limit, what, |c| fs::metadata(c.path(0)).is_ok() && used(&c.path(0)) < 1 << 20);
}

/// Bytes of all files, as `df` says.
fn used(mount: &Path) -> u64 {
    let out = tool(&["df", "-B1", "--output=used", mount.to_str().unwrap()]);
    out.lines().last().unwrap().trim().parse().unwrap()
}

#[test]
fn a_machine_that_was_stopped_writes_nothing_over_what_others_wrote_meanwhile() {
    let (mut cluster, mounts) = three_mounts();
    fs::write(mounts[0].join("f"), b"first").unwrap();
    let file = OpenOptions::new().write(true).open(mounts[0].join("f")).unwrap();
    // Written, and not yet known to anybody else.
    file.write_all_at(b"from the one that slept", 0).unwrap();
    cluster.pause(0);
    let away = if full_size() { Duration::from_secs(60) } else { Duration::from_secs(12) };
    let started = Instant::now();
    fs::write(mounts[1].join("f"), b"by another").unwrap();
    assert!(started.elapsed() < DETECTION * 2, "the paused holder held others up for {:?}", started.elapsed());
    fs::write(mounts[1].join("g"), b"new").unwrap();
    std::thread::sleep(away.saturating_sub(started.elapsed()));
    cluster.resume(0);
    cluster.wait_until(BOUND, "the machine is back", |c| c.sees_alive(0, 1) && c.sees_alive(1, 0));
    let closed = file.sync_all();
    drop(file);
    assert_eq!(fs::read(mounts[1].join("g")).unwrap(), b"new");
    let now: Vec<Vec<u8>> = mounts.iter().map(|mount| fs::read(mount.join("f")).unwrap()).collect();
    assert!(now.iter().all(|bytes| bytes == b"by another"), "mixed or overwritten: {now:?}");
    assert_eq!(closed.unwrap_err().raw_os_error(), Some(libc::EIO), "and whoever wrote is told");
    // It is a machine like any other again.
    fs::write(mounts[0].join("f"), b"after").unwrap();
    assert_eq!(fs::read(mounts[2].join("f")).unwrap(), b"after");
}

#[test]
fn two_databases_writers_on_two_machines_keep_the_database_whole() {
    let (cluster, mounts) = three_mounts();
    let each = if full_size() { 100 } else { 30 };
    let sql = |machine: usize, text: &str| {
        let database = mounts[machine].join("db");
        let mut command = Command::new("sqlite3");
        command.args(["-cmd", ".timeout 60000"]).arg(&database).arg(text);
        run(&mut command, BOUND * 4).ok()
    };
    sql(0, "PRAGMA journal_mode=DELETE; CREATE TABLE t(machine INTEGER, n INTEGER);");
    std::thread::scope(|scope| {
        for machine in 0..2 {
            let sql = &sql;
            scope.spawn(move || {
                for n in 0..each {
                    sql(machine, &format!("BEGIN IMMEDIATE; INSERT INTO t VALUES({machine},{n}); COMMIT;"));
                }
            });
        }
    });
    for machine in 0..3 {
        assert_eq!(sql(machine, "PRAGMA integrity_check;").trim(), "ok");
        assert_eq!(
            sql(machine, "SELECT machine, count(DISTINCT n) FROM t GROUP BY machine;").trim(),
            format!("0|{each}\n1|{each}")
        );
    }
    drop(cluster);
}

/// Writes and reads through a connection that stays: one line of SQL after the other, each answered by its output.
struct Database {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Database {
    fn open(path: &Path) -> Database {
        let mut command = Command::new("sqlite3");
        command.args(["-batch", "-cmd", ".timeout 500"]).arg(path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Database { child, said }
    }

    /// What it prints for `sql`; nothing where that fails.
    fn ask(&mut self, sql: &str) -> String {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{sql}\n.print --").unwrap();
        let lines = self.said.by_ref().lines().map(Result::unwrap);
        lines.take_while(|line| line != "--").collect::<Vec<_>>().join("\n")
    }

    fn close(mut self) {
        drop(self.child.stdin.take());
        assert!(ends_within(&mut self.child, BOUND).is_some(), "it ends with its input");
    }
}

/// The index of SQLite's write-ahead log is memory that its users share, which two machines cannot.
#[test]
fn a_database_with_a_write_ahead_log_belongs_to_one_machine_at_a_time() {
    let (mut cluster, mounts) = three_mounts();
    let database = |machine: usize| Database::open(&mounts[machine].join("db"));
    let (mut first, mut second) = (database(0), database(0));
    assert_eq!(first.ask("PRAGMA journal_mode=WAL;"), "wal");
    first.ask("CREATE TABLE t(n INTEGER); INSERT INTO t VALUES(1);");
    second.ask("INSERT INTO t VALUES(2);");
    assert_eq!(first.ask("SELECT sum(n) FROM t;"), "3");

    let mut elsewhere = database(1);
    assert_eq!(elsewhere.ask("INSERT INTO t VALUES(100); SELECT sum(n) FROM t;"), "", "it is in use on machine 0");
    first.close();
    second.close();
    assert_eq!(elsewhere.ask("INSERT INTO t VALUES(4); SELECT sum(n) FROM t;"), "7", "it is free now");

    // Whoever is gone has let go of it, and what it did is there.
    let mut third = database(2);
    cluster.kill(1);
    let started = Instant::now();
    while third.ask("SELECT sum(n) FROM t;") != "7" {
        assert!(started.elapsed() < DETECTION * 2, "it is still in use on machine 1");
    }
    assert_eq!(third.ask("INSERT INTO t VALUES(8); SELECT sum(n) FROM t; PRAGMA integrity_check;"), "15\nok");
    third.close();
    let _ = elsewhere.child.kill();
    let _ = ends_within(&mut elsewhere.child, BOUND);
    let found =
        tool(&["sqlite3", mounts[0].join("db").to_str().unwrap(), "SELECT sum(n) FROM t; PRAGMA integrity_check;"]);
    assert_eq!(found, "15\nok\n");
}

#[test]
fn two_machines_commit_to_one_git_repository_in_turns() {
    let (_cluster, mounts) = three_mounts();
    let git = |machine: usize, words: &[&str]| {
        let repository = mounts[machine].join("repository");
        let mut command = Command::new("git");
        command.args(["-c", "user.name=m", "-c", "user.email=m@example.org", "-c", "safe.directory=*"]);
        command.arg("-C").arg(repository).args(words);
        run(&mut command, BOUND * 2).ok()
    };
    fs::create_dir(mounts[0].join("repository")).unwrap();
    git(0, &["init", "-q"]);
    for n in 0..10 {
        let machine = n % 2;
        fs::write(mounts[machine].join("repository").join(format!("f{n}")), format!("{n}")).unwrap();
        git(machine, &["add", "-A"]);
        git(machine, &["commit", "-q", "-m", &format!("{n} from {machine}")]);
    }
    git(2, &["fsck", "--strict"]);
    assert_eq!(git(2, &["rev-list", "--count", "HEAD"]).trim(), "10");
    assert_eq!(git(1, &["status", "--porcelain"]), "");
}

#[test]
fn a_build_takes_the_sources_that_another_machine_has_just_edited() {
    let (_cluster, mounts) = three_mounts();
    let dir = mounts[0].join("project");
    fs::create_dir(&dir).unwrap();
    let parts = 8;
    let objects: Vec<String> = (0..parts).map(|n| format!("p{n}.o")).collect();
    let makefile = format!("all: out\nout: {0}\n\tcat {0} > out\n%.o: %.c\n\tcp $< $@\n", objects.join(" "));
    fs::write(dir.join("Makefile"), makefile).unwrap();
    for round in 0..6 {
        let changed: Vec<usize> = if round == 0 { (0..parts).collect() } else { vec![round, (round * 3) % parts] };
        for n in &changed {
            fs::write(dir.join(format!("p{n}.c")), format!("part {n} of round {round}\n")).unwrap();
        }
        let mut make = Command::new("make");
        make.arg("-C").arg(mounts[1].join("project")).args(["-j", "4", "-s"]);
        run(&mut make, BOUND * 2).ok();
        let built = fs::read_to_string(mounts[2].join("project/out")).unwrap();
        for n in changed {
            assert!(built.contains(&format!("part {n} of round {round}\n")), "round {round}: {built}");
        }
    }
}
