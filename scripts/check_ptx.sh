#!/bin/sh
# The card's arithmetic is the contract's (simd/KERNELS.md): fails when the PTX of the kernels flushes
# subnormals, approximates, leaves rounding or contraction to the assembler, joins floats atomically, or
# has a minimum or maximum whose way with NaN differs from "a > b ? a : b".
# check_ptx.sh [FILE]: of a build with nvcc where none is named.
set -eu
cd "$(dirname "$0")/.."
file=${1:-build/cuda/module.ptx}
[ -r "$file" ] || { echo "$file: not there, expected a build with nvcc"; exit 2; }
awk '
/^[ \t]*\/\// { next }
/\.entry/ { kernel = $NF; sub(/\($/, "", kernel) }
{
    why = ""
    if (/\.ftz/) why = "flushes subnormals"
    if (/\.approx|\.full|[ \t](ex2|lg2|sin|cos|tanh|rsqrt)\./) why = "approximates"
    if (/[ \t](add|sub|mul|div|rcp|sqrt|fma)\.f(32|64)[ \t]/) why = "without a rounding of its own"
    if (/[ \t]mad\.[a-z.]*f(32|64)/) why = "fused or not, as the assembler likes"
    if (/[ \t](red|atom)\.[a-z0-9.]*f(16|32|64)/) why = "joins floats in any order"
    if (/[ \t]mma\.[a-z0-9_.]*(f16|bf16|tf32|f32)/) why = "multiplies floats on tensor units"
    if (/[ \t](min|max)\.[a-zA-Z.]*f(32|64)/ && !/0fFF800000;/) why = "forgets a NaN"
    if (why != "") { sub(/^[ \t]+/, ""); print FILENAME ":" FNR ": " kernel ": " $0 " " why; bad = 1 }
    if (/\.entry/) n++
}
END {
    if (n == 0) { print FILENAME ": no kernels, expected some"; bad = 1 }
    exit bad
}' "$file"
