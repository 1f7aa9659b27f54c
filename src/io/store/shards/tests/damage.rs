//! Bytes that are not what was written are never served, and never thrown away.

use super::*;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

/// Bytes of the header, and some of the content.
fn places(shard: &Shard) -> Vec<u64> {
    let end = (HEADER + shard.bytes.len()) as u64;
    (0..HEADER as u64).chain([64, 65, end / 2, end - 2, end - 1]).collect()
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_found_and_the_shard_can_be_put_again() {
    for shard in [small(1), large(1)] {
        let home = tempfile::tempdir().unwrap();
        let shards = open(home.path());
        for (count, at) in places(&shard).into_iter().enumerate() {
            shards.put(shard.clone()).await.unwrap();
            flip(&first_volume(home.path()), u64::from(spot(&shards, &shard).offset) + at);
            assert!(is_damaged(shards.get(shard.id).await), "byte {at}");
            assert!(is_missing(shards.get(shard.id).await), "reported once, then it is not there");
            assert_eq!(aside(home.path()).len(), count + 1);
        }
        shards.put(shard.clone()).await.unwrap();
        assert_eq!(shards.get(shard.id).await.unwrap(), shard);
        assert_eq!(open(home.path()).list(), [shard.id]);
    }
}

#[tokio::test]
async fn a_volume_damaged_while_nobody_ran_gives_every_other_shard() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let all: Vec<Shard> = (0..5).map(small).collect();
    for shard in &all {
        shards.put(shard.clone()).await.unwrap();
    }
    let spot = spot(&shards, &all[2]);
    drop(shards);
    for at in 0..HEADER as u64 {
        let offset = u64::from(spot.offset) + at;
        flip(&first_volume(home.path()), offset);
        let shards = open(home.path());
        assert!(is_missing(shards.get(all[2].id).await));
        for shard in [&all[0], &all[1], &all[3], &all[4]] {
            assert_eq!(&shards.get(shard.id).await.unwrap(), shard);
        }
        flip(&first_volume(home.path()), offset);
    }
    let shards = open(home.path());
    assert_eq!(shards.list().len(), 5);
}

#[tokio::test]
async fn a_volume_cut_off_anywhere_serves_what_is_whole_and_takes_nothing_more() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let all: Vec<Shard> = (0..3).map(|n| shard(n, 100 + n as usize)).collect();
    for shard in &all {
        shards.put(shard.clone()).await.unwrap();
    }
    let spot = spot(&shards, &all[2]);
    drop(shards);
    let bytes = fs::read(first_volume(home.path())).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for end in spot.offset as usize + 1..bytes.len() {
        let volumes = copy.path().join("volumes");
        let _ = fs::remove_dir_all(&volumes);
        fs::create_dir(&volumes).unwrap();
        fs::write(first_volume(copy.path()), &bytes[..end]).unwrap();
        for again in [false, true] {
            let shards = open(copy.path());
            assert_eq!(shards.damaged_volumes(), 1, "cut off at {end}");
            assert_eq!(shards.get(all[1].id).await.unwrap(), all[1]);
            if again {
                assert_eq!(shards.get(all[2].id).await.unwrap(), all[2]);
            } else {
                assert!(is_missing(shards.get(all[2].id).await));
                shards.put(all[2].clone()).await.unwrap();
            }
        }
        assert_eq!(fs::read(first_volume(copy.path())).unwrap(), &bytes[..end]);
    }
}

#[tokio::test]
async fn foreign_truncated_and_misnamed_files_are_set_aside_and_never_served() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let all: Vec<Shard> = (0..400).map(large).collect();
    for shard in &all {
        shards.put(shard.clone()).await.unwrap();
    }
    let (renamed, kept): (Vec<&Shard>, Vec<&Shard>) = all.iter().partition(|shard| spot(&shards, shard).volume == 1);
    drop(shards);
    let volumes = home.path().join("volumes");
    // Under another number it is not the volume that its header says.
    fs::rename(first_volume(home.path()), volumes.join("00000007.volume")).unwrap();
    fs::write(volumes.join("00000008.volume"), "").unwrap();
    fs::write(volumes.join("00000009.volume"), "no volume").unwrap();
    fs::write(volumes.join("9.volume"), "no volume").unwrap();
    fs::write(volumes.join("notes.txt"), "mine").unwrap();
    fs::create_dir(volumes.join("00000010.volume")).unwrap();
    fs::write(volumes.join("00000011.tmp"), "unfinished").unwrap();
    // These are no volumes that were being made.
    fs::write(volumes.join("thesis.tmp"), "mine").unwrap();
    fs::write(volumes.join("00000012.tmp"), [1; 1000]).unwrap();
    fs::create_dir(volumes.join("00000013.tmp")).unwrap();
    // Nothing of the store lies here.
    fs::write(home.path().join("00000001.volume"), "no volume").unwrap();
    fs::create_dir(home.path().join("photos")).unwrap();
    fs::create_dir(home.path().join("lost+found")).unwrap();
    for _ in 0..2 {
        let shards = open(home.path());
        assert_eq!(aside(home.path()).len(), 11, "{:?}", aside(home.path()));
        assert_eq!((shards.set_aside(), shards.damaged_volumes()), (11, 0));
        assert!(!volumes.join("00000011.tmp").exists() && home.path().join("lost+found").exists());
        assert_eq!(fs::read(home.path().join("aside/00000012.tmp")).unwrap(), [1; 1000]);
        assert_eq!(shards.list().len(), kept.len());
        assert!(is_missing(shards.get(renamed[0].id).await));
        assert_eq!(&shards.get(kept[0].id).await.unwrap(), kept[0]);
    }
    // Put back under its name, it is good again.
    fs::rename(home.path().join("aside/00000007.volume"), first_volume(home.path())).unwrap();
    assert_eq!(open(home.path()).list().len(), all.len());
}

#[tokio::test]
async fn a_volume_that_vanished_is_damage_and_then_its_shards_are_missing() {
    let home = tempfile::tempdir().unwrap();
    drop(open(home.path()));
    let shards = open(home.path());
    let shard = large(1);
    shards.put(shard.clone()).await.unwrap();
    drop(shards);
    let shards = open(home.path());
    fs::remove_file(first_volume(home.path())).unwrap();
    assert!(is_damaged(shards.get(shard.id).await));
    assert!(is_missing(shards.get(shard.id).await));
    shards.sync().await.unwrap();
}

#[tokio::test]
async fn a_volume_stored_as_content_does_not_come_alive_when_the_header_before_it_rots() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let victim = small(1);
    shards.put(victim.clone()).await.unwrap();
    // Somebody keeps a copy of a volume in the share.
    let mut content = fs::read(first_volume(home.path())).unwrap();
    content.resize(content.len().next_multiple_of(64), 0);
    let carrier = Shard {
        id: ShardId { block: BlockName::of(&content), geometry: Geometry { data: 1, parity: 0 }, index: 0 },
        block_bytes: content.len() as u32,
        crc: crc32c::crc32c(&content),
        bytes: content.into(),
    };
    shards.put(carrier.clone()).await.unwrap();
    shards.remove(vec![victim.id], Duration::ZERO).await.unwrap();
    let spot = spot(&shards, &carrier);
    drop(shards);
    flip(&first_volume(home.path()), spot.offset.into());
    assert!(open(home.path()).list().is_empty());
}

#[tokio::test]
async fn room_that_a_crash_left_unwritten_hides_nothing_behind_it() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let (lost, kept) = (large(1), large(2));
    // Room is taken in turn, and written in any order.
    shards.store.state.lock().volumes.reserve(&Form::of(&lost)).unwrap();
    shards.put(kept.clone()).await.unwrap();
    drop(shards);
    let shards = open(home.path());
    assert_eq!(shards.list(), [kept.id]);
    assert_eq!(shards.get(kept.id).await.unwrap(), kept);
    shards.put(lost.clone()).await.unwrap();
    assert_eq!(spot(&shards, &lost).volume, 2);
    shards.remove(vec![kept.id], Duration::ZERO).await.unwrap();
    assert!(!first_volume(home.path()).exists());
}
