#!/bin/sh
# libFuzzer over the targets of tests/fuzz, one after the other, with the address and undefined
# behaviour sanitizers: fuzz.sh [TARGET...], all of them without one.  SECONDS=600 for each; inputs
# that reach something new are kept in build/fuzz/corpus, and what fails in build/fuzz/found: fewest
# bytes first (-minimize_crash=1), then as tests/vectors/fuzz/TARGET-NAME into the tree.
set -u
cd "$(dirname "$0")/.."
time=${SECONDS:-600}
build=build/fuzz
[ $# -gt 0 ] || set -- $(ls tests/fuzz/fuzz_*.c | sed 's/.*fuzz_\(.*\)\.c/\1/')
bad=0
for t in "$@"; do
    program=$build/tests/fuzz/fuzz_$t
    make -s -j"$(nproc)" CC=clang OPENMP=0 SAN=fuzzer-no-link,address,undefined \
        CFLAGS="-O1 -g1 -DFG_FUZZER" BUILD=$build "$program" || exit 1
    mkdir -p $build/corpus/"$t" $build/seeds/"$t" $build/found
    FG_FUZZ_SEEDS=$build/seeds/$t "$program" -runs=0 >/dev/null 2>&1
    log=$build/$t.log
    ASAN_OPTIONS=allocator_may_return_null=1 "$program" $build/corpus/"$t" $build/seeds/"$t" \
        -max_total_time="$time" -max_len=65536 -timeout=20 -rss_limit_mb=3072 -print_final_stats=1 \
        -artifact_prefix=$build/found/"$t"- >"$log" 2>&1
    status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: //p' "$log")
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    if [ $status = 0 ]; then
        echo "ok   fuzz.$t: ${runs:-0} executions, ${edges:-0} edges"
    else
        tail -n 40 "$log"
        echo "FAIL fuzz.$t: status $status after ${runs:-0} executions, see $log"
        bad=1
    fi
done
exit $bad
