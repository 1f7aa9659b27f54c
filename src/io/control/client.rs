//! A command's end of the control socket. It blocks: a command has nothing else to do.

use super::message::Line;
use super::{ControlError, ControlReply, ControlRequest, MAX_REPLY_BYTES, Progress, socket_path, with_short_path};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long connecting may take: the other end only has to accept.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// A way to the running peer of a home.
#[derive(Clone, Debug)]
pub struct Client {
    home: PathBuf,
}

impl Client {
    /// Finds the running peer of `home`.
    pub fn connect(home: &Path) -> Result<Client, ControlError> {
        let client = Client { home: home.into() };
        client.open()?;
        Ok(client)
    }

    /// The home it leads to.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Asks, hands on the progress, and waits for the answer: as long as something is heard every `deadline`.
    pub fn call(
        &self,
        request: &ControlRequest,
        deadline: Duration,
        mut on_progress: impl FnMut(Progress),
    ) -> Result<ControlReply, ControlError> {
        self.follow(request, deadline, |progress| {
            on_progress(progress);
            ControlFlow::Continue(())
        })
    }

    /// The same, until `on_progress` breaks off.
    pub fn follow(
        &self,
        request: &ControlRequest,
        deadline: Duration,
        mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<ControlReply, ControlError> {
        let mut stream = self.open()?;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ControlError::Silent { home: self.home.clone(), seconds: deadline.as_secs() }
            }
            _ => self.broken(error.to_string()),
        };
        // A zero deadline would mean none.
        let deadline = deadline.max(Duration::from_millis(1));
        stream.set_read_timeout(Some(deadline)).map_err(failed)?;
        stream.set_write_timeout(Some(deadline)).map_err(failed)?;
        let mut text = serde_json::to_vec(request).map_err(|error| self.broken(error.to_string()))?;
        text.push(b'\n');
        stream.write_all(&text).map_err(failed)?;
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.by_ref().take(MAX_REPLY_BYTES).read_until(b'\n', &mut line).map_err(failed)?;
            if read == 0 {
                return Err(self.broken("it ended before it answered".into()));
            }
            if line.last() != Some(&b'\n') {
                let why = match read as u64 {
                    MAX_REPLY_BYTES => format!("its answer is longer than {MAX_REPLY_BYTES} bytes"),
                    _ => "it ended within its answer".into(),
                };
                return Err(self.broken(why));
            }
            match serde_json::from_slice(&line) {
                Ok(Line::Progress(progress)) => {
                    if on_progress(progress).is_break() {
                        return Err(ControlError::Abandoned);
                    }
                }
                Ok(Line::Reply(reply)) => return Ok(reply),
                Ok(Line::Error { message }) => return Err(ControlError::Refused(message)),
                Err(error) => return Err(self.broken(format!("its answer is not understood ({error})"))),
            }
        }
    }

    fn open(&self) -> Result<UnixStream, ControlError> {
        let path = socket_path(&self.home);
        let home = || self.home.clone();
        let open = |path: &Path| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // It bounds connecting too: the queue of a peer that hangs fills up.
            socket.set_write_timeout(Some(CONNECT_DEADLINE))?;
            socket.connect(&SockAddr::unix(path)?)?;
            Ok(socket)
        };
        match with_short_path(&path, open) {
            Ok(socket) => Ok(UnixStream::from(socket)),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NotRunning { home: home() },
                io::ErrorKind::PermissionDenied => ControlError::NotYours { home: home() },
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    ControlError::Silent { home: home(), seconds: CONNECT_DEADLINE.as_secs() }
                }
                _ => ControlError::Socket { path, source: error },
            }),
        }
    }

    fn broken(&self, why: String) -> ControlError {
        ControlError::Broken { home: self.home.clone(), why }
    }
}
