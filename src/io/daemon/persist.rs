//! The namespace on disk: the tree at the stable frontier, and the log of what came since.

use super::host::Host;
use super::snapshot::CheckpointMark;
use crate::id::PeerTag;
use crate::io::store::{Home, OpLog, TreeFile};
use crate::namespace::{Checkpoint, Namespace, Op, Snapshot};
use crate::volume::ports::Control;
use anyhow::Context;
use parking_lot::Mutex;
use std::sync::Arc;

/// The log may grow to this many bytes before a checkpoint lets it be cut. A restart reads the log at hundreds of
/// MiB a second, so this keeps it within a moment.
const LOG_BYTES: u64 = 32 << 20;
/// Ops that are replayed in one go at a start.
const REPLAY_OPS: usize = 4096;

/// The tree file and the log of a home.
pub struct Persistence {
    log: Arc<OpLog>,
    tree: Arc<Mutex<TreeFile>>,
    /// Bytes of the log after the last checkpoint: what could not be cut then is not tried again at once.
    kept: Mutex<u64>,
}

impl Persistence {
    /// Reads the namespace of a home.
    pub fn open(home: &Home, me: PeerTag) -> anyhow::Result<(Namespace, Persistence)> {
        let tree = TreeFile::open(&home.paths().tree())?;
        let mut namespace = match tree.load()? {
            None => Namespace::new(),
            Some(saved) => {
                let mark: CheckpointMark = postcard::from_bytes(&saved.meta).with_context(|| {
                    format!(
                        "{} is damaged; let this machine join anew with another --home",
                        home.paths().tree().display()
                    )
                })?;
                Namespace::restore(Snapshot {
                    base: saved.records,
                    vector: mark.vector,
                    frontier: mark.frontier,
                    ops: Vec::new(),
                })?
            }
        };
        let mut waiting: Vec<Op> = Vec::new();
        let mut failed = None;
        let mut replay = |ops: Vec<Op>| {
            if failed.is_none()
                && let Err(error) = namespace.receive(ops, crate::time::WallTime(i64::MAX))
            {
                failed = Some(error);
            }
        };
        let (log, recovery) = OpLog::open(&home.paths().log(), |ops| {
            waiting.extend(ops);
            if waiting.len() >= REPLAY_OPS {
                replay(std::mem::take(&mut waiting));
            }
        })?;
        replay(waiting);
        if let Some(error) = failed {
            anyhow::bail!(
                "the op log of {} does not fit its tree: {error}; let this machine join anew with another --home",
                home.paths().root().display()
            );
        }
        if recovery.torn > 0 {
            tracing::warn!(
                "the last {} bytes of the op log were torn, as by a power cut, and are cut off",
                recovery.torn
            );
        }
        namespace.set_me(me);
        let kept = Mutex::new(0);
        Ok((namespace, Persistence { log: Arc::new(log), tree: Arc::new(Mutex::new(tree)), kept }))
    }

    /// Writes a namespace that was just received into a new home.
    pub fn found(home: &Home, me: PeerTag, snapshot: &Snapshot) -> anyhow::Result<()> {
        let tree = TreeFile::open(&home.paths().tree())?;
        let mark = CheckpointMark { me, vector: snapshot.vector.clone(), frontier: snapshot.frontier };
        let records = snapshot.base.iter().map(|(key, record)| (key.clone(), Some(record.clone())));
        tree.save(records, &postcard::to_stdvec(&mark)?)?;
        let (log, _) = OpLog::open(&home.paths().log(), |_| {})?;
        for ops in snapshot.ops.chunks(REPLAY_OPS / 4) {
            log.append(ops)?;
        }
        drop(log);
        Ok(())
    }

    /// The log that changes are appended to.
    pub fn log(&self) -> &Arc<OpLog> {
        &self.log
    }

    /// Saves what became stable and cuts the log, if the log has grown enough for that (`always`: anyway).
    pub async fn checkpoint(&self, host: &Host, always: bool) -> anyhow::Result<()> {
        if !always && self.log.bytes() < *self.kept.lock() + LOG_BYTES {
            return Ok(());
        }
        let Checkpoint { changed, vector, frontier } = host.with_namespace_mut(Namespace::checkpoint);
        let mark = postcard::to_stdvec(&CheckpointMark { me: host.me(), vector: vector.clone(), frontier })?;
        let (log, tree) = (self.log.clone(), self.tree.clone());
        let saved = tokio::task::spawn_blocking(move || {
            tree.lock().save(changed, &mark)?;
            log.trim(&vector)
        });
        if let Err(error) = saved.await? {
            // The records of this checkpoint are no longer marked as changed: no later one would have them.
            tracing::error!(
                "the checkpoint of the tree failed: {error}; this peer stops, and reads its log again at the next start"
            );
            std::process::abort();
        }
        *self.kept.lock() = self.log.bytes();
        Ok(())
    }
}
