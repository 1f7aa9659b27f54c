//! Joining: the one exchange that a key off the roster may have, from both ends.

use super::call::read_chunks;
use super::identity::Identity;
use super::network::{Network, NetworkError};
use super::serve::write_chunks;
use super::settings::Settings;
use super::stream::{Progress, Sending, StreamError, read_message};
use super::transport::{self, DialError, Transport};
use super::{ALPN_JOIN, code};
use crate::id::PeerKey;
use crate::namespace::PeerRecord;
use crate::wire::{
    self, Inviter, JoinRefusal, JoinReply, JoinRequest, JoinWelcome, MAX_CHUNK_BYTES, MAX_CHUNKS, Ticket,
};
use bytes::Bytes;
use quinn::{Connection, Endpoint};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Joins answered at a time; a joiner over it tries again.
pub(super) const JOINS: usize = 4;
/// Time for a joiner to say what it wants: strangers get little.
const ASKING: Duration = Duration::from_secs(5);
/// Time for the inviter to decide and to take its snapshot.
const DECIDING: Duration = Duration::from_secs(60);

/// Why this machine could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The inviter said no.
    #[error("{0}")]
    Refused(JoinRefusal),
    /// Someone else answers at the inviter's address.
    #[error(
        "the peer at {address} has the key {found}, but the ticket was made by {expected}: it is not the inviter; \
         check the address, or ask for a new ticket"
    )]
    WrongKey { address: SocketAddr, expected: PeerKey, found: PeerKey },
    #[error("no inviter of the ticket could be reached ({0}); check that one runs and that UDP gets through to it")]
    Unreachable(String),
    #[error("the exchange with the inviter at {address} broke off: {why}; try again with a new ticket")]
    Broken { address: SocketAddr, why: String },
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Asks the ticket's inviters, one after the other, to be admitted with this record; used before the peer runs.
pub async fn join(
    identity: &Identity,
    ticket: &Ticket,
    record: PeerRecord,
    settings: &Settings,
) -> Result<(JoinWelcome, Vec<Bytes>), JoinError> {
    let request = JoinRequest { share: ticket.share, secret: ticket.secret.clone(), record };
    let request =
        wire::frame(&request).map_err(|error| JoinError::Refused(JoinRefusal::BadRecord(error.to_string())))?;
    let transport = Transport::new(settings, identity)?;
    let endpoint = transport::dialler(settings, identity)?;
    let outcome = ask_all(&endpoint, &transport, identity, ticket, &request, settings).await;
    endpoint.close(code::LEAVING, b"joined or given up");
    let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    outcome
}

async fn ask_all(
    endpoint: &Endpoint,
    transport: &Transport,
    identity: &Identity,
    ticket: &Ticket,
    request: &Bytes,
    settings: &Settings,
) -> Result<(JoinWelcome, Vec<Bytes>), JoinError> {
    let mut tried = Vec::new();
    let mut wrong_key = None;
    let mut refusal = None;
    for (inviter, address) in ticket.inviters.iter().flat_map(every_address) {
        match transport.dial(endpoint, address, inviter.key, ALPN_JOIN).await {
            Ok(connection) => match ask(&connection, identity, request, settings).await {
                Ok(Ok(welcome)) => return Ok(welcome),
                // This inviter cannot, or does not know the ticket; another one may.
                Ok(Err(no @ (JoinRefusal::Unavailable(_) | JoinRefusal::UnknownTicket))) => refusal = Some(no),
                Ok(Err(no)) => return Err(JoinError::Refused(no)),
                Err(error) => return Err(JoinError::Broken { address, why: error.to_string() }),
            },
            Err(DialError::WrongKey { address, expected, found }) => {
                wrong_key = Some(JoinError::WrongKey { address, expected, found });
            }
            Err(error) => tried.push(error.to_string()),
        }
    }
    match (refusal, wrong_key) {
        (Some(refusal), _) => Err(JoinError::Refused(refusal)),
        (None, Some(wrong_key)) => Err(wrong_key),
        (None, None) if tried.is_empty() => Err(JoinError::Unreachable("it names no address".to_owned())),
        (None, None) => Err(JoinError::Unreachable(tried.join("; "))),
    }
}

fn every_address(inviter: &Inviter) -> impl Iterator<Item = (&Inviter, SocketAddr)> {
    inviter.addresses.iter().map(move |address| (inviter, *address))
}

type Answer = Result<(JoinWelcome, Vec<Bytes>), JoinRefusal>;

async fn ask(
    connection: &Connection,
    identity: &Identity,
    request: &Bytes,
    settings: &Settings,
) -> Result<Answer, StreamError> {
    let mut progress = Progress::new(settings.request_stall);
    let (outgoing, mut incoming) = progress.step(connection.open_bi()).await?;
    let mut outgoing = Sending::new(outgoing);
    outgoing.write(&mut [request.clone()], &mut progress).await?;
    outgoing.finish();
    let reply = read_message(&mut incoming, &mut Progress::new(DECIDING)).await;
    let answer = match reply? {
        JoinReply::Refused(refusal) => Err(refusal),
        JoinReply::Welcome { welcome, chunks } => {
            if welcome.your_tag != identity.tag() {
                return Err(wire::WireError::Malformed("the welcome is for another peer".to_owned()).into());
            }
            Ok((welcome, read_chunks(&mut incoming, chunks, settings.request_stall).await?))
        }
    };
    connection.close(code::LEAVING, b"thank you");
    Ok(answer)
}

/// Answers one joiner.
pub(super) async fn serve(network: &Arc<Network>, connection: Connection, key: PeerKey) {
    let _counted = network.counters.count(&connection);
    let Ok(_permit) = network.joins.clone().try_acquire_owned() else {
        return connection.close(code::BUSY, b"too many machines are joining at once; try again");
    };
    let exchange = tokio::select! {
        biased;
        () = network.stop.cancelled() => return connection.close(code::LEAVING, b"leaving"),
        exchange = answer(network, &connection, key) => exchange,
    };
    let address = connection.remote_address();
    match exchange {
        Ok(()) => {
            // The joiner closes when it has everything.
            let _ = tokio::time::timeout(network.settings.idle_timeout, connection.closed()).await;
            connection.close(code::LEAVING, b"");
        }
        Err(error) => {
            tracing::warn!(%address, %key, %error, "a machine did not finish joining");
            let code = if matches!(error, StreamError::Wire(_)) { code::PROTOCOL } else { code::SLOW };
            connection.close(code, error.to_string().as_bytes());
        }
    }
}

async fn answer(network: &Network, connection: &Connection, key: PeerKey) -> Result<(), StreamError> {
    let mut progress = Progress::new(ASKING);
    let (outgoing, mut incoming) = progress.step(connection.accept_bi()).await?;
    let mut outgoing = Sending::new(outgoing);
    let request: JoinRequest = read_message(&mut incoming, &mut progress).await?;
    let outcome = if request.record.key == key {
        let deciding = network.handler.join(key, connection.remote_address(), request);
        match tokio::time::timeout(DECIDING, deciding).await {
            Ok(outcome) => outcome,
            Err(_) => Err(JoinRefusal::Unavailable("it is overloaded".to_owned())),
        }
    } else {
        Err(JoinRefusal::BadRecord("its key is not the one it has proved to have".to_owned()))
    };
    let stall = network.settings.request_stall;
    let (reply, chunks) = match outcome {
        Ok((welcome, chunks)) => {
            let count = chunks.len().try_into().unwrap_or(u32::MAX);
            if count > MAX_CHUNKS || chunks.iter().any(|chunk| chunk.len() > MAX_CHUNK_BYTES) {
                let why = "its namespace is too large to hand over".to_owned();
                (JoinReply::Refused(JoinRefusal::Unavailable(why)), Vec::new())
            } else {
                (JoinReply::Welcome { welcome, chunks: count }, chunks)
            }
        }
        Err(refusal) => (JoinReply::Refused(refusal), Vec::new()),
    };
    outgoing.write(&mut [wire::frame(&reply)?], &mut Progress::new(stall)).await?;
    write_chunks(&mut outgoing, chunks, stall).await
}
