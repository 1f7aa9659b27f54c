//! Whether a namespace is sound: what is kept beside the records is counted again from them, and the tree is one.

use super::op::{Kind, Place, Source};
use super::record::{Group, Key, Record};
use super::{FilesSummary, Namespace};
use crate::id::{BlockName, GroupId, Ino};
use std::collections::BTreeMap;

/// The most findings that are told: more of them say nothing more.
const MOST_FINDINGS: usize = 100;

/// What is wrong, in words; nothing where all is well.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.0.len() < MOST_FINDINGS {
            self.0.push(what());
        }
    }
}

/// What the records of names and of content come to.
#[derive(Default)]
struct Counted {
    names: BTreeMap<Ino, u32>,
    subdirectories: BTreeMap<Ino, u32>,
    uses: BTreeMap<BlockName, u32>,
    blocks: BTreeMap<GroupId, u32>,
    files: FilesSummary,
    inline: u64,
}

impl Namespace {
    /// What is wrong with it, at most a hundred findings. It holds at any moment, whatever ops are still on their
    /// way.
    pub fn examine(&self) -> Vec<String> {
        let (mut found, mut counted) = (Findings::default(), Counted::default());
        counted.names.insert(Ino::ROOT, 1);
        for (key, record) in self.tree.iter() {
            self.check_names(key, record, &mut counted, &mut found);
            self.check_content(key, record, &mut counted, &mut found);
        }
        for (key, record) in self.tree.iter() {
            self.check_counts(key, record, &mut counted, &mut found);
        }
        self.check_groups(&counted.blocks, &mut found);
        found.expect(self.files() == counted.files, || {
            format!("the files are counted as {:?}, and are {:?}", self.files(), counted.files)
        });
        found.expect(self.inline_bytes() == counted.inline, || {
            format!("inline content is counted as {} bytes, and is {}", self.inline_bytes(), counted.inline)
        });
        found.0
    }

    /// Blocks that files are made of and nothing says where they are, at most a hundred findings. There is none
    /// where every op has come.
    pub fn unknown_blocks(&self) -> Vec<String> {
        let mut found = Findings::default();
        for (key, record) in self.tree.iter() {
            let (Key::Extent(ino, _), Record::Extent(extent)) = (key, record) else { continue };
            let Source::Block { name, .. } = &extent.source else { continue };
            if self.inode(*ino).is_some() {
                let group = self.block(name).map(|block| block.group);
                found.expect(group.is_some(), || format!("block {name} of {ino} was forgotten"));
                let seated = group.is_none_or(|group| self.group(group).is_some());
                found.expect(seated, || format!("block {name} of {ino} is in no group"));
            }
        }
        found.0
    }

    fn check_names(&self, key: &Key, record: &Record, counted: &mut Counted, found: &mut Findings) {
        let (Key::Entry(parent, name), Record::Entry(entry)) = (key, record) else { return };
        *counted.names.entry(entry.ino).or_default() += 1;
        let shown = || format!("'{}' in {parent}", name.escape_ascii());
        let Some(inode) = self.inode(entry.ino) else {
            return found.expect(false, || format!("{} names {}, which is not there", shown(), entry.ino));
        };
        let lies = self.inode(*parent).is_some_and(|dir| dir.kind == Kind::Directory && dir.nlink > 0);
        found.expect(lies, || format!("{} lies in no directory", shown()));
        if inode.kind == Kind::Directory {
            *counted.subdirectories.entry(*parent).or_default() += 1;
            let here = inode.place.as_ref() == Some(&Place { parent: *parent, name: name.clone() });
            found.expect(here, || format!("{} is said to be at {:?}", shown(), inode.place));
            found.expect(self.path(entry.ino).is_some(), || format!("{} does not hang on the root", shown()));
        }
    }

    fn check_content(&self, key: &Key, record: &Record, counted: &mut Counted, found: &mut Findings) {
        let (Key::Extent(ino, at), Record::Extent(extent)) = (key, record) else { return };
        let Some(inode) = self.tree.inode(*ino) else {
            return found.expect(false, || format!("content at {at} lies in no file: {ino}"));
        };
        let end = at.saturating_add(u64::from(extent.len));
        found.expect(end <= inode.size, || format!("content of {ino} goes on to {end}, its size is {}", inode.size));
        let overlapping = self.extents(*ino, *at, end).count();
        found.expect(overlapping == 1, || format!("{overlapping} runs of content of {ino} overlap at {at}"));
        match &extent.source {
            Source::Inline(bytes) => counted.inline += bytes.len() as u64,
            Source::Block { name, .. } if !inode.reaped => *counted.uses.entry(*name).or_default() += 1,
            _ => {}
        }
    }

    fn check_counts(&self, key: &Key, record: &Record, counted: &mut Counted, found: &mut Findings) {
        match (key, record) {
            (Key::Inode(ino), Record::Inode(inode)) => {
                let names = counted.names.get(ino).copied().unwrap_or(0);
                let directory = inode.kind == Kind::Directory;
                let below = counted.subdirectories.get(ino).copied().unwrap_or(0);
                let expected = if directory && names > 0 { 2 + below } else { names };
                found.expect(!directory || names <= 1, || format!("directory {ino} has {names} names"));
                found.expect(inode.nlink == expected, || format!("{ino} has {expected} links, not {}", inode.nlink));
                let orphan = inode.orphaned.is_some() == (inode.nlink == 0);
                found.expect(orphan, || format!("{ino} has {} links and is no orphan, or the reverse", inode.nlink));
                match (&inode.kind, names) {
                    (_, 0) => {}
                    (Kind::File, _) => {
                        counted.files.files += 1;
                        counted.files.bytes += inode.size;
                    }
                    (Kind::Directory, _) => counted.files.directories += 1,
                    _ => {}
                }
            }
            (Key::Block(name), Record::Block(block)) => {
                let uses = counted.uses.get(name).copied().unwrap_or(0);
                found.expect(block.uses == uses, || format!("block {name} has {uses} uses, not {}", block.uses));
                *counted.blocks.entry(block.group).or_default() += u32::from(block.uses > 0);
                let idle = self.tree.idle().contains(name) == (block.uses == 0);
                found.expect(idle, || format!("block {name} is idle or is not, against its {} uses", block.uses));
            }
            _ => {}
        }
    }

    fn check_groups(&self, blocks: &BTreeMap<GroupId, u32>, found: &mut Findings) {
        for (id, group) in self.groups() {
            let count = blocks.get(&id).copied().unwrap_or(0);
            found.expect(group.blocks == count, || format!("group {id} has {count} blocks, not {}", group.blocks));
            for seat in group.slots.iter().flatten() {
                let listed = self.groups_of(seat.peer).any(|(of, _)| of == id);
                found.expect(listed, || format!("{} sits in group {id}, which is not among its groups", seat.peer));
            }
            let listed = self.blocks_of(id).filter(|(_, block)| block.group == id).count();
            found.expect(listed == count as usize, || format!("group {id} lists {listed} blocks of {count}"));
        }
        for (tag, _) in self.peers() {
            let seated = |group: &Group| group.slots.iter().flatten().any(|seat| seat.peer == tag);
            let all = self.groups_of(tag).all(|(_, group)| seated(group));
            found.expect(all, || format!("{tag} is said to sit in a group in which it does not"));
        }
    }
}
