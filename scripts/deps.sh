#!/bin/sh
# Installs the Debian packages that a build needs, with "test" those of the test suite, and with
# FULGUR_TEST_LONG those of a long run.
# Does nothing, offline too, when they are there.
set -eu
pkgs="gcc libc6-dev make pkg-config libhwloc-dev libcjson-dev libxxhash-dev libpcre2-dev
      libutf8proc-dev libedit-dev libopenblas-dev liburing-dev libssl-dev"
[ "${1:-}" = test ] && pkgs="$pkgs clang libclang-rt-dev libomp-dev clang-format
    python3 python3-venv git groff-base signify-openbsd zsh qemu-system-x86 busybox-static e2fsprogs"
[ -z "${FULGUR_TEST_LONG:-}" ] || pkgs="$pkgs dpkg-dev lintian debootstrap
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user qemu-system-arm"
missing=
for p in $pkgs; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"
sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
        echo "fulgur: deps: not root and no sudo, expected either; install by hand:$missing" >&2
        exit 1
    }
    sudo=sudo
fi
log=$(mktemp)
if ! { $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive \
       apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    echo "fulgur: deps: apt-get failed, expected to install:$missing" >&2
    exit 1
fi
rm -f "$log"
