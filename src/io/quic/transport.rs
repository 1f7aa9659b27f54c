//! How QUIC is set up: windows, packet sizes, deadlines; dialling one address.

use super::identity::{Identity, SERVER_NAME};
use super::network::NetworkError;
use super::settings::Settings;
use super::socket::BatchedSocket;
use super::tls;
use crate::id::PeerKey;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What may be in flight on one stream, and on one connection.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Requests at a time on one connection.
const STREAMS: u32 = 256;
/// What a caller may send before its key was looked up.
const STRANGER_WINDOW: u32 = 128 << 10;
/// The payload every QUIC path carries.
const SMALLEST_MTU: u16 = 1200;
/// The payload that loopback is used with at once. More is probed for: QUIC's handshake cannot carry packets
/// over 16 KiB.
const NEAR_MTU: u16 = 8952;
/// How long one address is tried.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error(
        "the peer at {address} has the key {found}, not {expected} as was expected: it is not the peer that was meant"
    )]
    WrongKey { address: SocketAddr, expected: PeerKey, found: PeerKey },
    #[error("{address}: {why}")]
    Failed { address: SocketAddr, why: String },
}

/// Makes configurations for dials and for answers.
pub(super) struct Transport {
    identity: Identity,
    near: Arc<TransportConfig>,
    far: Arc<TransportConfig>,
    near_answer: Arc<quinn::ServerConfig>,
}

impl Transport {
    pub(super) fn new(settings: &Settings, identity: &Identity) -> Result<Transport, NetworkError> {
        Ok(Transport {
            identity: identity.clone(),
            near: Arc::new(transport(settings, settings.mtu.min(NEAR_MTU))),
            far: Arc::new(transport(settings, SMALLEST_MTU)),
            near_answer: Arc::new(server(settings, identity, settings.mtu.min(NEAR_MTU))?),
        })
    }

    /// The answer's configuration for a caller at this address, where it differs from the endpoint's: loopback
    /// carries large packets at once.
    pub(super) fn answer(&self, from: IpAddr) -> Option<Arc<quinn::ServerConfig>> {
        from.to_canonical().is_loopback().then(|| self.near_answer.clone())
    }

    /// Dials one address, where only `expected` may answer.
    pub(super) async fn dial(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
        expected: PeerKey,
        alpn: &[u8],
    ) -> Result<Connection, DialError> {
        let failed = |why: String| DialError::Failed { address, why };
        let found = Arc::new(OnceLock::new());
        let tls =
            tls::client(&self.identity, expected, alpn, found.clone()).map_err(|error| failed(error.to_string()))?;
        let tls = QuicClientConfig::try_from(tls).map_err(|error| failed(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        let near = address.ip().to_canonical().is_loopback();
        config.transport_config(if near { self.near.clone() } else { self.far.clone() });
        let connecting =
            endpoint.connect_with(config, address, SERVER_NAME).map_err(|error| failed(error.to_string()))?;
        match tokio::time::timeout(HANDSHAKE, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => match found.get() {
                Some(&found) if found != expected => Err(DialError::WrongKey { address, expected, found }),
                _ => Err(failed(reason(&error))),
            },
            Err(_) => Err(failed(format!("no answer within {HANDSHAKE:?}"))),
        }
    }
}

/// The endpoint that listens and dials.
pub(super) fn listen(settings: &Settings, identity: &Identity) -> Result<Endpoint, NetworkError> {
    let server = server(settings, identity, SMALLEST_MTU)?;
    endpoint(settings, settings.listen, Some(server), identity)
}

/// An endpoint that only dials.
pub(super) fn dialler(settings: &Settings, identity: &Identity) -> Result<Endpoint, NetworkError> {
    endpoint(settings, SocketAddr::new(settings.listen.ip(), 0), None, identity)
}

fn server(settings: &Settings, identity: &Identity, initial_mtu: u16) -> Result<quinn::ServerConfig, NetworkError> {
    let tls = tls::server(identity).map_err(|error| NetworkError::Tls(error.to_string()))?;
    let tls = QuicServerConfig::try_from(tls).map_err(|error| NetworkError::Tls(error.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(stranger(settings, initial_mtu)));
    config.max_incoming(256).incoming_buffer_size(64 << 10).incoming_buffer_size_total(4 << 20);
    Ok(config)
}

fn endpoint(
    settings: &Settings,
    address: SocketAddr,
    server: Option<quinn::ServerConfig>,
    identity: &Identity,
) -> Result<Endpoint, NetworkError> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => NetworkError::InUse { address },
        _ => NetworkError::Bind { address, error },
    };
    let socket = BatchedSocket::bind(settings, address).map_err(failed)?;
    let mut config = EndpointConfig::new(Arc::new(reset_key(identity)));
    config
        .max_udp_payload_size(settings.mtu.clamp(SMALLEST_MTU, 65_527))
        .map_err(|_| NetworkError::Tls("MTU".into()))?;
    Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(quinn::TokioRuntime)).map_err(failed)
}

/// The key by which a restarted peer resets the connections of its former run: the others then know at once
/// and need not wait for the idle timeout.
fn reset_key(identity: &Identity) -> ring::hmac::Key {
    use sha2::Digest;
    let seed = sha2::Sha256::new().chain_update(b"shoal stateless reset 1").chain_update(identity.pkcs8()).finalize();
    ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &seed)
}

fn transport(settings: &Settings, initial_mtu: u16) -> TransportConfig {
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(settings.mtu.max(SMALLEST_MTU));
    let idle = IdleTimeout::try_from(settings.idle_timeout).unwrap_or_else(|_| VarInt::from_u32(5_000).into());
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(1))
        .initial_mtu(initial_mtu)
        .mtu_discovery_config(Some(discovery))
        // A LAN answers long before the 333 ms of the specification: first packets lost are repeated sooner.
        .initial_rtt(Duration::from_millis(100))
        .keep_alive_interval(Some(settings.keep_alive))
        .max_idle_timeout(Some(idle));
    transport
}

/// How a caller is treated before its key was looked up: it may open one stream of each kind and send little.
fn stranger(settings: &Settings, initial_mtu: u16) -> TransportConfig {
    let mut transport = transport(settings, initial_mtu);
    transport
        .receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .datagram_receive_buffer_size(Some(STRANGER_WINDOW as usize));
    transport
}

/// Lifts the limits of a caller whose key is on the roster.
pub(super) fn admit(connection: &Connection) {
    connection.set_receive_window(VarInt::from_u32(CONNECTION_WINDOW));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS));
}

/// The key at the other end, and the protocol agreed on.
pub(super) fn parties(connection: &Connection) -> Option<(PeerKey, Vec<u8>)> {
    let certificates = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let key = tls::key_of(certificates.first()?).ok()?;
    let data = connection.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    Some((key, data.protocol?))
}

/// What a closed connection's error says to a person.
pub(super) fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => String::from_utf8_lossy(&close.reason).into_owned(),
        ConnectionError::TimedOut => "it fell silent".to_owned(),
        ConnectionError::Reset => "it restarted".to_owned(),
        other => other.to_string(),
    }
}
