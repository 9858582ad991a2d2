#!/bin/sh
# Fetches Debian's `prometheus` and `chromium` into build/tools for the tests of dashboards, alerts and the console: `make test` calls this
# before all else. Nothing is installed and no service is started, so no root is needed. Where one cannot be had, its tests skip and say
# what to install. `sh deploy/test_tools.sh chromium` fetches that one only.
set -u
cd "$(dirname "$0")/.." || exit 0
tools=$PWD/build/tools
apt=$tools/apt
is_there() {
    case $1 in
    prometheus) [ -x "$tools/usr/bin/prometheus" ] || { command -v prometheus && command -v promtool; } ;;
    chromium) [ -x "$tools/chromium/usr/lib/chromium/chromium" ] || command -v chromium ;;
    esac >/dev/null
}
get() {
    # Lists of packages of our own: the machine's may be missing or old, and only root may renew them.
    apt-get -qq -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache" -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=true \
        -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@" >>"$apt/log" 2>&1
}
unpack() { # DIRECTORY PACKAGE...: whole, or not at all
    into=$1 && shift
    rm -rf "$apt/unpacked" && mkdir "$apt/unpacked" || return 1
    for package; do dpkg -x "$package" "$apt/unpacked" >>"$apt/log" 2>&1 || return 1; done
    rm -rf "$into" && mv "$apt/unpacked" "$into"
}
fetch_prometheus() {
    echo "fetching prometheus for the tests (20 MB, once) ..."
    (cd "$apt" && get download prometheus) && unpack "$apt/prometheus" "$apt"/prometheus_*.deb && rm -rf "$tools/usr" && mv "$apt/prometheus/usr" "$tools/usr"
}
fetch_chromium() {
    # With all that it needs and this machine does not have installed, but for a newer C library, which would not fit this machine's loader;
    # and with fonts, without which a page has no letters.
    echo "fetching chromium for the tests (about 100 MB, once) ..."
    get install --yes --no-install-recommends --download-only chromium fonts-inter fonts-dejavu-core && rm -f "$apt"/cache/archives/libc6_* &&
        unpack "$tools/chromium" "$apt"/cache/archives/*.deb && rm -rf "$tools/chromium/usr/share/doc" "$tools/chromium/usr/share/locale"
}

command -v apt-get >/dev/null && command -v dpkg >/dev/null || exit 0
for tool in ${1:-prometheus chromium}; do
    is_there "$tool" && continue
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    { [ -e "$apt/updated" ] || get update && : >"$apt/updated"; } && "fetch_$tool" && continue
    echo "that did not work, so tests that need it will skip:"
    tail -n 3 "$apt/log"
done
rm -rf "$apt"
exit 0
