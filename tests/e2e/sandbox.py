#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The sandbox of the commands (src/cli/confine.c): that it is in force, what its table says, and what the program
says where there is none."""
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import FULGUR, check, finish, nano, path, report, run

# Runs inside the process when the command is done, so with all that it may still do.
TRIES = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
__attribute__((destructor)) static void try(void)
{
    char line[200], name[400];
    snprintf(name, sizeof name, "%s/new", getenv("TRY_DIR"));
    const int out = open(getenv("TRY_FILE"), O_RDONLY), make = open(name, O_WRONLY | O_CREAT, 0600),
              net = socket(AF_INET, SOCK_STREAM, 0);
    char *none[] = {NULL};
    execve("/bin/true", none, none);
    const int n = snprintf(line, sizeof line, "\ntried %d %d %d %d\n", out >= 0, make >= 0, net >= 0, errno != EACCES && errno != EPERM);
    if (write(2, line, n) != n) _exit(9);
}
"""
M = path("m/n.fulgur")
os.mkdir(path("m"))
os.mkdir(path("other"))
check("model", nano(M) == 0)
open(path("other/file"), "w").write("text")
open(path("try.c"), "w").write(TRIES)
built = shutil.which("cc") and subprocess.run(["cc", "-shared", "-fPIC", "-o", path("try.so"), path("try.c")]).returncode == 0
usual = run("run", M, "-p", "a", "-n", "1")
here = b"sandbox:" not in usual[2]


def tried(*args):
    """What was possible: (read another file, create one, a socket, a program) or None."""
    err = run(*args, env={"LD_PRELOAD": path("try.so"), "TRY_FILE": path("other/file"), "TRY_DIR": path("other")})[2]
    m = re.search(rb"tried (.) (.) (.) (.)", err)
    return tuple(int(x) for x in m.groups()) if m else None


text = path("text")
open(text, "w").write("Once upon a time there was a fox. " * 20)
if not here or not built or b"asan" in os.fsencode(FULGUR):
    report("skip", "in_force", "no Landlock here, or no compiler")
else:
    for args in (("run", M, "-p", "a", "-n", "1"), ("run", M, "-p", "a", "-n", "1", "--ram", "1G"), ("verify", M), ("info", M),
                 ("score", M, text, "--chunks", "1"), ("tokenize", M, "-p", "a"), ("logits", M, "--ids", "-", "--out", path("m/l.f32")),
                 ("convert", "tests/models/m1-nano", path("m/again.fulgur")), ("trace", M, text, "-o", path("m/t"), "--tokens", "8"),
                 ("trace", "replay", path("m/t"), "--ram", "1G"), ("synth", path("m/s.fulgur"), "--shape", "tests/models/m1-nano/config.json"),
                 ("plan", M, "--bandwidth", "9GB/s", "--gemm", "9", "--disk", "1GB/s")):
        got = tried(*args)
        check("in_force_" + "_".join(a for a in args[:2] if "/" not in a), got == (0, 0, 0, 0), (args, got))
    for args in (("list",), ("verify", "x"), ("strip", "x"), ("rm", "x"), ("export", M, "x")):
        got = tried("session", *args, "--dir", path("m"))
        check("in_force_session_" + args[0], got == (0, 0, 0, 0), (args, got))
    got = tried("chat", M, "-p", "a", "-n", "1")
    check("in_force_chat", got == (1, 0, 0, 0), got)  # reads what a person names
    # the control: without it all four are possible, the program being the end of the line
    got = tried("run", M, "-p", "a", "-n", "1", "--no-sandbox")
    check("in_force_control", got is None and os.path.exists(path("other/new")), got)

# ---- saved sessions: done in it, as without it; of a folder of sessions, only as much as the table says ----
KEPT = {"XDG_STATE_HOME": path("state"), "HOME": path(".")}
SESSIONS = path("state/fulgur/sessions")
saved = run("chat", M, "-n", "4", "--session", "plan", env=KEPT, stdin=b"hello\n")
check("session_saved", saved[0] == 0 and b"sandbox" not in saved[2] and os.path.isdir(SESSIONS + "/plan.fgs"), saved)
if saved[0] == 0:
    shutil.copytree(SESSIONS, path("copies"))

    def session(*args):
        status, out, err = run("session", *args, env=KEPT)
        return (status, out) if err == b"" else (status, out, err)

    for where in ((), ("--dir", path("copies"))):
        which = "dir" if where else "usual"
        got = [session("list", *where), session("verify", "plan", *where), session("export", M, "plan", "-o", "-", *where),
               session("export", M, "plan", "-o", path(f"m/{which}.md"), *where), session("strip", "plan", *where), session("rm", "plan", *where)]
        check(f"session_{which}", all(g[0] == 0 and len(g) == 2 for g in got) and open(path(f"m/{which}.md"), "rb").read() == got[2][1]
              and os.listdir(where[1] if where else SESSIONS) == [], got)
    check("session_none", session("list")[0] == 0 and run("session", "rm", "plan", env=KEPT)[2].startswith(b"fulgur: session plan: not there"))

# ---- a conversation that may be kept: one folder is open, and no trace remains of one that was not ----
EMPTY = path("empty")


def home(*below):
    """A new home folder, and the environment that says so."""
    shutil.rmtree(EMPTY, ignore_errors=True)
    os.makedirs(os.path.join(EMPTY, *below))
    return {"HOME": EMPTY, "XDG_STATE_HOME": ""}


def talk(env, text, *args):
    p = subprocess.Popen([FULGUR, "chat", M, "-n", "4", *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **env})
    p.stdin.write(text)
    p.stdin.flush()
    return p


def left():
    return sorted(os.path.relpath(os.path.join(d, n), EMPTY) for d, ds, fs in os.walk(EMPTY) for n in ds + fs)


STATE = os.path.join(EMPTY, ".local/state/fulgur")
env = home()
got = run("chat", M, "-p", "a", "-n", "1", env=env)
check("one_message_makes_nothing", got[0] == 0 and left() == [], (got, left()))
for below in ((), (".local/share",), (".local/state/fulgur",)):
    env = home(*below)
    before = [n for n in left() if not n.endswith("fulgur")]
    p = talk(env, b"hello\n")
    out, err = p.communicate(timeout=60)
    check(f"leaves_no_trace_{len(below)}_{len(before)}", p.returncode == 0 and b"fulgur: " not in err and left() == before, (err, left()))
if here and built and b"asan" not in os.fsencode(FULGUR):
    env = home("work")
    for where, want in ((EMPTY, 0), (os.path.join(EMPTY, "work"), 0), (STATE, 1)):
        p = talk({**env, "LD_PRELOAD": path("try.so"), "TRY_FILE": path("other/file"), "TRY_DIR": where}, b"hello\n/save kept\n")
        out, err = p.communicate(timeout=60)
        m = re.search(rb"tried . (.)", err)
        check(f"open_is_{os.path.basename(where)}", p.returncode == 0 and m and int(m.group(1)) == want, err)
        shutil.rmtree(STATE + "/sessions/kept.fgs", ignore_errors=True)
env = home()
p = talk(env, b"hello\n/save kept\n")
out, err = p.communicate(timeout=60)
check("saved_without_a_folder", p.returncode == 0 and b"fulgur: " not in err and os.path.isdir(STATE + "/sessions/kept.fgs"), (err, left()))
env = home()
first, second = talk(env, b"hello\n"), talk(env, b"hello\n")
for p in (first, second):
    p.stdout.readline()  # it is in its sandbox
first.communicate(timeout=60)
there = os.path.isdir(STATE)
out, err = second.communicate(b"/save kept\n", timeout=60)
check("the_other_one_still_saves", there and second.returncode == 0 and os.path.isdir(STATE + "/sessions/kept.fgs"), (there, err, left()))
env = home()
p = talk(env, b"hello\n")
p.stdout.readline()
p.kill()
p.communicate()
killed = left()
talk(env, b"").communicate(timeout=60)
check("what_a_killed_one_left_goes", killed == [".local", ".local/state", ".local/state/fulgur"] and left() == [".local", ".local/state"], (killed, left()))
env = home()
os.chmod(EMPTY, 0o500)
got = run("chat", M, "-n", "1", stdin=b"hello\n", env=env)
check("no_place_to_keep_it", got[0] == 0 and (left() == [] or os.geteuid() == 0), (got, left()))
os.chmod(EMPTY, 0o700)

# ---- what it says ----
status, out, err = run("run", M, "-p", "a", "-n", "1", "--no-sandbox")
check("no_sandbox_says_so", status == 0 and err.startswith(b"fulgur: no sandbox: "), err)
check("no_sandbox_quiet", run("tokenize", M, "-p", "a", "--no-sandbox", "-q")[2] == b"")
check("same_text", out == usual[1], (out, usual[1]))

# ---- the table: every command, and every option that is a path ----
table = run("help", "sandbox")[1].decode()
rows = dict(re.findall(r"^([a-z][a-z ]*)\n((?: {4}.*\n)+)", table, re.M))
names = run("--help=names")[1].decode().split("\n")[:-1]
parents = {n.split()[0] for n in names if " " in n}
WITHOUT = {"factor", "session"}  # say which there are


def not_in_table(helps, rows):
    missing = []
    for n, text in helps.items():
        if n in WITHOUT:
            continue
        if n not in rows:
            missing.append(n)
            continue
        for option, meta in re.findall(r"^  (?:-\w,|   ) --([a-z0-9-]+) ([^ ]+)", text, re.M):
            if re.search("FILE|TRACE|REF|PATH|^DIR|FACTORS", meta) and f"--{option}" not in rows[n] and option != "model":
                missing.append(f"{n} --{option}")
    return missing


helps = {n: run(*n.split(), "--help")[1].decode() for n in names}
check("table_is_whole", not_in_table(helps, rows) == [], not_in_table(helps, rows))
check("table_control", not_in_table(helps, {**rows, "run": "    reads     MODEL\n"}) == ["run --file", "run --taps", "run --image", "run --predict-model", "run --predict-save", "run --key"]
      and not_in_table({**helps, "x": ""}, rows) == ["x"], not_in_table(helps, {**rows, "run": ""}))
check("nobody_has", all("programs  none" in r and "network   none" in r for r in rows.values()) and len(rows) >= len(names) - len(WITHOUT))
finish()
