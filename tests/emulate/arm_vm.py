#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The sandbox on ARM64: a virtual machine with Debian's kernel, in which the static program and tests/sys/test_sandbox
run; and once more with a kernel whose Landlock is off.
arm_vm.py BUILD: the folder with both, static (scripts/emulate.sh program, in a long run)."""
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE + "/../e2e", HERE + "/vm"]
import machine  # noqa: E402
from e2e import check, finish, nano, path, report  # noqa: E402

QEMU = "qemu-system-aarch64"
ROOT = os.path.abspath("build/bundle/arm64")
BUILD = sys.argv[1]
SECONDS = 600
INIT = """#!/bin/busybox sh
export PATH=/bin HOME=/tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
ifconfig lo up
uname -srm
fulgur doctor --help >/dev/null && echo "<<started>>"
fulgur run /n.fulgur -p 'Once upon a time' -n 8 --temp 0 -t 2 >/tmp/out 2>/tmp/err
echo "<<run $?>>"; cat /tmp/out; echo; echo "<<said>>"; cat /tmp/err; echo "<<end>>"
fulgur run /n.fulgur -p 'Once upon a time' -n 8 --temp 0 -t 2 --ram 1G -q >/tmp/out2; cmp /tmp/out /tmp/out2 && echo "<<ram 0>>"
cd /tmp && test_sandbox; echo "<<test $?>>"
poweroff -f
"""


def why_not():
    for tool in (QEMU, "apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            return tool + " is missing"
    return None if os.path.exists(ROOT + "/apt/conf") else "no apt for arm64: its packages were here already"


def parts():
    """{name in the initramfs: bytes}, and the kernel."""
    env = {**os.environ, "APT_CONFIG": ROOT + "/apt/conf"}
    image, _ = machine.kernel("arm64", env)
    box = os.path.abspath("build/bundle/arm64-busybox-static")
    if not os.path.exists(box + "/bin/busybox"):
        os.makedirs(box, exist_ok=True)
        machine.call("apt-get", "-o", "APT::Sandbox::User=root", "download", "busybox-static", cwd=box, env=env)
        for deb in os.listdir(box):
            machine.call("dpkg-deb", "-x", f"{box}/{deb}", box)
    names = {"bin/busybox": box + "/bin/busybox", "bin/fulgur": BUILD + "/fulgur", "bin/test_sandbox": BUILD + "/tests/sys/test_sandbox", "n.fulgur": path("n.fulgur")}
    files = {d: None for d in ("bin", "dev", "proc", "sys", "tmp")}
    files.update({n: open(f, "rb").read() for n, f in names.items()}, init=INIT.encode())
    return files, image


def boot(image, initrd, options):
    """What its console said."""
    command = [QEMU, "-accel", "tcg,thread=multi", "-machine", "virt", "-cpu", "neoverse-n1", "-smp", "2", "-m", "1536M", "-nodefaults", "-no-user-config",
               "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", image, "-initrd", initrd, "-append", f"console=ttyAMA0 quiet panic=-1 {options}"]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS).stdout.decode("utf-8", "replace").replace("\r", "")
    except subprocess.TimeoutExpired as e:
        return f"no end after {SECONDS} s\n" + (e.stdout or b"").decode("utf-8", "replace").replace("\r", "")


def between(text, a, b):
    return text.split(a, 1)[1].split(b, 1)[0].strip("\n") if a in text and b in text.split(a, 1)[1] else None


why = why_not()
if why is None:
    check("model", nano(path("n.fulgur")) == 0)
    try:
        files, image = parts()
    except machine.Missing as e:
        why = str(e)
if why is not None:
    report("skip", "arm_vm", why)
    report("ok  ", "nothing_to_do")
    finish()
with open(path("initrd"), "wb") as f:
    f.write(machine.cpio(files))
usual = boot(image, path("initrd"), "lsm=landlock,yama")
print(usual)
check("starts", "aarch64" in usual and "<<started>>" in usual, usual[-1500:])
check("no_line", "<<run 0>>" in usual and "sandbox" not in (between(usual, "<<said>>", "<<end>>") or "sandbox"), usual[-1500:])
check("same_through_rings", "<<ram 0>>" in usual, usual[-1500:])
ran = re.search(r"(\d+) passed, (\d+) failed, (\d+) skipped", usual)
check("test_sandbox", "<<test 0>>" in usual and ran and int(ran[1]) >= 4 and ran[2] == ran[3] == "0", usual[-3000:])
without = boot(image, path("initrd"), "lsm=yama")
said = between(without, "<<said>>", "<<end>>") or ""
lines = [x for x in said.split("\n") if x.startswith("fulgur: ")]
check("a_line_without_landlock", "<<run 0>>" in without and len(lines) == 1 and lines[0].startswith("fulgur: sandbox: Landlock: not in this kernel"), said)
check("same_text", between(usual, "<<run 0>>", "<<said>>") == between(without, "<<run 0>>", "<<said>>") != "", without[-1500:])
ran = re.search(r"(\d+) passed, (\d+) failed, (\d+) skipped", without)
check("seccomp_alone", "<<test 0>>" in without and ran and int(ran[3]) > 0, without[-1500:])  # and Landlock's tests skip
finish()
