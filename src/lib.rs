//! Shoal: one directory on several Linux machines, with no server and no special machine.
//!
//! In reading order: the values every part shares ([`id`], [`time`], [`policy`], [`config`]); the pure cores,
//! which decide and never touch a clock, a socket or a disk ([`erasure`], [`namespace`], [`group`],
//! [`overlay`], [`peer`]); the data path, which moves bytes over small traits ([`volume`]); the messages
//! ([`wire`]); the devices, which do not know one another ([`io`]); the commands ([`cli`]).

pub mod cli;
pub mod config;
pub mod erasure;
pub mod group;
pub mod id;
pub mod io;
pub mod namespace;
pub mod overlay;
pub mod peer;
pub mod policy;
pub mod sim;
pub mod time;
pub mod volume;
pub mod wire;
