#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Signals: convert keeps its work and the same command goes on to the same bytes, other commands leave nothing
behind, a second signal kills.  Also what a full disk and other people's files do to the program as a whole."""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time

from e2e import FULGUR, NANO, check, check_error, finish, path, run

LONG = os.environ.get("FULGUR_TEST_LONG") == "1"


def sha(name):
    return hashlib.sha256(open(name, "rb").read()).hexdigest()


def start(*args, **more):
    return subprocess.Popen([FULGUR, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **more)


def fresh(name):
    """A copy of nano whose shards may go."""
    folder = path(name)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(NANO, folder)
    return folder


# ---- convert ----
BF16 = ("--type", "bf16")  # takes no search for codes
out = path("m.fulgur")
t0 = time.time()
run("convert", NANO, out, *BF16)
whole = time.time() - t0
want = sha(out)
os.remove(out)
points = {signal.SIGINT: 1, signal.SIGTERM: 2, signal.SIGHUP: 1}
if LONG:
    points = dict.fromkeys(points, 20)
bad, stopped, resumed = [], 0, 0
for sig, n in points.items():
    for k in range(n):
        src = fresh("src")
        p = start("convert", src, out, "--delete-consumed", *BF16)
        time.sleep(whole * (k + 0.5) / n)
        p.send_signal(sig)
        _, err = p.communicate(timeout=120)
        if p.returncode == 0:  # it was through
            bad += [(sig, k, "other bytes")] * (sha(out) != want)
            os.remove(out)
            continue
        stopped += 1
        if p.returncode != 128 + sig or os.path.exists(out):
            bad.append((sig, k, p.returncode, err))
        if os.path.exists(out + ".part"):
            resumed += 1
            # the printed command is the one that goes on
            line = [t for t in err.decode().splitlines() if t.startswith("go on with: fulgur ")]
            if not os.path.exists(out + ".part.journal") or len(line) != 1:
                bad.append((sig, k, "no journal, or no command", err))
                continue
            again = run(*line[0].split()[4:])
        else:  # it had not begun to write
            again = run("convert", src, out, "--delete-consumed", *BF16)
        if again[0] != 0 or os.path.exists(out) and sha(out) != want or os.path.exists(out + ".part"):
            bad.append((sig, k, again))
        elif any(f.endswith(".safetensors") for f in os.listdir(src)):
            bad.append((sig, k, "shards left"))
        for f in (out, out + ".part", out + ".part.journal"):
            if os.path.exists(f):
                os.remove(f)
print(f"  {whole:.1f} s; {stopped} stopped, {resumed} gone on with")
check("convert_goes_on", not bad and resumed > sum(points.values()) // 4, bad)

# a second signal kills at once, and even then the work is there to go on with
p = start("convert", NANO, out, *BF16)
time.sleep(whole / 3)
p.send_signal(signal.SIGSTOP)  # both arrive before it can do anything
p.send_signal(signal.SIGTERM)
p.send_signal(signal.SIGINT)
p.send_signal(signal.SIGCONT)
p.communicate(timeout=60)
check("a_second_signal_kills", p.returncode in (-signal.SIGTERM, -signal.SIGINT), p.returncode)
check("and_it_goes_on", run("convert", NANO, out, *BF16)[0] == 0 and sha(out) == want)

# nohup: an ignored SIGHUP stays ignored
p = start("convert", NANO, path("n.fulgur"), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
time.sleep(whole / 3)
p.send_signal(signal.SIGHUP)
_, err = p.communicate(timeout=60)
check("nohup", p.returncode == 0 and run("verify", path("n.fulgur"))[0] == 0, err)

# ---- other commands: their unfinished files go ----
open(path("ids"), "w").write(" ".join(str(i % 4000) for i in range(30000)))
open(path("long.txt"), "w").write("Once upon a time there was a fox. " * 2400)
os.mkdir(path("o"))
runs = {
    "logits": ("logits", out, "--ids", path("ids"), "--out", path("o/l.f32")),
    "score": ("score", out, path("long.txt")),
    "trace": ("trace", out, path("long.txt"), "-o", path("o/t.trace")),
    "synth": ("synth", path("o/s.fulgur"), "--shape", f"{NANO}/config.json", "--layers", "32"),
    "sensitivity": ("sensitivity", out, path("n.fulgur"), path("long.txt"), "-n", "100000", "-o", path("o/x.json")),
    "verify_run": ("run", out, "-p", "Once", "-n", "1000000", "-c", "32000", "--ignore-eos"),
}
for name, args in runs.items():
    for sig in (signal.SIGTERM, signal.SIGHUP)[: 2 if LONG else 1]:
        p = start(*args)
        time.sleep(0.4)
        p.send_signal(sig)
        _, err = p.communicate(timeout=120)
        left = os.listdir(path("o"))
        good = p.returncode == 128 + sig or (name == "synth" and p.returncode == 0)
        check(f"{name}_ends_by_{sig.name}", good and (left == [] or p.returncode == 0), (p.returncode, left, err))
        for f in left:
            os.remove(path("o/" + f))

# ---- a measurement writes nothing before its end, so that it ends at once ----
p = start("bench", out, "--csv", path("o/b.csv"))
time.sleep(0.4)
p.send_signal(signal.SIGTERM)
t0 = time.time()
p.communicate(timeout=60)
check("bench_ends_at_once", p.returncode == -signal.SIGTERM and time.time() - t0 < 3 and os.listdir(path("o")) == [],
      (p.returncode, time.time() - t0))

# ---- OUT complete is not a failure, whatever becomes of the report ----
with open("/dev/full", "w") as full:
    p = subprocess.run([FULGUR, "convert", NANO, path("f.fulgur"), *BF16], stdout=full, stderr=subprocess.PIPE)
check("report_to_a_full_device", p.returncode == 0 and sha(path("f.fulgur")) == want and b"complete" in p.stderr, p)

# ---- files of the user's ----
for leaf in ("u.fulgur.part", "u.fulgur.part.journal"):
    for n in (6, 5 << 20):
        open(path(leaf), "w").write("x" * n)
        check_error(f"{leaf}_{n}", run("convert", NANO, path("u.fulgur")), leaf)
        check(f"{leaf}_{n}_untouched", os.path.getsize(path(leaf)) == n and not os.path.exists(path("u.fulgur")))
        os.remove(path(leaf))

# ---- a damaged unfinished file ----
src = fresh("src")
p = start("convert", src, out, "-t", "1", *BF16)
os.remove(out)
while not (os.path.exists(out + ".part") and os.path.getsize(out + ".part") > 12 << 20):
    time.sleep(0.005)
p.send_signal(signal.SIGTERM)
p.communicate(timeout=60)
with open(out + ".part", "r+b") as f:
    f.seek((2 << 20) + 70000)
    f.write(b"damage")
status, _, err = run("convert", src, out, *BF16)
check("damage_is_noticed", status == 0 and b"are not what was written" in err and sha(out) == want, err)

# ---- a tokenizer for a finished file ----
os.remove(src + "/tokenizer.json")
status, _, err = run("convert", src, path("t.fulgur"), *BF16)
check("no_tokenizer_is_said", status == 0 and b"no tokenizer.json" in err, err)
check_error("tokenize_says_how", run("tokenize", path("t.fulgur"), "-p", "x"), "--only-tokenizer")
j = json.loads(run("convert", src, path("t2.fulgur"), "--dry-run", "--json")[1])
check("dry_run_json", j["tokenizer"] is False and j["links"] == 0, j)
check_error("delete_without_tokenizer", run("convert", src, path("t2.fulgur"), "--delete-consumed"), "tokenizer.json")
check("only_tokenizer", run("convert", NANO, path("t.fulgur"), "--only-tokenizer")[0] == 0 and
      run("tokenize", path("t.fulgur"), "-p", "a fox")[1] == run("tokenize", out, "-p", "a fox")[1] and
      run("verify", path("t.fulgur"))[0] == 0)

# ---- score ----
open(path("utf16.txt"), "wb").write(("A fox met a crow. " * 50).encode("utf-16"))
status, _, err = run("score", out, path("utf16.txt"))
check("score_says_utf16", status == 0 and b"UTF-16" in err, err)
finish()
