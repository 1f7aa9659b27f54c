//! The tree that the demo copies in, and what it must look like when it comes out.

use crate::cli::{background, interrupt};
use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tree and all that is expected of its copy.
#[derive(Debug)]
pub struct Tree {
    /// Where it lies.
    pub root: PathBuf,
    /// Where it comes from, in a few words.
    pub origin: String,
    entries: BTreeMap<PathBuf, Entry>,
}

/// What must come back of one name.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    content: Content,
    /// Permission bits; none for symbolic links, which have none of their own.
    mode: Option<u32>,
    owner: (u32, u32),
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Content {
    File { bytes: u64, hash: [u8; 32] },
    Directory,
    Link(PathBuf),
}

/// How the copy compares.
#[derive(Debug, Default)]
pub struct Verdict {
    pub right: usize,
    /// What is wrong, a line for each entry.
    pub wrong: Vec<String>,
}

/// The default tree is bounded to about this.
const DEFAULT_BYTES: u64 = 300 << 20;

/// Build artefacts from this size on are in the default tree.
const LARGE_ARTEFACT: u64 = 1 << 20;

impl Tree {
    /// The tree at `given`, or the default: a bounded one, copied to `staging` so that nobody changes it meanwhile.
    pub fn choose(given: Option<&Path>, staging: &Path) -> anyhow::Result<Tree> {
        if let Some(given) = given {
            let root = std::fs::canonicalize(given).with_context(|| format!("{} cannot be read", given.display()))?;
            if !root.is_dir() {
                bail!("{} is no directory; give a directory to --dir", given.display());
            }
            return Tree::scan(root.clone(), root.display().to_string());
        }
        let (root, chosen, origin) = match project() {
            Some(root) => {
                let chosen = project_files(&root)?;
                let origin = format!("the sources and larger build artefacts of {}", root.display());
                (root, chosen, origin)
            }
            None => {
                let root = ["/usr/share", "/usr/lib"].into_iter().map(PathBuf::from).find(|root| root.is_dir());
                let root = root.context("there is no tree to copy by default; give one with --dir")?;
                let chosen = bounded(&root, |_, _| true, DEFAULT_BYTES)?;
                let origin = format!("some of {}", root.display());
                (root, chosen, origin)
            }
        };
        stage(&root, &chosen, staging)?;
        Tree::scan(staging.into(), origin)
    }

    fn scan(root: PathBuf, origin: String) -> anyhow::Result<Tree> {
        let mut entries = BTreeMap::new();
        let mut pending = vec![PathBuf::new()];
        let mut buffer = vec![0; 1 << 20];
        while let Some(directory) = pending.pop() {
            let path = root.join(&directory);
            let failed = || format!("{} cannot be listed", path.display());
            for found in std::fs::read_dir(&path).with_context(failed)? {
                let name = directory.join(found.with_context(failed)?.file_name());
                let Some(entry) = Entry::read(&root.join(&name), &mut buffer, &mut |_| ())? else { continue };
                if entry.content == Content::Directory {
                    pending.push(name.clone());
                }
                entries.insert(name, entry);
            }
        }
        if entries.is_empty() {
            bail!("{} is empty; give a directory with files in it to --dir", root.display());
        }
        Ok(Tree { root, origin, entries })
    }

    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    pub fn files(&self) -> usize {
        self.entries.values().filter(|entry| matches!(entry.content, Content::File { .. })).count()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let bytes = |entry: &Entry| if let Content::File { bytes, .. } = entry.content { bytes } else { 0 };
        self.entries.values().map(bytes).sum()
    }

    /// Reads the copy whole and compares every entry. Only an interruption is an error: what cannot be read is wrong.
    pub fn verify(&self, copy: &Path, mut told: impl FnMut(u64)) -> anyhow::Result<Verdict> {
        let mut verdict = Verdict::default();
        let mut buffer = vec![0; 1 << 20];
        for (name, expected) in &self.entries {
            let found = Entry::read(&copy.join(name), &mut buffer, &mut told);
            interrupt::check()?;
            match found {
                Ok(Some(found)) => match expected.difference(&found) {
                    None => verdict.right += 1,
                    Some(what) => verdict.wrong.push(format!("{}: {what}", name.display())),
                },
                Ok(None) => verdict.wrong.push(format!("{}: neither file, directory nor link", name.display())),
                Err(error) => verdict.wrong.push(format!("{}: {error:#}", name.display())),
            }
        }
        Ok(verdict)
    }
}

impl Entry {
    /// What is there; nothing for sockets, devices and pipes.
    fn read(path: &Path, buffer: &mut [u8], told: &mut dyn FnMut(u64)) -> anyhow::Result<Option<Entry>> {
        let failed = || format!("{} cannot be read", path.display());
        let found = std::fs::symlink_metadata(path).with_context(failed)?;
        let content = if found.is_dir() {
            Content::Directory
        } else if found.is_symlink() {
            Content::Link(std::fs::read_link(path).with_context(failed)?)
        } else if found.is_file() {
            let (bytes, hash) = hash(path, buffer, told).with_context(failed)?;
            Content::File { bytes, hash }
        } else {
            return Ok(None);
        };
        let mode = (!found.is_symlink()).then_some(found.mode() & 0o7777);
        Ok(Some(Entry { content, mode, owner: owner(&found), modified: (found.mtime(), found.mtime_nsec()) }))
    }

    fn difference(&self, found: &Entry) -> Option<String> {
        let mode = |mode: Option<u32>| mode.map_or("none".to_owned(), |mode| format!("{mode:o}"));
        if self.content != found.content {
            Some(match (&self.content, &found.content) {
                (Content::File { bytes, .. }, Content::File { bytes: other, .. }) if bytes != other => {
                    format!("{other} bytes instead of {bytes}")
                }
                _ => "other content".to_owned(),
            })
        } else if self.mode != found.mode {
            Some(format!("mode {} instead of {}", mode(found.mode), mode(self.mode)))
        } else if self.modified != found.modified {
            Some(format!("modified at {:?} instead of {:?}", found.modified, self.modified))
        } else if self.owner != found.owner {
            Some(format!("owner {:?} instead of {:?}", found.owner, self.owner))
        } else {
            None
        }
    }
}

/// The owner as far as a copy by this user can have it: others than root cannot give files away.
fn owner(found: &Metadata) -> (u32, u32) {
    // SAFETY: it only reads this process's user id.
    if unsafe { libc::geteuid() } == 0 { (found.uid(), found.gid()) } else { (0, 0) }
}

fn hash(path: &Path, buffer: &mut [u8], told: &mut dyn FnMut(u64)) -> anyhow::Result<(u64, [u8; 32])> {
    let mut file = File::open(path)?;
    let (mut bytes, mut hash) = (0, Sha256::new());
    loop {
        interrupt::check()?;
        match file.read(buffer) {
            Ok(0) => return Ok((bytes, hash.finalize().into())),
            Ok(read) => {
                bytes += read as u64;
                hash.update(&buffer[..read]);
                told(read as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// This project's directory: above where we are, or above the program.
fn project() -> Option<PathBuf> {
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    let is_project = |directory: &Path| {
        std::fs::read_to_string(directory.join("Cargo.toml"))
            .is_ok_and(|manifest| manifest.lines().any(|line| line.trim() == "name = \"shoal\""))
    };
    starts.into_iter().flatten().find_map(|start| start.ancestors().find(|at| is_project(at)).map(Path::to_path_buf))
}

/// The project's sources and the larger files of its build.
fn project_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let source = |path: &Path, _: &Metadata| !path.starts_with("target") && !path.starts_with(".git");
    let mut chosen = bounded(root, source, DEFAULT_BYTES / 3)?;
    let artefact = |path: &Path, found: &Metadata| {
        let incremental = path.components().any(|part| part.as_os_str() == "incremental");
        !incremental && (found.is_dir() || found.len() >= LARGE_ARTEFACT)
    };
    if root.join("target").is_dir() {
        let artefacts = bounded(&root.join("target"), artefact, DEFAULT_BYTES)?;
        chosen.extend(artefacts.into_iter().map(|path| Path::new("target").join(path)));
    }
    Ok(chosen)
}

/// Files and links below `root` that `wanted` takes, in the order of their names, as many as `bytes` allow. What
/// cannot be read is left out.
fn bounded(root: &Path, wanted: impl Fn(&Path, &Metadata) -> bool, mut bytes: u64) -> anyhow::Result<Vec<PathBuf>> {
    let mut chosen = Vec::new();
    let mut linked = BTreeSet::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        interrupt::check()?;
        let Ok(listed) = std::fs::read_dir(root.join(&directory)) else { continue };
        let mut names: Vec<PathBuf> = listed.flatten().map(|found| directory.join(found.file_name())).collect();
        names.sort();
        let mut below = Vec::new();
        for name in names {
            let Ok(found) = std::fs::symlink_metadata(root.join(&name)) else { continue };
            if !wanted(&name, &found) {
                continue;
            }
            if found.is_dir() {
                below.push(name);
            } else if found.nlink() > 1 && !linked.insert((found.dev(), found.ino())) {
                // Another name of a file that is chosen already: a build links its artefacts to two places.
            } else if found.is_symlink() || (found.is_file() && found.len() <= bytes) {
                // A small file costs more than its bytes.
                bytes = bytes.saturating_sub(found.len() + 4096);
                if bytes == 0 {
                    return Ok(chosen);
                }
                chosen.push(name);
            }
        }
        pending.extend(below.into_iter().rev());
    }
    Ok(chosen)
}

/// Copies the chosen files to `staging`, with the directories above them.
fn stage(root: &Path, chosen: &[PathBuf], staging: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(staging).with_context(|| format!("{} cannot be made", staging.display()))?;
    for some in chosen.chunks(500) {
        let mut command = Command::new("cp");
        command.current_dir(root).args(["-a", "--parents", "--"]).args(some).arg(staging);
        background::run_to_end(&mut command, |_| Ok(())).context("cp -a cannot take the tree aside")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn made() -> (tempfile::TempDir, Tree) {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("tree");
        std::fs::create_dir_all(root.join("d")).unwrap();
        std::fs::write(root.join("d/file"), b"hello").unwrap();
        std::os::unix::fs::symlink("d/file", root.join("link")).unwrap();
        let tree = Tree::choose(Some(&root), &place.path().join("unused")).unwrap();
        (place, tree)
    }

    #[test]
    fn an_untouched_tree_is_right_whole() {
        let (_place, tree) = made();
        let mut told = 0;
        let verdict = tree.verify(&tree.root, |bytes| told += bytes).unwrap();
        assert_eq!((verdict.right, verdict.wrong.len(), told), (3, 0, 5));
        assert_eq!((tree.entries(), tree.files(), tree.bytes()), (3, 1, 5));
    }

    #[test]
    fn any_difference_is_found_and_named() {
        let wrong = |change: fn(&Path)| {
            let (_place, tree) = made();
            change(&tree.root);
            tree.verify(&tree.root, |_| ()).unwrap().wrong.join("; ")
        };
        assert!(wrong(|root| std::fs::write(root.join("d/file"), b"hullo").unwrap()).contains("other content"));
        assert!(wrong(|root| std::fs::write(root.join("d/file"), b"hell").unwrap()).contains("4 bytes instead of 5"));
        assert!(
            wrong(|root| {
                std::fs::set_permissions(root.join("d/file"), std::fs::Permissions::from_mode(0o600)).unwrap()
            })
            .contains("mode 600")
        );
        assert!(
            wrong(|root| {
                let file = File::options().write(true).open(root.join("d/file")).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            })
            .contains("modified at (0, 0)")
        );
        assert!(
            wrong(|root| {
                std::fs::remove_file(root.join("link")).unwrap();
                std::os::unix::fs::symlink("d", root.join("link")).unwrap();
            })
            .contains("link: other content")
        );
        assert!(wrong(|root| std::fs::remove_file(root.join("link")).unwrap()).contains("cannot be read"));
    }

    #[test]
    fn the_default_tree_is_bounded_and_staged_with_its_directories() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        for index in 0..20 {
            std::fs::write(root.join(format!("a/b/{index:02}")), vec![7; 10_000]).unwrap();
        }
        let chosen = bounded(&root, |_, _| true, 100_000).unwrap();
        assert_eq!(chosen.len(), 7);
        let staging = place.path().join("staging");
        stage(&root, &chosen, &staging).unwrap();
        assert_eq!(Tree::scan(staging, String::new()).unwrap().files(), 7);
    }

    #[test]
    fn a_project_gives_its_sources_and_the_larger_files_of_its_build() {
        let place = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: usize| {
            let path = place.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![7; bytes]).unwrap();
        };
        let large = LARGE_ARTEFACT as usize;
        put("Cargo.toml", 10);
        put("src/main.rs", 10);
        put(".git/objects/ab", 10);
        put("target/debug/shoal", large);
        put("target/debug/shoal.d", large - 1);
        put("target/debug/incremental/shoal/dep-graph.bin", large);
        std::fs::hard_link(place.path().join("target/debug/shoal"), place.path().join("target/debug/zlink")).unwrap();
        let mut chosen = project_files(place.path()).unwrap();
        chosen.sort();
        assert_eq!(chosen, ["Cargo.toml", "src/main.rs", "target/debug/shoal"].map(PathBuf::from));
    }

    #[test]
    fn an_empty_or_missing_tree_is_said() {
        let place = tempfile::tempdir().unwrap();
        let choose = |path: &Path| Tree::choose(Some(path), &place.path().join("s")).unwrap_err().to_string();
        assert!(choose(place.path()).contains("is empty"));
        assert!(choose(&place.path().join("none")).contains("cannot be read"));
        std::fs::write(place.path().join("file"), b"").unwrap();
        assert!(choose(&place.path().join("file")).contains("is no directory"));
    }
}
