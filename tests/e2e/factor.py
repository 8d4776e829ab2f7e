#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""factor train, predict, export and compare: what a user sees of them, and what is said of bad input."""
import json
import os
import random
import struct
import subprocess
import sys
import time
import xml.dom.minidom

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import FULGUR, check, check_error, finish, path, run

R, M, BAD = path("ratings.csv"), path("m.factors"), path("bad.txt")
random.seed(4)
factor = {k: [random.uniform(-1.7, 1.7)] for k in [*range(200), *(1000 + i for i in range(150))]}
rows = [(f"u{u}", f"film {i}", round(3 + sum(a * b for a, b in zip(factor[u], factor[1000 + i]))), u * i)
        for u in range(200) for i in range(150) if random.random() < .5]
with open(R, "w") as f:
    f.write("user,item,rating,time\n" + "".join(f'{u},"{i}",{r},{t}\n' for u, i, r, t in rows))


def train(*args):
    status, out, err = run("factor", "train", R, "--json", *args)
    check("trains", status == 0, err)
    told = json.loads(out)
    return {k: v for k, v in told.items() if "seconds" not in k}


first = train("-o", M)
mean = sum(r for _, _, r, _ in rows) / len(rows)
spread = (sum((r - mean) ** 2 for _, _, r, _ in rows) / len(rows)) ** .5
check("counts", first["train"] + first["valid"] + first["test"] == len(rows) and first["users"] == 200, first)
check("learns", first["rmse"] < .85 * spread, (first, spread))
check("threads_change_nothing", train("-t", "1") == first == train("-t", "5"))
check("seeds_change", train("--seed", "2")["rmse"] != first["rmse"])
check("algorithm", train("--algorithm", "ads")["rmse"] < .85 * spread)
check_error("not_again", run("factor", "train", R, "-o", M), "m.factors: exists already", "--force")
check_error("no_file_of_that_name", run("factor", "train", R, "-o", "-"), "output: - (standard output)", "a file name")

status, out, err = run("factor", "predict", M, R)
got = [line.split("\t") for line in out.decode().splitlines()]
check("predicts", status == 0 and [(u, i) for u, i, _ in got] == [(u, i) for u, i, _, _ in rows], err)
error = (sum((float(p) - r[2]) ** 2 for (_, _, p), r in zip(got, rows)) / len(rows)) ** .5
check("predictions_fit", error < .8 * spread, (error, spread))
with open(BAD, "w") as f:
    f.write("u1 nobody\n")
status, out, err = run("factor", "predict", M, BAD)
check("unmet", status == 0 and out.startswith(b"u1\tnobody\t") and b"1 pairs not met" in err, (out, err))
status, out, err = run("factor", "predict", M, R, "--user", "u7", "--top", "5")
top = [line.split("\t") for line in out.decode().splitlines()]
check("top", status == 0 and len(top) == 5 and not {i for i, _ in top} & {i for u, i, _, _ in rows if u == "u7"}, out)
check("top_is_sorted", [float(p) for _, p in top] == sorted((float(p) for _, p in top), reverse=True), top)

D = path("out")
check("exports", run("factor", "export", M, D)[0] == 0)
users = open(os.path.join(D, "users.txt")).read().split("\n")[:-1]
items = open(os.path.join(D, "items.txt")).read().split("\n")[:-1]


def npy(name):
    data = open(os.path.join(D, name), "rb").read()
    size, = struct.unpack("<H", data[8:10])
    shape = eval(data[10:10 + size])["shape"]
    return shape, struct.unpack(f"<{(len(data) - 10 - size) // 4}f", data[10 + size:])


(n, f), x = npy("users.npy")
(m, _), y = npy("items.npy")
u, i, p = got[3]
a, b = users.index(u), items.index(i)
product = sum(x[a * f + k] * y[b * f + k] for k in range(f))
check("factors", (n, m, f) == (200, len(items), 20) and abs(product - float(p)) < 1e-4, (product, p))

compare = ("factor", "compare", R, "--seeds", "2", "--budget", "200", "--epochs", "30", "--json")
status, out, err = run(*compare, "--plot", path("c.svg"))
table = json.loads(out) if status == 0 else {"rows": []}
names = [r["configuration"] for r in table["rows"]]
check("compares", len(names) == 20 and table["rival"] in names and "npid swarm" in names, err or names)
check("equal_budgets", all(r["tuning_passes"] <= 200 for r in table["rows"]), names)
check("ratios", len(table["ratios"]) == 12 and {"epochs", "seconds", "reached"} <= set(table["ratios"][0]), err)
check_error("draws_once", run(*compare, "--plot", path("c.svg")), "c.svg: exists already", "--force")
xml.dom.minidom.parse(path("c.svg"))
check("draws", open(path("c.svg")).read().count("<polyline") == 40)
seconds = ("seconds",)
again = json.loads(run(*compare, "-t", "3", "--plot", path("c.svg"), "--force")[1])
check("compare_threads", [{k: v for k, v in r.items() if k not in seconds} for r in again["rows"]] ==
      [{k: v for k, v in r.items() if k not in seconds} for r in table["rows"]])
status, out, err = run("factor", "compare", R, "--folds", "3", "--budget", "0", "--epochs", "3")
check("folds", status == 0 and len(out.splitlines()) > 10 and b"nan" not in out, err)
check("folds_by_time", run("factor", "compare", R, "--folds", "3", "--split", "time")[0] == 2)

parts = path("parts")
whole = train("--split", "time", "--save-split", parts)
split = [[line.split("\t") for line in open(os.path.join(parts, f"{k}.tsv"))] for k in ("train", "valid", "test")]
check("saved", sum(map(len, split)) == len(rows) and len(split[2]) == whole["test"], list(map(len, split)))
check("by_time", max(float(r[3]) for r in split[0]) <= min(float(r[3]) for r in split[2]))
P = [os.path.join(parts, f"{k}.tsv") for k in ("train", "valid", "test")]
status, out, err = run("factor", "train", P[0], "--valid", P[1], "--test", P[2], "--json")
check("saved_is_the_split", json.loads(out)["train"] == whole["train"] and json.loads(out)["test"] == whole["test"], err)
check_error("split_of_itself", run("factor", "train", P[0], "--save-split", parts, "--force"), "the same file as the input")
check_error("split_again", run("factor", "train", R, "--save-split", parts), "exists already", "--force")
status, out, err = run("factor", "predict", M, P[0], "--test", P[2], "--top", "5")
check("ranking", status == 0 and b"precision@5" in out and b"NDCG@5" in out, err)
for how in ("offline", "swarm"):
    told = train("--adapt", how, "--budget", "150", "--epochs", "40")
    check("adapts_" + how, told["rmse"] < .9 * spread and (how == "swarm") == (told["tuning_passes"] == 0), told)

for text, want in (("a b 3\nc d x\n", "line 2: rating x"), ("a b 3\nc\n", "line 2: one field"), ("", "no ratings"),
                   ("a b 1\nc d 1\n", "implicit feedback"),
                   ("a b nan\nc d 3\n", "line 1: rating nan"), ("a b 3.4.5\n", "line 1: rating 3.4.5"),
                   ("a b 1e400\n", "line 1: rating 1e400"), ("a b 0x10\n", "line 1: rating 0x10"), ("a b\nc d\n", "implicit feedback")):
    with open(BAD, "w") as f:
        f.write(text)
    check_error("bad_line", run("factor", "train", BAD), "bad.txt", want, "expected")
grid = [(u, i, 1 + u * i % 5) for u in range(12) for i in range(12)]
for name, line, how, status, want in (
        ("colons_in_ids", "a::b::{}\ti::{}\t{}\n", (), 0, b"12 users, 12 items"),
        ("some_times", "u{0} i{1} {2}{3}\n", ("--split", "time"), 1, b"split: 72 of 144 ratings with a time, expected a number"),
        ("dates", "u{},i{},{},2020-01-01\n", ("--split", "time"), 1, b"split: 0 of 144 ratings with a time, expected")):
    with open(BAD, "w") as f:
        f.writelines(line.format(u, i, r, " 7" if u % 2 else "") for u, i, r in grid)
    got, out, err = run("factor", "train", BAD, "--epochs", "2", *how)
    check(name, got == status and want in out + err and err.count(b"\n") == status, (got, out, err))
with open(BAD, "w") as f:  # what has no time does not get one
    f.writelines(f"u{u} i{i} {r}{' 7' if u % 2 else ''}\n" for u, i, r in grid)
split = path("some")
check("splits", run("factor", "train", BAD, "--epochs", "2", "--save-split", split)[0] == 0)
check("no_time_is_made_up", all((len(x.split("\t")) == 4) == (int(x.split("\t")[0][1:]) % 2 == 1)
                                for k in ("train", "valid", "test") for x in open(os.path.join(split, f"{k}.tsv"))))
data = bytearray(open(M, "rb").read())
data[200] ^= 1
open(BAD, "wb").write(data)
check_error("damaged", run("factor", "predict", BAD, R), "bad.txt: a wrong checksum")
check_error("other_file", run("factor", "export", R, D), "ratings.csv: another file")
check_error("parameter", run("factor", "train", R, "--set", "zeta=1"), "zeta", "k1")
check_error("diverges", run("factor", "train", R, "--set", "eta=9"), "not finite", "smaller steps")
check_error("exported_again", run("factor", "export", M, D), "users.npy: exists already", "--force")
check("exports_over", run("factor", "export", M, D, "--force")[0] == 0)
for args, want in ((("train", "--trace", R, "--bias"), b"--bias with --trace"),
                   (("train", "-", "--valid", "-", "--test", R), b"standard input, more than once"),
                   (("predict", M, "-", "--test", "-"), b"standard input, twice"),
                   (("predict", M, R, "--top", "3"), b"--top alone"), (("predict", M, R, "--relevant", "3"), b"--relevant alone")):
    status, out, err = run("factor", *args)
    check("no_option_is_ignored", status == 2 and want in err, err)
os.mkfifo(path("fifo"))  # a pipe that nobody writes to can be left
p = subprocess.Popen([FULGUR, "factor", "train", path("fifo")])
time.sleep(.3)
p.terminate()
check("silent_pipe", p.wait(20) == -15, p.returncode)
check("no_command", run("factor")[0] == 2 and run("factor", "nix")[0] == 2)
finish()
