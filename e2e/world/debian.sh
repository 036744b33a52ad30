#!/usr/bin/env bash
# Installs the Debian packages that `make e2e-world` needs, if run as root, and
# else names those that are missing. Services are not started: the tests start
# what they need, on ports of their own.
set -euo pipefail

packages=()
need() { # PACKAGE FILE-OR-COMMAND
	PATH=$PATH:/usr/sbin type -P "$2" >/dev/null || [[ -e $2 ]] || packages+=("$1")
}
need apache2 apache2
need nginx-light nginx
need haproxy haproxy
need caddy caddy
need chromium chromium
need firefox-esr firefox-esr
need openqa /usr/share/openqa/script/openqa
need postgresql /usr/lib/postgresql
need curl curl
need openssl openssl
need nodejs node
need npm npm
need default-jdk-headless javac
need maven mvn
need python3 python3
python3 -c 'import pip' 2>/dev/null || packages+=(python3-pip)

[[ ${#packages[@]} -gt 0 ]] || exit 0
if [[ $(id -u) != 0 ]]; then
	echo "missing, and only root can install them: apt-get install --no-install-recommends ${packages[*]}" >&2
	exit 1
fi
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # runlevel 1: invoke-rc.d starts nothing
if ! { apt-get update && apt-get install --yes --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
	cat "$log" >&2
	echo "could not install: ${packages[*]}" >&2
	exit 1
fi
rm "$log"
echo "installed: ${packages[*]}"
