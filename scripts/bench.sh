#!/usr/bin/env bash
# Six peers on this machine: what writing and reading a large file costs under rs:4+2 and replicate:3, beside the
# machine's own limits in the same run. Prints Markdown for docs/benchmarks.md. Needs root, to read cold.
#   SHOAL_BENCH_MIB=1024   size of the file
#   SHOAL_BENCH_ROUNDS=3   times each figure is taken; the median is shown
#   TMPDIR=/tmp            the disk to use
set -euo pipefail
source "$(dirname "$0")/setup.sh"

[ "$(id -u)" = 0 ] || fail "dropping the kernel's caches takes root: run this as root"
needs_toolchain
needs_fuse
SHOAL_TEST_FULL=1 exec cargo bench --locked --quiet --bench share -- "$@"
