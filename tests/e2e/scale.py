#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checkpoints in the release's layout, and conversions on a small disk, from the command line."""
import json
import os
import shutil
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import puppet  # noqa: E402
from e2e import FULGUR, check, check_error, finish, path, report, run  # noqa: E402

SYNTH = "scripts/synth_checkpoint.py"
INDEX = "model.safetensors.index.json"
RELEASE = os.path.join(os.environ.get("FULGUR_SHARED", "../shared"), "m1-release", INDEX)
SHAPE = ["--layers", "9", "--experts", "3", "--hidden", "128", "--ffn", "192", "--heads", "2", "--kv-heads", "1",
         "--head-dim", "64", "--vocab", "500", "--groups", "4,7"]


def synth(name, *args):
    return subprocess.run([sys.executable, SYNTH, path(name), *args], capture_output=True, check=True).stdout


def index(name):
    with open(name, encoding="utf-8") as f:
        return json.load(f)


def bytes_of(name):
    with open(path(name), "rb") as f:
        return f.read()


def folder(name):
    return {n: bytes_of(f"{name}/{n}") for n in sorted(os.listdir(path(name)))}


# the rules give the release's index, key by key and in order
if os.path.exists(RELEASE):
    want = index(RELEASE)
    synth("rules", "--index-only")
    got = index(path("rules/" + INDEX))
    check("layout_is_the_release", list(got) == list(want) and got["metadata"] == want["metadata"]
          and list(got["weight_map"].items()) == list(want["weight_map"].items()))
    synth("rules", "--index-only", "--groups", "20,40,61")
    check("control_other_groups", index(path("rules/" + INDEX))["weight_map"] != want["weight_map"])
    synth("copied", "--index-only", "--index", RELEASE)
    check("layout_from_an_index", index(path("copied/" + INDEX))["weight_map"] == want["weight_map"])
else:
    report("skip", "layout_is_the_release", f"{RELEASE} is absent")

# small ones: the same layout rules, the same bytes for a seed
synth("small", *SHAPE)
small = folder("small")
order = list(index(path("small/" + INDEX))["weight_map"])
experts = [n for n in order if ".experts." in n and n.endswith(".w1.weight")]
check("small_is_expert_major", [tuple(int(n.split(".")[i]) for i in (2, 5)) for n in experts]
      == [(layer, e) for group in ((0, 4), (4, 7), (7, 9)) for e in range(3) for layer in range(*group)], experts)
check("small_head_follows_expert_0", order.index("lm_head.weight") < order.index(experts[-2]), order)
synth("again", *SHAPE)
check("synth_is_reproducible", folder("again") == small)
synth("again", *SHAPE, "--seed", "1")
check("synth_has_seeds", folder("again") != small)
synth("like", *SHAPE, "--index", path("small/" + INDEX))
check("synth_like_an_index", folder("like") == small)
puppet.make(path("words"), [])
shutil.copy(path("words/tokenizer.json"), path("small"))  # without one no shard is deleted

# conversion: dry run, jobs, deletion, arrival
status, out, err = run("convert", path("small"), path("a.fulgur"), "--json")
done = json.loads(out)
check("convert", status == 0 and b"good" in run("verify", path("a.fulgur"))[1], err)
a = bytes_of("a.fulgur")
os.mkdir(path("empty"))
status, out, err = run("convert", path("small"), path("empty/x.fulgur"), "--dry-run", "--json")
plan = json.loads(out)
check("dry_run", status == 0 and os.listdir(path("empty")) == [] and plan["fits"]
      and all(plan[k] == done[k] for k in ("source_bytes", "file_bytes", "tensors", "bits_per_weight")), out)
check("dry_run_parts", sum(p["tensors"] for p in plan["parts"]) == done["tensors"], plan)
if "asan" not in FULGUR:  # which takes memory of its own
    check("dry_run_memory", plan["memory_bytes"] >= done["peak_rss_bytes"], (plan["memory_bytes"], done))
status, out, err = run("convert", path("small"), path("empty/x.fulgur"), "--dry-run")
check("dry_run_text", status == 0 and b"it fits" in out and b"expert down" in out and os.listdir(path("empty")) == [], out)
status, out, err = run("convert", path("small"), path("empty/x.fulgur"), "--dry-run", "--recipe", path("none"))
check_error("dry_run_refuses", (status, out, err), "none")
status, out, err = run("convert", path("small"), path("b.fulgur"), "--jobs", "1", "--force")
check("jobs", status == 0 and bytes_of("b.fulgur") == a, err)

shutil.copytree(path("small"), path("spent"))
status, out, err = run("convert", path("spent"), path("b.fulgur"), "--delete-consumed", "--force")
check("delete_consumed", status == 0 and b"deleted" in out and bytes_of("b.fulgur") == a
      and sorted(os.listdir(path("spent"))) == ["config.json", INDEX, "tokenizer.json"], out + err)
check_error("spent_folder", run("convert", path("spent"), path("c.fulgur"), "--delete-consumed"), "No such file")


def arrive():
    for name in sorted(small, reverse=True):
        if not name.endswith(".safetensors"):
            continue
        time.sleep(0.25)  # the last one comes when the program surely waits, on a busy machine too
        with open(path("spent/" + name + ".tmp"), "wb") as f:
            f.write(small[name])
        os.utime(path("spent/" + name + ".tmp"), (1e9, 1e9))  # as downloads that keep the server's time
        os.rename(path("spent/" + name + ".tmp"), path("spent/" + name))


arrival = threading.Thread(target=arrive)
arrival.start()
status, out, err = run("convert", path("spent"), path("b.fulgur"), "--delete-consumed", "--wait-for-shards", "--json", "--force")
arrival.join()
check("wait_for_shards", status == 0 and b"waiting for model-00000" in err and bytes_of("b.fulgur") == a
      and sorted(os.listdir(path("spent"))) == ["config.json", INDEX, "tokenizer.json"], out + err)
check("wait_reports", json.loads(out)["shards_deleted"] == plan["shards"], out)
finish()
