#!/usr/bin/env bash
# Runs N random seeds (100) of shares under all faults at once, and prints the seed of any failure.
#   ./scripts/sim.sh [N] [--from SEED]
set -euo pipefail
source "$(dirname "$0")/setup.sh"

needs_toolchain
seeds=${1:-100}
shift || true
cargo build --release --locked --quiet
exec target/release/shoal sim faults --seeds "$seeds" "$@"
