#!/usr/bin/env bash
# Builds shoal and shows its main job on this machine: files go in, machines die, files come out.
# Arguments go to `shoal demo`; see `./scripts/demo.sh --help`.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

needs_toolchain
needs_fuse
cargo build --release --locked --quiet
exec target/release/shoal demo "$@"
