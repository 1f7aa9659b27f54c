//! Partial views: whom a peer keeps an eye on when the share is too large to watch everybody.
//!
//! The roster in the order of its tags, which are hashes and so drawn by chance, is a ring. Each peer watches those
//! nearest to it on either side, and whoever sits in a group with it. Both relations hold for both or for neither, so
//! that nobody is probed by a stranger. A peer is in as many views as it has in its own, and sends the same however
//! large the share is.

use crate::id::PeerTag;
use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

/// How many peers on each side are watched. A death stays unseen only while all that watch a peer are dead themselves:
/// of 16, never in practice. It also is the choice that a repair has among peers that do not sit in the group yet.
pub const VIEW_EACH_WAY: usize = 8;

/// The `each_way` nearest on either side of `me` on the ring of the roster; everybody else where there are no more.
pub fn neighbours(me: PeerTag, roster: &BTreeSet<PeerTag>, each_way: usize) -> BTreeSet<PeerTag> {
    let after = roster.range((Excluded(me), Unbounded)).chain(roster.range(..me));
    let before = roster.range(..me).rev().chain(roster.range((Excluded(me), Unbounded)).rev());
    after.take(each_way).chain(before.take(each_way)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_small_share_is_watched_whole() {
        let roster: BTreeSet<PeerTag> = (1..=6).map(PeerTag).collect();
        let others = |me| roster.iter().copied().filter(|peer| *peer != me).collect::<BTreeSet<_>>();
        assert!(roster.iter().all(|me| neighbours(*me, &roster, 8) == others(*me)));
        assert!(neighbours(PeerTag(1), &BTreeSet::from([PeerTag(1)]), 8).is_empty());
    }

    proptest! {
        #[test]
        fn who_watches_is_watched_and_nobody_is_left_out(tags in prop::collection::btree_set(1u32..1 << 24, 1..60), each_way in 1usize..6) {
            let roster: BTreeSet<PeerTag> = tags.into_iter().map(PeerTag).collect();
            for me in &roster {
                let view = neighbours(*me, &roster, each_way);
                prop_assert_eq!(view.len(), (2 * each_way).min(roster.len() - 1));
                for other in view {
                    prop_assert!(neighbours(other, &roster, each_way).contains(me));
                }
            }
        }
    }
}
