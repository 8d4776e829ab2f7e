#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Executes the tutorials of fulgur help: every line that begins with "  $ ", in a fresh folder, as a shell would.
tutorials.py BUNDLE: those of a bundle too ("  stick$ ", in its folder), whose program is then used."""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import FULGUR, check, finish, path, run

BUNDLE = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else None
NAMES = ["tutorial-convert", "tutorial-terminal", "tutorial-numa", "tutorial-offline"]
WANT = {  # what a line's output must hold
    "fulgur verify mine.fulgur": "signed", "fulgur carry unpack": "", "fulgur key ours.pub": " ",
    "fulgur verify": "good", "fulgur info m1.fulgur --plot": "", "fulgur info m1.fulgur --placement": "", "fulgur info m1": "weights", "fulgur score": "perplexity", "fulgur chat -p": "8478",
    "fulgur chat m1.fulgur -p": "8478", "fulgur run": "", "fulgur plan": "tok/s", "fulgur numa MiniMax-M1-80k/config.json --predict": "slice",
    "fulgur doctor --topology": "node", "fulgur --version": "fulgur ", "sh install.sh --uninstall": "uninstalled", "sh install.sh": "installed",
}


def lines(text, marks):
    """[(mark, command)] of a page, in its order."""
    return re.findall(rf"^  ({'|'.join(re.escape(m) for m in marks)}) (.*)$", text, re.M)


def execute(page, work, marks, env):
    """False and why at the first line that fails or says something else."""
    text = page if "\n" in page else run("help", page)[1].decode()
    found = lines(text, marks)
    script = "cd \"$WORK\"\n"
    for mark, command in found:
        where = f"cd '{BUNDLE}'" if mark == "stick$" else "cd \"$WORK\""
        script += f"{where}; printf '\\n>>> %s\\n' '{len(script)}'\n{command} || {{ echo \"FAILED $?\"; exit 1; }}\n"
    p = subprocess.run(["sh", "-c", script], capture_output=True, env={**env, "WORK": work}, timeout=600)
    parts = p.stdout.decode("utf-8", "replace").split("\n>>> ")[1:]
    if p.returncode != 0 or len(parts) != len(found):
        return False, (found[len(parts) - 1:len(parts)], parts[-1:], p.stderr[-600:])
    for (_, command), part in zip(found, parts):
        want = next((w for c, w in WANT.items() if command.startswith(c) and ">" not in command), "")
        if want not in part:
            return False, (command, part[-600:], want)
    return len(found) > 0, "no lines"


def place(name):
    """A folder with the checkpoint, and the program in the way there."""
    work = path(name)
    os.makedirs(work + "/bin")
    os.symlink(os.path.abspath("tests/models/m1-nano"), work + "/MiniMax-M1-80k")
    if BUNDLE is None or name == "usual":
        os.symlink(os.path.abspath(FULGUR), work + "/bin/fulgur")
    return work, {**os.environ, "PATH": work + "/bin:" + os.environ["PATH"], "HOME": work}


pages = {n: run("help", n)[1].decode() for n in NAMES}
check("pages", all(len(p) > 800 and max(map(len, p.split("\n"))) <= 100 for p in pages.values()),
      {n: [line for line in p.split("\n") if len(line) > 100] for n, p in pages.items()})
if BUNDLE is None:
    work, env = place("usual")
    for n in NAMES:
        good, why = execute(n, work, ["$"], env)
        check(n, good, why)
    # controls: a line that fails, and one that says something else
    check("fails_control", not execute("x\n  $ fulgur verify MiniMax-M1-80k\n", work, ["$"], env)[0])
    check("output_control", not execute("x\n  $ fulgur info m1.fulgur >/dev/null && echo fulgur info m1 | sed s/m1//\n"
                                        "  $ fulgur --version | sed s/fulgur//\n", work, ["$"], env)[0])
else:
    work, env = place("stick")
    os.symlink(os.path.abspath(FULGUR), work + "/other")
    subprocess.run([FULGUR, "convert", "tests/models/m1-nano", work + "/m1.fulgur"], check=True, capture_output=True)
    env["HOME"] = work
    good, why = execute("tutorial-offline", work, ["$", "stick$"], env)
    check("tutorial-offline_of_a_bundle", good, why)
finish()
