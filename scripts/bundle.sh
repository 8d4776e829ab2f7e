#!/bin/sh
# A bundle for machines without a network: OUT, a folder that fits on FAT, and OUT.tar.gz.
#   sh scripts/bundle.sh [--arch x86_64|aarch64] [--gpu] [--model M.fulgur] OUT
# Static program, manual pages, completions, terminal descriptions, UTF-8, licences, SBOM (SPDX 2.3),
# MANIFEST (version, date, packages, SHA-256 and size of each file) and install.sh.  Two runs at one commit
# with the same package versions give the same bytes; a model is copied beside it and is not in the tar.
# --gpu: also fulgur-gpu, which shares the C library, so that a card's driver can be loaded; needs nvcc.
# BUNDLE_CACHE: where libraries are unpacked and built (default build/bundle).
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C TZ=UTC
export CCACHE_BASEDIR= # a compiler cache that makes paths relative changes what assert says
umask 022
fail() { echo "fulgur: bundle: $*" >&2; exit 1; }
arch=$(uname -m)
model=
out=
gpu=
while [ $# -gt 0 ]; do
    case $1 in
    --arch) [ $# -gt 1 ] || fail "--arch without a name, expected x86_64 or aarch64"; arch=$2; shift ;;
    --model) [ $# -gt 1 ] || fail "--model without a file, expected one"; model=$2; shift ;;
    --gpu) gpu=1 ;;
    -*) fail "$1: unknown option, expected --arch, --gpu or --model" ;;
    *) [ -z "$out" ] || fail "$1: one operand too many, expected OUT"; out=$1 ;;
    esac
    shift
done
[ -n "$out" ] || { echo "fulgur: bundle: no folder, expected OUT" >&2; exit 2; }
case $arch in
x86_64) debian=amd64 run= ;;
aarch64) debian=arm64 run=qemu-aarch64 ;;
*) fail "--arch $arch, expected x86_64 or aarch64" ;;
esac
[ "$arch" != "$(uname -m)" ] || run=
[ -z "$model" ] || [ -f "$model" ] || fail "$model: missing, expected a model"
[ ! -e "$out" ] && [ ! -e "$out.tar.gz" ] || fail "$out: exists already, expected a new name"
cross=$arch-linux-gnu
for tool in "$cross-gcc" "$cross-strip" $run; do
    command -v "$tool" >/dev/null || fail "$tool: missing, expected gcc-$(echo "$cross" | tr _ -) and qemu-user"
done
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null) || :
[ -z "$gpu" ] || [ -n "$nvcc" ] || fail "nvcc: missing, expected it for --gpu"
cache=${BUNDLE_CACHE:-build/bundle}
[ ! -d debs ] || [ -e "$cache/$debian" ] || { mkdir -p "$cache/$debian" && cp -R debs "$cache/$debian/debs"; }

tree=$(sh scripts/commit.sh)
commit=${tree% *} epoch=${tree#* }
export SOURCE_DATE_EPOCH="$epoch"
version=$(sed -n 's/^#define FG_VERSION  *"\(.*\)"/\1/p' src/fulgur.h)

log=$cache/$debian.log
mkdir -p "$cache"
sh scripts/static_root.sh $debian "$cache/$debian" >"$log" 2>&1 || { tail -n 5 "$log" >&2; fail "no libraries, see $log"; }
root=$(cd "$cache/$debian/sysroot" && pwd)
build=$cache/$debian/build
built() { # FOLDER VARIABLE...: the program, and what the linker took for it
    where=$1
    shift
    make -s -j"$(nproc)" CC="$cross-gcc" AR="$cross-ar" CFLAGS="-O2 -g0 -ffile-prefix-map=$root=." WERROR=1 STATIC="$root" \
        BUILD="$where" LDFLAGS_EXTRA="-Wl,-Map=$where/map -Wl,--build-id=none" "$@" "$where/fulgur" >>"$log" 2>&1 ||
        { grep -v warning "$log" | tail -n 5 >&2; fail "the build failed, see $log"; }
}
built "$build" NVCC=
if [ -n "$gpu" ]; then # the same objects but for a few
    rm -rf "$build-gpu"
    cp -Rp "$build" "$build-gpu"
    rm -f "$build-gpu/simd/cuda/cuda_image.o" "$build-gpu/map" "$build-gpu/fulgur" "$build-gpu"/*.a
    grep -rl --include='*.c' FG_STATIC src quant simd convert | sed "s|\(.*\)c\$|$build-gpu/\1o|" | xargs rm -f
    built "$build-gpu" NVCC="$nvcc" DRIVER=1
fi

# ---- files ----
share=$out/share/fulgur
mkdir -p "$out/bin" "$share/licences" "$share/locale/C.utf8" "$out/share/man/man1" \
    "$out/share/bash-completion/completions" "$out/share/zsh/site-functions"
"$cross-strip" -o "$out/bin/fulgur" "$build/fulgur"
[ -z "$gpu" ] || "$cross-strip" -o "$out/bin/fulgur-gpu" "$build-gpu/fulgur"
chmod 755 "$out"/bin/*
fulgur() { $run "$out/bin/fulgur" "$@"; }
fulgur --help=man >"$out/share/man/man1/fulgur.1"
fulgur --help=names | while read -r c; do
    fulgur $c --help=man >"$out/share/man/man1/fulgur-$(echo "$c" | tr ' ' -).1"
done
fulgur --help=bash >"$out/share/bash-completion/completions/fulgur"
fulgur --help=zsh >"$out/share/zsh/site-functions/_fulgur"
fulgur help tutorial-offline >"$out/README"
for t in xterm xterm-256color linux screen tmux vt100; do
    first=$(echo $t | cut -c1)
    mkdir -p "$share/terminfo/$first"
    cp -L "/lib/terminfo/$first/$t" "$share/terminfo/$first/$t" 2>/dev/null ||
        cp -L "/usr/share/terminfo/$first/$t" "$share/terminfo/$first/$t" || fail "$t: no such terminal here, expected ncurses-base"
done
cp /usr/lib/locale/C.utf8/LC_CTYPE "$share/locale/C.utf8/LC_CTYPE" || fail "C.utf8: not here, expected libc-bin"
cp scripts/bundle/install.sh "$out/install.sh"
chmod 755 "$out/install.sh"

# ---- what is inside: the archives that the linker took, by package ----
cat "$build/map" ${gpu:+"$build-gpu/map"} | grep -E '^/|^LOAD' | sed -n 's/^LOAD //; s/^\(\/[^( ]*\.[ao]\).*/\1/p' |
    grep -v "/$debian/build" | sort -u >"$build/objects"
package_of() { # FILE: package, version
    case $1 in
    */libcjson.a) echo "cjson $(of_source cjson)" ;;
    */libhwloc.a) echo "hwloc $(of_source hwloc)" ;;
    "$root"/*)
        case $1 in */libopenblas.a) set -- /libopenblas-r.*a ;; esac
        for deb in "$cache/$debian"/debs/*.deb; do
            ! dpkg-deb -c "$deb" | grep "/$(basename "$1")\$" >/dev/null || {
                dpkg-deb -W --showformat '${Package} ${Version}\n' "$deb"
                return
            }
        done ;;
    *)
        found=$(dpkg -S "$(readlink -f "$1")" 2>/dev/null | head -n 1 | sed 's/: .*//')
        [ -n "$found" ] && dpkg-query -W -f '${Package} ${Version}\n' "$found" ;;
    esac
}
of_source() { ls "$cache/$debian"/debs/"$1"_*.dsc | sed 's/.*_\(.*\)\.dsc/\1/'; }
while read -r file; do
    found=$(package_of "$file")
    [ -n "$found" ] || fail "$file: of no package, expected one"
    echo "$found"
done <"$build/objects" | sort -u >"$build/packages"
{
    cat "$build/packages"
    dpkg-query -W -f '${Package} ${Version}\n' ncurses-base libc-bin
} | sort -u >"$build/all"
licence_of() { # PACKAGE: its copyright file on standard output
    case $1 in
    cjson) cat "$root/usr/share/doc/libcjson-dev/copyright" ;;
    hwloc) cat "$root/usr/share/doc/libhwloc-dev/copyright" ;;
    *) cat "$root/usr/share/doc/$1/copyright" 2>/dev/null || cat "/usr/share/doc/$1/copyright" ;;
    esac
}
# The licence of what is linked, as SPDX has it; Debian's copyright files are the texts.
spdx_of() {
    case $1 in
    cjson) echo MIT ;; hwloc | libutf8proc-dev | libbsd-dev | libedit-dev) echo BSD-3-Clause ;;
    libmd-dev) echo 'BSD-3-Clause AND BSD-2-Clause' ;; libxxhash-dev) echo BSD-2-Clause ;;
    libpcre2-dev) echo BSD-3-Clause ;; liburing-dev) echo 'MIT OR LGPL-2.1-or-later' ;;
    libncurses-dev | ncurses-base) echo X11-distribute-modifications-variant ;;
    libopenblas-serial-dev) echo BSD-3-Clause ;; libssl-dev) echo Apache-2.0 ;;
    libc6-dev* | libc-bin) echo LGPL-2.1-or-later ;; libgcc-*) echo 'GPL-3.0-or-later WITH GCC-exception-3.1' ;;
    *) fail "$1: licence unknown, expected a line in spdx_of" ;;
    esac
}
cp LICENSE "$share/licences/fulgur"
{
    printf '{\n  "spdxVersion": "SPDX-2.3",\n  "dataLicense": "CC0-1.0",\n  "SPDXID": "SPDXRef-DOCUMENT",\n'
    printf '  "name": "fulgur-%s-%s",\n  "documentNamespace": "https://spdx.org/spdxdocs/fulgur-%s-%s-%s",\n' \
        "$version" "$arch" "$version" "$arch" "$commit"
    printf '  "creationInfo": {"created": "%s", "creators": ["Tool: fulgur-bundle"]},\n' "$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)"
    printf '  "documentDescribes": ["SPDXRef-fulgur"],\n  "packages": [\n'
    printf '    {"SPDXID": "SPDXRef-fulgur", "name": "fulgur", "versionInfo": "%s", "downloadLocation": "NOASSERTION", "licenseConcluded": "MIT", "licenseDeclared": "MIT", "copyrightText": "NOASSERTION", "filesAnalyzed": false}' "$version"
    while read -r name ver; do
        spdx=$(spdx_of "$name")
        licence_of "$name" >"$share/licences/$name"
        printf ',\n    {"SPDXID": "SPDXRef-%s", "name": "%s", "versionInfo": "%s", "supplier": "Organization: Debian", "downloadLocation": "NOASSERTION", "licenseConcluded": "%s", "licenseDeclared": "%s", "copyrightText": "NOASSERTION", "filesAnalyzed": false}' \
            "$name" "$name" "$ver" "$spdx" "$spdx"
    done <"$build/all"
    printf '\n  ],\n  "relationships": [\n    {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-fulgur"}'
    while read -r name ver; do
        how=STATIC_LINK
        case $name in ncurses-base | libc-bin) how=CONTAINS ;; esac
        printf ',\n    {"spdxElementId": "SPDXRef-fulgur", "relationshipType": "%s", "relatedSpdxElement": "SPDXRef-%s"}' $how "$name"
    done <"$build/all"
    printf '\n  ]\n}\n'
} >"$out/SBOM.spdx.json"

# ---- MANIFEST, tar, model ----
copy_model() {
    mkdir -p "$out/models"
    for m in "$model" "$model".[1-9] "$model".1[0-5]; do
        [ ! -e "$m" ] || cp --sparse=always --reflink=auto -L "$m" "$out/models/"
    done
}
manifest() { # of all files but itself
    echo "fulgur bundle 1"
    printf 'version %s\narch %s\ndate %s\nepoch %s\ncommit %s\n' "$version" "$arch" "$(date -u -d "@$epoch" +%Y-%m-%d)" "$epoch" "$commit"
    sed 's/^/package /' "$build/all"
    (cd "$out" && find . -type f ! -name MANIFEST | sed 's|^\./||' | sort | while read -r f; do
        printf 'file %s %s %s\n' "$(sha256sum "$f" | cut -d' ' -f1)" "$(stat -c %s "$f")" "$f"
    done)
}
manifest >"$out/MANIFEST"
find "$out" -exec touch -h -d "@$epoch" {} +
tar --sort=name --owner=0 --group=0 --numeric-owner --format=gnu --mtime="@$epoch" -C "$(dirname "$out")" -cf - \
    "$(basename "$out")" --transform "s,^$(basename "$out"),fulgur-$version-$arch," | gzip -9n >"$out.tar.gz"
if [ -n "$model" ]; then
    copy_model
    manifest >"$out/MANIFEST"
fi
echo "$out: fulgur $version for $arch, $(wc -l <"$build/packages") packages linked; sha256sum MANIFEST: $(sha256sum "$out/MANIFEST" | cut -d' ' -f1)"
