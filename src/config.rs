//! Every setting, with its default and its reason; `config.toml` in a home overrides them.
