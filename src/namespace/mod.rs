//! The namespace: one log of ops, one order, one apply. Pure: time and ops come in, records come out.

mod op;
mod record;

pub use op::*;
pub use record::*;

/// placeholder
pub struct Namespace {}
