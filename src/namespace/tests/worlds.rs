//! Whole worlds: random ops of several peers, each made from what its maker sees, arriving late, mixed, twice.

use super::*;
use proptest::prelude::*;

/// A file someone keeps open: the version it goes on from, and what that version holds.
struct Handle {
    ino: Ino,
    base: Stamp,
    content: Vec<u8>,
}

/// A peer's disk: the checkpointed records and the whole log.
#[derive(Default)]
struct Disk {
    records: BTreeMap<Key, Record>,
    vector: VersionVector,
    frontier: Stamp,
    log: Vec<Op>,
}

struct Run {
    world: World,
    /// Every op ever made, by peer and seq.
    made: BTreeMap<PeerTag, Vec<Op>>,
    handles: Vec<Vec<Handle>>,
    disks: Vec<Disk>,
    /// What each write made of its file, as its writer saw it.
    versions: BTreeMap<Stamp, Vec<u8>>,
    /// Versions that someone who saw them replaced or removed.
    superseded: BTreeSet<Stamp>,
    /// Directories that someone removed.
    removed: BTreeSet<Ino>,
    directories: BTreeSet<Ino>,
}

/// Picks one of some things by chance.
fn pick<T: Clone>(things: &[T], chance: u32) -> Option<T> {
    (!things.is_empty()).then(|| things[chance as usize % things.len()].clone())
}

impl Run {
    fn new(peers: u8, skews: &[i16]) -> Run {
        let mut world = World::new(peers);
        for (peer, skew) in world.peers.iter_mut().zip(skews) {
            peer.skew = i64::from(*skew);
        }
        let mut run = Run {
            handles: (0..peers).map(|_| Vec::new()).collect(),
            disks: (0..peers).map(|_| Disk::default()).collect(),
            made: BTreeMap::new(),
            versions: BTreeMap::new(),
            superseded: BTreeSet::new(),
            removed: BTreeSet::new(),
            directories: BTreeSet::new(),
            world,
        };
        for at in 0..usize::from(peers) {
            let ops: Vec<Op> = run.world.ns(at).log.iter().map(|logged| logged.op.clone()).collect();
            let tag = run.world.peers[at].tag;
            run.made.entry(tag).or_default().extend(ops.iter().filter(|op| op.stamp.author.peer() == tag).cloned());
            run.disks[at].log = ops;
            let base = run.world.ns(at).snapshot();
            run.disks[at].records = base.base.into_iter().collect();
            run.disks[at].vector = base.vector;
            run.disks[at].frontier = base.frontier;
        }
        run
    }

    /// After a change of the world: the op goes to the record of all ops and the maker's log.
    fn made(&mut self, at: usize) {
        let tag = self.world.peers[at].tag;
        let op = self.world.ns(at).log.iter().rfind(|logged| logged.op.stamp.author.peer() == tag).unwrap().op.clone();
        self.disks[at].log.push(op.clone());
        self.made.entry(tag).or_default().push(op);
    }

    fn directories(&self, at: usize) -> Vec<Ino> {
        self.inodes(at, |inode| inode.kind == Kind::Directory)
    }

    fn inodes(&self, at: usize, want: impl Fn(&Inode) -> bool) -> Vec<Ino> {
        let ns = self.world.ns(at);
        let inodes = visible(ns).into_iter().filter_map(|(key, record)| match (key, record) {
            (Key::Inode(ino), Record::Inode(inode)) if inode.nlink > 0 && want(&inode) => Some(ino),
            _ => None,
        });
        inodes.collect()
    }

    /// Every name a peer sees, with what it names.
    fn entries(&self, at: usize) -> Vec<(Place, Ino)> {
        let entries = self.world.ns(at).tree.iter().filter_map(|(key, record)| match (key, record) {
            (Key::Entry(parent, name), Record::Entry(entry)) => {
                Some((Place { parent: *parent, name: name.clone() }, entry.ino))
            }
            _ => None,
        });
        entries.collect()
    }

    fn step(&mut self, at: usize, action: u8, x: u32, y: u32, z: u32) {
        let name = ["a", "b", "c.txt", "d"][z as usize % 4];
        let dir = pick(&self.directories(at), x).unwrap();
        let free = self.world.ns(at).entry(dir, name.as_bytes()).is_none();
        match action {
            0..=3 if free => self.create(at, dir, name, y),
            0..=3 => self.overwrite(at, x, y, z),
            4 => self.link(at, x, y, z),
            5 | 6 => self.remove(at, x),
            7..=9 => self.rename(at, x, y, z),
            10 => self.exchange(at, x, y),
            11 => self.reap(at),
            12 => self.attributes(at, x, y),
            13 if x.is_multiple_of(3) => self.relocate(at, x, y),
            13..=15 => self.overwrite(at, x, y, z),
            16 => self.open(at, x),
            17..=19 => self.write_handle(at, x, y, z),
            20..=27 => self.deliver(at, x, y, z),
            28 | 29 => self.tell(at, x),
            30 => self.checkpoint(at),
            _ => self.restart(at, x),
        }
    }

    fn create(&mut self, at: usize, dir: Ino, name: &str, y: u32) {
        let kind = match y % 5 {
            0 | 1 => Kind::Directory,
            2 => Kind::Symlink { target: Bytes::from_static(b"t") },
            _ => Kind::File,
        };
        let ino = self.world.make(at, dir, name, kind.clone());
        self.made(at);
        match kind {
            Kind::File => {
                let stamp = self.world.ns(at).inode(ino).unwrap().content;
                self.versions.insert(stamp, vec![]);
            }
            Kind::Directory => {
                self.directories.insert(ino);
            }
            _ => {}
        }
    }

    fn link(&mut self, at: usize, x: u32, y: u32, z: u32) {
        let name = ["e", "f"][z as usize % 2];
        let dir = pick(&self.directories(at), x).unwrap();
        let files = self.inodes(at, |inode| inode.kind == Kind::File);
        if let (Some(ino), None) = (pick(&files, y), self.world.ns(at).entry(dir, name.as_bytes())) {
            let time = self.world.clock(at);
            self.world.change(at, Change::Link { place: place(dir, name), ino, time });
            self.made(at);
        }
    }

    fn is_directory(&self, at: usize, ino: Ino) -> bool {
        self.world.ns(at).inode(ino).unwrap().kind == Kind::Directory
    }

    fn remove(&mut self, at: usize, x: u32) {
        let Some((place, ino)) = pick(&self.entries(at), x) else { return };
        let time = self.world.clock(at);
        if self.is_directory(at, ino) {
            if self.world.ns(at).entries(ino).next().is_none() {
                self.removed.insert(ino);
                self.world.change(at, Change::Rmdir { place, ino, time });
                self.made(at);
            }
        } else {
            let seen = self.world.seen(at, ino);
            self.superseded.insert(seen.content);
            self.world.change(at, Change::Unlink { place, seen, time });
            self.made(at);
        }
    }

    fn rename(&mut self, at: usize, x: u32, y: u32, z: u32) {
        let name = ["a", "b", "c.txt", "d"][z as usize % 4];
        let Some((from, ino)) = pick(&self.entries(at), x) else { return };
        let to = place(pick(&self.directories(at), y).unwrap(), name);
        let ns = self.world.ns(at);
        let mut above = to.parent;
        while above != Ino::ROOT {
            if above == ino {
                return;
            }
            above = ns.inode(above).unwrap().place.as_ref().unwrap().parent;
        }
        if let Some(there) = ns.entry(to.parent, &to.name) {
            let directory = self.is_directory(at, there.ino);
            if there.ino == ino
                || directory != self.is_directory(at, ino)
                || ns.entries(there.ino).next().is_some()
                || there.ino == from.parent
            {
                return;
            }
            let content = self.world.seen(at, there.ino).content;
            if directory {
                self.removed.insert(there.ino)
            } else {
                self.superseded.insert(content)
            };
        }
        self.world.rename(at, from, to);
        self.made(at);
    }

    fn exchange(&mut self, at: usize, x: u32, y: u32) {
        let entries = self.entries(at);
        if let (Some((a, a_ino)), Some((b, b_ino))) = (pick(&entries, x), pick(&entries, y)) {
            let time = self.world.clock(at);
            self.world.change(at, Change::Exchange { a, a_ino, b, b_ino, time });
            self.made(at);
        }
    }

    fn reap(&mut self, at: usize) {
        let tag = self.world.peers[at].tag;
        let open: Vec<Ino> = self.handles[at].iter().map(|handle| handle.ino).collect();
        for ino in self.world.ns(at).orphans_of(tag) {
            if !open.contains(&ino) {
                self.world.change(at, Change::Reap { ino });
                self.made(at);
            }
        }
    }

    /// Another group takes over what some group keeps.
    fn relocate(&mut self, at: usize, x: u32, y: u32) {
        let groups: Vec<GroupId> = self.world.peers.iter().map(|peer| peer.group).collect();
        let (Some(from), Some(to)) = (pick(&groups, x / 3), pick(&groups, y)) else { return };
        if self.world.ns(at).group(to).is_some() {
            let blocks = self.world.ns(at).blocks_of(from).map(|(name, _)| name).take(y as usize % 4).collect();
            self.world.change(at, Change::Relocate { from, to, blocks });
            self.made(at);
        }
    }

    fn attributes(&mut self, at: usize, x: u32, y: u32) {
        let Some(ino) = pick(&self.inodes(at, |_| true), x) else { return };
        let change = match y % 3 {
            0 => Change::SetAttributes { ino, set: SetAttributes { mode: Some(y & 0o7777), ..Default::default() } },
            1 => {
                let value = y.is_multiple_of(2).then(|| Bytes::from(y.to_string()));
                Change::SetXattr { ino, name: Bytes::from_static(b"user.x"), value, ctime: self.world.clock(at) }
            }
            _ => Change::SetPolicy { ino, policy: Some(Policy::Replicate(2)) },
        };
        self.world.change(at, change);
        self.made(at);
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
        self.superseded.insert(handle.base);
        if linked {
            self.versions.insert(stamp, content.clone());
        }
        handle.base = stamp;
        handle.content = content;
    }

    fn handle(&self, at: usize, ino: Ino) -> Handle {
        Handle { ino, base: self.world.seen(at, ino).content, content: self.world.read(at, ino) }
    }

    fn overwrite(&mut self, at: usize, x: u32, y: u32, z: u32) {
        let files = self.inodes(at, |inode| inode.kind == Kind::File);
        let Some(ino) = pick(&files, x) else { return };
        let mut handle = self.handle(at, ino);
        self.write(at, &mut handle, true, y, z);
    }

    fn open(&mut self, at: usize, x: u32) {
        let files = self.inodes(at, |inode| inode.kind == Kind::File);
        if let Some(ino) = pick(&files, x) {
            let handle = self.handle(at, ino);
            self.handles[at].push(handle);
        }
    }

    /// Goes on with an open file from the version it had, whatever arrived meanwhile.
    fn write_handle(&mut self, at: usize, x: u32, y: u32, z: u32) {
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

    /// Some next ops of some peers arrive, in any order, perhaps with some that are there already.
    fn deliver(&mut self, at: usize, x: u32, y: u32, z: u32) {
        let mut batch = Vec::new();
        for (n, (tag, ops)) in self.made.iter().enumerate() {
            let have = self.world.ns(at).vector().get(Author::new(*tag, 0));
            let count = (x >> (4 * n)) as usize % 8;
            let again = (y >> (2 * n)) as usize % 3;
            let next = ops.partition_point(|op| op.seq <= have);
            batch.extend(ops.iter().skip(next.saturating_sub(again)).take(count + again).cloned());
        }
        let len = batch.len().max(1);
        batch.rotate_left(z as usize % len);
        self.receive(at, batch);
    }

    fn receive(&mut self, at: usize, batch: Vec<Op>) {
        let before = visible(self.world.ns(at));
        let now = wall(self.world.now + 60_000);
        let applied = self.world.peers[at].namespace.receive(batch, now).unwrap();
        self.disks[at].log.extend(applied.ops);
        let after = visible(self.world.ns(at));
        let differs = |key: &&Key| before.get(*key) != after.get(*key);
        for key in before.keys().chain(after.keys()).filter(differs) {
            // What goes with a reaped inode is not looked at by itself.
            let of = match key {
                Key::Extent(ino, _) | Key::Xattr(ino, _) => Key::Inode(*ino),
                key => key.clone(),
            };
            assert!(applied.touched.contains(key) || applied.touched.contains(&of), "{key:?} changed unsaid");
        }
    }

    /// A peer hears what another has.
    fn tell(&mut self, at: usize, x: u32) {
        let from = x as usize % self.world.peers.len();
        let (tag, vector) = (self.world.peers[from].tag, self.world.ns(from).vector().clone());
        self.world.peers[at].namespace.heard(tag, &vector);
    }

    fn checkpoint(&mut self, at: usize) {
        let checkpoint = self.world.peers[at].namespace.checkpoint();
        let disk = &mut self.disks[at];
        for (key, record) in checkpoint.changed {
            match record {
                Some(record) => disk.records.insert(key, record),
                None => disk.records.remove(&key),
            };
        }
        disk.vector = checkpoint.vector;
        disk.frontier = checkpoint.frontier;
    }

    /// The peer starts again from its disk, or from a snapshot of itself.
    fn restart(&mut self, at: usize, x: u32) {
        let old = self.world.ns(at).clone();
        let mut namespace = if x.is_multiple_of(2) {
            Namespace::restore(old.snapshot()).unwrap()
        } else {
            let disk = &self.disks[at];
            let base = disk.records.iter().map(|(key, record)| (key.clone(), record.clone())).collect();
            let (vector, frontier) = (disk.vector.clone(), disk.frontier);
            let mut namespace = Namespace::restore(Snapshot { base, vector, frontier, ops: vec![] }).unwrap();
            for part in disk.log.chunks(1 + x as usize % 9) {
                namespace.receive(part.to_vec(), wall(self.world.now + 60_000)).unwrap();
            }
            // What was to change on disk since the checkpoint still is.
            namespace.changed.extend(old.changed.iter().cloned());
            namespace
        };
        if x.is_multiple_of(2) {
            namespace.changed.extend(old.changed.iter().cloned());
        }
        assert_same(&old, &namespace);
        assert_eq!(old.vector(), namespace.vector());
        assert_eq!(old.clock(), namespace.clock());
        namespace.set_me(self.world.peers[at].tag);
        self.world.peers[at].namespace = namespace;
        self.handles[at].clear();
    }

    fn finish(&mut self) {
        let mut all: Vec<Op> = self.made.values().flatten().cloned().collect();
        all.sort_by_key(|op| op.stamp);
        for op in &all {
            // Shown when the test fails.
            println!("{} {:?}", op.stamp, op.change);
        }
        for at in 0..self.world.peers.len() {
            recount(self.world.ns(at));
            self.receive(at, all.clone());
        }
        let mut one = Namespace::new();
        let mut in_order = self.world_start();
        in_order.extend(all);
        in_order.sort_by_key(|op| op.stamp);
        for op in in_order {
            one.receive(vec![op], wall(self.world.now + 60_000)).unwrap();
        }
        recount(&one);
        every_block_is_known(&one);
        for at in 0..self.world.peers.len() {
            recount(self.world.ns(at));
            assert_same(&one, self.world.ns(at));
            self.checkpoint(at);
            self.restart(at, 0);
            self.restart(at, 1);
        }
        for _ in 0..2 {
            for (at, from) in (0..self.world.peers.len()).flat_map(|at| (0..3).map(move |from| (at, from))) {
                self.tell(at, from);
            }
        }
        for at in 0..self.world.peers.len() {
            assert_eq!(self.world.ns(at).unstable(), 0, "what everyone has is stable");
            recount(self.world.ns(at));
            every_block_is_known(self.world.ns(at));
            assert_same(&one, self.world.ns(at));
            self.checkpoint(at);
            self.restart(at, 1);
        }
        self.nothing_is_lost(&one);
    }

    /// The ops that made the world, before any peer had the others.
    fn world_start(&self) -> Vec<Op> {
        let first = self.world.peers[0].tag;
        let have: BTreeSet<u64> = self.made[&first].iter().map(|op| op.seq).collect();
        let missing = (1..*have.first().unwrap()).map(|seq| Op {
            stamp: Stamp { time: Hlc((1_700_000_000_000 + seq) << 16), author: Author::new(first, 0) },
            seq,
            change: Change::Admit { peer: record(seq as u8) },
        });
        missing.collect()
    }

    fn nothing_is_lost(&self, namespace: &Namespace) {
        let found: BTreeMap<Stamp, Ino> = visible(namespace)
            .into_iter()
            .filter_map(|(key, record)| match (key, record) {
                (Key::Inode(ino), Record::Inode(inode)) if inode.nlink > 0 && inode.kind == Kind::File => {
                    Some((inode.content, ino))
                }
                _ => None,
            })
            .collect();
        for (stamp, content) in self.versions.iter().filter(|(stamp, _)| !self.superseded.contains(stamp)) {
            let ino = found.get(stamp).unwrap_or_else(|| panic!("version {stamp} is lost"));
            assert_eq!(&read(namespace, &self.world.blocks, *ino), content, "version {stamp} has other bytes");
        }
        for ino in self.directories.difference(&self.removed) {
            assert!(namespace.path(*ino).is_some(), "directory {ino} is lost");
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<(usize, u8, u32, u32, u32)>> {
    prop::collection::vec((0..3usize, 0..32u8, any::<u32>(), any::<u32>(), any::<u32>()), 1..160)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_and_any_late_delivery_gives_one_tree_and_loses_nothing(
        skews in prop::array::uniform3(-20i16..20),
        steps in steps(),
    ) {
        let mut run = Run::new(3, &skews);
        for (at, action, x, y, z) in steps {
            run.step(at, action, x, y, z);
        }
        run.finish();
    }
}
