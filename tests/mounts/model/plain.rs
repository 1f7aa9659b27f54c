//! A file system in memory, as plain as can be: what every step must come to, and what must be there afterwards.

use super::steps::{Facts, Names, Outcome, Seen, Step, different_bytes, list};
use crate::harness::tree;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<&'static str, usize>),
    /// Of a target that nothing is at.
    Symlink(String),
}

struct Node {
    body: Body,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    modified: Option<(i64, i64)>,
    attributes: BTreeMap<String, Vec<u8>>,
    /// What the mounts call it, once one has.
    number: Option<u64>,
}

impl Node {
    fn new(body: Body, mode: u32) -> Node {
        let links = if matches!(body, Body::Directory(_)) { 2 } else { 1 };
        Node { body, mode, owner: (0, 0), links, modified: None, attributes: BTreeMap::new(), number: None }
    }

    fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    fn facts(&self) -> Facts {
        let (kind, size) = match &self.body {
            Body::File(bytes) => ('f', Some(bytes.len() as u64)),
            Body::Directory(_) => ('d', None),
            Body::Symlink(target) => ('l', Some(target.len() as u64)),
        };
        Facts { kind, mode: self.mode, owner: self.owner, links: self.links, size, modified: self.modified }
    }
}

/// The top directory is node 0.
pub struct Plain {
    nodes: BTreeMap<usize, Node>,
    made: usize,
}

const TOP: usize = 0;

impl Plain {
    /// An empty directory of this mode.
    pub fn new(mode: u32) -> Plain {
        let top = Node::new(Body::Directory(BTreeMap::new()), mode);
        Plain { nodes: BTreeMap::from([(TOP, top)]), made: TOP }
    }

    /// The names in a directory; none where there is none.
    pub fn names(&self, path: &Names) -> Vec<&'static str> {
        match self.find(path).map(|node| &self.nodes[&node].body) {
            Ok(Body::Directory(entries)) => entries.keys().copied().collect(),
            _ => Vec::new(),
        }
    }

    pub fn is_directory(&self, path: &Names) -> bool {
        self.find(path).is_ok_and(|node| self.nodes[&node].is_directory())
    }

    /// Follows the names, and no symlink at the end.
    fn find(&self, path: &[&'static str]) -> Result<usize, i32> {
        let Some((name, way)) = path.split_last() else { return Ok(TOP) };
        let parent = self.find(way)?;
        self.entries(parent)?.get(name).copied().ok_or(libc::ENOENT)
    }

    /// Follows a symlink at the end too, and finds nothing there.
    fn follow(&self, path: &[&'static str]) -> Result<usize, i32> {
        let node = self.find(path)?;
        if matches!(self.nodes[&node].body, Body::Symlink(_)) { Err(libc::ENOENT) } else { Ok(node) }
    }

    fn entries(&self, node: usize) -> Result<&BTreeMap<&'static str, usize>, i32> {
        match &self.nodes[&node].body {
            Body::Directory(entries) => Ok(entries),
            Body::File(_) => Err(libc::ENOTDIR),
            Body::Symlink(_) => Err(libc::ENOENT),
        }
    }

    /// The directory that a name is in, the name, and what has it.
    fn place(&self, path: &Names) -> Result<(usize, &'static str, Option<usize>), i32> {
        let (name, way) = path.split_last().expect("a step is about a name");
        let parent = self.find(way)?;
        Ok((parent, name, self.entries(parent)?.get(name).copied()))
    }

    fn node(&mut self, node: usize) -> &mut Node {
        self.nodes.get_mut(&node).expect("what has a name is there")
    }

    /// Has a name in a directory stand for another node, or for nothing; what it stood for before.
    fn set(&mut self, parent: usize, name: &'static str, node: Option<usize>) -> Option<usize> {
        let parent = self.node(parent);
        parent.modified = None;
        match (&mut parent.body, node) {
            (Body::Directory(entries), Some(node)) => entries.insert(name, node),
            (Body::Directory(entries), None) => entries.remove(name),
            _ => unreachable!("it was looked into before"),
        }
    }

    fn make(&mut self, path: &Names, body: Body, mode: u32) -> Result<(), i32> {
        let (parent, name, there) = self.place(path)?;
        if there.is_some() {
            return Err(libc::EEXIST);
        }
        let mut node = Node::new(body, mode);
        let above = self.node(parent);
        if above.mode & libc::S_ISGID != 0 {
            node.owner.1 = above.owner.1;
            node.mode |= if node.is_directory() { libc::S_ISGID } else { 0 };
        }
        above.links += u64::from(node.is_directory());
        self.made += 1;
        let made = self.made;
        self.nodes.insert(made, node);
        self.set(parent, name, Some(made));
        Ok(())
    }

    /// Takes a name away, and what it stood for if that was its last.
    fn drop_name(&mut self, parent: usize, name: &'static str) {
        let gone = self.set(parent, name, None).expect("the name was there");
        if self.node(gone).is_directory() {
            self.node(parent).links -= 1;
            self.nodes.remove(&gone);
            return;
        }
        self.node(gone).links -= 1;
        if self.node(gone).links == 0 {
            self.nodes.remove(&gone);
        }
    }

    /// The content of a file that is opened to be written.
    fn file(&mut self, path: &Names) -> Result<&mut Vec<u8>, i32> {
        let node = self.follow(path)?;
        let node = self.node(node);
        match &mut node.body {
            Body::File(bytes) => {
                node.modified = None;
                Ok(bytes)
            }
            _ => Err(libc::EISDIR),
        }
    }

    /// What a step comes to; done, where it succeeds.
    pub fn act(&mut self, step: &Step) -> Outcome {
        let done = match step {
            Step::Create { path, exclusive, mode } => self.create(path, *exclusive, *mode),
            Step::MakeDirectory { path, mode } => self.make(path, Body::Directory(BTreeMap::new()), *mode),
            Step::Symlink { path, target } => self.make(path, Body::Symlink(target.clone()), 0o777),
            Step::Link { from, to } => self.link(from, to),
            Step::Rename { from, to, flags } => self.rename(from, to, *flags),
            Step::Unlink { path } => self.unlink(path),
            Step::RemoveDirectory { path } => self.remove_directory(path),
            Step::Write { path, at, noise, .. } => self.known_times(path, noise.bytes().is_empty(), |plain| {
                plain.file(path).map(|file| lay(file, *at as usize, &noise.bytes()))
            }),
            Step::Append { path, noise } => self.known_times(path, noise.bytes().is_empty(), |plain| {
                plain.file(path).map(|file| file.extend(noise.bytes()))
            }),
            Step::Replace { path, noise } => self.file(path).map(|file| *file = noise.bytes()),
            Step::Truncate { path, size } => self.file(path).map(|file| file.resize(*size as usize, 0)),
            Step::Allocate { path, mode, at, len } => {
                self.file(path).map(|file| allocate(file, *mode, *at as usize, *len as usize))
            }
            Step::Copy { from, from_at, to, to_at, len } => {
                return self.copy(from, *from_at as usize, to, *to_at as usize, *len as usize).map(Seen::Count);
            }
            Step::ChangeMode { path, mode } => self.follow(path).map(|node| self.node(node).mode = *mode),
            Step::ChangeOwner { path, owner } => self.find(path).map(|node| {
                let node = self.node(node);
                node.owner = *owner;
                if matches!(node.body, Body::File(_)) {
                    node.mode &= !libc::S_ISUID;
                    node.mode &= if node.mode & libc::S_IXGRP != 0 { !libc::S_ISGID } else { !0 };
                }
            }),
            Step::SetModified { path, time } => self.find(path).map(|node| self.node(node).modified = Some(*time)),
            Step::SetAttribute { path, name, noise, flags } => self.set_attribute(path, name, noise.bytes(), *flags),
            Step::RemoveAttribute { path, name } => self.find(path).and_then(|node| {
                let node = self.node(node);
                may_have(node, name)?;
                node.attributes.remove(*name).map(drop).ok_or(libc::ENODATA)
            }),
            Step::Read { path, at, len } => {
                let node = self.follow(path)?;
                let Body::File(bytes) = &self.nodes[&node].body else { return Err(libc::EISDIR) };
                let from = (*at as usize).min(bytes.len());
                return Ok(Seen::Bytes(bytes[from..(from + len).min(bytes.len())].to_vec()));
            }
            Step::Look { path } => return Ok(Seen::Facts(self.nodes[&self.find(path)?].facts())),
            Step::List { path } => {
                let node = self.follow(path)?;
                return Ok(Seen::Names(self.sorted(node)?));
            }
        };
        done.map(|()| Seen::Nothing)
    }

    fn sorted(&self, node: usize) -> Result<Vec<String>, i32> {
        let mut names: Vec<String> = self.entries(node)?.keys().map(|name| (*name).to_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Does something that leaves the times alone where it is nothing.
    fn known_times(
        &mut self,
        path: &Names,
        nothing: bool,
        act: impl FnOnce(&mut Plain) -> Result<(), i32>,
    ) -> Result<(), i32> {
        let before = self.follow(path).map(|node| self.nodes[&node].modified);
        act(self)?;
        if nothing {
            let node = self.follow(path)?;
            self.node(node).modified = before?;
        }
        Ok(())
    }

    fn create(&mut self, path: &Names, exclusive: bool, mode: u32) -> Result<(), i32> {
        match self.place(path)?.2 {
            Some(_) if exclusive => Err(libc::EEXIST),
            Some(there) => match self.nodes[&there].body {
                Body::File(_) => Ok(()),
                Body::Directory(_) => Err(libc::EISDIR),
                Body::Symlink(_) => Err(libc::ENOENT),
            },
            None => self.make(path, Body::File(Vec::new()), mode),
        }
    }

    fn link(&mut self, from: &Names, to: &Names) -> Result<(), i32> {
        let node = self.find(from)?;
        let (parent, name, there) = self.place(to)?;
        if there.is_some() {
            return Err(libc::EEXIST);
        }
        if self.node(node).is_directory() {
            return Err(libc::EPERM);
        }
        self.node(node).links += 1;
        self.set(parent, name, Some(node));
        Ok(())
    }

    fn unlink(&mut self, path: &Names) -> Result<(), i32> {
        let (parent, name, there) = self.place(path)?;
        if self.node(there.ok_or(libc::ENOENT)?).is_directory() {
            return Err(libc::EISDIR);
        }
        self.drop_name(parent, name);
        Ok(())
    }

    fn remove_directory(&mut self, path: &Names) -> Result<(), i32> {
        let (parent, name, there) = self.place(path)?;
        match &self.nodes[&there.ok_or(libc::ENOENT)?].body {
            Body::Directory(entries) if entries.is_empty() => {}
            Body::Directory(_) => return Err(libc::ENOTEMPTY),
            _ => return Err(libc::ENOTDIR),
        }
        self.drop_name(parent, name);
        Ok(())
    }

    /// The order of the refusals is that of Linux.
    fn rename(&mut self, from: &Names, to: &Names, flags: u32) -> Result<(), i32> {
        let exchange = flags == libc::RENAME_EXCHANGE;
        let (from_parent, from_name, moved) = self.place(from)?;
        let (to_parent, to_name, there) = self.place(to)?;
        let moved = moved.ok_or(libc::ENOENT)?;
        match there {
            Some(_) if flags == libc::RENAME_NOREPLACE => return Err(libc::EEXIST),
            None if exchange => return Err(libc::ENOENT),
            _ => {}
        }
        if to.len() > from.len() && to.starts_with(from) {
            return Err(libc::EINVAL);
        }
        if from.len() > to.len() && from.starts_with(to) {
            return Err(if exchange { libc::EINVAL } else { libc::ENOTEMPTY });
        }
        if there == Some(moved) {
            return Ok(());
        }
        let moves_directory = self.node(moved).is_directory();
        if let Some(there) = there {
            let there_directory = self.node(there).is_directory();
            if exchange {
                self.node(from_parent).links += u64::from(there_directory);
                self.node(from_parent).links -= u64::from(moves_directory);
                self.node(to_parent).links += u64::from(moves_directory);
                self.node(to_parent).links -= u64::from(there_directory);
                self.set(from_parent, from_name, Some(there));
                self.set(to_parent, to_name, Some(moved));
                return Ok(());
            }
            match (moves_directory, there_directory) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.entries(there)?.is_empty() => return Err(libc::ENOTEMPTY),
                _ => self.drop_name(to_parent, to_name),
            }
        }
        self.node(from_parent).links -= u64::from(moves_directory);
        self.node(to_parent).links += u64::from(moves_directory);
        self.set(from_parent, from_name, None);
        self.set(to_parent, to_name, Some(moved));
        Ok(())
    }

    fn copy(&mut self, from: &Names, from_at: usize, to: &Names, to_at: usize, len: usize) -> Result<u64, i32> {
        let (from, to_node) = (self.follow(from)?, self.follow(to)?);
        if self.node(to_node).is_directory() {
            return Err(libc::EISDIR);
        }
        let Body::File(bytes) = &self.nodes[&from].body else { return Err(libc::EISDIR) };
        let from_at = from_at.min(bytes.len());
        let bytes = bytes[from_at..(from_at + len).min(bytes.len())].to_vec();
        if from == to_node && to_at + bytes.len() > from_at && to_at < from_at + bytes.len() {
            return Err(libc::EINVAL);
        }
        if !bytes.is_empty() {
            lay(self.file(to)?, to_at, &bytes);
        }
        Ok(bytes.len() as u64)
    }

    fn set_attribute(&mut self, path: &Names, name: &str, value: Vec<u8>, flags: i32) -> Result<(), i32> {
        let node = self.find(path)?;
        let node = self.node(node);
        may_have(node, name).map_err(|_| libc::EPERM)?;
        match node.attributes.contains_key(name) {
            true if flags == libc::XATTR_CREATE => return Err(libc::EEXIST),
            false if flags == libc::XATTR_REPLACE => return Err(libc::ENODATA),
            _ => node.attributes.insert(name.to_owned(), value),
        };
        Ok(())
    }

    /// How what is below a directory differs from what should be. Inode numbers stay what they were found to be.
    pub fn compare(&mut self, root: &Path) -> Vec<String> {
        let mut differences = Vec::new();
        self.compare_node(TOP, root, &mut differences);
        let mut numbers: Vec<u64> = self.nodes.values().filter_map(|node| node.number).collect();
        numbers.sort_unstable();
        if numbers.windows(2).any(|two| two[0] == two[1]) {
            differences.push("two files have one inode number".to_owned());
        }
        differences
    }

    fn compare_node(&mut self, number: usize, at: &Path, differences: &mut Vec<String>) {
        let mut differs = |what: String| differences.push(format!("{}: {what}", at.display()));
        let meta = match fs::symlink_metadata(at) {
            Ok(meta) => meta,
            Err(error) => return differs(error.to_string()),
        };
        let node = self.node(number);
        let mut found = Facts::of(&meta);
        found.modified = found.modified.filter(|_| node.modified.is_some());
        if found != node.facts() {
            differs(format!("expected {:?}\n   found {found:?}", node.facts()));
        }
        if *node.number.get_or_insert(meta.ino()) != meta.ino() {
            differs(format!("its inode number was {:?} and is {}", node.number, meta.ino()));
        }
        let attributes = tree::xattrs(at);
        if attributes != node.attributes {
            let lengths = |of: &BTreeMap<String, Vec<u8>>| format!("{:?}", of.keys().collect::<Vec<_>>());
            let (expected, found) = (lengths(&node.attributes), lengths(&attributes));
            differs(format!("attributes {expected} are expected, {found} found, or their values differ"));
        }
        match &node.body {
            Body::File(bytes) => match fs::read(at) {
                Ok(found) => different_bytes(bytes, &found).into_iter().for_each(differs),
                Err(error) => differs(format!("it cannot be read: {error}")),
            },
            Body::Symlink(target) => {
                let found = fs::read_link(at);
                if !found.as_ref().is_ok_and(|found| found == Path::new(target)) {
                    differs(format!("it points to {found:?}"));
                }
            }
            Body::Directory(entries) => {
                let entries: Vec<(&'static str, usize)> = entries.iter().map(|(name, node)| (*name, *node)).collect();
                let expected = self.sorted(number).unwrap();
                match list(at) {
                    Ok(found) if found == expected => {}
                    found => differs(format!("{expected:?} are expected, {found:?} listed")),
                }
                entries.into_iter().for_each(|(name, node)| self.compare_node(node, &at.join(name), differences));
            }
        }
    }
}

/// Whether a node of this kind may have an attribute of that name.
fn may_have(node: &Node, name: &str) -> Result<(), i32> {
    let plain = !matches!(node.body, Body::Symlink(_));
    if plain || !name.starts_with("user.") { Ok(()) } else { Err(libc::EPERM) }
}

/// Writes over what is there, with zeros in between where it begins past the end.
fn lay(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = at + bytes.len();
    file.resize(file.len().max(end), 0);
    file[at..end].copy_from_slice(bytes);
}

fn allocate(file: &mut Vec<u8>, mode: i32, at: usize, len: usize) {
    let end = at + len;
    if mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
        file.resize(file.len().max(end), 0);
    }
    if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
        let (from, to) = (at.min(file.len()), end.min(file.len()));
        file[from..to].fill(0);
    }
}
