//! The namespace on disk: the tree at the stable frontier, and the log of what came since.

use super::host::Host;
use super::snapshot::{CheckpointMark, Replaced, decode_mark, encode_mark};
use crate::id::PeerTag;
use crate::io::store::{Home, HomePaths, OpLog, TreeFile};
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
    paths: HomePaths,
    /// Bytes of the log after the last checkpoint: what could not be cut then is not tried again at once.
    kept: Mutex<u64>,
    /// Held by whoever writes the tree: what changed in one tree must not go to another.
    turn: tokio::sync::Mutex<()>,
}

/// A tree that is to take the place of the one that is there.
pub struct NextTree {
    file: TreeFile,
    mark: CheckpointMark,
    /// The snapshot's ops above its records.
    ops: Vec<Op>,
}

impl Persistence {
    /// Reads the namespace of a home.
    pub fn open(home: &Home, me: PeerTag) -> anyhow::Result<(Namespace, Persistence)> {
        let tree = TreeFile::open(&home.paths().tree())?;
        let mut replaced = None;
        let mut namespace = match tree.load()? {
            None => Namespace::new(),
            Some(saved) => {
                if !OpLog::is_there(&home.paths().log())? {
                    anyhow::bail!(
                        "the home is damaged: the op log {} is gone, and with it what this machine did last; put it back, or remove {} as well and run shoal join TICKET with a ticket from another machine, and this one comes back as the same peer with what the others have",
                        home.paths().log().display(),
                        home.paths().tree().display()
                    );
                }
                let (mark, follows) = decode_mark(&saved.meta).with_context(|| {
                    format!(
                        "{} is damaged; let this machine join anew with another --home",
                        home.paths().tree().display()
                    )
                })?;
                let ops = follows.as_ref().map_or_else(Vec::new, |replaced: &Replaced| replaced.ops.clone());
                replaced = follows.map(|replaced| (mark.clone(), replaced));
                let CheckpointMark { vector, frontier, .. } = mark;
                Namespace::restore(Snapshot { base: saved.records, vector, frontier, ops })?
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
        let log_from = replaced.as_ref().map_or(0, |(_, replaced)| replaced.log_from);
        let (log, recovery) = OpLog::open_from(&home.paths().log(), log_from, |ops| {
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
        if let Some((mark, replaced)) = replaced {
            settle(&log, &tree, &mark, &replaced)?;
        }
        namespace.set_me(me);
        let (tree, paths) = (Arc::new(Mutex::new(tree)), home.paths().clone());
        let (kept, turn) = (Mutex::new(0), tokio::sync::Mutex::new(()));
        Ok((namespace, Persistence { log: Arc::new(log), tree, paths, kept, turn }))
    }

    /// Writes a namespace that was just received into a new home.
    pub fn found(home: &Home, me: PeerTag, snapshot: &Snapshot) -> anyhow::Result<()> {
        let tree = TreeFile::open(&home.paths().tree())?;
        let mark = CheckpointMark { me, vector: snapshot.vector.clone(), frontier: snapshot.frontier };
        let records = snapshot.base.iter().map(|(key, record)| (key.clone(), Some(record.clone())));
        tree.save(records, &encode_mark(&mark, None)?)?;
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
        let _turn = self.turn.lock().await;
        let Checkpoint { changed, vector, frontier } = host.with_namespace_mut(Namespace::checkpoint);
        let mark = encode_mark(&CheckpointMark { me: host.me(), vector: vector.clone(), frontier }, None)?;
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

    /// Keeps checkpoints away for as long as it is held.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Writes the records of a snapshot to a file of their own. Waits for the disk.
    pub fn prepare(&self, me: PeerTag, snapshot: &Snapshot) -> anyhow::Result<NextTree> {
        let path = self.paths.next_tree();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{} cannot be removed", path.display()));
            }
            _ => {}
        }
        let file = TreeFile::open(&path)?;
        let mark = CheckpointMark { me, vector: snapshot.vector.clone(), frontier: snapshot.frontier };
        let records = snapshot.base.iter().map(|(key, record)| (key.clone(), Some(record.clone())));
        file.save(records, &encode_mark(&mark, None)?)?;
        Ok(NextTree { file, mark, ops: snapshot.ops.clone() })
    }

    /// Puts a prepared tree, and these ops on top of its own, in the place of what is on disk: after a crash all of it is
    /// there, or all of what was before. Nothing may be appended to the log meanwhile. Waits for the disk.
    pub fn replace(&self, next: NextTree, ops: &[Op]) -> anyhow::Result<()> {
        let NextTree { mut file, mark, ops: mut above } = next;
        above.extend_from_slice(ops);
        let replaced = Replaced { log_from: self.log.cut()?, ops: above };
        file.save([], &encode_mark(&mark, Some(&replaced))?)?;
        file.replace(&self.paths.tree())?;
        settle(&self.log, &file, &mark, &replaced)?;
        *self.tree.lock() = file;
        *self.kept.lock() = self.log.bytes();
        Ok(())
    }
}

/// Brings the ops of a tree that took the place of another to the log, so that the tree need not have them.
fn settle(log: &OpLog, tree: &TreeFile, mark: &CheckpointMark, replaced: &Replaced) -> anyhow::Result<()> {
    for ops in replaced.ops.chunks(REPLAY_OPS / 4) {
        log.append(ops)?;
    }
    log.cut()?;
    log.drop_before(replaced.log_from)?;
    tree.save([], &encode_mark(mark, None)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Author, PeerKey, ShareId};
    use crate::namespace::{Change, PeerRecord};
    use crate::time::WallTime;
    use std::path::Path;

    fn admit(n: u8) -> Change {
        let (key, name) = (PeerKey([n; 32]), format!("m{n}"));
        Change::Admit { peer: PeerRecord { key, name, addresses: vec![], zone: String::new(), host: String::new() } }
    }

    fn me() -> PeerTag {
        PeerKey([1; 32]).tag()
    }

    fn made(namespace: &mut Namespace, epoch: u8, n: u8) -> Vec<Op> {
        namespace.change(Author::new(me(), epoch), WallTime(1 << 60), vec![admit(n)]).ops
    }

    /// A home with some ops in its log, and a namespace that is to take their place, with ops on top of it.
    fn home(path: &Path) -> (Home, Snapshot, Vec<Op>) {
        let home = Home::create(path, ShareId([7; 16]), b"key").unwrap();
        let mut old = Namespace::new();
        let (_, persistence) = Persistence::open(&home, me()).unwrap();
        for n in 1..9 {
            persistence.log().append(&made(&mut old, 0, n)).unwrap();
        }
        let mut other = Namespace::new();
        other.change(Author::new(me(), 0), WallTime(1), vec![admit(1)]);
        other.change(Author::new(me(), 0), WallTime(1), vec![admit(100)]);
        let snapshot = other.snapshot();
        let ops = made(&mut Namespace::restore(snapshot.clone()).unwrap(), 1, 101);
        (home, snapshot, ops)
    }

    fn names(home: &Home) -> usize {
        let (namespace, persistence) = Persistence::open(home, me()).unwrap();
        drop(persistence);
        namespace.peers().count()
    }

    #[test]
    fn a_tree_takes_the_place_of_another_whole_wherever_the_peer_is_killed() {
        let place = tempfile::tempdir().unwrap();
        let (home, snapshot, ops) = home(&place.path().join("home"));
        let open = || Persistence::open(&home, me()).unwrap().1;
        drop(open().prepare(me(), &snapshot).unwrap());
        assert_eq!(names(&home), 8, "nothing has changed yet");
        {
            let persistence = open();
            let NextTree { mut file, mark, ops: mut above } = persistence.prepare(me(), &snapshot).unwrap();
            above.extend_from_slice(&ops);
            let replaced = Replaced { log_from: persistence.log.cut().unwrap(), ops: above };
            file.save([], &encode_mark(&mark, Some(&replaced)).unwrap()).unwrap();
            drop(persistence);
            assert_eq!(names(&home), 8, "until it is in its place");
            file.replace(&home.paths().tree()).unwrap();
        }
        assert_eq!(names(&home), 3, "from then on it counts, and the old log is void");
        assert_eq!(names(&home), 3, "and again, with its ops in the log");
        let first = std::fs::read_dir(home.paths().log()).unwrap().map(|entry| entry.unwrap().file_name()).min();
        assert!(first.unwrap() > *"00000001.ops", "the old segments are gone");
    }

    #[test]
    fn what_is_logged_after_the_change_of_trees_follows_it() {
        let place = tempfile::tempdir().unwrap();
        let (home, snapshot, ops) = home(&place.path().join("home"));
        let (_, persistence) = Persistence::open(&home, me()).unwrap();
        let next = persistence.prepare(me(), &snapshot).unwrap();
        persistence.replace(next, &ops).unwrap();
        let mut namespace = Namespace::restore(snapshot).unwrap();
        namespace.receive(ops, WallTime(i64::MAX)).unwrap();
        persistence.log().append(&made(&mut namespace, 1, 102)).unwrap();
        drop(persistence);
        assert_eq!(names(&home), 4);
    }
}
