//! The checkpoint of the tree: every record at some vector, in one redb file.
//!
//! The log makes changes durable; this file only lets the log be cut, so it is written seldom and whole
//! transactions at a time. redb keeps a checksum of every page, and all of them are checked when it is opened.

use super::error::StoreError;
use super::sys;
use crate::namespace::{Key, Record};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Version byte and postcard(Key), to version byte and postcard(Record).
const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
/// Under [`CHECKPOINT`]: version byte, and what the caller gave along with the records.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

const CHECKPOINT: &str = "checkpoint";

/// The version byte before every key and value.
const VERSION: u8 = 1;
/// Of the pages that redb keeps: all that a checkpoint touches is written once.
const CACHE_BYTES: usize = 8 << 20;

/// The tree as it was last saved.
#[derive(Clone, PartialEq, Debug)]
pub struct Tree {
    pub records: Vec<(Key, Record)>,
    /// What `save` was given along.
    pub meta: Vec<u8>,
}

/// The file that holds the tree.
pub struct TreeFile {
    path: PathBuf,
    database: Database,
}

impl TreeFile {
    /// Opens the file, making it if there is none.
    pub fn open(path: &Path) -> Result<TreeFile, StoreError> {
        let database = guarded(path, || {
            // All of it is read at the start anyway: so it may be checked then, too.
            let opened = Database::builder().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create(path);
            opened.map_err(|error| redb_error(path, error.into()))
        })?;
        // What is saved in it is of no use under a name that is not durable.
        sys::sync_name(path).map_err(StoreError::io("create", path))?;
        Ok(TreeFile { path: path.to_owned(), database })
    }

    /// What was saved last; `None` if nothing ever was. Waits for the disk.
    pub fn load(&self) -> Result<Option<Tree>, StoreError> {
        guarded(&self.path, || {
            let read = self.database.begin_read().map_err(|error| self.failed(error))?;
            let meta = match read.open_table(META) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                other => other.map_err(|error| self.failed(error))?,
            };
            let checkpoint = meta.get(CHECKPOINT).map_err(|error| self.failed(error))?;
            let checkpoint = checkpoint.ok_or_else(|| self.damaged("its checkpoint field is missing"))?;
            let checkpoint = self.current(checkpoint.value())?.to_vec();
            let table = read.open_table(RECORDS).map_err(|error| self.failed(error))?;
            let mut records = Vec::new();
            for pair in table.iter().map_err(|error| self.failed(error))? {
                let (key, value) = pair.map_err(|error| self.failed(error))?;
                records.push((self.decode(key.value())?, self.decode(value.value())?));
            }
            Ok(Some(Tree { records, meta: checkpoint }))
        })
    }

    /// Sets the given records (`None` takes one away) and `meta`, all of it durable when this returns, or none of
    /// it. Waits for the disk.
    pub fn save(
        &self,
        changed: impl IntoIterator<Item = (Key, Option<Record>)>,
        meta: &[u8],
    ) -> Result<(), StoreError> {
        guarded(&self.path, || {
            let write = self.database.begin_write().map_err(|error| self.failed(error))?;
            {
                let mut table = write.open_table(RECORDS).map_err(|error| self.failed(error))?;
                for (key, record) in changed {
                    let key = self.encode(&key)?;
                    match record {
                        Some(record) => drop(table.insert(&*key, &*self.encode(&record)?).map_err(|e| self.failed(e))?),
                        None => drop(table.remove(&*key).map_err(|error| self.failed(error))?),
                    }
                }
                let mut fields = write.open_table(META).map_err(|error| self.failed(error))?;
                let value = [&[VERSION], meta].concat();
                fields.insert(CHECKPOINT, &*value).map_err(|error| self.failed(error))?;
            }
            write.commit().map_err(|error| self.failed(error))
        })
    }

    /// Puts the file in the place of another, which is gone when this returns, or, after a crash, the other is still
    /// there whole. Waits for the disk.
    pub fn replace(&mut self, path: &Path) -> Result<(), StoreError> {
        std::fs::rename(&self.path, path).map_err(StoreError::io("replace", path))?;
        self.path = path.to_owned();
        sys::sync_name(path).map_err(StoreError::io("replace", path))
    }

    fn encode<T: Serialize>(&self, value: &T) -> Result<Vec<u8>, StoreError> {
        postcard::to_extend(value, vec![VERSION]).map_err(|error| StoreError::Io {
            doing: "encode for",
            path: self.path.clone(),
            error: std::io::Error::other(error),
        })
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, StoreError> {
        postcard::from_bytes(self.current(bytes)?)
            .map_err(|error| self.damaged(format!("it holds what this shoal does not know ({error})")))
    }

    /// What follows the version byte.
    fn current<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], StoreError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Ok(rest),
            Some((&found, _)) if found > VERSION => {
                Err(StoreError::Newer { path: self.path.clone(), found: found.into(), known: VERSION.into() })
            }
            _ => Err(self.damaged("a record has no version")),
        }
    }

    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        redb_error(&self.path, error.into())
    }

    fn damaged(&self, what: impl Into<String>) -> StoreError {
        StoreError::damaged(&self.path, None, what)
    }
}

fn redb_error(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(error) if error.kind() != std::io::ErrorKind::InvalidData => {
            StoreError::Io { doing: "use", path: path.to_owned(), error }
        }
        redb::Error::UpgradeRequired(version) => {
            StoreError::damaged(path, None, format!("it is of redb version {version}"))
        }
        other => StoreError::damaged(path, None, other.to_string()),
    }
}

/// redb asserts where it trusts its file. A file that rotted is an error here, never a panic.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(StoreError::damaged(path, None, said.unwrap_or("redb gave up on it").replace('\n', " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Ino, PeerTag};
    use crate::namespace::Entry;
    use crate::time::Stamp;

    fn entry(number: u64) -> (Key, Record) {
        let key = Key::Entry(Ino(number % 7), format!("name {number}").into_bytes().into());
        (key, Record::Entry(Entry { ino: Ino(number), stamp: Stamp::default() }))
    }

    fn sorted(tree: Tree) -> Vec<(Key, Record)> {
        let mut records = tree.records;
        records.sort_by(|a, b| a.0.cmp(&b.0));
        records
    }

    #[test]
    fn a_tree_is_loaded_as_it_was_saved_last() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tree.redb");
        let file = TreeFile::open(&path).unwrap();
        assert_eq!(file.load().unwrap(), None);
        file.save((0..500).map(entry).map(|(key, record)| (key, Some(record))), b"first").unwrap();
        let counter = (Key::Counter(PeerTag(3)), Record::Counter(9));
        let changes = [(counter.0.clone(), Some(counter.1.clone())), (entry(4).0, None), (entry(1000).0, None)];
        file.save(changes, b"second").unwrap();
        drop(file);
        let tree = TreeFile::open(&path).unwrap().load().unwrap().unwrap();
        assert_eq!(tree.meta, b"second");
        let mut expected: Vec<_> = (0..500).filter(|n| *n != 4).map(entry).chain([counter]).collect();
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(sorted(tree), expected);
    }

    #[test]
    fn a_file_that_rotted_is_an_error_or_gives_a_tree_that_was_saved() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tree.redb");
        let file = TreeFile::open(&path).unwrap();
        file.save((0..50).map(entry).map(|(key, record)| (key, Some(record))), b"first").unwrap();
        let first = sorted(file.load().unwrap().unwrap());
        file.save((50..300).map(entry).map(|(key, record)| (key, Some(record))), b"second").unwrap();
        let second = sorted(file.load().unwrap().unwrap());
        drop(file);
        let bytes = std::fs::read(&path).unwrap();
        let mut refused = 0;
        // The file's own header densely, everything else in strides.
        let places = (0..512).step_by(3).chain((512..bytes.len()).step_by(bytes.len() / 150));
        for at in places {
            let mut bad = bytes.clone();
            bad[at] ^= 0x04;
            std::fs::write(&path, &bad).unwrap();
            match TreeFile::open(&path).and_then(|file| file.load()) {
                Ok(tree) => {
                    let records = tree.map(sorted).unwrap_or_default();
                    assert!(records == second || records == first || records.is_empty(), "byte {at} passed unseen");
                }
                Err(error) => {
                    refused += 1;
                    let error = error.to_string();
                    assert!(error.contains("tree.redb") && !error.contains('\n'), "{error}");
                }
            }
        }
        assert!(refused > 0);
        std::fs::write(&path, b"this is no tree").unwrap();
        assert!(matches!(TreeFile::open(&path).err(), Some(StoreError::Damaged { .. })));
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(TreeFile::open(&path).and_then(|file| file.load()).is_err());
    }
}
