#!/bin/sh
# The suite: installs what is missing, builds, runs every check, ends with the time of each room and
# one line "N passed, N failed, N skipped" (tests that skipped, not builds of them).  See tests/TESTING.md.
#   test.sh              everything
#   test.sh long         the same with whole sweeps and long campaigns: before a release
#   test.sh check        lint, a build, the quick tests; nothing is installed
#   test.sh one NAME...  the test programs (PATTERN after a colon: nano:golden) and scripts of that name
# Test programs run two at a time (as many as there are CPUs), those that measure run alone.
set -u
cd "$(dirname "$0")/.."
what=${1:-all}
jobs=$(nproc)
out=build/test
log=$out/results.txt

# ---- one test program: what the pool calls ------------------------------------------------------

# A line "LABEL PROGRAM [PATTERN]".  Every result line gets the label in front; a program that dies
# without a verdict counts as a failure.  Times are the wall's and the processor's, children included.
if [ "$what" = job ]; then
    set -- $2
    label=$1 prog=$2 arg=${3:-}
    export FULGUR="${FULGUR:-build/test/$label/fulgur}"
    # Nano is converted once a compiler.  The sanitizers judge conversions in the tests of those.
    models=$label
    case $label in asan | tsan | emulate) models=gcc ;; esac
    export FULGUR_TEST_MODELS="$PWD/$out/models/$models"
    mkdir -p "$FULGUR_TEST_MODELS"
    case $label in
    asan) export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1 ;;
    scalar) export FULGUR_TEST_CPU=scalar; dir=build/test/gcc ;;
    esac
    case $prog in
    *.py | *.sh) path=$prog ;;
    *) path=${dir:-build/test/$label}/$prog ;;
    esac
    case $prog in *.py | *.sh) [ -x "$FULGUR" ] || export FULGUR=build/test/gcc/fulgur ;; esac
    name=$(basename "$prog")
    room=$(basename "$(dirname "$prog")")
    to=$out/jobs/$label-$name${arg:+-$arg}
    begun=$(date +%s%3N)
    "$path" $arg >"$to.txt" 2>&1
    status=$?
    wall=$(($(date +%s%3N) - begun))
    times >"$to.time" # not in a pipe, which would be a shell of its own
    cpu=$(awk 'NR == 2 { for (i = 1; i <= 2; i++) { split($i, p, "[ms]"); s += p[1] * 60 + p[2] } print s }' "$to.time")
    grep -aE '^(ok  |FAIL|skip) ' "$to.txt" | sed "s/^\(....\) /\1 $label /" >"$to.result"
    bad=$(grep -ac '^FAIL ' "$to.txt")
    if [ $status -ne 0 ] && [ "$bad" = 0 ]; then
        echo "FAIL $label $name: status $status" >>"$to.result"
        bad=1
    fi
    echo "$label/$room $wall $cpu" >"$to.time"
    [ "$bad" = 0 ] && [ -z "${FULGUR_TEST_SHOW:-}" ] || cat "$to.txt"
    echo "$label $(tail -n 1 "$to.txt"), $wall ms"
    exit 0
fi

# ---- what runs where ----------------------------------------------------------------------------

programs() { for t in tests/*/test_*.c; do echo "${t%.c}"; done; }
scripts() { for t in tests/*/*.py; do [ -x "$t" ] && echo "$t"; done; }

# Rooms or programs of a list (names, folders) that a label runs, one a line.
only() {
    label=$1
    shift
    for p in $(programs); do
        for w in "$@"; do
            case $p in tests/$w | tests/$w/*) echo "$label $p" ;; esac
        done
    done
}

# What a compiler can get wrong: arithmetic.  The rest compiles, without a warning.
clang_jobs() {
    if [ "$what" = long ]; then # every program, but for quality, which the scalar level proves
        for p in $(programs); do
            case $p in
            */test_nano) printf "clang $p %s\n" golden tasks_q4 ;;
            *) echo "clang $p" ;;
            esac
        done
        return
    fi
    only clang checkasm quant base model/test_oracle model/test_decode text/test_sampler \
        convert/test_convert sys
    echo "clang tests/convert/test_calib stages"
    echo "clang tests/model/test_nano golden"
    printf 'clang tests/model/test_rotated %s\n' same_bits same_network outliers
    printf 'clang tests/model/test_invariance %s\n' nano_q4 tiny golden_hash
}

# What memory and undefined behaviour can differ in: what reads files, bytes and arguments of others.
# Figures, bits, kills and the choice of types are gcc's; a long run has every program.
asan_jobs() {
    if [ "$what" = long ]; then
        printf 'asan tests/e2e/%s.py\n' cli evidence hostile plan scale stream split trace
        for p in $(programs); do
            case $p in
            */test_nano) echo "asan $p golden" ;;
            *) echo "asan $p" ;;
            esac
        done
    else
        for p in $(programs); do
            case $p in
            */test_nano) echo "asan $p golden" ;;
            */test_resume) echo "asan $p an_error" ;;
            */test_shards) echo "asan $p are_deleted" ;;
            */test_calib) printf "asan $p %s\n" stages polling bad_texts ;;
            */test_session) printf "asan $p %s\n" forks kept ;;
            */test_generator) printf "asan $p %s\n" foreign stop_strings line every_mark ;;
            */test_draft) printf "asan $p %s\n" longest rows ;;
            */test_stream) printf "asan $p %s\n" tiny lost_expert ;;
            */test_store) printf "asan $p %s\n" reads is_seen read_errors that_changes failed_expert ;;
            */test_split) printf "asan $p %s\n" others parts drives allocation ;;
            */test_convert) printf "asan $p %s\n" source_form allocation ;;
            */test_invariance) echo "asan $p tiny_q4" ;;
            */factor/test_train) echo "asan $p bits" ;;
            */factor/test_contest) printf "asan $p %s\n" rival swarm_moves fitness ;;
            */test_copy) echo "asan $p left_alone" ;;
            */test_card_bits) printf "asan $p %s\n" copied places ;;
            */test_card_moves) printf "asan $p %s\n" any_token spans ;;
            */test_slices) echo "asan $p wrong_piece" ;;
            */test_saved) printf "asan $p %s\n" flipped branches thinned ;;
            */test_saved_power) printf "asan $p %s\n" control full ;;
            */test_journal) printf "asan $p %s\n" trusted noticed alone ;;
            */test_power | */test_replay | */test_live_factors | */test_metadata | */test_notices | */test_plan | */test_synth) ;;
            */test_tokenizer | */test_rotated | */test_decode | */test_oracle | */test_sensitivity) ;;
            */test_team | */test_reply | */test_drives | */checkasm/test_[fp]*) ;;
            *) echo "asan $p" ;;
            esac
        done
    fi
    echo "asan tests/e2e/damage.py"
}

# Threads.
tsan_jobs() {
    printf 'tsan %s\n' tests/sys/test_team "tests/device/test_gpu streams" "tests/device/test_gpu rows" tests/sys/test_place "tests/model/test_invariance tiny_q4" \
        "tests/engine/test_session sequences" "tests/engine/test_session leaves_no_trace" \
        "tests/convert/test_convert thread_count" tests/quant/test_feedback "tests/convert/test_calib workers" \
        "tests/expert/test_store replaced" "tests/expert/test_store store_gives" "tests/expert/test_stream tiny" \
        "tests/hybrid/test_card_moves any_token" "tests/hybrid/test_card_bits places" \
        "tests/factor/test_train bits"
    [ "$what" = long ] && echo "tsan tests/expert/test_drives"
}

gcc_jobs() {
    for p in $(programs) $(scripts); do echo "gcc $p"; done
    echo "scalar tests/model/test_nano golden"
    printf 'emulate scripts/emulate.sh %s\n' arm64,program simde,bochs
    [ "$what" = long ] && echo "scalar tests/model/test_oracle"
}

# A minute's worth that goes through every room.
quick_jobs() {
    only gcc base quant sys text/test_chat text/test_sampler text/test_tokenizer_input format/test_format \
        format/test_format_damage convert/test_convert convert/test_convert_config \
        convert/test_convert_damage convert/test_convert_names convert/test_recipe \
        convert/test_safetensors expert/test_cache expert/test_predict eval/test_quality \
        eval/test_trace model/test_oracle model/test_decode checkasm/test_hadamard
    printf 'gcc %s\n' "tests/model/test_nano golden" "tests/model/test_invariance golden" \
        "tests/expert/test_stream tiny" tests/lint/layers.py
}

# Programs and scripts by name: "split" is tests/format/test_split.c and tests/e2e/split.py, "nano:ppl" a part.
named_jobs() {
    for n in "$@"; do
        arg=
        case $n in *:*) arg=${n#*:} n=${n%%:*} ;; esac
        [ "$n" = emulate ] && echo "emulate scripts/emulate.sh $arg"
        for p in $(programs) $(scripts); do
            case ${p##*/} in "$n" | "test_$n" | "$n.py") echo "gcc $p $arg" ;; esac
        done
    done
}

# Measure time, or memory of the whole machine: alone.
alone='/(test_drives|test_slots|plan\.py)( |$)'
slowest='/(emulate\.sh|vm\.py)( |$)'
# Take longest: first; those before all others, so that no CPU waits at the end.
longest='/(test_nano|test_resume|test_split|test_sensitivity|test_invariance|test_calib|test_journal|test_stream|stream\.py|evidence\.py|cli\.py|test_rotated)( |$)'

# ---- the parts of a run -------------------------------------------------------------------------

begin() {
    mkdir -p "$out"
    rm -rf "$out/jobs" "$out/models"
    mkdir "$out/jobs"
    : >"$log"
    : >"$out/times.txt"
    started=$(date +%s)
}

section() { printf '\n== %s (%d s)\n' "$1" $(($(date +%s) - started)); }

# A step that is itself a check: its output is shown when it fails.
check() {
    name=$1
    shift
    begun=$(date +%s%3N)
    if "$@" >"$out/step.txt" 2>&1; then
        echo "ok   $name" | tee -a "$log"
    else
        cat "$out/step.txt"
        echo "FAIL $name" | tee -a "$log"
    fi
    echo "$name $(($(date +%s%3N) - begun)) 0" >>"$out/times.txt"
}

# Runs the jobs of a file.
run() {
    file=$1
    order=$out/order.txt
    { grep -E "$slowest" "$file"; grep -E "$longest" "$file"; grep -vE "$slowest|$longest" "$file"; } | grep -vE "$alone" >"$order"
    xargs -r -P "$jobs" -I{} sh scripts/test.sh job {} <"$order"
    grep -E "$alone" "$file" >"$order"
    xargs -r -P 1 -I{} sh scripts/test.sh job {} <"$order"
}

results() {
    cat "$out"/jobs/*.result >>"$log" 2>/dev/null
    cat "$out"/jobs/*.time >>"$out/times.txt" 2>/dev/null
    section "times, two programs at a time"
    awk '{ wall[$1] += $2; cpu[$1] += $3 }
         END { for (r in wall)
                   if (cpu[r] > 0) printf "%s: %.1f s, processor %.1f s\n", r, wall[r] / 1000, cpu[r]
                   else printf "%s: %.1f s\n", r, wall[r] / 1000 }' "$out/times.txt" | LC_ALL=C sort
    section "results"
    grep -E '^(FAIL|skip) ' "$log"
    passed=$(grep -c '^ok ' "$log")
    failed=$(grep -c '^FAIL ' "$log")
    # a test that skips in every build is one test
    skipped=$(sed -n 's/^skip [a-z]* \([^ :]*\).*/\1/p' "$log" | sort -u | grep -c .)
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}

lint() {
    check lint.format make -s format-check
    check lint.headers make -s header-check
    check lint.layers sh scripts/check_layers.sh
    check lint.docs sh scripts/check_docs.sh
}

build() { # LABEL TARGET... [VARIABLE=VALUE...]
    label=$1
    shift
    check "build.$label" make -s -j"$jobs" WERROR=1 BUILD="$out/$label" "$@"
}

# Line numbers are enough for a test; of variables gcc's share of the time is two fifths in kernels.
lines="-O2 -g1"

# The vector kernels of the address-sanitized build are gcc's: they are not checked there anyhow but for
# undefined behaviour, which is a long run's to find, and unrolled tiles take it a minute and a half.
kernels_for() {
    mine=$out/$1/simd/x86
    if [ "$what" = long ]; then
        [ ! -e "$mine/of_gcc" ] || rm -rf "$mine"
    elif [ -d "$out/gcc/simd/x86" ]; then
        rm -rf "$mine"
        mkdir -p "$mine"
        cp -p "$out"/gcc/simd/x86/*.o "$mine"
        : >"$mine/of_gcc"
    fi
}

# The test programs that a list of jobs runs.
built() { awk -v dir="$out" '$2 !~ /\./ { print dir "/" $1 "/" $2 }' | sort -u; }

# The reference tokenizer, for the 2 MB comparison; its test skips when the index is out of reach.
reference_tokenizer() {
    venv=build/venv
    [ -d "${FULGUR_SHARED:-../shared}/m1-release" ] || return 0
    [ -x $venv/bin/python ] || python3 -m venv $venv >/dev/null 2>&1
    $venv/bin/python -c 'import tokenizers' 2>/dev/null ||
        $venv/bin/pip install -q tokenizers==0.23.3 >/dev/null 2>&1
    $venv/bin/python -c 'import tokenizers' 2>/dev/null && export FULGUR_PYTHON=$venv/bin/python
}

# ---- the runs -----------------------------------------------------------------------------------

case $what in
all | long)
    [ "$what" = long ] && export FULGUR_TEST_LONG=1
    sh scripts/deps.sh test || exit 1
    sh scripts/emulate.sh install
    begin
    reference_tokenizer
    section "lint"
    lint
    [ "$what" = long ] && check lint.analyzer make -s analyze
    gcc_jobs >"$out/gcc.txt"
    clang_jobs >"$out/clang.txt"
    asan_jobs >"$out/asan.txt"
    tsan_jobs >"$out/tsan.txt"
    cat "$out/gcc.txt" "$out/clang.txt" "$out/asan.txt" "$out/tsan.txt" >"$out/all.txt"
    section "builds: gcc, clang, address and thread sanitizer; -Werror"
    build gcc CC=gcc CFLAGS="$lines" all tests
    build clang CC=clang CFLAGS=-O2 $(built <"$out/clang.txt")
    check build.clang_syntax make -s CC=clang WERROR=1 BUILD=$out/clang syntax
    kernels_for asan
    build asan CC=gcc SAN=address,undefined CFLAGS="-O1 -g1" all $(built <"$out/asan.txt")
    build tsan CC=clang SAN=thread OPENMP=0 CFLAGS="-O1 -g1" $(built <"$out/tsan.txt")
    check lint.symbols sh scripts/check_symbols.sh $out/gcc/libfulgur.a $out/gcc/libtools.a
    section "tests; other CPUs: NEON under qemu, AVX-512 through SIMDe and Bochs"
    run "$out/all.txt"
    if [ "$what" = long ]; then
        section "fuzzing, ten minutes a target"
        sh scripts/fuzz.sh | tee -a "$log"
    fi
    ;;
check)
    begin
    section "build"
    build gcc CC=gcc CFLAGS="$lines" all tests
    section "lint"
    lint
    check lint.symbols sh scripts/check_symbols.sh $out/gcc/libfulgur.a $out/gcc/libtools.a
    section "quick tests"
    quick_jobs >"$out/all.txt"
    run "$out/all.txt"
    ;;
one)
    shift
    begin
    named_jobs "$@" >"$out/all.txt"
    [ -s "$out/all.txt" ] || { echo "fulgur: test: $*: no such test, expected a name in tests/" >&2; exit 1; }
    build gcc CC=gcc CFLAGS="$lines" all $(built <"$out/all.txt")
    FULGUR_TEST_SHOW=1 run "$out/all.txt"
    ;;
*)
    echo "fulgur: test: \"$what\", expected long, check, one NAME or nothing" >&2
    exit 2
    ;;
esac
results
