#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""factor train, predict, export and compare: what a user sees of them, and what is said of bad input."""
import json
import os
import random
import struct
import sys
import xml.dom.minidom

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import check, check_error, finish, path, run

R, M, BAD = path("ratings.csv"), path("m.factors"), path("bad.txt")
random.seed(4)
factor = {k: [random.uniform(-1, 1) for _ in range(3)] for k in [*range(200), *(1000 + i for i in range(150))]}
rows = [(f"u{u}", f"film {i}", round(3 + sum(a * b for a, b in zip(factor[u], factor[1000 + i]))), u * i)
        for u in range(200) for i in range(150) if random.random() < .3]
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

status, out, err = run("factor", "compare", R, "--seeds", "2", "--plot", path("c.svg"), "--json")
table = json.loads(out) if status == 0 else []
check("compares", len(table) == 9 and table[0]["difference"] == 0 and all(t["splits"] <= 2 for t in table), err)
xml.dom.minidom.parse(path("c.svg"))
check("draws", open(path("c.svg")).read().count("<polyline") >= 16)

for text, want in (("a b 3\nc d x\n", "line 2: rating x"), ("a b 3\nc\n", "line 2: one field"), ("", "no ratings")):
    with open(BAD, "w") as f:
        f.write(text)
    check_error("bad_line", run("factor", "train", BAD), "bad.txt", want, "expected")
data = bytearray(open(M, "rb").read())
data[200] ^= 1
open(BAD, "wb").write(data)
check_error("damaged", run("factor", "predict", BAD, R), "bad.txt: a wrong checksum")
check_error("other_file", run("factor", "export", R, D), "ratings.csv: another file")
check_error("parameter", run("factor", "train", R, "--set", "zeta=1"), "zeta", "k1")
check_error("diverges", run("factor", "train", R, "--set", "eta=9"), "not finite", "smaller steps")
check("no_command", run("factor")[0] == 2 and run("factor", "nix")[0] == 2)
finish()
