//! The two ends of the control socket together.

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

/// Answers every kind of request in a way that shows what arrived.
struct Echo;

impl Commands for Echo {
    fn run(&self, request: ControlRequest, progress: ProgressSink) -> server::CommandFuture<'_> {
        Box::pin(async move {
            match request {
                ControlRequest::Ping => Ok(ControlReply::Pong { pid: 7, version: "1".into(), peer: "p000001".into() }),
                ControlRequest::Stop => {
                    progress.report("flushing", 1, 3);
                    progress.report("flushing", 3, 3);
                    Ok(ControlReply::Done)
                }
                ControlRequest::Where { path } => {
                    Ok(ControlReply::Where(WhereReport { path: path.to_string(), ..WhereReport::default() }))
                }
                ControlRequest::Groups => {
                    let group = GroupReport { id: "g".repeat(1000), ..GroupReport::default() };
                    Ok(ControlReply::Groups(vec![group; 5000]))
                }
                ControlRequest::Unmount { mountpoint } => Err(format!("{mountpoint} is not mounted")),
                ControlRequest::DropCaches => std::future::pending().await,
                ControlRequest::Stats => panic!("a defect"),
                _ => Ok(ControlReply::Done),
            }
        })
    }
}

/// A listening home; the runtime lives as long as the value.
struct Listening {
    home: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
}

fn listening() -> Listening {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = {
        let _inside = runtime.enter();
        serve(&socket_path(home.path()), Arc::new(Echo)).unwrap()
    };
    Listening { home, runtime, server: Some(server) }
}

#[test]
fn a_request_gets_its_reply() {
    let peer = listening();
    let client = Client::connect(peer.home.path()).unwrap();
    let pong = ControlReply::Pong { pid: 7, version: "1".into(), peer: "p000001".into() };
    assert_eq!(client.call(&ControlRequest::Ping, DEADLINE, |_| ()).unwrap(), pong);
    let request = ControlRequest::Where { path: ByteText(b"/a b".to_vec()) };
    let ControlReply::Where(report) = client.call(&request, DEADLINE, |_| ()).unwrap() else { panic!("not where") };
    assert_eq!(report.path, "/a b");
    let ControlReply::Groups(groups) = client.call(&ControlRequest::Groups, DEADLINE, |_| ()).unwrap() else {
        panic!("not groups")
    };
    assert_eq!(groups.len(), 5000);
}

#[test]
fn progress_comes_before_the_reply() {
    let peer = listening();
    let client = Client::connect(peer.home.path()).unwrap();
    let mut seen = Vec::new();
    client.call(&ControlRequest::Stop, DEADLINE, |progress| seen.push((progress.done, progress.total))).unwrap();
    assert_eq!(seen, [(1, 3), (3, 3)]);
}

#[test]
fn an_error_is_the_peers_own_words() {
    let peer = listening();
    let client = Client::connect(peer.home.path()).unwrap();
    let request = ControlRequest::Unmount { mountpoint: ByteText(b"/mnt".to_vec()) };
    let error = client.call(&request, DEADLINE, |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "/mnt is not mounted");
}

#[test]
fn a_panic_in_a_command_is_an_error_and_the_peer_goes_on() {
    let peer = listening();
    let client = Client::connect(peer.home.path()).unwrap();
    let error = client.call(&ControlRequest::Stats, DEADLINE, |_| ()).unwrap_err();
    assert!(error.to_string().contains("failed inside this command"), "{error}");
    assert!(client.call(&ControlRequest::Ping, DEADLINE, |_| ()).is_ok());
}

#[test]
fn a_silent_peer_is_given_up_at_the_deadline() {
    let peer = listening();
    let client = Client::connect(peer.home.path()).unwrap();
    let error = client.call(&ControlRequest::DropCaches, Duration::from_millis(50), |_| ()).unwrap_err();
    assert!(matches!(error, ControlError::Silent { .. }), "{error}");
}

#[test]
fn no_peer_says_how_to_start_one() {
    let home = tempfile::tempdir().unwrap();
    let error = Client::connect(home.path()).unwrap_err().to_string();
    let home = home.path().display();
    assert_eq!(error, format!("no peer is running for {home}; start it with shoal mount or shoal serve"));
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_the_server() {
    let mut peer = listening();
    let path = socket_path(peer.home.path());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    peer.runtime.block_on(peer.server.take().unwrap().close());
    assert!(!path.exists());
    assert!(matches!(Client::connect(peer.home.path()), Err(ControlError::NotRunning { .. })));
}

#[test]
fn a_socket_nobody_listens_on_is_replaced_and_a_live_one_is_not() {
    let peer = listening();
    let _inside = peer.runtime.enter();
    let live = serve(&socket_path(peer.home.path()), Arc::new(Echo)).unwrap_err();
    assert!(live.to_string().contains("another peer is listening"), "{live}");
    let other = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(socket_path(other.path())).unwrap());
    assert!(matches!(Client::connect(other.path()), Err(ControlError::NotRunning { .. })));
    let _server = serve(&socket_path(other.path()), Arc::new(Echo)).unwrap();
    assert!(Client::connect(other.path()).unwrap().call(&ControlRequest::Ping, DEADLINE, |_| ()).is_ok());
}

#[test]
fn a_home_with_a_long_path_works() {
    let peer = listening();
    let _inside = peer.runtime.enter();
    let home = peer.home.path().join("h".repeat(120));
    std::fs::create_dir(&home).unwrap();
    let _server = serve(&socket_path(&home), Arc::new(Echo)).unwrap();
    assert!(Client::connect(&home).unwrap().call(&ControlRequest::Ping, DEADLINE, |_| ()).is_ok());
}

#[test]
fn what_is_no_request_is_refused_with_a_reason() {
    let peer = listening();
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(socket_path(peer.home.path())).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // The peer may have answered and closed before all is written.
        let _ = stream.write_all(bytes);
        let mut line = String::new();
        let _ = BufReader::new(stream).read_line(&mut line);
        line
    };
    assert!(ask(b"hello\n").contains("not understood"));
    assert!(ask(b"{\"fly\":{}}\n").contains("not understood"));
    assert!(ask(&vec![b' '; MAX_REQUEST_BYTES + 1]).contains("longer than"));
    assert_eq!(ask(b"\"ping\"\n"), "{\"reply\":{\"pong\":{\"pid\":7,\"version\":\"1\",\"peer\":\"p000001\"}}}\n");
}
