#!/bin/sh
# Fetches Debian's `prometheus` package into build/tools for the tests of dashboards and alerts: `make test` calls this before all else.
# Nothing is installed and no service is started, so no root is needed. Where it cannot be had, those tests skip and say what to install.
set -u
cd "$(dirname "$0")/.." || exit 0
tools=$PWD/build/tools
[ -x "$tools/usr/bin/prometheus" ] && exit 0
command -v prometheus >/dev/null && command -v promtool >/dev/null && exit 0
command -v apt-get >/dev/null && command -v dpkg >/dev/null || exit 0

# Lists of packages of our own: the machine's may be missing or old, and only root may renew them.
apt=$tools/apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
get() {
    apt-get -qq -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User="$(id -un)" \
        -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@" >"$apt/log" 2>&1
}
echo "fetching prometheus for the tests (20 MB, once) ..."
if get update && (cd "$apt" && get download prometheus) && dpkg -x "$apt"/prometheus_*.deb "$tools/unpacked" >>"$apt/log" 2>&1; then
    rm -rf "$tools/usr" && mv "$tools/unpacked/usr" "$tools/usr" # whole, or not at all
else
    echo "that did not work, so tests that need it will skip:"
    tail -n 3 "$apt/log"
fi
rm -rf "$apt" "$tools/unpacked"
exit 0
