//! A file's life between the kernel and the shards.

pub mod ports;
