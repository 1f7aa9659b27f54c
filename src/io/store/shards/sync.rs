//! Making shards durable: what was written since the last time, for all who wait together.

use super::super::sys;
use super::{CROWDED, Store};
use crate::volume::ports::ShardError;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// What was written since the last sync.
#[derive(Default)]
pub(super) struct Unsynced {
    volumes: BTreeSet<u32>,
    /// A volume was made.
    pub directory: bool,
    bytes: u64,
    /// A sync was asked for because there is too much.
    asked: bool,
}

impl Unsynced {
    /// Notes a shard just written. True if there is too much now and nobody was told yet.
    pub fn note(&mut self, volume: u32, bytes: u64) -> bool {
        self.volumes.insert(volume);
        self.bytes += bytes;
        let crowded = self.bytes >= CROWDED && !self.asked;
        self.asked |= crowded;
        crowded
    }
}

/// Makes everything durable that was put before the call. The turn stays taken until the disk is done, even if the
/// caller stops waiting: who comes next may rely on what was taken off the list.
pub(super) async fn sync(store: Arc<Store>, turn: Arc<tokio::sync::Mutex<()>>) -> Result<(), ShardError> {
    let turn = turn.lock_owned().await;
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        store.sync()
    });
    done.await.unwrap_or_else(|error| Err(ShardError::Disk(format!("the sync was given up: {error}"))))
}

impl Store {
    fn sync(&self) -> Result<(), ShardError> {
        let work = {
            let mut state = self.state.lock();
            if let Some(why) = &state.stopped {
                return Err(ShardError::Disk(why.clone()));
            }
            std::mem::take(&mut state.unsynced)
        };
        self.make_durable(&work)
    }

    /// Waits until what is listed is on stable storage; a failure is the end of all promises.
    pub(super) fn make_durable(&self, work: &Unsynced) -> Result<(), ShardError> {
        self.sync_all(work).map_err(|error| {
            // The kernel reports a failed write once and forgets it: a later sync would succeed for nothing.
            let root = self.root.display();
            let why = format!("a sync of {root} failed ({error}); check the disk, then stop and start this peer");
            self.state.lock().stopped = Some(why.clone());
            ShardError::Disk(why)
        })
    }

    fn sync_all(&self, work: &Unsynced) -> io::Result<()> {
        for number in &work.volumes {
            let file = self.state.lock().volumes.file(*number);
            match file {
                Ok(file) => file.sync_data()?,
                // All of it was removed since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if work.directory {
            let volumes = self.state.lock().volumes.root().to_owned();
            sys::sync_directory(&volumes)?;
        }
        Ok(())
    }
}
