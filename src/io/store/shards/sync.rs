//! Making shards durable: what was written since the last time, all who wait together.

use super::super::sys;
use super::files::DIRECTORIES;
use super::{Location, Store};
use crate::volume::ports::{ShardError, ShardId};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Files that are on their way to the disk at the same time.
const BATCH: usize = 64;

/// What was written since the last sync.
#[derive(Default)]
pub(super) struct Unsynced {
    files: Vec<ShardId>,
    volumes: BTreeSet<u32>,
    /// A volume was made.
    pub volumes_directory: bool,
    /// A sync was asked for because there is too much.
    asked: bool,
}

impl Unsynced {
    /// Notes a shard just written. True if there is too much now and nobody was told yet.
    pub fn note(&mut self, id: ShardId, location: Location) -> bool {
        match location.spot() {
            Some(spot) => drop(self.volumes.insert(spot.volume)),
            None => self.files.push(id),
        }
        let crowded = self.files.len() >= super::CROWDED && !self.asked;
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
        self.sync_all(&work).map_err(|error| {
            // The kernel reports a failed write once and forgets it: a later sync would succeed for nothing.
            let why = format!(
                "a sync of {} failed ({error}); check the disk, then stop and start this peer",
                self.root.display()
            );
            self.state.lock().stopped = Some(why.clone());
            ShardError::Disk(why)
        })
    }

    fn sync_all(&self, work: &Unsynced) -> io::Result<()> {
        let mut directories = [false; DIRECTORIES];
        for batch in work.files.chunks(BATCH) {
            let mut open = Vec::with_capacity(batch.len());
            for id in batch {
                let entry = self.state.lock().index.get(id).copied();
                let Some(entry) = entry.filter(|entry| entry.location.spot().is_none()) else { continue };
                match File::open(self.files.path(id, &entry.form)) {
                    Ok(file) => open.push(file),
                    // Removed since.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
                directories[usize::from(id.block.0[0])] = true;
            }
            // All on their way first: then the journal is committed for many at a time.
            open.iter().for_each(sys::start_writing);
            for file in open {
                file.sync_data()?;
            }
        }
        for number in &work.volumes {
            let file = self.state.lock().volumes.file(*number);
            match file {
                Ok(file) => file.sync_data()?,
                // All of it was removed since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for byte in (0..DIRECTORIES).filter(|byte| directories[*byte]) {
            sys::sync_directory(&self.files.directory(byte))?;
        }
        if work.volumes_directory {
            let volumes = self.state.lock().volumes.root().to_owned();
            sys::sync_directory(&volumes)?;
        }
        Ok(())
    }
}
