# shellcheck shell=bash
# PostgreSQL of the local stack. Sourced by lib.sh.

PG_OLDEST=14
PG_PACKAGE=postgresql

postgres_url() { echo "postgres://dat:$(password)@127.0.0.1:$(port postgres)/dat"; }

postgres_pids() { pids_with_argument postgres "$STACK/postgres/data"; }

postgres_running() { [ -n "$(postgres_pids)" ] && port_answers "$(port postgres)"; }

# Sets PG_BIN to the folder of a server that is new enough and, where there is data already, of the data's version.
postgres_find() {
    local bin version data=
    PG_FOUND=
    if [ -f "$STACK/postgres/data/PG_VERSION" ]; then data=$(cat "$STACK/postgres/data/PG_VERSION"); fi
    for bin in "$(dirname "$(command -v postgres || echo /none/postgres)")" \
        $(printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin | sort -rV) /usr/local/bin /usr/local/pgsql/bin; do
        [ -x "$bin/postgres" ] && [ -x "$bin/initdb" ] && [ -x "$bin/pg_ctl" ] || continue
        version=$("$bin/postgres" --version 2>/dev/null | sed -n 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/p')
        [ -n "$version" ] || continue
        PG_FOUND="$PG_FOUND $version"
        if [ "$version" -ge "$PG_OLDEST" ] && [ "$version" = "${data:-$version}" ]; then
            PG_BIN=$bin
            return 0
        fi
    done
    if [ -n "$data" ] && [ -n "$PG_FOUND" ]; then
        die "the stack's data is of PostgreSQL $data and installed is$PG_FOUND: run 'make clean-stack' to start with new data"
    fi
    return 1
}

postgres_missing() {
    if [ -n "$PG_FOUND" ]; then
        echo "PostgreSQL $PG_OLDEST or newer (found$PG_FOUND)"
    else
        echo "PostgreSQL $PG_OLDEST or newer"
    fi
}

postgres_ports() { assign_port postgres; }

# A new data folder appears under its name only when it is complete.
postgres_init() {
    local new=$STACK/postgres/data.new
    rm -rf "$new"
    as_pg "$PG_BIN/initdb" --pgdata="$new" --username=postgres --auth=trust --encoding=UTF8 --locale=C >"$STACK/postgres/initdb.log" 2>&1 ||
        { tail -n 20 "$STACK/postgres/initdb.log" >&2; die "initdb failed: see $STACK/postgres/initdb.log"; }
    # Single-user mode reads a statement a line. The application's role is no superuser, as in production.
    as_pg "$PG_BIN/postgres" --single -D "$new" postgres >>"$STACK/postgres/initdb.log" 2>&1 <<SQL
ALTER ROLE postgres PASSWORD '$(password)'
CREATE ROLE dat LOGIN CREATEDB CREATEROLE PASSWORD '$(password)' IN ROLE pg_monitor, pg_signal_backend
CREATE DATABASE dat OWNER dat
SQL
    echo "host all all 127.0.0.1/32 scram-sha-256" >"$new/pg_hba.conf"
    echo "include 'stack.conf'" >>"$new/postgresql.conf"
    mv "$new" "$STACK/postgres/data"
}

postgres_start() {
    local data=$STACK/postgres/data log=$STACK/postgres/postgres.log tries
    mkdir -p "$STACK/postgres"
    if [ "$(id -u)" = 0 ]; then chown "$(pg_user)" "$STACK/postgres"; fi
    cd "$STACK/postgres"
    [ -d "$data" ] || postgres_init

    # Commits are as durable as in production, so that measured figures are honest.
    # No socket file: its path may be too long, and TCP is enough.
    cat >"$data/stack.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $(port postgres)
unix_socket_directories = ''
max_connections = 300
fsync = on
synchronous_commit = on
wal_level = replica
# What README recommends: keys begin with random ids, so each plan touches pages of its own, and each page is written
# whole to the log once a checkpoint.
shared_buffers = 1GB
wal_compression = lz4
max_wal_size = 4GB
checkpoint_timeout = 15min
log_statement = 'none'
log_timezone = 'UTC'
timezone = 'UTC'
CONF
    # After a restart of the machine its lock file may name another program's process.
    if [ -z "$(postgres_pids)" ]; then rm -f "$data/postmaster.pid"; fi
    # The children of a killed server hold its shared memory for a moment.
    for tries in 1 2 3 4 5 6 7 8 9 10; do
        if postgres_launch "$data" "$log"; then return; fi
        grep -q 'shared memory block' < <(tail -n 5 "$log") || break
        sleep 1
    done
    tail -n 20 "$log" >&2
    die "PostgreSQL did not start: see $log"
}

# pg_ctl makes a session of its own for the server, and waits until it answers.
postgres_launch() (
    exec </dev/null >/dev/null 2>&1
    close_inherited
    as_pg "$PG_BIN/pg_ctl" start --wait --timeout=60 --pgdata="$1" --log="$2"
)

# INT is the fast shutdown: open transactions are rolled back.
postgres_stop() { stop PostgreSQL INT 30 postgres_pids; }
