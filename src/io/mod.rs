//! Devices: one each, none of which imports another; `daemon` wires them.

pub mod control;
pub mod daemon;
pub mod fuse;
pub mod quic;
pub mod store;
