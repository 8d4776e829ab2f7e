#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A bundle (scripts/bundle.sh) in an empty chroot, with nothing there but it and a shell, no /proc, /sys or /dev; in a
long run, as root.  Made twice to the same bytes, for this machine and for ARM64, which qemu's user mode then runs.
bundle.py BUNDLE tests one that was made before."""
import glob
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import check, finish, path, report

TOOLS = "sh sed head cut uname sha256sum mkdir cp chmod mv rm rmdir dirname cat ls printf sort grep echo tr find".split()
STRANGE = path("strange")
# an ELF program of 64 bits for AArch64; the interpreter is opened now, outside (F), and gets the name too (P)
ARM = (r":arm:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
       r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:%s:FP")
QUESTION = "Please compute the sum of 4821 and 3657."


def sh(*args, **kw):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800, **kw)
    return p.returncode, p.stdout.decode("utf-8", "replace")


def files(folder):
    return {os.path.join(d, f) for d, _, names in os.walk(folder) for f in names}


def skip(what, why):
    report("skip", what, why)


def fetched(arch, package, file):
    """A file of a Debian package that is not installed; None: it cannot be had."""
    where = os.path.abspath(f"build/bundle/{arch}-{package}")
    if not os.path.exists(f"{where}/{file}"):
        conf = os.path.abspath(f"build/bundle/{arch}/apt/conf")  # of scripts/static_root.sh
        if arch == "arm64" and not os.path.exists(conf):
            return None  # made elsewhere: the system's own apt would fetch this machine's
        os.makedirs(where, exist_ok=True)
        env = {**os.environ, **({"APT_CONFIG": conf} if arch == "arm64" else {})}
        sh("apt-get", "-o", "APT::Sandbox::User=root", "download", package, cwd=where, env=env)
        for deb in glob.glob(f"{where}/*.deb"):
            sh("dpkg-deb", "-x", deb, where)
    return f"{where}/{file}" if os.path.exists(f"{where}/{file}") else None


class Terminal:
    """A command with a terminal of its own, as somebody types on it."""

    def __init__(self, command):
        self.out = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvp(command[0], command)

    def until(self, text, seconds=240):
        end = time.time() + seconds
        while text not in self.out and time.time() < end:
            if select.select([self.fd], [], [], 1)[0]:
                try:
                    self.out += os.read(self.fd, 65536)
                except OSError:
                    break
        good = text in self.out
        seen, self.out = self.out, self.out.split(text, 1)[1] if good else b""
        return good, seen.decode("utf-8", "replace")

    def type(self, text):
        os.write(self.fd, text if isinstance(text, bytes) else text.encode())

    def end(self):
        while select.select([self.fd], [], [], 60)[0]:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Place:
    """An empty machine: a folder with a bundle on a stick, a shell, a home, a desk with a checkpoint."""

    def __init__(self, bundle):
        self.bundle = bundle
        self.manifest = open(bundle + "/MANIFEST").read()
        self.arch = re.search("^arch (.*)$", self.manifest, re.M)[1]
        self.root = path("root-" + self.arch)
        self.other = self.arch != os.uname().machine
        self.why = None
        busybox = "/bin/busybox"
        if self.other:
            busybox = fetched("arm64", "busybox-static", "bin/busybox")
            qemu = fetched("host", "qemu-user-static", "usr/bin/qemu-aarch64-static")
            if busybox is None or qemu is None:
                self.why = "no busybox-static for it, or no qemu-user-static"
                return
            self.rule = ARM % qemu
            os.makedirs(path("binfmt"), exist_ok=True)
        for d in ("bin", "stick", "home", "desk", "opt"):
            os.makedirs(os.path.join(self.root, d))
        shutil.copy(busybox, self.root + "/bin/busybox")
        for tool in TOOLS:
            os.symlink("busybox", f"{self.root}/bin/{tool}")
        shutil.copytree(bundle, self.root + "/stick/b")
        shutil.copytree("tests/models/m1-nano", self.root + "/desk/nano")
        for d in ("home", "desk", "opt"):
            sh("chown", "-R", "1000:1000", os.path.join(self.root, d))
        if self.other and self.run("uname -m") != (0, "aarch64\n"):
            self.why = "the kernel does not start programs of another machine: " + self.run("uname -m")[1]

    def command(self, script, outside=(), noexec=()):
        """In the chroot, as somebody without rights, whose home is /home; `outside` is what the program is started by."""
        jail = [shutil.which("chroot") or "/usr/sbin/chroot", "--userspec=1000:1000", self.root, "/bin/sh", "-c", script]
        bound = "".join(f"mount --bind {self.root}{d} {self.root}{d} && mount -o remount,bind,nosuid,noexec{more} {self.root}{d} && " for d, more in noexec)
        words = [*outside, *jail]
        if noexec:
            words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", bound + 'exec "$@"', "sh", *words]
        if self.other:
            words = [STRANGE, "arm", path("binfmt"), self.rule, *words]
        return ["env", "-i", "PATH=/home/.local/bin:/bin:/usr/bin:/usr/sbin:/sbin", "HOME=/home", "TERM=xterm", *words]

    def run(self, script, **how):
        return sh(*self.command(script, **how))

    def name(self, what):
        return f"{what}.{self.arch}"

    def check(self, what, good, why=""):
        return check(self.name(what), good, why)


def what_it_is(p):
    program = p.bundle + "/bin/fulgur"
    status, out = sh("ldd", program)
    p.check("static", "not a dynamic executable" in out or "statically linked" in out, out)
    # the control: what is dynamic names its interpreter
    p.check("no_interpreter", b"/ld-linux" not in open(program, "rb").read() and b"/ld-linux" in open("/bin/sh", "rb").read())
    sbom = json.load(open(p.bundle + "/SBOM.spdx.json"))
    linked = {x["name"]: x for x in sbom["packages"]}
    p.check("sbom", {"hwloc", "cjson", "libopenblas-serial-dev", "libxxhash-dev", "libpcre2-dev", "libutf8proc-dev", "libedit-dev",
                     "liburing-dev", "libssl-dev", "libncurses-dev"} <= set(linked)
            and all(x["versionInfo"] and x["licenseDeclared"] for x in linked.values()) and not any("pthread" in n for n in linked), sorted(linked))
    licences = set(os.listdir(p.bundle + "/share/fulgur/licences"))
    p.check("licences", licences == set(linked) and all(os.path.getsize(f"{p.bundle}/share/fulgur/licences/{n}") > 300 for n in licences), set(linked) ^ licences)


def installs_and_works(p):
    """From the stick, from which nothing can be started, to a calibrated file."""
    stick = {"noexec": [("/stick", ",ro")]}
    before = files(p.root)
    p.check("empty", not os.path.exists(p.root + "/proc") and not os.path.exists(p.root + "/sys") and not os.path.exists(p.root + "/dev"))
    status, out = p.run("/stick/b/bin/fulgur --version", **stick)
    p.check("stick_control", status == 126, out)
    status, out = p.run("cd /stick/b && sh install.sh", **stick)
    p.check("install", status == 0 and "checked: every file" in out and "installed" in out and "not proved" in out, out)
    new = files(p.root) - before
    p.check("nothing_outside", new != set() and all(f.startswith(p.root + "/home/.local/") for f in new), [f for f in new if "/home/.local/" not in f])
    words = 100 if p.other else 400  # qemu takes its time
    status, out = p.run(f"cd /desk && fulgur convert nano n.fulgur && fulgur verify n.fulgur && fulgur run n.fulgur -p 'Once upon a time' -n {words} "
                        "--seed 1 --ignore-eos >t.txt && fulgur convert nano c.fulgur --calib t.txt && fulgur verify c.fulgur")
    p.check("convert", status == 0 and out.count(": good,") == 2, out[-1500:])
    p.check("calibrated", files(p.root + "/desk") >= {p.root + "/desk/c.fulgur"} and
            open(p.root + "/desk/n.fulgur", "rb").read() != open(p.root + "/desk/c.fulgur", "rb").read())
    status, out = p.run(f"cd /desk && fulgur chat n.fulgur -p '{QUESTION}' --temp 0")
    p.check("chat", status == 0 and "8478" in out and "hwloc" not in out and out.count("fulgur: /sys: not there") == 1, out)
    status, out = p.run("fulgur help admin && fulgur help convert && fulgur --help")
    p.check("help", status == 0 and "Executable memory" in out, out[-500:])


def talks(p):
    """A conversation as it is typed: letters of more than a byte, arrows, a paste; kept, and gone on with."""
    os.system(f"rm -rf {p.root}/home/.local/state")
    t = Terminal(p.command("cd /desk && exec fulgur chat n.fulgur --temp 0 -n 8 --session talk"))
    good = [t.until(b"> ")]
    t.type("hllo" + "\x1b[D" * 3 + "é" + "\r")  # the é goes behind the h
    good.append(t.until(b"> "))
    t.type("\x1b[200~first line\nsecond line\x1b[201~\r")
    good.append(t.until(b"> "))
    t.type("/help\r")
    good.append(t.until("/save".encode()))
    good.append(t.until(b"> "))
    t.type("/export talk.jsonl\r")
    good.append(t.until(b"> "))
    t.type(b"\x04")
    status = t.end()
    p.check("typed", status == 0 and all(g for g, _ in good), (status, good))
    said = [json.loads(line) for line in open(p.root + "/desk/talk.jsonl")] if os.path.exists(p.root + "/desk/talk.jsonl") else []
    said = [str(m.get("content", m.get("text"))) for m in said if m.get("role") == "user"]
    p.check("typed_text", said == ["héllo", "first line\nsecond line"], said)
    t = Terminal(p.command("cd /desk && exec fulgur chat n.fulgur --temp 0 -n 8 --resume"))
    good = [t.until(b"(session talk: 2 turns)"), t.until(b"> ")]
    t.type("/quit\r")
    status = t.end()
    p.check("resumed", status == 0 and all(g for g, _ in good), (status, good))
    status, out = p.run("cd /desk && rm -f talk.jsonl && fulgur session list && fulgur session rm talk")
    p.check("session", status == 0 and "talk" in out, out)
    os.system(f"rm -rf {p.root}/home/.local/state")


def on_strange_machines(p):
    """Home without programs, memory that cannot be executed, a scanner."""
    before = files(p.root)
    status, out = p.run("cd /stick/b && sh install.sh --prefix /home/there", noexec=[("/home", "")])
    p.check("home_noexec", status == 1 and out.count("fulgur: ") == 1 and "programs do not run there (mounted noexec?), expected --prefix" in out
            and files(p.root) == before, (out, files(p.root) - before))
    status, out = p.run("cd /stick/b && sh install.sh --prefix /opt/f && /opt/f/bin/fulgur --version && sh install.sh --prefix /opt/f --uninstall", noexec=[("/home", "")])
    p.check("elsewhere", status == 0 and files(p.root) == before, out)
    ask = f"cd /desk && exec fulgur chat n.fulgur -p '{QUESTION}' --temp 0 --stats none"
    usual = p.run(ask)
    if p.other:
        return  # qemu itself makes code
    status, out = p.run(ask, outside=[STRANGE, "nox"])
    p.check("no_executable_memory", (status, out) == usual and "8478" in out, (out, usual))
    slow = {n: subprocess.Popen(p.command(s, outside=[STRANGE, "slow", "60", ".fulgur"]), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for n, s in (("chat", ask), ("verify", "exec fulgur verify /desk/n.fulgur"), ("run", "exec fulgur run /desk/n.fulgur -p a -n 1"))}
    for n, q in slow.items():
        out, err = q.communicate(timeout=300)
        waits = re.findall(rb"^fulgur: n\.fulgur: not open after (\d+) s", err, re.M)
        p.check(f"scanner_{n}", q.returncode == 0 and waits[:2] == [b"5", b"35"] and (n != "chat" or b"8478" in out), (out, err))
    start = time.time()
    t = Terminal(p.command("cd /desk && exec fulgur chat n.fulgur -n 4", outside=[STRANGE, "slow", "10", ".fulgur"]))
    good = [t.until(b"opening n.fulgur, "), t.until(b"> ")]
    t.type("/quit\r")
    p.check("scanner_terminal", t.end() == 0 and all(g for g, _ in good) and time.time() - start > 9, good)


def replaced_and_removed(p):
    p.check("again", p.run("cd /stick/b && sh install.sh")[0] == 0)
    manifest = p.root + "/home/.local/share/fulgur/MANIFEST"
    text = open(manifest).read()
    open(manifest, "w").write(re.sub(r"^epoch .*$", "epoch 99999999999", text, flags=re.M))
    status, out = p.run("cd /stick/b && sh install.sh")
    p.check("older_over_newer", status == 1 and "--downgrade" in out and out.count("\nfulgur: ") == 1, out)
    p.check("downgrade", p.run("cd /stick/b && sh install.sh --downgrade")[0] == 0)
    with open(p.root + "/stick/b/share/fulgur/terminfo/x/xterm", "ab") as f:
        f.write(b"x")
    status, out = p.run("cd /stick/b && sh install.sh")
    p.check("damage", status == 1 and "share/fulgur/terminfo/x/xterm: damaged" in out, out)
    status, out = p.run("cd /stick/b && sh install.sh --uninstall")
    p.check("uninstall", status == 0 and not files(p.root + "/home") and os.path.exists(p.root + "/desk/n.fulgur"), (out, files(p.root + "/home")))


def has_card_program(p):
    """fulgur-gpu: the C library from the machine, all else inside; without a driver one line, or the answer without a card."""
    program = p.bundle + "/bin/fulgur-gpu"
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", sh("readelf", "-d", program)[1]))
    p.check("gpu_needs", needed and all(re.match(r"lib(c|m|dl|pthread)\.so|ld-linux", n) for n in needed), needed)
    model = p.root + "/desk/n.fulgur"
    status, out = sh(program, "run", model, "-p", "a", "-n", "1", "--gpu", "0", "--no-sandbox", "-q")
    p.check("gpu_no_driver", status == 1 and out.startswith("fulgur: gpu 0: no driver (libcuda") and out.count("\n") == 1, out)
    p.check("gpu_off", sh(program, "run", model, "-p", "Once upon a time", "-n", "8", "--temp", "0", "-q") ==
            sh(p.bundle + "/bin/fulgur", "run", model, "-p", "Once upon a time", "-n", "8", "--temp", "0", "-q"))
    status, out = sh(p.bundle + "/bin/fulgur", "run", model, "-p", "a", "-n", "1", "--gpu", "0", "-q")
    p.check("gpu_static_says_who", status == 1 and "fulgur-gpu" in out and out.count("\n") == 1, out)
    # in the chroot there is no C library to share: left out, with a line
    status, out = p.run("cd /stick/b && sh install.sh --prefix /opt/g; ls /opt/g/bin")
    p.check("gpu_left_out", status == 0 and "left out: fulgur-gpu" in out and out.endswith("\nfulgur\n"), out)
    sh("rm", "-rf", p.root + "/opt/g")
    prefix = path("with-libraries")
    status, out = sh("sh", p.bundle + "/install.sh", "--prefix", prefix)
    p.check("gpu_installed", status == 0 and "with a card: fulgur-gpu" in out and sh(prefix + "/bin/fulgur-gpu", "--version")[0] == 0, out)
    status, out = sh("sh", p.bundle + "/install.sh", "--uninstall", "--prefix", prefix)
    p.check("gpu_uninstalled", status == 0 and not files(prefix), out)


def has_model(p):
    at = p.bundle + "/models"
    listed = re.findall(r"^file ([0-9a-f]{64}) \d+ models/(\S+)$", p.manifest, re.M)
    p.check("model_listed", listed and {n for _, n in listed} == set(os.listdir(at)), listed)
    status, out = p.run("fulgur verify /stick/b/models/" + listed[0][1])
    p.check("model_verifies", status == 0 and "good" in out, out)
    status, out = sh("tar", "-tzf", p.bundle + ".tar.gz")
    p.check("model_not_in_tar", status == 0 and "models/" not in out and "/bin/fulgur\n" in out, out[-300:])


def make(name, *args, cache=None):
    env = {**os.environ, **({"BUNDLE_CACHE": cache} if cache else {})}
    status, out = sh("sh", "scripts/bundle.sh", *args, path(name), env=env)
    return check("made_" + name, status == 0, out)


def made():
    """Bundles of this tree: each twice, the second time from its packages alone, in another folder."""
    fulgur = os.environ.get("FULGUR", "build/gcc/fulgur")
    check("model", sh(fulgur, "convert", "tests/models/m1-nano", path("m.fulgur"), "-q")[0] == 0)
    gpu = ["--gpu"] if shutil.which("nvcc") or os.path.exists("/usr/local/cuda/bin/nvcc") else []
    bundles = []
    for name, args, debs in (("here", [*gpu, "--model", path("m.fulgur")], {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]),
                             ("arm", ["--arch", "aarch64"], "arm64")):
        if name == "arm" and not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")):
            skip("arm", "no gcc-aarch64-linux-gnu or qemu-user")
            continue
        if not make(name, *args):
            continue
        bundles.append(path(name))
        shutil.copytree(f"build/bundle/{debs}/debs", path(f"cache/{debs}/debs"))
        if make(name + "_again", *args, cache=path("cache")):
            check("same_bytes_" + name, open(path(name) + ".tar.gz", "rb").read() == open(path(name) + "_again.tar.gz", "rb").read())
        shutil.rmtree(path("cache"))
    return bundles


if len(sys.argv) < 2 and not os.environ.get("FULGUR_TEST_LONG") or os.geteuid() != 0 or not os.path.exists("/bin/busybox"):
    skip("bundle", "in a long run, or with BUNDLE; as root, with busybox-static")
    report("ok  ", "nothing_to_do")
    finish()
subprocess.run(["gcc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-o", STRANGE, "tests/e2e/strange.c"], check=True)
for b in [os.path.abspath(b) for b in sys.argv[1:]] or made():
    place = Place(b)
    what_it_is(place)
    if place.why:
        skip(place.name("chroot"), place.why)
        continue
    installs_and_works(place)
    talks(place)
    on_strange_machines(place)
    if os.path.exists(b + "/bin/fulgur-gpu") and not place.other:
        has_card_program(place)
    if os.path.exists(b + "/models"):
        has_model(place)
    replaced_and_removed(place)
finish()
