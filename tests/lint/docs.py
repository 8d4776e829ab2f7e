#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""scripts/check_docs.sh: passes the tree as it is, and finds names of files that are not there."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from e2e import check, finish, path


def lint(*files):
    """(status, output) of the script, over FILES or the tree."""
    p = subprocess.run(["sh", "scripts/check_docs.sh", *files], capture_output=True)
    return p.returncode, (p.stdout + p.stderr).decode()


def docs(name, ending, text, wanted):
    """The line of a file with this text that check_docs.sh complains of; None: of none."""
    file = path(name + ending)
    with open(file, "w") as f:
        f.write(text)
    status, out = lint(file)
    good = (status, out) == (0, "") if wanted is None else status == 1 and out.count("\n") == 1 and \
        f"{file}:{wanted[0]}: {wanted[1]}," in out
    check("docs." + name, good, (status, out))


status, out = lint()
check("docs.tree", status == 0, out)
docs("a_file", ".md", "One:\n`src/model/MODEL.md`, `lightning.c`, `*_impl.h`, `sh scripts/test.sh long`, `tests/models`.\n", None)
docs("not_a_path", ".md", "`OUT.1`, `--cpu amx`, `config.json`, `a/b`; src/no_such.c without quotes.\n", None)
docs("no_file", ".md", "One:\n`src/model/no_such.c`.\n", (2, "src/model/no_such.c"))
docs("no_short_name", ".md", "`lightnings.c`\n", (1, "lightnings.c"))
docs("no_folder", ".md", "`src/no_such`\n", (1, "src/no_such"))
docs("no_glob", ".md", "`*_no_such.h`\n", (1, "*_no_such.h"))
docs("comment", ".c", '#include "gone.h"\nint a; /* as lightning.c */\nconst char *b = "gone.c /* gone.c";\n', None)
docs("stale_comment", ".c", "int a; /* one\n * (gone.c) */ int b;\n", (2, "gone.c"))
docs("stale_script", ".sh", "#!/bin/sh\n# as scripts/gone.sh does\n", (2, "scripts/gone.sh"))
finish()
