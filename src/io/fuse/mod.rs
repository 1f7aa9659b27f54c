//! The mount: kernel requests in, volume calls out.
