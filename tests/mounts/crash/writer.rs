//! Somebody who writes while machines die, and remembers what was acknowledged and what was not.

use crate::harness::tree;
use shoal::sim::chance::Chance;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Inline, one block, several.
const SIZES: [usize; 6] = [0, 100, 4096, 5000, 70_000, (1 << 20) + 300_000];

/// Names of files, of directories, and of files that are appended to.
const FILES: usize = 8;
const DIRECTORIES: usize = 3;
const LOGS: usize = 2;

/// What may be found under a name.
#[derive(Clone, Debug)]
enum Hope {
    Gone,
    Directory,
    Whole(Vec<u8>),
    /// At least so much of it, and nothing else.
    Beginning(Vec<u8>, usize),
    /// Each byte from one or the other, which are of one length.
    Mixture(Vec<u8>, Vec<u8>),
}

#[derive(Clone, PartialEq, Debug)]
enum Found {
    Nothing,
    Directory,
    File(Vec<u8>),
}

impl Hope {
    fn comes_true(&self, found: &Found) -> bool {
        match (self, found) {
            (Hope::Gone, Found::Nothing) | (Hope::Directory, Found::Directory) => true,
            (Hope::Whole(whole), Found::File(found)) => whole == found,
            (Hope::Beginning(whole, least), Found::File(found)) => found.len() >= *least && whole.starts_with(found),
            (Hope::Mixture(one, other), Found::File(found)) => {
                let bytes = one.iter().zip(other).zip(found);
                found.len() == one.len()
                    && bytes.into_iter().all(|((one, other), found)| found == one || found == other)
            }
            _ => false,
        }
    }

    /// What failed to be there, in few words.
    fn name(&self) -> String {
        match self {
            Hope::Gone => "nothing".to_owned(),
            Hope::Directory => "a directory".to_owned(),
            Hope::Whole(whole) => format!("{} certain bytes", whole.len()),
            Hope::Beginning(whole, least) => format!("{least} bytes or more of {}", whole.len()),
            Hope::Mixture(one, _) => format!("{} bytes, each old or new", one.len()),
        }
    }
}

/// When something counts as acknowledged.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Safe {
    /// When the call has returned, `close` for what was written.
    Done,
    /// When it was synced: files by `fsync`, and so the directories that names are in.
    Synced,
}

pub struct Writer {
    pub machine: usize,
    name: String,
    safe: Safe,
    chance: Chance,
    hopes: BTreeMap<String, Vec<Hope>>,
    /// A file on its way from one name to the other.
    moving: Option<(String, String)>,
    pub acknowledged: usize,
}

impl Writer {
    pub fn new(number: usize, machine: usize, safe: Safe, seed: u64) -> Writer {
        let chance = Chance::new(seed ^ ((number as u64 + 1) << 32));
        let (hopes, name) = (BTreeMap::new(), format!("writer {number}"));
        Writer { machine, name, safe, chance, hopes, moving: None, acknowledged: 0 }
    }

    pub fn directory(&self, mount: &Path) -> PathBuf {
        mount.join(&self.name)
    }

    /// Works until it is told to stop, or something fails.
    pub fn work(&mut self, mount: &Path, stop: &AtomicBool) -> Result<()> {
        let dir = self.directory(mount);
        while !stop.load(Ordering::Relaxed) {
            self.step(&dir)?;
            self.acknowledged += 1;
        }
        Ok(())
    }

    fn hope(&mut self, name: &str, hopes: Vec<Hope>) {
        self.hopes.insert(name.to_owned(), hopes);
    }

    /// What is under a name, as far as that is certain.
    fn known(&self, name: &str) -> Found {
        match self.hopes.get(name).map(Vec::as_slice) {
            None | Some([Hope::Gone]) => Found::Nothing,
            Some([Hope::Directory]) => Found::Directory,
            Some([Hope::Whole(whole)]) => Found::File(whole.clone()),
            other => unreachable!("between two steps all is certain: {name} is {other:?}"),
        }
    }

    fn noise(&mut self) -> Vec<u8> {
        let size = SIZES[self.chance.below(SIZES.len())];
        tree::noise(self.chance.bits(), size)
    }

    fn step(&mut self, dir: &Path) -> Result<()> {
        let file = format!("file {}", self.chance.below(FILES));
        let known = self.known(&file);
        match self.chance.below(10) {
            0..3 => self.replace(dir, &file),
            3..5 => {
                let log = format!("log {}", self.chance.below(LOGS));
                self.append(dir, &log)
            }
            5 => {
                let name = format!("directory {}", self.chance.below(DIRECTORIES));
                self.make_or_remove_directory(dir, &name)
            }
            6..9 => match known {
                Found::File(_) if self.chance.happens(0.3) => self.unlink(dir, &file),
                Found::File(old) => self.overwrite(dir, &file, old),
                _ => self.write(dir, &file),
            },
            _ => {
                let other = format!("file {}", self.chance.below(FILES));
                self.rename(dir, &file, &other)
            }
        }
    }

    /// Syncs a file where that is what counts, and sometimes where it is not; says whether it did.
    fn may_sync(&mut self, file: &File) -> Result<bool> {
        let sync = self.safe == Safe::Synced || self.chance.happens(0.3);
        if sync {
            file.sync_all()?;
        }
        Ok(sync)
    }

    /// After a change of names in the directory.
    fn settle(&mut self, dir: &Path) -> Result<()> {
        if self.safe == Safe::Synced { File::open(dir)?.sync_all() } else { Ok(()) }
    }

    fn write(&mut self, dir: &Path, name: &str) -> Result<()> {
        let bytes = self.noise();
        self.hope(name, vec![Hope::Gone, Hope::Beginning(bytes.clone(), 0)]);
        let mut file = File::create_new(dir.join(name))?;
        file.write_all(&bytes)?;
        if self.may_sync(&file)? {
            self.hope(name, vec![Hope::Whole(bytes.clone())]);
        }
        tree::close(file)?;
        self.hope(name, vec![Hope::Whole(bytes)]);
        Ok(())
    }

    /// As editors and databases do: a new file, synced, takes the place of the old one.
    fn replace(&mut self, dir: &Path, name: &str) -> Result<()> {
        let fresh = format!("{name}.new");
        if self.known(&fresh) != Found::Nothing {
            // Left by somebody who was interrupted.
            self.unlink(dir, &fresh)?;
        }
        let bytes = self.noise();
        self.hope(&fresh, vec![Hope::Gone, Hope::Beginning(bytes.clone(), 0)]);
        let mut file = File::create_new(dir.join(&fresh))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        self.hope(&fresh, vec![Hope::Whole(bytes)]);
        tree::close(file)?;
        self.rename(dir, &fresh, name)
    }

    fn rename(&mut self, dir: &Path, from: &str, to: &str) -> Result<()> {
        let Found::File(bytes) = self.known(from) else { return Ok(()) };
        if from == to {
            return Ok(());
        }
        let mut either = self.hopes.get(to).cloned().unwrap_or_else(|| vec![Hope::Gone]);
        either.push(Hope::Whole(bytes.clone()));
        self.hope(from, vec![Hope::Whole(bytes.clone()), Hope::Gone]);
        self.hope(to, either);
        self.moving = Some((from.to_owned(), to.to_owned()));
        fs::rename(dir.join(from), dir.join(to))?;
        self.settle(dir)?;
        self.moving = None;
        self.hope(from, vec![Hope::Gone]);
        self.hope(to, vec![Hope::Whole(bytes)]);
        Ok(())
    }

    fn append(&mut self, dir: &Path, name: &str) -> Result<()> {
        let (old, there) = match self.known(name) {
            Found::File(old) => (old, true),
            _ => (Vec::new(), false),
        };
        let mut record = self.noise();
        record.truncate(10_000);
        let whole = [&old[..], &record].concat();
        let beginning = Hope::Beginning(whole.clone(), old.len());
        self.hope(name, if there { vec![beginning] } else { vec![beginning, Hope::Gone] });
        let mut file = OpenOptions::new().append(true).create(true).open(dir.join(name))?;
        file.write_all(&record)?;
        if self.may_sync(&file)? {
            self.hope(name, vec![Hope::Whole(whole.clone())]);
        }
        tree::close(file)?;
        self.hope(name, vec![Hope::Whole(whole)]);
        Ok(())
    }

    /// In the middle of a file.
    fn overwrite(&mut self, dir: &Path, name: &str, old: Vec<u8>) -> Result<()> {
        let mut patch = self.noise();
        patch.truncate(old.len());
        let at = self.chance.below(old.len() - patch.len() + 1);
        let mut new = old.clone();
        new[at..at + patch.len()].copy_from_slice(&patch);
        self.hope(name, vec![Hope::Mixture(old, new.clone())]);
        let file = OpenOptions::new().write(true).open(dir.join(name))?;
        file.write_all_at(&patch, at as u64)?;
        if self.may_sync(&file)? {
            self.hope(name, vec![Hope::Whole(new.clone())]);
        }
        tree::close(file)?;
        self.hope(name, vec![Hope::Whole(new)]);
        Ok(())
    }

    fn unlink(&mut self, dir: &Path, name: &str) -> Result<()> {
        let mut either = self.hopes[name].clone();
        either.push(Hope::Gone);
        self.hope(name, either);
        fs::remove_file(dir.join(name))?;
        self.settle(dir)?;
        self.hope(name, vec![Hope::Gone]);
        Ok(())
    }

    fn make_or_remove_directory(&mut self, dir: &Path, name: &str) -> Result<()> {
        let there = self.known(name) == Found::Directory;
        self.hope(name, vec![Hope::Gone, Hope::Directory]);
        let path = dir.join(name);
        if there { fs::remove_dir(path) } else { fs::create_dir(path) }?;
        self.settle(dir)?;
        self.hope(name, vec![if there { Hope::Gone } else { Hope::Directory }]);
        Ok(())
    }

    /// What is wrong below that mount. What was found is certain from then on.
    pub fn check(&mut self, mount: &Path) -> Vec<String> {
        let dir = self.directory(mount);
        let mut wrong = Vec::new();
        let mut found = BTreeMap::new();
        for (name, hopes) in &self.hopes {
            match look(&dir.join(name)) {
                Ok(there) => {
                    if !hopes.iter().any(|hope| hope.comes_true(&there)) {
                        let hopes: Vec<String> = hopes.iter().map(Hope::name).collect();
                        let there = match &there {
                            Found::File(bytes) => format!("{} bytes", bytes.len()),
                            other => format!("{other:?}"),
                        };
                        wrong.push(format!("{name}: {} expected, {there} found", hopes.join(" or ")));
                    }
                    found.insert(name.clone(), there);
                }
                Err(error) => {
                    let hopes: Vec<String> = hopes.iter().map(Hope::name).collect();
                    wrong.push(format!("{name}: {} expected, {error}", hopes.join(" or ")));
                }
            }
        }
        if let Some((from, to)) = self.moving.take()
            && found.get(&from) == Some(&Found::Nothing)
            && let Some([.., Hope::Whole(moved)]) = self.hopes.get(&to).map(Vec::as_slice)
            && found.get(&to).is_some_and(|there| *there != Found::File(moved.clone()))
        {
            wrong.push(format!("{from} went, and did not come to {to}"));
        }
        match fs::read_dir(&dir) {
            Ok(entries) => {
                let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                let strange = names.filter(|name| !self.hopes.contains_key(name));
                wrong.extend(strange.map(|name| format!("{name} was never made")));
            }
            Err(error) => wrong.push(format!("it cannot be listed: {error}")),
        }
        for (name, there) in found {
            let certain = match there {
                Found::Nothing => Hope::Gone,
                Found::Directory => Hope::Directory,
                Found::File(bytes) => Hope::Whole(bytes),
            };
            self.hope(&name, vec![certain]);
        }
        wrong.into_iter().map(|what| format!("{} below {}: {what}", self.name, mount.display())).collect()
    }
}

fn look(path: &Path) -> std::result::Result<Found, Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => Ok(Found::Directory),
        Ok(_) => fs::read(path).map(Found::File),
    }
}
