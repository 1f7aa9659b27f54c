//! Directories that two sides gave one name become one: one peer of those that see one another says so, once it has
//! heard the others.

use super::{Effect, Peer};
use crate::namespace::{Applied, Namespace};
use crate::time::WallTime;

/// The most directories in one go; the next tick goes on.
const MERGES_AT_ONCE: usize = 64;

impl Peer {
    /// On a tick: has directories whose names clash become one, where this peer is the one to say so.
    pub(super) fn merge_directories(&mut self, namespace: &mut Namespace, now: WallTime, effects: &mut Vec<Effect>) {
        if !self.clashes || !self.ready {
            return;
        }
        let first = namespace.peers().map(|(peer, _)| peer).find(|peer| self.is_alive(*peer));
        // What a side did to its own directory before the two met comes first.
        let heard = |theirs| namespace.vector().covers(theirs);
        if first != Some(self.me) || !self.links.values().all(|link| !link.greeted || heard(&link.theirs)) {
            return;
        }
        let changes = namespace.merges(now, MERGES_AT_ONCE);
        self.clashes = false;
        if !changes.is_empty() {
            let Applied { ops, touched } = namespace.change(self.author(), now, changes);
            self.accepted(namespace, ops, &touched, None, effects);
            // No program here asked for it: the mount is told as of what others did.
            effects.push(Effect::Invalidate(touched));
        }
    }
}
