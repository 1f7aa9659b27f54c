//! Volumes: files of 64 MiB in which shards lie one behind the other.
//!
//! A record is a header and a shard's bytes, and starts at a multiple of 64. Nothing but a header is ever
//! overwritten, and that only to mark its record dead.

use super::super::sys;
use super::header::{Form, HEADER, Header, Place};
use crate::volume::ports::{Shard, ShardId};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

/// A volume takes records as long as they end within this.
pub(super) const VOLUME_BYTES: u64 = 64 << 20;
/// Volumes kept open.
const OPEN_FILES: usize = 32;
const PAGE: u64 = 4096;

const MAGIC: &[u8; 8] = b"SHOALVOL";
const VERSION: u32 = 1;

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot {
    pub volume: u32,
    pub offset: u32,
}

/// A record with what it takes to read or write it.
pub(super) struct Record {
    pub file: Arc<File>,
    pub place: Place,
}

/// All volumes of a store. It is kept under the store's lock; the bytes of records are moved without it.
pub(super) struct Volumes {
    root: PathBuf,
    volumes: BTreeMap<u32, Volume>,
    /// The one that is appended to.
    active: Option<u32>,
    /// The most recently used last.
    open: VecDeque<(u32, Arc<File>)>,
}

/// What is known of one volume.
pub(super) struct Volume {
    pub salt: u64,
    /// Where the next record would begin.
    pub end: u64,
    /// Records that are not dead, and their bytes.
    pub live: u32,
    pub live_bytes: u64,
    /// Bytes of disk.
    pub disk: u64,
    /// It has places that a crash left unwritten or half written: nothing more is appended to it.
    pub sealed: bool,
    /// Something in it was not understood: it is never deleted.
    pub strange: bool,
}

/// Bytes from the start of a record of this form to the start of the next.
pub(super) fn span(form: &Form) -> u64 {
    ((HEADER + form.bytes()) as u64).next_multiple_of(HEADER as u64)
}

impl Volumes {
    pub fn new(root: PathBuf) -> Volumes {
        Volumes { root, volumes: BTreeMap::new(), active: None, open: VecDeque::new() }
    }

    pub fn root(&self) -> &std::path::Path {
        &self.root
    }

    pub fn path(&self, number: u32) -> PathBuf {
        self.root.join(format!("{number:08}.volume"))
    }

    /// Takes in a volume that was found, in the order of their numbers.
    pub fn add(&mut self, number: u32, volume: Volume) {
        self.active = (!volume.sealed).then_some(number);
        self.volumes.insert(number, volume);
    }

    /// Bytes of disk of all volumes.
    pub fn disk(&self) -> u64 {
        self.volumes.values().map(|volume| volume.disk).sum()
    }

    /// Volumes in which something was not understood.
    pub fn strange(&self) -> u64 {
        self.volumes.values().filter(|volume| volume.strange).count() as u64
    }

    /// Room for a record: it is the caller's from here on, to be written, or given back with [`Volumes::bury`].
    /// Also whether a volume was made for it.
    pub fn reserve(&mut self, form: &Form) -> io::Result<(Spot, Record, bool)> {
        let span = span(form);
        let fits = |volume: &Volume| volume.end + span <= VOLUME_BYTES;
        let active = self.active.filter(|number| self.volumes.get(number).is_some_and(fits));
        let number = match active {
            Some(number) => number,
            None => self.create()?,
        };
        let file = self.file(number)?;
        let Some(volume) = self.volumes.get_mut(&number) else { return Err(io::ErrorKind::NotFound.into()) };
        let (offset, before) = (volume.end, volume.end.next_multiple_of(PAGE));
        volume.end += span;
        volume.live += 1;
        volume.live_bytes += span;
        volume.disk += volume.end.next_multiple_of(PAGE) - before;
        let place = Place { salt: volume.salt, offset };
        Ok((Spot { volume: number, offset: offset as u32 }, Record { file, place }, active.is_none()))
    }

    /// The record at `spot`.
    pub fn record(&mut self, spot: Spot) -> io::Result<Record> {
        let Some(volume) = self.volumes.get(&spot.volume) else { return Err(io::ErrorKind::NotFound.into()) };
        let place = Place { salt: volume.salt, offset: spot.offset.into() };
        Ok(Record { file: self.file(spot.volume)?, place })
    }

    /// Marks a record dead and gives its space back, with the whole volume where nothing else is in it.
    pub fn bury(&mut self, spot: Spot, id: ShardId, form: Form) -> io::Result<()> {
        let record = self.record(spot)?;
        let header = Header { id, form, dead: true }.encode(record.place);
        record.file.write_all_at(&header, record.place.offset)?;
        let from = (record.place.offset + HEADER as u64).next_multiple_of(PAGE);
        let to = (record.place.offset + span(&form)) / PAGE * PAGE;
        let mut freed = 0;
        if from < to {
            sys::punch(&record.file, from, to - from)?;
            freed = to - from;
        }
        if let Some(volume) = self.volumes.get_mut(&spot.volume) {
            volume.disk = volume.disk.saturating_sub(freed);
            volume.live = volume.live.saturating_sub(1);
            volume.live_bytes = volume.live_bytes.saturating_sub(span(&form));
        }
        self.delete_if_empty(spot.volume)
    }

    /// Volumes that take more than twice the disk of what lives in them.
    pub fn sparse(&self) -> Vec<u32> {
        let sparse = |(number, volume): &(&u32, &Volume)| {
            self.active != Some(**number) && !volume.strange && volume.live_bytes < volume.disk / 2
        };
        self.volumes.iter().filter(sparse).map(|(number, _)| *number).collect()
    }

    /// Deletes the volumes in which nothing is left.
    pub fn delete_empty(&mut self) -> io::Result<()> {
        let numbers: Vec<u32> = self.volumes.keys().copied().collect();
        numbers.into_iter().try_for_each(|number| self.delete_if_empty(number))
    }

    fn delete_if_empty(&mut self, number: u32) -> io::Result<()> {
        // The one that is appended to goes too where what is dead in it takes space.
        let active = self.active == Some(number);
        let useless = |volume: &Volume| volume.live == 0 && !volume.strange && (!active || volume.disk > PAGE);
        if self.volumes.get(&number).is_some_and(useless) {
            self.active = self.active.filter(|_| !active);
            std::fs::remove_file(self.path(number))?;
            self.volumes.remove(&number);
            self.open.retain(|(open, _)| *open != number);
        }
        Ok(())
    }

    /// The open file of a volume.
    pub fn file(&mut self, number: u32) -> io::Result<Arc<File>> {
        let entry = match self.open.iter().position(|(open, _)| *open == number) {
            Some(at) => self.open.remove(at),
            None => {
                let file = OpenOptions::new().read(true).write(true).open(self.path(number))?;
                Some((number, Arc::new(file)))
            }
        };
        let Some((_, file)) = entry else { return Err(io::ErrorKind::NotFound.into()) };
        if self.open.len() >= OPEN_FILES {
            self.open.pop_front();
        }
        self.open.push_back((number, file.clone()));
        Ok(file)
    }

    fn create(&mut self) -> io::Result<u32> {
        let number = self.volumes.last_key_value().map_or(1, |(last, _)| last + 1);
        let salt = rand::random::<u64>();
        let path = self.path(number);
        let temporary = path.with_extension("tmp");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all_at(&header(number, salt), 0)?;
        std::fs::rename(&temporary, &path)?;
        self.volumes.insert(
            number,
            Volume { salt, end: HEADER as u64, live: 0, live_bytes: 0, disk: PAGE, sealed: false, strange: false },
        );
        self.active = Some(number);
        Ok(number)
    }
}

impl Record {
    /// Writes the shard here.
    pub fn write(&self, shard: &Shard) -> io::Result<()> {
        let header = Header { id: shard.id, form: Form::of(shard), dead: false }.encode(self.place);
        sys::write_both_at(&self.file, &header, &shard.bytes, self.place.offset)
    }

    /// Header and bytes as they are on disk.
    pub fn read(&self, form: &Form) -> io::Result<Vec<u8>> {
        sys::read_at(&self.file, self.place.offset, HEADER + form.bytes())
    }
}

/// The header of a volume.
fn header(number: u32, salt: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&number.to_le_bytes());
    bytes[16..24].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The salt of volume `number`, if this is its header.
pub(super) fn check_header(bytes: &[u8], number: u32) -> Option<u64> {
    let bytes = bytes.first_chunk::<HEADER>()?;
    let mut salt = [0; 8];
    salt.copy_from_slice(&bytes[16..24]);
    let salt = u64::from_le_bytes(salt);
    (*bytes == header(number, salt)).then_some(salt)
}
