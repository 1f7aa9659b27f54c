//! Going on from a snapshot, where the others' logs no longer reach back to what this peer has.

use super::{Daemon, snapshot};
use crate::id::PeerTag;
use crate::namespace::Namespace;
use crate::peer::Event;
use crate::volume::ports::Control;
use anyhow::Context;
use std::sync::Arc;
use std::time::Duration;

/// The longest that a piece of the snapshot makes no progress, or that its maker takes to make it.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(30);

impl Daemon {
    /// Fetches a snapshot whenever the core asks for one.
    pub(super) fn rebase_when_outdated(&self) {
        let this = self.this.clone();
        let runtime = tokio::runtime::Handle::current();
        self.host.on_outdated(Box::new(move |from| {
            let Some(daemon) = this.upgrade() else { return };
            runtime.spawn(async move {
                if let Err(error) = daemon.clone().rebase_on(from).await {
                    tracing::warn!("going on from a snapshot did not succeed: {error:#}; it is tried again");
                    daemon.host.handle(Event::SnapshotFailed);
                }
            });
        }));
    }

    async fn rebase_on(self: Arc<Self>, from: PeerTag) -> anyhow::Result<()> {
        let name = self.host.namespace().peer(from).map_or_else(|| from.to_string(), |record| record.name.clone());
        tracing::info!(
            "what this machine has is too old, or from a clock that was ahead: it goes on from a snapshot of {name}"
        );
        let network = self.host.network().context("there is no network yet")?.clone();
        let pieces = network.fetch_snapshot(from, PROGRESS_DEADLINE).await?;
        let snapshot = snapshot::from_chunks(pieces)?;
        // No checkpoint may come in between; the disk is written while everything else goes on.
        let this = self.clone();
        let turn = self.persistence.turn().await;
        let rebased = tokio::task::spawn_blocking(move || {
            let next = this.persistence.prepare(this.host.me(), &snapshot)?;
            let fresh = Namespace::restore(snapshot)?;
            this.host.rebase(fresh, |ops| this.persistence.replace(next, ops))
        });
        let carried = rebased.await??;
        drop(turn);
        tracing::info!("this machine is up to date with {name}; {carried} changes that only it had were made anew");
        Ok(())
    }
}
