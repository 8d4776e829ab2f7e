#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whole commands in which one call fails: memory, maps, threads, reading, writing, syncing.  Each run
must end as it should, or with status 1 and one line that says why; nothing right is replaced by
something wrong, and the same command works right after.  Deaths inside other libraries are counted,
not judged.  A sample usually; every call, in steps, with FULGUR_TEST_LONG=1."""
import hashlib
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import puppet
from e2e import FULGUR, check, finish, path, report, run

LONG = os.environ.get("FULGUR_TEST_LONG") == "1"
HERE = os.path.dirname(os.path.abspath(__file__))
KINDS = ["malloc", "memalign", "mmap", "pthread_create", "write", "pwrite", "short pwrite", "fsync", "read", "pread",
         "short pread", "open", "rename", "ftruncate", "fwrite", "fflush", "fstat"]
EACH = {k: (40 if k in ("malloc", "pread") else 20) if LONG else 2 for k in KINDS}
USUAL = ["convert", "run_ram", "score_card", "tokenize"]
SHIM = path("fail_nth.so")
LOADER = 127  # how the dynamic loader ends a program when it has no memory
subprocess.run(["gcc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", f"{HERE}/fail_nth.c", "-o", SHIM],
               check=True)

os.mkdir(path("w"))  # where commands write; emptied before each
puppet.make(path("ck"), ["Hello", " world", "."])
open(path("text"), "w").write("hello world " * 12)
open(path("ids"), "w").write("1 2 3 4")
for t in ("f32", "q4"):
    status, _, err = run("convert", path("ck"), path(t), "--type", t)
    check("model_" + t, status == 0, err)
run("trace", path("q4"), path("text"), "-o", path("trace"), "--tokens", "20")

OUT, MODEL = path("w/out"), path("w/model")
CONVERT = ["convert", path("ck"), OUT, "--type", "q4", "-t", "2", "--force"]
RUN = ["run", path("q4"), "-p", "hello\n", "-n", "4", "--temp", "0", "-t", "2"]
# name: command, standard input, whether standard output is the same each time
COMMANDS = {
    "convert": (CONVERT, b"", False),
    "convert_calib": (CONVERT + ["--calib", path("text")], b"", False),
    "convert_split": (CONVERT + ["--split", path("w/d1")], b"", False),
    "run": (RUN, b"", True),
    "run_ram": (RUN + ["--ram", "120M"], b"", True),
    "run_json": (RUN + ["--json"], b"", False),
    "chat": (["chat", path("q4"), "-n", "3", "-t", "2", "--temp", "0"], b"hi\nyou\n", True),
    "score": (["score", path("q4"), path("text"), "-w", "32", "-t", "2"], b"", False),
    "score_card": (["score", MODEL, path("text"), "-w", "32", "--against", path("f32"), "--card"], b"", False),
    "trace": (["trace", path("q4"), path("text"), "-o", OUT, "-t", "2", "--tokens", "20", "--force"], b"", False),
    "trace_heat": (["trace", MODEL, path("text"), "--heat", "-t", "2", "--tokens", "20"], b"", False),
    "replay": (["trace", "replay", path("trace"), "--ram", "120M"], b"", True),
    "verify": (["verify", path("q4")], b"", False),
    "info": (["info", path("q4"), "--tensors"], b"", True),
    "plan": (["plan", path("q4"), "--ram", "200M"], b"", False),
    "logits": (["logits", path("q4"), "--ids", path("ids"), "--out", OUT, "-t", "2"], b"", False),
    "tokenize": (["tokenize", path("q4"), "-f", path("text")], b"", True),
    "synth": (["synth", OUT, "--shape", path("ck/config.json"), "--force"], b"", False),
}


def digest(name):
    return hashlib.md5(open(name, "rb").read()).hexdigest() if os.path.exists(name) else None


def clean(before=None):
    """An empty folder with a model to append to; before: what stands where the output goes."""
    shutil.rmtree(path("w"))
    os.makedirs(path("w/d1"))
    shutil.copy(path("q4"), MODEL)
    if before is not None:
        open(OUT, "wb").write(before)


def one(command, stdin, kind="", n=0):
    if os.path.exists(path("count.by")):
        os.unlink(path("count.by"))
    env = {"LD_PRELOAD": SHIM, "FAULT_KIND": kind, "FAULT_N": str(n), "FAULT_COUNT": path("count")}
    try:
        status, out, err = run(*command, stdin=stdin, env=env, timeout=60)
    except subprocess.TimeoutExpired:
        return "hangs", b"", b""
    return status, out, err.decode("utf-8", "replace")


def in_a_library():
    """Whether the call that failed was another library's, whose death it then is."""
    try:
        who = open(path("count.by")).read()
    except FileNotFoundError:
        return False
    return who != "" and os.path.basename(who) != os.path.basename(FULGUR)


def judge(name, good, result, before):
    """What is wrong with the outcome of a run with a fault; empty: nothing."""
    command, _, same = COMMANDS[name]
    status, out, err = result
    lines = [line for line in err.splitlines() if line.strip()] if err else []
    if status == "hangs":
        return "hangs"
    if status < 0:
        return f"dies of signal {-status}"
    if OUT in command and status != 0 and digest(OUT) not in (before, good["file"]):
        return "left half an output"
    if status == 0:
        if OUT in command and digest(OUT) != good["file"] and name != "trace":
            return "status 0 with another output file"
        if same and out != good["out"]:
            return f"status 0 with another answer: {out[:80]!r}"
        return ""
    if status != 1:
        return f"status {status}"
    told = [line for line in lines if line.startswith("fulgur: ")]
    if len(told) != 1 or lines[-1] != told[0]:
        return f"not one error line: {lines[-3:]}"
    return ""


def goes_on(name, good):
    """The same command without a fault, after one with it; empty: it works."""
    command, stdin, _ = COMMANDS[name]
    if "--split" in command and digest(OUT) == good["file"]:
        return ""  # complete: its parts are never replaced
    status, _, err = one(command, stdin)
    if status != 0:
        return f"then does not work any more: {err[-200:]}"
    if OUT in command and name != "trace" and digest(OUT) != good["file"]:
        return "then gives another file"
    if MODEL in command and run("verify", MODEL)[0] != 0:
        return "left a broken model"
    return ""


def sweep(name, kind, good, died):
    """Faults of one kind in one command: (tried, what was wrong)."""
    command, stdin, _ = COMMANDS[name]
    clean()
    one(command, stdin, kind)
    try:
        count = int(open(path("count")).read())
    except (FileNotFoundError, ValueError):
        return 0, []
    most = EACH[kind]
    half = most // 2
    calls = range(1, count + 1) if count <= most else \
        sorted({*range(1, half + 1), *(1 + i * (count - 1) // half for i in range(half + 1))})
    bad = []
    for n in calls:
        before = b"OLD" if OUT in command and n % 2 == 0 and name != "synth" and "convert" not in name else None
        clean(before)
        result = one(command, stdin, kind, n)
        wrong = judge(name, good, result, hashlib.md5(before).hexdigest() if before else None)
        theirs = (wrong.startswith("dies") or result[0] == LOADER) and in_a_library()
        if theirs or "libgomp: " in result[2]:
            died.append((name, kind, n))
            wrong = ""
        if not wrong and (result[0] != 0 or not LONG) and n % (2 if LONG else 1) == 0:
            wrong = goes_on(name, good)
        if wrong:
            bad.append(f"{kind} {n} of {count}: {wrong}")
    return len(calls), bad


def control():
    """Outcomes that are wrong are told from right ones."""
    good = {"file": "right", "out": b"answer"}
    judged = [judge("run", good, r, None) for r in (
        (0, b"answer", ""), (1, b"", "fulgur: x: y, expected z\n"), (0, b"", ""), (-11, b"", ""),
        (1, b"", ""), (1, b"", "fulgur: a\nfulgur: b\n"), (2, b"", "fulgur: a\n"), ("hangs", b"", b""))]
    check("control_judges", [bool(j) for j in judged] == [False] * 2 + [True] * 6, judged)
    clean()
    status, _, err = one(RUN, b"", "mmap", 1)
    none = one(RUN, b"", "none", 1)[0]
    check("control_faults_happen", status != 0 and none == 0, (status, err, none))


control()
total, died = 0, []
for name in sys.argv[1:] or (COMMANDS if LONG else USUAL):
    command, stdin, _ = COMMANDS[name]
    clean()
    status, out, err = one(command, stdin)
    good = {"file": digest(OUT), "out": out}
    if not check(name + "_without_fault", status == 0, err):
        continue
    tried, bad = 0, []
    for kind in KINDS:
        n, wrong = sweep(name, kind, good, died)
        tried += n
        bad += wrong
    total += tried
    check(f"{name}", not bad, "\n  ".join(bad[:12]) + f"\n  {len(bad)} of {tried}")
print(f"{total} faults, {len(died)} deaths inside other libraries: {died[:6]}")
check("faults_were_tried", total > 60 or len(sys.argv) > 1, total)
finish()
