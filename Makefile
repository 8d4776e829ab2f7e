# Fulgur.  `make help` lists the targets.
# Knobs: CC, CFLAGS, BUILD, WERROR=1, SAN=address,undefined, OPENMP=0, V=1, PREFIX, DESTDIR.
CC      ?= cc
ifeq ($(origin CC),default)
CC      := gcc
endif
comma   := ,
OPENMP  ?= $(shell printf 'int main(void){return 0;}' | $(CC) -fopenmp -x c - -o /dev/null 2>/dev/null && echo 1 || echo 0)
BUILD   ?= build/$(notdir $(CC))$(if $(SAN),-$(subst $(comma),-,$(SAN)))$(if $(filter 0,$(OPENMP)),-pthread)
PREFIX  ?= /usr/local
Q       := $(if $(V),,@)
CPUS    := $(shell nproc)

PKGS    := hwloc libcjson libxxhash libpcre2-8 libutf8proc libedit openblas liburing
ifeq ($(filter help clean format format-check lint,$(MAKECMDGOALS)),)
MISSING := $(strip $(foreach p,$(PKGS),$(shell pkg-config --exists $(p) 2>/dev/null || echo $(p))))
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
FPF     := -ffp-contract=off -fno-math-errno
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
ALL_CFLAGS = $(STD) $(WARN) $(CFLAGS) $(FPF) $(SANF) $(OMPF) -pthread -fvisibility=hidden $(PKG_CFLAGS) $(ISA) -MMD -MP
LDLIBS  = $(PKG_LIBS) -lm -pthread $(OMPF) $(SANF)

ARCH    := $(shell $(CC) -dumpmachine | cut -d- -f1)
LIB_SRCS := $(filter-out src/cli/%,$(wildcard src/*/*.c src/*/*/*.c)) \
            $(wildcard quant/*.c simd/*.c simd/scalar/*.c convert/*.c convert/*/*.c bench/*.c)
ifeq ($(ARCH),x86_64)
LIB_SRCS += $(wildcard simd/x86/*.c)
else ifeq ($(ARCH),aarch64)
LIB_SRCS += $(wildcard simd/arm/*.c)
endif
CLI_SRCS := $(wildcard src/cli/*.c)
TEST_SRCS := $(wildcard tests/*/test_*.c)
TEST_SUPPORT := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/*.c))
LIB_OBJS := $(LIB_SRCS:%.c=$(BUILD)/%.o)
CLI_OBJS := $(CLI_SRCS:%.c=$(BUILD)/%.o)
TESTS    := $(TEST_SRCS:%.c=$(BUILD)/%)
HEADERS  := $(wildcard src/*.h src/*/*.h src/*/*/*.h quant/*.h convert/*.h convert/*/*.h bench/*.h simd/*.h \
             tests/*.h)
C_FILES  := $(wildcard src/*.h src/*/*.[ch] src/*/*/*.[ch] quant/*.[ch] convert/*.[ch] convert/*/*.[ch] \
             simd/*.[ch] simd/*/*.[ch] bench/*.[ch] tests/*.[ch] tests/*/*.[ch])

.PHONY: all lib tests check test syntax analyze demo header-check symbols lint format format-check install clean help
.SUFFIXES:
.SECONDARY:

## all: the program (build/<cc>/fulgur) and the library; the default
all: $(BUILD)/fulgur

## lib: the static library only
lib: $(BUILD)/libfulgur.a

## tests: builds every test program
tests: $(TESTS) $(BUILD)/fulgur

## check: lint, a build and the quick tests, in 90 seconds on two cores
check:
	sh scripts/test.sh check

## test: the whole suite, as scripts/test.sh; T="NAME ..." builds and runs only these, NAME:PATTERN a part
test:
	sh scripts/test.sh $(if $(T),one $(T))

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
$(BUILD)/simd/x86/%_amx.o: ISA := $(AVX512) -mamx-tile -mamx-int8

ifeq ($(ARCH),x86_64)
$(BUILD)/tests/amx_shim.o: ISA := $(AVX512)
endif
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -c $< -o $@

$(BUILD)/libfulgur.a: $(LIB_OBJS)
	$(Q)rm -f $@
	$(Q)$(AR) rcs $@ $^

$(BUILD)/fulgur: $(CLI_OBJS) $(BUILD)/libfulgur.a
	$(Q)$(CC) $(CFLAGS) $^ $(LDLIBS) -o $@

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(TEST_SUPPORT) $(BUILD)/libfulgur.a
	$(Q)$(CC) $(CFLAGS) $^ $(LDLIBS) -o $@

## header-check: every header compiles alone
header-check:
	$(Q)printf '%s\n' $(HEADERS) | xargs -P $(CPUS) -I{} $(CC) $(STD) $(WARN) -Werror -fsyntax-only -x c {}

## syntax: every test compiles, without being built
syntax:
	$(Q)printf '%s\n' $(TEST_SRCS) | \
	    xargs -P $(CPUS) -I{} $(CC) $(filter-out -MMD -MP,$(ALL_CFLAGS)) -fsyntax-only {}

## analyze: clang's static analyzer over the sources, no warning; takes minutes
# Left out: checkers that do not know what FG_TRY, a zero count and a filled list promise.
ANALYZE := -Xclang -analyzer-output=text -Xclang -analyzer-werror \
           -Xclang -analyzer-disable-checker=deadcode,core.DivideZero,core.NullDereference \
           -Xclang -analyzer-disable-checker=core.NonNullParamChecker,core.CallAndMessage \
           -Xclang -analyzer-disable-checker=core.UndefinedBinaryOperatorResult,core.uninitialized.Assign \
           -Xclang -analyzer-config -Xclang max-nodes=20000
analyze:
	$(Q)printf '%s\n' $(filter-out simd/%,$(LIB_SRCS)) $(CLI_SRCS) | \
	    xargs -P $(CPUS) -I{} clang --analyze $(ANALYZE) $(STD) -pthread {}

## lint: layer rules, format, headers
lint: format-check header-check
	$(Q)sh scripts/check_layers.sh

## symbols: every global symbol of the library starts with fg_
symbols: $(BUILD)/libfulgur.a
	$(Q)sh scripts/check_symbols.sh $<

## format: rewrites the C files with clang-format
format:
	$(Q)clang-format -i $(C_FILES)

## format-check: fails when clang-format would change a file
format-check:
	$(Q)printf '%s\n' $(C_FILES) | xargs -P $(CPUS) -n 16 clang-format --dry-run -Werror

## install: fulgur into $(PREFIX)/bin
install: $(BUILD)/fulgur
	install -D -m 755 $< $(DESTDIR)$(PREFIX)/bin/fulgur

## clean: removes build/
clean:
	rm -rf build

## help: this text
help:
	$(Q)sed -n 's/^## //p' $(MAKEFILE_LIST)

-include $(TEST_SUPPORT:.o=.d) $(LIB_OBJS:.o=.d) $(CLI_OBJS:.o=.d) $(TESTS:=.d)
