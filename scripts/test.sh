#!/usr/bin/env bash
# Every check there is. Needs root for the mounts and network namespaces of the tests.
#   --full    sizes of a release: thousands of files, 1 GiB, every pair of dead machines
#   --quick   no mounts: formats, lints, docs, unit and property tests
set -euo pipefail
source "$(dirname "$0")/setup.sh"

mode=${1:-}
case $mode in '' | --full | --quick) ;; *) fail "what is $mode? (--full or --quick, or nothing)" ;; esac

needs_toolchain
needs git=git
started=$SECONDS
summary=()

step() {
    local name=$1 from=$SECONDS
    shift
    say "$name"
    if "$@"; then
        summary+=("ok      $((SECONDS - from)) s  $name")
    else
        summary+=("FAILED  $((SECONDS - from)) s  $name")
        finish 1
    fi
}

# beside NAME COMMAND...: runs it beside the next steps, in what that leaves of the processors: machines in tests mostly
# wait for one another.
beside() {
    beside=$1
    log=$(mktemp)
    (chrt --idle --pid 0 "$BASHPID" >/dev/null && "${@:2}") >"$log" 2>&1 &
    running=$!
}

# The step that runs beside has ended, or is waited for.
joined() {
    local rc=0
    wait "$running" || rc=$?
    running=
    cat "$log"
    rm -f "$log"
    return "$rc"
}

cleanup() {
    if [ -n "${running:-}" ]; then
        pkill -TERM -P "$running" || true
        kill "$running" 2>/dev/null || true
        rm -f "$log"
    fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

finish() {
    say "Summary"
    printf '%s\n' "${summary[@]}"
    printf 'in all %s s\n' $((SECONDS - started))
    exit "$1"
}

# What people run: the seeds, the machines of the mount tests, and the suites all run this build. Then what the suites need.
optimised() {
    ./scripts/sim.sh 200 --from 0 && source scripts/posix/tools.sh
}

docs() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet; }

step "Format" cargo fmt --check
if [ "$mode" != --quick ]; then
    [ "$(id -u)" = 0 ] || fail "the mount tests need root (mounts for all users, network namespaces): run this as root, or with --quick"
    needs_fuse
    needs chrt=util-linux pkill=procps ip=iproute2 nsenter=util-linux setfattr=attr setcap=libcap2-bin vim=vim rsync=rsync sqlite3=sqlite3 tar=tar timeout=coreutils
    beside "Optimised build, seeds of all faults at once" optimised
fi
step "Lints" cargo clippy --locked --all-targets --quiet -- -D warnings
step "Documentation" docs
step "Unit and property tests" cargo test --locked --no-fail-fast --lib --bins --test architecture
[ "$mode" != --quick ] || finish 0

if [ "$mode" = --full ]; then export SHOAL_TEST_FULL=1; fi
step "Build of the mount tests" cargo test --locked --test mounts --no-run --quiet
step "$beside" joined
mounts() {
    # Machines mostly wait for one another, optimised ones more than others.
    RUST_TEST_THREADS=3 SHOAL_TEST_CLUSTERS=3 SHOAL_TEST_PROGRAM=$PWD/target/release/shoal \
        cargo test --locked --no-fail-fast --test mounts
}
step "Mount tests" mounts
SHOAL=$PWD/target/release/shoal step "POSIX suites" ./scripts/posix.sh
finish 0
