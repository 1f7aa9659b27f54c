//! What peers say to one another, byte for byte, and its bounds.
