#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""--ram: the same answers within a bound of memory, and errors that say what is missing."""
import os
import random
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import NANO, check, check_error, finish, path, run

M, IDS, TEXT = path("m.fulgur"), path("ids.txt"), path("text.txt")
run("convert", NANO, M)
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
check_error("too_small", (status, out, err), "memory: 1048576 bytes", "expected at least")
# the session is added once it is known
for _ in range(2):
    least = int(re.search(rb"at least (\d+)", err).group(1))
    status, out, err = run("run", M, "-p", "Once upon", "-n", "9", "--temp", "0", "--ram", str(least))
    if status == 0:
        break
check("least_is_enough", status == 0, err)
check("least_is_least", run("run", M, "-p", "Once upon", "-n", "9", "--temp", "0", "--ram", str(least - 1))[0] == 1)
check("same_text", out == run("run", M, "-p", "Once upon", "-n", "9", "--temp", "0")[1])
line = re.search(rb"experts: 3 of 256 in memory, (\d+) of (\d+) hits .* read .* GB/s by", err)
check("line_of_experts", line is not None and int(line.group(2)) >= 9 * 8 * 2, err)

score = ["score", M, TEXT, "--window", "64", "--chunks", "3", "--json"]
a, b = run(*score)[1], run(*score, "--ram", str(least + 40000000))[1]
cut = re.compile(rb'"(seconds|tokens_per_s)": [^,}]*')
check("score", a != b"" and cut.sub(b"", a) == cut.sub(b"", b), (a, b))
status, out, err = run("chat", M, "-p", "Hello", "-n", "4", "--temp", "0", "--ram", "1G")
check("chat", status == 0 and (out == run("chat", M, "-p", "Hello", "-n", "4", "--temp", "0")[1]), err)

check("usage.size", run("run", M, "-p", "x", "--ram", "lots")[0] == 2)
check_error("bad_policy", run("run", M, "-p", "x", "--ram", "1G", "--policy", "best"), "policy: best", "lru or lfu")
check_error("bad_io", run("run", M, "-p", "x", "--ram", "1G", "--io", "tape"), "io: tape")
finish()
