# shellcheck shell=bash
# Installs programs that are missing, as the distribution's packages. Sourced.

# install_packages WHAT PACKAGE...: WHAT names what is missing, for the error.
install_packages() {
    local what=$1 as_root=() log=$STACK/install.log
    shift
    if ! command -v apt-get >/dev/null; then
        die "missing: $what; install it, or set DATABASE_URL, REDIS_URL, AMQP_URL and AMQP_MANAGEMENT_URL to servers of yours"
    fi
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || die "missing: $what; run: sudo apt-get update && sudo apt-get install $*"
        as_root=(sudo -n)
    fi
    say "missing: $what; installing $* (the packages' own output is in $log)"
    if ! "${as_root[@]}" "$HERE/install-as-root" "$@" 2>&1 >"$log" | sed 's/^/stack: /' >&2; then
        tail -n 20 "$log" >&2
        die "could not install $what; run: apt-get update && apt-get install $*"
    fi
}
