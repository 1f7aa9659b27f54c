//! QUIC between peers: mutual TLS, datagrams, streams.
//!
//! [`Network`] keeps one connection to every peer on the roster and redials what is lost. On each connection
//! there is one ordered control stream in each direction, a stream of its own for every request, and datagrams
//! for membership. What arrives goes to a [`Handler`]; nothing here knows what it means. Who a peer is, is its
//! key alone: addresses are only hints where to dial.

mod accept;
mod call;
mod dial;
mod identity;
mod join;
mod link;
mod network;
mod peer;
mod serve;
mod settings;
mod socket;
mod stream;
mod tls;
mod traffic;
mod transport;

#[cfg(test)]
mod tests;

pub use call::RequestError;
pub use identity::{Identity, IdentityError};
pub use join::{JoinError, join};
pub use network::{Network, NetworkError, RosterPeer, SendError};
pub use settings::Settings;
pub use traffic::Traffic;

use crate::id::{PeerKey, PeerTag};
use crate::volume::ports::BoxFuture;
use crate::wire::{ControlMessage, JoinRefusal, JoinRequest, JoinWelcome, Request, Response};
use bytes::Bytes;
use std::net::SocketAddr;

/// Who acts on what arrives. The calls that are not `async` run on the network's own tasks: they must return at
/// once, may call the network's sending methods, and must not call `set_roster` or `shutdown`.
pub trait Handler: Send + Sync + 'static {
    /// A connection to the peer is up. Said again without `disconnected` when another connection takes the place
    /// of the first: what was sent on that one may be lost, so begin anew with `Hello`.
    fn connected(&self, peer: PeerTag);

    /// The last connection to the peer is gone.
    fn disconnected(&self, peer: PeerTag);

    /// A membership datagram.
    fn datagram(&self, from: PeerTag, bytes: Bytes);

    /// The next control message of this peer, in the order it was sent; the one after it is not read before
    /// this returns.
    fn control(&self, from: PeerTag, message: ControlMessage) -> BoxFuture<'_, ()>;

    /// A request with the bytes that followed it; many at a time. The bytes returned must be as many as
    /// [`Response::body_bytes`] says. [`Request::Snapshot`] goes to `snapshot`.
    fn request(&self, from: PeerTag, request: Request, body: Bytes) -> BoxFuture<'_, (Response, Bytes)>;

    /// The pieces of a snapshot, each at most [`crate::wire::MAX_CHUNK_BYTES`].
    fn snapshot(&self, from: PeerTag) -> BoxFuture<'_, Vec<Bytes>>;

    /// A machine with a ticket asks to be admitted. Its session proves that it has the key `from`, and the
    /// record carries the same key; everything else is for this method to check.
    fn join(&self, from: PeerKey, address: SocketAddr, request: JoinRequest) -> BoxFuture<'_, JoinOutcome>;
}

/// What an inviter says to a joiner: the welcome and the snapshot's pieces, or why not.
pub type JoinOutcome = Result<(JoinWelcome, Vec<Bytes>), JoinRefusal>;

/// The protocol between peers of the roster.
const ALPN_PEER: &[u8] = b"shoal/1";
/// The protocol of the join handshake, which any key may speak and which carries nothing else.
const ALPN_JOIN: &[u8] = b"shoal-join/1";

/// Why a connection was closed, as the other side sees it.
mod code {
    use quinn::VarInt;

    pub const LEAVING: VarInt = VarInt::from_u32(0);
    pub const NOT_ADMITTED: VarInt = VarInt::from_u32(1);
    pub const REPLACED: VarInt = VarInt::from_u32(2);
    pub const PROTOCOL: VarInt = VarInt::from_u32(3);
    pub const OVERFLOW: VarInt = VarInt::from_u32(4);
    pub const REMOVED: VarInt = VarInt::from_u32(5);
    pub const BUSY: VarInt = VarInt::from_u32(6);
    pub const SLOW: VarInt = VarInt::from_u32(7);
}
