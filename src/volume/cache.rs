//! Decoded blocks in memory, checked against their names, bounded by bytes.

use crate::id::BlockName;
use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

/// What an entry takes besides the block's bytes.
const ENTRY_BYTES: u64 = 128;

#[derive(Clone)]
struct Bulk;

impl Weighter<BlockName, Bytes> for Bulk {
    fn weight(&self, _: &BlockName, block: &Bytes) -> u64 {
        block.len() as u64 + ENTRY_BYTES
    }
}

/// The blocks read or written last.
pub(super) struct BlockCache {
    blocks: Cache<BlockName, Bytes, Bulk>,
}

impl BlockCache {
    pub fn new(bytes: u64) -> BlockCache {
        // Each part of the cache must have room for some whole blocks.
        let shards = (bytes >> 24).clamp(1, 8) as usize;
        let items = (bytes >> 16).max(16) as usize;
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(items)
            .weight_capacity(bytes)
            .build()
            .expect("both capacities are given");
        let blocks = Cache::with_options(options, Bulk, DefaultHashBuilder::default(), DefaultLifecycle::default());
        BlockCache { blocks }
    }

    pub fn get(&self, name: &BlockName) -> Option<Bytes> {
        self.blocks.get(name)
    }

    pub fn has(&self, name: &BlockName) -> bool {
        self.blocks.contains_key(name)
    }

    pub fn insert(&self, name: BlockName, block: Bytes) {
        self.blocks.insert(name, block);
    }

    pub fn clear(&self) {
        self.blocks.clear();
    }
}
