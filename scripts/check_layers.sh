#!/bin/sh
# Fails when a file includes a layer that it may not see, or a third-party header from a second
# place.  One line a layer: "dir: allowed dirs".
set -eu
cd "$(dirname "$0")/.."
out=$(while IFS=: read -r dir allowed; do
    [ -d "$dir" ] || continue
    grep -rnE --include='*.[ch]' --include='*.inc' '^#[[:space:]]*include "' "$dir" |
    while IFS=: read -r file line text; do
        inc=$(printf '%s' "$text" | sed 's/.*"\(.*\)".*/\1/')
        ok=0
        for a in $dir $allowed; do case "$(dirname "$inc")/" in "$a"/*) ok=1 ;; esac; done
        [ $ok = 1 ] || echo "$file:$line: $dir may not include $inc"
    done
done <<'RULES'
src/base:
src/sys: src/base
quant: src/base
simd: src/base src/sys quant
src/format: src/base quant
src/expert: src/base src/sys src/format quant
src/text: src/base src/format
src/model: src/base src/sys src/format src/expert quant simd
src/engine: src quant simd
src/cli: src/engine src/base convert
convert: src/base src/sys src/format src/text src/model quant simd
RULES
)
# Third-party headers: one room each (tests may use anything).
while read -r header home; do
    bad=$(grep -rlE --include='*.[ch]' "^#[[:space:]]*include <$header>" src quant simd convert |
        grep -v "^$home\$" || true)
    [ -z "$bad" ] || out="$out
$bad: includes <$header>, which belongs to $home"
done <<'HOMES'
cjson/cJSON.h src/base/json.c
xxhash.h src/base/hash.c
hwloc.h src/sys/topo.c
omp.h src/sys/team.c
pcre2.h src/text/pretoken.c
utf8proc.h src/text/pretoken.c
histedit.h src/cli/line.c
cblas.h quant/linalg.c
liburing.h src/expert/io_uring.c
HOMES
[ -z "$out" ] || { printf '%s\n' "$out"; exit 1; }
