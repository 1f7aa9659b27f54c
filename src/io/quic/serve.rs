//! Requests of other peers: each on a stream and a task of its own.

use super::link::drop_connection;
use super::network::Network;
use super::peer::Peer;
use super::stream::{Progress, Sending, StreamError, read_bytes, read_message};
use super::transport::reason;
use crate::wire::{self, Failure, MAX_CHUNK_BYTES, MAX_CHUNKS, Request, Response};
use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Accepts requests until the connection ends; says why it did.
pub(super) async fn requests(network: &Arc<Network>, peer: &Arc<Peer>, connection: &Connection) -> String {
    loop {
        let (outgoing, incoming) = match connection.accept_bi().await {
            Ok(streams) => streams,
            Err(error) => return reason(&error),
        };
        let (network, peer, connection) = (network.clone(), peer.clone(), connection.clone());
        let tasks = network.tasks.clone();
        tasks.spawn(async move {
            match one(&network, &peer, incoming, outgoing).await {
                Ok(()) => {}
                Err(error @ StreamError::Wire(_)) => drop_connection(&peer, &connection, &error),
                Err(error) => tracing::debug!(peer = %peer.tag, %error, "a request was not answered"),
            }
        });
    }
}

async fn one(
    network: &Network,
    peer: &Peer,
    mut incoming: RecvStream,
    outgoing: SendStream,
) -> Result<(), StreamError> {
    let stall = network.settings.request_stall;
    let mut outgoing = Sending::new(outgoing);
    let mut progress = Progress::new(stall);
    let request: Request = read_message(&mut incoming, &mut progress).await?;
    let length = request.body_bytes();
    // Taken before the buffer is: all requests together receive into bounded memory.
    let room = network.receiving.acquire_many(length.min(network.settings.receive_memory) as u32);
    let _room = progress.step(async { room.await.map_err(|_| StreamError::Ended) }).await?;
    let body = read_bytes(&mut incoming, length, &mut progress).await?;
    network.counters.shards_received.fetch_add(length as u64, Ordering::Relaxed);
    if request == Request::Snapshot {
        let chunks = network.handler.snapshot(peer.tag).await;
        let count = chunks.len().try_into().unwrap_or(u32::MAX);
        if count > MAX_CHUNKS || chunks.iter().any(|chunk| chunk.len() > MAX_CHUNK_BYTES) {
            let why = "its snapshot is larger than one can be".to_owned();
            return answer(&mut outgoing, Response::Error(Failure::Unavailable(why)), Bytes::new(), stall).await;
        }
        let header = wire::frame(&Response::Snapshot { chunks: count })?;
        outgoing.write(&mut [header], &mut Progress::new(stall)).await?;
        return write_chunks(&mut outgoing, chunks, stall).await;
    }
    let (response, body) = network.handler.request(peer.tag, request, body).await;
    if response.body_bytes() != body.len() {
        tracing::error!(peer = %peer.tag, ?response, bytes = body.len(), "an answer does not have the bytes it announces");
        let why = "an internal error".to_owned();
        return answer(&mut outgoing, Response::Error(Failure::Unavailable(why)), Bytes::new(), stall).await;
    }
    let length = body.len() as u64;
    answer(&mut outgoing, response, body, stall).await?;
    network.counters.shards_sent.fetch_add(length, Ordering::Relaxed);
    Ok(())
}

async fn answer(
    outgoing: &mut Sending,
    response: Response,
    body: Bytes,
    stall: std::time::Duration,
) -> Result<(), StreamError> {
    outgoing.write(&mut [wire::frame(&response)?, body], &mut Progress::new(stall)).await?;
    outgoing.finish();
    Ok(())
}

/// Writes a snapshot's pieces and ends the stream; each piece has the time to make progress.
pub(super) async fn write_chunks(
    outgoing: &mut Sending,
    chunks: Vec<Bytes>,
    stall: std::time::Duration,
) -> Result<(), StreamError> {
    for chunk in chunks {
        outgoing.write(&mut wire::chunk_frame(chunk)?, &mut Progress::new(stall)).await?;
    }
    outgoing.finish();
    Ok(())
}
