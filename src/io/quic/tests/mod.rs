//! The network over loopback: real sockets, real TLS.

mod harness;
mod joining;
mod requests;
mod roster;
