//! Sums up what the store holds, for the others' searches.

use super::Daemon;
use crate::id::BlockName;
use crate::overlay::Bloom;
use crate::peer::Event;
use std::sync::Weak;
use std::time::Duration;
use tokio::time::Instant;

/// From the end of one look at the store to the next.
const ROUND: Duration = Duration::from_secs(10);

/// Bytes of the smallest summary: right for fifty blocks.
const LEAST_BYTES: usize = 64;

/// Keeps the core told of the blocks that the store has shards of, while the daemon lives. A search asks everybody in
/// the end, so nothing is lost where a change is told late.
pub async fn keep(daemon: Weak<Daemon>) {
    let mut told = None;
    loop {
        let Some(this) = daemon.upgrade() else { return };
        let started = Instant::now();
        let (host, store) = (this.host.clone(), this.host.store().clone());
        drop(this);
        // The bytes it takes tell whether it changed, without a walk over all there is.
        let stored = store.usage().stored;
        if told != Some(stored) {
            let summed_up = tokio::task::spawn_blocking(move || {
                let mut names: Vec<BlockName> = store.held().into_iter().map(|(id, _)| id.block).collect();
                names.sort_unstable();
                names.dedup();
                Bloom::of(names.into_iter(), LEAST_BYTES)
            });
            if let Ok(names) = summed_up.await {
                host.handle(Event::Stored(names));
                told = Some(stored);
            }
        }
        drop(host);
        // However large the store is, most of the time goes to other things.
        tokio::time::sleep(ROUND.max(started.elapsed() * 10)).await;
    }
}
