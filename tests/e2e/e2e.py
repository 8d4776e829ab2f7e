# SPDX-License-Identifier: MIT
"""What the command-line tests share: running the program, checking, counting.  Standard library only."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

FULGUR = os.environ.get("FULGUR", "build/gcc/fulgur")
NANO = "tests/models/m1-nano"
ORACLE = "tests/vectors/oracle"
tmp = tempfile.mkdtemp(prefix="fulgur-e2e-")
suite = os.path.splitext(os.path.basename(sys.argv[0]))[0]
spent = 0.0  # processor seconds
counts = {"ok  ": 0, "FAIL": 0, "skip": 0}


def path(name):
    return os.path.join(tmp, name)


def run(*args, stdin=b"", preexec=None, env=None, timeout=300):
    """(status, stdout, stderr) of fulgur ARGS."""
    p = subprocess.run([FULGUR, *args], input=stdin, capture_output=True, preexec_fn=preexec,
                       env={**os.environ, **(env or {})}, timeout=timeout)
    return p.returncode, p.stdout, p.stderr


def nano(to, *args):
    """Nano converted to `to` (status 0): once in a run of the suite (FULGUR_TEST_MODELS), copied from there.  For
    scripts whose matter is not the conversion."""
    shared = os.environ.get("FULGUR_TEST_MODELS")
    if not shared:
        return run("convert", NANO, to, *args)[0]
    made = os.path.join(shared, "-".join(["cli", *args]) + ".fulgur")
    if not os.path.exists(made):
        mine = f"{made}.{os.getpid()}"
        if run("convert", NANO, mine, *args)[0] != 0:
            return 1
        os.rename(mine, made)
    shutil.copy(made, to)
    return 0


def report(verdict, name, why=""):
    counts[verdict] += 1
    if "FULGUR_TEST_TIMES" in os.environ:  # since the check before
        global spent
        before, spent = spent, sum(os.times()[:4])
        print(f"  {name}: {spent - before:.2f} s of processor")
    print(f"{verdict} {suite}.{name}{': ' + why if why else ''}", flush=True)


def check(name, good, why=""):
    if not good:
        print("  " + str(why)[:2000])
    report("ok  " if good else "FAIL", name)
    return good


def choices(option, command="run"):
    """The names that --help lists for an option, in its order."""
    text = re.sub(r"\n {12,}", " ", run(command, "--help")[1].decode())  # unwrapped
    for line in text.splitlines():
        if line.split()[:1] == [option]:
            return line.rsplit(": ", 1)[1].replace(" (default)", "").replace(" or ", ", ").split(", ")
    raise LookupError(option)


def check_usage(name, result, *words):
    """As check_error, for what is wrong with the command itself: status 2."""
    return check_error(name, result, *words, want=2)


def check_error(name, result, *words, want=1):
    """Status 1 and one line "fulgur: ..." on stderr, warnings aside, that holds all the words."""
    status, _, err = result
    lines = err.decode("utf-8", "replace").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("convert: warning: "))
    good = (status == want and text.startswith("fulgur: ") and text.count("\n") == 1 and text.endswith("\n")
            and len(text) < 600 and all(w in text for w in words))
    return check(name, good, f"status {status}, stderr {text!r}, wanted {words}")


def finish():
    shutil.rmtree(tmp, ignore_errors=True)
    print(f"{suite}: {counts['ok  ']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    sys.exit(counts["FAIL"] > 0 or counts["ok  "] == 0)
