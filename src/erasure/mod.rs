//! Blocks to shards and back.
