#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A bundle (scripts/bundle.sh) in an empty chroot, with nothing there but it and a shell; in a long run, as root.
bundle.py BUNDLE tests one that was made before."""
import json
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import check, finish, path, report

BUSYBOX = "/bin/busybox"
root = path("root")


def sh(*args, **kw):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800, **kw)
    return p.returncode, p.stdout.decode("utf-8", "replace")


def inside(script, user="1000"):
    """In the chroot, as somebody without rights, whose home is /home."""
    return sh(shutil.which("chroot") or "/usr/sbin/chroot", f"--userspec={user}:{user}", root, "/bin/sh", "-c", script,
              env={"PATH": "/home/.local/bin:/bin", "HOME": "/home", "TERM": "xterm"})


def files(folder):
    return {os.path.join(d, f) for d, _, names in os.walk(folder) for f in names}


def skip(why):
    report("skip", "bundle", why)
    report("ok  ", "nothing_to_do")
    finish()


if len(sys.argv) < 2 and not os.environ.get("FULGUR_TEST_LONG"):
    skip("in a long run, or with BUNDLE")
if os.geteuid() != 0 or not os.path.exists(BUSYBOX):
    skip("not root, or no busybox-static")
bundle = sys.argv[1] if len(sys.argv) > 1 else path("bundle")
if len(sys.argv) < 2:
    for name in ("bundle", "again"):
        status, out = sh("sh", "scripts/bundle.sh", path(name))
        check(f"made_{name}", status == 0, out)
    check("same_bytes", open(path("bundle.tar.gz"), "rb").read() == open(path("again.tar.gz"), "rb").read())

# ---- what it is ----
status, out = sh("ldd", bundle + "/bin/fulgur")
check("static", "not a dynamic executable" in out or "statically linked" in out, out)
sbom = json.load(open(bundle + "/SBOM.spdx.json"))
linked = {p["name"]: p for p in sbom["packages"]}
check("sbom", {"hwloc", "cjson", "libopenblas-serial-dev", "libxxhash-dev", "libpcre2-dev", "libutf8proc-dev", "libedit-dev",
               "liburing-dev", "libssl-dev", "libncurses-dev"} <= set(linked) and all(p["versionInfo"] and p["licenseDeclared"] for p in linked.values())
      and not any("pthread" in n for n in linked), sorted(linked))
check("licences", set(os.listdir(bundle + "/share/fulgur/licences")) == set(linked), set(linked) ^ set(os.listdir(bundle + "/share/fulgur/licences")))

# ---- in a chroot ----
for d in ("bin", "stick", "home", "desk"):
    os.makedirs(os.path.join(root, d))
shutil.copy(BUSYBOX, root + "/bin/busybox")
for tool in "sh sed head cut uname sha256sum mkdir cp chmod mv rm rmdir dirname cat ls printf sort grep echo tr".split():
    os.symlink("busybox", f"{root}/bin/{tool}")
shutil.copytree(bundle, root + "/stick/b")
shutil.copytree("tests/models/m1-nano", root + "/desk/nano")
for d in ("home", "desk"):
    sh("chown", "-R", "1000:1000", os.path.join(root, d))
before = files(root)
status, out = inside("cd /stick/b && sh install.sh")
check("install", status == 0 and "checked: every file" in out and "installed" in out and "not proved" in out, out)
new = files(root) - before
check("nothing_outside", new != set() and all(f.startswith(root + "/home/.local/") for f in new), [f for f in new if "/home/.local/" not in f])
status, out = inside("cd /desk && fulgur convert nano n.fulgur && fulgur verify n.fulgur && fulgur run n.fulgur -p 'Once upon a time' -n 400 "
                     "--seed 1 --ignore-eos >t.txt && fulgur convert nano c.fulgur --calib t.txt && fulgur verify c.fulgur")
check("convert", status == 0 and out.count(": good,") == 2, out[-1500:])
status, out = inside("cd /desk && fulgur chat n.fulgur -p 'Please compute the sum of 4821 and 3657.' --temp 0")
check("chat", status == 0 and "8478" in out, out)
status, out = inside("fulgur help admin && fulgur help convert && fulgur --help")
check("help", status == 0 and "Executable memory" in out, out[-500:])

# ---- again, older, damaged, away ----
check("again", inside("cd /stick/b && sh install.sh")[0] == 0)
manifest = root + "/home/.local/share/fulgur/MANIFEST"
text = open(manifest).read()
open(manifest, "w").write(re.sub(r"^epoch .*$", "epoch 99999999999", text, flags=re.M))
status, out = inside("cd /stick/b && sh install.sh")
check("older_over_newer", status == 1 and "--downgrade" in out and out.count("\nfulgur: ") == 1, out)
check("downgrade", inside("cd /stick/b && sh install.sh --downgrade")[0] == 0)
with open(root + "/stick/b/share/fulgur/terminfo/x/xterm", "ab") as f:
    f.write(b"x")
status, out = inside("cd /stick/b && sh install.sh")
check("damage", status == 1 and "share/fulgur/terminfo/x/xterm: damaged" in out, out)
status, out = inside("cd /stick/b && sh install.sh --uninstall")
check("uninstall", status == 0 and not [f for f in files(root + "/home")] and os.path.exists(root + "/desk/n.fulgur"), (out, files(root + "/home")))
finish()
