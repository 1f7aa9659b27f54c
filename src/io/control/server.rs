//! The peer's end of the control socket.

use super::message::Line;
use super::{ControlError, ControlReply, ControlRequest, MAX_REQUEST_BYTES, Progress, with_short_path};
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A future of a command.
pub type CommandFuture<'a> = Pin<Box<dyn Future<Output = Result<ControlReply, String>> + Send + 'a>>;

/// What the running peer does for the commands. The daemon implements it.
pub trait Commands: Send + Sync + 'static {
    /// Does what is asked, within a time of its own. An error is one line for the person: what failed, and what
    /// to do. It goes on when the client goes away.
    fn run(&self, request: ControlRequest, progress: ProgressSink) -> CommandFuture<'_>;
}

/// Where a command says how far it is. Progress is for watching: when the client reads slowly, some is left out.
#[derive(Clone, Debug)]
pub struct ProgressSink(mpsc::Sender<Progress>);

impl ProgressSink {
    /// A sink and what comes out of it; for tests, and for commands that run commands.
    pub fn channel() -> (ProgressSink, mpsc::Receiver<Progress>) {
        let (sender, receiver) = mpsc::channel(16);
        (ProgressSink(sender), receiver)
    }

    /// The client is gone: who only reports may stop.
    pub fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }

    /// `total` 0: not known.
    pub fn report(&self, text: impl Into<String>, done: u64, total: u64) {
        let _ = self.0.try_send(Progress { text: text.into(), done, total });
    }
}

/// Clients served at once; more are told to come back.
const MAX_CLIENTS: usize = 64;

/// How long a client may take to write its request, and to take a line of the answer.
const CLIENT_DEADLINE: Duration = Duration::from_secs(10);

/// How long closing waits for answers that are still being written.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// The listening socket; dropped or closed, nobody new is served and the socket is gone.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stop: CancellationToken,
    clients: TaskTracker,
}

/// Listens on `path` (see [`super::socket_path`]) until the server is closed. A socket that nobody listens on any
/// more is replaced. Needs a tokio runtime.
pub fn serve(path: &Path, commands: Arc<dyn Commands>) -> Result<Server, ControlError> {
    let (listener, owner) = bind(path).map_err(|source| ControlError::Socket { path: path.into(), source })?;
    let server = Server { path: path.into(), stop: CancellationToken::new(), clients: TaskTracker::new() };
    tokio::spawn(accept(listener, owner, commands, server.stop.clone(), server.clients.clone()));
    Ok(server)
}

impl Server {
    /// Serves nobody new, waits for the answers being written (so that `stop` is answered before the process
    /// ends), and removes the socket.
    pub async fn close(self) {
        self.stop.cancel();
        self.clients.close();
        let _ = tokio::time::timeout(CLOSE_DEADLINE, self.clients.wait()).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The listener, and the user whose commands it takes besides root's.
fn bind(path: &Path) -> io::Result<(UnixListener, u32)> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if with_short_path(path, |path| std::os::unix::net::UnixStream::connect(path)).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another peer is listening on it"));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is in its place"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = with_short_path(path, |path| std::os::unix::net::UnixListener::bind(path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    let owner = std::fs::symlink_metadata(path)?.uid();
    Ok((UnixListener::from_std(listener)?, owner))
}

async fn accept(
    listener: UnixListener,
    owner: u32,
    commands: Arc<dyn Commands>,
    stop: CancellationToken,
    clients: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let busy = clients.len() >= 2 * MAX_CLIENTS;
                let commands = commands.clone();
                let tracker = clients.clone();
                if !busy {
                    clients.spawn(async move { client(stream, owner, commands, &tracker).await });
                }
            }
            Err(error) => {
                // Out of file handles, most likely: others will free some.
                tracing::warn!("the control socket cannot take a client: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one client: one request, progress, one answer.
async fn client(stream: UnixStream, owner: u32, commands: Arc<dyn Commands>, clients: &TaskTracker) {
    let (reader, mut writer) = {
        let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == owner || peer.uid() == 0);
        let (reader, mut writer) = stream.into_split();
        if !allowed {
            let message = "only the home's owner and root may command its peer".into();
            let _ = write_line(&mut writer, &Line::Error { message }).await;
            return;
        }
        (reader, writer)
    };
    let request = match read_request(BufReader::new(reader)).await {
        Ok(Some(request)) => request,
        // Somebody looked whether anybody listens.
        Ok(None) => return,
        Err(message) => {
            let _ = write_line(&mut writer, &Line::Error { message }).await;
            return;
        }
    };
    if clients.len() > MAX_CLIENTS {
        let message = format!("the peer is busy with {MAX_CLIENTS} other commands; try again");
        let _ = write_line(&mut writer, &Line::Error { message }).await;
        return;
    }
    let (sink, mut progress) = ProgressSink::channel();
    // A task of its own: the command goes on when the client goes away, and its panic is answered.
    let mut command = tokio::spawn(async move { commands.run(request, sink).await });
    let mut listening = true;
    let last = loop {
        tokio::select! {
            biased;
            Some(said) = progress.recv(), if listening => {
                listening = write_line(&mut writer, &Line::Progress(said)).await.is_ok();
                if !listening {
                    progress.close();
                }
            }
            finished = &mut command => break match finished {
                Ok(Ok(reply)) => Line::Reply(reply),
                Ok(Err(message)) => Line::Error { message },
                Err(error) => Line::Error { message: format!("the peer failed inside this command: {error}") },
            },
        }
    };
    while let (true, Ok(progress)) = (listening, progress.try_recv()) {
        listening = write_line(&mut writer, &Line::Progress(progress)).await.is_ok();
    }
    if listening {
        let _ = write_line(&mut writer, &last).await;
    }
}

/// The request, or nothing if the client closed without one.
async fn read_request(reader: impl tokio::io::AsyncBufRead + Unpin) -> Result<Option<ControlRequest>, String> {
    use tokio::io::AsyncBufReadExt;
    let mut line = Vec::new();
    let mut limited = reader.take(MAX_REQUEST_BYTES as u64 + 1);
    match tokio::time::timeout(CLIENT_DEADLINE, limited.read_until(b'\n', &mut line)).await {
        Err(_) => return Err(format!("no request came within {} s", CLIENT_DEADLINE.as_secs())),
        Ok(Err(error)) => return Err(format!("the request cannot be read: {error}")),
        Ok(Ok(_)) => {}
    }
    if line.len() > MAX_REQUEST_BYTES {
        return Err(format!("the request is longer than {MAX_REQUEST_BYTES} bytes"));
    }
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(|error| format!("the request is not understood: {error}"))
}

async fn write_line(writer: &mut (impl tokio::io::AsyncWrite + Unpin), line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    // The deadline is for each piece, so that a long report is not cut off while it is being taken.
    for piece in text.chunks(64 * 1024) {
        match tokio::time::timeout(CLIENT_DEADLINE, writer.write_all(piece)).await {
            Ok(written) => written?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    Ok(())
}
