//! How this peer takes part in searches: what happens on its links goes in, messages and answers come out.

use super::{Effect, Peer, Timer};
use crate::id::BlockName;
use crate::namespace::Namespace;
use crate::overlay::{SearchEffect, SearchEvent};
use crate::volume::ports::ShardId;
use crate::wire::ControlMessage;

impl Peer {
    /// Starts a search. Where everybody on the roster is connected, one hop reaches all there are; else those who are
    /// connected ask on.
    pub(super) fn look_for(&mut self, namespace: &Namespace, search: u64, block: BlockName, effects: &mut Vec<Effect>) {
        let meshed = namespace.peers().all(|(peer, _)| peer == self.me || self.links.contains_key(&peer));
        let hops = if meshed { 1 } else { 2 };
        self.searching(SearchEvent::Ask { search, block, hops }, effects);
    }

    pub(super) fn searching(&mut self, event: SearchEvent, effects: &mut Vec<Effect>) {
        for effect in self.search.handle(event) {
            effects.push(match effect {
                SearchEffect::Send { to, message } => {
                    Effect::SendControl { to, message: ControlMessage::Search(message) }
                }
                SearchEffect::LookUp { query, block } => Effect::LookUp { query, block },
                SearchEffect::SetTimer { after, timer } => Effect::SetTimer { after, timer: Timer::Search(timer) },
                SearchEffect::Ended { search, block, found } => {
                    let shard =
                        |piece: crate::overlay::Piece| ShardId { block, geometry: piece.geometry, index: piece.index };
                    let found = found.into_iter().map(|(holder, piece)| (holder, shard(piece))).collect();
                    Effect::Searched { search, found }
                }
            });
        }
    }
}
