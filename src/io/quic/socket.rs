//! The UDP socket, with its batches kept within what the kernel takes.

use super::settings::Settings;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The most payload of one UDP datagram, and so of one batch of them handed to the kernel in one call.
const DATAGRAM_BYTES: usize = 65_507;

/// Sends batches that fit one call. The kernel refuses a larger one whole, which quinn takes for lost packets:
/// ten packets of jumbo frames, its usual batch, are too much.
#[derive(Debug)]
pub(super) struct BatchedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    send: usize,
    receive: usize,
}

impl BatchedSocket {
    /// A socket bound to `address`. Must be called in a tokio runtime.
    pub(super) fn bind(settings: &Settings, address: SocketAddr) -> io::Result<Arc<BatchedSocket>> {
        let inner = TokioRuntime.wrap_udp_socket(socket(settings, address)?)?;
        let mtu = usize::from(settings.mtu).max(1);
        let most = if settings.gso { DATAGRAM_BYTES / mtu } else { 1 };
        let send = inner.max_transmit_segments().min(most.max(1));
        // A batch received is as large as one datagram may be, whatever its packets' size: more room is never used.
        let receive = inner.max_receive_segments().min((1usize << 16).div_ceil(mtu));
        Ok(Arc::new(BatchedSocket { inner, send, receive }))
    }
}

fn socket(settings: &Settings, address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    for set in [socket2::Socket::set_recv_buffer_size, socket2::Socket::set_send_buffer_size] {
        if let Err(error) = set(&socket, settings.socket_buffer) {
            tracing::warn!(%error, "the socket keeps its default buffers: bulk transfers may be slow");
        }
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

impl AsyncUdpSocket for BatchedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.send
    }

    fn max_receive_segments(&self) -> usize {
        self.receive
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_are_handed_over_one_by_one_where_that_is_set() {
        let bound = |gso| {
            let settings = Settings { gso, mtu: 1400, ..Settings::default() };
            BatchedSocket::bind(&settings, "127.0.0.1:0".parse().unwrap()).unwrap().max_transmit_segments()
        };
        assert_eq!(bound(false), 1);
        assert!(bound(true) > 1, "Linux takes many");
    }
}
