//! Shares of real processes, real mounts and real networks. One program, so that the harness is built once; a
//! part of it runs with `cargo test --test mounts promises::`. `SHOAL_TEST_FULL=1` takes sizes of a release.

mod clocks;
mod coherence;
mod commands;
mod crash;
mod groups;
mod harness;
mod healing;
mod joining;
mod latency;
mod looking_after;
mod model;
mod namespaces;
mod offline;
mod operations;
mod partitions;
mod promises;
mod refusals;
mod restart;
mod search;
mod self_check;
mod share;
mod simulations;
mod stuck;
mod thrash;
mod together;
