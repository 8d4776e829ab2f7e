#!/usr/bin/env python3
"""Cuts the golden vectors of ../shared down to what the repository carries.

usage: make_golden.py SHARED OUT

Copies the tiny oracle checkpoints that are committed, and of each golden.safetensors keeps all
token ids but the logits, hidden states and experts of some rows only; `rows` says which.  The tests
run on the full set as well where ../shared is present.  Python standard library only.
"""
import json
import os
import shutil
import struct
import sys

TASKS = {"add", "sub", "cmp", "have", "id"}
SIZE = {"F32": 4, "I32": 4, "U8": 1, "BF16": 2}
MODELS = ["orig-base", "orig-heads6", "orig-prenorm", "orig-top1", "orig-wide", "hf-long"]


def load(path):
    raw = open(path, "rb").read()
    (n,) = struct.unpack("<Q", raw[:8])
    head = json.loads(raw[8 : 8 + n])
    head.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], raw[8 + n + v["data_offsets"][0] : 8 + n + v["data_offsets"][1]])
            for k, v in head.items()}


def save(path, tensors):
    head, at = {}, 0
    for k, (dtype, shape, data) in tensors.items():
        head[k] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            f.write(data)


def pick(tensor, axis, rows):
    """Rows of one axis (0 or 1)."""
    dtype, shape, data = tensor
    outer = 1 if axis == 0 else shape[0]
    count = shape[axis]
    inner = SIZE[dtype]
    for d in shape[axis + 1 :]:
        inner *= d
    out = b"".join(data[(o * count + r) * inner : (o * count + r + 1) * inner]
                   for o in range(outer) for r in rows)
    return dtype, shape[:axis] + [len(rows)] + shape[axis + 1 :], out


def i32(values):
    return "I32", [len(values)], struct.pack(f"<{len(values)}i", *values)


def main(shared, out):
    for name in MODELS:
        src, dst = os.path.join(shared, "oracle", name), os.path.join(out, "oracle", name)
        os.makedirs(dst, exist_ok=True)
        for f in ("config.json", "model.safetensors"):
            shutil.copyfile(os.path.join(src, f), os.path.join(dst, f))
        g = load(os.path.join(src, "golden.safetensors"))
        n = g["input_ids"][1][0]
        rows = sorted({0, 1, 62, 63, 64, 65, 127, 128, 255, 256, 257, n - 1} | set(range(0, n, 7 if n < 500 else 31)))
        small = {"input_ids": g["input_ids"], "rows": i32(rows), "logits": pick(g["logits"], 0, rows),
                 "hidden": pick(g["hidden"], 1, rows)}
        if "experts" in g:
            small["experts"] = pick(g["experts"], 1, rows)
        save(os.path.join(dst, "golden.safetensors"), small)
    g = load(os.path.join(shared, "nano-eval", "golden.safetensors"))
    dst = os.path.join(out, "nano")
    os.makedirs(dst, exist_ok=True)
    for prompt in ("chat", "story"):
        n = g[prompt + ".input_ids"][1][0]
        rows = list(range(0, n, 6 if n > 20 else 4)) + [n - 1]
        rows = sorted(set(rows))
        small = {"input_ids": g[prompt + ".input_ids"], "rows": i32(rows), "nll": g[prompt + ".nll"],
                 "greedy_ids": g[prompt + ".greedy_ids"], "logits": pick(g[prompt + ".logits"], 0, rows)}
        e = pick(g[prompt + ".experts"], 1, rows)
        small["experts"] = ("I32", e[1], struct.pack(f"<{len(e[2])}i", *e[2]))
        if prompt + ".hidden" in g:
            small["hidden"] = pick(g[prompt + ".hidden"], 1, rows)
        save(os.path.join(dst, prompt + ".safetensors"), small)
    # the tasks that the tests ask; the others quote book texts, which are not committed
    with open(os.path.join(shared, "nano-eval", "tasks.jsonl")) as f, open(os.path.join(dst, "tasks.jsonl"), "w") as out_f:
        out_f.writelines(line for line in f if json.loads(line)["task"] in TASKS)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
