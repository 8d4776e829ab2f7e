#!/bin/sh
# Makes DIR/root, headers and static libraries for a static program of ARCH (amd64 or arm64), from Debian's
# packages, which are unpacked there and not installed: an apt of its own (lists, status and cache below
# DIR) leaves the system's package state alone and needs no root.  hwloc and cJSON are built from Debian's
# source packages, hwloc without udev, since static archives of cJSON and libudev are in no package.
# DIR/versions has a line "package version" for each.  Packages already in DIR/debs (a source archive has
# them, see `make dist`) are used as they are, offline.  A third operand, "packages": only they are fetched.
set -eu
cd "$(dirname "$0")/.."
export CCACHE_BASEDIR= # a compiler cache that makes paths relative changes what assert says
arch=$1
dir=$2
case $arch in
amd64) cross=x86_64-linux-gnu ;;
arm64) cross=aarch64-linux-gnu ;;
*) echo "fulgur: static_root: $arch, expected amd64 or arm64" >&2; exit 2 ;;
esac
[ -e "$dir/sysroot/done" ] && [ "${3:-}" != packages ] && exit 0
packages="libhwloc-dev libcjson-dev libxxhash-dev libpcre2-dev libutf8proc-dev libedit-dev libbsd-dev libmd-dev
    libncurses-dev liburing-dev libopenblas-serial-dev libssl-dev"
sources="cjson hwloc"
mkdir -p "$dir/debs"
dir=$(cd "$dir" && pwd)

download() {
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/apt/parts"
    : >"$dir/apt/status"
    # The same archives as the system's, for this architecture and with sources.
    apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        sort -u | grep ' main$' | while read -r site release component; do
            echo "deb $site $release $component"
            echo "deb-src $site $release $component"
        done >"$dir/apt/sources.list"
    cat >"$dir/apt/conf" <<CONF
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
Acquire::Languages "none";
APT::Sandbox::User "root";
Dir::State "$dir/apt";
Dir::State::lists "$dir/apt/lists";
Dir::State::status "$dir/apt/status";
Dir::Cache "$dir/apt/cache";
Dir::Etc::sourcelist "$dir/apt/sources.list";
Dir::Etc::sourceparts "$dir/apt/parts";
CONF
    APT_CONFIG="$dir/apt/conf"
    export APT_CONFIG
    apt-get update
    (cd "$dir/debs" && apt-get download $packages && apt-get source --download-only $sources)
    unset APT_CONFIG
}
have() { [ -n "$(ls "$dir"/debs/"$1"_*"$2" 2>/dev/null)" ]; }
missing=
for p in $packages; do have "$p" "_$arch.deb" || have "$p" _all.deb || missing=1; done
for p in $sources; do have "$p" .dsc || missing=1; done
[ -z "$missing" ] || download
[ "${3:-}" != packages ] || exit 0
rm -rf "$dir/sysroot" "$dir/src"
mkdir -p "$dir/sysroot" "$dir/src/cjson" "$dir/src/hwloc"

for deb in "$dir"/debs/*_"$arch".deb "$dir"/debs/*_all.deb; do
    [ ! -e "$deb" ] || dpkg -x "$deb" "$dir/sysroot"
done
lib=$dir/sysroot/usr/lib/$cross
inc=$dir/sysroot/usr/include
rm -f "$lib"/libhwloc.* "$lib"/libcjson.*
rm -f "$lib/libopenblas.a"
mv "$lib"/openblas-serial/libopenblas-r*.a "$lib/libopenblas.a"
cp "$inc/$cross"/openblas-serial/*.h "$inc/"
flags="-O2 -g0 -ffile-prefix-map=$dir=."

tar -xf "$(ls "$dir"/debs/cjson_*.orig.tar.*)" -C "$dir/src/cjson" --strip-components=1
"$cross-gcc" $flags -c "$dir/src/cjson/cJSON.c" -o "$dir/src/cJSON.o"
"$cross-ar" rcsD "$lib/libcjson.a" "$dir/src/cJSON.o"

tar -xf "$(ls "$dir"/debs/hwloc_*.orig.tar.*)" -C "$dir/src/hwloc" --strip-components=1
(cd "$dir/src/hwloc" &&
    ./configure --host="$cross" CC="$cross-gcc" CFLAGS="$flags" --prefix=/usr --libdir="/usr/lib/$cross" \
        --enable-static --disable-shared --disable-libudev --disable-libxml2 --disable-cairo --disable-pci \
        --disable-opencl --disable-cuda --disable-nvml --disable-rsmi --disable-levelzero --disable-gl \
        --disable-plugins --disable-picky &&
    make -s -C include install DESTDIR="$dir/sysroot" && make -s -j"$(nproc)" -C hwloc &&
    make -s -C hwloc install DESTDIR="$dir/sysroot")
rm -f "$lib"/*.la

# What is inside: package, version, where its licence stands.
for deb in "$dir"/debs/*_"$arch".deb "$dir"/debs/*_all.deb; do
    [ ! -e "$deb" ] || dpkg-deb -W --showformat '${Package} ${Version}\n' "$deb"
done | LC_ALL=C sort >"$dir/versions"
touch "$dir/sysroot/done"
