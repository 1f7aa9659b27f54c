# Sourced: the suites that come as crates, built once under target/tools.

tools=$PWD/target/tools
install_tool() {
    [ -x "$tools/bin/$1" ] || cargo install "$1" --version "$2" --locked --quiet --root "$tools" --target-dir "$tools/build"
}
install_tool pjdfstest 0.2.2
install_tool fsx 0.3.2
