//! A check of everything on request: this peer's tree, and every shard in every store that is there.

use super::Daemon;
use crate::io::control::{CheckReport, ProgressSink};
use crate::volume::ShardsFound;
use crate::volume::ports::Control;

impl Daemon {
    /// Goes through all of it; `read`: every shard is read, too.
    pub(super) async fn check(&self, read: bool, progress: &ProgressSink) -> CheckReport {
        progress.report("the tree", 0, 0);
        let (mut findings, files) = tokio::task::block_in_place(|| {
            let namespace = self.host.namespace();
            let findings: Vec<String> = namespace.examine().into_iter().chain(namespace.unknown_blocks()).collect();
            (findings, namespace.files())
        });
        let doing = if read { "reading the shards of every group" } else { "the shards of every group" };
        let found = self.volume.find_shards(read, |done, total| progress.report(doing, done, total)).await;
        let ShardsFound { blocks, shards, missing, named, unreadable, silent } = found;
        let namespace = self.host.namespace();
        let name = |peer| namespace.peer(peer).map_or_else(|| peer.to_string(), |record| record.name.clone());
        for (peer, id) in named {
            findings.push(format!("shard {} of block {} is not on {}", id.index, id.block, name(peer)));
        }
        // What lies on machines that are away is not known to be lost.
        if unreadable > 0 && silent.is_empty() {
            findings.push(format!("of {unreadable} blocks too few shards are there"));
        }
        CheckReport {
            sound: findings.is_empty() && missing == 0,
            files: files.files,
            directories: files.directories,
            blocks,
            shards,
            shards_missing: missing,
            blocks_unreadable: unreadable,
            silent: silent.into_iter().map(name).collect(),
            findings,
        }
    }
}
