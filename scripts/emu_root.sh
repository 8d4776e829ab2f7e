#!/bin/sh
# Makes DIR/sysroot, the headers and static libraries of an ARM64 build, from Debian's arm64 packages.
# They are unpacked there and not installed: an apt of its own (lists, status and cache below DIR)
# leaves the system's package state alone, needs no root, and cannot meet a conflict between two
# architectures.  Three libraries have no usable static archive in Debian: cJSON is compiled from its
# source package, libudev and OpenBLAS are replaced by tests/emulate/{udev,blas}_none.c.
set -eu
cd "$(dirname "$0")/.."
dir=$1
cross=aarch64-linux-gnu
[ -e "$dir/sysroot/done" ] && exit 0
rm -rf "$dir"
mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/parts" "$dir/debs" "$dir/sysroot"
dir=$(cd "$dir" && pwd)
: >"$dir/status"
# The same archives as the system's, for arm64 and with sources.
apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    sort -u | grep ' main$' | while read -r site release component; do
        echo "deb $site $release $component"
        echo "deb-src $site $release $component"
    done >"$dir/sources.list"
cat >"$dir/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Acquire::Languages "none";
APT::Sandbox::User "root";
Dir::State "$dir";
Dir::State::lists "$dir/lists";
Dir::State::status "$dir/status";
Dir::Cache "$dir/cache";
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "$dir/parts";
CONF
export APT_CONFIG="$dir/apt.conf"
apt-get update
(cd "$dir/debs" &&
    apt-get download libhwloc-dev libcjson-dev libxxhash-dev libpcre2-dev libutf8proc-dev \
        libedit-dev libbsd-dev libmd-dev libncurses-dev liburing-dev libopenblas-pthread-dev libssl-dev &&
    apt-get source --download-only cjson)
for deb in "$dir"/debs/*.deb; do dpkg -x "$deb" "$dir/sysroot"; done
lib=$dir/sysroot/usr/lib/$cross
mkdir -p "$dir/cjson"
tar -xf "$dir"/debs/cjson_*.orig.tar.* -C "$dir/cjson" --strip-components=1
$cross-gcc -O2 -c "$dir/cjson/cJSON.c" -o "$dir/cjson/cJSON.o"
$cross-ar rcs "$lib/libcjson.a" "$dir/cjson/cJSON.o"
$cross-gcc -O2 -c tests/emulate/udev_none.c -o "$dir/udev_none.o"
$cross-ar rcs "$lib/libudev.a" "$dir/udev_none.o"
$cross-gcc -O2 -I"$dir/sysroot/usr/include/$cross/openblas-pthread" -c tests/emulate/blas_none.c \
    -o "$dir/blas_none.o"
rm -f "$lib"/libopenblas.*
$cross-ar rcs "$lib/libopenblas.a" "$dir/blas_none.o"
touch "$dir/sysroot/done"
