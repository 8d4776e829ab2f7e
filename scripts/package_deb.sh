#!/bin/sh
# A Debian package of the dynamic program: OUT_DIR/fulgur_VERSION-1_ARCH.deb (default: build), with manual pages
# and completions, for the Debian release that it is built on; with a card's code where nvcc is.
#   sh scripts/package_deb.sh [OUT_DIR]
# One commit and the same compiler and libraries give the same bytes; SOURCE_DATE_EPOCH is the commit's time
# unless it is set.  DEBFULLNAME, DEBEMAIL: who answers for the package.  NVCC= for one without a card's code.
# DEB_BUILD: where it is built (default build/deb).
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C TZ=UTC
umask 022
fail() { echo "fulgur: package_deb: $*" >&2; exit 1; }
usage() { echo "fulgur: package_deb: $*, expected OUT_DIR" >&2; exit 2; }
[ $# -le 1 ] || usage "$# operands"
case ${1:-} in -*) usage "$1: unknown option" ;; esac
out=${1:-build}
build=${DEB_BUILD:-build/deb}
for tool in dpkg-deb dpkg-shlibdeps; do
    command -v $tool >/dev/null || fail "$tool: missing, expected the package dpkg-dev"
done
tree=$(sh scripts/commit.sh)
commit=${tree% *}
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-${tree#* }}"
version=$(sed -n 's/^#define FG_VERSION  *"\(.*\)"/\1/p' src/fulgur.h)-1
arch=$(dpkg --print-architecture)
who="${DEBFULLNAME:-The Fulgur authors} <${DEBEMAIL:-fulgur@example.org}>"
deb=$out/fulgur_${version}_$arch.deb

log=$build/log
for folder in "$build" "$out"; do
    mkdir -p "$folder" 2>/dev/null && [ -w "$folder" ] || fail "$folder: cannot be written, expected a folder"
done
make -s -j"$(nproc)" BUILD="$build" PREFIX=/usr CFLAGS="-O2 -g0 -D_FORTIFY_SOURCE=2 -ffile-prefix-map=$PWD=." \
    LDFLAGS_EXTRA="-Wl,-z,relro,-z,now,--as-needed" "$build/fulgur" "$build/pages/made" >"$log" 2>&1 ||
    { grep -v warning "$log" | tail -n 5 >&2; fail "the build failed, see $log"; }

# ---- files ----
root=$build/root
doc=$root/usr/share/doc/fulgur
rm -rf "$root"
mkdir -p "$root/DEBIAN" "$root/usr/bin" "$root/usr/share/man/man1" "$doc" \
    "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions"
strip --strip-unneeded -R .comment -R .note -o "$root/usr/bin/fulgur" "$build/fulgur"
chmod 755 "$root/usr/bin/fulgur"
for page in "$build"/pages/*.1; do
    gzip -9nc "$page" >"$root/usr/share/man/man1/$(basename "$page").gz"
done
cp "$build/pages/fulgur.bash" "$root/usr/share/bash-completion/completions/fulgur"
cp "$build/pages/_fulgur" "$root/usr/share/zsh/vendor-completions/_fulgur"
gzip -9nc README.md >"$doc/README.md.gz"
{
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n'
    printf 'Upstream-Name: Fulgur\n\nFiles: *\n'
    sed -n 's/^Copyright (c) /Copyright: /p' LICENSE
    printf 'License: Expat\n'
    sed '1,/^Copyright/d' LICENSE | sed '1{/^$/d}; s/^$/./; s/^/ /'
} >"$doc/copyright"
printf 'fulgur (%s) unstable; urgency=medium\n\n  * Built from commit %s.\n\n -- %s  %s\n' "$version" "$commit" "$who" \
    "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9nc >"$doc/changelog.Debian.gz"

# ---- what it depends on: the packages of the libraries that are linked, with their versions ----
mkdir -p "$build/depends/debian"
printf 'Source: fulgur\n\nPackage: fulgur\nArchitecture: any\n' >"$build/depends/debian/control"
program=$(cd "$root" && pwd)/usr/bin/fulgur
depends=$(cd "$build/depends" && dpkg-shlibdeps -O "$program" 2>>../log | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || fail "$program: no dependencies found, see $log"
{
    printf 'Package: fulgur\nVersion: %s\nArchitecture: %s\nMaintainer: %s\n' "$version" "$arch" "$who"
    printf 'Installed-Size: %s\n' "$(find "$root/usr" \( -type d -printf '1\n' \) -o -printf '%s\n' |
        awk '{ n += $1 == 1 ? 1 : int(($1 + 1023) / 1024) } END { print n }')"
    printf 'Depends: %s\nRecommends: libopenblas0\nSection: science\nPriority: optional\n' "$depends"
    cat <<'TEXT'
Description: MiniMax-M1 on ordinary CPUs, from one quantized file
 Fulgur runs the language model MiniMax-M1 (456 billion parameters) from one
 quantized file, which is mapped into memory, or whose experts are read from
 disk on demand. It converts the published checkpoint, chats, measures
 quality and speed, and says beforehand what a machine can be expected to do.
 .
 The same file gives the same logits, bit for bit, on every CPU and with a
 card. OpenBLAS is for calibrated conversions only.
TEXT
} >"$root/DEBIAN/control"
(cd "$root" && find usr -type f | sort | xargs md5sum) >"$root/DEBIAN/md5sums"
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
# one thread: of more, xz makes blocks
dpkg-deb --root-owner-group --threads-max=1 -Zxz -b "$root" "$deb.part" >>"$log" 2>&1 || fail "dpkg-deb failed, see $log"
mv "$deb.part" "$deb"
echo "$deb: fulgur $version for $arch; sha256sum: $(sha256sum "$deb" | cut -d' ' -f1)"
