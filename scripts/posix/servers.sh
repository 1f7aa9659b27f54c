# Sourced by posix.sh: a database server, killed while it writes.

needs_postgres() {
    needs initdb=postgresql
    pg=$(dirname "$(readlink -f "$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | tail -n 1 || command -v initdb)")")
}

# as_tests COMMAND...: as a user that PostgreSQL accepts.
as_tests() { setpriv --reuid tests --regid tests --clear-groups env PATH="$pg:$PATH" HOME="$work" "$@"; }

postgres() {
    local dir=$mount/postgres log=$work/postgres.log said
    data=$dir/data
    mkdir "$dir"
    chown tests:tests "$dir"
    touch "$log" && chown tests:tests "$log"
    cd "$dir"
    as_tests initdb --pgdata "$data" --data-checksums --auth trust >/dev/null
    local server=(-h "$second" -U tests)
    chown tests:tests "$second"
    start_server() {
        as_tests pg_ctl --pgdata "$data" --log "$log" --wait --timeout 120 \
            -o "-c listen_addresses='' -c unix_socket_directories='$second'" start >/dev/null \
            || { tail -n 20 "$log"; echo "it does not start"; return 1; }
    }
    start_server
    trap 'as_tests pg_ctl --pgdata "$data" --mode immediate stop >/dev/null 2>&1 || true' EXIT
    as_tests createdb "${server[@]}" bank
    as_tests pgbench "${server[@]}" --initialize --scale 3 --quiet bank 2>/dev/null
    # Killed in the midst of it: every process of the server at once.
    (as_tests pgbench "${server[@]}" --client 4 --time 15 bank >/dev/null 2>&1 || true) &
    local bench=$!
    sleep 8
    local postmaster
    postmaster=$(head -n 1 "$data/postmaster.pid")
    # shellcheck disable=SC2046
    kill -KILL "$postmaster" $(pgrep -P "$postmaster")
    wait "$bench" || true
    # The killed one may still be a zombie, which PostgreSQL takes for a running server.
    rm -f "$data/postmaster.pid" "$second"/.s.PGSQL.*
    start_server
    said=$(as_tests psql "${server[@]}" --no-align --tuples-only bank -c "
        select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
           and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)
           and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history),
           (select count(*) from pgbench_history)")
    as_tests pgbench "${server[@]}" --client 4 --time 5 bank >/dev/null 2>&1
    as_tests pg_ctl --pgdata "$data" --mode fast stop >/dev/null
    as_tests pg_checksums --check --pgdata "$data" >/dev/null
    [ "${said%|*}" = t ] || { echo "the sums differ: $said"; return 1; }
    [ "${said#*|}" -gt 0 ]
    echo "killed while four clients wrote, recovered: ${said#*|} transactions add up, checksums are right"
}
