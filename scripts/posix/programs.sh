# Sourced by posix.sh: programs that people run. Each leaves its work in a directory of the share, and compares it
# through the other machine's mount.

# plant DIR: some 5,000 small files in 100 directories, with links, modes, times, attributes and holes.
plant() {
    mkdir -p "$1"
    python3 - "$1" <<'PY'
import os, random, sys
root, draw = sys.argv[1], random.Random(5)
for d in range(100):
    here = f"{root}/dir {d:03}"
    os.mkdir(here, 0o755 if d % 7 else 0o750)
    for f in range(48):
        path = f"{here}/file-{f:02}"
        with open(path, "wb") as out:
            out.write(draw.randbytes(draw.choice((0, 1, 100, 4095, 4096, 4097, 20000))))
        os.chmod(path, draw.choice((0o600, 0o644, 0o755, 0o4755, 0o2711)))
        os.utime(path, ns=(10**18 + f, 10**18 + 1000 * d + f))
    os.symlink(f"../dir {(d + 1) % 100:03}/file-00", f"{here}/a symlink")
    os.link(f"{here}/file-01", f"{here}/a link")
    os.setxattr(f"{here}/file-02", "user.colour", draw.randbytes(40))
    with open(f"{here}/holes", "wb") as out:
        out.seek(3 << 20)
        out.write(b"end")
    os.mkfifo(f"{here}/fifo")
PY
}

git_repository() {
    local source=$work/git-source clone=$mount/git-clone there=$other/git-clone n
    export GIT_CONFIG_GLOBAL=$work/gitconfig
    git config --global user.email a@example.com
    git config --global user.name a
    git config --global safe.directory '*'
    git init --quiet "$source"
    for n in 1 2 3; do
        mkdir -p "$source/$n"
        for file in $(seq 500); do echo "$n $file $((file * n))" >"$source/$n/$file.txt"; done
        git -C "$source" add .
        git -C "$source" commit --quiet -m "part $n"
    done
    git clone --quiet --no-local "$source" "$clone"
    git -C "$clone" fsck --full --strict
    git -C "$there" fsck --full --strict
    for n in $(seq 20); do
        echo "$n" >>"$clone/1/$n.txt"
        git -C "$clone" commit --quiet -am "change $n"
    done
    git -C "$clone" gc --quiet --prune=now
    git -C "$there" fsck --full --strict
    [ -z "$(git -C "$there" status --porcelain)" ]
    # And on from the other machine.
    echo more >"$there/more"
    git -C "$there" add more
    git -C "$there" commit --quiet -m more
    git -C "$clone" fsck --full --strict
    [ "$(git -C "$clone" rev-parse HEAD)" = "$(git -C "$there" rev-parse HEAD)" ]
    diff -r "$clone" "$there"
    echo "clone, commits, gc, fsck on both machines: $(git -C "$there" count-objects -v | awk '/in-pack/ {print $2}') objects"
}

tar_tree() {
    [ -d "$work/tree" ] || plant "$work/tree"
    mkdir "$mount/tar"
    tar --xattrs -C "$work/tree" -cf "$work/tree.tar" .
    tar --xattrs --numeric-owner -C "$mount/tar" -xpf "$work/tree.tar"
    tar --xattrs -C "$mount/tar" -df "$work/tree.tar"
    tar --xattrs -C "$other/tar" -df "$work/tree.tar"
    # Archived from the other machine it is what it was.
    tar --xattrs -C "$other/tar" -cf "$work/back.tar" .
    tar --xattrs -C "$work/tree" -df "$work/back.tar"
    echo "$(tar -tf "$work/back.tar" | wc -l) entries, the same on both machines"
}

rsync_tree() {
    [ -d "$work/tree" ] || plant "$work/tree"
    rsync -aHX --delete "$work/tree/" "$mount/rsync/"
    local moved
    moved=$(rsync -aHXi --delete "$work/tree/" "$mount/rsync/")
    moved+=$(rsync -aHXci --delete --dry-run "$work/tree/" "$other/rsync/")
    [ -z "$moved" ] || { head <<<"$moved"; echo "a second run moves $(wc -l <<<"$moved") of them"; return 1; }
    rm -r "$work/tree/dir 001" && echo new >"$work/tree/dir 002/file-03"
    rsync -aHX --delete "$work/tree/" "$other/rsync/"
    moved=$(rsync -aHXci --delete --dry-run "$work/tree/" "$mount/rsync/")
    [ -z "$moved" ] || { head <<<"$moved"; echo "what the other machine changed differs"; return 1; }
    echo "the second run moves nothing, on either machine"
}

# Four processes on one machine, each 60 read-modify-writes, in both ways of keeping a journal.
sqlite_processes() {
    local mode db n pids=()
    for mode in delete wal; do
        db=$mount/sqlite-$mode.db
        sqlite3 "$db" "pragma journal_mode=$mode; create table t (n integer); insert into t values (0);"
        for n in 1 2 3 4; do
            (for _ in $(seq 60); do
                sqlite3 -cmd ".timeout 60000" "$db" "begin immediate; update t set n = n + 1; commit;"
            done) &
            pids+=($!)
        done
        for n in "${pids[@]}"; do wait "$n"; done
        pids=()
        [ "$(sqlite3 "$db" 'select n from t')" = 240 ] || { echo "$mode: $(sqlite3 "$db" 'select n from t') of 240"; return 1; }
        [ "$(sqlite3 "$db" 'pragma integrity_check')" = ok ] || { echo "$mode: damaged"; return 1; }
    done
    [ "$(sqlite3 "$other/sqlite-delete.db" 'select n from t')" = 240 ]
    echo "240 changes by four processes, rollback journal and WAL"
}

# This project, from its sources on the mount to a program that the other machine runs.
cargo_project() {
    local dir=$mount/cargo
    git clone --quiet --no-local . "$dir"
    (cd "$dir" && timeout 1800 cargo build --locked --quiet)
    "$other/cargo/target/debug/shoal" --version
    cmp "$dir/target/debug/shoal" "$other/cargo/target/debug/shoal"
    echo "built on one machine, run on the other: $(du -sm "$dir/target" | cut -f1) MiB of products"
}

make_project() {
    local dir=$mount/make there=$other/make n
    mkdir "$dir"
    for n in $(seq 80); do
        printf '#include "all.h"\nint f%s(int x) { return x + %s; }\n' "$n" "$n" >"$dir/f$n.c"
        echo "int f$n(int);" >>"$dir/all.h"
    done
    {
        printf '#include "all.h"\n#include <stdio.h>\nint main(void) { int x = 0;\n'
        for n in $(seq 80); do echo "x = f$n(x);"; done
        printf 'printf("%%d\\n", x); return 0; }\n'
    } >"$dir/main.c"
    cat >"$dir/Makefile" <<'MAKE'
objects := $(patsubst %.c,%.o,$(wildcard *.c))
sum: $(objects)
	$(CC) -o $@ $^
%.o: %.c all.h
	$(CC) -c -o $@ $<
MAKE
    make -C "$dir" -j4 --quiet
    [ "$("$there/sum")" = 3240 ]
    [ "$(make -C "$dir" -j4 --question && echo done)" = done ]
    # Edited on the other machine, built here.
    sed -i 's/x + 7;/x + 8;/' "$there/f7.c"
    make -C "$dir" -j4 --quiet
    [ "$("$dir/sum")" = 3241 ]
    echo "81 sources; what the other machine edits is built anew"
}

editors() {
    local dir=$mount/editors there=$other/editors how
    mkdir "$dir"
    for how in yes no auto; do
        echo "first line" >"$dir/$how"
        chmod 640 "$dir/$how"
        vim -u NONE -i NONE -n -es -c "set backup backupcopy=$how" -c 'normal osecond line' -c 'wq' "$dir/$how" </dev/null
        [ "$(cat "$there/$how")" = $'first line\nsecond line' ] || { echo "vim, backupcopy=$how"; return 1; }
        [ "$(stat -c %a "$there/$how")" = 640 ] || { echo "vim, backupcopy=$how, mode"; return 1; }
        sed -i 's/second/third/' "$there/$how"
        [ "$(tail -n 1 "$dir/$how")" = "third line" ] || { echo "sed -i"; return 1; }
    done
    echo "vim with each backupcopy, sed -i"
}
