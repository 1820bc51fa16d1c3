# shellcheck shell=bash
# RabbitMQ of the local stack: a node of its own name, with an Erlang port mapper of its own. Sourced by lib.sh.

RABBITMQ_PACKAGE=rabbitmq-server

rabbitmq_url() { echo "amqp://dat:$(password)@127.0.0.1:$(port rabbitmq)/%2f"; }
rabbitmq_management_url() { echo "http://dat:$(password)@127.0.0.1:$(port rabbitmq_management)"; }

rabbitmq_pids() { pids_in beam.smp "$STACK/rabbitmq"; }
rabbitmq_epmd_pids() { pids_in epmd "$STACK/rabbitmq"; }

rabbitmq_running() {
    [ -n "$(rabbitmq_pids)" ] && [ -n "$(rabbitmq_epmd_pids)" ] && port_answers "$(port rabbitmq)" && port_answers "$(port rabbitmq_management)"
}

# Never the rabbitmq-server of the PATH: Debian's changes the user and starts the system's node, even for --version.
rabbitmq_find() {
    local bin
    EPMD=
    for bin in "$(command -v epmd)" /usr/lib/erlang/bin/epmd /usr/lib/erlang/erts-*/bin/epmd /usr/local/lib/erlang/erts-*/bin/epmd; do
        if [ -x "$bin" ]; then
            EPMD=$bin
            break
        fi
    done
    [ -n "$EPMD" ] || return 1
    for bin in /usr/lib/rabbitmq/bin /usr/local/lib/rabbitmq/bin /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin /opt/rabbitmq/sbin; do
        if [ -x "$bin/rabbitmq-server" ]; then
            RABBITMQ_SERVER=$bin/rabbitmq-server
            return 0
        fi
    done
    return 1
}

rabbitmq_missing() { echo RabbitMQ; }

rabbitmq_ports() {
    local key
    if [ -z "$(rabbitmq_epmd_pids)" ]; then assign_port rabbitmq_epmd; fi
    if [ -n "$(rabbitmq_pids)" ]; then return; fi
    for key in rabbitmq rabbitmq_management rabbitmq_prometheus rabbitmq_distribution; do assign_port "$key"; done
}

rabbitmq_healthy() {
    local login
    login=$(printf 'dat:%s' "$(password)" | base64 -w0)
    [[ $(ask "$(port rabbitmq_management)" "GET /api/health/checks/port-listener/$(port rabbitmq) HTTP/1.0\r\nAuthorization: Basic $login\r\n\r\n") == *" 200 "* ]]
}

rabbitmq_start() {
    local home=$STACK/rabbitmq deadline=$((SECONDS + 120)) node
    mkdir -p "$home/log"
    : >"$home/empty.conf"
    echo '[rabbitmq_management,rabbitmq_prometheus].' >"$home/enabled_plugins"
    # The default user is created with the node's data. It holds a password, so only we may read it.
    (umask 077 && cat >"$home/rabbitmq.conf") <<CONF
listeners.tcp.local = 127.0.0.1:$(port rabbitmq)
management.tcp.ip = 127.0.0.1
management.tcp.port = $(port rabbitmq_management)
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = $(port rabbitmq_prometheus)
default_user = dat
default_pass = $(password)
default_user_tags.administrator = true
disk_free_limit.absolute = 200MB
vm_memory_high_watermark.relative = 0.4
log.file = rabbit.log
log.console = false
CONF
    local erlang=(HOME="$home" ERL_EPMD_PORT="$(port rabbitmq_epmd)" ERL_EPMD_ADDRESS=127.0.0.1)
    # Started here, as one that the node starts would not work in our folder.
    if [ -z "$(rabbitmq_epmd_pids)" ]; then detach "$home" "$home/log/epmd.log" "${erlang[@]}" "$EPMD"; fi
    node=$(rabbitmq_pids)
    if [ -z "$node" ]; then
        until port_answers "$(port rabbitmq_epmd)" || [ "$SECONDS" -ge "$deadline" ]; do sleep 0.05; done
        : >"$home/log/start.log"
        # ALLOW_INPUT makes the script become the node, instead of watching over it: the process id stays.
        # The schedulers of Erlang do not spin while idle: they would take the cores from what is tested.
        detach "$home" "$home/log/start.log" "${erlang[@]}" \
            RABBITMQ_NODENAME="dat-$CHECKOUT_NUMBER@localhost" \
            RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 \
            RABBITMQ_NODE_PORT="$(port rabbitmq)" \
            RABBITMQ_DIST_PORT="$(port rabbitmq_distribution)" \
            RABBITMQ_MNESIA_BASE="$home/mnesia" \
            RABBITMQ_LOG_BASE="$home/log" \
            RABBITMQ_PID_FILE="$home/rabbitmq.pid" \
            RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf" \
            RABBITMQ_ENABLED_PLUGINS_FILE="$home/enabled_plugins" \
            RABBITMQ_CONF_ENV_FILE="$home/empty.conf" \
            RABBITMQ_ALLOW_INPUT=1 \
            RABBITMQ_SERVER_START_ARGS="-noinput" \
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none" \
            "$RABBITMQ_SERVER"
        node=$!
    fi
    until rabbitmq_healthy; do
        sleep 0.2
        if kill -0 "$node" 2>/dev/null && [ "$SECONDS" -lt "$deadline" ]; then continue; fi
        tail -n 15 "$home/log/start.log" "$home/log/rabbit.log" >&2 || true
        die "RabbitMQ did not start: see $home/log, then run 'make down' and 'make up' ('make clean-stack' deletes its data)"
    done
}

rabbitmq_stop() {
    stop RabbitMQ TERM 60 rabbitmq_pids
    stop "RabbitMQ's port mapper" TERM 5 rabbitmq_epmd_pids
}
