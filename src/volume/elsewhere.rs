//! Shards that no record leads to: a group's record may be out of date here, or wrong, while the shards are alive
//! somewhere. Then whoever says to have some is asked for them. What comes is checked like everything else: a liar
//! delays, and changes nothing.

use super::Volume;
use super::fetch::{Asked, Wanted};
use super::ports::ShardId;
use crate::id::PeerTag;
use crate::namespace::NewBlock;
use crate::policy::Geometry;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

impl Volume {
    /// Searches for a block's shards, and gets the block from those who said to hold some. `None` when they say nothing
    /// new, or it is too little.
    pub(super) async fn fetch_elsewhere(
        &self,
        block: NewBlock,
        hedge: Duration,
        deadline: Instant,
        asked: &mut Asked,
    ) -> Option<Bytes> {
        let inner = &self.inner;
        let me = inner.control.me();
        let mut found: BTreeSet<(PeerTag, ShardId)> =
            timeout_at(deadline, inner.control.search(block.name)).await.ok()?.into_iter().collect();
        found.extend(inner.store.holding(block.name).into_iter().map(|id| (me, id)));
        let known = self.wanted(block);
        let (group, len) = known.as_ref().map_or((block.group, block.len), |wanted| (wanted.group, wanted.len));
        // The participants are being asked already: it takes somebody else to make a difference.
        let seated = |geometry: Geometry, source: &(u8, PeerTag)| {
            known.as_ref().is_some_and(|known| known.geometry == geometry && known.sources.contains(source))
        };
        let mut sources: BTreeMap<Geometry, Vec<(u8, PeerTag)>> = BTreeMap::new();
        for (peer, id) in found.into_iter().filter(|(_, id)| id.block == block.name) {
            sources.entry(id.geometry).or_default().push((id.index, peer));
        }
        sources.retain(|geometry, sources| {
            let different: BTreeSet<u8> = sources.iter().map(|(index, _)| *index).collect();
            different.len() >= usize::from(geometry.data) && sources.iter().any(|one| !seated(*geometry, one))
        });
        for (geometry, sources) in sources {
            let sources = self.soonest_first(sources);
            let wanted = Wanted { name: block.name, group, geometry, len, sources };
            if let Some(bytes) = self.fetch_once(wanted, hedge, deadline, asked).await {
                return Some(bytes);
            }
        }
        None
    }
}
