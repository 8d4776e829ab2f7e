#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""numa: predictions for machines that are not here against sums done again, the table of imbalance, and
a sweep that is killed, resumed, refused, damaged; plan and doctor on a described machine."""
import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import FULGUR, NANO, check, check_error, check_usage, choices, finish, nano, path, run

# MiniMax-M1's dimensions, for which every matrix is cut over the nodes
M1 = path("config.json")
config = json.load(open(f"{NANO}/config.json"))
config.update(hidden_size=6144, intermediate_size=9216, num_attention_heads=64, num_key_value_heads=8, head_dim=128,
              rotary_dim=64, num_hidden_layers=80, num_local_experts=32, num_experts_per_tok=2, vocab_size=200064,
              max_position_embeddings=10240000, attn_type_list=[int(i % 8 == 7) for i in range(80)])
json.dump(config, open(M1, "w"))
TWO = "tests/sys/topologies/two-socket.xml"
M = path("nano.fulgur")
nano(M)


def little_memory():
    """Keeps the buffers for read bandwidth small."""
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))


def numa(*args):
    return run("numa", *args, preexec=little_memory)


def ask(*args):
    status, out, err = run(*args, "--json")
    try:
        return json.loads(out)
    except ValueError:
        check("json", False, (args, status, out, err))
        return {}


def near(a, b, rel=1e-5):
    return abs(a - b) <= rel * abs(b)


# predictions: a recorded machine of two sockets, the arithmetic again from its own figures
p = ask("numa", M1, "--predict", "--topology", TWO, "--read", "200GB/s", "--ctx", "0,32768")
check("says_what_is_assumed", p["read_gbs"] == 400 and near(p["remote"], 10 / 21, 1e-3) and
      [p[k] for k in ("read_by", "remote_by", "sync_by")] == ["given", "distances", "assumed"], p)
rows = {(x["policy"], x["position"]): x for x in p["expected"]}
check("every_policy", len(rows) == 10 and len(p["expected"]) == 10, rows.keys())


def by_hand(x, away):
    weights = x["weight_bytes"] * x["imbalance"] * away / 380e9
    state = (x["lightning_bytes"] * x["lightning_imbalance"] + x["cache_bytes"] * x["cache_imbalance"]) * away / 400e9
    return (weights + state) * 1.04 + 11 * 80 * 6e-6


good = [near(1 / x["tokens_per_second"], by_hand(x, 0.5 + 0.5 * 2.1 if k[0] in ("interleave", "first-touch") else 1))
        for k, x in rows.items()]
check("arithmetic", all(good), rows)
check("wrong_arithmetic", not near(1 / rows["slice", 0]["tokens_per_second"], by_hand(rows["slice", 0], 1.55), 0.02))
slices = [x["imbalance"] for k, x in rows.items() if k[0] == "slice"]
check("policies_differ", rows["mirror", 0]["tokens_per_second"] == rows["slice", 0]["tokens_per_second"]
      and rows["expert", 0]["imbalance"] > slices[0] >= 1 and rows["interleave", 0]["imbalance"] == 1, rows)
check("mirrors_cost_memory", rows["mirror", 0]["node_bytes"] > 1.6 * rows["slice", 0]["node_bytes"])
status, out, err = run("numa", M1, "--predict", "--topology", TWO, "--read", "200", "--ctx", "0")
check("arithmetic_is_shown", status == 0 and b"ms weights" in out and b"880 barriers = 5.28 ms" in out, out)
p = ask("numa", M1, "--predict", "--topology", "node:8(memory=1073741824) core:16 pu:1", "--read", "90", "--remote",
        "0.4", "--sync", "3", "--nodes", "1,2,8", "--policy", "slice,interleave")
x = [x for x in p["expected"] if (x["nodes"], x["policy"], x["position"]) == (8, "interleave", 0)][0]
check("eight_nodes", near(x["away"], 1 / 8 + 7 / 8 / 0.4) and p["remote_by"] == "given" and p["read_gbs"] == 720, x)
check("no_room_is_seen", x["fits"] is False)
one = [x for x in p["expected"] if x["nodes"] == 1 and x["position"] == 0]
check("one_node_is_one_policy", len(one) == 1 and one[0]["times_one_node"] == 1, one)
same = ask("plan", M1, "--topology", TWO, "--bandwidth", "400", "--gemm", "100000000", "--numa", "interleave")
check("plan_has_the_same_model", same["nodes"] == 2 and same["policy"] == "interleave" and same["threads"] == 8 and
      near(same["decode"][0]["tokens_per_second"] * (1 / rows["interleave", 0]["tokens_per_second"] - 880 * 6e-6), 1, 1e-3), same)
check_usage("plan_needs_rates", run("plan", NANO, "--topology", TWO), "--bandwidth and --gemm")
check_usage("numa_needs_rates", run("numa", NANO, "--predict", "--topology", TWO), "--read")
check_usage("sweeps_are_here", run("numa", M, "--topology", TWO), "--predict or --imbalance")
check_usage("one_of_both", run("numa", M, "--predict", "--imbalance"), "one of them")
for option, value in [("--nodes", "0"), ("--nodes", "1,"), ("--threads", "x"), ("--policy", "slices"), ("--pages", ""),
                      ("--ctx", "1;2"), ("--nodes", ",".join(map(str, range(1, 18)))), ("--nodes", "99999999999999999999")]:
    check_usage(f"list_{option[2:]}_{value[:6]}", run("numa", M, option, value), option, "with commas between" if value else "expected LIST")
help_text = " ".join(run("numa", "--help")[1].decode().split())
check("lists_have_all_names", ", ".join(choices("--numa")) in help_text and ", ".join(choices("--pages")) in help_text, help_text)
check_error("bad_topology", run("numa", NANO, "--predict", "--topology", "nonsense", "--read", "9"), "nonsense")
broken = path("broken.xml")
open(broken, "w").write(open(TWO).read()[:2000])
check_error("broken_xml", run("numa", NANO, "--predict", "--topology", broken, "--read", "9"), "topology")
check_error("too_many_nodes", run("numa", NANO, "--predict", "--topology", TWO, "--read", "9", "--nodes", "3"), "3", "2")
p = ask("numa", M1, "--predict", "--topology", "tests/sys/topologies/cpuset.xml", "--read", "100", "--nodes", "1,2", "--policy",
        "slice", "--ctx", "0")
check("fewer_cores_read_less", p["read_gbs"] == 150 and [x["read_gbs"] for x in p["expected"]] == [50, 150] and
      2.5 < p["expected"][1]["times_one_node"] < 3, p)
d = ask("doctor", "--topology", "tests/sys/topologies/cpuset.xml")
check("doctor_describes", [n["cores"] for n in d["nodes"]] == [2, 4] and "memory not allowed" in d["topology"], d)

# imbalance
t = ask("numa", M1, "--imbalance", "--nodes", "2,12", "--ctx", "0,131072")
check("imbalance", [(c["nodes"], c["context"]) for c in t["cells"]] == [(2, 0), (2, 131072), (12, 0), (12, 131072)]
      and all(c["shared_pages"] == 0 and near(sum(f["share"] for f in c["phases"]), 1, 1e-4) for c in t["cells"]), t)
phase = {f["phase"]: f["imbalance"] for f in t["cells"][3]["phases"]}
check("imbalance_by_hand", near(phase["softmax q, k, v"], 14 * 12 / 160) and near(phase["lightning q, k, v, gate"], 43 * 12 / 512)
      and near(phase["lightning state"], 6 * 12 / 64) and near(phase["experts, down"], 1), phase)
out = run("numa", M1, "--imbalance")[1]
check("imbalance_is_listed", b"12 nodes: softmax q, k, v: 5.0 % of" in out and out.endswith(b"share: 0\n"), out)

# a sweep: two combinations, two contexts, one of which the model has no room for
C = path("sweep.csv")
S = path("sweep.svg")
CELLS = [M, "--csv", C, "--residency", "map", "-t", "1,2", "-n", "2", "-r", "1"]
SWEEP = [*CELLS, "--ctx", "0,16"]
status, out, err = numa(*CELLS, "--rounds", "1", "--svg", S, "--ctx", "0,16,9000000")
rows = list(csv.DictReader(open(C)))
check("sweep", status == 0 and len(rows) == 4 and b"context 9000000: left out" in err, (status, err, rows))
check("rows_say_how", all(r["topology"] and r["kernel"].startswith("Linux") and r["level"] and r["commit"] and
                          float(r["tok_s"]) > 0 and float(r["read_gbs"]) > 0 for r in rows), rows)
root = ET.parse(S).getroot()
check("drawing", root.tag.endswith("svg") and open(S).read().count("behind") == 2 and "NaN" not in open(S).read())
before = open(C, "rb").read()
start = time.time()
status, out, err = numa(*SWEEP, "--rounds", "1")
check("nothing_again", status == 0 and open(C, "rb").read() == before and time.time() - start < 3)
m = ask("numa", M, "--predict", "--csv", C, "--read", "10", "--ctx", "0")["measured"]
check("measured_beside_expected", len(m) == 4 and all(x["measured"] > 0 and x["expected"] > 0 for x in m), m)

# another commit, a damaged line, other columns: refused, and the file stays
check_error("other_commit", numa(*SWEEP, "--commit", "b"), "sweep.csv", "commit", "--force")
for name, text in [("line", before.replace(b",slice,", b",slices,", 1)), ("columns", b"a,b\n1,2\n"),
                   ("quote", before.replace(b'"AMD', b'"AMD"x', 1) if b'"AMD' in before else before.replace(b'","', b'"x,"', 1)),
                   ("empty", b"\n")]:
    open(C, "wb").write(text)
    check_error(f"damaged_{name}", numa(*SWEEP), "sweep.csv")
    check(f"kept_{name}", open(C, "rb").read() == text)
status, out, err = numa(M, "--csv", C, "--residency", "map", "-n", "2", "-r", "1", "--rounds", "1", "--force", "--commit", "b",
                        "-t", "1", "--ctx", "0")
check("anew", status == 0 and [r["commit"].split()[-1] for r in csv.DictReader(open(C))] == ["b"], err)
check_error("not_over_the_model", numa(M, "--csv", M), "same file as the input")
check_error("no_such_folder", numa(*SWEEP[:1], "--csv", path("no/x.csv"), *SWEEP[3:]), "x.csv")
check_error("nodes_not_here", numa(*SWEEP, "--nodes", "64"), "64")
check_error("no_model", numa(path("nothing"), "--csv", C), "nothing")

# killed at any moment, it goes on where it was
os.remove(C)
random.seed(5)
seen = []
for i in range(4):
    p = subprocess.Popen([FULGUR, "numa", *SWEEP, "--rounds", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                         preexec_fn=little_memory)
    time.sleep(random.uniform(0.1, 1.2))
    p.send_signal(signal.SIGKILL if i < 3 else signal.SIGINT)
    status = p.wait(60)
    now = list(csv.DictReader(open(C))) if os.path.exists(C) else []
    check(f"kept_after_kill_{i}", now[:len(seen)] == seen, (seen, now))
    seen = now
check("interrupted", status in (0, 1, 130), status)
status, out, err = numa(*SWEEP, "--rounds", "2")
rows = list(csv.DictReader(open(C)))
keys = [(r["round"], r["threads"], r["context"]) for r in rows]
check("resumed", status == 0 and rows[:len(seen)] == seen and len(rows) == len(set(keys)) == 8, keys)
check("nothing_left_behind", sorted(f for f in os.listdir(os.path.dirname(C)) if "sweep" in f and len(f) > 9) == [])
# what is refused before anything is measured, or at once
SWEEP = ["numa", M, "--nodes", "1", "-t", "1", "--policy", "slice,slice", "--pages", "small", "-n", "1", "-r", "1",
         "--rounds", "1"]
ONE = path("one.csv")
status, _, err = run(*SWEEP, "--csv", ONE)
lines = open(ONE).read().splitlines(True)
check("one_cell", status == 0 and len(lines) == 2, err)
check_error("one_file_for_both", run(*SWEEP, "--csv", ONE, "--svg", ONE), "expected two files")
check_error("no_folder", run(*SWEEP, "--csv", ONE, "--svg", path("none/a.svg")), "expected a folder to write to")
check("csv_is_kept", open(ONE).read() == "".join(lines))
open(ONE, "w").write("".join(lines) + lines[1])
check_error("measured_twice", run(*SWEEP, "--csv", ONE), "line 3: what line 2 has already")
open(ONE, "w").write(lines[0] + lines[1][:40])
check("cut_line_is_measured_again", run(*SWEEP, "--csv", ONE)[0] == 0 and len(open(ONE).readlines()) == 2)
os.mkfifo(path("fifo"))
check_error("fifo", run("doctor", "--topology", path("fifo"), timeout=20), "no plain file")
check_error("too_many", run("doctor", "--topology", "node:2 core:1000000 pu:1", timeout=20), "too many CPUs")
for text in ("9000 9000", "core:0x4000 pu:1", "node:2(memory=1GB) core:4097 pu:1"):
    check_error(f"too_many_{text[:5]}", run("doctor", "--topology", text, timeout=20), "too many CPUs")
for text, nodes in (("node:8 core:1024 pu:1", 8), ("core:3000 pu:1", 1), ("pack:2 node:2(memory=1GB) core:130 pu:2", 4)):
    start = time.time()
    cores = [n["cores"] for n in ask("doctor", "--topology", text)["nodes"]]
    check(f"side_by_side_{nodes}", cores == [sum(cores) // nodes] * nodes and sum(cores) in (8192, 3000, 520)
          and time.time() - start < 5, (cores, time.time() - start))
# refused before anything is printed or measured, or told that it is of no use
for name, args, words in [
        ("no_rows", ["--predict", "--csv", path("none/x.csv")], ["x.csv: no such file"]),
        ("rows_of_a_model", [NANO, "--predict", "--csv", ONE], ["not a model file"]),
        ("context", ["--predict", "--ctx", "0,99999999"], ["ctx: 99999999", "32768"]),
        ("nodes", ["--predict", "--nodes", "1,64"], ["nodes: 64"]),
        ("imbalance_context", ["--imbalance", "--ctx", "99999999"], ["ctx: 99999999", "32768"])]:
    args = args if args[0] == NANO else [M, *args]
    result = run("numa", *args, *(["--read", "10"] if "--predict" in args else []))
    check_error(f"early_{name}", result, *words)
    check(f"nothing_printed_{name}", result[1] == b"", result[1])
for option, act in [("--svg", "--predict"), ("--threads", "--predict"), ("--force", "--predict"), ("--csv", "--imbalance"),
                    ("--read", "--imbalance"), ("--recipe", "-q")]:
    value = [] if option == "--force" else ["1"]
    check_usage(f"no_use_{option[2:]}", run("numa", M, act, option, *value), option, "of no use here")
check_usage("rows_are_of_here", run("numa", M, "--predict", "--topology", TWO, "--read", "9", "--csv", ONE), "no --topology")
IDS = path("ids")
open(IDS, "w").write("5 6")
for name, args in [("run", ["-p", "a", "-n", "1"]), ("logits", ["--ids", IDS, "--out", path("l")]), ("info", ["--placement"])]:
    check_error(f"no_such_nodes_{name}", run(name, M, *args, "--nodes", "64"), "nodes: 64, expected at most")
for name, option in [("bench", "--csv"), ("logits", "--out")]:
    result = run(name, M, *(["--ids", IDS] if name == "logits" else []), option, path("none/x"))
    check_error(f"no_folder_{name}", result, "none/x", "expected a folder to write to")
    check(f"nothing_done_{name}", result[1] == b"", result[1])
shown = run("numa", M1, "--imbalance", "--topology", TWO, "--ctx", "0", "--json")[1]
check("nodes_of_a_topology", [c["nodes"] for c in json.loads(shown)["cells"]] == [2], shown)

# a copy takes its room once, whether or not a card could have held a part of it (here is none): up to the same limit it is
# refused, in one line
def refused(*args):
    """Limits of address space, in MiB, within which a copy is said not to fit."""
    full = []
    for most in range(40, 124, 4):
        limit = lambda most=most: resource.setrlimit(resource.RLIMIT_AS, (most << 20, most << 20))
        out = run("run", M, "-p", "a", "-n", "1", "-t", "1", "--residency", "copy", "-q", "--no-sandbox", *args, preexec=limit)
        full += [most] if out[0] == 1 and b"a copy takes" in out[2] else []
    return full


alone, maybe = refused("--gpu", "off"), refused()
check("copy_takes_its_room_once", len(alone) > 2 and abs(alone[-1] - maybe[-1]) <= 4, (alone, maybe))
finish()
