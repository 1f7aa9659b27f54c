//! Requests to other peers.

use super::network::Network;
use super::peer::{Link, Peer};
use super::stream::{Progress, Sending, StreamError, read_bytes, read_length};
use crate::id::PeerTag;
use crate::volume::ports::{BoxFuture, Shard, ShardError, ShardId, ShardNetwork};
use crate::wire::{self, Failure, MAX_CHUNK_BYTES, Message, Request, Response, ShardHeader, WireError};
use bytes::Bytes;
use quinn::RecvStream;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a request waits for a peer that is thought alive and not connected: it is being dialled, or one
/// connection takes the place of another.
const CONNECT_WAIT: Duration = Duration::from_secs(1);

/// Why a request brought no answer. Another peer may.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("peer {0} is not connected")]
    NotConnected(PeerTag),
    #[error("peer {0} is dead")]
    Dead(PeerTag),
    #[error("the connection to peer {peer} failed: {why}")]
    Lost { peer: PeerTag, why: String },
    #[error("peer {peer} made no progress within {limit:?}")]
    Stalled { peer: PeerTag, limit: Duration },
    #[error("peer {peer} answered what was not asked: {what}")]
    Protocol { peer: PeerTag, what: String },
    #[error("the request cannot be sent: {0}")]
    Invalid(WireError),
    #[error("peer {peer} could not do it: {failure:?}")]
    Failed { peer: PeerTag, failure: Failure },
}

impl Network {
    /// Asks a peer; `body` must be as long as the request says. Fails after `deadline` without progress, and
    /// after four times that in any case.
    pub async fn request(
        &self,
        to: PeerTag,
        request: Request,
        body: Bytes,
        deadline: Duration,
    ) -> Result<(Response, Bytes), RequestError> {
        let (peer, link) = self.reach(to, deadline).await?;
        let dead = peer.state.lock().dead.clone();
        let header = wire::frame(&request).map_err(RequestError::Invalid)?;
        if body.len() != request.body_bytes() {
            let what = format!("{} bytes to send, {} announced", body.len(), request.body_bytes());
            return Err(RequestError::Invalid(WireError::Malformed(what)));
        }
        let exchange = async {
            let (mut incoming, response) = self.ask(&link, header, body, deadline).await?;
            let bytes = read_bytes(&mut incoming, response.body_bytes(), &mut Progress::new(deadline)).await?;
            Ok((response, bytes))
        };
        let done = tokio::select! {
            biased;
            () = dead.cancelled() => return Err(RequestError::Dead(to)),
            done = exchange => done,
        };
        done.map_err(|error| self.failed(&peer, &link, error))
    }

    /// The pieces of a peer's snapshot; fails when one of them makes no progress within `deadline`.
    pub async fn fetch_snapshot(&self, from: PeerTag, deadline: Duration) -> Result<Vec<Bytes>, RequestError> {
        let (peer, link) = self.reach(from, deadline).await?;
        let dead = peer.state.lock().dead.clone();
        let header = wire::frame(&Request::Snapshot).map_err(RequestError::Invalid)?;
        let exchange = async {
            match self.ask(&link, header, Bytes::new(), deadline).await? {
                (mut incoming, Response::Snapshot { chunks }) => {
                    read_chunks(&mut incoming, chunks, deadline).await.map(Ok)
                }
                (_, other) => Ok(Err(other)),
            }
        };
        let done = tokio::select! {
            biased;
            () = dead.cancelled() => return Err(RequestError::Dead(from)),
            done = exchange => done,
        };
        match done.map_err(|error| self.failed(&peer, &link, error))? {
            Ok(chunks) => Ok(chunks),
            Err(Response::Error(failure)) => Err(RequestError::Failed { peer: from, failure }),
            Err(other) => Err(unexpected(from, &other)),
        }
    }

    async fn reach(&self, to: PeerTag, deadline: Duration) -> Result<(Arc<Peer>, Arc<Link>), RequestError> {
        let peer = self.peer(to).ok_or(RequestError::NotConnected(to))?;
        let until = tokio::time::Instant::now() + deadline.min(CONNECT_WAIT);
        loop {
            let linked = peer.linked.notified();
            tokio::pin!(linked);
            linked.as_mut().enable();
            let dead = {
                let state = peer.state.lock();
                if !state.alive {
                    return Err(RequestError::Dead(to));
                }
                if let Some(link) = &state.link {
                    let link = link.clone();
                    drop(state);
                    return Ok((peer.clone(), link));
                }
                state.dead.clone()
            };
            tokio::select! {
                () = &mut linked => {}
                () = dead.cancelled() => return Err(RequestError::Dead(to)),
                () = tokio::time::sleep_until(until) => return Err(RequestError::NotConnected(to)),
            }
        }
    }

    /// Sends a request and reads the header of its answer.
    async fn ask(
        &self,
        link: &Link,
        header: Bytes,
        body: Bytes,
        deadline: Duration,
    ) -> Result<(RecvStream, Response), StreamError> {
        let length = body.len();
        let mut progress = Progress::new(deadline);
        let (outgoing, mut incoming) = progress.step(link.connection.open_bi()).await?;
        let mut outgoing = Sending::new(outgoing);
        outgoing.write(&mut [header, body], &mut progress).await?;
        outgoing.finish();
        self.counters.shards_sent.fetch_add(length as u64, Ordering::Relaxed);
        let length = {
            let mut reading = pin!(read_length(&mut incoming));
            loop {
                let before = link.connection.stats().frame_tx.stream;
                match progress.step(reading.as_mut()).await {
                    // Still on its way there, and the connection moves: the network is slow, not the peer.
                    Err(StreamError::Stalled(_))
                        if progress.may_move()
                            && !outgoing.is_delivered().await
                            && link.connection.stats().frame_tx.stream != before =>
                    {
                        progress.made();
                    }
                    other => break other?,
                }
            }
        };
        wire::within(length, Response::LIMIT)?;
        let bytes = read_bytes(&mut incoming, length, &mut progress).await?;
        Ok((incoming, wire::decode(&bytes)?))
    }

    fn failed(&self, peer: &Peer, link: &Link, error: StreamError) -> RequestError {
        let tag = peer.tag;
        match error {
            StreamError::Wire(ref what) => {
                super::link::drop_connection(peer, &link.connection, &error);
                RequestError::Protocol { peer: tag, what: what.to_string() }
            }
            StreamError::Stalled(limit) => RequestError::Stalled { peer: tag, limit },
            StreamError::Ended => RequestError::Lost { peer: tag, why: "it gave the request up".to_owned() },
            StreamError::Lost(why) => RequestError::Lost { peer: tag, why },
        }
    }

    /// One request about a shard, its time counted.
    async fn about_shard(
        &self,
        peer: PeerTag,
        id: ShardId,
        request: Request,
        body: Bytes,
    ) -> Result<(Response, Bytes), ShardError> {
        let started = Instant::now();
        let done = self.request(peer, request, body, self.settings.request_stall).await;
        if let Some(known) = self.peer(peer) {
            known.latency.feed(started.elapsed().as_micros() as u64, self.clock_ms());
        }
        match done {
            Ok((Response::Error(failure), _)) => Err(failure.about(id, peer)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(unreachable(peer, &error)),
        }
    }
}

/// Pieces of a snapshot, each bounded before it is read.
pub(super) async fn read_chunks(
    incoming: &mut RecvStream,
    count: u32,
    deadline: Duration,
) -> Result<Vec<Bytes>, StreamError> {
    let mut chunks = Vec::new();
    for _ in 0..count {
        let mut progress = Progress::new(deadline);
        let length = progress.step(read_length(incoming)).await?;
        wire::within(length, MAX_CHUNK_BYTES)?;
        chunks.push(read_bytes(incoming, length, &mut progress).await?);
    }
    Ok(chunks)
}

fn unexpected(peer: PeerTag, response: &Response) -> RequestError {
    RequestError::Protocol { peer, what: format!("{response:?}") }
}

fn unreachable(peer: PeerTag, error: &RequestError) -> ShardError {
    ShardError::Unreachable { peer, why: error.to_string() }
}

impl ShardNetwork for Network {
    fn put(&self, peer: PeerTag, shard: Shard) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(async move {
            let header = ShardHeader::of(&shard);
            match self.about_shard(peer, shard.id, Request::PutShard(header), shard.bytes).await? {
                (Response::Stored, _) => Ok(()),
                (other, _) => Err(unreachable(peer, &unexpected(peer, &other))),
            }
        })
    }

    fn get(&self, peer: PeerTag, id: ShardId) -> BoxFuture<'_, Result<Shard, ShardError>> {
        Box::pin(async move {
            match self.about_shard(peer, id, Request::GetShard(id), Bytes::new()).await? {
                (Response::Shard(header), bytes) if header.id == id => Ok(header.with(bytes)),
                (other, _) => Err(unreachable(peer, &unexpected(peer, &other))),
            }
        })
    }

    fn sync(&self, peer: PeerTag) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(async move {
            let done = self.request(peer, Request::SyncShards, Bytes::new(), self.settings.sync_deadline).await;
            match done {
                Ok((Response::Synced, _)) => Ok(()),
                Ok((Response::Error(Failure::Full), _)) => Err(ShardError::Full { peer }),
                Ok((Response::Error(Failure::Disk(what)), _)) => {
                    Err(ShardError::Disk(format!("at peer {peer}: {what}")))
                }
                Ok((other, _)) => Err(unreachable(peer, &unexpected(peer, &other))),
                Err(error) => Err(unreachable(peer, &error)),
            }
        })
    }

    fn lacking(&self, peer: PeerTag, ids: Vec<ShardId>, read: bool) -> BoxFuture<'_, Result<Vec<ShardId>, ShardError>> {
        Box::pin(async move {
            let count = u16::try_from(ids.len()).unwrap_or(u16::MAX);
            let request = Request::Lacking { count, read };
            // Reading them all may take the holder as long as a sync.
            let deadline = if read { self.settings.sync_deadline } else { self.settings.request_stall };
            match self.request(peer, request, wire::encode_names(&ids), deadline).await {
                Ok((Response::Lacking { .. }, bytes)) => {
                    let named = wire::decode_names(&bytes).map_err(|error| {
                        unreachable(peer, &RequestError::Protocol { peer, what: error.to_string() })
                    })?;
                    Ok(named)
                }
                Ok((Response::Error(Failure::Disk(what)), _)) => {
                    Err(ShardError::Disk(format!("at peer {peer}: {what}")))
                }
                Ok((other, _)) => Err(unreachable(peer, &unexpected(peer, &other))),
                Err(error) => Err(unreachable(peer, &error)),
            }
        })
    }

    fn latency_us(&self, peer: PeerTag) -> u64 {
        match self.peer(peer) {
            Some(known) if known.state.lock().link.is_some() => known.latency.estimate_us(self.clock_ms()),
            _ => u64::MAX,
        }
    }
}
