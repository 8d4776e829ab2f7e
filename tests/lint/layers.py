#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""scripts/check_layers.sh: passes the tree as it is, and sees each thing that it is there to see.

Each control is one file more in a copy of the sources."""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from e2e import check, finish, path

TREE = path("tree")
for folder in ("src", "quant", "simd", "convert", "bench", "tests"):
    shutil.copytree(folder, os.path.join(TREE, folder),
                    ignore=lambda d, names: [n for n in names if os.path.isfile(os.path.join(d, n))
                                             and not n.endswith((".c", ".h", ".inc", ".cu", ".cuh"))])


def lint():
    p = subprocess.run(["sh", "scripts/check_layers.sh"], capture_output=True, text=True,
                       env={**os.environ, "FULGUR_TREE": TREE})
    return p.returncode, p.stdout


def planted(files):
    """(status, output) with these files more in the copy."""
    made = []
    for name, text in files.items():
        full = os.path.join(TREE, name)
        if os.path.exists(full):
            raise SystemExit(f"{name} is there already")
        folder = os.path.dirname(full)
        if not os.path.isdir(folder):
            os.makedirs(folder)
            made.append(folder)
        made.append(full)
        open(full, "w").write(text)
    result = lint()
    for p in reversed(made):
        os.rmdir(p) if os.path.isdir(p) else os.unlink(p)
    return result


def refused(name, files, *words):
    status, out = planted(files)
    check(name, status == 1 and out.count("\n") == 1 and all(w in out for w in words), (status, out))


def accepted(name, files):
    status, out = planted(files)
    check(name, status == 0 and out == "", (status, out))


check("the_tree", subprocess.run(["sh", "scripts/check_layers.sh"]).returncode == 0)
check("a_copy", lint() == (0, ""), lint())
refused("serve_sees_the_model", {"src/serve/zz_serve.c": '#include "src/model/forward.h"\n'},
        "src/serve/zz_serve.c:1", "src/serve may not include src/model/forward.h")
accepted("serve_sees_the_public_header", {"src/serve/zz_serve.c": '#include "src/fulgur.h"\n#include "src/base/mem.h"\n'})
refused("model_sees_the_writer", {"src/model/zz_model.c": '\n#include "src/format/write/writer.h"\n'},
        "src/model/zz_model.c:2", "src/model may not include src/format/write/writer.h")
accepted("model_sees_the_format", {"src/model/zz_model.c": '#include "src/format/reader.h"\n'})
refused("factor_sees_the_format", {"src/factor/zz_factor.c": '#include "src/format/reader.h"\n'}, "src/factor may not")
accepted("factor_sees_the_kernels", {"src/factor/zz_factor.c": '#include "simd/kernels.h"\n#include "src/sys/team.h"\n'})
refused("a_folder_is_not_what_is_below_it", {"src/zz_top.h": '#include "src/model/forward.h"\n'}, "src may not")
refused("a_name_twice", {"src/sys/forward.h": ""}, "src/sys/forward.h", "src/model/forward.h", "another one")
refused("a_type_twice", {"src/sys/zz_sys.h": "typedef struct fg_zz {\n} fg_zz;\ntypedef struct fg_zz {\n} fg_zz;\n"},
        "fg_zz", "src/sys/zz_sys.h:3", "is defined in src/sys/zz_sys.h:1 already")
refused("a_type_in_two_rooms", {"src/sys/zz_sys.h": "typedef enum fg_zz { A } fg_zz;\n",
                                "quant/zz_quant.h": "typedef union fg_zz {\n} fg_zz;\n"}, "fg_zz is defined in")
refused("an_impl_of_another", {"src/format/zz_impl.h": "", "src/expert/zz_expert.c": '#include "src/format/zz_impl.h"\n'},
        "src/format/zz_impl.h is for its own folder")
accepted("an_impl_of_its_own", {"src/format/zz_impl.h": "", "src/format/zz_own.c": '#include "src/format/zz_impl.h"\n'})
for ext in ("cu", "cuh", "inc"):
    refused(f"a_{ext}_file_sees_the_model", {f"simd/zz_kernel.{ext}": '#include "src/model/forward.h"\n'},
            f"simd/zz_kernel.{ext}:1: simd may not include src/model/forward.h")
refused("a_folder_without_rules", {"simd/zz/zz_kernel.cu": "\n"}, "no rule for simd/zz")
refused("a_library_in_another_place", {"src/model/zz_model.c": "#include <omp.h>\n"}, "belongs to src/sys/team.c")
finish()
