//! Searches in a share in memory: the real peers' core, everybody connected to everybody, with what the others told of
//! their stores.

use crate::id::{BlockName, PeerTag};
use crate::overlay::{Bloom, Piece, Search, SearchEffect, SearchEvent, SearchSettings};
use crate::volume::ports::ShardId;
use crate::volume::testing::Stores;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Who says to hold what of a block when `me` asks around. `stores`: what everybody holds that answers, and `me`.
pub fn ask_around(me: PeerTag, block: BlockName, stores: &Stores) -> Vec<(PeerTag, ShardId)> {
    let search = |(peer, seed): (&PeerTag, u64)| (*peer, Search::new(*peer, SearchSettings::meshed(), seed));
    let mut peers: BTreeMap<PeerTag, Search> = stores.keys().zip(0..).map(search).collect();
    let mut coming = VecDeque::new();
    for (peer, shards) in stores {
        let others = stores.keys().filter(|other| *other != peer);
        coming.extend(others.map(|other| (*peer, SearchEvent::Connected(*other))));
        coming.push_back((*peer, SearchEvent::Stored(Bloom::of(shards.iter().map(|id| id.block), 64))));
    }
    for _ in 0..3 {
        coming.extend(stores.keys().map(|peer| (*peer, SearchEvent::Tick(Duration::from_secs(10)))));
    }
    // What happens when no message is on its way any more: the question, and the ends of its rounds.
    let mut later = VecDeque::from([(me, SearchEvent::Ask { search: 0, block, hops: 1 })]);
    while let Some((at, event)) = coming.pop_front().or_else(|| later.pop_front()) {
        let Some(peer) = peers.get_mut(&at) else { continue };
        for effect in peer.handle(event) {
            match effect {
                SearchEffect::Send { to, message } => coming.push_back((to, SearchEvent::Heard { from: at, message })),
                SearchEffect::LookUp { query, block } => {
                    let held = stores[&at].iter().filter(|id| id.block == block);
                    let pieces = held.map(|id| Piece { geometry: id.geometry, index: id.index }).collect();
                    coming.push_back((at, SearchEvent::Holds { query, pieces }));
                }
                SearchEffect::SetTimer { timer, .. } => later.push_back((at, SearchEvent::Timer(timer))),
                SearchEffect::Ended { found, .. } => {
                    let shard = |piece: Piece| ShardId { block, geometry: piece.geometry, index: piece.index };
                    return found.into_iter().map(|(holder, piece)| (holder, shard(piece))).collect();
                }
            }
        }
    }
    unreachable!("a search ends with its last round")
}
