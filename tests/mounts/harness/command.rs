//! Commands with deadlines: nothing a test starts may outlive its patience.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::process::{Child, Command, ExitStatus, Stdio};
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
    let mut stdout = tempfile::tempfile().expect("a temporary file for output");
    let mut stderr = tempfile::tempfile().expect("a temporary file for output");
    command.stdin(Stdio::null()).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("`{line}` cannot be started: {e}"));
    let Some(status) = ends_within(&mut child, limit) else {
        let _ = child.kill();
        let _ = ends_within(&mut child, Duration::from_secs(5));
        panic!("`{line}` did not end within {limit:?}\n--- stderr\n{}", slurp(&mut stderr));
    };
    Ran { line, code: status.code(), stdout: slurp(&mut stdout), stderr: slurp(&mut stderr) }
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
