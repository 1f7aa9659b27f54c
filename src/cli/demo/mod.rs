//! `shoal demo`: the main job on one machine, as it happens.
//!
//! A share of several peers, each a process of its own on loopback; a real tree copied in with `cp -a`; two peers
//! killed, the one that wrote it all among them; everything read back through another one's mount and compared.
//! Once per policy, on a fresh share. Whatever happens, nothing it started is left.

mod machines;
mod tree;

use super::{CHANGE_DEADLINE, background, interrupt, output};
use crate::io::control::{ControlReply, ControlRequest, StatsReport, StatusReport};
use crate::policy::Policy;
use anyhow::{Context, bail};
use machines::Machines;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tree::Tree;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// How many peers to start
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(6..=32), value_name = "N")]
    pub peers: u8,
    /// The tree to copy in; this project's sources and larger build artefacts, or some of /usr, unless given
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keep the temporary directory, with the peers' homes and logs
    #[arg(long)]
    pub keep: bool,
}

/// The policies that are shown.
const POLICIES: [Policy; 2] = [Policy::Replicate(3), Policy::ReedSolomon { data: 4, parity: 2 }];

/// How many peers are killed.
const KILLED: usize = 2;

/// How long the killed ones may go unnoticed before the story goes on.
const MISSED_DEADLINE: Duration = Duration::from_secs(10);

/// The directory in the share that takes the tree.
const DIRECTORY: &str = "tree";

/// What came of one policy.
#[derive(Clone, Debug, Default)]
struct Outcome {
    policy: String,
    files: usize,
    files_bytes: u64,
    stored_bytes: u64,
    sent_bytes: u64,
    write_seconds: f64,
    read_seconds: f64,
    right: usize,
    peers: usize,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    interrupt::watch()?;
    let workplace = Workplace::make(args.keep)?;
    say(&format!(
        "{} machines on this one: each a process with a home of its own under {}.",
        args.peers,
        workplace.path.display()
    ))?;
    let tree = Tree::choose(args.dir.as_deref(), &workplace.path.join("original"))?;
    room_for(&workplace.path, tree.bytes())?;
    say(&format!(
        "The tree: {}, {} ({}).\n",
        output::count(tree.files() as u64, "file", "files"),
        output::bytes(tree.bytes()),
        tree.origin
    ))?;
    let mut outcomes = Vec::new();
    for policy in POLICIES {
        let outcome = show(&workplace.path, policy, &tree, usize::from(args.peers));
        interrupt::check()?;
        outcomes.push(match outcome {
            Err(error) if !args.keep => bail!("{error:#} (shoal demo --keep leaves the peers' logs to look at)"),
            outcome => outcome?,
        });
    }
    drop(workplace);
    output::print(&table(&outcomes))?;
    let wrong: usize = outcomes.iter().map(|outcome| outcome.files - outcome.right).sum();
    if wrong > 0 {
        bail!("{} did not come back as they went in", output::count(wrong as u64, "entry", "entries"));
    }
    Ok(())
}

/// The whole story under one policy, on a share of its own.
fn show(workplace: &Path, policy: Policy, tree: &Tree, peers: usize) -> anyhow::Result<Outcome> {
    say(&format!("Under {policy}:"))?;
    let start = Instant::now();
    let mut machines = Machines::start(&workplace.join(policy.to_string()), peers)?;
    let (writer, reader) = (0, 1);
    say(&format!(
        "  started {peers} peers, mounted on machines {} and {} ({:.1} s)",
        writer + 1,
        reader + 1,
        start.elapsed().as_secs_f64()
    ))?;

    let directory = machines.mountpoint(writer).join(DIRECTORY);
    std::fs::create_dir(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    let path = format!("/{DIRECTORY}").into_bytes();
    let request =
        ControlRequest::Policy { path: path.as_slice().into(), set: Some(policy.to_string()), partition: None };
    machines.ask(writer, &request)?;
    let before = stats(&machines, writer)?;
    let start = Instant::now();
    copy(tree, &directory)?;
    let write_seconds = start.elapsed().as_secs_f64();
    let after = stats(&machines, writer)?;
    let stored_bytes = status(&machines, writer)?.stored_bytes;
    let sent_bytes = after.sent_bytes.saturating_sub(before.sent_bytes);
    say(&format!(
        "  copied the tree in on machine {} with cp -a ({write_seconds:.1} s): {} stored, {} sent",
        writer + 1,
        output::bytes(stored_bytes),
        output::bytes(sent_bytes)
    ))?;

    let last = peers - 1;
    machines.kill(writer)?;
    machines.kill(last)?;
    say(&format!("  killed machine {}, which wrote it all, and machine {} with SIGKILL", writer + 1, last + 1))?;

    let bar = output::bar("reading back", tree.bytes());
    let start = Instant::now();
    let verdict = tree.verify(&machines.mountpoint(reader).join(DIRECTORY), |bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let verdict = verdict?;
    let read_seconds = start.elapsed().as_secs_f64();
    say(&format!(
        "  read everything back on machine {} ({read_seconds:.1} s): {} of {} files, directories and links are right",
        reader + 1,
        verdict.right,
        tree.entries()
    ))?;
    for wrong in verdict.wrong.iter().take(10) {
        say(&format!("    wrong: {wrong}"))?;
    }
    let now = once_missed(&machines, reader, peers - KILLED)?;
    let alive = now.peers.iter().filter(|peer| peer.alive).count();
    let cold = output::count(now.groups.cold, "group is", "groups are");
    say(&format!("  machine {} now sees {alive} of {peers} machines; {cold} cold", reader + 1))?;
    machines.stop();
    say("  stopped and unmounted everything\n")?;
    Ok(Outcome {
        policy: policy.to_string(),
        files: tree.entries(),
        files_bytes: tree.bytes(),
        stored_bytes,
        sent_bytes,
        write_seconds,
        read_seconds,
        right: verdict.right,
        peers,
    })
}

/// `cp -a` into the share, as anybody would.
fn copy(tree: &Tree, directory: &Path) -> anyhow::Result<()> {
    let bar = output::bar("copying in", tree.bytes());
    let mut last = (0, Instant::now());
    let mut command = Command::new("cp");
    let copied = background::run_to_end(command.arg("-a").arg("--").arg(tree.root.join(".")).arg(directory), |cp| {
        let written = written_by(cp.id()).unwrap_or(0);
        bar.set_position(written.min(tree.bytes()));
        if written > last.0 {
            last = (written, Instant::now());
        } else if last.1.elapsed() > CHANGE_DEADLINE {
            bail!("it wrote nothing for {} s", CHANGE_DEADLINE.as_secs());
        }
        Ok(())
    });
    bar.finish_and_clear();
    copied.context("cp -a")
}

/// Bytes that a process has written so far.
fn written_by(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("wchar:"))?.trim().parse().ok()
}

fn stats(machines: &Machines, machine: usize) -> anyhow::Result<StatsReport> {
    match machines.ask(machine, &ControlRequest::Stats)? {
        ControlReply::Stats(stats) => Ok(stats),
        other => Err(super::unexpected(&other)),
    }
}

fn status(machines: &Machines, machine: usize) -> anyhow::Result<StatusReport> {
    match machines.ask(machine, &ControlRequest::Status)? {
        ControlReply::Status(status) => Ok(*status),
        other => Err(super::unexpected(&other)),
    }
}

/// The status once no more than `alive` machines count as alive, or when that takes too long.
fn once_missed(machines: &Machines, machine: usize, alive: usize) -> anyhow::Result<StatusReport> {
    let deadline = Instant::now() + MISSED_DEADLINE;
    loop {
        let status = status(machines, machine)?;
        if status.peers.iter().filter(|peer| peer.alive).count() <= alive || Instant::now() >= deadline {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A line of the story, as it happens.
fn say(line: &str) -> anyhow::Result<()> {
    interrupt::check()?;
    output::print(&format!("{line}\n"))
}

fn table(outcomes: &[Outcome]) -> String {
    let mut table = output::table(&[
        "policy",
        "bytes of files",
        "stored",
        "overhead",
        "sent writing",
        "write s",
        "read s",
        "machines lost",
        "read back right",
    ]);
    for outcome in outcomes {
        table.add_row([
            outcome.policy.clone(),
            output::bytes(outcome.files_bytes),
            output::bytes(outcome.stored_bytes),
            format!("{:.2}", outcome.stored_bytes as f64 / outcome.files_bytes.max(1) as f64),
            output::bytes(outcome.sent_bytes),
            format!("{:.1}", outcome.write_seconds),
            format!("{:.1}", outcome.read_seconds),
            format!("{KILLED} of {}", outcome.peers),
            format!("{} of {}", outcome.right, outcome.files),
        ]);
    }
    output::right(&mut table, &[1, 2, 3, 4, 5, 6, 7, 8]);
    output::text(&table) + "\n"
}

/// Stops with a clear word where the disk cannot take it: three copies at most at a time, and the original.
fn room_for(directory: &Path, bytes: u64) -> anyhow::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes()).context("a path with a zero byte")?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero byte and `found` has the size the call fills; it is read only if it did.
    let found = unsafe {
        if libc::statvfs(path.as_ptr(), found.as_mut_ptr()) != 0 {
            return Ok(());
        }
        found.assume_init()
    };
    let (free, needed) = (found.f_bavail * found.f_frsize, bytes / 10 * 35 + (256 << 20));
    if free < needed {
        bail!(
            "{} has {} free, and the demo needs {}; give a smaller tree with --dir, or another place with TMPDIR",
            directory.display(),
            output::bytes(free),
            output::bytes(needed)
        );
    }
    Ok(())
}

/// The temporary directory; it goes when this is dropped, unless it is to be kept.
struct Workplace {
    path: PathBuf,
    keep: bool,
}

impl Workplace {
    fn make(keep: bool) -> anyhow::Result<Workplace> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("shoal-demo-{}", std::process::id()));
        let path = std::path::absolute(&path).context("the temporary directory has no absolute path")?;
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Workplace { path, keep })
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let shown = self.path.display();
        let said = if self.keep {
            format!("Kept {shown}.\n")
        } else {
            match machines::remove(&self.path) {
                Ok(()) => return,
                Err(error) => format!("{shown} is left behind: {error:#}\n"),
            }
        };
        let _ = output::print(&said);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_each_policy_cost_and_kept() {
        let outcome = Outcome {
            policy: "rs:4+2".into(),
            files: 10,
            right: 9,
            files_bytes: 1000,
            stored_bytes: 1500,
            peers: 6,
            ..Outcome::default()
        };
        let text = table(&[outcome]);
        for part in ["rs:4+2", "1.50", "2 of 6", "9 of 10"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_disk_that_is_too_small_is_said_before_anything_starts() {
        let error = room_for(Path::new("/"), u64::MAX / 100).unwrap_err().to_string();
        assert!(error.contains("TMPDIR"), "{error}");
        assert!(room_for(Path::new("/"), 0).is_ok());
    }

    #[test]
    fn cp_brings_the_tree_over_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        let from = place.path().join("from");
        std::fs::create_dir(&from).unwrap();
        std::fs::write(from.join("a"), b"hello").unwrap();
        let tree = Tree::choose(Some(&from), &place.path().join("original")).unwrap();
        let to = place.path().join("to");
        std::fs::create_dir(&to).unwrap();
        copy(&tree, &to).unwrap();
        assert_eq!(tree.verify(&to, |_| ()).unwrap().right, 1);
    }
}
