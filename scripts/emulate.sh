#!/bin/sh
# Runs the kernels of CPUs that this machine is not (simd/KERNELS.md, last section):
#   arm64    kernel tests, cross-built, under qemu-aarch64 as three CPUs
#   program  the whole program, static ARM64: same file, same logits, same text as here
#   simde    AVX-512 kernels over SIMDe, on any AVX2 machine
#   bochs    AVX-512 kernels executed by Bochs, without an operating system
# Usage: sh scripts/emulate.sh [PART ...]      (default: all; "install" installs what they need, no more)
# Environment: FULGUR  program of this machine to compare with (default: built here)
# Prints a line "ok", "FAIL" or "skip" for each check, then a count.  Missing packages are installed
# if possible; a part whose tools cannot be had is skipped with the reason.  Times and logs are left
# in build/emulate.
set -u
cd "$(dirname "$0")/.."
unset MAKEFLAGS MFLAGS
export LC_ALL=C
out=$PWD/build/emulate
cross=aarch64-linux-gnu
parts=$(echo "${*:-arm64 program simde bochs}" | tr , ' ')
nano=tests/models/m1-nano
small=tests/vectors/oracle/orig-wide
mine=$out/$(echo "$parts" | tr ' ' -) # parts may run beside others
mkdir -p "$out/log"
rm -f "$mine".*

has() { case " $parts " in *" $1 "*) return 0 ;; esac; return 1; }

# Leaves the seconds that commands of this shell have taken of the processor in spent.
processor() {
    times >"$mine.spent$lane"
    spent=$(awk 'NR == 2 { for (i = 1; i <= 2; i++) { split($i, p, "[ms]"); s += p[1] * 60 + p[2] } printf "%d", s }' \
        "$mine.spent$lane")
}

# check NAME COMMAND...: a verdict line; what the command printed comes before a failure.
check() {
    checked=$1
    shift
    processor
    begin=$(date +%s) before=$spent
    if "$@" >"$out/log/$checked" 2>&1; then
        echo "ok   emulate.$checked"
    else
        tail -n 15 "$out/log/$checked"
        echo "FAIL emulate.$checked"
    fi
    processor
    echo "$(($(date +%s) - begin)) s, processor $((spent - before)) s $checked" >>"$mine.times"
}
skip() { echo "skip emulate.$1: $2"; }

# Prints the first tool that is missing; a name with a slash is a file.
missing() {
    for tool in "$@"; do
        case $tool in
        */*) [ -e "$tool" ] || { echo "$tool"; return; } ;;
        *) command -v "$tool" >/dev/null || { echo "$tool"; return; } ;;
        esac
    done
}

install() {
    pkgs=
    for p in "$@"; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || pkgs="$pkgs $p"
    done
    [ -n "$pkgs" ] || return 0
    sudo=
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    { $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends $pkgs; } >"$out/log/install" 2>&1 ||
        echo "could not install:$pkgs ($out/log/install)"
}

# ---- ARM64 ------------------------------------------------------------------------------------

arm=$out/arm64
root=$PWD/build/bundle/arm64/sysroot # what bundles are made of
arm_objs() { for f in "$@"; do echo "$arm/${f%.c}.o"; done; }
# What the kernel tests need; no third-party library but the header of xxHash.
arm_srcs=$(ls simd/*.c simd/scalar/*.c simd/arm/*.c quant/*.c src/sys/cpu.c src/factor/algorithm.c src/base/*.c \
    tests/fg_test.c tests/emulate/level.c tests/checkasm/test_*.c | grep -v -e base/json.c -e base/crypto.c -e quant/linalg.c -e quant/feedback.c)
arm_make() {
    make -s -j"$(nproc)" CC=$cross-gcc AR=$cross-ar CFLAGS=-O2 WERROR=1 BUILD="$arm" "$@"
}
arm_panels=$(arm_objs simd/arm/panel_*.c)
arm_link() { # NAME MAIN_OBJECT PANEL_OBJECT...
    exe=$arm/$1
    main=$arm/$2
    shift 2
    $cross-gcc -static -o "$exe" "$main" "$@" $(arm_objs $arm_srcs |
        grep -v -e /checkasm/ -e tests/emulate/ -e simd/arm/panel_) -lm
}

arm_build() {
    arm_make PKG_CFLAGS="-DXXH_INLINE_ALL -idirafter /usr/include" $(arm_objs $arm_srcs) &&
        $cross-gcc -static -o "$arm/level" "$arm/tests/emulate/level.o" "$arm/src/sys/cpu.o" \
            $(arm_objs src/base/*.c | grep -v -e /json.o -e /crypto.o) -lm ||
        return 1
    for t in tests/checkasm/test_*.c; do
        t=$(basename "$t" .c)
        arm_link "$t" "tests/checkasm/$t.o" $arm_panels || return 1
    done
}

arm_level() { # CPU LEVEL
    level=$(qemu-aarch64 -cpu "$1" "$arm/level")
    echo "$1: $level, expected $2"
    [ "$level" = "$2" ]
}

# The panel kernels with multiply-adds that round twice: both levels must be found different.
arm_control() {
    broken=
    for level in dotprod i8mm; do
        isa=+dotprod
        [ $level = i8mm ] && isa=+dotprod+i8mm
        o=$arm/broken_$level.o
        $cross-gcc -std=c11 -I. -O2 -ffp-contract=off -march=armv8.2-a$isa \
            -include tests/emulate/broken_neon.h -c simd/arm/panel_int_$level.c -o "$o" || return 1
        broken="$broken $o"
    done
    arm_link broken tests/checkasm/test_panel_kernels.o $broken || return 1
    qemu-aarch64 -cpu max "$arm/broken" panel_q5 >"$arm/broken.txt" && return 1
    grep -q 'q5__dotprod: differs' "$arm/broken.txt" && grep -q 'q5__i8mm: differs' "$arm/broken.txt"
}

# clang has its own arm_neon.h; compiled only.
arm_clang() {
    for f in simd/arm/*.c; do
        case $f in
        *_i8mm.c) isa=-march=armv8.2-a+dotprod+i8mm ;;
        *_dotprod.c) isa=-march=armv8.2-a+dotprod ;;
        *) isa= ;;
        esac
        clang --target=$cross -std=c11 -D_GNU_SOURCE -I. -Wall -Wextra -Wpedantic -Wshadow -Wconversion \
            -Werror -O2 -ffp-contract=off -fno-math-errno $isa -c "$f" -o "$arm/clang.o" || return 1
    done
}

lesser="neoverse-n1 cortex-a72"
arm_calls() { # CPU
    qemu-aarch64 -cpu "$1" "$arm/test_f32_kernels" golden_bits &&
        qemu-aarch64 -cpu "$1" "$arm/test_hadamard" golden_bits &&
        qemu-aarch64 -cpu "$1" "$arm/test_panel_kernels" gemm_equals_gemv
}

arm_tests() {
    check arm64.level_max arm_level max i8mm
    check arm64.level_neoverse_n1 arm_level neoverse-n1 dotprod
    check arm64.level_cortex_a72 arm_level cortex-a72 neon
    check arm64.broken_kernel_is_caught arm_control
    [ -n "$(missing clang)" ] || check arm64.clang arm_clang
    # The greatest CPU runs the kernels of every level.  The lesser ones show that no kernel of theirs
    # has an instruction too many: a call of each, and in a long run everything again.
    for t in tests/checkasm/test_*.c; do
        t=$(basename "$t" .c)
        check "arm64.$t.max" qemu-aarch64 -cpu max "$arm/$t"
        [ -n "${FULGUR_TEST_LONG:-}" ] || continue
        for cpu in $lesser; do check "arm64.$t.$cpu" qemu-aarch64 -cpu $cpu "$arm/$t"; done
    done
    for cpu in $lesser; do
        check "arm64.calls.$cpu" arm_calls $cpu
    done
}

# ---- the whole program, ARM64 ----------------------------------------------------------------

program_build() { # as a bundle has it
    arm_make CFLAGS=-O1 STATIC="$root" NVCC= "$arm/fulgur" ${FULGUR_TEST_LONG:+"$arm/tests/model/test_invariance" "$arm/tests/sys/test_sandbox"}
}

here() { "$fulgur" "$@"; }
there() { qemu-aarch64 -cpu "$cpu" "$arm/fulgur" "$@"; }

program_convert() { # the same bytes on both machines
    cpu=max
    here convert $small "$out/small.fulgur" --type q4 &&
        there convert $small "$out/there.fulgur" --type q4 &&
        cmp "$out/small.fulgur" "$out/there.fulgur" &&
        here convert $nano "$out/here.fulgur" --type q4
}

program_logits() { # LEVEL
    rm -f "$out/there.f32"
    cpu=max
    there logits "$out/here.fulgur" --ids "$out/ids.txt" --out "$out/there.f32" -t 1 --cpu "$1" &&
        cmp "$out/here.f32" "$out/there.f32"
}

program_run() { # CPU
    cpu=$1
    prompt="The capital of"
    here run "$out/here.fulgur" -p "$prompt" -n 24 --temp 0 --cpu scalar >"$out/here.txt" &&
        there run "$out/here.fulgur" -p "$prompt" -n 24 --temp 0 >"$out/there.txt" &&
        [ -s "$out/here.txt" ] && cmp "$out/here.txt" "$out/there.txt"
}

program_tests() { # more than a chunk of 64 tokens
    awk 'BEGIN { for (i = 0; i < 80; i++) { x = (x * 197 + 61) % 509; print x } }' >"$out/ids.txt"
    rm -f "$out"/here.* "$out"/there.* "$out"/small.*
    check program.convert_gives_the_same_bytes program_convert
    here logits "$out/here.fulgur" --ids "$out/ids.txt" --out "$out/here.f32" --cpu scalar
    for level in scalar neon dotprod i8mm; do
        check program.logits_$level program_logits $level
    done
    for cpu in max neoverse-n1 cortex-a72; do check program.run_$cpu program_run $cpu; done
    # the logits above are as many bits; this takes minutes
    [ -z "${FULGUR_TEST_LONG:-}" ] || check program.golden_hash qemu-aarch64 -cpu max "$arm/tests/model/test_invariance" golden_hash
    [ -z "${FULGUR_TEST_LONG:-}" ] || check program.sandbox_in_a_vm env FULGUR="$fulgur" python3 tests/emulate/arm_vm.py "$arm"
}

# ---- AVX-512 ----------------------------------------------------------------------------------

avx2="-mavx2 -mfma -mf16c -mbmi2"
# Speed does not matter and the unrolled tiles take gcc minutes, hence little optimization and no
# debugging information, three quarters of the time; every feature check says yes, so that the level is
# chosen; AMX is asked of the CPU itself.
simde_build() {
    # The suite's objects are the same but for these.
    if [ -d build/test/gcc/simd ] && [ ! -d "$out/simde" ]; then
        cp -rp build/test/gcc "$out/simde" && rm -rf "$out/simde/tests" &&
            rm -f "$out"/simde/*.a "$out"/simde/src/sys/cpu.* "$out"/simde/simd/x86/*_avx512vnni.*
    fi
    make -s -j"$(nproc)" BUILD="$out/simde" \
        AVX512="$avx2 -O1 -g0 -Dalways_inline=unused -w -Wno-psabi -include tests/emulate/simde_extra.h" \
        AMX="-mamx-tile -mamx-int8" CFLAGS="-O2 -g '-D__builtin_cpu_supports(x)=1'" \
        $(for t in tests/checkasm/test_*.c; do echo "$out/simde/${t%.c}"; done) \
        "$out/simde/tests/model/test_invariance" &&
        ! objdump -d "$out"/simde/simd/x86/*_avx512vnni.o | grep zmm
}

simde_tests() {
    # where the CPU has them, the suite ran the kernels themselves
    ! grep -qw avx512_vnni /proc/cpuinfo || [ -n "${FULGUR_TEST_LONG:-}" ] || return 0
    why=$(missing /usr/include/simde/x86/avx512.h objdump)
    grep -qw avx2 /proc/cpuinfo || why="AVX2 on this machine"
    [ -z "$why" ] || { skip simde "$why is missing"; return; }
    check simde.build simde_build
    for t in tests/checkasm/test_*.c; do
        check "simde.$(basename "$t" .c)" "$out/simde/${t%.c}"
    done
    check simde.golden_hash env FULGUR_TEST_CPU=avx512vnni \
        "$out/simde/tests/model/test_invariance" golden_hash
}

bochs_build() {
    dir=$out/bochs
    free="-O2 -ffreestanding -fno-pic -fno-pie -mno-red-zone -fno-stack-protector \
          -fcf-protection=none -fno-asynchronous-unwind-tables"
    objs=
    for f in simd/scalar/*.c quant/qtype.c quant/hadamard.c tests/emulate/bochs/bare.c simd/x86/*_avx512vnni.c; do
        objs="$objs $dir/${f%.c}.o"
    done
    make -s -j"$(nproc)" BUILD="$dir" OPENMP=0 CFLAGS="$free" $objs || return 1
    mkdir -p "$dir/iso/boot/grub"
    cp tests/emulate/bochs/grub.cfg "$dir/iso/boot/grub/"
    gcc -c tests/emulate/bochs/boot.S -o "$dir/boot.o" &&
        ld -n --gc-sections -z max-page-size=4096 -e _start -T tests/emulate/bochs/kernels.ld \
            -o "$dir/iso/boot/kernels.elf" "$dir/boot.o" $objs &&
        grub-mkrescue -o "$dir/kernels.iso" "$dir/iso"
}

# Debian's Bochs has a debugger, which must be told to go on, and wants a terminal.
bochs_run() {
    cp tests/emulate/bochs/bochsrc "$dir/"
    printf 'continue\nquit\n' >"$dir/rc.txt"
    rm -f "$dir/serial.txt"
    (cd "$dir" && timeout 180 script -qec "env TERM=vt100 bochs -q -f bochsrc -unlock -rc rc.txt" \
        /dev/null </dev/null >screen.txt 2>&1)
    cat "$dir/serial.txt"
    grep -q '^done' "$dir/serial.txt"
}

bochs_tests() {
    why=$(missing bochs script grub-mkrescue xorriso /usr/lib/grub/i386-pc/boot.img \
        /usr/share/bochs/BIOS-bochs-latest /usr/share/bochs/VGABIOS-lgpl-latest)
    [ -z "$why" ] || { skip bochs "$why is missing"; return; }
    # its display needs a terminal, which a bare container may not be able to make
    script -qec true /dev/null >/dev/null 2>&1 </dev/null ||
        { skip bochs "no pseudo-terminal can be made here"; return; }
    check bochs.build bochs_build
    check bochs.run bochs_run
    [ ! -e "$dir/serial.txt" ] ||
        sed -n 's/^ok /ok   emulate.bochs./p; s/^FAIL /FAIL emulate.bochs./p' "$dir/serial.txt"
}

# ---- all --------------------------------------------------------------------------------------

started=$(date +%s)
drop() { parts=$(echo " $parts " | sed "s/ $1 / /"); }

install_parts() {
    pkgs=
    if has arm64 || has program; then
        pkgs="$pkgs gcc-$cross libc6-dev-arm64-cross qemu-user${FULGUR_TEST_LONG:+ qemu-system-arm}"
    fi
    if has simde; then pkgs="$pkgs libsimde-dev"; fi
    if has bochs; then pkgs="$pkgs bochs bochsbios bochs-term grub-pc-bin grub-common xorriso"; fi
    install $pkgs
}

prepare() {
    install_parts
    why=$(missing $cross-gcc $cross-ar qemu-aarch64)
    for part in arm64 program; do
        [ -n "$why" ] && has $part && skip $part "$why is missing" && drop $part
    done
    if has arm64; then check arm64.build arm_build; fi
    has program || return 0
    if ! sh scripts/static_root.sh arm64 "${root%/sysroot}" >"$out/log/root" 2>&1; then
        skip program "no arm64 libraries: $(tail -n 1 "$out/log/root")"
        drop program
        return 0
    fi
    check program.build program_build
    fulgur=${FULGUR:-$out/host/fulgur}
    [ -n "${FULGUR:-}" ] || check program.host make -s -j"$(nproc)" BUILD="$out/host" "$fulgur"
}

lane=0
[ "$parts" != install ] || { parts="arm64 program simde bochs"; install_parts; exit 0; }
prepare >"$mine.prepare.part" 2>&1
cat "$mine.prepare.part"
# Two lanes, for two cores.
if has arm64; then lane=1; arm_tests; fi >"$mine.lane1.part" 2>&1 &
{
    lane=2
    if has program; then program_tests; fi
    if has simde; then simde_tests; fi
    if has bochs; then bochs_tests; fi
} >"$mine.lane2.part" 2>&1
wait
cat "$mine.lane1.part" "$mine.lane2.part"
passed=$(cat "$mine".*.part | grep -c '^ok ')
failed=$(cat "$mine".*.part | grep -c '^FAIL ')
skipped=$(cat "$mine".*.part | grep -c '^skip ')
echo "emulated in $(($(date +%s) - started)) s"
echo "emulate: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ $((passed + skipped)) -gt 0 ]
