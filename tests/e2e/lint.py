#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The lint scripts: the tree passes, and what they forbid is found (negative controls)."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import check, finish, path


def lint(script, *files, tree=None):
    """(status, output) of a script, over FILES or a whole tree."""
    env = {**os.environ, **({"FULGUR_TREE": tree} if tree else {})}
    p = subprocess.run(["sh", "scripts/" + script, *files], capture_output=True, env=env)
    return p.returncode, (p.stdout + p.stderr).decode()


def docs(name, ending, text, wanted):
    """The line of a file with this text that check_docs.sh complains of; None: of none."""
    file = path(name + ending)
    with open(file, "w") as f:
        f.write(text)
    status, out = lint("check_docs.sh", file)
    good = (status, out) == (0, "") if wanted is None else status == 1 and out.count("\n") == 1 and \
        f"{file}:{wanted[0]}: {wanted[1]}," in out
    check("docs." + name, good, (status, out))


def layers(name, file, text, wanted):
    """A tree of this one file, and what check_layers.sh must say of it; None: nothing."""
    root = path("layers." + name)
    for d in ("src", "quant", "simd", "convert", "bench", "tests", os.path.dirname(file)):
        os.makedirs(os.path.join(root, d), exist_ok=True)
    with open(os.path.join(root, file), "w") as f:
        f.write(text)
    status, out = lint("check_layers.sh", tree=root)
    good = status == 0 and out == "" if wanted is None else status == 1 and wanted in out
    check("layers." + name, good, (status, out))


status, out = lint("check_docs.sh")
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

status, out = lint("check_layers.sh")
check("layers.tree", status == 0, out)
layers("model_reads", "src/model/a.c", '#include "src/format/reader.h"\n', None)
layers("model_writes", "src/model/a.c", '#include "src/format/write/writer.h"\n',
       "src/model/a.c:1: src/model may not include src/format/write/writer.h")
layers("serve_inside", "src/serve/a.c", '#include "src/model/forward.h"\n', "src/serve")
layers("impl_outside", "src/model/a.c", '#include "src/format/a_impl.h"\n', "is for its own folder")
finish()
