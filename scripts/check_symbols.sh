#!/bin/sh
# check_symbols.sh FILE...
# Every global symbol that an archive defines starts with fg_; a shared library exports the functions
# that src/fulgur.h declares, all of them and nothing else.
set -eu
header=${FULGUR_HEADER:-src/fulgur.h}
bad=0
for f in "$@"; do
    case $f in
    *.a)
        out=$(nm -g --defined-only "$f" | awk 'NF == 3 && $3 !~ /^fg_/ {print $3}' | grep -v '^__' | sort -u)
        [ -z "$out" ] || { echo "$f: symbols without fg_: $out"; bad=1; }
        ;;
    *)
        declared=$(${CC:-cc} -E -P -DFG_API=exported "$header" | tr '\n' ' ' | tr ';' '\n' |
            sed -n 's/.*exported [^(]*\(fg_[a-z0-9_]*\)(.*/\1/p' | sort -u)
        exported=$(nm -D --defined-only "$f" | awk '{print $3}' | sort -u)
        [ -n "$declared" ] || { echo "$header: no function, expected some"; bad=1; }
        [ "$declared" = "$exported" ] || {
            echo "$f: exports" $exported", expected" $declared
            bad=1
        }
        ;;
    esac
done
[ $bad = 0 ]
