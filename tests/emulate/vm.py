#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""NUMA, in virtual machines: where every page of the weights is, as the kernel says; where threads may run; the
same logits as here.  The machine is vm/machine.py, what it does inside guest.c, who should have what
vm/owners.py.  A hang is a failure: every run and every machine has its time."""
import json
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
from e2e import FULGUR, check, choices, finish, path, report, run, tmp  # noqa: E402

LONG = bool(os.environ.get("FULGUR_TEST_LONG"))
IDS = "5 1717"
RUN_SECONDS = 120  # a run takes 3; on busy cores three times that
POLICIES = choices("--numa", "logits")
RAM = "400M"  # all experts fit
MODEL = path("model.fulgur")
HOMES = {"map": "--residency map", "copy": "--residency copy", "ram": f"--ram {RAM}",
         "shared": "--residency shared"}
KIND = {"map": "c", "copy": "a", "ram": "a", "shared": "s"}  # of pages, as in guest.c
# What a cgroup says, done to the command that follows.
INSIDE = b"#!/bin/sh\necho $$ >/sys/fs/cgroup/$1/cgroup.procs\nshift\nexec \"$@\"\n"
DROP = "echo 3 >/proc/sys/vm/drop_caches"
# It marks pages that are bound to no node, and Linux 6.1 then says that they are nowhere.
NO_BALANCING = "echo 0 >/proc/sys/kernel/numa_balancing"


class Job:
    """A run of the program in a guest."""

    def __init__(self, policy, mode, name="", args="", before=(), model="/m/model", prefix="", nodes=None,
                 refused=(), misplaced=False, threads=2, image="/dev/shm/image"):
        self.policy, self.mode = policy, mode
        self.name = name or f"{policy}_{mode}"
        self.before = before  # shell commands
        self.model = model
        self.nodes = nodes  # [(number, weight)] of those that are used; None: those with CPUs and memory
        self.refused = refused  # words of the one line on standard error; none: the run works
        self.misplaced = misplaced  # a control: pages are not where the policy would have them
        self.n_thread = threads
        self.command = (f"guest run {self.name} {RUN_SECONDS} {model} /tmp/table /out {prefix} fulgur logits {model} "
                        f"--ids /tmp/ids --out /dev/stdout -t {threads} --numa {policy} {HOMES[mode]} {args}" +
                        (f" --image {image}" if mode == "shared" else ""))


def wrong_pages(model, job, nodes, found):
    """What is wrong with the pages of a run, "" for nothing.  nodes: [(number, weight)]."""
    number, weights = [k for k, _ in nodes], [w for _, w in nodes]
    at = {p: [number.index(k) if k in number else -1 for k in on]
          for p, on in found.get(KIND[job.mode], {}).items()}
    spare = model.experts() if job.mode == "ram" else ()
    if job.mode == "map" and len(nodes) == 1:  # what nobody asked for may be on the disk
        spare = [{p} for p in model.sliced(weights)]
    if job.policy in ("slice", "strict") or job.misplaced or len(nodes) == 1:
        return owners.judge(at, model.sliced(weights), spare)
    if job.policy == "expert":
        return owners.judge(at, model.by_expert(len(nodes)), spare)
    pages = model.sliced(weights).keys()
    if job.policy == "mirror":
        return owners.judge_all(at, pages, len(nodes), spare)
    if job.policy == "interleave":
        return owners.judge_even(at, pages, len(nodes), spare)
    return owners.judge({p: [0] * len(on) for p, on in at.items()}, dict.fromkeys(pages, 0), spare)  # anywhere


def cpus_of(text):
    """A list such as 0-2,5 as a set."""
    out = set()
    for part in text.split(","):
        a, _, b = part.partition("-")
        out |= set(range(int(a), int(b or a) + 1))
    return out


def wrong_threads(text, job, nodes):
    """What is wrong with where threads may run: the workers inside of one of the nodes, sets of CPUs.  With --ram
    one thread waits for the disk, wherever."""
    threads = re.findall(r"^Name:\s+(.*)\nCpus_allowed_list:\s+(.*)$", text, re.M)
    outside = [t for t in threads if not any(cpus_of(t[1]) <= cpus for cpus in nodes)]
    inside = len(threads) - len(outside)
    free = 1 if job.mode == "ram" else 0
    return "" if inside >= job.n_thread and len(outside) <= free else f"{inside} inside of a node, outside: {outside}"


class Suite:
    """What all machines have in common."""

    def __init__(self, vm, model, logits):
        self.vm, self.model, self.logits = vm, model, logits

    def boot(self, name, nodes, jobs, distance=None, before=(), joined=None):
        """Boots a machine of nodes [(CPUs, MiB)], runs the jobs in it and checks what came of them.  joined: {node
        without memory: the node that has its CPUs}."""
        script = ["ln -s /proc/self/fd/1 /dev/stdout", f"echo {IDS} >/tmp/ids", "guest table /m/model /tmp/table",
                  *before]
        for job in jobs:
            script += [*job.before, job.command]
        begun = time.time()
        files, console = self.vm.boot(name, nodes, "\n".join(script) + "\n",
                                      2 * RUN_SECONDS + RUN_SECONDS // 4 * len(jobs), distance)
        if not check(f"{name}.boot", files is not None, console[-2000:]):
            return {}
        cpus, at = {}, 0
        for k, (n, mb) in enumerate(nodes):
            if n > 0:
                cpus.setdefault((joined or {}).get(k, k), set()).update(range(at, at + n))
            at += n
        for job in jobs:
            used = job.nodes or [(k, len(c)) for k, c in cpus.items()]
            self.judge(f"{name}.{job.name}", job, used, [cpus[k] for k, _ in used],
                       {k: files.get(f"{job.name}.{k}", b"") for k in ("status", "out", "err", "pages", "threads")})
        print(f"# {name}: {len(jobs)} runs in {time.time() - begun:.1f} s", flush=True)
        return files

    def judge(self, name, job, nodes, cpus, got):
        err, status = got["err"].decode("utf-8", "replace"), got["status"].decode().strip()
        said = f"status {status or 'none'}, {len(got['out'])} bytes, {err}"
        if job.refused:
            lines = [line for line in err.splitlines() if line.startswith("fulgur: ")]
            check(name + ".refused", status == "1" and len(lines) == 1 and got["out"] == b"" and
                  all(w in lines[0] for w in job.refused), said)
            return
        if not check(name + ".logits", status == "0" and got["out"] == self.logits, said):
            return
        found = owners.parse(got["pages"].decode())
        why = wrong_pages(self.model, job, nodes, found)
        if job.misplaced:
            check(name + ".is_noticed", why != "", said)
        else:
            check(name + ".pages", why == "", f"{why}\n{said}")
        if job.policy == "slice" and len(nodes) > 1:
            other = [(k, w) for (k, _), (_, w) in zip(nodes[1:] + nodes[:1], nodes)]
            check(name + ".shifted_owners_fail", wrong_pages(self.model, job, other, found) != "")
        why = wrong_threads(got["threads"].decode(), job, cpus)
        check(name + ".threads", why == "", why)


# ---- the machines ----

def one_node(s):
    s.boot("1_node", [(2, 512)], [Job("slice", "copy"), Job("strict", "ram"), Job("slice", "map")])


def two_nodes(s):
    """Unequal in size and distance."""
    elsewhere = [DROP, "guest on 1 cat /m/model >/dev/null"]
    jobs = [
        # a cache that lies wholly on one node; seen, then repaired
        Job("first-touch", "map", "cache_on_one_node", before=elsewhere, misplaced=True),
        Job("slice", "map", before=[*elsewhere, "fulgur info /m/model --placement --json >/out/before.json"]),
        Job("slice", "copy", before=["fulgur info /m/model --placement --json >/out/after.json"]), Job("slice", "ram"), Job("slice", "shared"), Job("slice", "shared", "shared_again"),
        Job("strict", "ram"), Job("expert", "copy"), Job("mirror", "copy"), Job("interleave", "copy"),
        # fewer CPUs, and with them nodes, than the machine has
        Job("slice", "copy", "cpu_of_node_1", prefix="taskset 2", nodes=[(1, 1)]),
        Job("strict", "ram", "cpuset_of_node_1", prefix="inside node1", nodes=[(1, 1)]),
        # what is on tmpfs is nowhere else: it can only be moved
        Job("slice", "map", "tmpfs", model="/dev/shm/model",
            before=[DROP, "guest on 1 cp /m/model /dev/shm/model"]),
    ]
    cgroups = ["cd /sys/fs/cgroup", "echo +cpuset >cgroup.subtree_control", "mkdir node1",
               "echo 1 >node1/cpuset.cpus", "echo 1 >node1/cpuset.mems", "cd /"]
    files = s.boot("2_nodes", [(1, 512), (1, 384)], jobs, {(0, 1): 17, (1, 0): 21}, before=cgroups)
    before, after = ([(n["pages_local"], n["pages_other"], n["pages_absent"]) for n in json.loads(files.get(f) or '{"nodes": []}')["nodes"]]
                     for f in ("before.json", "after.json"))
    check("2_nodes.placement_of_a_cache_on_one_node", len(before) == 2 and before[0][0] == 0 and before[0][1] > 0 and
          before[1][0] > 0 and before[1][1] == 0, before)
    check("2_nodes.placement_of_a_repaired_cache", len(after) == 2 and
          all(local > 0 and other == 0 and absent == 0 for local, other, absent in after), after)


def grid(s):
    """Every policy, in every home, with every kind of page."""
    shared = ["rm -f /dev/shm/image /dev/hugepages/image"]
    pool = [f"echo 48 >/sys/devices/system/node/node{k}/hugepages/hugepages-2048kB/nr_hugepages" for k in (0, 1)]
    jobs = []
    for policy in POLICIES:
        for mode in HOMES:
            refused = ("mirror", "map") if (policy, mode) == ("mirror", "map") else ()
            jobs.append(Job(policy, mode, before=shared, refused=refused))
            if mode == "shared":
                jobs.append(Job(policy, mode, f"{policy}_{mode}_again"))
        for pages in ("small", "huge"):
            jobs.append(Job(policy, "copy", f"{policy}_{pages}", f"--pages {pages}"))
    for policy in POLICIES:
        before = [*shared, *(pool if policy == POLICIES[0] else ())]
        jobs.append(Job(policy, "copy", f"{policy}_hugetlb", "--pages hugetlb", before=before))
        jobs.append(Job(policy, "shared", f"{policy}_hugetlbfs", before=before, image="/dev/hugepages/image"))
    s.boot("2_nodes_grid", [(1, 640), (1, 448)], jobs, {(0, 1): 17, (1, 0): 21},
           before=[NO_BALANCING])


def many_nodes(s, n):
    """More nodes than cores of this machine: there are as many workers as it has."""
    distance = {(a, b): 10 + 3 * abs(a - b) for a in range(n) for b in range(n) if a != b}
    s.boot(f"{n}_nodes", [(1, 768 // n + 64)] * n, [Job("slice", "copy"), Job("slice", "ram")], distance)


def small_node(s):
    """A node that cannot hold its part."""
    jobs = [Job("strict", "copy", refused=("node 1",)), Job("slice", "copy", misplaced=True)]
    s.boot("small_node", [(1, 512), (1, 40)], jobs)


def odd_nodes(s):
    """A node without memory and one without CPUs, far from all: they own nothing.  The CPU of the former is one of
    node 1, which is nearest to it."""
    distance = {(a, b): 40 if 3 in (a, b) else 12 if {a, b} == {1, 2} else 20
                for a in range(4) for b in range(4) if a != b}
    s.boot("odd_nodes", [(1, 384), (1, 256), (1, 0), (0, 128)],
           [Job("slice", "copy", threads=3, nodes=[(0, 1), (1, 2)]), Job("strict", "ram", nodes=[(0, 1), (1, 2)])],
           distance, joined={2: 1})


# What a person does with one small stick, as the kernel's FAT has it: without holes, links or inodes.
CARRY = """mkdir /dev/shm/from /dev/shm/to /stick
cp /m/model /dev/shm/from/m.fulgur
dd if=/dev/zero of=/dev/shm/fat bs=1M count=%d 2>/dev/null
mkdosfs /dev/shm/fat
while [ ! -e /dev/shm/to/m.fulgur ] && [ $((trips += 1)) -lt 20 ]; do
  for side in 'pack /dev/shm/from/m.fulgur /stick' 'unpack /stick -o /dev/shm/to/m.fulgur'; do
    mount -t vfat -o loop /dev/shm/fat /stick >>/out/said 2>&1 || exit
    fulgur carry $side --move >>/out/said 2>&1 || echo failed >>/out/said
    ls -l /stick >>/out/said
    umount /stick
  done
done
echo $trips >/out/trips
cmp /m/model /dev/shm/to/m.fulgur && echo same >/out/same"""


def fat_stick(s):
    """A model over a real FAT that is smaller than it."""
    _, drivers = machine.kernel()
    modules = ["block/loop", "../fs/fat/fat", "../fs/fat/vfat", "../fs/nls/nls_cp437", "../fs/nls/nls_ascii",
               "../fs/nls/nls_utf8"]
    for m in modules:
        if os.path.exists(f"{drivers}/{m}.ko"):
            s.vm.add(f"{drivers}/{m}.ko", f"modules/{os.path.basename(m)}.ko")
    mib = max(34, os.path.getsize(MODEL) // 3 >> 20)
    files, console = s.vm.boot("fat_stick", [(2, 1024)], "\n".join(
        [f"insmod /modules/{os.path.basename(m)}.ko >>/out/said 2>&1" for m in modules] + [CARRY % mib]), 5 * RUN_SECONDS)
    if not check("fat_stick.boot", files is not None, console[-2000:]):
        return
    said = files.get("said", b"").decode("utf-8", "replace")
    check("fat_stick.same", files.get("same") == b"same\n" and int(files["trips"]) >= 3 and "failed" not in said
          and ": complete, " in said, (files.get("trips"), said[-2000:]))


def make_model():
    made = run("synth", MODEL, "--shape", f"{HERE}/vm/config.json", "--recipe", f"{HERE}/vm/recipe.txt")
    check("model", made[0] == 0, made)
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
        check(f"control.owners_of_{n}_shifted_by_one_node",
              good and shifted.startswith(f"of {len(owner)} pages {len(owner)} on another"), shifted)
    page = min(owner)
    bad = {"moved": {**where, page: [owner[page] ^ 1]}, "twice": {**where, page: [owner[page]] * 2},
           "missing": {p: k for p, k in where.items() if p != page}}
    for what, pages in bad.items():
        check(f"control.one_page_{what}", owners.judge(pages, owner, model.experts()) != "")


def main():
    if platform.machine() != "x86_64":
        report("skip", "all", f"the machine is an x86-64 and its program that of this {platform.machine()}")
        return
    model = make_model()
    controls(model)
    with open(path("ids.txt"), "w") as f:
        f.write(IDS)
    status, logits, err = run("logits", MODEL, "--ids", path("ids.txt"), "--out", "/dev/stdout")
    check("logits_here", status == 0 and len(logits) == len(IDS.split()) * 4 * model.reader.shape["n_vocab"], err)
    try:
        vm = machine.Vm(tmp, FULGUR, MODEL)
    except machine.Missing as e:
        report("skip", "all", str(e))
        return
    vm.files["bin/inside"] = INSIDE
    s = Suite(vm, model, logits)
    machines = {"1_node": one_node, "2_nodes": two_nodes, "4_nodes": lambda s: many_nodes(s, 4),
                "8_nodes": lambda s: many_nodes(s, 8), "small_node": small_node, "odd_nodes": odd_nodes, "grid": grid, "fat_stick": fat_stick}
    for name in sys.argv[1:] or [m for m in machines if LONG or m not in ("grid", "4_nodes", "fat_stick")]:
        machines[name](s)


main()
finish()
