//! The files that are measured with: found or made up, written into the share and compared with what comes back.

use crate::cli::interrupt;
use anyhow::{Context, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// One file to measure with.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its name below the scratch directory.
    pub name: PathBuf,
    pub bytes: u64,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    File(PathBuf),
    /// Made-up content from this seed.
    Made(u64),
}

/// A variant of the content: the same sizes and the same redundancy within, but not one block that is equal. Every
/// byte is combined with one that is never 0.
#[derive(Clone, Copy, Debug)]
pub struct Variant(u8);

impl Variant {
    /// The variant number `index` (below 255) of a run that starts with a random byte: all are different.
    pub fn new(first: u8, index: usize) -> Variant {
        Variant(((usize::from(first) + index) % 255) as u8 + 1)
    }

    fn apply(self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte ^= self.0);
    }
}

/// Sizes and numbers of the made-up files: about 100 MiB, most of it in large files, most files small.
const SAMPLE: [(u64, u64); 5] = [(32 << 20, 2), (1 << 20, 24), (100_000, 80), (10_000, 160), (1_000, 240)];

/// The made-up sample, another one each time.
pub fn sample() -> Vec<Item> {
    let mut items = Vec::new();
    for (bytes, number) in SAMPLE {
        for index in 0..number {
            let name = PathBuf::from(bytes.to_string()).join(index.to_string());
            items.push(Item { name, bytes, source: Source::Made(rand::random()) });
        }
    }
    items
}

/// The plain files at and below these paths. Links are not followed.
pub fn found(paths: &[PathBuf]) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let mut pending = vec![(path.clone(), PathBuf::from(index.to_string()))];
        while let Some((path, name)) = pending.pop() {
            interrupt::check()?;
            let shown = path.display();
            let found = std::fs::symlink_metadata(&path).with_context(|| format!("{shown} cannot be read"))?;
            if found.is_dir() {
                for entry in std::fs::read_dir(&path).with_context(|| format!("{shown} cannot be listed"))? {
                    let entry = entry.with_context(|| format!("{shown} cannot be listed"))?;
                    pending.push((entry.path(), name.join(entry.file_name())));
                }
            } else if found.is_file() {
                items.push(Item { name, bytes: found.len(), source: Source::File(path.clone()) });
            }
        }
    }
    items.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

impl Item {
    fn open(&self) -> anyhow::Result<Box<dyn Read>> {
        Ok(match &self.source {
            Source::Made(seed) => Box::new(Made(*seed | 1).take(self.bytes)),
            Source::File(path) => {
                let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
                // No more than was counted, should it be growing.
                Box::new(file.take(self.bytes))
            }
        })
    }

    /// Writes the file below `directory`; on stable storage when this returns.
    pub fn write(
        &self,
        directory: &Path,
        variant: Variant,
        buffer: &mut [u8],
        mut told: impl FnMut(u64),
    ) -> anyhow::Result<()> {
        let path = directory.join(&self.name);
        let failed = || format!("{} cannot be written", path.display());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(failed)?;
        }
        let mut source = self.open()?;
        let mut file = File::create(&path).with_context(failed)?;
        loop {
            interrupt::check()?;
            let read = fill(&mut source, buffer).with_context(|| format!("{} cannot be read", self.name.display()))?;
            if read == 0 {
                break;
            }
            variant.apply(&mut buffer[..read]);
            file.write_all(&buffer[..read]).with_context(failed)?;
            told(read as u64);
        }
        file.sync_all().with_context(failed)
    }

    /// Reads the file back and compares it with what was written.
    pub fn check(
        &self,
        directory: &Path,
        variant: Variant,
        buffer: &mut [u8],
        mut told: impl FnMut(u64),
    ) -> anyhow::Result<()> {
        let path = directory.join(&self.name);
        let failed = || format!("{} cannot be read back", path.display());
        let mut source = self.open()?;
        let mut file = File::open(&path).with_context(failed)?;
        forget_cached(&file);
        let (expected, read) = buffer.split_at_mut(buffer.len() / 2);
        loop {
            interrupt::check()?;
            let want =
                fill(&mut source, expected).with_context(|| format!("{} cannot be read", self.name.display()))?;
            variant.apply(&mut expected[..want]);
            let got = fill(&mut file, read).with_context(failed)?;
            if expected[..want] != read[..got] {
                bail!("{} came back with other content than was written", path.display());
            }
            if want == 0 {
                return Ok(());
            }
            told(want as u64);
        }
    }
}

/// Reads until the buffer is full or nothing more comes.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Lets the kernel drop its clean pages of the file, so that reading asks the peer.
fn forget_cached(file: &File) {
    // SAFETY: it takes a descriptor that is open and touches no memory of ours. It is advice: failing is harmless.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// Endless made-up content that does not compress (xorshift64*).
struct Made(u64);

impl Read for Made {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let bytes = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(buffer.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_checks_and_what_was_changed_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut buffer = vec![0; 64 * 1024];
        let variant = Variant::new(255, 0);
        for item in sample().iter().filter(|item| item.bytes <= 100_000).step_by(50) {
            let mut told = 0;
            item.write(directory.path(), variant, &mut buffer, |bytes| told += bytes).unwrap();
            assert_eq!(told, item.bytes);
            item.check(directory.path(), variant, &mut buffer, |_| ()).unwrap();
            let other = Variant::new(255, 1);
            assert!(item.check(directory.path(), other, &mut buffer, |_| ()).is_err());
            let written = File::options().append(true).open(directory.path().join(&item.name)).unwrap();
            written.set_len(item.bytes - 1).unwrap();
            assert!(item.check(directory.path(), variant, &mut buffer, |_| ()).is_err());
        }
    }

    #[test]
    fn variants_of_one_run_differ_and_none_leaves_the_content() {
        for first in 0..=255 {
            let variants: std::collections::BTreeSet<u8> = (0..255).map(|index| Variant::new(first, index).0).collect();
            assert_eq!((variants.len(), variants.contains(&0)), (255, false));
        }
    }

    #[test]
    fn found_takes_plain_files_and_follows_no_links() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("d")).unwrap();
        std::fs::write(directory.path().join("d/a"), b"hello").unwrap();
        std::os::unix::fs::symlink("/", directory.path().join("d/link")).unwrap();
        let items = found(&[directory.path().into(), directory.path().join("d/a")]).unwrap();
        let names: Vec<&Path> = items.iter().map(|item| item.name.as_path()).collect();
        assert_eq!(names, [Path::new("0/d/a"), Path::new("1")]);
        assert!(found(&["/no/such/path".into()]).is_err());
    }
}
