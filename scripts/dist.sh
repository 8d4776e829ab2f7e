#!/bin/sh
# A source archive, OUT/fulgur-VERSION.tar.gz, that builds offline where a build's packages are installed, and
# makes bundles (scripts/bundle.sh) offline: debs/ has the Debian packages that a static program is made of.
#   sh scripts/dist.sh OUT
# Of a clone what is committed; of a source archive its own files, as .dist lists them.  The same bytes each time.
# BUNDLE_CACHE: where packages are kept that are there already (default build/bundle).
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C TZ=UTC
umask 022
fail() { echo "fulgur: dist: $*" >&2; exit 1; }
[ $# = 1 ] && [ "${1#-}" = "$1" ] || { echo "fulgur: dist: ${*:-nothing}, expected OUT" >&2; exit 2; }
out=$1
tree=$(sh scripts/commit.sh)
commit=${tree% *} epoch=${tree#* }
[ "$commit" = "${commit%-changed}" ] || fail "$commit: files are changed, expected them to be committed"
case $(uname -m) in
x86_64) debian=amd64 ;;
aarch64) debian=arm64 ;;
*) fail "$(uname -m): no bundles of it, expected x86_64 or aarch64" ;;
esac
name=fulgur-$(sed -n 's/^#define FG_VERSION  *"\(.*\)"/\1/p' src/fulgur.h)

mkdir -p "$out" 2>/dev/null && [ -w "$out" ] || fail "$out: cannot be written, expected a folder"
stage=$(mktemp -d "$out/dist.XXXXXX")
trap 'rm -rf "$stage"' EXIT
mkdir "$stage/$name"
if [ -e .git ]; then
    git archive HEAD >"$stage/tar"
    { echo "$tree"; git -c core.quotepath=off ls-files | sort; } >"$stage/list"
else
    cp .dist "$stage/list"
    sed 1d .dist | tar --no-recursion --verbatim-files-from -T - -cf "$stage/tar" || fail "files are missing, expected those of .dist"
fi
tar -xf "$stage/tar" -C "$stage/$name"
cp "$stage/list" "$stage/$name/.dist"
if [ -d debs ]; then
    cp -R debs "$stage/$name/debs"
else
    cache=${BUNDLE_CACHE:-build/bundle}/$debian
    mkdir -p "$cache"
    sh scripts/static_root.sh $debian "$cache" packages >"$cache.log" 2>&1 ||
        { tail -n 5 "$cache.log" >&2; fail "no packages, see $cache.log"; }
    cp -R "$cache/debs" "$stage/$name/debs"
fi
tar --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rw,go+r,go-w --format=gnu --mtime="@$epoch" \
    -C "$stage" -cf - "$name" | gzip -9n >"$stage/gz"
mv "$stage/gz" "$out/$name.tar.gz"
echo "$out/$name.tar.gz: sources of $commit, $(ls "$stage/$name/debs" | wc -l) packages; sha256sum: $(sha256sum "$out/$name.tar.gz" | cut -d' ' -f1)"
