#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""fulgur carry: a model over many sticks and through a pipe, with everything that can go wrong on the way.
FULGUR_TEST_LONG=1: a synthetic model of 33 GB as well, or as large as the disk allows; carry.py GB: only one of so many."""
import hashlib
import os
import pty
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import FULGUR, NANO, check, check_error, check_usage, finish, nano, path, report, run

LONG = "FULGUR_TEST_LONG" in os.environ
SHIM = path("bad_stick.so")
subprocess.run(["gcc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-shared", "-fPIC", "tests/e2e/bad_stick.c", "-o", SHIM, "-ldl"],
               check=True)
MIB = 1 << 20
rand = random.Random(17)
M, STICK = path("m.fulgur"), path("stick")
nano(path("made.fulgur"))
open(path("made.fulgur.sig"), "w").write("untrusted comment: a signature goes along\n")


def fresh():
    """The sender's machine, an empty stick, the receiver's machine."""
    for d in ("from", "to", "stick"):
        shutil.rmtree(path(d), ignore_errors=True)
        os.mkdir(path(d))
    global M, OUT
    M, OUT = path("from/m.fulgur"), path("to/m.fulgur")
    # `cp` keeps holes and, unlike a link, makes a file of its own
    subprocess.run(["cp", "--sparse=always", path("made.fulgur"), M], check=True)
    shutil.copy(path("made.fulgur.sig"), M + ".sig")


def shim(**env):
    return {"LD_PRELOAD": SHIM, "STICK": os.path.realpath(STICK), **{k: str(v) for k, v in env.items()}}


def same(a=None, b=None):
    if large is not None and a is None:
        return hash_of(b or OUT) == large
    return all(open((a or path("made.fulgur")) + e, "rb").read() == open((b or OUT) + e, "rb").read() for e in ("", ".sig"))


large = None  # hash of a model that is there once


def hash_of(name):
    with open(name, "rb") as f:
        return hashlib.file_digest(f, "sha256").digest()


def used(folder):
    """Bytes that a folder takes of its disk."""
    return sum(os.stat(os.path.join(d, f)).st_blocks * 512 for d, _, names in os.walk(folder) for f in names)


def pieces():
    return sorted(f for f in os.listdir(STICK) if f.endswith(".piece"))


def blocks(name):
    _, _, first, n = name[:-6].split("-")
    return range(int(first, 16), int(first, 16) + int(n, 16))


def answer(name=None):
    """What carry.received says, or another list: {state: set of blocks}."""
    said = {"have": set(), "bad": set()}
    for line in open(name or os.path.join(STICK, "carry.received")):
        w = line.split()
        if w[0] in said:
            said[w[0]] |= set(range(int(w[1]), int(w[2])))
    return said


def hurt_three():
    """A bit of three pieces; their blocks."""
    bad = set()
    for f in rand.sample([f for f in pieces() if len(blocks(f)) > 1], 3):
        at = rand.randrange(len(blocks(f)))
        bad.add(blocks(f)[at])
        with open(os.path.join(STICK, f), "r+b") as p:
            head = int.from_bytes(p.read(16)[12:], "little")
            p.seek(head + at * MIB + 12345)
            byte = p.read(1)
            p.seek(-1, 1)
            p.write(bytes([byte[0] ^ 0x10]))
    return bad


# ---- as it should be: nine sticks and more, and everything that is left behind ----
fresh()
PACK, UNPACK = ["carry", "pack", M, STICK, "--piece", "2M"], ["carry", "unpack", STICK, "-o", path("to")]
SMALL = dict(STICK_BYTES=3_500_000)
DATA = int(re.search(r"blocks (\d+)", (run(*PACK, env=shim(**SMALL)), open(STICK + "/carry.manifest").read())[1]).group(1))
fresh()
trips, sizes = 0, []
while not os.path.exists(OUT) and trips < 30:
    trips += 1
    status, out, err = run(*PACK, env=shim(**SMALL))
    if status or not re.search(rb": %d of \d+ full, .*: (next stick|the last one)" % trips, out):
        check("pack", False, (out, err))
        break
    sizes.append(sum(os.path.getsize(os.path.join(STICK, f)) for f in os.listdir(STICK)))
    status, out, err = run(*UNPACK)
    if status:
        check("unpack", False, err)
        break
check("trips", 9 <= trips < 30 and max(sizes) <= 3_500_000 and same(), (trips, sizes))
check("sparse", used(path("to")) <= used(path("from")) and os.path.getsize(OUT) == os.path.getsize(M))
check("leaves_nothing", sorted(os.listdir(path("to"))) == ["m.fulgur", "m.fulgur.sig"], os.listdir(path("to")))
check("all_arrived", b"all of it has arrived" in run(*PACK)[1] and pieces() == [])
check("sender_keeps_all", same(M, path("made.fulgur")))
check("status", re.search(rb" (\S+ MB) arrived\n$", run("carry", "status", M)[1]) and run("carry", M)[1] == run("carry", "status", M)[1])
check_error("not_over_what_is_there", run(*UNPACK), "m.fulgur: exists already")
check_error("status_of_nothing", run("carry", "status", path("made.fulgur")), "not being carried")
check_error("no_stick", run("carry", "unpack", path("from")), "carry.manifest: no such file")
check_error("no_folder", run("carry", "pack", M, path("none")), "none: ", "folder")
check_usage("piece_too_large", run("carry", "pack", M, STICK, "--piece", "4G"), "--piece")
check_error("no_model", run("carry", "pack", path("made.fulgur.sig"), STICK), "made.fulgur.sig")


# ---- killed at 20 random points on each side, the sender's room given back as it goes ----
def carry(name, kills, piece="2M", most=3_500_000, holes=True):
    """Carries with --move, killed so often on each side; the largest rooms that were taken."""
    copy, top = used(path("from")) if large is None else size, {"from": 0, "to": 0, "both": 0}
    died = {"pack": 0, "unpack": 0}
    env = dict(STICK_BYTES=most, **({} if holes else {"NO_HOLES": 1}), **({} if large is None else {"HOME_BYTES": size}))
    pack, unpack = ["carry", "pack", M, STICK, "--piece", piece, "--move"], ["carry", "unpack", STICK, "-o", path("to"), "--move"]
    # of a large one a kill every so many MiB, so that all of them come before its end
    calls = {"pack": 40, "unpack": 20} if large is None else dict.fromkeys(("pack", "unpack"), size // MIB // kills)
    for trip in range(80):
        for what, args in (("pack", pack), ("unpack", unpack)):
            for attempt in range(10):
                n = rand.randrange(1, calls[what] + 1) if died[what] < kills and attempt < 8 else 0
                status, out, err = run(*args, env=shim(**env, DIE_AT=n, DIE_COUNT=path("count")), timeout=3600)
                a, b = used(path("from")), used(path("to"))
                top = {"from": max(top["from"], a), "to": max(top["to"], b), "both": max(top["both"], a + b)}
                if status == -signal.SIGKILL:
                    died[what] += 1
                    continue
                if status != 0:
                    check(name, False, (what, err))
                    return
                if large is None:
                    calls[what] = int(open(path("count")).read())
                break
            if large is not None:
                print(f"  trip {trip} {what}: killed {died}, {top}", flush=True)
            if os.path.exists(OUT) and not os.path.exists(OUT + ".carry"):
                check(name, same(), trip)
                check(name + ".killed", min(died.values()) >= kills, died)
                check(name + ".room", top["from"] <= 1.05 * copy and top["to"] <= 1.05 * copy
                      and top["both"] <= 1.05 * copy + most, (copy, top))
                run(*pack, env=shim(**env))
                check(name + ".freed", used(path("from")) < 0.05 * copy + 65536, used(path("from")))
                return
    check(name, False, "not there after 80 trips")


# ---- a large one: 33 GB over sticks of 6 GiB; with its copy and a stick it takes half as much again of the disk ----
def a_large_one(gb):
    global large, size, SMALL, PACK, UNPACK
    fresh()
    for f in (M + ".sig", path("made.fulgur")):
        os.remove(f)
    run("synth", M, "--layers", str(max(2, round(gb / 3.3))), "--force", timeout=3600)
    large, size = hash_of(M), used(path("from"))
    most = min(6 << 30, size * 6 // 33)
    # sender and receiver have one disk here, and what the one gives up the other may use
    SMALL = dict(STICK_BYTES=most, STICK_FILE=(1 << 32) - 1, HOME_BYTES=size)
    PACK = ["carry", "pack", M, STICK, "--move"]
    UNPACK = ["carry", "unpack", STICK, "-o", path("to"), "--move"]
    small_piece = ["--piece", str(max(2, most // 10 >> 20)) + "M"]
    half = dict(**SMALL, STICK_ZEROS=most // 2)
    check_error("large.fake_stick", run(*PACK, *small_piece, env=shim(**half), timeout=3600), "not there as they were written")
    check("large.fake_stick_first_half", 3 <= len(pieces()) <= 5, pieces())
    status, out, err = run(*UNPACK, env=shim(**half, STICK_COLD=1), timeout=3600)
    if not check("large.fake_stick_unpack", status == 0 and answer()["bad"] == set(), err):
        return
    run(*PACK, *small_piece, env=shim(**SMALL), timeout=3600)
    bad = hurt_three()
    status, out, err = run(*UNPACK[:-1], env=shim(**SMALL), timeout=3600)
    check("large.damaged", status == 0 and b" damaged" in out and answer()["bad"] == bad, (bad, answer()["bad"], err))
    status, out, err = run(*PACK, *small_piece, env=shim(**SMALL), timeout=3600)
    check("large.sent_again", b"arrived damaged, sent again" in out and bad < {b for f in pieces() for b in blocks(f)}, (out, err))
    carry("large", 20, piece="4095M", most=most)


if len(sys.argv) > 1:  # nothing else
    a_large_one(int(sys.argv[1]))
    finish()

fresh()
carry("killed", 20)
fresh()
carry("cut_from_the_end", 2, holes=False)

# ---- a limit of file sizes, as FAT has one: pieces end there ----
fresh()
limit = 3 * MIB + 4096
small = lambda: (resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)), signal.signal(signal.SIGXFSZ, signal.SIG_IGN))
status, out, err = run("carry", "pack", M, STICK, preexec=small)
check("file_limit", status == 0 and max(os.path.getsize(os.path.join(STICK, f)) for f in pieces()) <= limit and len(pieces()) > 5, err)
check("file_limit.same", run(*UNPACK)[0] == 0 and same())

# ---- a stick that has half of what it says ----
fresh()
FAKE = dict(STICK_BYTES=12 * MIB, STICK_ZEROS=6 * MIB)
result = run(*PACK, env=shim(**FAKE))
check_error("fake_stick", result, "not there as they were written", "smaller than it says")
good = pieces()
check("fake_stick.first_half_is_good", 3 <= len(good) <= 6, good)
check("fake_stick.unpack", run(*UNPACK, env=shim(**FAKE, STICK_COLD=1))[0] == 0 and answer()["bad"] == set()
      and answer()["have"] == {b for f in good for b in blocks(f)})
shutil.rmtree(STICK)
os.mkdir(STICK)
check("fake_stick.another", run(*PACK)[0] == 0 and run(*UNPACK)[0] == 0 and same(), os.listdir(path("to")))
# control: what comes from the page cache looks good
fresh()
text = open("tests/e2e/bad_stick.c").read().replace("O_DIRECT) != 0", "0) != 0").replace("dropped[fd] = 1", "dropped[fd] = 0")
open(path("blind.c"), "w").write(text)
subprocess.run(["gcc", "-std=c11", "-D_GNU_SOURCE", "-shared", "-fPIC", path("blind.c"), "-o", path("blind.so"), "-ldl"], check=True)
status, out, err = run(*PACK, env={**shim(**FAKE), "LD_PRELOAD": path("blind.so")})
check("control_cached", status == 0, err)
run(*UNPACK, env=shim(**FAKE, STICK_COLD=1))
check("control_cached.receiver_sees_it", len(answer()["bad"]) > 2, answer())

# ---- three damaged pieces: exactly their ranges are asked for again ----
fresh()
run(*PACK[:-1], "4M")
bad = hurt_three()
status, out, err = run(*UNPACK)
check("damaged", status == 0 and b" damaged" in out and answer()["bad"] == bad
      and len(answer()["have"]) == DATA - 3, (bad, answer(), err))
status, out, err = run(*PACK)
check("damaged.sent_again", b"arrived damaged, sent again" in out and {b for f in pieces() for b in blocks(f)} == bad, (out, pieces()))
check("damaged.same", run(*UNPACK)[0] == 0 and same())
# a header, a piece cut short, one that is missing
fresh()
run(*PACK[:-1], "4M")
names = [f for f in pieces() if len(blocks(f)) > 1]
with open(os.path.join(STICK, names[0]), "r+b") as p:
    p.write(b"x")
os.truncate(os.path.join(STICK, names[1]), os.path.getsize(os.path.join(STICK, names[1])) - 5000)
os.remove(os.path.join(STICK, names[2]))
status, out, err = run(*UNPACK)
check("header", status == 0 and names[0].encode() in err and answer()["bad"] == {*blocks(names[0]), blocks(names[1])[-1]}, answer())
check("missing_is_not_bad", answer()["have"].isdisjoint(blocks(names[2])))
check("missing_comes_again", run(*PACK, "--again")[0] == 0
      and {b for f in pieces() for b in blocks(f)} == {*blocks(names[0]), blocks(names[1])[-1], *blocks(names[2])}, pieces())
check("missing.same", run(*UNPACK)[0] == 0 and same())

# ---- what others put on a stick ----
fresh()
run(*PACK, env=shim(STICK_BYTES=9_000_000))
shutil.copytree(STICK, path("theirs"))
other = path("from/other.fulgur")
shutil.copy(path("made.fulgur"), other)
with open(other, "r+b") as p:  # another file by its slot's unused bytes: their hash is not looked at here
    pass
run("trace", other, NANO + "/config.json", "--heat", "--tokens", "8")
shutil.rmtree(STICK)
os.mkdir(STICK)
check("other", run("carry", "pack", other, STICK, "--piece", "4M")[0] == 0)
check_error("foreign_stick", run(*PACK), "stick/carry.manifest: of transfer", "from/m.fulgur")
foreign = pieces()[0]
check("foreign_stick_is_left_alone", len(pieces()) > 3)
shutil.copy(os.path.join(STICK, foreign), path("theirs"))
check_error("foreign_piece", run("carry", "unpack", path("theirs"), "-o", path("to")), f"theirs/{foreign}: a piece of transfer")
check("foreign_piece_others_are_taken", os.path.exists(OUT + ".carry"))
check_error("foreign_manifest", run("carry", "unpack", STICK, "-o", OUT), "stick/carry.manifest: of transfer", OUT)
shutil.copy(path("theirs/carry.received"), STICK)
os.remove(STICK + "/carry.manifest")
check_error("foreign_answer", run("carry", "pack", other, STICK), "carry.received: of transfer")
T = path("theirs")
os.remove(os.path.join(T, foreign))
os.symlink(path("made.fulgur"), os.path.join(T, "carry-00000000-0000000-001.piece"))
check_error("link", run("carry", "unpack", T, "-o", OUT), "carry-00000000-0000000-001.piece")
os.remove(os.path.join(T, "carry-00000000-0000000-001.piece"))
os.mkfifo(os.path.join(T, "carry-00000000-0000000-001.piece"))
check_error("fifo", run("carry", "unpack", T, "-o", OUT), "expected a regular file")
os.remove(os.path.join(T, "carry-00000000-0000000-001.piece"))
text = open(T + "/carry.manifest").read()
for name, to in (("name", "../m.fulgur"), ("dot", ".m"), ("long", "m" * 57), ("link", "a/b"), ("empty", "")):
    body = re.sub(r"name .*", "name " + to, text)
    body = body[:body.index("end ")]
    open(T + "/carry.manifest", "w").write(body + "end " + hashlib.sha256(body.encode()).hexdigest() + "\n")
    check_error("hostile_name." + name, run("carry", "unpack", T, "-o", path("to")), "carry.manifest: line 4")
open(T + "/carry.manifest", "w").write(text.replace("blocks", "Blocks"))
check_error("hostile_list", run("carry", "unpack", T), "carry.manifest: damaged")
check("nothing_outside", not os.path.exists(path("m.fulgur")))

body = "".join(line + "\n" for line in text.split("\n") if line[:5] in ("fulgu", "trans", "sende", "name ")) + "blocks 0\n"
open(T + "/carry.manifest", "w").write(body + "end " + hashlib.sha256(body.encode()).hexdigest() + "\n")
check_error("hostile_nothing", run("carry", "unpack", T, "-o", path("none.fulgur")), "carry.manifest: no transfer, sender, receiver, name, file")

# ---- sticks as they come: other cases of letters, exchanged names, no end of bad pieces, a clock that stood wrong ----
fresh()
run(*PACK, env=shim(STICK_BYTES=9_000_000))
for f in os.listdir(STICK):
    os.rename(os.path.join(STICK, f), os.path.join(STICK, f.upper()))
status, out, err = run(*UNPACK)
check("upper_case", status == 0 and len(answer()["have"]) >= 6, (out, err))
check("upper_case.room_again", run(*PACK, env=shim(STICK_BYTES=9_000_000))[0] == 0 and not any(f.endswith(".PIECE") for f in os.listdir(STICK)))
fresh()
os.utime(M, (-5000, -5000))
run(*PACK)
a, b = pieces()[1:3]
for x, y in ((a, "x"), (b, a), ("x", b)):
    os.rename(os.path.join(STICK, x), os.path.join(STICK, y))
check("exchanged_names", run(*UNPACK)[0] == 0 and same())
check("before_1970", b"all of it has arrived" in run(*PACK)[1])
fresh()
run(*PACK)
lost = pieces()
for f in lost:
    os.remove(os.path.join(STICK, f))
status, out, err = run(*UNPACK)
check("no_pieces", status == 0 and b"stick: no pieces, expected names that end in .piece" in err, err)
for i in range(40):
    open(os.path.join(STICK, f"carry-{i:08x}-0000000-001.piece"), "w").close()
status, out, err = run(*UNPACK)
check("many_bad_pieces", status == 0 and err.count(b"\n") == 21 and err.endswith(b"more of the kind\n"), err)
fresh()
run(*PACK)
os.mkdir(STICK + "/carry.received")  # as a stick that cannot be written to
status, out, err = run(*UNPACK)
check("no_answer", status == 0 and same() and b"; the sender will not hear of what has arrived\n" in err, err)
fresh()
run(*PACK)
if os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"]).returncode == 0:
    ro = f"mount --bind {STICK} {STICK} && mount -o remount,bind,ro {STICK} && exec \"$@\""
    p = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", ro, "sh", FULGUR, *UNPACK, "--move"], capture_output=True)
    check("read_only", p.returncode == 0 and same() and p.stderr.count(b"\n") == 2 and pieces() != [], p.stderr)
else:
    report("skip", "read_only", "no mounts here")
text = open(STICK + "/carry.manifest").read()
body = text[:text.index("end ")].replace(f"file 0 {os.path.getsize(M)}", "file 0 1000000000000000")
open(STICK + "/carry.manifest", "w").write(body + "end " + hashlib.sha256(body.encode()).hexdigest() + "\n")
os.mkdir(path("huge"))
check_error("huge_file", run("carry", "unpack", STICK, "-o", path("huge")), "expected a file of 1000000000000000 bytes")
check("huge_file_leaves_nothing", os.listdir(path("huge")) == [])

# ---- an answer of an earlier transfer counts for nothing: its receiver may be no more ----
fresh()
run(*PACK, env=shim(**SMALL))
run(*UNPACK)
os.remove(M + ".carry")
shutil.rmtree(path("to"))
os.mkdir(path("to"))
for i in range(2):
    check_error("old_answer", run(*PACK, "--move"), "carry.received: of an earlier transfer", "m.fulgur.carry", "delete it")
check("old_answer_frees_nothing", same(M, path("made.fulgur")) and not os.path.exists(M + ".carry"))
os.remove(STICK + "/carry.received")
check("old_answer_deleted", run(*PACK)[0] == 0 and run(*UNPACK)[0] == 0 and same())

# ---- nor does one of a second receiver, to whom a stick was lent; sticks of two transfers mix ----
fresh()
run(*PACK, env=shim(**SMALL))
run(*UNPACK)
run(*PACK, env=shim(**SMALL))
os.mkdir(path("lent"))
check("lent", run("carry", "unpack", STICK, "-o", path("lent"))[0] == 0)
check_error("lent_answer", run(*PACK, "--move"), "carry.received: of another receiver", "the one that answered before", "delete it")
os.remove(STICK + "/carry.received")
check("lent_frees_nothing", same(M, path("made.fulgur")))
lost = {b for f in pieces() for b in blocks(f)}
check("lent_goes_on", run(*UNPACK)[0] == 0 and lost <= answer()["have"])
os.remove(M + ".carry")  # the second transfer
os.rename(STICK, path("old_stick"))
os.mkdir(STICK)
check("mixed", run(*PACK, env=shim(STICK_BYTES=9_000_000))[0] == 0 and run(*UNPACK)[0] == 0 and lost < answer()["have"])
check_error("mixed_old_answer", run("carry", "pack", M, path("old_stick")), "old_stick/carry.received: of an earlier transfer")
os.remove(path("old_stick/carry.received"))
check("mixed_old_stick", run("carry", "pack", M, path("old_stick"), "--again")[0] == 0
      and run("carry", "unpack", path("old_stick"), "-o", OUT)[0] == 0 and same())
shutil.rmtree(path("old_stick"))
shutil.rmtree(path("lent"))

# ---- at the receiver a name is taken, a file is taken away ----
fresh()
run(*PACK, env=shim(STICK_BYTES=9_000_000))
run(*UNPACK)
open(OUT, "w").write("somebody's")
while run(*PACK)[1].find(b"next stick") > 0:
    run(*UNPACK)
check_error("name_taken", run(*UNPACK), "m.fulgur: exists by now")
check("name_taken_is_kept", open(OUT).read() == "somebody's")
os.remove(OUT)
check("name_free", run(*UNPACK)[0] == 0 and same())
fresh()
run(*PACK)
late = pieces()[-1]  # the signature
shutil.move(os.path.join(STICK, late), path(late))
check("late", run(*UNPACK)[0] == 0 and not os.path.exists(OUT))
shutil.move(path(late), STICK)
os.remove(OUT + ".carry-part")
check_error("part_missing", run(*UNPACK), "m.fulgur.carry-part: missing", "m.fulgur.carry; delete that")

# ---- the model changes on the way, no room, two at once ----
fresh()
run(*PACK, env=shim(**SMALL))
os.utime(M)
check_error("changed", run(*PACK), "changed since it began to be carried", "m.fulgur.carry to begin anew")
fresh()
run(*PACK, env=shim(**SMALL))
os.mkdir(path("full"))
status, out, err = run("carry", "unpack", STICK, "-o", path("full"),
                       env={**shim(STICK_BYTES=MIB), "STICK": os.path.realpath(path("full"))})
check_error("no_room", (status, out, err), "bytes free on its file system")
check("no_room_leaves_nothing", os.listdir(path("full")) == [])

# ---- Ctrl-C while a slow stick is read back or taken over, at a pipe that stands still ----
def stopped(name, args, when, env, **how):
    """SIGINT when when(): it ends soon, in order."""
    p = subprocess.Popen([FULGUR, *args], stderr=subprocess.PIPE, env={**os.environ, **env}, **how)
    until = time.time() + 60
    while not when() and p.poll() is None and time.time() < until:
        time.sleep(0.02)
    begin = time.time()
    p.send_signal(signal.SIGINT)
    err = p.stderr.read()
    check(name, p.wait() == 130 and b"cancelled, expected to " in err and err.count(b"\n") == 1 and time.time() - begin < 5,
          (p.returncode, time.time() - begin, err))


def is_written():
    """The piece is there with its header, which comes last."""
    parts = [f for f in os.listdir(STICK) if f.endswith(".part")]
    return len(parts) == 2 and open(os.path.join(STICK, max(parts)), "rb").read(1) == b"\x89"


fresh()
PACK, UNPACK = ["carry", "pack", M, STICK], ["carry", "unpack", STICK, "-o", path("to")]
stopped("stop_reading_back", PACK, is_written, shim(READ_MS=1000))
check("stop_reading_back.goes_on", run(*PACK)[0] == 0 and pieces() != [])
stopped("stop_unpack", UNPACK, lambda: os.path.exists(OUT + ".carry"), shim(READ_MS=1000))
check("stop_unpack.goes_on", run(*UNPACK)[0] == 0 and same())
r, w = os.pipe()
fresh()
stopped("stop_pipe_that_is_full", ["carry", "pack", M, "-"], lambda: time.sleep(0.5) or True, {}, stdout=w)
stopped("stop_pipe_that_is_silent", ["carry", "unpack", "-", "-o", OUT], lambda: time.sleep(0.3) or True, {}, stdin=subprocess.PIPE)
os.close(r)
os.close(w)
# a disk that stands still: a sign of life on the terminal
mine, theirs = pty.openpty()
p = subprocess.Popen([FULGUR, *PACK], stdout=subprocess.DEVNULL, stderr=theirs, env={**os.environ, "TERM": "xterm", **shim(SYNC_MS=3000)})
os.close(theirs)
seen = b""
while b"waiting for the disk" not in seen and p.poll() is None:
    seen += os.read(mine, 4096)
p.kill()
p.wait()
os.close(mine)
check("sign_of_life", re.search(rb"pack[^\r]*: waiting for the disk or line, \d+ s", seen), seen)

# ---- a split model, in parts on several drives ----
for d in ("from", "to", "stick"):
    shutil.rmtree(path(d))
    os.mkdir(path(d))
os.mkdir(path("d1"))
status, out, err = run("convert", NANO, M, "--split", path("d1"))
while not os.path.exists(OUT):
    if run("carry", "pack", M, STICK, env=shim(STICK_BYTES=9_000_000))[0] or run(*UNPACK)[0]:
        break
check("split", os.path.exists(OUT + ".1") and run("verify", OUT)[0] == 0 and
      all(open(OUT + e, "rb").read() == open(M + e, "rb").read() for e in ("", ".1")), err)
check("split.sparse", used(path("to")) <= used(path("from")) + used(path("d1")) + 65536, (used(path("to")), used(path("from"))))

# ---- a pipe that goes one way ----
fresh()
status, sent, err = run("carry", "pack", M, "-")
check("pipe.sent", status == 0 and len(sent) > 20 * MIB and sorted(os.listdir(path("from"))) == ["m.fulgur", "m.fulgur.sig"], err)
status, out, err = run("carry", "unpack", "-", "-o", OUT, stdin=sent)
check("pipe", status == 0 and same(), err)
for name, change in (("gap", lambda b: b[:9 * MIB] + b[9 * MIB + 70001:]), ("flip", lambda b: b[:7 * MIB] + b"?" * 9 + b[7 * MIB + 9:]),
                     ("noise", lambda b: os.urandom(5000) + b[:MIB] + os.urandom(3000) + b[MIB:]),
                     ("late", lambda b: b[12 * MIB:] + b[:12 * MIB]), ("cut", lambda b: b[:11 * MIB])):
    if name not in ("gap", "late") and not LONG:
        continue
    fresh()
    sent = run("carry", "pack", M, "-", "--piece", "4M")[1]
    status, out, err = run("carry", "unpack", "-", "-o", OUT, stdin=change(sent))
    left = re.search(rb"([\d.]+) MB arrived.* ([\d.]+) (MB|kB) to come", out)
    check(f"pipe.{name}", status == 0 and (left or name == "late") and (left is None or float(left.group(1)) > 8), (out, err))
    status, out, err = run("carry", "unpack", "-", "-o", OUT, stdin=sent)
    check(f"pipe.{name}.filled", status == 0 and b"complete" in out and same(), (out, err))
# damage in each field of a header costs its piece, and nothing else
sent = run("carry", "pack", M, "-", "--piece", "4M")[1]
MARK = b"\x89FGCARY\n"
second = sent.index(MARK, sent.index(MARK) + 1)
first, n = int.from_bytes(sent[second + 32:second + 40], "little"), int.from_bytes(sent[second + 48:second + 52], "little")
FIELDS = dict(magic=3, version=8, header=13, id=20, first=32, all=40, blocks=48, zero=53, bytes=57, hash=64 + 40, sum=64 + 32 * n + 3)
for name, at in FIELDS.items():
    if name not in ("magic", "header", "blocks") and not LONG:
        continue
    fresh()
    hurt = bytearray(sent)
    hurt[second + at] ^= 0x41
    status, out, err = run("carry", "unpack", "-", "-o", OUT, stdin=bytes(hurt))
    check(f"pipe.{name}", status == 0 and answer(OUT + ".carry")["have"] == set(range(DATA)) - set(range(first, first + n)), (out, err))
status, out, err = run("carry", "unpack", "-", "-o", OUT, stdin=sent)
check("pipe.header_filled", status == 0 and b"complete" in out and same(), (out, err))
# of the list nothing is known without it: it comes again with the next time
for name, at in (("list", 2), ("length", 9), ("length_high", 13), ("text", 300)):
    if name == "text" or LONG:
        fresh()
        hurt = bytearray(sent)
        hurt[at] ^= 0x41
        check_error(f"pipe.{name}", run("carry", "unpack", "-", "-o", OUT, stdin=bytes(hurt)), "standard input: no list")
        check(f"pipe.{name}_twice", run("carry", "unpack", "-", "-o", OUT, stdin=bytes(hurt) + sent)[0] == 0 and same())
check_error("pipe.nothing", run("carry", "unpack", "-", "-o", OUT, stdin=b""), "standard input: no list")

if LONG:
    a_large_one(min(33, int(shutil.disk_usage(path("")).free / 1.5e9)))
finish()
