//! Random changes of the tree, as each peer sees it.

use super::*;

impl Run {
    /// Makes something where that is free; else writes to some file.
    pub fn create(&mut self, at: usize, x: u32, y: u32, z: u32) {
        let name = ["a", "b", "c.txt", "d"][z as usize % 4];
        let dir = pick(&self.directories(at), x).unwrap();
        if self.world.ns(at).entry(dir, name.as_bytes()).is_some() {
            return self.overwrite(at, x, y, z);
        }
        let kind = match y % 8 {
            0..=2 => Kind::Directory,
            3 => Kind::Symlink { target: Bytes::from(format!("to {y}")) },
            4 => Kind::Special { format: [0o010_000, 0o020_000, 0o140_000][z as usize % 3], device: y },
            _ => Kind::File,
        };
        let ino = self.world.make(at, dir, name, kind.clone());
        self.made(at);
        let stamp = self.world.ns(at).inode(ino).unwrap().content;
        if kind == Kind::Directory {
            return self.losses.note(stamp, Fact::Directory(ino));
        }
        let holds = if kind == Kind::File { Holds::Bytes(vec![]) } else { Holds::Kind(kind) };
        self.losses.note(stamp, Fact::Version(ino, holds));
    }

    pub fn link(&mut self, at: usize, x: u32, y: u32, z: u32) {
        let name = ["e", "f"][z as usize % 2];
        let dir = pick(&self.directories(at), x).unwrap();
        let linkable = self.inodes(at, |inode| inode.kind != Kind::Directory);
        if let (Some(ino), None) = (pick(&linkable, y), self.world.ns(at).entry(dir, name.as_bytes())) {
            let time = self.world.clock(at);
            self.change(at, Change::Link { place: place(dir, name), ino, time });
        }
    }

    /// Notes that `op` of this peer takes a name from a file: what it saw of it before.
    fn took(&mut self, op: Stamp, seen: Seen) {
        if seen.only {
            self.losses.note(op, Fact::Superseded(seen.content));
        }
    }

    fn is_directory(&self, at: usize, ino: Ino) -> bool {
        self.world.ns(at).inode(ino).unwrap().kind == Kind::Directory
    }

    pub fn remove(&mut self, at: usize, x: u32) {
        let Some((place, entry)) = pick(&self.entries(at), x) else { return };
        let (ino, time) = (entry.ino, self.world.clock(at));
        if self.is_directory(at, ino) {
            if self.world.ns(at).entries(ino).next().is_none() {
                let stamp = self.change(at, Change::Rmdir { place, ino, time });
                self.losses.note(stamp, Fact::RemovedDirectory(ino));
            }
        } else {
            let seen = self.world.seen(at, ino);
            let stamp = self.change(at, Change::Unlink { place, seen, time });
            self.took(stamp, seen);
        }
    }

    pub fn rename(&mut self, at: usize, x: u32, y: u32, z: u32) {
        let name = ["a", "b", "c.txt", "d"][z as usize % 4];
        let Some((from, entry)) = pick(&self.entries(at), x) else { return };
        let (ino, to) = (entry.ino, place(pick(&self.directories(at), y).unwrap(), name));
        let ns = self.world.ns(at);
        let mut above = to.parent;
        while above != Ino::ROOT {
            if above == ino {
                return;
            }
            above = ns.inode(above).unwrap().place.as_ref().unwrap().parent;
        }
        let mut over = None;
        if let Some(there) = ns.entry(to.parent, &to.name) {
            let directory = self.is_directory(at, there.ino);
            if there.ino == ino
                || directory != self.is_directory(at, ino)
                || ns.entries(there.ino).next().is_some()
                || there.ino == from.parent
            {
                return;
            }
            over = Some(self.world.seen(at, there.ino));
        }
        let stamp = self.world.rename(at, from, to.clone());
        self.made(at);
        match over {
            Some(seen) if self.is_directory(at, ino) => self.losses.note(stamp, Fact::RemovedDirectory(seen.ino)),
            Some(seen) => self.took(stamp, seen),
            None => {}
        }
    }

    pub fn exchange(&mut self, at: usize, x: u32, y: u32) {
        let entries = self.entries(at);
        let (Some((a, one)), Some((b, other))) = (pick(&entries, x), pick(&entries, y)) else { return };
        let time = self.world.clock(at);
        let change = Change::Exchange { a: a.clone(), a_ino: one.ino, b: b.clone(), b_ino: other.ino, time };
        self.change(at, change);
    }

    /// Directories whose names clash, as this peer sees it, become one.
    pub fn merge(&mut self, at: usize) {
        for change in self.world.ns(at).merges(self.world.clock(at), 3) {
            // The one before may have made this one idle, but never impossible.
            self.change(at, change);
        }
    }

    pub fn reap(&mut self, at: usize) {
        let tag = self.world.peers[at].tag;
        let open: Vec<Ino> = self.handles[at].iter().map(|handle| handle.ino).collect();
        for ino in self.world.ns(at).orphans_of(tag) {
            if !open.contains(&ino) {
                self.change(at, Change::Reap { ino });
            }
        }
    }

    pub fn attributes(&mut self, at: usize, x: u32, y: u32) {
        let Some(ino) = pick(&self.inodes(at, |_| true), x) else { return };
        let time = self.world.clock(at);
        let change = match y % 4 {
            0 => Change::SetAttributes { ino, set: some_attributes(y / 4, time) },
            1 | 2 => {
                let value = (!y.is_multiple_of(3)).then(|| Bytes::from(y.to_string()));
                let name = ["user.x", "trusted.y"][y as usize / 4 % 2];
                Change::SetXattr { ino, name: Bytes::from_static(name.as_bytes()), value, ctime: time }
            }
            _ => {
                let policies = [None, Some(Policy::Replicate(2)), Some(Policy::Survive(1))];
                Change::SetPolicy { ino, policy: policies[y as usize / 4 % 3] }
            }
        };
        self.change(at, change);
    }

    /// One write over a version: bytes at some offset, inline or a block, perhaps a cut; what the file holds then.
    fn write(&mut self, at: usize, handle: &mut Handle, linked: bool, y: u32, z: u32) {
        let offset = (y % 40) as usize;
        let bytes: Vec<u8> = (0..1 + z % 24).map(|n| b'A' + ((y / 64 + n) % 5) as u8).collect();
        let (extent, new) = match z % 3 {
            0 => (inline(&bytes), None),
            1 => self.world.block(at, &bytes),
            _ => (Extent { len: bytes.len() as u32, source: Source::Hole }, None),
        };
        let mut content = handle.content.clone();
        let end = offset + bytes.len();
        content.resize(content.len().max(end), 0);
        content[offset..end].copy_from_slice(&if z % 3 == 2 { vec![0; bytes.len()] } else { bytes });
        if z.is_multiple_of(7) {
            content.truncate((z % 50) as usize);
        }
        let size = content.len() as u64;
        let blocks = new.into_iter().collect();
        let extents = vec![(offset as u64, extent)];
        let stamp = self.world.write_extents(at, handle.ino, handle.base, linked, extents, blocks, size);
        self.made(at);
        self.losses.note(stamp, Fact::Superseded(handle.base));
        if linked {
            self.losses.note(stamp, Fact::Version(handle.ino, Holds::Bytes(content.clone())));
        }
        handle.base = stamp;
        handle.content = content;
    }

    fn handle(&self, at: usize, ino: Ino) -> Handle {
        Handle { ino, base: self.world.seen(at, ino).content, content: self.world.read(at, ino) }
    }

    pub fn overwrite(&mut self, at: usize, x: u32, y: u32, z: u32) {
        let files = self.inodes(at, |inode| inode.kind == Kind::File);
        let Some(ino) = pick(&files, x) else { return };
        let mut handle = self.handle(at, ino);
        self.write(at, &mut handle, true, y, z);
    }

    pub fn open(&mut self, at: usize, x: u32) {
        let files = self.inodes(at, |inode| inode.kind == Kind::File);
        if let Some(ino) = pick(&files, x) {
            let handle = self.handle(at, ino);
            self.handles[at].push(handle);
        }
    }

    /// Goes on with an open file from the version it had, whatever arrived meanwhile.
    pub fn write_handle(&mut self, at: usize, x: u32, y: u32, z: u32) {
        if self.handles[at].is_empty() {
            return;
        }
        let index = x as usize % self.handles[at].len();
        let mut handle = self.handles[at].swap_remove(index);
        let ns = self.world.ns(at);
        let Some(line) = ns.line(handle.ino, handle.base).or(Some(handle.ino)).filter(|ino| ns.inode(*ino).is_some())
        else {
            return;
        };
        let linked = ns.inode(line).unwrap().nlink > 0;
        if ns.line(handle.ino, handle.base).is_none() {
            // Another wrote on top, and that is known here.
            handle = self.handle(at, handle.ino);
        }
        self.write(at, &mut handle, linked, y, z);
        if linked && !y.is_multiple_of(4) {
            self.handles[at].push(handle);
        }
    }
}

/// Some attributes, each by a bit of chance.
fn some_attributes(chance: u32, time: WallTime) -> SetAttributes {
    let by = |bit: u32| chance >> bit & 1 == 1;
    SetAttributes {
        mode: by(0).then_some(chance & 0o7777),
        uid: by(1).then_some(chance % 7),
        gid: by(2).then_some(chance % 5),
        atime: by(3).then_some(WallTime(i64::from(chance) - 1_000_000)),
        mtime: by(4).then_some(WallTime(i64::from(chance))),
        ctime: by(5).then_some(time),
    }
}
