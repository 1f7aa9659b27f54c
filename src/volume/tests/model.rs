//! A file against a vector of bytes.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize),
    Read(usize, usize),
    Truncate(usize),
    Punch(usize, usize),
    Flush,
    Fsync,
    Reopen(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = || prop_oneof![0usize..8192, 0usize..3 * MIB, Just(MIB - 1), Just(MIB)];
    let len = || prop_oneof![1usize..200, 1usize..10_000, 1usize..2 * MIB];
    prop_oneof![
        6 => (offset(), len()).prop_map(|(at, len)| Step::Write(at, len)),
        4 => (offset(), len()).prop_map(|(at, len)| Step::Read(at, len)),
        2 => offset().prop_map(Step::Truncate),
        2 => (offset(), len()).prop_map(|(at, len)| Step::Punch(at, len)),
        2 => Just(Step::Flush),
        1 => Just(Step::Fsync),
        2 => (0usize..6).prop_map(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_file_reads_as_it_was_written(
        steps in proptest::collection::vec(step(), 1..40),
        kept in prop_oneof![Just("rs:4+2"), Just("replicate:3"), Just("survive:2"), Just("replicate:1")],
    ) {
        run(async move {
            let share = Share::new(6);
            let volumes: Vec<Volume> = (0..6).map(|n| share.volume(n)).collect();
            let ino = share.create(0, "file", policy(kept));
            let mut at = 0;
            let mut handle = volumes[at].open(ino, RW).await.unwrap().handle;
            let mut model: Vec<u8> = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                let volume = &volumes[at];
                match step {
                    Step::Write(offset, len) => {
                        let data = noise(n as u64 + 1, len);
                        write(volume, handle, offset as u64, &data).await.unwrap();
                        model.resize(model.len().max(offset + len), 0);
                        model[offset..offset + len].copy_from_slice(&data);
                    }
                    Step::Read(offset, len) => {
                        let got = volume.read(handle, offset as u64, len as u32).await.unwrap();
                        let (from, to) = (offset.min(model.len()), (offset + len).min(model.len()));
                        assert!(got == model[from..to], "read of {len} at {offset}");
                    }
                    Step::Truncate(size) => {
                        volume.truncate(ino, size as u64).await.unwrap();
                        model.resize(size, 0);
                    }
                    Step::Punch(offset, len) => {
                        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                        volume.allocate(handle, offset as u64, len as u64, mode).await.unwrap();
                        let (from, to) = (offset.min(model.len()), (offset + len).min(model.len()));
                        model[from..to].fill(0);
                    }
                    Step::Flush => volume.flush(handle).await.unwrap(),
                    Step::Fsync => volume.fsync(handle).await.unwrap(),
                    Step::Reopen(peer) => {
                        volume.flush(handle).await.unwrap();
                        volume.release(handle).await;
                        volume.drop_caches();
                        at = peer;
                        handle = volumes[at].open(ino, RW).await.unwrap().handle;
                    }
                }
                assert_eq!(volumes[at].attributes(ino).unwrap().size, model.len() as u64);
            }
            volumes[at].flush(handle).await.unwrap();
            volumes[at].release(handle).await;
            // Blocks that were overwritten before they were stored may still be on their way.
            while volumes[at].dirty_bytes() > 0 {
                tokio::task::yield_now().await;
            }
            assert!(read_all(&volumes[(at + 1) % 6], ino).await.unwrap() == model);
        });
    }
}
