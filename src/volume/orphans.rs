//! Files without a name: they stay while somebody, on any machine, has them open.
//!
//! Whoever took the last name away asks the others from time to time which of these files they have open; what nobody
//! has is forgotten by an op. A machine that is dead has nothing open.

use super::Volume;
use super::ports::Errno;
use crate::id::Ino;
use crate::namespace::Change;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long orphans are gathered, to be asked about together.
const GATHER: Duration = Duration::from_millis(100);

/// How soon those that are open elsewhere are asked about again.
const AGAIN: Duration = Duration::from_secs(2);

/// Inodes in one question.
const AT_ONCE: usize = 512;

impl Volume {
    /// Nobody here has the orphan open any more: it is forgotten as soon as nobody elsewhere has. Does nothing for one
    /// whose name another machine took away.
    pub(super) fn reap(&self, ino: Ino) {
        self.inner.orphans.lock().insert(ino);
        if !self.inner.reaping.swap(true, Ordering::AcqRel) {
            let volume = self.clone();
            tokio::spawn(async move { volume.reap_all().await });
        }
    }

    /// Forgets what was open here without a name when this peer last stopped, when nobody else has it open either.
    pub fn reap_what_was_left(&self) {
        let orphans = self.control().namespace().orphans_of(self.control().me());
        orphans.into_iter().for_each(|ino| self.reap(ino));
    }

    async fn reap_all(&self) {
        tokio::time::sleep(GATHER).await;
        loop {
            let waiting = std::mem::take(&mut *self.inner.orphans.lock());
            let mine: Vec<Ino> = waiting.into_iter().filter(|ino| self.is_mine_to_reap(*ino)).collect();
            for inos in mine.chunks(AT_ONCE) {
                let open = self.control().open_elsewhere(inos.to_vec()).await;
                let reaped: Vec<Ino> = inos.iter().copied().filter(|ino| !open.contains(ino)).collect();
                self.reap_now(&reaped);
                self.inner.orphans.lock().extend(open);
            }
            if self.inner.orphans.lock().is_empty() {
                self.inner.reaping.store(false, Ordering::Release);
                // One that came between is seen to by whoever brought it, or here.
                if self.inner.orphans.lock().is_empty() || self.inner.reaping.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether it lies with this machine to forget the orphan: it took the last name, and has it not open.
    fn is_mine_to_reap(&self, ino: Ino) -> bool {
        let by = self.control().namespace().inode(ino).and_then(|inode| inode.orphaned);
        by.is_some_and(|by| by.author.peer() == self.control().me()) && !self.is_open(ino)
    }

    fn reap_now(&self, inos: &[Ino]) {
        let reaped = self.control().change(&mut |namespace| {
            let still = |ino: &Ino| namespace.inode(*ino).is_some_and(|inode| inode.orphaned.is_some());
            Ok(inos
                .iter()
                .copied()
                .filter(|ino| still(ino) && !self.is_open(*ino))
                .map(|ino| Change::Reap { ino })
                .collect())
        });
        if let Err(Errno(errno)) = reaped {
            tracing::warn!(errno, "orphans could not be reaped; they are at the next start");
        }
    }
}
