# shellcheck shell=bash
# Redis of the local stack. Sourced by lib.sh.

REDIS_PACKAGE=redis-server

redis_url() { echo "redis://127.0.0.1:$(port redis)/0"; }

redis_pids() { pids_in redis-server "$STACK/redis"; }

redis_running() { [ "$(ask "$(port redis)" 'PING\r\n')" = +PONG ] && [ -n "$(redis_pids)" ]; }

redis_find() { REDIS_BIN=$(PATH=$PATH:/usr/local/bin:/usr/bin:/usr/local/sbin command -v redis-server); }

redis_missing() { echo Redis; }

redis_ports() { assign_port redis; }

# Nothing is kept on disk: what is in Redis can be rebuilt from PostgreSQL.
redis_start() {
    local home=$STACK/redis deadline=$((SECONDS + 30)) server
    mkdir -p "$home"
    cat >"$home/redis.conf" <<CONF
bind 127.0.0.1
port $(port redis)
dir $home
pidfile $home/redis.pid
save ""
appendonly no
CONF
    server=$(redis_pids)
    if [ -z "$server" ]; then
        detach "$home" "$home/redis.log" "$REDIS_BIN" "$home/redis.conf"
        server=$!
    fi
    until redis_running; do
        sleep 0.05
        if kill -0 "$server" 2>/dev/null && [ "$SECONDS" -lt "$deadline" ]; then continue; fi
        tail -n 20 "$home/redis.log" >&2
        die "Redis did not start: see $home/redis.log, then run 'make down' and 'make up'"
    done
}

redis_stop() { stop Redis TERM 10 redis_pids; }
