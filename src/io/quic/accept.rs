//! Answering callers: who may speak which protocol is decided here, before anything they say is read.

use super::network::Network;
use super::{ALPN_JOIN, ALPN_PEER, code, join, link, transport};
use quinn::{Connection, Incoming};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Handshakes at a time; over half of it, callers must first prove their address.
const HANDSHAKES: usize = 64;
/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Answers until the network stops.
pub(super) async fn answer_callers(network: Arc<Network>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let incoming = tokio::select! {
            biased;
            () = network.leaving.cancelled() => return,
            incoming = network.endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        if handshakes.available_permits() < HANDSHAKES / 2 && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let answering = network.clone();
        network.tasks.spawn(async move {
            let connection = shake_hands(&answering, incoming).await;
            drop(permit);
            if let Some(connection) = connection {
                admit(answering, connection).await;
            }
        });
    }
}

async fn shake_hands(network: &Network, incoming: Incoming) -> Option<Connection> {
    let address = incoming.remote_address();
    let connecting = match network.transport.answer(address.ip()) {
        Some(config) => incoming.accept_with(config),
        None => incoming.accept(),
    };
    let handshake = async { connecting?.await };
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a caller failed the handshake");
            None
        }
        Err(_) => None,
    }
}

async fn admit(network: Arc<Network>, connection: Connection) {
    let address = connection.remote_address();
    let Some((key, alpn)) = transport::parties(&connection) else {
        return connection.close(code::PROTOCOL, b"no key");
    };
    if alpn == ALPN_JOIN {
        return join::serve(&network, connection, key).await;
    }
    match network.peer(key.tag()) {
        Some(peer) if peer.key == key && alpn == ALPN_PEER => {
            transport::admit(&connection);
            let tag = peer.tag;
            // Why it did not come up is known to the log, and to the caller.
            let _ = link::run(network, peer, connection, tag).await;
        }
        _ => {
            tracing::warn!(%address, %key, "refused a caller that is not on the roster");
            connection.close(code::NOT_ADMITTED, b"your key is not on the roster of this peer");
        }
    }
}
