//! Groups: their state, and who is chosen for them. Pure.
