//! Tests of the namespace: each rule by itself, and whole worlds of peers against one order of all ops.

mod conflicts;
mod directories;
mod merging;
mod partitions;
mod returning;
mod rules;
mod settling;
mod worlds;

use super::*;
use crate::id::{Author, BlockName, GroupId, PeerKey};
use crate::policy::{Geometry, Policy};
use bytes::Bytes;

/// A few peers with a namespace each and a shared memory of what every block holds.
pub struct World {
    pub peers: Vec<Peer>,
    pub blocks: BTreeMap<BlockName, Vec<u8>>,
    /// Milliseconds since 1970.
    pub now: i64,
}

pub struct Peer {
    pub tag: PeerTag,
    pub group: GroupId,
    pub namespace: Namespace,
    /// Milliseconds its clock is off.
    pub skew: i64,
    /// In which epoch it makes ops.
    epoch: u8,
    counter: u64,
    named: BTreeSet<BlockName>,
}

pub fn place(parent: Ino, name: &str) -> Place {
    Place { parent, name: Bytes::copy_from_slice(name.as_bytes()) }
}

pub fn record(n: u8) -> PeerRecord {
    let name = format!("m{n}");
    PeerRecord { key: PeerKey([n; 32]), name, addresses: vec![], zone: String::new(), host: String::new() }
}

pub fn wall(ms: i64) -> WallTime {
    WallTime(ms * 1_000_000)
}

impl World {
    /// Peers that know one another, each with a group of its own.
    pub fn new(peers: u8) -> World {
        let peer = |n| Peer {
            tag: PeerKey([n; 32]).tag(),
            group: GroupId(0),
            namespace: Namespace::new(),
            skew: 0,
            epoch: 0,
            counter: 0,
            named: BTreeSet::new(),
        };
        let mut world =
            World { peers: (1..=peers).map(peer).collect(), blocks: BTreeMap::new(), now: 1_700_000_000_000 };
        for n in 1..=peers {
            world.change(0, Change::Admit { peer: record(n) });
        }
        let base = world.peers[0].namespace.snapshot();
        for peer in &mut world.peers[1..] {
            peer.namespace = Namespace::restore(base.clone()).unwrap();
        }
        for at in 0..world.peers.len() {
            let tag = world.peers[at].tag;
            world.peers[at].namespace.set_me(tag);
            let group = GroupId(world.number(at).0);
            world.peers[at].group = group;
            let geometry = Geometry { data: 1, parity: 0 };
            world.change(at, Change::OpenGroup { group, policy: Policy::Replicate(1), geometry, seats: vec![tag] });
        }
        world
    }

    pub fn ns(&self, at: usize) -> &Namespace {
        &self.peers[at].namespace
    }

    pub fn clock(&self, at: usize) -> WallTime {
        wall(self.now + self.peers[at].skew)
    }

    pub fn change(&mut self, at: usize, change: Change) -> Stamp {
        self.now += 1;
        let now = self.clock(at);
        let peer = &mut self.peers[at];
        let applied = peer.namespace.change(Author::new(peer.tag, peer.epoch), now, vec![change]);
        applied.ops[0].stamp
    }

    /// The peer does not know any more what it has made, and numbers its ops anew.
    pub fn lost_memory(&mut self, at: usize) {
        self.peers[at].epoch += 1;
        self.peers[at].named.clear();
    }

    pub fn number(&mut self, at: usize) -> Ino {
        self.peers[at].counter += 1;
        Ino::new(self.peers[at].tag, self.peers[at].counter)
    }

    /// Everything `from` has goes to `to`, and both hear of one another.
    pub fn send(&mut self, from: usize, to: usize) -> BTreeSet<Key> {
        let Missing::Ops(ops) = self.ns(from).missing(self.ns(to).vector(), usize::MAX) else {
            panic!("the log must reach back")
        };
        let now = wall(self.now + 60_000);
        let applied = self.peers[to].namespace.receive(ops, now).unwrap();
        let (from_tag, to_tag) = (self.peers[from].tag, self.peers[to].tag);
        let (from_has, to_has) = (self.ns(from).vector().clone(), self.ns(to).vector().clone());
        self.peers[to].namespace.heard(from_tag, &from_has);
        self.peers[from].namespace.heard(to_tag, &to_has);
        applied.touched
    }

    /// Everyone gets everything, and directories whose names clash become one; all agree, and the counts kept are right.
    pub fn meet(&mut self) {
        self.exchange();
        loop {
            let merges = self.ns(0).merges(self.clock(0), usize::MAX);
            if merges.is_empty() {
                break;
            }
            for merge in merges {
                self.change(0, merge);
            }
            self.exchange();
        }
    }

    /// Everyone gets everything; all agree, and the counts kept are right.
    pub fn exchange(&mut self) {
        for round in 0..2 * self.peers.len() {
            for to in 0..self.peers.len() {
                let from = (to + round) % self.peers.len();
                if from != to {
                    self.send(from, to);
                }
            }
        }
        for at in 0..self.peers.len() {
            recount(self.ns(at));
            assert_same(self.ns(0), self.ns(at));
        }
    }

    pub fn create(&mut self, at: usize, parent: Ino, name: &str) -> Ino {
        self.make(at, parent, name, Kind::File)
    }

    pub fn mkdir(&mut self, at: usize, parent: Ino, name: &str) -> Ino {
        self.make(at, parent, name, Kind::Directory)
    }

    pub fn make(&mut self, at: usize, parent: Ino, name: &str, kind: Kind) -> Ino {
        let ino = self.number(at);
        let time = self.clock(at);
        self.change(at, Change::Create { place: place(parent, name), ino, kind, mode: 0o644, uid: 1, gid: 2, time });
        ino
    }

    pub fn seen(&self, at: usize, ino: Ino) -> Seen {
        self.ns(at).inode(ino).unwrap().seen(ino)
    }

    pub fn unlink(&mut self, at: usize, parent: Ino, name: &str) -> Stamp {
        let ino = self.ns(at).entry(parent, name.as_bytes()).unwrap().ino;
        let (seen, time) = (self.seen(at, ino), self.clock(at));
        self.change(at, Change::Unlink { place: place(parent, name), seen, time })
    }

    pub fn rename(&mut self, at: usize, from: Place, to: Place) -> Stamp {
        let ino = self.ns(at).entry(from.parent, &from.name).unwrap().ino;
        let replaced = self.ns(at).entry(to.parent, &to.name).map(|entry| self.seen(at, entry.ino));
        let time = self.clock(at);
        self.change(at, Change::Rename { from, to, ino, replaced, time })
    }

    /// Writes bytes over a version of a file.
    pub fn write(&mut self, at: usize, ino: Ino, base: Stamp, offset: u64, bytes: &[u8], size: u64) -> Stamp {
        let extents = vec![(offset, inline(bytes))];
        self.write_extents(at, ino, base, true, extents, vec![], size)
    }

    #[allow(clippy::too_many_arguments)]
    pub fn write_extents(
        &mut self,
        at: usize,
        ino: Ino,
        base: Stamp,
        linked: bool,
        extents: Vec<(u64, Extent)>,
        blocks: Vec<NewBlock>,
        size: u64,
    ) -> Stamp {
        let time = self.clock(at);
        let (mtime, ctime) = (time, time);
        self.change(at, Change::Write { ino, base, linked, extents, blocks, size, mtime, ctime, clear_suid: true })
    }

    /// Replaces the whole content, as the peer sees the file.
    pub fn put(&mut self, at: usize, ino: Ino, bytes: &[u8]) -> Stamp {
        let base = self.ns(at).inode(ino).unwrap().content;
        self.write(at, ino, base, 0, bytes, bytes.len() as u64)
    }

    /// An extent over a block with these bytes, and the block if this peer names it for the first time.
    pub fn block(&mut self, at: usize, bytes: &[u8]) -> (Extent, Option<NewBlock>) {
        let name = BlockName::of(bytes);
        let len = bytes.len() as u32;
        self.blocks.insert(name, bytes.to_vec());
        let peer = &mut self.peers[at];
        let there = peer.namespace.block(&name).filter(|block| block.uses > 0).map(|block| block.group);
        let first = peer.named.insert(name) || there.is_none();
        let new = first.then_some(NewBlock { name, group: there.unwrap_or(peer.group), len });
        (Extent { len, source: Source::Block { name, at: 0 } }, new)
    }

    /// A file's bytes as a peer sees them.
    pub fn read(&self, at: usize, ino: Ino) -> Vec<u8> {
        read(self.ns(at), &self.blocks, ino)
    }

    /// The names in a directory as a peer sees them.
    pub fn names(&self, at: usize, dir: Ino) -> Vec<String> {
        self.ns(at).entries(dir).map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }
}

pub fn inline(bytes: &[u8]) -> Extent {
    Extent { len: bytes.len() as u32, source: Source::Inline(Bytes::copy_from_slice(bytes)) }
}

pub fn read(namespace: &Namespace, blocks: &BTreeMap<BlockName, Vec<u8>>, ino: Ino) -> Vec<u8> {
    let mut content = vec![0; namespace.inode(ino).unwrap().size as usize];
    for (at, extent) in namespace.extents(ino, 0, u64::MAX) {
        let (at, len) = (at as usize, extent.len as usize);
        let bytes = match &extent.source {
            Source::Inline(bytes) => &bytes[..],
            Source::Block { name, at } => {
                assert!(namespace.block(name).is_some(), "an extent names a block nobody knows");
                &blocks[name][*at as usize..][..len]
            }
            Source::Hole => panic!("a hole is kept"),
        };
        content[at..at + len].copy_from_slice(bytes);
    }
    content
}

/// What readers can see of a namespace.
pub fn visible(namespace: &Namespace) -> BTreeMap<Key, Record> {
    let gone = |ino: &Ino| namespace.inode(*ino).is_none();
    let records = namespace.tree.iter().filter(|(key, _)| match key {
        Key::Inode(ino) | Key::Extent(ino, _) | Key::Xattr(ino, _) | Key::Merged(ino) | Key::Lease(ino) => !gone(ino),
        // Peers forget those when each of them knows that it may.
        Key::Block(name) => !namespace.tree.idle().contains(name),
        _ => true,
    });
    records.map(|(key, record)| (key.clone(), record.clone())).collect()
}

pub fn assert_same(a: &Namespace, b: &Namespace) {
    let (a_sees, b_sees) = (visible(a), visible(b));
    for (key, record) in &a_sees {
        assert_eq!(Some(record), b_sees.get(key), "under {key:?}");
    }
    for key in b_sees.keys() {
        assert!(a_sees.contains_key(key), "{key:?} is only on one side: {:?}", b_sees[key]);
    }
    assert_eq!(a.files(), b.files());
}

/// What is kept incrementally is what a count from scratch comes to, and the tree is one.
pub fn recount(namespace: &Namespace) {
    assert_eq!(namespace.examine(), Vec::<String>::new());
}

/// With every op here, each block that a file is made of has a record that says where it is.
pub fn every_block_is_known(namespace: &Namespace) {
    assert_eq!(namespace.unknown_blocks(), Vec::<String>::new());
}
