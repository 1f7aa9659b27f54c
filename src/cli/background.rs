//! Peers as processes of their own: started in the background, waited for until they are ready.

use super::interrupt;
use anyhow::{Context, anyhow, bail};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a peer may take until it answers.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// How long a child that was killed may take to be gone.
const KILLED_DEADLINE: Duration = Duration::from_secs(5);

/// A log that grew past this is set aside before the next start.
const LOG_BYTES: u64 = 16 << 20;

/// Whether the peer outlives this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    /// It goes on until it is stopped.
    OfItsOwn,
    /// When this process ends, however it ends, the peer is told to stop.
    OfItsParent,
}

/// This program, to run again.
pub fn this_program() -> Command {
    Command::new("/proc/self/exe")
}

/// Starts the peer of `home`, mounted if there is a mountpoint, and returns when it is ready. An error of the peer is
/// handed on in its words, and nothing is left running.
pub fn start(
    home: &Path,
    mountpoint: Option<&Path>,
    settings: &[(String, String)],
    life: Life,
) -> anyhow::Result<Child> {
    let log = home.join("peer.log");
    let (reader, writer) = std::io::pipe().context("no pipe to the new peer")?;
    let mut command = this_program();
    command.arg0("shoal").arg("--home").arg(home);
    match mountpoint {
        Some(mountpoint) => command.arg("mount").arg("--foreground").arg(mountpoint),
        None => command.arg("serve").arg("--foreground"),
    };
    command.arg("--ready-fd").arg(writer.as_raw_fd().to_string());
    for (name, value) in settings {
        command.arg("--set").arg(format!("{name}={value}"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(open_log(&log)?).current_dir("/");
    let ready_fd = writer.as_raw_fd();
    // SAFETY: between fork and exec only async-signal-safe calls are made, on a descriptor that is open.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            if life == Life::OfItsParent {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            }
            match libc::fcntl(ready_fd, libc::F_SETFD, 0) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        });
    }
    let mut child = command.spawn().context("the peer cannot be started")?;
    drop(writer);
    let failed = match wait_ready(reader, &log) {
        Ok(()) => return Ok(child),
        Err(failed) => failed,
    };
    end(&mut child, Duration::from_secs(5));
    Err(failed)
}

/// Waits for what the new peer says first.
fn wait_ready(reader: std::io::PipeReader, log: &Path) -> anyhow::Result<()> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(reader.take(64 * 1024)).read_line(&mut line);
        let _ = sender.send(read.map(|_| line));
    });
    let deadline = Instant::now() + READY_DEADLINE;
    let line = loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => break line.context("the new peer cannot be heard")?,
            Err(_) if Instant::now() < deadline => interrupt::check()?,
            Err(_) => {
                bail!("the peer was not ready within {} s; see {}", READY_DEADLINE.as_secs(), log.display())
            }
        }
    };
    match line.trim_end() {
        "ready" => Ok(()),
        "" => Err(anyhow!("the peer ended before it was ready{}; see {}", last_words(log), log.display())),
        error => Err(anyhow!("{}", error.strip_prefix("error ").unwrap_or(error))),
    }
}

/// The end of the log, for a peer that died without a word on the pipe.
fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    match text.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!(" ({})", line.trim().chars().take(300).collect::<String>()),
        None => String::new(),
    }
}

/// Tells a child that was not waited for yet to stop.
pub fn ask_to_end(child: &Child) {
    // SAFETY: it only sends a signal; the child was not waited for, so the id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
}

/// Tells a child to stop and waits; one that does not is killed, and waited for no longer than it may take to die: the
/// kernel may keep it for its mount.
pub fn end(child: &mut Child, patience: Duration) {
    if !matches!(child.try_wait(), Ok(None)) {
        return;
    }
    ask_to_end(child);
    if !ends_within(child, patience) {
        let _ = child.kill();
        ends_within(child, KILLED_DEADLINE);
    }
}

fn ends_within(child: &mut Child, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while let Ok(None) = child.try_wait() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Runs a command to its end, which must be a success. `check` is asked all the while whether it may go on; where not,
/// or when somebody interrupts, the command is killed. What it says wrong is in the error.
pub fn run_to_end(command: &mut Command, mut check: impl FnMut(&Child) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let name = Path::new(command.get_program()).display().to_string();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
    let errors = child.stderr.take();
    let listener = std::thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(mut errors) = errors {
            let _ = errors.by_ref().take(4096).read_to_end(&mut said);
            // The rest is taken too: a full pipe would stop the command.
            let _ = std::io::copy(&mut errors, &mut std::io::sink());
        }
        said
    });
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("{name} cannot be waited for"))? {
            break status;
        }
        if let Err(stopped) = interrupt::check().and_then(|()| check(&child)) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(stopped);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if status.success() {
        return Ok(());
    }
    let said = listener.join().unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    match said.trim() {
        "" => bail!("{name} failed ({status})"),
        said => bail!("{}", said.strip_prefix("shoal: ").unwrap_or(said)),
    }
}

fn open_log(log: &Path) -> anyhow::Result<File> {
    if std::fs::metadata(log).is_ok_and(|found| found.len() > LOG_BYTES) {
        let mut aside = PathBuf::from(log).into_os_string();
        aside.push(".1");
        let _ = std::fs::rename(log, aside);
    }
    let mut options = File::options();
    options.append(true).create(true).mode(0o600);
    options.open(log).with_context(|| format!("the log {} cannot be written", log.display()))
}

/// The new peer's end: where it says that it is ready, or why not.
#[derive(Debug)]
pub struct Readiness(File);

impl Readiness {
    /// Takes over the descriptor that the starting process left open.
    pub fn open(fd: i32) -> anyhow::Result<Readiness> {
        // SAFETY: fcntl on any number is harmless: it fails on what is no descriptor. That this one is nobody else's
        // is what the hidden flag says.
        let file = unsafe {
            if libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) == -1 {
                return Err(std::io::Error::last_os_error()).context("--ready-fd is no open descriptor");
            }
            File::from(OwnedFd::from_raw_fd(fd))
        };
        Ok(Readiness(file))
    }

    /// Another handle of the same end.
    pub fn share(&self) -> anyhow::Result<Readiness> {
        Ok(Readiness(self.0.try_clone().context("--ready-fd cannot be kept")?))
    }

    pub fn ready(mut self) {
        let _ = self.0.write_all(b"ready\n");
    }

    pub fn failed(mut self, why: &str) {
        let _ = self.0.write_all(format!("error {why}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    fn heard(say: impl FnOnce(Readiness)) -> anyhow::Result<()> {
        let (reader, writer) = std::io::pipe().unwrap();
        say(Readiness::open(writer.into_raw_fd()).unwrap());
        wait_ready(reader, Path::new("/nowhere/peer.log"))
    }

    #[test]
    fn a_ready_peer_is_heard_and_a_failed_one_in_its_own_words() {
        assert!(heard(Readiness::ready).is_ok());
        let failed = heard(|readiness| readiness.failed("address 127.0.0.1:1 is in use")).unwrap_err();
        assert_eq!(failed.to_string(), "address 127.0.0.1:1 is in use");
        let silent = heard(drop).unwrap_err().to_string();
        assert_eq!(silent, "the peer ended before it was ready; see /nowhere/peer.log");
    }

    #[test]
    fn the_last_line_of_the_log_is_the_last_word() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("peer.log");
        std::fs::write(&log, "starting\nout of memory\n\n").unwrap();
        assert_eq!(last_words(&log), " (out of memory)");
    }

    #[test]
    fn a_command_is_heard_to_its_end_or_stopped() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        assert!(run_to_end(&mut shell("exit 0"), |_| Ok(())).is_ok());
        let failed = |script| run_to_end(&mut shell(script), |_| Ok(())).unwrap_err().to_string();
        assert_eq!(failed("echo 'shoal: no ticket' >&2; exit 1"), "no ticket");
        assert_eq!(failed("exit 3"), "sh failed (exit status: 3)");
        // More than a pipe holds.
        assert!(failed("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1").len() <= 4096);
        let stopped = run_to_end(&mut shell("exec sleep 1000"), |_| bail!("too slow")).unwrap_err();
        assert_eq!(stopped.to_string(), "too slow");
    }

    #[test]
    fn a_child_is_ended_within_its_time() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        end(&mut child, Duration::from_secs(10));
        assert!(child.try_wait().unwrap().is_some());
    }
}
