#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""--ram: the same answers within a bound of memory, and errors that say what is missing."""
import json
import os
import random
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import FULGUR, NANO, check, check_error, check_usage, choices, finish, nano, path, report, run

M, IDS, TEXT = path("m.fulgur"), path("ids.txt"), path("text.txt")
nano(M)
random.seed(3)
open(IDS, "w").write(" ".join(str(random.randrange(4096)) for _ in range(60)))
open(TEXT, "w").write(open("README.md").read()[:2000])


def logits(*args):
    status, _, err = run("logits", M, "--ids", IDS, "--out", path("l.f32"), *args)
    return open(path("l.f32"), "rb").read() if status == 0 else err


mapped = logits()
check("mapped_has_logits", len(mapped) == 60 * 4096 * 4)
for name, args in {"all": ["--ram", "1G"], "pread": ["--ram", "1G", "--io", "pread"], "lfu": ["--ram", "1G", "--policy", "lfu"]}.items():
    check("logits." + name, logits(*args) == mapped)

# the least bound that the program names is enough, and one byte less is not
status, out, err = run("run", M, "-p", "Once upon", "-n", "9", "--temp", "0", "--ram", "1M")
check_error("too_small", (status, out, err), "memory: 1.00 MiB", "expected at least")
# the session is added once it is known
for _ in range(2):
    least = int(re.search(rb"at least (\d+)", err).group(1))
    status, out, err = run("run", M, "-p", "Once upon", "-n", "9", "--temp", "0", "--ram", str(least))
    if status == 0:
        break
check("least_is_enough", status == 0, err)
check("least_is_least", run("run", M, "-p", "Once upon", "-n", "9", "--temp", "0", "--ram", str(least - 1))[0] == 1)
check("same_text", out == run("run", M, "-p", "Once upon", "-n", "9", "--temp", "0")[1])


def counts(err):
    """Room, hits and requests of the line that says how the experts were read."""
    line = re.search(r"experts: room for ([\d,]+) of [\d,]+, ([\d,]+) of ([\d,]+) hits .* read .* GB/s by", err)
    return [int(n.replace(",", "")) for n in line.groups()] if line else [0, 0, 0]


check("line_of_experts", counts(err.decode())[0] == 3 and counts(err.decode())[2] >= 9 * 8 * 2, err)

# what is read ahead changes nothing but the counts
hits = {}
for name in choices("--predict"):
    for ahead in ["1", "4"]:
        args = ["--ram", str(least + 2000000), "--predict", name, "--ahead", ahead]
        status, text, err = run("run", M, "-p", "Once upon", "-n", "9", "--temp", "0", *args)
        check(f"text.{name}.{ahead}", text == out)
        check(f"untried.{name}.{ahead}", (b"not tried yet" in err) == (name != "none"), err)
        err = run("run", M, "-p", "Once upon", "-n", "60", "--temp", "0", "--ignore-eos", *args)[2]
        hits[name] = counts(err.decode())[1]
        if name in ("none", "router"):  # what the others find to hint depends on the text
            check(f"line_of_hints.{name}.{ahead}", (b"read ahead by router: " in err) == (name == "router"), err)
        on = re.search(rb"(\S+) was on for (\d+) of 59 single tokens", err)
        check(f"says_when.{name}.{ahead}", (on is None) if name == "none" else 4 <= int(on[2]) < 40, err)
check("router_helps", hits["router"] > hits["none"] + 50, hits)  # though it is on for half of a trial

score = ["score", M, TEXT, "--window", "64", "--chunks", "3", "--json"]
a, b = run(*score)[1], run(*score, "--ram", str(least + 40000000))[1]
cut = re.compile(rb'"(seconds|tokens_per_s)": [^,}]*')
check("score", a != b"" and cut.sub(b"", a) == cut.sub(b"", b), (a, b))
status, out, err = run("chat", M, "-p", "Hello", "-n", "4", "--temp", "0", "--ram", "1G")
check("chat", status == 0 and (out == run("chat", M, "-p", "Hello", "-n", "4", "--temp", "0")[1]), err)

# the bound holds for the whole process, for every backend, while experts are evicted
B, BIG_IDS, BIG_TEXT = path("big.fulgur"), path("big_ids.txt"), path("big_text.txt")
shape = json.load(open(f"{NANO}/config.json"))
shape.update(hidden_size=512, intermediate_size=2048)
json.dump(shape, open(path("big.json"), "w"))
run("synth", B, "--shape", path("big.json"), "--layers", "5", "--tokenizer", NANO)
open(BIG_IDS, "w").write(" ".join(str(random.randrange(4096)) for _ in range(150)))
open(BIG_TEXT, "w").write(open("README.md").read()[:4000])


def peak(*args):
    """(largest resident size in bytes as /proc has it, status, stderr) of fulgur ARGS"""
    most = 0
    with open(path("err"), "w+") as err:
        p = subprocess.Popen([FULGUR, *args], stdout=subprocess.DEVNULL, stderr=err)
        while True:
            pid, status, _ = os.wait4(p.pid, os.WNOHANG)
            if pid != 0:
                break
            for line in open(f"/proc/{p.pid}/status"):
                most = max(most, int(line.split()[1]) << 10 if line.startswith("VmHWM") else 0)
            time.sleep(0.005)
        p.returncode = status
        err.seek(0)
        return most, status, err.read()


# 96 MiB of a bound are for the program and M1's tokenizer; with nano's, a sharper limit can be checked
ram, big = 170 << 20, os.path.getsize(B)
limit = ram - (56 << 20)
COMMANDS = {"tokens": ["logits", B, "--ids", BIG_IDS, "--out", "/dev/null", "--batch", "1"],
            "batches": ["logits", B, "--ids", BIG_IDS, "--out", "/dev/null"],
            "run": ["run", B, "-f", BIG_TEXT, "-n", "40", "--temp", "0"],
            "chat": ["chat", B, "-p", "Hello", "-n", "40", "--temp", "0", "--stats", "full"]}
if "asan" in FULGUR:
    report("skip", "bound", "sanitizers have memory of their own")
else:
    check("bound.model_is_larger", big > 1.5 * ram, big)
    for name, args in COMMANDS.items():
        for io in ["uring", "pread"]:
            rss, status, err = peak(*args, "--ram", str(ram), "--io", io)
            room, hits, of = counts(err)
            check(f"bound.{name}.{io}", status == 0 and 0 < rss <= limit and of - hits > room,
                  (status, rss, limit, room, hits, of))
    run("synth", path("other.fulgur"), "--shape", path("big.json"), "--layers", "5", "--tokenizer", NANO, "-s", "1")
    both = ["score", B, BIG_TEXT, "--window", "64", "--chunks", "4", "--json", "--against", path("other.fulgur")]
    rss, status, err = peak(*both, "--ram", "300M")
    check("bound.both_models", status == 0 and 100 << 20 < rss <= 244 << 20, (rss, err))
    check("bound.both_models_equal", cut.sub(b"", run(*both)[1]) == cut.sub(b"", run(*both, "--ram", "300M")[1]))
    # the sum of both, sessions included, is named, is enough, and a byte less is refused in the user's own figure
    short = run(*both, "--ram", "100M")
    check_error("bound.both_too_small", short, "memory: 100 MiB", "for both", "big.fulgur", "other.fulgur")
    least = int(re.search(rb"at least (\d+)", short[2]).group(1))
    check("bound.both_least_is_enough", run(*both, "--ram", str(least))[0] == 0, run(*both, "--ram", str(least))[2])
    check_error("bound.both_least_is_least", run(*both, "--ram", str(least - 1)), f"at least {least}")
    wide = run(*both, "--ram", "100M", "--window", "1000")
    wider = int(re.search(rb"at least (\d+)", wide[2]).group(1))
    check("bound.both_windows", wider > least and run(*both, "--window", "1000", "--ram", str(wider))[0] == 0, (least, wider))
    # controls: a larger bound and the mapping do take more
    check("bound.control_larger", limit < peak(*COMMANDS["tokens"], "--ram", "260M")[0] <= 260 << 20)
    check("bound.control_mapped", peak(*COMMANDS["tokens"])[0] > ram)

# figures of logits leave out the first tokens
steady = ["logits", M, "--ids", IDS, "--out", "/dev/null", "--batch", "1", "--json", "--ram", "1G", "--predict", "none"]
whole, warm = [json.loads(run(*steady, *more)[1]) for more in ([], ["--warm", "59"])]
check("logits.warm", whole["read_bytes"] > 20 * warm["read_bytes"] and warm["hit_percent"] > whole["hit_percent"]
      and warm["seconds"] < whole["seconds"] and warm["tokens_per_s"] > 0, (whole, warm))
# in any batch: with room for all, each expert is read once, by the first tokens or by those behind them
HEAD = path("head.txt")
open(HEAD, "w").write(" ".join(open(IDS).read().split()[:20]))
for batch in ("1", "7", "512"):
    figures = ["--out", "/dev/null", "--json", "--ram", "1G", "--predict", "none", "--batch", batch]
    begin, behind, every = [json.loads(run("logits", M, "--ids", ids, *figures, *more)[1])["read_bytes"]
                            for ids, more in ((HEAD, []), (IDS, ["--warm", "20"]), (IDS, []))]
    check("logits.warm.batch_" + batch, begin > behind > 0 and begin + behind == every, (begin, behind, every))
check("logits.warm.bits", logits("--warm", "20", "--json") == mapped)
check("logits.mapped_reads_nothing", "read_gbs" not in json.loads(run(*steady[:-4])[1]))
check_error("logits.all_warm", run(*steady, "--warm", "60"), "--warm: 60 tokens of 60")

# a line of what is read ahead says by what: without a predictor, for a prompt that uses all experts of a layer
err = run("run", M, "-f", TEXT, "-n", "1", "--ram", "1G", "--predict", "none")[2]
check("line_of_batches", b"read ahead in batches: " in err and b"none" not in err, err)
# types of which the first matrix of an expert has no row scales and the last one has; each in every home
ODD = path("odd.fulgur")
open(path("odd.txt"), "w").write("*.w1.weight bf16\n*.w3.weight bf16\n*.w2.weight q8\n")
status, _, err = run("synth", ODD, "--shape", NANO + "/config.json", "--recipe", path("odd.txt"))
check("odd_types.made", status == 0, err)


def odd(*more):
    status, _, err = run("logits", ODD, "--ids", HEAD, "--out", path("odd.f32"), "-t", "2", *more)
    return open(path("odd.f32"), "rb").read() if status == 0 else err


want = odd()
check("odd_types.homes", len(want) > 1000 and odd("--residency", "copy") == want and odd("--ram", "400M") == want
      and odd("--ram", "150M") == want)
check("odd_types.control", logits() != want)
check("usage.size", run("run", M, "-p", "x", "--ram", "lots")[0] == 2)
for option in ("--policy", "--predict", "--io", "--cpu", "--cache-type"):
    names = choices(option)
    check_usage(f"bad{option}", run("run", M, "-p", "x", option, "best"), f"{option}: best, expected {', '.join(names[:-1])} or {names[-1]};")
check("choices", choices("--policy") == ["lru", "lfu", "pin"] and choices("--predict")[0] == "none" and choices("--io") == ["auto", "uring", "pread"])
check_usage("policy_of_replays", run("run", M, "-p", "x", "--ram", "1G", "--policy", "random"), "policy: random", "lru, lfu or pin")
check("usage.ahead", run("run", M, "-p", "x", "--ram", "1G", "--ahead", "9")[0] == 2)
finish()
