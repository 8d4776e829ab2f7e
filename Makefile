# Fulgur.  `make help` lists the targets.
# Knobs: CC, CFLAGS, BUILD, WERROR=1, DEBUG=1, SAN=address,undefined, OPENMP=0, BLAS=link (OpenBLAS is a
# library like any other; else loaded by who calibrates), STATIC=DIR (a static program, with the libraries of
# scripts/static_root.sh below DIR and BLAS=link; no card, but with DRIVER=1, where the C library is shared, so
# that a card's driver can be loaded), V=1, PREFIX, DESTDIR, NVCC (the compiler of
# the card's kernels; found where it is, NVCC= for a program without them).
CC      ?= cc
ifeq ($(origin CC),default)
CC      := gcc
endif
comma   := ,
OPENMP  ?= $(shell printf 'int main(void){return 0;}' | $(CC) -fopenmp -x c - -o /dev/null 2>/dev/null && echo 1 || echo 0)
ifneq ($(STATIC),)
BLAS    := link
endif
BUILD   ?= build/$(notdir $(CC))$(if $(SAN),-$(subst $(comma),-,$(SAN)))$(if $(filter 0,$(OPENMP)),-pthread)$(if $(filter link,$(BLAS)),-blas)$(if $(DEBUG),-debug)
PREFIX  ?= /usr/local
BINDIR  ?= $(PREFIX)/bin
LIBDIR  ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MAN1DIR ?= $(PREFIX)/share/man/man1
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR  ?= $(PREFIX)/share/zsh/site-functions
VERSION := $(shell sed -n 's/^\#define FG_VERSION  *"\(.*\)"/\1/p' src/fulgur.h)
SO_MAJOR := $(firstword $(subst ., ,$(VERSION)))
Q       := $(if $(V),,@)
CPUS    := $(shell nproc)

LIB_PKGS := hwloc libcjson libxxhash libpcre2-8 libutf8proc liburing libcrypto
PKGS    := $(LIB_PKGS) libedit openblas
LINKED  := $(LIB_PKGS) libedit $(if $(filter link,$(BLAS)),openblas)
ifeq ($(filter help clean format format-check lint dist,$(MAKECMDGOALS)),)
MISSING := $(if $(STATIC),,$(strip $(foreach p,$(PKGS),$(shell pkg-config --exists $(p) 2>/dev/null || echo $(p)))))
ifneq ($(MISSING),)
$(error missing libraries: $(MISSING); run sh scripts/deps.sh)
endif
endif

STD     := -std=c11 -D_GNU_SOURCE -I.
WARN    := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wundef -Wvla -Wdouble-promotion \
           -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 $(if $(WERROR),-Werror)
CFLAGS  ?= -O2 -g
SANF    := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer \
           $(if $(findstring undefined,$(SAN)),-fno-sanitize-recover=undefined))
OMPF    := $(if $(filter 1,$(OPENMP)),-fopenmp -DFG_OPENMP=1,-DFG_OPENMP=0)
# The numerics contract: no contraction the source did not write, never -ffast-math.
DEBUGF  := $(if $(DEBUG),-DFG_DEBUG=1)
FPF     := -ffp-contract=off -fno-math-errno
ifeq ($(STATIC),)
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(LINKED) 2>/dev/null)
else
TRIPLE     := $(shell $(CC) -dumpmachine)
PKG_CFLAGS := $(if $(DRIVER),,-DFG_STATIC=1) -isystem $(STATIC)/usr/include -isystem $(STATIC)/usr/include/$(TRIPLE)
PKG_LIBS   := $(if $(DRIVER),-no-pie -static-libgcc -Wl$(comma)-Bstatic,-static) -L$(STATIC)/usr/lib/$(TRIPLE) \
              $(addprefix -l,hwloc cjson xxhash pcre2-8 utf8proc uring edit tinfo bsd md openblas crypto) \
              $(if $(DRIVER),-lgomp -Wl$(comma)-Bdynamic -Wl$(comma)--as-needed)
endif
ALL_CFLAGS = $(STD) $(WARN) $(PIC) $(CFLAGS) $(DEBUGF) $(FPF) $(SANF) $(OMPF) -pthread -fvisibility=hidden $(PKG_CFLAGS) $(ISA) -MMD -MP
LDLIBS  = $(PKG_LIBS) -lm -ldl -pthread $(OMPF) $(SANF)
LIB_LIBS = $(shell pkg-config --libs $(LIB_PKGS) 2>/dev/null) -lm -ldl -pthread $(OMPF) $(SANF)

ARCH    := $(shell $(CC) -dumpmachine | cut -d- -f1)
# The library: the rooms of a running model.  What makes, judges and predicts models is the program's
# (libtools.a); quant/linalg.c is the one that loads OpenBLAS.
LIB_DIRS := base sys format text factor expert model device engine
TOOL_SRCS := $(wildcard src/format/write/*.c src/carry/*.c src/eval/*.c src/plan/*.c convert/*.c convert/*/*.c bench/*.c) \
             quant/linalg.c quant/feedback.c
LIB_SRCS := $(filter-out $(TOOL_SRCS),$(wildcard $(LIB_DIRS:%=src/%/*.c) quant/*.c simd/*.c simd/scalar/*.c \
            simd/cuda/*.c))
ifeq ($(ARCH),x86_64)
LIB_SRCS += $(wildcard simd/x86/*.c)
else ifeq ($(ARCH),aarch64)
LIB_SRCS += $(wildcard simd/arm/*.c)
endif
CLI_SRCS := $(wildcard src/cli/*.c)
TEST_SRCS := $(wildcard tests/*/test_*.c)
TEST_SUPPORT := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/*.c))
LIB_OBJS := $(LIB_SRCS:%.c=$(BUILD)/%.o)
TOOL_OBJS := $(TOOL_SRCS:%.c=$(BUILD)/%.o)
ARCHIVES := $(BUILD)/libtools.a $(BUILD)/libfulgur.a
CLI_OBJS := $(CLI_SRCS:%.c=$(BUILD)/%.o)
TESTS    := $(TEST_SRCS:%.c=$(BUILD)/%)
HEADERS  := $(wildcard src/*.h src/*/*.h src/*/*/*.h quant/*.h convert/*.h convert/*/*.h bench/*.h simd/*.h \
             simd/cuda/*.h tests/*.h)
C_FILES  := $(wildcard src/*.h src/*/*.[ch] src/*/*/*.[ch] quant/*.[ch] convert/*.[ch] convert/*/*.[ch] \
             simd/*.[ch] simd/*/*.[ch] bench/*.[ch] tests/*.[ch] tests/*/*.[ch])

.PHONY: all lib shared tests check test fuzz syntax analyze demo header-check symbols lint format format-check \
        install uninstall dist clean help
.SUFFIXES:
.SECONDARY:

## all: the program (build/<cc>/fulgur) and the library; the default
all: $(BUILD)/fulgur

## lib: the static library only
lib: $(BUILD)/libfulgur.a

## tests: builds every test program
tests: $(TESTS) $(BUILD)/fulgur $(FAKE)

## check: lint, a build and the quick tests, in 90 seconds on two cores
check:
	sh scripts/test.sh check

## test: the whole suite, as scripts/test.sh; T="NAME ..." builds and runs only these, NAME:PATTERN a part
test:
	sh scripts/test.sh $(if $(T),one $(T))

## fuzz: libFuzzer with the sanitizers: T=json for one target (default: all), SECONDS=600 each
fuzz:
	sh scripts/fuzz.sh $(T)

## demo: converts the nano model and asks it something
demo:
	sh scripts/demo.sh

# One ISA for each translation unit, by file suffix; everything else is baseline.
$(BUILD)/simd/x86/%_avx2.o: ISA := -mavx2 -mfma -mf16c -mbmi2 -O3 -fno-math-errno
$(BUILD)/simd/arm/%_neon.o: ISA := -O3
$(BUILD)/simd/arm/%_dotprod.o: ISA := -march=armv8.2-a+dotprod -O3
$(BUILD)/simd/arm/%_i8mm.o: ISA := -march=armv8.2-a+dotprod+i8mm -O3
ifeq ($(ARCH),aarch64) # gcc 12 dies of an internal error, vectorizing a reduction in these tests
$(BUILD)/tests/checkasm/%.o: ISA := -fno-tree-vectorize
endif
$(BUILD)/simd/scalar/%.o: ISA := -O2
# gcc's expression reordering undoes the schedule of the panel tiles (KERNELS.md); clang lacks it.
NO_TER  := $(shell $(CC) -Werror -fno-tree-ter -E -x c /dev/null >/dev/null 2>&1 && echo -fno-tree-ter)
$(BUILD)/simd/x86/panel_%_avx2.o: ISA := -mavx2 -mfma -mf16c -mbmi2 -O3 $(NO_TER)
AVX512  := -mavx2 -mfma -mf16c -mbmi2 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -O3
$(BUILD)/simd/x86/%_avx512vnni.o: ISA := $(AVX512) -fno-math-errno
$(BUILD)/simd/x86/panel_%_avx512vnni.o: ISA := $(AVX512) $(NO_TER)
AMX     := -mavx512vbmi -mamx-tile -mamx-int8
$(BUILD)/simd/x86/%_amx.o: ISA := $(AVX512) $(AMX)

ifeq ($(ARCH),x86_64)
# Unrolled by hand as they are, they take minutes with -O3: the check of bits needs none of it.
$(BUILD)/tests/amx_shim.o: ISA := $(AVX512) -O1
ifneq ($(SAN),)
$(BUILD)/simd/x86/panel_amx.o: ISA := $(AVX512) $(AMX) -O1
endif
endif
$(BUILD)/src/device/module.o: ISA := -DFG_LIBDIR='"$(LIBDIR)"'
ifeq ($(BLAS),link)
$(BUILD)/quant/linalg.o: ISA := -DFG_BLAS_LINKED=1
endif
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -c $< -o $@

$(BUILD)/%.so.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -c $< -o $@

$(BUILD)/libfulgur.a: $(LIB_OBJS)
$(BUILD)/libtools.a: $(TOOL_OBJS)
$(ARCHIVES):
	$(Q)rm -f $@
	$(Q)$(AR) rcs $@ $^

# The static and the shared library have the same objects, but for topo.o: a program has a section there
# that is read before any library is started, a shared library cannot.
$(LIB_OBJS): PIC := -fPIC
$(BUILD)/src/sys/topo.o: PIC :=
$(BUILD)/src/sys/topo.so.o: PIC := -fPIC
$(BUILD)/libfulgur.so: $(LIB_OBJS:%/topo.o=%/topo.so.o)
	$(Q)$(CC) $(CFLAGS) -shared $(if $(SAN),,-Wl,-z,defs) -Wl,-soname,libfulgur.so.$(SO_MAJOR) $^ $(LIB_LIBS) -o $@

$(BUILD)/fulgur: $(CLI_OBJS) $(ARCHIVES)
	$(Q)$(CC) $(CFLAGS) $^ $(LDLIBS) $(LDFLAGS_EXTRA) -o $@

$(BUILD)/tests/cli/test_args: $(addprefix $(BUILD)/src/cli/,args.o help.o nearest.o manual.o completion.o size.o)
$(BUILD)/tests/cli/test_progress $(BUILD)/tests/cli/test_terminal: $(filter-out $(BUILD)/src/cli/main.o,$(CLI_OBJS))
# Unrolled intrinsics take gcc a minute a file with address checks and clang half an hour; checkasm
# has their arrays end at guard pages instead.
ifneq ($(findstring address,$(SAN)),)
$(BUILD)/simd/x86/%.o $(BUILD)/simd/arm/%.o $(BUILD)/tests/amx_shim.o: SANF := $(if $(findstring fuzzer,$(SAN)),,-fsanitize=undefined -fno-sanitize-recover=undefined)
endif
# The card's kernels: one module of code for sm_80, of code for sm_90, whose launches may begin early, and
# of that one's PTX for newer cards, behind a line that says of which headers (simd/cuda/cuda_image.h).
# The same for every CC; nothing of CUDA is needed without it.
NVCC    ?= $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))
CU_SRCS := $(sort $(wildcard simd/cuda/*.cu))
CU_ABI_FILES := $(sort $(wildcard simd/cuda/*.h simd/cuda/*.inc)) simd/kernels.h quant/qtype.h quant/types.inc
CU_ABI  := $(shell cat $(CU_ABI_FILES) | sha256sum | cut -c1-16)
# All code is made of the PTX that is kept for scripts/check_ptx.sh.
CU_FLAGS := -std=c++17 -O3 -fmad=false -I. -gencode arch=compute_80,code=sm_80 \
            -gencode arch=compute_90,code=[sm_90,compute_90] --threads 2 -Xfatbin=-compress-all
# The driver that code of this nvcc needs at least: the first one of its major version.
CU_DRIVER = $(shell $(NVCC) --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')000
FATBIN  := build/cuda/fulgur-cuda.fatbin
$(FATBIN): $(CU_SRCS) $(wildcard simd/cuda/*.cuh) $(CU_ABI_FILES)
	@mkdir -p $(@D)
	$(Q)t=$$(mktemp -d $(@D)/XXXXXX) && printf '#include "%s"\n' $(CU_SRCS) >$$t/module.cu && \
	    $(NVCC) $(CU_FLAGS) -fatbin --keep --keep-dir $$t -o $$t/code $$t/module.cu && cat $$t/*.ptx >$$t/all && \
	    { printf '%-63s\n' "fulgur-cuda 1 abi $(CU_ABI) bytes $$(printf %016x $$(wc -c <$$t/code)) $(CU_DRIVER)" && \
	      cat $$t/code; } >$$t/image && mv $$t/all $(@D)/module.ptx && mv $$t/image $@; status=$$?; \
	    rm -rf $$t; exit $$status
$(BUILD)/simd/cuda/cuda_image.o: ISA := -DFG_CUDA_ABI='"$(CU_ABI)"' $(if $(NVCC),-DFG_CUDA_FATBIN='"$(FATBIN)"')
$(BUILD)/simd/cuda/cuda_image.o: $(CU_ABI_FILES) $(if $(NVCC),$(FATBIN))

# The card's kernels as C++ for the emulator (tests/emulate/cuda), which tests run them in.
EMU_SRCS := $(wildcard simd/cuda/*.cu) tests/emulate/cuda/cuda_emu.cc
EMU_OBJS := $(EMU_SRCS:%=$(BUILD)/%.emu.o)
# Fibres change stacks behind the back of a thread sanitizer, which would keep count of calls.
EMU_SAN := $(if $(findstring thread,$(SAN)),$(if $(shell $(CC) --version | grep -i clang),-mllvm \
           -tsan-instrument-func-entry-exit=0,--param tsan-instrument-func-entry-exit=0))
EMU_FLAGS = -x c++ -std=c++17 -D_GNU_SOURCE -I. -include tests/emulate/cuda/cuda_emu_kernel.h -Wall -Wextra \
            $(if $(WERROR),-Werror) $(CFLAGS) $(if $(SAN),-O1) $(FPF) $(SANF) $(EMU_SAN) -fno-exceptions -fno-rtti -fno-threadsafe-statics \
            -fPIC -fvisibility=hidden -Wno-unused-function -Wno-unknown-pragmas -MMD -MP
$(BUILD)/%.emu.o: %
	@mkdir -p $(@D)
	$(Q)$(CC) $(EMU_FLAGS) -c $< -o $@
$(patsubst %.c,$(BUILD)/%,$(wildcard tests/cuda/test_*.c)): $(EMU_OBJS) $(BUILD)/tests/cuda/cuda_card.o

# A driver whose card is the emulator, for programs that look for one.
FAKE := $(BUILD)/fakecuda/libcuda.so.1
FAKE_OBJS := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/emulate/cuda/*.c))
$(FAKE_OBJS): PIC := -fPIC
$(FAKE): $(FAKE_OBJS) $(EMU_OBJS) $(BUILD)/libfulgur.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -shared -Wl,-soname,$(@F) $^ -lm -pthread $(SANF) -o $@
	$(Q)printf '%-63s\n%s' "fulgur-cuda 1 abi $(CU_ABI) bytes 0000000000000010 11040" 'of the emulator!' >$(@D)/fulgur-cuda.fatbin
HYBRID := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/hybrid/test_*.c))
$(BUILD)/tests/device/test_gpu $(HYBRID): $(BUILD)/tests/device/fake_card.o | $(FAKE)
$(HYBRID): $(BUILD)/tests/hybrid/card_rig.o

# Fuzz targets: all of them in one test program, each alone with libFuzzer (make fuzz).
FUZZ_SRCS := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_OBJS := $(FUZZ_SRCS:%.c=$(BUILD)/%.o)
FUZZ_CLI  := $(addprefix $(BUILD)/src/cli/,args.o help.o nearest.o manual.o completion.o size.o split_option.o)
$(BUILD)/tests/fuzz/test_fuzz: $(BUILD)/tests/fuzz/test_fuzz.o $(FUZZ_OBJS) $(FUZZ_CLI) $(TEST_SUPPORT) $(ARCHIVES)
	$(Q)$(CC) $(CFLAGS) $^ $(LDLIBS) -o $@
$(BUILD)/tests/fuzz/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/tests/fuzz/test_fuzz.o $(FUZZ_CLI) $(TEST_SUPPORT) $(ARCHIVES)
	$(Q)$(CC) $(CFLAGS) $^ $(LDLIBS) -fsanitize=fuzzer -o $@
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(TEST_SUPPORT) $(ARCHIVES)
	$(Q)$(CC) $(CFLAGS) $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) -o $@

## header-check: every header compiles alone
header-check:
	$(Q)printf '%s\n' $(HEADERS) | xargs -P $(CPUS) -I{} $(CC) $(STD) $(WARN) -Werror -fsyntax-only -x c {}

## syntax: the commands and every test compile, without being built
syntax:
	$(Q)printf '%s\n' $(CLI_SRCS) $(TEST_SRCS) | \
	    xargs -P $(CPUS) -I{} $(CC) $(filter-out -MMD -MP,$(ALL_CFLAGS)) -fsyntax-only {}

## analyze: clang's static analyzer over the sources, no warning; takes minutes
# Left out: checkers whose findings nobody has gone through yet.
ANALYZE := -Xclang -analyzer-output=text -Xclang -analyzer-werror \
           -Xclang -analyzer-disable-checker=deadcode,core.DivideZero,core.NullDereference \
           -Xclang -analyzer-disable-checker=core.NonNullParamChecker,core.CallAndMessage \
           -Xclang -analyzer-disable-checker=core.UndefinedBinaryOperatorResult,core.uninitialized.Assign \
           -Xclang -analyzer-config -Xclang max-nodes=20000
analyze:
	$(Q)printf '%s\n' $(filter-out simd/%,$(LIB_SRCS) $(TOOL_SRCS)) $(CLI_SRCS) | \
	    xargs -P $(CPUS) -I{} clang --analyze $(ANALYZE) $(STD) -pthread {}

## lint: layer rules, files that documents name, format, headers
lint: format-check header-check
	$(Q)sh scripts/check_layers.sh
	$(Q)sh scripts/check_docs.sh

## symbols: every global symbol starts with fg_, and the shared library exports what fulgur.h declares
symbols: $(ARCHIVES) $(BUILD)/libfulgur.so
	$(Q)sh scripts/check_symbols.sh $^

## format: rewrites the C files with clang-format
format:
	$(Q)clang-format -i $(C_FILES)

## format-check: fails when clang-format would change a file
format-check:
	$(Q)printf '%s\n' $(C_FILES) | xargs -P $(CPUS) -n 16 clang-format --dry-run -Werror
	$(Q)awk 'length > 100 { print FILENAME ":" FNR ": over 100 columns"; bad = 1 } END { exit bad }' \
	    $(C_FILES) $(wildcard simd/cuda/*.cu simd/cuda/*.cuh tests/*/*/*.[ch] tests/*/*/*.cc)

## shared: the shared library
shared: $(BUILD)/libfulgur.so

# Manual pages and completions are printed by the program, from its option tables.
$(BUILD)/pages/made: $(BUILD)/fulgur
	$(Q)rm -rf $(@D) && mkdir -p $(@D)
	$(Q)$< --help=man >$(@D)/fulgur.1
	$(Q)$< --help=names | while read -r c; do \
	    $< $$c --help=man >$(@D)/fulgur-$$(echo $$c | tr ' ' -).1 || exit 1; done
	$(Q)$< --help=bash >$(@D)/fulgur.bash
	$(Q)$< --help=zsh >$(@D)/_fulgur
	$(Q)touch $@

## install: program, libraries, header, manual pages and completions below $(DESTDIR)$(PREFIX)
install: $(BUILD)/fulgur $(BUILD)/libfulgur.a $(BUILD)/pages/made shared
	$(Q)install -d $(addprefix $(DESTDIR),$(BINDIR) $(LIBDIR)/pkgconfig $(INCLUDEDIR) $(MAN1DIR) $(BASHDIR) $(ZSHDIR))
	$(Q)install -m 755 $(BUILD)/fulgur $(DESTDIR)$(BINDIR)/fulgur
	$(Q)install -m 644 $(BUILD)/libfulgur.a $(DESTDIR)$(LIBDIR)/libfulgur.a
	$(Q)install -m 755 $(BUILD)/libfulgur.so $(DESTDIR)$(LIBDIR)/libfulgur.so.$(VERSION)
	$(Q)ln -sf libfulgur.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libfulgur.so.$(SO_MAJOR)
	$(Q)ln -sf libfulgur.so.$(SO_MAJOR) $(DESTDIR)$(LIBDIR)/libfulgur.so
	$(Q)install -m 644 src/fulgur.h $(DESTDIR)$(INCLUDEDIR)/fulgur.h
	$(Q)install -m 644 $(BUILD)/pages/*.1 $(DESTDIR)$(MAN1DIR)
	$(Q)install -m 644 $(BUILD)/pages/fulgur.bash $(DESTDIR)$(BASHDIR)/fulgur
	$(Q)install -m 644 $(BUILD)/pages/_fulgur $(DESTDIR)$(ZSHDIR)/_fulgur
	$(Q)printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$(LIBDIR)' 'includedir=$(INCLUDEDIR)' '' 'Name: fulgur' \
	    'Description: MiniMax-M1 on CPUs from one quantized file' 'Version: $(VERSION)' \
	    'Cflags: -I$${includedir}' 'Libs: -L$${libdir} -lfulgur' \
	    'Libs.private: $(filter-out -D%,$(LIB_LIBS))' >$(DESTDIR)$(LIBDIR)/pkgconfig/fulgur.pc

## uninstall: removes what install put there
uninstall: $(BUILD)/pages/made
	$(Q)rm -f $(DESTDIR)$(BINDIR)/fulgur $(addprefix $(DESTDIR)$(LIBDIR)/,libfulgur.a libfulgur.so \
	    libfulgur.so.$(SO_MAJOR) libfulgur.so.$(VERSION) pkgconfig/fulgur.pc) $(DESTDIR)$(INCLUDEDIR)/fulgur.h
	$(Q)for p in $(BUILD)/pages/*.1; do rm -f "$(DESTDIR)$(MAN1DIR)/$${p##*/}"; done
	$(Q)rm -f $(DESTDIR)$(BASHDIR)/fulgur $(DESTDIR)$(ZSHDIR)/_fulgur

## dist: a source archive that builds offline, build/fulgur-VERSION.tar.gz, with what bundles are made of
dist:
	sh scripts/dist.sh build

## clean: removes build/
clean:
	rm -rf build

## help: this text
help:
	$(Q)sed -n 's/^## //p' $(MAKEFILE_LIST)

-include $(EMU_OBJS:.o=.d) $(FAKE_OBJS:.o=.d) $(BUILD)/tests/device/fake_card.d $(BUILD)/tests/hybrid/card_rig.d $(BUILD)/src/sys/topo.so.d $(FUZZ_OBJS:.o=.d) $(TEST_SUPPORT:.o=.d) $(LIB_OBJS:.o=.d) $(TOOL_OBJS:.o=.d) $(CLI_OBJS:.o=.d) $(TESTS:=.d)
