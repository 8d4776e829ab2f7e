#!/bin/sh
# SPDX-License-Identifier: MIT
# Measures reading on demand: what fulgur decodes and reads under a bound of memory, what fio gets out of
# the same file, and the same bound as a cgroup's limit, against plain mmap.  See bench/README.md.
# Usage: sh bench/stream.sh      Leaves bench/baselines/<cpu>-stream.csv.
# Environment:
#   MODEL    model file to use; default: a synthetic one of LAYERS (10) layers of M1 in TMPDIR, 33 GB
#   RAM      bound, as for --ram (12G)       LIMIT    of the cgroup (RAM)
#   TOKENS   decoded one by one (200), after WARM (16) that do not count
#   ROUNDS   of each comparison, its sides taking turns (2)
#   SHARES   of the experts in memory, percent, for which plan's forecast is compared ("100 50 20")
#   PREDICT  list for --predict ("none router")
#   CC, BUILD, NAME (of the baseline), TMPDIR
set -eu
cd "$(dirname "$0")/.."
cc=${CC:-gcc} predict=${PREDICT:-none router} ram=${RAM:-12G} tokens=${TOKENS:-200} warm=${WARM:-16} rounds=${ROUNDS:-2}
limit=${LIMIT:-$ram} shares=${SHARES-100 50 20}
command -v fio > /dev/null || { echo "stream.sh: no fio, expected it installed" >&2; exit 1; }
build=${BUILD:-build/bench-$cc}
make -s -j"$(nproc)" CC="$cc" BUILD="$build" all
fulgur=$build/fulgur

cpu=$(sed -n 's/^model name[^:]*: *//p; s/^CPU part[^:]*: *0x/arm-/p' /proc/cpuinfo | head -n 1)
slug=$(printf '%s' "${NAME:-${cpu:-unknown}-$(nproc)cpu}" | tr 'A-Z' 'a-z' | tr -cs 'a-z0-9\n' '-' | sed 's/^-//; s/-$//')
commit=$(git describe --always --dirty 2>/dev/null || echo unknown)

dir=$(mktemp -d "${TMPDIR:-/tmp}/fulgur-stream.XXXXXX")
pid='' group='' pool=''
clean() {
    [ -z "$pool" ] || echo "$pool" > /proc/sys/vm/nr_hugepages
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || :
    [ -z "$pid" ] || wait "$pid" 2>/dev/null || :
    [ -z "$group" ] || rmdir "$group" 2>/dev/null || :
    rm -rf "$dir"
}
trap clean EXIT
trap 'exit 1' INT TERM HUP

model=${MODEL:-}
if [ -z "$model" ]; then
    model=$dir/m1.fulgur
    "$fulgur" synth "$model" --shape m1 --layers "${LAYERS:-10}" --type q4
fi
vocab=$("$fulgur" info "$model" --json | sed -n 's/.*"vocabulary": *\([0-9]*\).*/\1/p')

# ---- figures ----

flags="$("$cc" --version | head -n 1), $(basename "$model") $(wc -c < "$model" | tr -d ' ') B, --ram $ram, $tokens tokens behind $warm"
date=$(date -u +%Y-%m-%dT%H:%MZ)
echo "machine,threads,commit,flags,date,metric,value,unit" > "$dir/figures.csv"
ids() { # how many; the same on every machine, all below the vocabulary's size
    awk -v n="$1" -v m="${vocab:?no vocabulary in the report of info}" \
        'BEGIN { x = 5; for (i = 0; i < n; i++) { x = x * 16807 % 2147483647; print x % m } }' > "$dir/ids"
}
row() { # metric value unit
    printf '"%s",%s,"%s","%s",%s,"%s",%s,%s\n' "$cpu" "$(nproc)" "$commit" "$flags" "$date" "$1" "$2" "$3" \
        >> "$dir/figures.csv"
    printf '%-36s %12s %s\n' "$1" "$2" "$3"
}
median() { # of the numbers in a file
    sort -n "$1" | awk '{ v[NR] = $1 } END { printf "%.4g", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
calc() { awk "BEGIN { printf \"%.4g\", $1 }"; }
calc_whole() { awk "BEGIN { printf \"%.0f\", $1 }"; }
drop_cache() { # of this file; as root also of its metadata
    sync
    dd if="$model" iflag=nocache count=0 2>/dev/null || :
    if [ "$(id -u)" = 0 ]; then echo 3 > /proc/sys/vm/drop_caches 2>/dev/null || :; fi
}

# Direct reads as the store makes them: 1 MiB, 16 in flight, 86 MiB in a row (an expert of M1) at a random place.
# Into small pages, fio's default, and as root into huge ones, as the store has them: a virtual drive can be
# twice as fast with them, and the faster is what the store is held against.
engine=libaio
read_with_fio() {
    fio --name=read --filename="$model" --rw=randread:86 --bs=1m --iodepth=16 --direct=1 --ioengine="$1" --mem="$2" \
        --runtime=5 --time_based --randrepeat=0 --readonly --minimal --terse-version=3
}
if read_with_fio io_uring malloc > "$dir/fio.out" 2>/dev/null; then engine=io_uring; fi
memories=malloc
if [ "$(id -u)" = 0 ]; then
    pool=$(cat /proc/sys/vm/nr_hugepages)
    echo $((pool + 16)) > /proc/sys/vm/nr_hugepages
    ! read_with_fio "$engine" shmhuge > "$dir/fio.out" 2>/dev/null || memories='malloc shmhuge'
fi
fio_rate() {
    for memory in $memories; do
        read_with_fio "$engine" "$memory" | awk -F ';' 'NF > 10 { printf "%.4g\n", $7 * 1024 / 1e9 }' > "$dir/fio.last"
        cat "$dir/fio.last" >> "$dir/fio.$memory"
        echo "fio $engine $memory: $(cat "$dir/fio.last") GB/s"
    done
}

field() { sed -n 's/.*"'"$1"'": *\([-+0-9.e]*\).*/\1/p' "$dir/out"; }

# decode NAME [options]: tokens/s, largest resident sizes and rate of reading, in $dir/NAME.*
# With $group set the process runs in it.
decode() {
    name=$1
    shift
    drop_cache
    sh -c '[ -z "$0" ] || echo $$ > "$0/cgroup.procs"; exec "$@"' "$group" "$fulgur" logits "$model" \
        --ids "$dir/ids" --out /dev/null --batch 1 --json --warm "$warm" "$@" > "$dir/out" 2> "$dir/err" &
    pid=$!
    rss=0 anon=0
    while status=$(cat "/proc/$pid/status" 2>/dev/null) && [ -n "$status" ]; do
        set -- $(printf '%s\n' "$status" | awk '/^VmHWM/ { h = $2 } /^RssAnon/ { a = $2 } END { print h + 0, a + 0 }')
        [ "$1" -le "$rss" ] || rss=$1
        [ "$2" -le "$anon" ] || anon=$2
        case $status in *'State:	Z'*) break ;; esac
        sleep 0.2
    done
    if ! wait "$pid"; then
        pid=''
        echo "stream.sh: $name: $(tail -n 1 "$dir/err"), expected to end well; killed without a word: the limit" >&2
        return 1
    fi
    pid=''
    calc "$rss * 1024" > "$dir/$name.rss"
    calc "$anon * 1024" > "$dir/$name.anon"
    field tokens_per_s >> "$dir/$name.tok"
    field read_gbs >> "$dir/$name.read"
    field hit_percent > "$dir/$name.hits"
    field predictor_on_percent >> "$dir/$name.on"
    echo "$name: $(cat "$dir/out")"
}

# ---- within --ram ----

ids $((warm + tokens))
fio_rate
for round in $(seq "$rounds"); do
    for p in $predict; do decode "$p" --ram "$ram" --predict "$p"; done
    fio_rate
done
for memory in $memories; do row "disk.fio.$memory" "$(median "$dir/fio.$memory")" GB/s; done
for p in $predict; do
    row "stream.predict=$p" "$(median "$dir/$p.tok")" tok/s
    row "stream.predict=$p.rss" "$(cat "$dir/$p.rss")" B
    row "stream.predict=$p.rss_anon" "$(cat "$dir/$p.anon")" B
    row "stream.predict=$p.hits" "$(cat "$dir/$p.hits")" %
    row "stream.predict=$p.on" "$(median "$dir/$p.on")" %
    row "stream.predict=$p.read" "$(median "$dir/$p.read")" GB/s
    row "stream.predict=$p.of_fio" "$(calc "100 * $(median "$dir/$p.read") / $(median "$dir/fio.${memories##* }")")" %
done

# ---- within a cgroup, against mmap ----

# The page cache that a process fills counts in its cgroup, so both sides have the same memory.
bytes=$(printf '%s' "$limit" | awk '{ u = toupper(substr($0, length)); i = index("KMG", u); printf "%.0f", $0 * (i ? 1024 ^ i : 1) }')
open_group() {
    v1=/sys/fs/cgroup/memory v2=/sys/fs/cgroup
    if [ "$(id -u)" != 0 ]; then
        echo "stream.sh: not root: no cgroup figures"
    elif [ -e "$v1/memory.limit_in_bytes" ] && mkdir "$v1/fulgur-stream.$$" 2>/dev/null; then
        group=$v1/fulgur-stream.$$
        echo "$bytes" > "$group/memory.limit_in_bytes"
    elif grep -qw memory "$v2/cgroup.controllers" 2>/dev/null && mkdir "$v2/fulgur-stream.$$" 2>/dev/null; then
        group=$v2/fulgur-stream.$$
        { echo +memory > "$v2/cgroup.subtree_control"; } 2>/dev/null || :
        echo "$bytes" > "$group/memory.max"
    else
        echo "stream.sh: no memory cgroup that can be made: no cgroup figures"
    fi
}
open_group
if [ -n "$group" ]; then
    for round in $(seq "$rounds"); do
        decode cgroup.ram --ram "$ram" --predict "${predict##* }"
        decode cgroup.mmap
    done
    row cgroup.limit "$bytes" B
    for side in ram mmap; do
        row "cgroup.$side" "$(median "$dir/cgroup.$side.tok")" tok/s
        row "cgroup.$side.rss" "$(cat "$dir/cgroup.$side.rss")" B
    done
    row cgroup.ratio "$(calc "$(median "$dir/cgroup.ram.tok") / $(median "$dir/cgroup.mmap.tok")")" x
fi

# ---- plan's forecast ----

whole() { printf '%s' "$1" | sed -n 's/.*"'"$2"'": *\([0-9.e+]*\).*/\1/p'; }
[ -z "$group" ] || rmdir "$group"
group=''
free=$(awk '/^MemAvailable/ { printf "%.0f", $2 * 1024 }' /proc/meminfo)
need=$("$fulgur" plan "$model" --ram 1T --ctx $((warm + tokens)) --batch 1 --json)
for share in $shares; do
    bound=$(calc_whole "$(whole "$need" min_ram_bytes) + ($(whole "$need" experts) * $share / 100 - 2) * $(whole "$need" expert_bytes)")
    if [ "$bound" -gt "$free" ]; then
        echo "plan: no memory for $share % of the experts"
        continue
    fi
    # resident: after 160 tokens all but 1 in 30,000 of 32 experts have been read
    [ "$share" != 100 ] || warm=160
    ids $((warm + tokens))
    for round in $(seq "$rounds"); do
        report=$("$fulgur" plan "$model" --ram "$bound" --ctx $((warm + tokens)) --batch 1 --json)
        printf '%s\n' "$report" | sed 's/.*"decode": \[{[^}]*"tokens_per_second": \([0-9.e+-]*\).*/\1/' >> "$dir/plan.$share.forecast"
        decode "plan.$share" --ram "$bound"
    done
    row "plan.$share.forecast" "$(median "$dir/plan.$share.forecast")" tok/s
    row "plan.$share.measured" "$(median "$dir/plan.$share.tok")" tok/s
    warm=${WARM:-16}
    row "plan.$share.ratio" "$(calc "$(median "$dir/plan.$share.forecast") / $(median "$dir/plan.$share.tok")")" x
done
mkdir -p bench/baselines
mv "$dir/figures.csv" "bench/baselines/$slug-stream.csv"
echo "bench/baselines/$slug-stream.csv"
