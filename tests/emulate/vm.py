#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""NUMA, in virtual machines: where every page of the weights is, as the kernel says; where threads may run; the
same logits as here.  The machine is vm/machine.py, what it does inside vm/guest.c, who should have what
vm/owners.py.  A hang is a failure: every run and every machine has its time."""
import os
import platform
import re
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE + "/../e2e", HERE + "/vm", HERE + "/../../scripts"]
import fg_read  # noqa: E402
import machine  # noqa: E402
import owners  # noqa: E402
from e2e import FULGUR, check, finish, path, report, run, tmp  # noqa: E402

LONG = bool(os.environ.get("FULGUR_TEST_LONG"))
IDS = "5 1717"
POLICIES = ("slice", "strict", "interleave", "expert", "mirror", "first-touch")
RUN_SECONDS, BOOT_SECONDS = 60, 60  # several times what they take on busy cores
RAM = "400M"
PLACED = ()  # modes whose pages are checked
MODEL = path("model.fulgur")


class Job:
    """A run of the program in a guest; before: shell commands; policy, mode: what is expected of the pages."""

    def __init__(self, name, policy, mode, args=(), before=(), model="/m/model", prefix=(), weights=None, want=0,
                 words=()):
        self.name, self.policy, self.mode, self.args, self.before = name, policy, mode, args, before
        self.model, self.prefix, self.weights, self.want, self.words = model, prefix, weights, want, words

    def script(self):
        home = {"ram": ["--ram", RAM], "shared": ["--residency", "shared", "--image", "/dev/shm/image"]}
        command = ["fulgur", "logits", self.model, "--ids", "/tmp/ids", "--out", "/dev/stdout",
                   "--numa", self.policy, *home.get(self.mode, ["--residency", self.mode]), *self.args]
        return [*self.before, " ".join(["guest run", self.name, str(RUN_SECONDS), self.model, "/tmp/table", "/out",
                                        *self.prefix, *command])]


def expected(model, job, weights, where):
    """What is wrong with the pages of a run."""
    n, cut = len(weights), model.sliced(weights)
    at = where.get({"map": "c", "copy": "a", "ram": "a", "shared": "s"}[job.mode], {})
    spare = model.experts() if job.mode == "ram" else ()
    if n == 1 or job.policy in ("slice", "strict"):
        return owners.judge(at, cut, spare)
    if job.policy == "expert":
        return owners.judge(at, model.by_expert(n), spare)
    if job.policy == "mirror":
        return owners.judge_all(at, cut, n)
    if job.policy == "interleave":
        return owners.judge_even(at, cut, n)
    return owners.judge({p: [0] for p in at}, dict.fromkeys(cut, 0), spare)  # wherever


def cpus_of(text):
    """A list such as 0-2,5 as a set."""
    out = set()
    for part in text.split(","):
        a, _, b = part.partition("-")
        out |= set(range(int(a), int(b or a) + 1))
    return out


def strays(text, nodes):
    """Threads that may run outside one of the nodes, sets of CPUs."""
    threads = re.findall(r"^Name:\s+(.*)\nCpus_allowed_list:\s+(.*)$", text, re.M)
    bad = [t for t in threads if not any(cpus_of(t[1]) <= cpus for cpus in nodes)]
    return bad if threads else "no thread"


def boot(vm, model, logits, name, nodes, jobs, **more):
    """Boots a machine of nodes [(CPUs, MiB)], has the jobs run in it and checks what came of them."""
    script = ["ln -s /proc/self/fd/1 /dev/stdout", f"echo {IDS} >/tmp/ids", "guest table /m/model /tmp/table"]
    for job in jobs:
        script += job.script()
    begun = time.time()
    files, console = vm.boot(name, nodes, "\n".join(script) + "\n", BOOT_SECONDS + RUN_SECONDS * len(jobs), **more)
    if not check(f"{name}.boot", files is not None, console[-2000:]):
        return {}
    cpus, at = [], 0
    for n, _ in nodes:
        cpus.append(set(range(at, at + n)))
        at += n
    for job in jobs:
        judge_job(model, logits, name, job, cpus, {k: files.get(f"{job.name}.{k}", b"") for k in
                                                   ("status", "out", "err", "pages", "threads")})
    print(f"# {name}: {len(jobs)} runs in {time.time() - begun:.1f} s")
    return files


def judge_job(model, logits, name, job, cpus, got):
    who = f"{name}.{job.name}"
    err = got["err"].decode("utf-8", "replace")
    status = got["status"].decode().strip()
    if job.want != 0:
        good = status == str(job.want) and err.startswith("fulgur: ") and all(w in err for w in job.words)
        check(who + ".refused", good, f"status {status}, {err!r}")
        return
    if not check(who + ".logits", status == "0" and got["out"] == logits, f"status {status}, {len(got['out'])} bytes, {err}"):
        return
    weights = job.weights or [len(c) for c in cpus if c]
    why = expected(model, job, weights, owners.parse(got["pages"].decode()))
    if job.mode in PLACED:
        check(who + ".pages", not why, f"{why}\n{err}")
    bad = strays(got["threads"].decode(), cpus)
    check(who + ".threads", len(bad) == 0 or (job.mode == "ram" and len(bad) == 1), bad)  # one reads


def make_model():
    here = run("synth", MODEL, "--shape", f"{HERE}/vm/config.json", "--recipe", f"{HERE}/vm/recipe.txt")
    check("model", here[0] == 0, here)
    model = owners.Model(fg_read.Reader(MODEL))
    few = [t.name for t in model.cut if model.groups(t)[1] < 24]
    check("model.24_groups_of_every_matrix", not few and model.reader.shape["n_kv_head"] == 8, few)
    for n in (2, 4, 8):
        none = [t.name for t, g in model.shares([1] * n).items() if min(g) == 0]
        check(f"model.every_node_of_{n}_has_some_of_every_matrix", len(model.cut) > 0 and not none, none)
    return model


def controls(model):
    """The judge itself."""
    for n in (2, 4, 8):
        owner = model.sliced([1] * n)
        where = {p: [k] for p, k in owner.items()}
        good = owners.judge(where, owner) == ""
        shifted = owners.judge(where, {p: (k + 1) % n for p, k in owner.items()})
        check(f"control.shifted_owners_of_{n}", good and shifted.startswith(f"of {len(owner)} pages {len(owner)} on"), shifted)
    page = next(iter(owner))
    for what, nodes in (("moved", [owner[page] ^ 1]), ("twice", [owner[page]] * 2), ("missing", [])):
        check(f"control.one_page_{what}", owners.judge({**where, page: nodes} if nodes else
                                                       {p: k for p, k in where.items() if p != page}, owner) != "")


def main():
    if platform.machine() != "x86_64":
        report("skip", "all", f"qemu-system-x86_64 has another program than {platform.machine()}'s")
        return
    model = make_model()
    controls(model)
    open(path("ids.txt"), "w").write(IDS)
    status, logits, err = run("logits", MODEL, "--ids", path("ids.txt"), "--out", "/dev/stdout")
    check("logits_here", status == 0 and len(logits) == len(IDS.split()) * 4 * model.reader.shape["n_vocab"], err)
    try:
        vm = machine.Vm(tmp, FULGUR, MODEL)
    except machine.Missing as e:
        report("skip", "all", str(e))
        return
    two(vm, model, logits)


def two(vm, model, logits):
    jobs = [Job(f"{policy}_{mode}", policy, mode) for policy in POLICIES for mode in ("map", "copy", "ram")]
    boot(vm, model, logits, "2_nodes", [(1, 512), (1, 384)], jobs, distance={(0, 1): 17, (1, 0): 21})


main()
finish()
