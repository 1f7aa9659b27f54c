//! What other peers ask of this one.

use super::housekeeping::Household;
use super::invite::{self, Invitations};
use super::{Host, own_stats, snapshot};
use crate::id::{PeerKey, PeerTag};
use crate::io::quic::{Handler, JoinOutcome};
use crate::peer::Event;
use crate::volume::Volume;
use crate::volume::ports::{BoxFuture, ShardError};
use crate::wire::{ControlMessage, Failure, JoinRequest, Request, Response, ShardHeader};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

/// Answers the network with the store and the core.
pub struct PeerHandler {
    pub host: Arc<Host>,
    pub invitations: Arc<Invitations>,
    pub household: Arc<Household>,
    /// Set once the volume stands.
    pub volume: OnceLock<Volume>,
}

impl Handler for PeerHandler {
    fn connected(&self, peer: PeerTag) {
        tracing::info!(%peer, "connected");
        self.host.handle(Event::Connected(peer));
    }

    fn disconnected(&self, peer: PeerTag) {
        tracing::info!(%peer, "disconnected");
        self.host.handle(Event::Disconnected(peer));
    }

    fn datagram(&self, from: PeerTag, bytes: Bytes) {
        self.host.handle(Event::Datagram { from, bytes });
    }

    fn control(&self, from: PeerTag, message: ControlMessage) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.host.handle(Event::Control { from, message }) })
    }

    fn request(&self, _from: PeerTag, request: Request, body: Bytes) -> BoxFuture<'_, (Response, Bytes)> {
        Box::pin(async move {
            match request {
                Request::PutShard(header) => {
                    let stored = self.host.store().put(header.with(body)).await;
                    (stored.map_or_else(failed, |()| Response::Stored), Bytes::new())
                }
                Request::GetShard(id) => match self.host.store().get(id).await {
                    Ok(shard) => (Response::Shard(ShardHeader::of(&shard)), shard.bytes),
                    Err(error) => (failed(error), Bytes::new()),
                },
                Request::SyncShards => {
                    let synced = self.host.store().sync().await;
                    (synced.map_or_else(failed, |()| Response::Synced), Bytes::new())
                }
                Request::Stats => (Response::Stats(own_stats(&self.host)), Bytes::new()),
                Request::DropCaches => {
                    if let Some(volume) = self.volume.get() {
                        volume.drop_caches();
                    }
                    (Response::Done, Bytes::new())
                }
                Request::Lacking { read, .. } => {
                    let lacking = match crate::wire::decode_names(&body) {
                        Ok(ids) => self.host.store().lacking(ids, read).await,
                        Err(error) => Err(ShardError::Disk(error.to_string())),
                    };
                    match lacking {
                        Ok(ids) => (Response::Lacking { count: ids.len() as u16 }, crate::wire::encode_names(&ids)),
                        Err(error) => (failed(error), Bytes::new()),
                    }
                }
                Request::Suspect(id) => {
                    self.host.suspected(id);
                    (Response::Done, Bytes::new())
                }
                Request::Upkeep => {
                    (Response::Upkeep(self.household.upkeep(&self.host, self.volume.get())), Bytes::new())
                }
                Request::Hurry(haste) => {
                    self.household.hurry(&self.host, haste);
                    (Response::Done, Bytes::new())
                }
                Request::Open { .. } => match crate::wire::decode_inos(&body) {
                    Ok(mut inos) => {
                        inos.retain(|ino| self.volume.get().is_some_and(|volume| volume.is_open(*ino)));
                        (Response::Open { count: inos.len() as u16 }, crate::wire::encode_inos(&inos))
                    }
                    Err(error) => (Response::Error(Failure::Unavailable(error.to_string())), Bytes::new()),
                },
                // The transport answers it through `snapshot`.
                Request::Snapshot => (Response::Error(Failure::Unavailable("ask for its pieces".into())), Bytes::new()),
            }
        })
    }

    fn snapshot(&self, from: PeerTag) -> BoxFuture<'_, Vec<Bytes>> {
        Box::pin(async move {
            tracing::info!(peer = %from, "takes a snapshot, to go on from it");
            self.host.take_back(from);
            snapshot::pieces_of(&self.host).await.unwrap_or_else(|error| {
                tracing::error!("the snapshot cannot be encoded: {error}");
                Vec::new()
            })
        })
    }

    fn join(&self, from: PeerKey, _address: SocketAddr, request: JoinRequest) -> BoxFuture<'_, JoinOutcome> {
        Box::pin(invite::admit(&self.invitations, &self.host, from, request))
    }
}

fn failed(error: ShardError) -> Response {
    Response::Error(match error {
        ShardError::Missing { .. } => Failure::Missing,
        ShardError::Damaged { what, .. } => Failure::Damaged(what),
        ShardError::Full { .. } => Failure::Full,
        ShardError::Unreachable { why, .. } => Failure::Unavailable(why),
        ShardError::Disk(why) => Failure::Disk(why),
    })
}
