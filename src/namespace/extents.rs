//! Applying writes: extents replaced, cut and counted. Blocks know how many extents name them, groups how many
//! of their blocks are in use.

use super::apply::Work;
use super::op::{Change, Extent, NewBlock, Source};
use super::record::{Block, Key, Record};
use crate::id::{BlockName, Ino};
use std::collections::BTreeMap;

/// How many extents more, or fewer, name a block.
type Uses = BTreeMap<BlockName, i64>;

impl Work<'_> {
    pub fn write(&mut self, write: &Change) {
        let Change::Write { ino, base, linked, extents, blocks, size, mtime, ctime, clear_suid } = write else {
            return;
        };
        // Even if nothing else comes of the op: later ops of its peer rely on these being known.
        for block in blocks {
            self.know(block);
        }
        let Some(ino) = self.line_of(*ino, *base, *linked) else { return };
        if *linked && self.tree.inode(ino).is_some_and(|inode| inode.nlink == 0) {
            self.resurrect(ino);
        }
        let mut uses = Uses::new();
        for (at, extent) in extents {
            self.punch(ino, *at, at.saturating_add(u64::from(extent.len)), &mut uses);
            if extent.source != Source::Hole {
                self.put_extent(ino, *at, extent.clone(), &mut uses);
            }
        }
        self.punch(ino, *size, u64::MAX, &mut uses);
        // A reaped file uses no blocks; still, another write may go on from this one and bring it back.
        if self.tree.inode(ino).is_some_and(|inode| !inode.reaped) {
            self.use_blocks(uses);
        }
        let stamp = self.stamp;
        self.edit_even_reaped(ino, |inode| {
            inode.size = *size;
            inode.mtime = *mtime;
            inode.ctime = *ctime;
            inode.content = stamp;
            if *clear_suid {
                inode.mode &= if inode.mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
            }
        });
    }

    /// Notes where a block is, unless another op already has: of the same block in two groups the first counts,
    /// as long as anyone uses it.
    fn know(&mut self, new: &NewBlock) {
        if self.tree.block(&new.name).is_none_or(|block| block.uses == 0) {
            let block = Block { group: new.group, len: new.len, uses: 0 };
            self.put(Key::Block(new.name), Some(Record::Block(block)));
        }
    }

    /// Takes `[from, to)` out of a file's extents, cutting those that reach over its ends.
    fn punch(&mut self, ino: Ino, from: u64, to: u64, uses: &mut Uses) {
        let overlapping: Vec<_> = self.tree.extents(ino, from, to).map(|(at, e)| (at, e.clone())).collect();
        for (at, extent) in overlapping {
            let end = at.saturating_add(u64::from(extent.len));
            self.put(Key::Extent(ino, at), None);
            count(&extent, -1, uses);
            if at < from {
                self.put_extent(ino, at, part(&extent, 0, from - at), uses);
            }
            if end > to {
                self.put_extent(ino, to, part(&extent, to - at, end - at), uses);
            }
        }
    }

    fn put_extent(&mut self, ino: Ino, at: u64, extent: Extent, uses: &mut Uses) {
        count(&extent, 1, uses);
        self.put(Key::Extent(ino, at), Some(Record::Extent(extent)));
    }

    /// Counts every extent of a file in or out.
    pub fn use_all_extents(&mut self, ino: Ino, by: i64) {
        let mut uses = Uses::new();
        for (_, extent) in self.tree.extents(ino, 0, u64::MAX) {
            count(extent, by, &mut uses);
        }
        self.use_blocks(uses);
    }

    fn use_blocks(&mut self, uses: Uses) {
        for (name, by) in uses.into_iter().filter(|(_, by)| *by != 0) {
            // An op may name a block whose first op has not arrived: it is counted when it is applied after it.
            let Some(mut block) = self.tree.block(&name) else { continue };
            let before = block.uses;
            block.uses = u32::try_from((i64::from(before) + by).max(0)).unwrap_or(u32::MAX);
            self.put(Key::Block(name), Some(Record::Block(block)));
            if (before == 0) != (block.uses == 0) {
                self.edit_group(block.group, |group| {
                    group.blocks = group.blocks.saturating_add_signed(if before == 0 { 1 } else { -1 });
                    true
                });
            }
        }
    }
}

fn count(extent: &Extent, by: i64, uses: &mut Uses) {
    if let Source::Block { name, .. } = &extent.source {
        *uses.entry(*name).or_default() += by;
    }
}

/// The bytes `[from, to)` of an extent. Both lie within it.
fn part(extent: &Extent, from: u64, to: u64) -> Extent {
    let (from, to) = (from as u32, to as u32);
    let source = match &extent.source {
        // The checks on ops see to it that there are `len` bytes; a cut must be safe even if there are not.
        Source::Inline(bytes) => {
            Source::Inline(bytes.slice((from as usize).min(bytes.len())..(to as usize).min(bytes.len())))
        }
        Source::Block { name, at } => Source::Block { name: *name, at: at.saturating_add(from) },
        Source::Hole => Source::Hole,
    };
    Extent { len: to - from, source }
}
