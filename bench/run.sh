#!/bin/sh
# Measures this machine: builds, writes a synthetic model of 4 layers of MiniMax-M1 (14.8 GB) into a
# temporary folder, runs fulgur bench on it, and leaves bench/baselines/<cpu>.csv.
# Usage: sh bench/run.sh [options of fulgur bench].  See bench/README.md.
# Environment: TMPDIR (needs 15 GB), CC, LAYERS (4), TYPE (q4), NAME (of the baseline).
set -eu
cd "$(dirname "$0")/.."
cc=${CC:-gcc}
build=build/bench-$cc
make -s -j"$(nproc)" CC="$cc" BUILD="$build" all

cpu=$(sed -n 's/^model name[^:]*: *//p; s/^CPU part[^:]*: *0x/arm-/p' /proc/cpuinfo | head -n 1)
slug=$(printf '%s' "${NAME:-${cpu:-unknown}-$(nproc)cpu}" | tr 'A-Z' 'a-z' | tr -cs 'a-z0-9\n' '-' | sed 's/^-//; s/-$//')
commit=$(git describe --always --dirty 2>/dev/null || echo unknown)

dir=$(mktemp -d "${TMPDIR:-/tmp}/fulgur-bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
"$build/fulgur" synth "$dir/m1.fulgur" --shape m1 --layers "${LAYERS:-4}" --type "${TYPE:-q4}"
mkdir -p bench/baselines
"$build/fulgur" bench "$dir/m1.fulgur" --kernels --shapes bench/shapes/m1.txt --cold \
    --csv "$dir/figures.csv" --commit "$commit" \
    --flags "$("$cc" --version | head -n 1), ${LAYERS:-4} layers ${TYPE:-q4}" "$@"
mv "$dir/figures.csv" "bench/baselines/$slug.csv"
echo "bench/baselines/$slug.csv"
