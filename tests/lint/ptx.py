#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""scripts/check_ptx.sh: passes the kernels as they are (of a build with nvcc), and sees each thing that it is there to
see."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from e2e import check, finish, path, report

PTX = "build/cuda/module.ptx"
GOOD = """.visible .entry fg_card_x(
	fma.rn.f32 	%f1, %f2, %f3, %f4;
	max.f32 	%f1, %f2, 0fFF800000;
	div.rn.f32 	%f1, %f2, %f3;
	mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r1};
	mad.lo.s32 	%r1, %r2, %r3, %r4;
	// add.ftz.f32 in a comment
"""


def lint(file):
    p = subprocess.run(["sh", "scripts/check_ptx.sh", file], capture_output=True, text=True)
    return p.returncode, p.stdout


def planted(name, line, good=False):
    file = path(name + ".ptx")
    with open(file, "w") as f:
        f.write(GOOD + "\t" + line + "\n")
    status, out = lint(file)
    check("" + name, (status, out) == (0, "") if good else
          status == 1 and out.count("\n") == 1 and f"{file}:8: fg_card_x: {line}" in out, (status, out))


if os.path.exists(PTX):
    check("kernels", lint(PTX) == (0, ""), lint(PTX))
else:
    report("skip", "kernels", "built without nvcc")
planted("nothing", "ret;", True)
planted("flushed", "add.rn.ftz.f32 %f1, %f2, %f3;")
planted("unrounded", "add.f32 %f1, %f2, %f3;")
planted("contracted", "mad.rn.f32 %f1, %f2, %f3, %f4;")
planted("approximate", "ex2.approx.f32 %f1, %f2;")
planted("half_exact", "div.full.f32 %f1, %f2, %f3;")
planted("atomic", "red.global.add.f32 [%rd1], %f1;")
planted("tensor", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1};")
planted("maximum", "max.f32 %f1, %f2, %f3;")
with open(path("empty.ptx"), "w"):
    pass
check("no_kernels", lint(path("empty.ptx"))[0] == 1)
finish()
