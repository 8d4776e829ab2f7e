#!/bin/sh
# Installs Fulgur from this folder, for one user or for all; needs a shell and the usual small tools.
#   sh install.sh [--prefix DIR]      below DIR (default: ~/.local); replaces an older one in one step a file
#   sh install.sh --uninstall [--prefix DIR]
#   sh install.sh --downgrade         also over a newer one
# Nothing outside DIR is written.  Models and sessions are never touched.
set -eu
fail() { echo "fulgur: install: $*" >&2; exit 1; }
usage() { echo "fulgur: install: $*, expected [--prefix DIR] [--uninstall] [--downgrade]" >&2; exit 2; }

prefix=
uninstall=
downgrade=
while [ $# -gt 0 ]; do
    case $1 in
    --prefix) [ $# -gt 1 ] || usage "--prefix without a folder"; prefix=$2; shift ;;
    --prefix=*) prefix=${1#--prefix=} ;;
    --uninstall) uninstall=1 ;;
    --downgrade) downgrade=1 ;;
    *) usage "$1" ;;
    esac
    shift
done
if [ -z "$prefix" ]; then
    [ -n "${HOME:-}" ] || fail "HOME is not set, expected it or --prefix DIR"
    prefix=$HOME/.local
fi
list=$prefix/share/fulgur/installed
installed=$prefix/share/fulgur/MANIFEST

if [ -n "$uninstall" ]; then
    [ -f "$list" ] || fail "$prefix: nothing installed there, expected $list"
    while IFS= read -r f; do
        case $f in /* | ../* | */../* | *..) fail "$list: the name $f, expected one below $prefix" ;; esac
        rm -f "$prefix/$f"
    done <"$list"
    rm -f "$list"
    for d in share/fulgur/licences share/fulgur/terminfo/l share/fulgur/terminfo/s share/fulgur/terminfo/t \
        share/fulgur/terminfo/v share/fulgur/terminfo/x share/fulgur/terminfo share/fulgur/locale/C.utf8 \
        share/fulgur/locale share/fulgur share/man/man1 share/man share/bash-completion/completions \
        share/bash-completion share/zsh/site-functions share/zsh share bin; do
        ignored=$(rmdir "$prefix/$d" 2>&1) || : # there may be no /dev/null
    done
    ignored=$(rmdir "$prefix" 2>&1) || :
    echo "uninstalled from $prefix; models and sessions are where they were"
    exit 0
fi

here=$(cd "$(dirname "$0")" && pwd)
manifest=$here/MANIFEST
[ -f "$manifest" ] || fail "$manifest: missing, expected the whole bundle beside install.sh"
field() { sed -n "s/^$1 //p" "$2" | head -n 1; }
epoch=$(field epoch "$manifest")
version=$(field version "$manifest")
case $epoch in '' | *[!0-9]*) fail "$manifest: epoch \"$epoch\", expected seconds" ;; esac
machine=$(uname -m)
[ "$machine" = "$(field arch "$manifest")" ] ||
    fail "a bundle for $(field arch "$manifest"), expected one for this machine, $machine"

# Damage first: all that will be copied is what was packed.
names=$(sed -n 's/^file [0-9a-f]* [0-9]* //p' "$manifest")
[ -n "$names" ] || fail "$manifest: no files, expected a list"
if [ -n "$(command -v sha256sum)" ]; then
    # a dot a file: where a scanner reads each before it may be opened, that is a sign of life
    printf 'checking %s files ' "$(echo "$names" | grep -vc '^models/')"
    sed -n '/ models\//d; s/^file \([0-9a-f]*\) [0-9]* /\1 /p' "$manifest" | while read -r want f; do
        got=$(sha256sum "$here/$f" 2>&1) || :
        [ "${got%% *}" = "$want" ] ||
            { echo; fail "$f: damaged or missing, expected SHA-256 $want; copy the bundle again"; }
        printf .
    done
    echo
    echo "checked: every file is as MANIFEST lists it (absence of damage), but for models: fulgur verify"
else
    echo "not checked: no sha256sum here, so damage would not be seen"
fi
echo "not proved: where the bundle came from; compare on both sides, by a way of your own: sha256sum MANIFEST"

if [ -f "$installed" ]; then
    old=$(field epoch "$installed")
    case $old in '' | *[!0-9]*) old=0 ;; esac
    if [ "$old" -gt "$epoch" ] && [ -z "$downgrade" ]; then
        fail "$prefix: has $(field version "$installed") of $(field date "$installed"), newer than this," \
            "$version of $(field date "$manifest"); expected --downgrade with an older one"
    fi
fi

mkdir -p "$prefix/bin" "$prefix/share/fulgur" || fail "$prefix: cannot be made, expected a folder to write to"
new=$prefix/bin/.fulgur.new
trap 'rm -f "$new" "$new-gpu" "$list.new"' EXIT
cp "$here/bin/fulgur" "$new" && chmod 755 "$new" || fail "$prefix/bin: cannot be written, expected room there"
said=$("$new" --version 2>&1) ||
    fail "$prefix: programs do not run there (mounted noexec?), expected --prefix DIR elsewhere"
for f in $names; do
    case $f in
    bin/fulgur | bin/fulgur-gpu | install.sh | models/*) continue ;;
    share/*) to=$prefix/$f ;;
    *) to=$prefix/share/fulgur/$f ;;
    esac
    mkdir -p "$(dirname "$to")"
    cp "$here/$f" "$to.new" && chmod 644 "$to.new" && mv -f "$to.new" "$to" || fail "$to: cannot be written, expected room"
    echo "${to#"$prefix"/}"
done >"$list.new"
printf '%s\n' bin/fulgur share/fulgur/MANIFEST >>"$list.new"
if [ -f "$here/bin/fulgur-gpu" ]; then
    cp "$here/bin/fulgur-gpu" "$new-gpu" && chmod 755 "$new-gpu" || fail "$prefix/bin: cannot be written, expected room there"
    if said=$("$new-gpu" --version 2>&1); then
        mv -f "$new-gpu" "$prefix/bin/fulgur-gpu"
        echo bin/fulgur-gpu >>"$list.new"
        echo "with a card: fulgur-gpu, the same commands with --gpu"
    else
        rm -f "$new-gpu"
        echo "left out: fulgur-gpu does not run here (it needs the C library of Debian 12 or newer)"
    fi
fi
cp "$manifest" "$installed.new" && mv -f "$installed.new" "$installed"
mv -f "$list.new" "$list"
mv -f "$new" "$prefix/bin/fulgur"
trap - EXIT
echo "installed $version in $prefix"
case ":${PATH:-}:" in *":$prefix/bin:"*) ;; *) echo "not in PATH yet: export PATH=\"$prefix/bin:\$PATH\"" ;; esac
