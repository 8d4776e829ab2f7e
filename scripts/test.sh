#!/bin/sh
# The whole suite: installs what is missing, builds, runs every check, ends with one line
# "N passed, N failed, N skipped".  See tests/TESTING.md.
set -u
cd "$(dirname "$0")/.."
sh scripts/deps.sh test || exit 1
jobs=$(nproc)
out=build/test
mkdir -p "$out"
log=$out/results.txt
: >"$log"
started=$(date +%s)

# The reference tokenizer, for the 2 MB comparison; its test skips when the index is out of reach.
venv=build/venv
if [ -d "${FULGUR_SHARED:-../shared}/m1-release" ]; then
    [ -x $venv/bin/python ] || python3 -m venv $venv >/dev/null 2>&1
    $venv/bin/python -c 'import tokenizers' 2>/dev/null ||
        $venv/bin/pip install -q tokenizers==0.23.3 >/dev/null 2>&1
    $venv/bin/python -c 'import tokenizers' 2>/dev/null && export FULGUR_PYTHON=$venv/bin/python
fi

section() { printf '\n== %s (%d s)\n' "$1" $(($(date +%s) - started)); }

# A step that is itself a check: its output is shown when it fails.
check() {
    name=$1
    shift
    if "$@" >"$out/step.txt" 2>&1; then
        echo "ok   $name" | tee -a "$log"
    else
        cat "$out/step.txt"
        echo "FAIL $name" | tee -a "$log"
    fi
}

# Runs test programs of one build; every result line gets the build's name in front.
# A program that dies without a verdict counts as a failure.
run() {
    label=$1
    shift
    for t in "$@"; do
        case $t in *' '*) prog=${t%% *} arg=${t#* } ;; *) prog=$t arg= ;; esac
        begun=$(date +%s)
        "$prog" $arg >"$out/step.txt" 2>&1
        status=$?
        grep -aE '^(ok  |FAIL|skip) ' "$out/step.txt" | sed "s/^\(....\) /\1 $label /" >>"$log"
        bad=$(grep -ac '^FAIL ' "$out/step.txt")
        if [ $status -ne 0 ] && [ "$bad" = 0 ]; then
            echo "FAIL $label $(basename "$prog"): status $status" >>"$log"
            bad=1
        fi
        [ "$bad" = 0 ] || cat "$out/step.txt"
        echo "$label $(tail -n 1 "$out/step.txt"), $(($(date +%s) - begun)) s"
    done
}

tests_in() { for t in tests/*/test_*.c; do echo "$1/${t%.c}"; done; }
# The same without what takes minutes and tests figures, not code: calibrated quality, the big sweeps.
quick_in() {
    for t in tests/*/test_*.c; do
        case $t in
        */test_nano.c) echo "$1/${t%.c} golden" && echo "$1/${t%.c} tasks_q4" ;;
        */test_resume.c) echo "$1/${t%.c} random_nano" ;;
        *) echo "$1/${t%.c}" ;;
        esac
    done
}

section "lint"
check lint.format make -s format-check
check lint.headers make -s header-check
check lint.layers sh scripts/check_layers.sh

section "gcc, -Werror"
check build.gcc make -s -j"$jobs" CC=gcc WERROR=1 BUILD=build/test/gcc all tests
run gcc $(tests_in build/test/gcc)
section "clang, -Werror"
check build.clang make -s -j"$jobs" CC=clang WERROR=1 BUILD=build/test/clang all tests
IFS='
'
run clang $(quick_in build/test/clang)
unset IFS
check lint.symbols sh scripts/check_symbols.sh build/test/gcc/libfulgur.a build/test/gcc/libtools.a

section "command line"
FULGUR=build/test/gcc/fulgur run cli tests/e2e/cli.py tests/e2e/install.py tests/e2e/damage.py tests/e2e/evidence.py tests/e2e/stream.py \
    tests/e2e/plan.py tests/e2e/scale.py tests/e2e/trace.py tests/e2e/split.py

section "other CPUs: NEON under qemu, AVX-512 through SIMDe and Bochs"
FULGUR=build/test/gcc/fulgur run emulate scripts/emulate.sh

section "scalar level"
FULGUR_TEST_CPU=scalar run scalar build/test/gcc/tests/model/test_oracle \
    "build/test/gcc/tests/model/test_nano golden"

section "address and undefined-behaviour sanitizers"
check build.asan make -s -j"$jobs" CC=gcc WERROR=1 SAN=address,undefined CFLAGS="-O1 -g" \
    BUILD=build/test/asan all tests
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
IFS='
'
run asan $(quick_in build/test/asan)
unset IFS
FULGUR=build/test/asan/fulgur run asan tests/e2e/cli.py tests/e2e/damage.py tests/e2e/evidence.py tests/e2e/stream.py \
    tests/e2e/plan.py tests/e2e/scale.py tests/e2e/trace.py tests/e2e/split.py

section "thread sanitizer"
check build.tsan make -s -j"$jobs" CC=clang WERROR=1 SAN=thread OPENMP=0 CFLAGS="-O1 -g" \
    BUILD=build/test/tsan all tests
run tsan build/test/tsan/tests/sys/test_team "build/test/tsan/tests/model/test_invariance tiny" \
    build/test/tsan/tests/convert/test_convert build/test/tsan/tests/quant/test_feedback \
    "build/test/tsan/tests/convert/test_calib workers" build/test/tsan/tests/expert/test_store \
    build/test/tsan/tests/expert/test_stream build/test/tsan/tests/expert/test_drives

section "results"
grep -E '^(FAIL|skip) ' "$log"
passed=$(grep -c '^ok ' "$log")
failed=$(grep -c '^FAIL ' "$log")
skipped=$(grep -c '^skip ' "$log")
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
