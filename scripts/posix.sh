#!/usr/bin/env bash
# The public file system suites, on a mount of a share of six peers under rs:4+2: pjdfstest (at least 370 of its
# 398 tests) and fsx (10,000 operations, three seeds, no difference). Needs root.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

least=370
[ "$(id -u)" = 0 ] || fail "pjdfstest changes users: run this as root"
needs_toolchain
needs_fuse
needs useradd=passwd timeout=coreutils

tools=$PWD/target/tools
install_tool() {
    [ -x "$tools/bin/$1" ] || cargo install "$1" --version "$2" --locked --quiet --root "$tools" --target-dir "$tools/build"
}
install_tool pjdfstest 0.2.2
install_tool fsx 0.3.2
for user in tests pjdfstest; do
    id "$user" >/dev/null 2>&1 || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "$user"
done
# SHOAL: the program to test; by default the one of `cargo build`.
if [ -z "${SHOAL:-}" ]; then
    cargo build --locked --quiet
    SHOAL=$PWD/target/debug/shoal
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/shoal-posix-XXXXXX")
second=$(mktemp -d /dev/shm/shoal-posix-XXXXXX)
mount=$work/mnt
pids=()
cleanup() {
    umount -l "$mount" 2>/dev/null || true
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    umount -l "$mount" 2>/dev/null || true
    # Never delete through a mount.
    mountpoint -q "$mount" || rm -rf "$work"
    rm -rf "$second"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# The suite's own users walk through these.
chmod 755 "$work"
mkdir "$mount"

# on PEER COMMAND...: a shoal command there, with a deadline.
on() { SHOAL_HOME=$work/home$1 timeout 60 "$SHOAL" "${@:2}"; }
# start PEER COMMAND...: a peer in the background of this script; waits until it answers.
start() {
    SHOAL_HOME=$work/home$1 "$SHOAL" "${@:2}" >>"$work/log$1" 2>&1 &
    pids+=($!)
    for _ in $(seq 600); do
        on "$1" status --json >/dev/null 2>&1 && return
        kill -0 "${pids[-1]}" 2>/dev/null || break
        sleep 0.1
    done
    fail "peer $1 did not start: $(tail -n 5 "$work/log$1")"
}

say "Starting six peers"
port=$((20000 + RANDOM % 20000))
on 0 init --listen "127.0.0.1:$port" --name peer0 --policy rs:4+2 >/dev/null
start 0 mount "$mount" --foreground
for peer in 1 2 3 4 5; do
    ticket=$(on 0 invite)
    on "$peer" join "$ticket" --listen "127.0.0.1:$((port + peer))" --name "peer$peer" >/dev/null
    start "$peer" serve --foreground
done
mountpoint -q "$mount" || fail "the share is not mounted: $(tail -n 5 "$work/log0")"

say "pjdfstest"
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
mkdir "$mount/pjd"
chmod 755 "$mount/pjd"
timeout 600 "$tools/bin/pjdfstest" -c "$work/pjd.toml" -p "$mount/pjd" >"$work/pjd.out" 2>&1 || true
grep -E -A1 ' (FAILED|failed)$' "$work/pjd.out" || true
summary=$(grep '^Summary:' "$work/pjd.out") || fail "pjdfstest did not finish: $(tail -n 5 "$work/pjd.out")"
passed=$(sed -E 's/.* ([0-9]+) passed.*/\1/' <<<"$summary")
echo "$summary"

say "fsx"
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
differences=0
for seed in 1 2 3; do
    if timeout 600 "$tools/bin/fsx" -q -q -f "$work/fsx.toml" -N 10000 -S "$seed" -P "$work" "$mount/fsx-$seed" >"$work/fsx.out" 2>&1; then
        echo "seed $seed: 10,000 operations, no difference"
    else
        tail -n 25 "$work/fsx.out"
        echo "seed $seed: FAILED"
        differences=$((differences + 1))
    fi
done

[ "$passed" -ge "$least" ] || fail "pjdfstest: $passed passed, $least are needed"
[ "$differences" = 0 ] || fail "fsx: $differences of 3 seeds failed"
