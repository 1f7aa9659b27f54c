//! QUIC between peers: mutual TLS, datagrams, streams.
