//! Who is alive, and who is admitted. Pure.
