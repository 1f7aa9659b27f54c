use super::*;
use proptest::prelude::*;

fn block(len: usize, seed: u64) -> Bytes {
    let mut x = seed | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

fn geometry(data: u8, parity: u8) -> Geometry {
    Geometry { data, parity }
}

/// Every way to keep `geometry.data` of the shards.
fn survivors(geometry: Geometry) -> impl Iterator<Item = Vec<u8>> {
    let n = geometry.shards() as u32;
    (0u32..1 << n)
        .filter(move |kept| kept.count_ones() == u32::from(geometry.data))
        .map(move |kept| (0..n as u8).filter(|index| kept & (1 << index) != 0).collect())
}

fn pick(shards: &[Bytes], kept: &[u8]) -> Vec<(u8, Bytes)> {
    kept.iter().rev().map(|index| (*index, shards[usize::from(*index)].clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_k_shards_give_the_block_back(data in 1u8..=5, parity in 0u8..=3, len in 1usize..300, seed: u64) {
        let (codec, geometry, block) = (Codec::new(), geometry(data, parity), block(len, seed));
        let shards = codec.encode(geometry, &block).unwrap();
        prop_assert_eq!(shards.len(), geometry.shards());
        prop_assert!(shards.iter().all(|shard| shard.len() == geometry.shard_bytes(len)));
        for kept in survivors(geometry) {
            let got = codec.decode(geometry, len as u32, pick(&shards, &kept)).unwrap();
            prop_assert_eq!(&got, &block);
        }
    }

    #[test]
    fn a_rebuilt_shard_is_the_one_that_was_lost(data in 1u8..=4, parity in 1u8..=3, len in 1usize..200, seed: u64) {
        let (codec, geometry, block) = (Codec::new(), geometry(data, parity), block(len, seed));
        let shards = codec.encode(geometry, &block).unwrap();
        for kept in survivors(geometry) {
            let lost: Vec<u8> = (0..geometry.shards() as u8).filter(|index| !kept.contains(index)).collect();
            let rebuilt = codec.rebuild(geometry, len as u32, pick(&shards, &kept), &lost).unwrap();
            for (index, bytes) in lost.iter().zip(rebuilt) {
                prop_assert_eq!(&bytes, &shards[usize::from(*index)]);
            }
        }
    }

    #[test]
    fn shards_of_any_kind_never_make_it_panic(
        data: u8, parity: u8, len in 0u32..64,
        shards in prop::collection::vec((0u8..40, prop::collection::vec(any::<u8>(), 0..20)), 0..12),
    ) {
        let codec = Codec::new();
        let shards: Vec<_> = shards.into_iter().map(|(index, bytes)| (index, Bytes::from(bytes))).collect();
        let _ = codec.decode(geometry(data, parity), len, shards.clone());
        let _ = codec.rebuild(geometry(data, parity), len, shards, &[0, 7, 255]);
    }
}

#[test]
fn a_whole_block_survives_the_loss_of_any_two_of_4_plus_2() {
    let (codec, geometry, block) = (Codec::new(), geometry(4, 2), block(1 << 20, 7));
    let shards = codec.encode(geometry, &block).unwrap();
    for kept in survivors(geometry) {
        assert!(codec.decode(geometry, 1 << 20, pick(&shards, &kept)).unwrap() == block);
    }
}

#[test]
fn whole_data_shards_are_slices_of_the_block() {
    let block = block(1003, 3);
    let shards = Codec::new().encode(geometry(4, 2), &block).unwrap();
    for (index, shard) in shards[..3].iter().enumerate() {
        assert_eq!(shard.as_ptr(), block[index * 251..].as_ptr());
    }
    assert_eq!(shards[3][250], 0);
}

#[test]
fn a_copy_is_neither_coded_nor_copied() {
    let (codec, block) = (Codec::new(), block(99, 5));
    let shards = codec.encode(geometry(1, 2), &block).unwrap();
    assert!(shards.iter().all(|shard| shard.as_ptr() == block.as_ptr()));
    let got = codec.decode(geometry(1, 2), 99, vec![(2, shards[2].clone())]).unwrap();
    assert_eq!(got.as_ptr(), block.as_ptr());
}

#[test]
fn the_code_stays_what_its_id_says() {
    // Shards on disks were written with it: a change of these bytes needs another CODE_ID.
    let shards = Codec::new().encode(geometry(3, 2), &Bytes::from_static(b"shoal!")).unwrap();
    assert_eq!(shards[..3], [&b"sh"[..], b"oa", b"l!"]);
    assert_eq!([&shards[3][..], &shards[4][..]], GOLDEN);
}

#[test]
fn an_unusual_geometry_does_as_well() {
    let (codec, block) = (Codec::new(), block(70_001, 11));
    for geometry in [geometry(16, 16), geometry(31, 1), geometry(2, 30), geometry(1, 31), geometry(32, 0)] {
        let shards = codec.encode(geometry, &block).unwrap();
        let last: Vec<u8> = (geometry.parity..geometry.shards() as u8).collect();
        assert_eq!(codec.decode(geometry, 70_001, pick(&shards, &last)).unwrap(), block);
    }
}

#[test]
fn one_codec_serves_all_tasks() {
    let (codec, block) = (Codec::new(), block(1000, 9));
    let shards = codec.encode(geometry(3, 2), &block).unwrap();
    std::thread::scope(|scope| {
        for kept in survivors(geometry(3, 2)) {
            let (codec, block, shards) = (&codec, &block, pick(&shards, &kept));
            scope.spawn(move || assert_eq!(&codec.decode(geometry(3, 2), 1000, shards).unwrap(), block));
        }
    });
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let codec = Codec::new();
    let block = block(10, 1);
    let shards = codec.encode(geometry(2, 1), &block).unwrap();
    let decode = |len, shards| codec.decode(geometry(2, 1), len, shards).unwrap_err();
    let unfit = |error| matches!(error, CodecError::Unfit { .. });

    assert_eq!(codec.encode(geometry(2, 1), &Bytes::new()), Err(CodecError::Empty));
    assert_eq!(codec.encode(geometry(0, 1), &block), Err(CodecError::Geometry { data: 0, parity: 1 }));
    assert_eq!(codec.encode(geometry(30, 3), &block), Err(CodecError::Geometry { data: 30, parity: 3 }));
    assert_eq!(decode(0, vec![]), CodecError::Empty);
    assert_eq!(decode(10, vec![(1, shards[1].clone())]), CodecError::TooFew { have: 1, need: 2 });
    assert!(unfit(decode(10, vec![(0, shards[0].clone()), (0, shards[0].clone())])));
    assert!(unfit(decode(10, vec![(0, shards[0].clone()), (3, shards[1].clone())])));
    assert!(unfit(decode(10, vec![(0, shards[0].clone()), (1, shards[1].slice(1..))])));
    assert!(unfit(codec.rebuild(geometry(2, 1), 10, pick(&shards, &[0, 1]), &[3]).unwrap_err()));
}

/// The polynomial through (0, "sh"), (1, "oa"), (2, "l!"), at 3 and 4.
const GOLDEN: [&[u8]; 2] = [&[112, 40], &[209, 139]];
