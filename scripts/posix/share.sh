# Sourced by posix.sh: a share of six peers, mounted by the first two of them at $mount and $other.

source scripts/posix/tools.sh
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
other=$work/other
# The suite under way: in the background, so an interrupt does not reach it by itself.
running=
cleanup() {
    if [ -n "$running" ]; then pkill -TERM -P "$running" || true; kill "$running" 2>/dev/null || true; fi
    umount -f -l "$mount" "$other" 2>/dev/null || true
    # A suite may have started peers anew: they are no children of this shell.
    for peer in "$work"/pid*; do [ ! -e "$peer" ] || kill_peer "${peer##*pid}"; done
    wait 2>/dev/null || true
    umount -f -l "$mount" "$other" 2>/dev/null || true
    # Never delete through a mount.
    mountpoint -q "$mount" || mountpoint -q "$other" || rm -rf "$work"
    rm -rf "$second"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# The suite's own users walk through these.
chmod 755 "$work"
mkdir "$mount" "$other"

# on PEER COMMAND...: a shoal command there, with a deadline.
on() { SHOAL_HOME=$work/home$1 timeout 60 "$SHOAL" "${@:2}"; }
# start PEER COMMAND...: a peer in the background of this script; waits until it answers.
start() {
    SHOAL_HOME=$work/home$1 "$SHOAL" "${@:2}" >>"$work/log$1" 2>&1 &
    echo $! >"$work/pid$1"
    disown
    for _ in $(seq 600); do
        on "$1" status --json >/dev/null 2>&1 && return
        kill -0 "$(cat "$work/pid$1")" 2>/dev/null || break
        sleep 0.1
    done
    fail "peer $1 did not start: $(tail -n 5 "$work/log$1")"
}
# kill_peer PEER: with SIGKILL; returns when it is gone.
kill_peer() {
    local pid
    pid=$(cat "$work/pid$1")
    kill -KILL "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null && [ "$(ps -o stat= -p "$pid" | cut -c1)" != Z ]; do sleep 0.05; done
}

start_share() {
    say "Starting six peers"
    local port=$((20000 + RANDOM % 20000)) peer ticket
    on 0 init --listen "127.0.0.1:$port" --name peer0 --policy rs:4+2 >/dev/null
    start 0 mount "$mount" --foreground
    for peer in 1 2 3 4 5; do
        ticket=$(on 0 invite)
        on "$peer" join "$ticket" --listen "127.0.0.1:$((port + peer))" --name "peer$peer" >/dev/null
        if [ "$peer" = 1 ]; then
            start 1 mount "$other" --foreground
        else
            start "$peer" serve --foreground
        fi
    done
    mountpoint -q "$mount" && mountpoint -q "$other" || fail "the share is not mounted: $(tail -n 5 "$work/log0")"
}
