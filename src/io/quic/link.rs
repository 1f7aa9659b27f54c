//! The life of one connection between two peers of the roster.

use super::network::Network;
use super::peer::{Link, Offer, Outbox, Peer};
use super::stream::{Progress, Sending, StreamError, read_bytes, read_length, read_message};
use super::transport::reason;
use super::{code, serve};
use crate::id::PeerTag;
use crate::wire::{self, ControlMessage, MAX_CONTROL_BYTES, Preface};
use quinn::{Connection, RecvStream, VarInt};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a peer that was taken off the roster is told.
pub(super) const REMOVED: &str = "you were taken off the roster of this peer";
const LEAVING: &str = "leaving";
const SURPLUS: &str = "another connection between the two is in use";
/// Time for both sides to accept a connection after the handshake.
const OPENING: Duration = Duration::from_secs(3);
/// Time for a control message to arrive whole, and to be written, unless it progresses.
const MESSAGE: Duration = Duration::from_secs(10);
/// Time for requests on a replaced connection to end.
const LINGER: Duration = Duration::from_secs(2);

/// Runs the connection until it ends. The error says why it never was the peer's.
pub(super) async fn run(
    network: Arc<Network>,
    peer: Arc<Peer>,
    connection: Connection,
    dialled_by: PeerTag,
) -> Result<(), String> {
    let _counted = network.counters.count(&connection);
    let opened = tokio::select! {
        biased;
        () = peer.removed.cancelled() => Err(removed(&network)),
        opened = tokio::time::timeout(OPENING, open(&network, &connection)) => match opened {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(error)) => Err((fault(&error), error.to_string())),
            Err(_) => Err((code::SLOW, "it did not accept the connection in time".to_owned())),
        },
    };
    let (outgoing, incoming, preface) = match opened {
        Ok(opened) => opened,
        Err((code, why)) => {
            tracing::debug!(peer = %peer.tag, %why, "a connection did not come up");
            connection.close(code, why.as_bytes());
            return Err(why);
        }
    };
    let link = Arc::new(Link {
        connection: connection.clone(),
        instance: preface.instance,
        dialled_by,
        outbox: Outbox::default(),
        retired: CancellationToken::new(),
    });
    if let Err(why) = come_up(&network, &peer, &link) {
        if link.connection.close_reason().is_none() {
            // The other side may have seen this connection first, and use it until it sees the better one.
            let _ = tokio::time::timeout(LINGER, serve::requests(&network, &peer, &connection)).await;
            close(&connection, code::REPLACED, SURPLUS);
        }
        return Err(why);
    }
    network.tasks.spawn(read_control(network.clone(), peer.clone(), link.clone(), incoming));
    network.tasks.spawn(write_control(peer.clone(), link.clone(), outgoing));
    let why = tokio::select! {
        biased;
        () = peer.removed.cancelled() => {
            let (code, why) = removed(&network);
            connection.close(code, why.as_bytes());
            why
        }
        error = connection.closed() => reason(&error),
        why = serve::requests(&network, &peer, &connection) => why,
        why = datagrams(&network, &peer, &connection) => why,
    };
    go_down(&network, &peer, &link, &why);
    Ok(())
}

/// Why a peer's connections end when its token is cancelled.
fn removed(network: &Network) -> (VarInt, String) {
    if network.stop.is_cancelled() { (code::LEAVING, LEAVING.to_owned()) } else { (code::REMOVED, REMOVED.to_owned()) }
}

/// Both sides open their control stream and say which run of the program they are: a side that does so has
/// accepted the connection.
async fn open(network: &Network, connection: &Connection) -> Result<(Sending, RecvStream, Preface), StreamError> {
    let mut progress = Progress::new(OPENING);
    let outgoing = connection.open_uni().await?;
    // Bulk must not hold up what keeps the namespace together.
    let _ = outgoing.set_priority(1);
    let mut outgoing = Sending::new(outgoing);
    outgoing.write(&mut [wire::frame(&Preface { instance: network.instance })?], &mut progress).await?;
    let mut incoming = connection.accept_uni().await?;
    let preface = read_message(&mut incoming, &mut progress).await?;
    Ok((outgoing, incoming, preface))
}

/// Makes the link the peer's connection and tells the handler; the error says why it is not wanted. A surplus
/// one is left open.
fn come_up(network: &Arc<Network>, peer: &Arc<Peer>, link: &Arc<Link>) -> Result<(), String> {
    let _turn = peer.turn.lock();
    if network.leaving.is_cancelled() {
        close(&link.connection, code::LEAVING, LEAVING);
        return Err(LEAVING.to_owned());
    }
    let (offer, old) = peer.offer(link);
    match offer {
        Offer::Taken => {}
        Offer::Surplus => return Err(SURPLUS.to_owned()),
        Offer::Removed => {
            let (code, why) = removed(network);
            link.connection.close(code, why.as_bytes());
            return Err(why);
        }
    }
    if let Some(old) = old {
        let of_this_run = old.instance == link.instance;
        network.tasks.spawn(async move {
            if of_this_run {
                // What is under way on it may end; nothing new starts.
                let _ = tokio::time::timeout(LINGER, old.connection.closed()).await;
            }
            close(&old.connection, code::REPLACED, SURPLUS);
        });
    }
    tracing::info!(peer = %peer.tag, address = %link.connection.remote_address(), "connected");
    network.handler.connected(peer.tag);
    Ok(())
}

fn go_down(network: &Arc<Network>, peer: &Arc<Peer>, link: &Arc<Link>, why: &str) {
    link.retired.cancel();
    link.outbox.close();
    let _turn = peer.turn.lock();
    if peer.take_down(link) {
        tracing::info!(peer = %peer.tag, %why, "disconnected");
        network.handler.disconnected(peer.tag);
        peer.changed.notify_one();
    }
}

async fn datagrams(network: &Network, peer: &Peer, connection: &Connection) -> String {
    loop {
        match connection.read_datagram().await {
            Ok(bytes) => network.handler.datagram(peer.tag, bytes),
            Err(error) => return reason(&error),
        }
    }
}

/// Hands control messages to the handler, one after the other. The handler is never interrupted in one.
async fn read_control(network: Arc<Network>, peer: Arc<Peer>, link: Arc<Link>, mut stream: RecvStream) {
    let _turn = peer.control.lock().await;
    loop {
        let message = tokio::select! {
            biased;
            () = link.retired.cancelled() => return,
            message = next_message(&mut stream) => message,
        };
        match message {
            Ok(message) => network.handler.control(peer.tag, message).await,
            // The other side has said all it had to say: it stops.
            Err(StreamError::Ended) => return close(&link.connection, code::LEAVING, LEAVING),
            Err(error) => return drop_connection(&peer, &link.connection, &error),
        }
    }
}

async fn next_message(stream: &mut RecvStream) -> Result<ControlMessage, StreamError> {
    let length = read_length(stream).await?;
    wire::within(length, MAX_CONTROL_BYTES)?;
    let bytes = read_bytes(stream, length, &mut Progress::new(MESSAGE)).await?;
    Ok(wire::decode(&bytes)?)
}

async fn write_control(peer: Arc<Peer>, link: Arc<Link>, mut stream: Sending) {
    while let Some(mut frames) = link.outbox.next().await {
        let bytes = frames.iter().map(|frame| frame.len()).sum();
        for frame in &mut frames {
            // A deadline for each: together they may be much.
            let written = stream.write(std::slice::from_mut(frame), &mut Progress::new(MESSAGE)).await;
            if let Err(error) = written {
                return drop_connection(&peer, &link.connection, &error);
            }
        }
        link.outbox.written(bytes);
    }
    stream.finish();
    let _ = tokio::time::timeout(OPENING, stream.delivered()).await;
}

/// Closes a connection because of what came over it, and says so where it is the peer's fault.
pub(super) fn drop_connection(peer: &Peer, connection: &Connection, error: &StreamError) {
    match error {
        StreamError::Wire(error) => {
            tracing::warn!(peer = %peer.tag, key = %peer.key, %error, "it broke the protocol: connection closed");
        }
        error => tracing::debug!(peer = %peer.tag, %error, "connection closed"),
    }
    close(connection, fault(error), &error.to_string());
}

/// Closes a connection that is not closed: doing it again would hide the first reason.
fn close(connection: &Connection, code: VarInt, why: &str) {
    if connection.close_reason().is_none() {
        connection.close(code, why.as_bytes());
    }
}

fn fault(error: &StreamError) -> VarInt {
    match error {
        StreamError::Wire(_) => code::PROTOCOL,
        StreamError::Stalled(_) => code::SLOW,
        StreamError::Ended | StreamError::Lost(_) => code::LEAVING,
    }
}
