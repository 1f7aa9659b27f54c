//! Commands with deadlines: nothing a test starts may outlive its patience.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// Long enough for any one command on a busy machine of two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub line: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The standard output of a command that had to succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(
            self.code == Some(0),
            "`{}` ended with {:?}\n--- stdout\n{}--- stderr\n{}",
            self.line,
            self.code,
            self.stdout,
            self.stderr
        );
        self.stdout
    }
}

/// Runs a command to its end; a panic if that does not come in time.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Ran {
    let line = describe(command);
    let mut command = std::mem::replace(command, Command::new(""));
    let ran = apart(move || {
        let mut stdout = tempfile::tempfile().expect("a temporary file for output");
        let mut stderr = tempfile::tempfile().expect("a temporary file for output");
        command.stdin(Stdio::null()).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
        let mut child = command.spawn().map_err(|e| format!("cannot be started: {e}"))?;
        let Some(status) = ends_within(&mut child, limit) else {
            let _ = child.kill();
            let _ = ends_within(&mut child, Duration::from_secs(5));
            return Err(format!("did not end within {limit:?}\n--- stderr\n{}", slurp(&mut stderr)));
        };
        Ok((status.code(), slurp(&mut stdout), slurp(&mut stderr)))
    });
    let (code, stdout, stderr) = ran.unwrap_or_else(|why| panic!("`{line}` {why}"));
    Ran { line, code, stdout, stderr }
}

/// Does something, which may start programs, in a thread that sees none of the files that this process has open, nor shows
/// those that it opens: they must be dropped in it.
///
/// What a thread starts gets copies of all that its process has open and closes them before it runs a program. To close a
/// file of a mount whose peer is frozen takes until it is not: without this, no test could start anything while any other
/// one had such a file open.
pub fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    type Job = Box<dyn FnOnce() + Send>;
    // Begins with the command that sets up the first peer, when there are no mounts yet whose files it would have to close.
    static STARTER: LazyLock<Sender<Job>> = LazyLock::new(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::spawn(move || {
            let above = libc::STDERR_FILENO as u32 + 1;
            // SAFETY: takes numbers. The table is this thread's own from then on, which has not used any of them.
            let refused =
                unsafe { libc::syscall(libc::SYS_close_range, above, u32::MAX, libc::CLOSE_RANGE_UNSHARE) } == -1;
            assert!(!refused, "a thread gets no descriptors of its own: {}", std::io::Error::last_os_error());
            // Threads share the descriptors of the one that starts them.
            jobs.into_iter().for_each(|job| drop(std::thread::spawn(job)));
        });
        sender
    });
    let (done, result) = channel();
    let job = move || drop(done.send(catch_unwind(AssertUnwindSafe(work))));
    STARTER.send(Box::new(job)).expect("the thread that starts programs is there");
    result.recv().expect("a job has a result").unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs `words` and returns its output; a panic unless it succeeds in time.
#[track_caller]
pub fn tool<S: AsRef<OsStr>>(words: &[S]) -> String {
    run(Command::new(&words[0]).args(&words[1..]), PATIENCE).ok()
}

/// The child's exit status, or None if it still runs when the time is over.
pub fn ends_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(3)),
            _ => return None,
        }
    }
}

/// The command as one would type it.
fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn slurp(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = file.seek(SeekFrom::Start(0));
    let _ = file.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
