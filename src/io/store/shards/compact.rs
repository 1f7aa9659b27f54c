//! Moving the last shards out of volumes that are mostly dead, so that the volumes can go: small shards leave no
//! whole pages to punch out.

use super::sync::Unsynced;
use super::{Entry, Store};
use crate::volume::ports::ShardId;
use std::io;

impl Store {
    /// Empties every volume of which less than half of what it takes is live, as far as there is room.
    pub(super) fn compact(&self) -> io::Result<()> {
        let sparse = self.state.lock().volumes.sparse();
        sparse.into_iter().try_for_each(|number| self.empty_volume(number))
    }

    fn empty_volume(&self, number: u32) -> io::Result<()> {
        if self.above_reserve(&super::sys::space(&self.root)?) < super::volumes::VOLUME_BYTES {
            return Ok(());
        }
        let live: Vec<(ShardId, Entry)> = {
            let state = self.state.lock();
            let inside = state.index.iter().filter(|(_, entry)| entry.spot.volume == number);
            inside.map(|(id, entry)| (*id, *entry)).collect()
        };
        let mut moved = Vec::with_capacity(live.len());
        let mut written = Unsynced::default();
        written.directory = true;
        for (id, old) in live {
            // A damaged one is out of service now, a removed one needs nothing.
            let Ok(shard) = self.get(id) else { continue };
            let new = Entry { form: super::Form::of(&shard), spot: self.write(&shard)? };
            let mut state = self.state.lock();
            if state.index.get(&id) == Some(&old) {
                state.index.insert(id, new);
                written.note(new.spot.volume, 0);
                moved.push((id, old));
            } else {
                state.volumes.bury(new.spot, id, new.form)?;
            }
        }
        // The old copy may have been durable: it goes only when the new one is.
        self.make_durable(&written).map_err(io::Error::other)?;
        let mut state = self.state.lock();
        moved.into_iter().try_for_each(|(id, old)| state.volumes.bury(old.spot, id, old.form))
    }
}
