//! The cores composed: events with the time in, effects out. Pure.
