//! Blocks to shards and back. Pure: bytes in, bytes out.
//!
//! A block is cut into `data` equal slices, the last padded with zeros, and `parity` more are computed; any
//! `data` of them give the block back. With `data` = 1 every shard is the block itself. What comes out of
//! [`Codec::decode`] is not checked against the block's name: the caller does that, for it has to decide
//! which shards to try instead.

mod codec;
mod cpu;

pub use codec::{CODE_ID, Codec, CodecError};
pub use cpu::check_cpu;
