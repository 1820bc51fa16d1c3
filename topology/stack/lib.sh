# shellcheck shell=bash
# What the scripts of the local stack share. Sourced, never run.
#
# A process is known to be ours by the folder it works in, so nothing here trusts a stored process id:
# it may be another program's after a restart of the machine, and is lost with a `cargo clean`.

set -euo pipefail

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# A number of this checkout's own, in the node's name and the choice of ports.
CHECKOUT_NUMBER=$(printf '%s' "$CHECKOUT" | cksum | cut -d' ' -f1)

say() { printf 'stack: %s\n' "$*" >&2; }
die() {
    printf 'stack: error: %s\n' "$*" >&2
    exit 1
}

# Prints the user that runs PostgreSQL, which refuses to run as root; nothing where we are not root.
pg_user() {
    if [ "$(id -u)" != 0 ]; then
        :
    elif [ -d "${STACK:-/none}/postgres/data" ]; then
        stat -c %U "$STACK/postgres/data"
    elif id postgres >/dev/null 2>&1; then
        echo postgres
    else
        echo nobody
    fi
}

# Runs a command as the user that runs PostgreSQL, with a clean environment: a stray PGPORT changes what its programs do.
as_pg() {
    local user clean=(env -i "PATH=$PATH" LC_ALL=C)
    user=$(pg_user)
    if [ -n "$user" ]; then
        setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups -- "${clean[@]}" "$@"
    else
        "${clean[@]}" "$@"
    fi
}

# Sets STACK, the folder of everything the stack keeps.
# It is in the build folder, unless PostgreSQL's user could not reach it there (a checkout below /root), or the path has characters
# that RabbitMQ's scripts do not quote.
find_stack() {
    STACK=$CHECKOUT/target/stack
    if [[ $STACK =~ ^[A-Za-z0-9._/+@-]+$ ]]; then
        mkdir -p "$STACK"
        chmod 711 "$STACK"
        STACK=$(cd "$STACK" && pwd -P)
        if as_pg test -x "$STACK"; then return; fi
    fi
    STACK=/var/tmp/dat-stack-$CHECKOUT_NUMBER
    if mkdir -m 711 "$STACK" 2>/dev/null; then
        say "keeping data in $STACK, as PostgreSQL or RabbitMQ cannot use $CHECKOUT/target/stack"
    fi
    # Anyone may create names in /var/tmp.
    if [ -L "$STACK" ] || [ ! -d "$STACK" ] || [ ! -O "$STACK" ]; then die "$STACK is not a folder of ours: remove it"; fi
}

# One `make up` or `make down` of a checkout at a time.
lock() {
    exec 9>"$STACK/lock"
    flock -n 9 && return
    say "waiting for another up or down of this checkout"
    flock -w 600 9 || die "another up or down of this checkout has held $STACK/lock for ten minutes"
}

password() {
    if [ ! -s "$STACK/password" ]; then
        (umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$STACK/password.new")
        mv "$STACK/password.new" "$STACK/password"
    fi
    cat "$STACK/password"
}

# --- processes ---

# Prints the ids of the processes named $1 that work in folder $2.
pids_in() {
    local entry name at
    for entry in /proc/[0-9]*; do
        { read -r name <"$entry/comm"; } 2>/dev/null || continue
        [ "$name" = "$1" ] || continue
        at=$(readlink "$entry/cwd" 2>/dev/null) || continue
        if [ "${at% (deleted)}" = "$2" ]; then echo "${entry#/proc/}"; fi
    done
}

# Prints the ids of the processes named $1 that have $2 among their arguments.
# For PostgreSQL, which runs as another user: in a container, root may not read the folder that another user's process works in.
pids_with_argument() {
    local entry name
    for entry in /proc/[0-9]*; do
        { read -r name <"$entry/comm"; } 2>/dev/null || continue
        [ "$name" = "$1" ] || continue
        if tr '\0' '\n' 2>/dev/null <"$entry/cmdline" | grep -Fxq -- "$2"; then echo "${entry#/proc/}"; fi
    done
}

# Closes every descriptor but the standard ones. One of the others may be the pipe of a `$(make -s env)`, which would wait for a
# server to end, and one is our lock.
close_inherited() {
    local fd
    for fd in /proc/self/fd/*; do
        fd=${fd##*/}
        if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi
    done
}

# detach FOLDER LOG KEY=VALUE... COMMAND...: starts a server that outlives us, in a session that no signal of our terminal reaches.
detach() {
    local folder=$1 log=$2
    shift 2
    (
        cd "$folder"
        exec </dev/null >>"$log" 2>&1
        close_inherited
        exec setsid env -i "PATH=$PATH" LC_ALL=C.UTF-8 "$@"
    ) &
}

# stop NAME SIGNAL SECONDS LIST: asks the processes that LIST prints to end, and ends them when they have not.
stop() {
    local name=$1 signal=$2 list=$4 pids deadline=$((SECONDS + $3))
    pids=$("$list")
    [ -n "$pids" ] || return 0
    say "stopping $name"
    # shellcheck disable=SC2086 # a list
    kill -s "$signal" $pids 2>/dev/null || true
    while pids=$("$list") && [ -n "$pids" ]; do
        sleep 0.1
        [ "$SECONDS" -gt "$deadline" ] || continue
        say "$name did not stop in $3 s: killing it"
        # shellcheck disable=SC2086
        kill -s KILL $pids 2>/dev/null || true
        sleep 1
        return
    done
}

# --- ports ---

# Ports are below the range that the kernel hands out, from a block that depends on the checkout's path.
port() { sed -n "s/^$1=//p" "$STACK/ports" 2>/dev/null || true; }

# Prints the ports on which something listens, on any address.
listening() {
    local hex
    awk '$4 == "0A" { sub(/.*:/, "", $2); print $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null | while read -r hex; do
        echo $((16#$hex))
    done
}

port_taken() { listening | grep -Fxq "$1"; }

# assign_port KEY: keeps the port that KEY had, unless another program has taken it meanwhile.
# The server of KEY must not be running.
assign_port() {
    local key=$1 port tries
    port=$(port "$key")
    if [ -n "$port" ]; then
        # A server that was just killed may hold it for a moment.
        for tries in 1 2 3 4 5 6; do
            port_taken "$port" || return 0
            sleep 0.5
        done
        say "port $port is taken by another program: choosing a new one for $key"
    fi
    touch "$STACK/ports"
    port=$((20000 + CHECKOUT_NUMBER % 1500 * 8))
    for ((tries = 0; tries < 2000; tries++)); do
        if ! grep -q "=$port\$" "$STACK/ports" && ! port_taken "$port"; then
            { grep -v "^$key=" "$STACK/ports" || true; echo "$key=$port"; } >"$STACK/ports.new"
            mv "$STACK/ports.new" "$STACK/ports"
            return
        fi
        port=$((port < 32000 ? port + 1 : 20000))
    done
    die "no free port between 20000 and 32000"
}

# --- small network clients: no curl, psql or redis-cli needed ---

# ask PORT TEXT: sends TEXT and prints the first line of the answer.
ask() {
    local line
    { exec 8<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    printf '%b' "$2" >&8
    IFS= read -r -t 5 line <&8 || true
    exec 8<&- 8>&-
    printf '%s\n' "${line%$'\r'}"
}

port_answers() { (exec 8<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# --- the servers ---

HERE=$CHECKOUT/topology/stack
# shellcheck source=postgres.sh
. "$HERE/postgres.sh"
# shellcheck source=redis.sh
. "$HERE/redis.sh"
# shellcheck source=rabbitmq.sh
. "$HERE/rabbitmq.sh"

# Sets SERVERS to the ones whose address the environment does not give.
# An address of our own does not count: a shell that evaluated `make -s env` must still be able to start the stack again.
find_servers() {
    local secret=none
    if [ -s "$STACK/password" ]; then secret=$(cat "$STACK/password"); fi
    case "${DATABASE_URL:-}" in *":$secret@127.0.0.1:"*) unset DATABASE_URL ;; esac
    case "${AMQP_URL:-}" in *":$secret@127.0.0.1:"*) unset AMQP_URL ;; esac
    case "${AMQP_MANAGEMENT_URL:-}" in *":$secret@127.0.0.1:"*) unset AMQP_MANAGEMENT_URL ;; esac
    if [ "${REDIS_URL:-}" = "$(redis_url)" ]; then unset REDIS_URL; fi

    if [ -n "${AMQP_URL:-}" ] && [ -z "${AMQP_MANAGEMENT_URL:-}" ]; then
        die "AMQP_URL is set and AMQP_MANAGEMENT_URL is not: set both, or neither"
    elif [ -z "${AMQP_URL:-}" ] && [ -n "${AMQP_MANAGEMENT_URL:-}" ]; then
        die "AMQP_MANAGEMENT_URL is set and AMQP_URL is not: set both, or neither"
    fi
    SERVERS=()
    if [ -z "${DATABASE_URL:-}" ]; then SERVERS+=(postgres); fi
    if [ -z "${REDIS_URL:-}" ]; then SERVERS+=(redis); fi
    if [ -z "${AMQP_URL:-}" ]; then SERVERS+=(rabbitmq); fi
}

print_env() {
    echo "DATABASE_URL=${DATABASE_URL:-$(postgres_url)}"
    echo "AMQP_URL=${AMQP_URL:-$(rabbitmq_url)}"
    echo "AMQP_MANAGEMENT_URL=${AMQP_MANAGEMENT_URL:-$(rabbitmq_management_url)}"
    echo "REDIS_URL=${REDIS_URL:-$(redis_url)}"
}
