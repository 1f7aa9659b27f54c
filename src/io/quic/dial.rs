//! Dialling: one task for each peer of the roster, which brings up what is not connected.

use super::network::Network;
use super::peer::Peer;
use super::transport::DialError;
use super::{ALPN_PEER, link};
use quinn::Connection;
use std::sync::Arc;
use std::time::Duration;

/// The first wait after a failure, and the longest.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);
/// The peer with the higher tag lets the other one dial first: so there are rarely two connections to choose from.
const HEAD_START: Duration = Duration::from_millis(150);

/// Dials until the peer is off the roster.
pub(super) async fn keep_connected(network: Arc<Network>, peer: Arc<Peer>) {
    let (removed, leaving) = (peer.removed.clone(), network.leaving.clone());
    tokio::select! {
        biased;
        // A connection that is up sees to its own end.
        () = removed.cancelled() => {}
        () = leaving.cancelled() => {}
        () = dial_forever(network, peer) => {}
    }
}

async fn dial_forever(network: Arc<Network>, peer: Arc<Peer>) {
    let mut wait = SHORTEST;
    // Said once for each kind of failure, not at every attempt.
    let mut said = String::new();
    loop {
        if peer.link().is_some() {
            peer.changed.notified().await;
            wait = SHORTEST;
            said.clear();
            continue;
        }
        if network.me > peer.tag {
            let _ = tokio::time::timeout(HEAD_START, peer.changed.notified()).await;
            if peer.link().is_some() {
                continue;
            }
        }
        match dial_once(&network, &peer).await {
            Ok(connection) => {
                let running = link::run(network.clone(), peer.clone(), connection, network.me);
                match network.tasks.spawn(running).await {
                    Ok(Ok(())) => {
                        wait = SHORTEST;
                        said.clear();
                    }
                    Ok(Err(why)) if peer.link().is_none() => say(&peer, &mut said, why),
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            Err(Some(error)) => say(&peer, &mut said, error.to_string()),
            // Nowhere to dial: it dials.
            Err(None) => {}
        }
        let _ = tokio::time::timeout(wait, peer.changed.notified()).await;
        wait = (wait * 2).min(LONGEST);
    }
}

fn say(peer: &Peer, said: &mut String, why: String) {
    if *said != why {
        tracing::warn!(peer = %peer.tag, %why, "cannot connect; will keep trying");
        *said = why;
    }
}

/// Tries every address once, the one that last worked first.
async fn dial_once(network: &Network, peer: &Peer) -> Result<Connection, Option<DialError>> {
    let addresses = peer.addresses.lock().clone();
    let mut failed = None;
    for address in addresses {
        match network.transport.dial(&network.endpoint, address, peer.key, ALPN_PEER).await {
            Ok(connection) => {
                let mut addresses = peer.addresses.lock();
                if let Some(at) = addresses.iter().position(|known| *known == address) {
                    addresses[..=at].rotate_right(1);
                }
                return Ok(connection);
            }
            // A wrong key is the failure worth telling.
            Err(error) if !matches!(failed, Some(DialError::WrongKey { .. })) => failed = Some(error),
            Err(_) => {}
        }
    }
    Err(failed)
}
