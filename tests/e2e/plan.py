#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""plan and doctor: sizes against real files, options, the forecast's arithmetic done again, errors."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import FULGUR, NANO, check, check_error, check_usage, finish, nano, path, run

M = path("nano.fulgur")
GIVEN = ["--bandwidth", "50GB/s", "--gemm", "500", "--json", "-t", "2"]


def plan(*args):
    status, out, err = run("plan", *args)
    try:
        return json.loads(out)
    except ValueError:
        check("json", False, (status, out, err))
        return {}


# sizes: before the conversion, of the file, and the file itself
before = plan(NANO, *GIVEN)
nano(M)
after = plan(M, *GIVEN)
info = json.loads(run("info", M, "--json")[1])
check("size_is_exact", before["exact"] is True and before["file_bytes"] == os.path.getsize(M) == after["file_bytes"], before)
check("bytes_per_token", before["bytes_per_token"] == after["bytes_per_token"] == info["bytes_per_token"], before)
check("other_type_other_size", plan(NANO, "--type", "q8", *GIVEN)["file_bytes"] != before["file_bytes"])
check("recipe", plan(NANO, "--recipe", "fast", *GIVEN)["bytes_per_token"] < before["bytes_per_token"])
alone = plan(f"{NANO}/config.json", *GIVEN)
check("config_alone", alone["exact"] is False and alone["experts_bytes"] == before["experts_bytes"], alone)

# README's table: the figures are those of its options, in so many digits
rows = re.findall(r"^\| \w+: `(.*?)` \| ([\d.]+) tok/s \| (\d+) to (\d+) tok/s \|$", open("README.md").read(), re.M)
check("readme_rows", len(rows) == 3, rows)
for options, decode, *prefill in rows:
    p = plan("m1", "--ctx", "32768", "--json", *options.split())
    have = p["decode"][-1]["tokens_per_second"], *sorted(x["tokens_per_second"] for x in p["prefill"])
    digits = [len(x.partition(".")[2]) for x in (decode, *prefill)]
    said = [round(x, n) for x, n in zip(have, digits)]
    check(f"readme_{options.split()[1]}", said == [float(x) for x in (decode, *prefill)], (options, have))
named = path("m1")
shutil.copy(f"{NANO}/config.json", named)  # what has the name goes before it
here = subprocess.run([os.path.abspath(FULGUR), "plan", "m1", *GIVEN], cwd=os.path.dirname(named), capture_output=True)
check("m1_that_is_there", json.loads(here.stdout)["expert_bytes"] == before["expert_bytes"] != p["expert_bytes"])

# a folder without any shard, in which nothing is written
empty = path("no-shards")
os.mkdir(empty)
for name in ["config.json", "model.safetensors.index.json", "tokenizer.json"]:
    shutil.copy(f"{NANO}/{name}", empty)
bare = plan(empty, *GIVEN)
check("no_weights_needed", bare["exact"] is True and bare["file_bytes"] == before["file_bytes"] - 288 # one key less
      and bare["experts_bytes"] == before["experts_bytes"], bare)
check("nothing_is_written", len(os.listdir(empty)) == 3, os.listdir(empty))
os.remove(f"{empty}/model.safetensors.index.json") # which shards there will be is not known then
check("no_index_no_exact_size", plan(empty, *GIVEN)["exact"] is False)

# resident: bytes over 95 % of the bandwidth, and 4 % for the rest
d = after["decode"][0]
seconds = (after["bytes_per_token"] / 47.5e9 + d["state_bytes"] / 50e9) * 1.04


def near(a, b, rel=0.01):
    return abs(a - b) <= rel * abs(b)


check("decode_resident", after["resident"] and near(d["tokens_per_second"] * seconds, 1.0), (d, seconds))
check("decode_wrong_bytes", not near(d["tokens_per_second"] * seconds * 1.2, 1.0))

# streaming: budgets from the plan itself
least, every = after["min_ram_bytes"], after["all_ram_bytes"]
check("min_ram", every - least == after["experts_bytes"] - 3 * after["expert_bytes"], after)
tight = plan(M, *GIVEN, "--ram", str(least), "--disk", "100MB/s")
check("streams", tight["fits"] and not tight["resident"] and tight["slots"] == 3, tight)
t = tight["decode"][0]
check("misses", tight["misses_per_token"] == 16, tight)
check("disk_bytes", near(t["disk_bytes"], tight["misses_per_token"] * tight["expert_bytes"]), t)
check("serial", near(1 / t["serial"] - 1 / t["resident"], t["disk_bytes"] / 100e6), t)
check("order", t["serial"] <= t["tokens_per_second"] <= t["bound"] <= t["resident"], t)
check("resident_again", plan(M, *GIVEN, "--ram", str(every))["resident"] is True)
none = plan(M, *GIVEN, "--ram", str(least - 1))
check("too_small", none["fits"] is False and none["slots"] == 0 and none["decode"][0]["tokens_per_second"] == 0, none)
text = run("plan", M, "--bandwidth", "50", "--gemm", "500", "--ram", "1M")[1]
check("too_small_is_said", b"it does not fit" in text, text)
check("ram_units", [plan(M, *GIVEN, "--ram", r)["fits"] for r in ("20M", "100MB", "1G", "1GiB", str(every))]
      == [False, False, True, True, True])
check("context", plan(M, *GIVEN, "-c", "256")["cache_bytes"] < after["cache_bytes"])
check("cache_type", plan(M, *GIVEN, "--cache-type", "f32")["cache_bytes"] > 3 * after["cache_bytes"])
check("nodes", plan(M, *GIVEN, "--nodes", "3")["imbalance"] > 1.0 and after["imbalance"] == 1.0)
small = path("small")
os.mkdir(small)
shutil.copy(f"{NANO}/config.json", small)
disk = plan(small, "--bandwidth", "50GB/s", "--gemm", "500", "--json", "--ram", str(least))
check("disk_is_measured", disk["rates"]["disk_gbs"] > 0 and os.listdir(small) == ["config.json"], disk)

# rates of this machine
status, out, err = run("plan", M)
check("measured", status == 0 and b"GMAC/s" in out and b"(given)" not in out and b"everything fits" in out, out + err)
check("model_option", run("plan", "-m", M, *GIVEN)[0] == 0)

# mistakes
check_error("missing", run("plan", path("nothing")), "nothing")
check_error("not_a_model", run("plan", f"{NANO}/tokenizer.json"), "tokenizer.json")
check_error("type_of_a_file", run("plan", M, "--type", "q8"), "types of its own")
check_error("unknown_type", run("plan", NANO, "--type", "q3"), "q3")
check_error("context_too_long", run("plan", M, *GIVEN, "-c", "99999999"), "context")
check_usage("unknown_cpu", run("plan", M, "--cpu", "abacus"), "--cpu: abacus, expected auto, scalar")
for bad in ("", "x", "-1G", "0", "1X", "1Gx", "1e999G", "nan", "inf", "0x10", "99999999T", "1G/s"):
    status, out, err = run("plan", M, *GIVEN, "--ram", bad)
    check(f"ram_{bad or 'empty'}", status == 2 and err.count(b"\n") == 1 and out == b"", (status, err))
for bad in ("", "GB/s", "-3", "0", "3GB/m", "3/s/s", "1" * 40):
    status, out, err = run("plan", M, *GIVEN, "--disk", bad)
    check(f"disk_{bad[:6] or 'empty'}", status == 2 and err.count(b"\n") == 1, (status, err))
cut = path("cut.fulgur")
open(cut, "wb").write(open(M, "rb").read()[:100000])
check_error("truncated", run("plan", cut), "cut.fulgur")

# doctor
room = path("room")
os.mkdir(room)
start = time.time()
status, out, err = run("doctor", "--dir", room, "--json")
took = time.time() - start
r = json.loads(out) if status == 0 else {}
check("doctor", status == 0 and err == b"" and r["read"][-1]["anonymous_gbs"] > 0 and r["machine"]["levels"]["scalar"], err)
check("doctor_disk", r["disk"]["error"] == "" and len(r["disk"]["reads"]) >= 6 and all(x["gbs"] > 0 for x in r["disk"]["reads"]), r)
check("doctor_time", took < 60, took)  # about 15 s on a quiet machine with a disk of 0.5 GB/s or more
check("doctor_leaves_nothing", os.listdir(room) == [])
# a shell that starts the suite in the background has it ignore interrupts
p = subprocess.Popen([FULGUR, "doctor", "--dir", room], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                     preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
time.sleep(2)
seen = os.listdir(room)
p.send_signal(signal.SIGINT)
p.communicate(timeout=60)
check("doctor_interrupted", p.returncode == -signal.SIGINT and os.listdir(room) == [] and seen == [], p.returncode)
status, out, err = run("doctor", "--dir", path("no-folder"), "-t", "1")
check("doctor_without_disk", status == 0 and b"disk was not measured" in out, out + err)
status, out, err = run("doctor", "--dir", M, "-t", "1", "--json")
r = json.loads(out) if status == 0 else {}
check("doctor_file", status == 0 and r["disk"]["file_bytes"] == os.path.getsize(M) and r["disk"]["write_gbs"] == 0, err)
check("doctor_operand", run("doctor", "x")[0] == 2)
check("doctor_help", b"Example:" in run("doctor", "--help")[1])
finish()
