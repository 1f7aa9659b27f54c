#!/usr/bin/env bash
# What others wrote to try file systems, and programs that people run, on the mounts of a share of six peers under
# rs:4+2. Needs root.
#   --full    more of them: see scripts/posix/
# SUITES: the names of those to run, separated by commas, instead of all.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

full=
case ${1:-} in '') ;; --full) full=1 ;; *) fail "what is $1? (--full, or nothing)" ;; esac
[ "$(id -u)" = 0 ] || fail "pjdfstest changes users: run this as root"
needs_toolchain
needs_fuse
needs useradd=passwd timeout=coreutils git=git rsync=rsync tar=tar sqlite3=sqlite3 python3=python3 setpriv=util-linux pgrep=procps
source scripts/posix/share.sh
source scripts/posix/suites.sh
source scripts/posix/programs.sh
if [ -n "$full" ]; then
    needs fio=fio dbench=dbench stress-ng=stress-ng vim=vim make=make cc=build-essential
    source scripts/posix/servers.sh
    needs_postgres
fi

results=()
# suite NAME COMMAND...: runs it where errors end it, and goes on with the next. The last line that it prints is its
# result.
suite() {
    local name=$1 from=$SECONDS rc=0
    [ -z "${SUITES:-}" ] || [[ ,$SUITES, == *",$name,"* ]] || return 0
    say "$name"
    (set -e; trap - EXIT; "${@:2}") >"$work/out" 2>&1 &
    running=$!
    wait "$running" || rc=$?
    running=
    local last
    last=$(tail -n 1 "$work/out")
    if [ "$rc" = 0 ]; then
        echo "$last"
    else
        tail -n 40 "$work/out"
        last="FAILED: $last"
        failed=$((failed + 1))
    fi
    results+=("$(printf '%5s s  %-22s %s' $((SECONDS - from)) "$name" "$last")")
}
failed=0

start_share
suite pjdfstest pjdfstest
suite fsx fsx_seeds rs:4+2 10000 1 2 3
suite git git_repository
suite tar tar_tree
suite rsync rsync_tree
suite SQLite sqlite_processes
if [ -n "$full" ]; then
    suite "fsx rs:4+2, deaths" fsx_among_deaths rs:4+2 100000 $(seq 101 120)
    suite "fsx replicate:3, deaths" fsx_among_deaths replicate:3 100000 $(seq 121 140)
    suite fio fio_verified
    suite make make_project
    suite cargo cargo_project
    suite editors editors
    suite dbench dbench_clients
    suite stress-ng stress_filesystem
    suite PostgreSQL postgres
fi

say "Results"
printf '%s\n' "${results[@]}"
[ "$failed" = 0 ] || fail "$failed of ${#results[@]} failed"
