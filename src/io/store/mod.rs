//! The disk: a home, its op log, its checkpoint of the tree, its shards.
