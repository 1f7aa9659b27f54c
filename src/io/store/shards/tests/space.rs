//! A store that runs out of room.

use super::*;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

#[tokio::test]
async fn below_the_reserve_nothing_is_stored_and_what_is_there_stays() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let usage = shards.usage();
    assert!(usage.free > 0 && usage.capacity >= usage.free);
    shards.put(small(1)).await.unwrap();
    drop(shards);
    let options = ShardsOptions { me: ME, reserve: Some(u64::MAX) };
    let shards = Shards::open(home.path(), options).unwrap();
    assert_eq!(shards.usage().free, 0);
    for shard in [small(2), large(3)] {
        assert!(matches!(shards.put(shard).await, Err(ShardError::Full { peer: ME })));
    }
    shards.put(small(1)).await.expect("the same again needs no room");
    assert_eq!(shards.get(small(1).id).await.unwrap(), small(1));
}

#[test]
fn the_reserve_is_a_hundredth_within_bounds() {
    const GIB: u64 = 1 << 30;
    assert_eq!(default_reserve(100 * GIB), GIB);
    assert_eq!(default_reserve(10 * GIB), 256 << 20);
    assert_eq!(default_reserve(GIB), 128 << 20);
    assert_eq!(default_reserve(100_000 * GIB), 16 * GIB);
}

/// A file system of four MiB, as long as it lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> SmallDisk {
        let directory = tempfile::tempdir().unwrap();
        let path = CString::new(directory.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: every pointer is to a string that ends in NUL.
        let result =
            unsafe { libc::mount(c"tmpfs".as_ptr(), path.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=4m".as_ptr().cast()) };
        let error = io::Error::last_os_error();
        assert_eq!(result, 0, "cannot mount a tmpfs ({error}): run this test as root");
        SmallDisk(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = CString::new(self.0.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: the pointer is to a string that ends in NUL.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_takes_no_harm_and_goes_on_when_there_is_room() {
    for make in [|n| shard(n, 100_000), large as fn(u32) -> Shard] {
        let disk = SmallDisk::new();
        let root = disk.0.path().join("shards");
        let shards = open(&root);
        let mut stored = Vec::new();
        let refused = loop {
            let shard = make(stored.len() as u32);
            match shards.put(shard.clone()).await {
                Ok(()) => stored.push(shard),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, ShardError::Full { peer: ME }), "{refused}");
        assert!(stored.len() > 8);
        // Another filled it between the look and the write: the write itself fails.
        let hog = fs::write(disk.0.path().join("hog"), vec![1; 4 << 20]);
        assert!(hog.is_err());
        let store = shards.store.clone();
        let shard = make(1000);
        let written = store.write(&shard);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
        shards.sync().await.unwrap();
        fs::remove_file(disk.0.path().join("hog")).unwrap();
        shards.remove(stored[..4].iter().map(|shard| shard.id).collect(), Duration::ZERO).await.unwrap();
        shards.put(shard.clone()).await.unwrap();
        drop((shards, store));
        let shards = open(&root);
        assert_eq!(shards.list().len(), stored.len() - 3);
        for shard in stored[4..].iter().chain([&shard]) {
            assert_eq!(&shards.get(shard.id).await.unwrap(), shard);
        }
        assert!(aside(&root).is_empty(), "{:?}", aside(&root));
    }
}
