//! Shards come, are read, are replaced, go, and are there again after a restart.

use super::*;

#[tokio::test]
async fn shards_of_every_size_are_read_back_before_and_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let all: Vec<Shard> = (1..).zip([1, 63, 64, 65, 4096, 100_000, 256 << 10]).map(|(n, b)| shard(n, b)).collect();
    for shard in &all {
        assert!(is_missing(shards.get(shard.id).await));
        shards.put(shard.clone()).await.unwrap();
    }
    shards.sync().await.unwrap();
    let stored = shards.usage().stored;
    for shards in [shards, open(home.path())] {
        for shard in &all {
            assert_eq!(&shards.get(shard.id).await.unwrap(), shard);
            assert!(shards.contains(shard.id));
        }
        assert_eq!(shards.list().len(), all.len());
        let (first, here) = shards.next(None, 3);
        let (rest, _) = shards.next(first.last().copied(), 100);
        assert_eq!((first.len(), here), (3, all.len()));
        assert_eq!([first, rest].concat(), shards.list(), "one after the other, in order");
        assert_eq!(shards.usage().stored, stored, "counted as it came and counted at the start agree");
    }
    assert!(aside(home.path()).is_empty());
}

#[tokio::test]
async fn whole_copies_of_a_block_are_shards_too() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let copy = |bytes: usize, index| {
        let part = shard(3, bytes);
        Shard {
            id: ShardId { geometry: Geometry { data: 1, parity: 2 }, index, ..part.id },
            block_bytes: bytes as u32,
            ..part
        }
    };
    for shard in [copy(1 << 20, 0), copy(1 << 20, 1), copy(5, 2)] {
        shards.put(shard.clone()).await.unwrap();
        assert_eq!(shards.get(shard.id).await.unwrap(), shard);
    }
}

#[tokio::test]
async fn the_same_shard_again_takes_nothing_and_another_form_replaces_it() {
    for make in [small, large] {
        let home = tempfile::tempdir().unwrap();
        let shards = open(home.path());
        let first = make(1);
        shards.put(first.clone()).await.unwrap();
        let stored = shards.usage().stored;
        shards.put(first.clone()).await.unwrap();
        assert_eq!(shards.usage().stored, stored);
        let mut second = make(2);
        second.id = first.id;
        shards.put(second.clone()).await.unwrap();
        assert_eq!(shards.get(first.id).await.unwrap(), second);
        drop(shards);
        let shards = open(home.path());
        assert_eq!(shards.get(first.id).await.unwrap(), second);
        assert_eq!(shards.list(), [first.id]);
    }
}

#[tokio::test]
async fn a_shard_may_change_its_size_when_its_block_is_coded_anew() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let (first, mut second) = (small(1), large(1));
    second.id = first.id;
    for shard in [&first, &second, &first] {
        shards.put(shard.clone()).await.unwrap();
        assert_eq!(&shards.get(shard.id).await.unwrap(), shard);
    }
    drop(shards);
    assert_eq!(open(home.path()).get(first.id).await.unwrap(), first);
}

#[tokio::test]
async fn what_is_no_shard_of_its_geometry_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let good = small(1);
    let bad = [
        Shard { bytes: good.bytes.slice(1..), ..good.clone() },
        Shard { block_bytes: 0, bytes: bytes::Bytes::new(), ..good.clone() },
        Shard { block_bytes: (1 << 20) + 1, ..good.clone() },
        Shard { id: ShardId { geometry: Geometry { data: 0, parity: 2 }, ..good.id }, ..good.clone() },
        Shard { id: ShardId { geometry: Geometry { data: 200, parity: 200 }, ..good.id }, ..good.clone() },
        Shard { id: ShardId { index: 6, ..good.id }, ..good.clone() },
    ];
    for shard in bad {
        assert!(matches!(shards.put(shard).await, Err(ShardError::Damaged { .. })));
    }
    assert!(shards.list().is_empty());
}

#[tokio::test]
async fn removed_shards_stay_away_and_their_space_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let all: Vec<Shard> = (0..20).map(|n| if n % 2 == 0 { shard(n, 100_000) } else { large(n) }).collect();
    for shard in &all {
        shards.put(shard.clone()).await.unwrap();
    }
    shards.sync().await.unwrap();
    let stored = shards.usage().stored;
    let (gone, kept) = all.split_at(16);
    let unknown = small(999).id;
    let ids: Vec<ShardId> = gone.iter().map(|shard| shard.id).chain([unknown]).collect();
    assert_eq!(shards.remove(ids.clone(), Duration::ZERO).await.unwrap(), 16);
    assert_eq!(shards.remove(ids, Duration::ZERO).await.unwrap(), 0);
    assert!(shards.usage().stored < stored / 3, "{} of {stored} left", shards.usage().stored);
    let mut left = shards.usage().stored;
    for shards in [shards, open(home.path())] {
        for shard in gone {
            assert!(is_missing(shards.get(shard.id).await));
        }
        for shard in kept {
            assert_eq!(&shards.get(shard.id).await.unwrap(), shard);
        }
        assert_eq!(shards.usage().stored, left);
        shards.put(gone[0].clone()).await.unwrap();
        assert_eq!(shards.get(gone[0].id).await.unwrap(), gone[0]);
        shards.remove(vec![gone[0].id], Duration::ZERO).await.unwrap();
        left = shards.usage().stored;
    }
}

#[tokio::test]
async fn a_full_volume_is_followed_by_another_and_deleted_when_empty() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let volumes = || fs::read_dir(home.path().join("volumes")).unwrap().count();
    let all: Vec<Shard> = (0..600).map(|n| shard(n, (128 << 10) - n as usize)).collect();
    for shard in &all {
        shards.put(shard.clone()).await.unwrap();
    }
    assert_eq!(volumes(), 2);
    for shard in &all {
        assert_eq!(&shards.get(shard.id).await.unwrap(), shard);
    }
    shards.remove(all[..590].iter().map(|shard| shard.id).collect(), Duration::ZERO).await.unwrap();
    assert_eq!(volumes(), 1);
    let shards = open(home.path());
    assert_eq!(shards.list().len(), 10);
    shards.put(small(1000)).await.unwrap();
    assert_eq!(shards.get(all[599].id).await.unwrap(), all[599]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_at_once_put_sync_get_and_remove_without_losing_anything() {
    let home = tempfile::tempdir().unwrap();
    let shards = Arc::new(open(home.path()));
    let tasks: Vec<_> = (0..8u32)
        .map(|task| {
            let shards = shards.clone();
            tokio::spawn(async move {
                for number in 0..40 {
                    // Every shard is put by two tasks.
                    let number = (task / 2) * 1000 + number;
                    let shard = if number % 4 == 0 { large(number) } else { small(number) };
                    shards.put(shard.clone()).await.unwrap();
                    assert_eq!(shards.get(shard.id).await.unwrap(), shard);
                    if number % 16 == 0 {
                        shards.sync().await.unwrap();
                    }
                    let passing = small(task * 1000 + number + 500);
                    shards.put(passing.clone()).await.unwrap();
                    shards.remove(vec![passing.id], Duration::ZERO).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(shards.list().len(), 160);
    drop(shards);
    let shards = open(home.path());
    assert_eq!(shards.list().len(), 160);
    for id in shards.list() {
        shards.get(id).await.unwrap();
    }
    assert!(aside(home.path()).is_empty());
}

#[tokio::test]
async fn what_piles_up_unsynced_is_synced_without_being_asked() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    let note = |bytes| shards.store.state.lock().unsynced.note(1, bytes);
    assert!(!note(CROWDED - 1));
    assert!(note(1));
    assert!(!note(CROWDED), "asked for once");
    shards.sync().await.unwrap();
    assert!(!note(1));
}

#[tokio::test]
async fn small_shards_left_over_move_together_and_their_volumes_go() {
    let home = tempfile::tempdir().unwrap();
    let shards = open(home.path());
    // One volume and a little more, of shards that leave no whole page when they go.
    let all: Vec<Shard> = (0..18_000).map(|n| shard(n, 3900)).collect();
    for shard in &all {
        shards.put(shard.clone()).await.unwrap();
    }
    let volumes = || fs::read_dir(home.path().join("volumes")).unwrap().count();
    assert_eq!(volumes(), 2);
    let (kept, gone): (Vec<&Shard>, Vec<&Shard>) = all.iter().partition(|shard| shard.id.block.0[0] < 64);
    shards.remove(gone.iter().map(|shard| shard.id).collect(), Duration::ZERO).await.unwrap();
    assert_eq!(volumes(), 1);
    assert!(!first_volume(home.path()).exists());
    for shards in [shards, open(home.path())] {
        assert_eq!(shards.list().len(), kept.len());
        for shard in &kept {
            assert_eq!(&&shards.get(shard.id).await.unwrap(), shard);
        }
    }
}
