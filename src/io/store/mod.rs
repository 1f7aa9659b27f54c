//! The disk: a home, its op log, its checkpoint of the tree, its shards.
//!
//! [`Home`] is a peer's directory: it holds the lock, the key and the paths of everything else. [`OpLog`] makes ops
//! durable as they come, [`TreeFile`] holds the tree at some vector so that the log can be cut, [`Shards`] is
//! the store of content. `docs/format.md` gives every byte of them.

mod error;
mod home;
mod log;
mod shards;
mod sys;

pub use sys::write_whole;
mod tree;

pub use error::StoreError;
pub use home::{FORMAT, Home, HomePaths};
pub use log::{LogPosition, OpLog, RECORD_BYTES, Recovery};
pub use shards::{CODE, Shards, ShardsOptions, default_reserve};
pub use tree::{Tree, TreeFile};
