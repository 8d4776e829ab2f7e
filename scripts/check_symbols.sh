#!/bin/sh
# Every global symbol that the library defines starts with fg_.
set -eu
out=$(nm -g --defined-only "$1" | awk 'NF == 3 && $3 !~ /^fg_/ {print $3}' | grep -v '^__' | sort -u)
[ -z "$out" ] || { echo "symbols without fg_: $out"; exit 1; }
