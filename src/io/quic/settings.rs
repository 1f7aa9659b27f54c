//! What may be set about the network, with defaults for a LAN.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Settings of a [`super::Network`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen; port 0 draws one. An IPv6 wildcard takes IPv4 too.
    pub listen: SocketAddr,
    /// The largest UDP payload to try on a path. Jumbo frames carry 8952, loopback more; paths other than loopback
    /// are probed from 1200 up. Larger packets cost less processor time per byte: 0.9 s per GiB, both ends
    /// together, at 8952 over loopback, 2.3 s at 1452, and nothing is gained past 13000.
    pub mtu: u16,
    /// Whether the kernel may be handed several packets in one call (generic segmentation offload).
    pub gso: bool,
    /// Bytes of the socket's buffers. What does not fit them is lost and sent again, which looks like a bad
    /// network; the kernel may grant less (`net.core.rmem_max`).
    pub socket_buffer: usize,
    /// How often an idle connection says that it is there.
    pub keep_alive: Duration,
    /// A connection that hears nothing for this long is gone.
    pub idle_timeout: Duration,
    /// Bytes of control messages that may wait for a peer; beyond, its connection is dropped, and the exchange
    /// of vectors on the next one repairs what was lost.
    pub control_queue: usize,
    /// A put, get or join that makes no progress for this long has failed.
    pub request_stall: Duration,
    /// A sync that is not answered for this long has failed; disks flush slowly under load.
    pub sync_deadline: Duration,
    /// Bytes of shards being received for all peers together.
    pub receive_memory: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 7400)),
            mtu: 8952,
            gso: true,
            socket_buffer: 8 << 20,
            keep_alive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(5),
            control_queue: 64 << 20,
            request_stall: Duration::from_secs(3),
            sync_deadline: Duration::from_secs(30),
            receive_memory: 64 << 20,
        }
    }
}
