#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""convert --split and synth --split: one model in several files gives the answers of the one file."""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import FULGUR, NANO, check, check_error, finish, nano, path, report, run

ONE, IDS = path("one.fulgur"), path("ids.txt")
random.seed(5)
open(IDS, "w").write(" ".join(str(random.randrange(4096)) for _ in range(50)))
drive = [path("d%d" % i) for i in range(3)]
for d in drive:
    os.mkdir(d)
nano(ONE)


def logits(m, *args):
    status, _, err = run("logits", m, "--ids", IDS, "--out", path("l.f32"), *args)
    return open(path("l.f32"), "rb").read() if status == 0 else err


want = logits(ONE)
check("unsplit_has_logits", len(want) == 50 * 4096 * 4)
for n in (2, 3):
    m = path("m%d.fulgur" % n)
    status, out, err = run("convert", NANO, m, "--split", ",".join(drive[:n - 1]))
    check(f"convert.{n}", status == 0 and b"split: parts 1" in out, err)
    check(f"files.{n}", all(os.path.isfile(f"{drive[k - 1]}/m{n}.fulgur.{k}") and os.path.islink(f"{m}.{k}")
                            for k in range(1, n)))
    check(f"same_length.{n}", os.path.getsize(m) == os.path.getsize(ONE))
    used = [os.stat(f).st_blocks * 512 for f in [m] + [f"{m}.{k}" for k in range(1, n)]]
    check(f"sparse.{n}", sum(used) < os.stat(ONE).st_blocks * 512 + (256 << 10) and min(used) > 1 << 20, used)
    check(f"mapped.{n}", logits(m) == want)
    for io in ("auto", "pread"):
        check(f"ram.{n}.{io}", logits(m, "--ram", "1G", "--io", io) == want)
        check(f"little_ram.{n}.{io}", logits(m, "--ram", "160M", "--io", io) == want)
    check(f"verify.{n}", run("verify", m)[0] == 0)
    out = run("info", m)[1].decode()
    check(f"info.{n}", f"parts       {m}, {m}.1" in out and out.count("parts  ") == 1, out)
    check(f"info_json.{n}", json.loads(run("info", m, "--json")[1])["files"] == n)
check("info_unsplit", b"parts  " not in run("info", ONE)[1])

# control: the weights of a part matter, mapped and read
shutil.copy(drive[0] + "/m2.fulgur.1", path("whole"))
with open(drive[0] + "/m2.fulgur.1", "r+b") as f:
    f.seek(8 << 20)
    f.write(bytes(24 << 20))
spoilt = [logits(path("m2.fulgur")), logits(path("m2.fulgur"), "--ram", "1G")]
check("control", spoilt[0] == spoilt[1] != want)
shutil.copy(path("whole"), drive[0] + "/m2.fulgur.1")

# what is there is not written over, and what is missing or another's is named
M = path("m2.fulgur")
P = drive[0] + "/m2.fulgur.1"
check_error("not_again", run("convert", NANO, M, "--split", drive[0]), M, "exists already")
check_error("parts_not_again", run("convert", NANO, M, "--split", drive[0], "--force"), P, "there already")
check_error("no_folder", run("convert", NANO, path("x.fulgur"), "--split", drive[0] + "," + path("none")), "no folder",
            path("none"))
check("nothing_left", not [f for d in drive + [path("")] for f in os.listdir(d) if f.startswith("x.")])
for bad in ("", "a,,b", ",".join(["d"] * 16)):
    check(f"usage.{len(bad)}", run("convert", NANO, path("x.fulgur"), "--split", bad)[0] == 2)
os.rename(P, P + ".away")
check_error("missing", run("verify", M), M + ".1: missing", "part 1 of 2 of " + M)
check_error("missing.ram", run("logits", M, "--ids", IDS, "--out", path("l"), "--ram", "1G"), M + ".1: missing")
shutil.copy(drive[0] + "/m3.fulgur.1", P)
check_error("foreign", run("info", M), M + ".1: part 1 of 3", "part 1 of 2")
os.remove(P)
os.mkdir(path("elsewhere"))
shutil.move(P + ".away", path("elsewhere/part"))
os.remove(M + ".1")
os.symlink(path("elsewhere/part"), M + ".1")
check("moved", run("verify", M)[0] == 0 and logits(M, "--ram", "1G") == want)
check_error("part_as_model", run("info", M + ".1"), "a part of a split model")

for k, d in enumerate(drive[:2], 1):
    open(f"{d}/k.fulgur.{k}.part", "w").write("left by a killed run")
check_error("leftovers", run("synth", path("k.fulgur"), "--layers", "1", "--split", ",".join(drive[:2])),
            drive[0] + "/k.fulgur.1.part, " + drive[1] + "/k.fulgur.2.part: there already", "delete them")

# in the main file's own folder no link is needed; the plan counts each drive once
H = path("h.fulgur")
status, out, err = run("convert", NANO, H, "--split", path("") + "," + path(""), "--dry-run", "--json")
plan = json.loads(out)
check("dry_run", status == 0 and plan["need_bytes"] == plan["file_bytes"] and plan["fits"], out)
check_error("dry_run_unwritable", run("convert", NANO, H, "--split", "/proc", "--dry-run"),
            "/proc: cannot be written to, expected a folder for part 1")
out = run("convert", NANO, H, "--split", "/dev/shm" if os.path.isdir("/dev/shm") else path(""), "--dry-run")[1]
check("dry_run_text", b"part 1 " in out, out)
status, out, err = run("convert", NANO, H, "--split", os.path.dirname(H))
check("own_folder", status == 0 and os.path.isfile(H + ".1") and not os.path.islink(H + ".1"), err)
check("own_folder.logits", logits(H) == want)

# a conversion that could not name its parts: nobody else takes them away, and what it wrote last is read back
for d in ("src", "g", "other", "dg"):
    os.mkdir(path(d))
for f in os.listdir(NANO):
    shutil.copy(os.path.join(NANO, f), path("src"))
shards = sorted(f for f in os.listdir(path("src")) if f.endswith(".safetensors"))
os.rename(path("src/" + shards[-1]), path("late"))
G, PART = path("g/g.fulgur"), path("dg/g.fulgur.1.part")
args = ["convert", path("src"), G, "--split", path("dg"), "--delete-consumed"]
with subprocess.Popen([FULGUR, *args, "--wait-for-shards"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
    until = time.time() + 60
    while os.path.exists(path("src/" + shards[0])) and time.time() < until:  # deleted: behind a checkpoint
        time.sleep(0.05)
    open(path("dg/g.fulgur.1"), "w").close()
    os.rename(path("late"), path("src/" + shards[-1]))
    err = p.communicate()[1]
check("not_named", p.returncode == 1 and b"dg/g.fulgur.1: there already" in err and b"is kept" in err, err)
os.remove(path("dg/g.fulgur.1"))
size = os.path.getsize(PART)
for to in ("/proc", drive[0]):
    if to == drive[0]:
        open(to + "/g.fulgur.2", "w").write("mine")
    check_error("others_part." + os.path.basename(to),
                run("convert", NANO, path("other/g.fulgur"), "--split", path("dg") + "," + to), to + "/g.fulgur.2")
    check("others_part_stays." + os.path.basename(to), os.path.exists(PART) and os.path.getsize(PART) == size)
check("nothing_of_the_refused", os.listdir(path("other")) == [] and os.listdir("/proc").count("g.fulgur.2.part") == 0)
fd = os.open(PART, os.O_RDWR)
end = 0
while True:
    try:
        end = os.lseek(fd, os.lseek(fd, end, os.SEEK_DATA), os.SEEK_HOLE)
    except OSError:
        break
lost = os.pread(fd, 4096, end - 4096)
os.pwrite(fd, bytes(4096), end - 4096)
os.close(fd)
check("lost_something", lost != bytes(4096))
check_error("lost_at_the_end", run(*args), shards[-1], "No such file")
shutil.copy(os.path.join(NANO, shards[-1]), path("src"))
status, out, err = run(*args)
check("made_again", status == 0 and run("verify", G)[0] == 0 and logits(G) == want, err)

# drives of two kinds: a memory file system has no direct reads
if os.path.isdir("/dev/shm"):
    with tempfile.TemporaryDirectory(prefix="fulgur-e2e-", dir="/dev/shm") as shm:
        X = path("x.fulgur")
        status, out, err = run("convert", NANO, X, "--split", drive[2] + "," + shm)
        check("two_kinds", status == 0 and run("verify", X)[0] == 0, err)
        check("two_kinds.logits", logits(X) == logits(X, "--ram", "1G") == logits(X, "--ram", "1G", "--io", "pread") == want)
else:
    report("skip", "two_kinds", "no /dev/shm")

# calibrated: what is written is read while it grows
open(path("calib.txt"), "w").write("A fox met a crow, and one said to the other: it is late.\n" * 40)
calib = ["--calib", path("calib.txt"), "--threads", "2"]
run("convert", NANO, path("c1.fulgur"), *calib)
status, out, err = run("convert", NANO, path("c2.fulgur"), *calib, "--split", drive[2])
check("calibrated", status == 0 and logits(path("c1.fulgur")) == logits(path("c2.fulgur")) != want, err)

# experts larger than a chunk: damage is in one part, and the message says in which
config = json.load(open(os.path.join(NANO, "config.json")))
config.update(hidden_size=512, intermediate_size=8192, num_local_experts=4)
config["num_hidden_layers"] = 2
for key in ("attn_type_list", "layer_types"):
    if key in config:
        config[key] = config[key][:2]
json.dump(config, open(path("config.json"), "w"))
S, T = path("s.fulgur"), path("t.fulgur")
status, out, err = run("synth", S, "--shape", path("config.json"), "--split", drive[1])
check("synth", status == 0 and run("verify", S)[0] == 0, err)
run("synth", T, "--shape", path("config.json"))
check("synth.same", logits(S) == logits(T) != b"")
part = open(S + ".1", "r+b")
data = part.seek(0, os.SEEK_END)
at = os.lseek(part.fileno(), 1 << 20, os.SEEK_DATA) + (1 << 20) + 4096
part.seek(at)
byte = part.read(1)
part.seek(at)
part.write(bytes([byte[0] ^ 1]))
part.close()
check_error("damage", run("verify", S), "chunk", "block_sparse_moe.experts", " in part 1)")
finish()
