#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The card's options with a driver that is none (tests/emulate/cuda): what the program opens and when, what it
says of each fault, and that nothing is lost; doctor and plan."""
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import e2e
from e2e import FULGUR, NANO, check, check_error, check_usage, finish, nano, path, report, run

M, IDS, LOG = path("nano.fulgur"), path("ids.txt"), path("log")
check("model", nano(M) == 0)
open(IDS, "w").write(" ".join(str(i) for i in range(200, 212)))
DRIVER = os.path.abspath(os.path.join(os.path.dirname(FULGUR), "fakecuda"))
needed = subprocess.run(["ldd", FULGUR], capture_output=True, text=True).stdout
check("nothing_of_cuda_is_linked", "libc.so" in needed and not re.search("cuda|nv", needed), needed)
if not os.path.exists(os.path.join(DRIVER, "libcuda.so.1")):
    report("skip", "driver", "not built")
    finish()


# beside the program lies what it looks for where it was built without nvcc
for source in (FULGUR, os.path.join(DRIVER, "fulgur-cuda.fatbin")):
    shutil.copy(source, path(os.path.basename(source)))
e2e.FULGUR = path(os.path.basename(FULGUR))


def fake(settings="", **more):
    """The environment that has the driver, with these faults."""
    if os.path.exists(LOG):
        os.remove(LOG)
    return {"LD_LIBRARY_PATH": DRIVER, "FULGUR_FAKE_CUDA": ",".join(filter(None, [settings, "log=" + LOG])), **more}


def loaded():
    return os.path.exists(LOG)


# ---- no driver: silence, or one line to who asked ----
try:
    ctypes.CDLL("libcuda.so.1")
    report("skip", "no_driver", "there is one here")
    finish()
except OSError:
    pass
RUN = ["run", M, "-p", "Once upon a time", "-n", "8", "--temp", "0"]
plain = run(*RUN, "--gpu", "off")
check("off", plain[0] == 0 and b"gpu" not in plain[2], plain)
status, out, err = run(*RUN)
check("auto_without_a_driver_is_silent", (status, out) == plain[:2] and b"gpu" not in err, err)
check_error("a_number_without_a_driver", run(*RUN, "--gpu", "0"), "gpu 0: no driver", "try --gpu off")
for command in (["chat", M, "-p", "a", "-n", "2"], ["score", M, "LICENSE", "--gpu-mem", "4G"], ["bench", M, "-n", "1"],
                ["logits", M, "--ids", IDS, "--out", path("no.f32")]):
    check_error(f"number.{command[0]}", run(*command, "--gpu", "1"), "gpu 1: no driver")
check("nothing_is_left", not os.path.exists(path("no.f32")))
check_usage("not_a_card", run(*RUN, "--gpu", "first"), "--gpu: first, expected auto, off or the number of a card")
check_usage("no_size", run(*RUN, "--gpu-mem", "much"), "--gpu-mem: much, expected a size")

# ---- when the driver is opened ----
PLAN = ["plan", M, "--bandwidth", "90", "--gemm", "2000", "--ram", "8G"]
for name, args in [("off", RUN + ["--gpu", "off"]), ("info", ["info", M]), ("verify", ["verify", M]), ("plan", PLAN),
                   ("spec", PLAN + ["--gpu-spec", "80GB,3TB/s,50GB/s"])]:
    status, out, err = run(*args, env=fake())
    check(f"not_opened.{name}", status == 0 and not loaded(), (status, err))
run(*RUN, env=fake("devices=0"))
check("opened_by_auto", loaded())  # the control of the five above

# ---- drivers and cards that cannot be used: auto goes on, a number does not ----
for name, settings, words, told in [
        ("no_card", "devices=0", "no card, says the driver", False),
        ("old", "version=11030", "driver 11.3, expected at least 11.4", True),
        ("mismatch", "init=803", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", True),
        ("small_sm", "sm=70", "sm_70, expected at least sm_80", True),
        ("no_memory", "bytes=4096", "out of memory", True),
        ("refused", "launch=1", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", True),
        ("faulty", "fault=1", "CUDA_ERROR_LAUNCH_FAILED", True),
        ("wrong", "wrong=1", "wrong numbers", True),
        ("silent", "hang=1", "no answer within 5000 ms", True)]:
    status, out, err = run(*RUN, env=fake(settings), timeout=60)
    lines = [x for x in err.decode().splitlines() if "gpu" in x]
    check(f"auto.{name}", (status, out) == plain[:2] and len(lines) == told and
          all(x.startswith("fulgur: gpu 0: ") for x in lines), err)
    check_error(f"number.{name}", run(*RUN, "--gpu", "0", env=fake(settings), timeout=60), "gpu 0: ", words)
    status, out, err = run(*RUN, "--json", env=fake(settings), timeout=60)
    check(f"json.{name}", status == 0 and b"gpu" not in err and json.loads(out), err)
check_error("second_of_one", run(*RUN, "--gpu", "1", env=fake()), "gpu 1: 1 card is here")

# ---- the same answers; a fault in the middle, and what is there till then stays ----
status, out, err = run(*RUN, "--gpu", "0", env=fake())
log = open(LOG).read()
check("same_text", (status, out) == plain[:2], (status, out, err))
check("graphs_and_nothing_left", re.search(r"graph launches [1-9]", log) and
      "left: memory 0, host 0, streams 0, events 0, graphs 0" in log, log)
for gpu in ("off", "0"):
    run("logits", M, "--ids", IDS, "--out", path(gpu + ".f32"), "--gpu", gpu, env=fake())
check("same_bits", open(path("off.f32"), "rb").read() == open(path("0.f32"), "rb").read())
for settings in ("fault=2", "fault=60", "fault=300", "launch=3", "launch=150", "oom=3", "bytes=3000000"):
    status, out, err = result = run(*RUN, "--gpu", "0", env=fake(settings), timeout=100)
    check(f"in_the_middle.{settings}.text", plain[1].startswith(out.rstrip(b"\n")), out)
    check_error(f"in_the_middle.{settings}", (status, out, err), "gpu 0: ")
    out = path("broken.f32")
    check_error(f"in_the_middle.{settings}.file", run("logits", M, "--ids", IDS, "--out", out, "--gpu", "0", env=fake(settings)), "gpu 0: ")
    check(f"in_the_middle.{settings}.nothing_half_written", not os.path.exists(out))

if os.environ.get("FULGUR_TEST_LONG"):  # those that wait for somebody who does not come
    for settings, words in [("lose=3", "no answer for 20 seconds"), ("hang=100", "no answer for a minute"),
                            ("hang=300", "no answer for 20 seconds")]:
        check_error(f"in_the_middle.{settings}", run(*RUN, "--gpu", "0", env=fake(settings), timeout=200), "gpu 0: ", words)

# ---- doctor and plan ----
d = run("doctor", "--dir", M, "-t", "1", "--json", env=fake("bytes=8000000"))
d = json.loads(d[1])
check("doctor", len(d["gpus"]) == 1 and d["gpus"][0].get("sm") == 90 and d["gpus"][0]["to_gbs"] > 0 and
      d["gpu_error"] == "", d["gpus"])
d = json.loads(run("doctor", "--dir", M, "-t", "1", "--json", env=fake("devices=2,fault=2"))[1])
check("doctor_of_a_fault", len(d["gpus"]) == 2 and "CUDA_ERROR_LAUNCH_FAILED" in d["gpus"][1].get("error", ""), d["gpus"])
d = json.loads(run("doctor", "--dir", M, "-t", "1", "--json")[1])
check("doctor_without", d["gpus"] == [] and d["gpu_error"] == "no driver", d["gpu_error"])
p = json.loads(run(*PLAN, "--json", "--gpu-spec", "80GB,3.3TB/s,55GB/s")[1])
check("plan", p["gpu"]["fits"] and p["gpu"]["residents"] == p["gpu"]["experts"] == p["experts"], p["gpu"])
check("plan_without", "gpu" not in json.loads(run(*PLAN, "--json")[1]))
p = json.loads(run(*PLAN, "--json", "--gpu-spec", "80GB,3.3TB/s,55GB/s", "--gpu-mem", "1G")[1])
check("plan_of_little", p["gpu"]["bytes"] == 1 << 30 and not p["gpu"]["fits"] and
      p["gpu"]["decode"][0]["tokens_per_second"] == 0, p["gpu"])
check_error("plan_of_nonsense", run(*PLAN, "--gpu-spec", "80GB"), "gpu-spec: 80GB, expected memory", "80GB,3.3TB/s,55GB/s")
check_error("plan_of_a_card_that_is_not", run(*PLAN, "--gpu"), "gpu 0: no driver")
finish()
