#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A model's file that goes away, is written to or moved while a command uses it; a full context; no memory."""
import glob
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import FULGUR, check, check_error, finish, nano, path, run

GOOD, M, LINK, IDS, TEXT = path("good.fulgur"), path("m.fulgur"), path("other"), path("ids"), path("text")
nano(GOOD, "--type", "bf16")
bad = bytearray(open(GOOD, "rb").read())
for i in range(1 << 20, len(bad) - (1 << 20), 4096):
    bad[i] ^= 1  # the same layout, other weights
open(IDS, "w").write(" ".join(str(i % 4000) for i in range(200, 1400)))
open(TEXT, "w").write("The old woman lived in a house by the river and told stories to the children.\n" * 60)


def fresh():
    for p in (M, LINK):
        if os.path.lexists(p):
            os.unlink(p)
    shutil.copy(GOOD, M)
    time.sleep(0.02)  # file times come from a coarse clock


def overwrite(times_back=False):
    was = os.stat(M)
    with open(M, "r+b") as f:
        f.write(bad)
    if times_back:
        os.utime(M, ns=(was.st_atime_ns, was.st_mtime_ns))


def replace():
    shutil.copy(GOOD, LINK)
    os.replace(LINK, M)


def start(*args):
    fresh()
    return subprocess.Popen([FULGUR, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def end(p, rest=b""):
    try:
        p.stdin.write(rest)
    except BrokenPipeError:
        pass
    out, err = p.communicate(timeout=120)
    return p.returncode, out, b"".join(l + b"\n" for l in err.splitlines() if l.startswith(b"fulgur: "))


# ---- chat: the file changes between two turns ----

BOUND = ["--ram", "150M"]
TURNS = [b"Hello there.\n", b"And once more, with feeling.\n"]


def converse(changes, *args):
    """A turn before each change and one after the last."""
    p = start("chat", M, "--temp", "0", "-n", "4", "-t", "1", "-c", "600", *args)
    for i, change in enumerate(changes):
        p.stdin.write(TURNS[i % 2])
        p.stdin.flush()
        while not p.stderr.readline().startswith(b"prompt "):  # the line of figures ends a turn
            pass
        change()
    return end(p, TURNS[len(changes) % 2])


CHANGED, LOST = "changed while in use, expected the file as it was opened", "cut short or not readable while in use"
harmless = [lambda: os.utime(M), lambda: os.link(M, LINK), lambda: os.unlink(LINK), lambda: os.rename(M, LINK),
            lambda: os.chmod(LINK, 0o640), lambda: os.rename(LINK, M), replace, lambda: os.unlink(M)]
want = converse([lambda: None] * len(harmless))
check("turns", want[0] == 0 and want[1].count(b"<think>") == len(harmless) + 1, want)
for bound in ([], BOUND):
    kind = ".ram" if bound else ""
    got = converse(harmless, *bound)
    check("harmless_changes" + kind, got == want, (got, want))
    check_error("overwritten" + kind, converse([overwrite], *bound), M, CHANGED)
    check_error("overwritten_times_back" + kind, converse([lambda: overwrite(True)], *bound), M, CHANGED)
    if not bound:  # with a bound every byte that is used was checked as it was read; that one holds no weight
        check_error("last_byte_cut", converse([lambda: os.truncate(M, os.path.getsize(M) - 1)]), M, CHANGED)
    check_error("cut_short" + kind, converse([lambda: os.truncate(M, 1 << 20)], *bound), M, CHANGED if bound else LOST)

# ---- commands that write: nothing is half-written ----


def while_writing(change, out, *args):
    p = start(*args)
    for _ in range(2000):
        if glob.glob(out + ".tmp*") or p.poll() is not None:
            break
        time.sleep(0.005)
    change()
    result = end(p)
    check(f"{args[0]}.nothing_left", not glob.glob(out + "*"), glob.glob(out + "*"))
    return result


for command in (["logits", M, "--ids", IDS, "--out", path("o.f32")], ["trace", M, TEXT, "-o", path("o.trace"), "--batch", "64"]):
    out = command[4 if command[0] == "trace" else 5]
    check_error(command[0] + ".cut_short", while_writing(lambda: os.truncate(M, 1 << 20), out, *command, "-t", "1"), M, LOST)
    check_error(command[0] + ".overwritten", while_writing(overwrite, out, *command, "-t", "1"), M, CHANGED)

# a figure on standard output, which waits for its reader in the middle of the work
p = start("logits", M, "--ids", IDS, "--out", "/dev/stdout", "-t", "1")
p.stdout.read(1 << 16)
overwrite()
check_error("logits.to_a_pipe", end(p), M, CHANGED)
p = start("run", M, "-p", "Once upon a time", "-n", "1000", "--ignore-eos", "-t", "1", "--temp", "0")
p.stdout.read(20)
overwrite()
check_error("run.overwritten", end(p), M, CHANGED)
p = start("score", M, TEXT, "--window", "64", "-t", "1", "--json")
time.sleep(0.2)
overwrite()
status, out, err = end(p)
check_error("score.overwritten", (status, out, err), M, CHANGED)
check("score.no_figure", out == b"", out)

# a signal that is not a file's kills as ever
p = start("run", M, "-p", "Once upon a time", "-n", "100000", "--ignore-eos", "-t", "1")
p.stdout.read(20)
p.send_signal(signal.SIGBUS)
check("another_sigbus", end(p)[0] == -signal.SIGBUS)

# ---- a full context ----

for args, words in ((["-c", "8"], b"the context of 8 tokens is full"), (["-c", "500"], b"")):
    status, out, err = run("run", GOOD, "-p", "Once upon a time", "-n", "100", "--temp", "0", *args)
    check(f"context.{args[1]}", status == 0 and (b"context" in err) == (words != b"") and words in err, err)
    status, out, err = run("run", GOOD, "-p", "Once upon a time", "-n", "100", "--temp", "0", "--json", *args)
    end_is = json.loads(out)["end"]
    check(f"context.{args[1]}.json", status == 0 and (end_is == "context") == (words != b"") and words in err, (out, err))
status, out, err = run("chat", GOOD, "-p", "Hello there.", "-n", "500", "--temp", "0", "-c", "40")
check("context.chat", status == 0 and b"the context of 40 tokens is full" in err, err)

# ---- no memory: an answer or a line, never neither ----


def within(mib, *args):
    """None when the program's libraries do not even come up within so much address space."""
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (mib << 20, mib << 20))
    try:
        if run("--version", preexec=limit, timeout=3)[0] != 0:
            return None
    except subprocess.TimeoutExpired:
        return None
    return run(*args, preexec=limit, timeout=60)


if "asan" not in FULGUR and "tsan" not in FULGUR:  # their shadow memory needs all addresses
    command = ["run", GOOD, "-p", "Once upon a time", "-n", "8", "--temp", "0", "--json", "-t", "1"]
    text = json.loads(run(*command)[1])["text"]
    statuses = set()
    for mib in (30, 60, 90, 120, 150, 200, 250, 100000):
        result = within(mib, *command)
        if result is None:
            continue
        status, out, err = result
        told = any(l.startswith(b"fulgur: ") for l in err.splitlines())
        answers = status == 0 and json.loads(out)["text"] == text
        if not (answers or status == 1 and told and out == b""):
            check(f"no_memory.{mib}", False, result)
        statuses.add(status)
    check("no_memory", statuses == {0, 1}, statuses)

finish()
