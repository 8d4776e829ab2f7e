#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A random checkpoint in the shard layout of the MiniMax-M1 release, at any scale.

    python3 scripts/synth_checkpoint.py DIR --layers 2 --experts 4 --hidden 256 --ffn 384 --vocab 1000

writes config.json, model.safetensors.index.json and the shards.  What is imitated, because a converter
must live with it:

* order: the embedding alone in file 0; then groups of layers (0-20, 21-39, 40-60, 61-79), in each of
  them attention, norms, router and expert 0 of all its layers, then expert 1 of all its layers, ...;
  final norm and lm_head follow expert 0 of the last group.  So one layer lies in a third of a group's files;
* names: model-00000-of-00413, counted from zero, with the number of files after "of";
* index: weight_map first, then metadata;  routers F32, everything else BF16.

Without --index the layout comes from the rules below; the cuts between the release's files follow no
rule of size that we could find, so they are a table, and other shapes are cut after as many bytes as 19.5
expert matrices have.  With --index FILE the tensors of that index are written, in its files and its
order; sizes must then fit its names (--layers and --experts are read from it).

Weights repeat a block of Gaussian values (standard deviation 0.02, norms 1 +- 0.1), each tensor from a
place of its own, which depends on the name and the seed only.  Standard library only; 1 GB/s or so.
"""
import argparse
import array
import hashlib
import json
import math
import os
import random
import re
import struct
import sys

GROUPS = (21, 40, 61)  # first layers of the release's groups but the first
# Tensors in each file of the release: (file lengths, how often).
CUTS = (([1, 25, 27, 30, 27, 23, 30, 27, 24], 1), ([20, 19], 50), ([29, 23, 27, 30, 23, 27, 30], 1),
        ([19, 20], 45), ([22, 23, 27, 30, 23, 27, 30, 23, 26], 1), ([19, 20], 49),
        ([19, 18, 29, 27, 23, 30, 27, 23, 30], 1), ([20, 19], 45), ([12], 1))
N_VALUE = (1 << 20) + 7  # of the block: no row length divides it


def parse_args():
    p = argparse.ArgumentParser(description="random checkpoint in the release's shard layout",
                                epilog="example: synth_checkpoint.py /data/two-layers --layers 2 --vocab 64000")
    p.add_argument("dir", help="folder to create or fill")
    p.add_argument("--index", help="model.safetensors.index.json to imitate")
    p.add_argument("--layers", type=int, default=80)
    p.add_argument("--experts", type=int, default=32)
    p.add_argument("--hidden", type=int, default=6144)
    p.add_argument("--ffn", type=int, default=9216)
    p.add_argument("--heads", type=int, default=64)
    p.add_argument("--kv-heads", type=int, default=8)
    p.add_argument("--head-dim", type=int, default=128)
    p.add_argument("--vocab", type=int, default=200064)
    p.add_argument("--softmax-every", type=int, default=8, help="every n-th layer has softmax attention")
    p.add_argument("--groups", default=",".join(map(str, GROUPS)), help="first layers of groups 1, 2, ...")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--index-only", action="store_true", help="write config.json and the index, no shard")
    return p.parse_args()


def layer_names(a, layer, softmax):
    pre = f"model.layers.{layer}."
    attn = ("q_proj", "k_proj", "v_proj", "o_proj") if softmax else ("qkv_proj", "output_gate", "norm", "out_proj")
    return ([pre + "input_layernorm.weight"] + [f"{pre}self_attn.{x}.weight" for x in attn]
            + [pre + "post_attention_layernorm.weight", pre + "block_sparse_moe.gate.weight"])


def expert_names(layer, expert):
    return [f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{w}.weight" for w in ("w1", "w3", "w2")]


def ordered_names(a):
    bounds = [0] + [g for g in map(int, filter(None, a.groups.split(","))) if 0 < g < a.layers] + [a.layers]
    names = ["model.embed_tokens.weight"]
    for first, end in zip(bounds, bounds[1:]):
        for e in range(a.experts):
            for layer in range(first, end):
                if e == 0:
                    names += layer_names(a, layer, is_softmax(a, layer))
                names += expert_names(layer, e)
            if e == 0 and end == a.layers:
                names += ["model.norm.weight", "lm_head.weight"]
    return names


def is_softmax(a, layer):
    return (layer + 1) % a.softmax_every == 0


def dims(a, name):
    """(shape, dtype) of a tensor."""
    width = a.heads * a.head_dim
    last = name.rsplit(".", 2)[-2]
    if name in ("model.embed_tokens.weight", "lm_head.weight"):
        return [a.vocab, a.hidden], "BF16"
    if ".self_attn.norm." in name:
        return [width], "BF16"
    if last in ("norm", "input_layernorm", "post_attention_layernorm"):
        return [a.hidden], "BF16"
    if last == "gate":
        return [a.experts, a.hidden], "F32"
    rows = {"qkv_proj": 3 * width, "output_gate": width, "q_proj": width, "k_proj": a.kv_heads * a.head_dim,
            "v_proj": a.kv_heads * a.head_dim, "w1": a.ffn, "w3": a.ffn}
    if last in rows:
        return [rows[last], a.hidden], "BF16"
    if last in ("out_proj", "o_proj"):
        return [a.hidden, width], "BF16"
    if last == "w2":
        return [a.hidden, a.ffn], "BF16"
    sys.exit(f"{name}: unknown tensor, expected one of MiniMax-M1")


def n_bytes(a, name):
    shape, dtype = dims(a, name)
    return math.prod(shape) * (4 if dtype == "F32" else 2)


def lengths_of(a, names):
    """How many tensors each file holds."""
    if (a.layers, a.experts, a.groups) == (80, 32, ",".join(map(str, GROUPS))):
        return [n for run, times in CUTS for n in run * times]
    target = 39 * n_bytes(a, expert_names(0, 0)[0]) // 2
    out, have = [1], 0  # the embedding is alone
    n = 0
    for name in names[1:]:
        n += 1
        have += n_bytes(a, name)
        if have >= target:
            out.append(n)
            n = have = 0
    return out + [n] if n else out


def shards(a):
    """[(file name, [tensor names])] in file order."""
    if a.index:
        with open(a.index, encoding="utf-8") as f:
            weight_map = json.load(f)["weight_map"]
        a.layers = 1 + max(int(x[1]) for x in map(re.compile(r"model\.layers\.(\d+)\.").match, weight_map) if x)
        a.experts = 1 + max(int(x[1]) for x in map(re.compile(r".*\.experts\.(\d+)\.").match, weight_map) if x)
        files = {}
        for name, file in weight_map.items():
            files.setdefault(file, []).append(name)
        return sorted(files.items())
    names = ordered_names(a)
    lengths = lengths_of(a, names)
    out, at = [], 0
    for i, n in enumerate(lengths):
        out.append((f"model-{i:05d}-of-{len(lengths):05d}.safetensors", names[at:at + n]))
        at += n
    assert at == len(names)
    return out


def blocks(seed):
    """{(dtype, is norm): bytes of N_VALUE values}, twice in a row so that any slice of one is there."""
    r = random.Random(seed)
    base = array.array("f", (r.gauss(0.0, 1.0) for _ in range(N_VALUE)))

    def bf16(values):
        bits = array.array("I", values.tobytes())
        return array.array("H", ((u + 0x7fff + (u >> 16 & 1)) >> 16 for u in bits))
    matrix = bf16(array.array("f", (0.02 * x for x in base)))
    norm = bf16(array.array("f", (1.0 + 0.1 * x for x in base)))
    wide = array.array("I", (h << 16 for h in matrix))
    if sys.byteorder == "big":
        for x in (matrix, norm, wide):
            x.byteswap()
    return {("BF16", False): matrix.tobytes() * 2, ("BF16", True): norm.tobytes() * 2,
            ("F32", False): wide.tobytes() * 2}


def write_shard(a, path, names, block):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        shape, dtype = dims(a, name)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n_bytes(a, name)]}
        at += n_bytes(a, name)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".tmp", "wb", buffering=0) as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            shape, dtype = dims(a, name)
            source = memoryview(block[dtype, len(shape) == 1])
            half = len(source) // 2
            digest = hashlib.blake2b(f"{a.seed} {name}".encode(), digest_size=8).digest()
            start = int.from_bytes(digest, "little") % N_VALUE * (half // N_VALUE)
            left = n_bytes(a, name)
            while left:
                left -= f.write(source[start:start + min(left, half)])
    os.replace(path + ".tmp", path)


def config(a):
    c = {"architectures": ["MiniMaxM1ForCausalLM"], "model_type": "minimax_m1",
         "attn_type_list": [int(is_softmax(a, i)) for i in range(a.layers)],
         "head_dim": a.head_dim, "hidden_act": "silu", "hidden_size": a.hidden, "intermediate_size": a.ffn,
         "max_position_embeddings": 10240000, "num_attention_heads": a.heads,
         "num_experts_per_tok": min(2, a.experts), "num_hidden_layers": a.layers,
         "num_key_value_heads": a.kv_heads, "num_local_experts": a.experts, "postnorm": True,
         "rms_norm_eps": 1e-05, "rope_theta": 10000000, "rotary_dim": a.head_dim // 2,
         "shared_intermediate_size": 0, "shared_moe_mode": "sigmoid", "sliding_window": None,
         "tie_word_embeddings": False, "vocab_size": a.vocab}
    for kind in ("full_attention", "linear_attention", "mlp"):
        c[f"layernorm_{kind}_alpha"], c[f"layernorm_{kind}_beta"] = 3.5565588200778455, 1.0
    return c


def main():
    a = parse_args()
    files = shards(a)
    os.makedirs(a.dir, exist_ok=True)
    total = sum(n_bytes(a, n) for _, names in files for n in names)
    index = {"weight_map": {n: file for file, names in files for n in names}, "metadata": {"total_size": total}}
    for name, value in (("config.json", config(a)), ("model.safetensors.index.json", index)):
        with open(os.path.join(a.dir, name), "w", encoding="utf-8") as f:
            json.dump(value, f, indent=2)
            f.write("\n")
    if not a.index_only:
        block = blocks(a.seed)
        for file, names in files:
            write_shard(a, os.path.join(a.dir, file), names, block)
    print(f"{a.dir}: {len(index['weight_map'])} tensors, {len(files)} files, {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
