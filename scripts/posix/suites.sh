# Sourced by posix.sh: suites that others wrote to try file systems.

# At least so many of pjdfstest's 398 tests have to pass.
pjdfstest_least=384

pjdfstest() {
    cat >"$work/pjd.toml" <<TOML
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
stat_st_birthtime = {}
secondary_fs = "$second"
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["tests", "tests"], ["pjdfstest", "pjdfstest"]]
TOML
    mkdir -p "$mount/pjd"
    chmod 755 "$mount/pjd"
    timeout 600 "$tools/bin/pjdfstest" -c "$work/pjd.toml" -p "$mount/pjd" >"$work/pjd.out" 2>&1 || true
    grep -E -A1 ' (FAILED|failed)$' "$work/pjd.out" || true
    local summary passed
    summary=$(grep '^Summary:' "$work/pjd.out") || { tail -n 5 "$work/pjd.out"; echo "it did not finish"; return 1; }
    passed=$(sed -E 's/.* ([0-9]+) passed.*/\1/' <<<"$summary")
    echo "${summary#Summary: }"
    [ "$passed" -ge "$pjdfstest_least" ] && ! grep -q ' [1-9][0-9]* failed' <<<"$summary"
}

# fsx_seeds POLICY OPERATIONS SEED...: random operations held against a model.
fsx_seeds() {
    local policy=$1 operations=$2 dir=$mount/fsx-$1 seed
    shift 2
    cat >"$work/fsx.toml" <<'TOML'
flen = 1048576
[opsize]
max = 65536
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 5
fsync = 1
fdatasync = 1
posix_fallocate = 2
punch_hole = 2
sendfile = 2
posix_fadvise = 1
copy_file_range = 5
TOML
    mkdir "$dir"
    on 0 policy "$dir" "$policy"
    for seed in "$@"; do
        timeout 1800 "$tools/bin/fsx" -q -q -f "$work/fsx.toml" -N "$operations" -S "$seed" -P "$work" "$dir/$seed" \
            || { echo "seed $seed differs"; return 1; }
        # What the model says it is, the other machine has, too.
        cmp "$dir/$seed" "$other/fsx-$policy/$seed"
    done
    echo "$# seeds of $operations operations, no difference"
}

# fsx_among_deaths POLICY OPERATIONS SEED...: likewise; on every other seed two peers are killed and come back all the
# while.
fsx_among_deaths() {
    local policy=$1 operations=$2 seed deaths=0 pid
    for seed in "${@:3}"; do
        rm -rf "$mount/fsx-$policy"
        if [ $((seed % 2)) = 1 ]; then
            fsx_seeds "$policy" "$operations" "$seed" || return 1
            continue
        fi
        fsx_seeds "$policy" "$operations" "$seed" >"$work/fsx.out" 2>&1 &
        pid=$!
        # The same two each time: what they lack for having been away nobody else does.
        while kill -0 "$pid" 2>/dev/null; do
            kill_peer 4
            kill_peer 5
            deaths=$((deaths + 2))
            sleep 8
            start 4 serve --foreground
            start 5 serve --foreground
            sleep 8
        done
        wait "$pid" || { cat "$work/fsx.out"; return 1; }
    done
    echo "$(($# - 2)) seeds of $operations operations, no difference; peers were killed $deaths times"
}

# Random and sequential, small and large, buffered, direct and mapped, with fsync and without: what was written is read.
fio_verified() {
    local count=0 dir=$mount/fio pattern bytes how
    mkdir "$dir"
    for how in "psync" "psync --direct=1" "psync --fsync=16" "mmap"; do
        for pattern in randrw rw; do
            for bytes in 4k 64k 1m; do
                # shellcheck disable=SC2086
                timeout 300 fio --name=verified --directory="$dir" --size=16m --numjobs=2 --ioengine=$how \
                    --rw="$pattern" --bs="$bytes" --verify=crc32c --verify_state_save=0 --do_verify=1 --verify_fatal=1 --group_reporting \
                    --output-format=terse >/dev/null || { echo "$how, $pattern, $bytes"; return 1; }
                count=$((count + 1))
                rm -f "$dir"/verified*
            done
        done
    done
    echo "$count runs of two jobs, all verified"
}

dbench_clients() {
    mkdir "$mount/dbench"
    local client
    client=$(dpkg -L dbench | grep -m1 'client.txt$')
    timeout 120 dbench -c "$client" -D "$mount/dbench" -t 20 4 | tail -n 5
    [ -z "$(find "$other/dbench" -type f)" ] || { echo "files are left that it deleted"; return 1; }
    echo "4 clients for 20 s"
}

stress_filesystem() {
    local rc=0
    mkdir "$mount/stress"
    timeout 580 stress-ng --temp-path "$mount/stress" --class filesystem --sequential 1 -t 1s --verify --metrics-brief \
        >"$work/stress.out" 2>&1 || rc=$?
    # 3 and 4: some stressor found that it cannot run here, and was left out.
    case $rc in 0 | 3 | 4) ;; *) tail -n 20 "$work/stress.out"; echo "it ended with $rc"; return 1 ;; esac
    if grep -E 'stress-ng: (fail|error):' "$work/stress.out"; then return 1; fi
    grep -E 'skipped|not implemented|unsupported' "$work/stress.out" || true
    echo "$(grep -cE 'metrc: \[[0-9]+\] [a-z-]+ +[0-9]+ ' "$work/stress.out") stressors, none failed"
}
