#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The Debian package (scripts/package_deb.sh): the same bytes twice, what lintian says, and in a bare Debian, made
with debootstrap, installed, used and removed; in a long run.  deb.py DEB tests one that was made before."""
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import check, finish, path, report

APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends "


def sh(*args, **kw):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800, **kw)
    return p.returncode, p.stdout.decode("utf-8", "replace")


def skip(what, why):
    report("skip", what, why)


def errors(deb):
    return [line for line in sh("lintian", "--allow-root", deb)[1].split("\n") if line.startswith("E:")]


given = sys.argv[1:]
if not given and not os.environ.get("FULGUR_TEST_LONG") or not shutil.which("dpkg-shlibdeps"):
    skip("deb", "in a long run, or with DEB; with dpkg-dev")
    report("ok  ", "nothing_to_do")
    finish()
debs = given
if not given:
    for name in ("once", "again"):
        status, out = sh("sh", "scripts/package_deb.sh", path(name), env={**os.environ, "DEB_BUILD": path("build_" + name)})
        check(f"made_{name}", status == 0, out)
        debs.append(os.path.join(path(name), os.listdir(path(name))[0]))
    check("same_bytes", open(debs[0], "rb").read() == open(debs[1], "rb").read())
deb = debs[0]

# ---- what is in it ----
shutil.rmtree(path("tree"), ignore_errors=True)
check("unpacked", sh("dpkg-deb", "-R", deb, path("tree"))[0] == 0)
program = path("tree/usr/bin/fulgur")
names = sh(program, "--help=names")[1].split()
wanted = {"usr/bin/fulgur", "usr/share/man/man1/fulgur.1.gz", "usr/share/bash-completion/completions/fulgur", "usr/share/zsh/vendor-completions/_fulgur",
          "usr/share/doc/fulgur/copyright", "usr/share/doc/fulgur/changelog.Debian.gz", "usr/share/man/man1/fulgur-chat.1.gz"}
there = {os.path.relpath(os.path.join(d, f), path("tree")) for d, _, fs in os.walk(path("tree")) for f in fs}
check("files", wanted <= there and len(names) > 15, wanted - there)
control = open(path("tree/DEBIAN/control")).read()
depends = re.search("^Depends: (.*)$", control, re.M).group(1)
check("depends", all(f"{p} (" in depends for p in ("libc6", "libhwloc15", "libcjson1", "libpcre2-8-0", "libssl3", "liburing2", "libedit2", "libutf8proc2", "libxxhash0")), depends)

# ---- lintian, and that it would say something ----
if not shutil.which("lintian"):
    skip("lintian", "not here")
else:
    check("lintian", errors(deb) == [], errors(deb))
    os.remove(path("tree/usr/share/doc/fulgur/copyright"))
    check("lintian_control", sh("dpkg-deb", "--root-owner-group", "-b", path("tree"), path("bad.deb"))[0] == 0 and "no-copyright-file" in " ".join(errors(path("bad.deb"))))

# ---- on a bare Debian ----
bare = os.environ.get("FULGUR_BARE_DEBIAN") or path("bare")  # the variable: one that was made before
if os.geteuid() != 0 or not shutil.which("debootstrap"):
    skip("bare", "not root, or no debootstrap")
    finish()
if not os.path.exists(bare + "/etc/debian_version"):
    status, out = sh("debootstrap", "--variant=minbase", "bookworm", bare)
    if status != 0:
        skip("bare", "debootstrap: " + out.strip().split("\n")[-1])
        finish()


def inside(script):
    return sh(shutil.which("chroot") or "/usr/sbin/chroot", bare, "/bin/sh", "-c", script, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"})


def state():
    """Packages, and all files that are named after ours."""
    return inside("dpkg -l fulgur 2>/dev/null | grep -c ^[ir].; find / -xdev -name '*fulgur*' ! -path '/given/*' ! -path '/var/lib/apt/*'; ls /var/lib/dpkg/info | grep fulgur")[1]


shutil.rmtree(bare + "/given", ignore_errors=True)
shutil.copytree("tests/models/m1-nano", bare + "/given/nano")
shutil.copy(deb, bare + "/given/f.deb")
check("bare_before", state() == "0\n", state())
status, out = inside("apt-get -qq update && " + APT + "install /given/f.deb")
check("bare_install", status == 0, out)
status, out = inside("cd /given && ldd /usr/bin/fulgur | grep -c 'not found'; fulgur --version && fulgur convert nano n.fulgur -q && fulgur verify n.fulgur && fulgur run n.fulgur -p 'Once' -n 4")
check("bare_works", status == 0 and out.startswith("0\nfulgur "), out)
check("bare_control", len(state().split("\n")) > 10, state())  # state() sees what is installed
status, out = inside(APT + "purge fulgur")
check("bare_remove", status == 0 and state() == "0\n" and os.path.exists(bare + "/given/n.fulgur"), (out, state()))
finish()
