#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What `make install` puts there, and a stranger's program built against it; pages and completions
know every option that --help shows."""
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import FULGUR, check, finish, path, report, run

CC = os.environ.get("CC", "cc")
BUILD = os.path.dirname(FULGUR)
STAGE = path("stage")
ROOT = STAGE + "/opt/fulgur"


def sh(*args, **kw):
    """(status, stdout and stderr together)"""
    env = {**os.environ, **kw.pop("env", {})}
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, timeout=900, **kw)
    return p.returncode, p.stdout.decode("utf-8", "replace")


def make(target, *more):
    return sh("make", f"-j{os.cpu_count()}", target, f"BUILD={BUILD}", f"DESTDIR={STAGE}", "PREFIX=/opt/fulgur", *more)


def write(name, text):
    with open(path(name), "w") as f:
        f.write(text)
    return path(name)


def below(folder):
    return sorted(os.path.relpath(os.path.join(d, f), folder) for d, _, files in os.walk(folder) for f in files)


# ---- what is there ----
status, out = make("install")
check("install", status == 0, out)
names = run("--help=names")[1].decode().split("\n")[:-1]
check("names", len(names) >= 15 and "trace replay" in names, names)
version = run("--version")[1].decode().split()[1]
pages = ["fulgur.1"] + [f"fulgur-{n.replace(' ', '-')}.1" for n in names]
wanted = (["bin/fulgur", "include/fulgur.h", "lib/libfulgur.a", "lib/libfulgur.so", "lib/libfulgur.so.0",
           f"lib/libfulgur.so.{version}", "lib/pkgconfig/fulgur.pc", "share/bash-completion/completions/fulgur",
           "share/zsh/site-functions/_fulgur"] + ["share/man/man1/" + p for p in pages])
check("files", below(ROOT) == sorted(wanted), set(below(ROOT)) ^ set(wanted))
check("program", sh(ROOT + "/bin/fulgur", "-V")[1] == f"fulgur {version}\n")

# ---- help, pages, completions ----
OPTION = re.compile(r"^  (?:-(\w),|   ) --([a-z0-9-]+)", re.M)


def options(help_text):
    """[(letter or "", long name)] of a --help."""
    return OPTION.findall(help_text)


def not_in_page(opts, page):
    plain = re.sub(r"\\f.", "", page).replace("\\-", "-")
    return [name for letter, name in opts
            if not re.search(rf"^{f'-{letter}, ' if letter else ''}--{name}( |$)", plain, re.M)]


def not_in_bash(opts, part):
    words = re.search(r"words='(.*)'", part).group(1).split()
    return [name for _, name in opts if "--" + name not in words]


def not_in_zsh(opts, part):
    return [name for letter, name in opts
            if not re.search(rf"--{name}=?\[", part) or (letter and not re.search(rf"-{letter}\+?\[", part))]


def too_wide(text):
    return [line for line in text.split("\n") if len(line) > 100]


def roff_warnings(page):
    return sh("groff", "-man", "-Tutf8", "-ww", "-z", page)[1]


helps = {}
for n in names:
    status, out, err = run(*n.split(), "--help")
    helps[n] = out.decode()
    check(f"help_{n.replace(' ', '_')}", status == 0 and err == b"" and options(helps[n]) != []
          and options(helps[n])[-1] == ("h", "help") and too_wide(helps[n]) == [], err + out)
    full = run("help", *n.split())
    check(f"full_help_{n.replace(' ', '_')}", full[0] == 0 and options(full[1].decode()) == options(helps[n])
          and too_wide(full[1].decode()) == [] and len(full[1]) >= len(out), full)
for n in ("run", "convert", "carry pack", "session"):  # those that have a page of text, or a second sentence
    check(f"full_help_says_more_{n.replace(' ', '_')}", len(run("help", *n.split())[1]) > len(helps[n].encode()) + 100)
check("help_width_control", too_wide("x" * 101) != [])
check("help_unknown", run("help", "frobnicate")[0] == 2 and run("--help=frob")[0] == 2)
check("help_short", run("-h")[1] == run("--help")[1] == run("help")[1] and run("run", "-h")[1].decode() == helps["run"])

groff = shutil.which("groff") is not None
for n, page in zip([""] + names, pages):
    file = f"{ROOT}/share/man/man1/{page}"
    text = open(file).read()
    missing = not_in_page(options(helps[n]), text) if n else [c for c in names if c.replace(" ", "\\-") not in text]
    check(f"page_{page}", missing == [] and text.startswith(".TH ") and (not groff or roff_warnings(file) == ""),
          (missing, roff_warnings(file) if groff else ""))
if not groff:
    report("skip", "roff_warnings", "no groff")
bash, zsh = (run(f"--help={s}")[1].decode() for s in ("bash", "zsh"))
for n in names:
    parts = [run(*n.split(), f"--help={s}")[1].decode() for s in ("bash", "zsh")]
    check(f"completion_{n.replace(' ', '_')}", parts[0] in bash and parts[1] in zsh
          and not_in_bash(options(helps[n]), parts[0]) == [] and not_in_zsh(options(helps[n]), parts[1]) == [], parts)

# controls: an option that a page or a completion leaves out is missed, and so is a roff mistake
more = options(helps["run"]) + [("", "no-such")]
parts = [run("run", f"--help={s}")[1].decode() for s in ("man", "bash", "zsh")]
for name, f, part in zip(("page", "bash", "zsh"), (not_in_page, not_in_bash, not_in_zsh), parts):
    check(f"{name}_control", f(more, part) == ["no-such"] and f([("t", "threads")], part.replace("threads", "thread")) != [])
if groff:
    check("roff_control", roff_warnings(write("bad.1", ".TH X 1\n.SH NAME\n.NOSUCH x\n")) != "")


def complete(*words):
    """What bash offers for the last of the words."""
    script = ('. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); compopt() { :; }; _fulgur; '
              'printf "%s\\n" "${COMPREPLY[@]}"')
    return sh("bash", "-c", script, "bash", f"{ROOT}/share/bash-completion/completions/fulgur", "fulgur", *words)[1].split()


check("bash_commands", complete("s") == ["synth", "session", "score", "sign", "sensitivity"], complete("s"))
check("bash_options", complete("run", "m", "--top") == ["--top-p", "--top-k"], complete("run", "m", "--top"))
check("bash_replay", "--heat" not in complete("trace", "replay", "--") and "--heat" in complete("trace", "--")
      and complete("trace", "repl") == ["replay"], complete("trace", "replay", "--"))
check("bash_value", complete("run", "-p", "--") == [] and complete("run", "--temp", "--") == [])
if shutil.which("zsh"):
    zsh_file = f"{ROOT}/share/zsh/site-functions/_fulgur"
    check("zsh_syntax", sh("zsh", "-n", zsh_file) == (0, ""), sh("zsh", "-n", zsh_file))
else:
    report("skip", "zsh_syntax", "no zsh")

# ---- the header alone ----
alone = path("alone")
os.mkdir(alone)
shutil.copy(ROOT + "/include/fulgur.h", alone)
languages = {"c": [CC, "-std=c11", "-x", "c", "-Wstrict-prototypes"], "cxx": ["clang", "-std=c++17", "-x", "c++"]}
if shutil.which("c++"):
    languages["cxx_other"] = ["c++", "-std=c++17", "-x", "c++"]
with open(alone + "/needs.h", "w") as f:
    f.write(open(alone + "/fulgur.h").read() + '#include "src/base/status.h"\n')
for name, cmd in languages.items():
    strict = [*cmd, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    out = sh(*strict, "fulgur.h", cwd=alone)
    check(f"header_{name}", out[0] == 0, out)
    check(f"header_{name}_control", sh(*strict, "needs.h", cwd=alone)[0] != 0)

# ---- a stranger's program ----
PROGRAM = r"""#include <fulgur.h>
#include <stdio.h>
#include <string.h>

static bool say(void *ctx, fg_think_part part, const char *text, size_t n)
{
    (void)ctx, (void)part;
    return fwrite(text, 1, n, stdout) == n;
}

int main(int argc, char **argv)
{
    fg_err err = {FG_OK, ""};
    fg_engine_opts eo = fg_engine_opts_default();
    fg_session_opts so = fg_session_opts_default();
    fg_sampler_opts sampling = fg_sampler_opts_default();
    fg_reply_opts ro = fg_reply_opts_default();
    fg_engine *e = NULL;
    fg_session *s = NULL;
    fg_reply reply;
    uint32_t *ids = NULL;
    size_t n = 0;
    if (argc != 2 || strcmp(fg_version(), FG_VERSION) != 0) return 2;
    sampling.temp = 0;
    ro.n_max = 16;
    ro.emit = say;
    if (fg_engine_open(&e, argv[1], &eo, &err) == FG_OK && fg_session_create(&s, e, &so, &err) == FG_OK &&
        fg_engine_encode(e, "Once upon a time", 16, false, &ids, &n, &err) == FG_OK &&
        fg_session_eval(s, ids, n, NULL, NULL, &err) == FG_OK &&
        fg_engine_sampler(e, &sampling, &ro.sampler, &err) == FG_OK) {
        (void)fg_reply_run(s, &ro, &reply, &err);
    }
    if (err.code != FG_OK) fprintf(stderr, "%s\n", err.msg);
    fg_free(ids);
    fg_sampler_destroy(&ro.sampler);
    fg_session_destroy(&s);
    fg_engine_close(&e);
    return err.code != FG_OK;
}
"""
source = write("stranger.c", PROGRAM)
PKG = {"PKG_CONFIG_PATH": ROOT + "/lib/pkgconfig", "PKG_CONFIG_SYSROOT_DIR": STAGE}


def pkg_config(*args):
    return sh("pkg-config", *args, "fulgur", env=PKG)[1].split()


def needs(file):
    """Names of the shared libraries that a file wants."""
    return re.findall(r"NEEDED.*\[(.*)\]", sh("readelf", "-d", file)[1])


def build(name, *flags):
    return sh(CC, "-std=c11", "-Wall", "-Werror", *pkg_config("--cflags"), source, "-o", path(name), *flags)


MODEL = path("nano.fulgur")
check("model", run("convert", "tests/models/m1-nano", MODEL)[0] == 0)
said = run("run", MODEL, "-p", "Once upon a time", "-n", "16", "--temp", "0")[1].decode().rstrip("\n")
check("said", len(said) > 16, said)
check("version", pkg_config("--modversion") == [version]
      and all(f"#define FG_VERSION_{part} {n}\n" in open(ROOT + "/include/fulgur.h").read()
              for part, n in zip(("MAJOR", "MINOR", "PATCH"), version.split("."))), pkg_config("--modversion"))
out = build("shared", *pkg_config("--libs"))
ran = sh(path("shared"), MODEL, env={"LD_LIBRARY_PATH": ROOT + "/lib"})
check("shared", out[0] == 0 and ran == (0, said) and "libfulgur.so.0" in needs(path("shared")), (out, ran))
check("shared_control", sh(path("shared"), MODEL)[0] != 0)  # without the library it does not start
out = build("static", ROOT + "/lib/libfulgur.a", *(f for f in pkg_config("--static", "--libs") if f != "-lfulgur"))
ran = sh(path("static"), MODEL)
check("static", out[0] == 0 and ran == (0, said) and not any("fulgur" in n for n in needs(path("static"))), (out, ran))

# ---- the shared library: what it exports and needs ----
SO = f"{ROOT}/lib/libfulgur.so.{version}"
check("soname", "[libfulgur.so.0]" in sh("readelf", "-d", SO)[1])
check("needs_no_tools", needs(SO) != [] and not any(n.startswith(("libopenblas", "libblas", "libedit")) for n in needs(SO)), needs(SO))
symbols = ["sh", "scripts/check_symbols.sh"]
check("symbols", sh(*symbols, SO, ROOT + "/lib/libfulgur.a") == (0, ""), sh(*symbols, SO))
header = open("src/fulgur.h").read()
for name, text in (("declared_only", header.replace("/* ---- status ---- */", "FG_API int fg_no_such(void);", 1)),
                   ("exported_only", re.sub(r"FG_API const char \*fg_version\(void\);", "", header))):
    status, out = sh(*symbols, SO, env={"FULGUR_HEADER": write("other.h", text)})
    check(f"symbols_{name}_control", text != header and status == 1 and "exports" in out, out)
sh(CC, "-c", "-x", "c", write("stray.c", "int stray;\n"), "-o", path("stray.o"))
sh("ar", "rcs", path("stray.a"), path("stray.o"))
check("symbols_prefix_control", sh(*symbols, path("stray.a"))[0] == 1)

# ---- a table that is too long does not compile ----
for n in (64, 65):
    text = f"""#include "src/cli/args.h"
int f(const command *c, const opt *o, int argc, char **argv, int *status);
int f(const command *c, const opt *o, int argc, char **argv, int *status)
{{ return args_parse(c, o, {n}, argc, argv, (const char **)argv, 1, status); }}
"""
    status, out = sh(CC, "-std=c11", "-fsyntax-only", "-I.", write("table.c", text))
    check(f"table_of_{n}", (status == 0) == (n == 64) and (n == 64 or "more options than MAX_OPT" in out), out)

# ---- and nothing stays ----
open(ROOT + "/bin/other", "w").close()
status, out = make("uninstall")
check("uninstall", status == 0 and below(ROOT) == ["bin/other"], out + str(below(ROOT)))
finish()
