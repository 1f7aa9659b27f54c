#!/usr/bin/env bash
# Thrashes a share of real machines, each with a network namespace and a disk directory of its own, for some minutes (10):
# kills, freezes, cuts off, restarts, wipes and adds them while files are written, read and deleted. Needs root.
#   ./scripts/thrash.sh [MINUTES] [SEED]
set -euo pipefail
source "$(dirname "$0")/setup.sh"

minutes=${1:-10}
[[ $minutes =~ ^[0-9]+$ ]] || fail "how many minutes is $minutes?"
[ "$(id -u)" = 0 ] || fail "mounts and network namespaces need root: run this as root"
needs_toolchain
needs_fuse
needs ip=iproute2 nsenter=util-linux
export SHOAL_THRASH_SECONDS=$((minutes * 60))
if [ -n "${2:-}" ]; then export SHOAL_THRASH_SEED=$2; fi
exec cargo test --release --locked --quiet --test mounts thrash:: -- --nocapture
