# Sourced by the other scripts: the way to the repository, and the system packages it needs.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# needs COMMAND=PACKAGE...: makes sure that the commands are there. As root on a Debian system missing packages
# are installed; anyone else is told the command that does it.
needs() {
    local pair missing=()
    for pair in "$@"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "Installing ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq || true
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null \
            || fail "could not install ${missing[*]}; try: apt-get install ${missing[*]}"
    else
        fail "missing system packages; run: sudo apt-get install ${missing[*]}"
    fi
}

# What building takes: a Rust toolchain, and a C compiler for the codec and the ciphers.
needs_toolchain() {
    if [ -f "$HOME/.cargo/env" ]; then . "$HOME/.cargo/env"; fi
    command -v cargo >/dev/null || fail "no cargo here: install a Rust toolchain first, see https://rustup.rs"
    needs cc=build-essential
}

# What mounting takes. /dev/fuse is the kernel's; fusermount3 mounts for people who are not root.
needs_fuse() {
    needs fusermount3=fuse3 mount=mount
    if [ ! -e /dev/fuse ] && [ "$(id -u)" = 0 ]; then modprobe fuse 2>/dev/null || true; fi
    [ -e /dev/fuse ] || fail "there is no /dev/fuse here: load the kernel's fuse module (modprobe fuse), or give the container the device"
}
