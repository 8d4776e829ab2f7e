#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Damaged input, seen as a user sees it: each case must give status 1 and one clear line, and leave
no output behind.  Model files, checkpoints, tokenizers, arguments, disk and permissions."""
import json
import os
import resource
import shutil
import signal
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import NANO, ORACLE, check, check_error, check_usage, finish, nano, path, report, run

# ---- model files: truncated, flipped, foreign ----

GOOD = path("good.fulgur")
status, out, err = run("convert", f"{ORACLE}/orig-base", GOOD, "--type", "q4")
check("convert_good", status == 0, err)
good = open(GOOD, "rb").read()
nano(path("nano.fulgur"))
nano = open(path("nano.fulgur"), "rb").read()
IDS = path("ids.txt")
open(IDS, "w").write("1 2 3 4\n")


def damaged(name, data, *words, command=None):
    bad = path("bad.fulgur")
    with open(bad, "wb") as f:
        f.write(data)
    command = command or ["logits", bad, "--ids", IDS, "--out", path("out.f32")]
    check_error(name, run(*[bad if c is None else c for c in command]), *words)
    check(name + "_leaves_nothing", not os.path.exists(path("out.f32")) and
          not os.path.exists(path("out.f32.part")))


for n in (0, 1, 7, 8, 63, 4095, 4096, 8191, 8192, len(good) // 2, len(good) - 4096, len(good) - 1):
    damaged(f"truncated_{n}", good[:n], "bad.fulgur")
for at in (0, 3, 8, 12, 16, 24, 32, 40, 48, 56, 64, 72, 80, 100, 4000, 4088, 4095):
    flipped = bytearray(good)
    flipped[at] ^= 0x10
    damaged(f"header_bit_{at}", bytes(flipped), "bad.fulgur")
dir_at, dir_n = struct.unpack_from("<QQ", good, 32)
for k in range(8):
    flipped = bytearray(good)
    flipped[dir_at + k * (dir_n - 1) // 7] ^= 1 << k
    damaged(f"directory_bit_{k}", bytes(flipped), "bad.fulgur")
damaged("zeros", bytes(8192), "bad.fulgur")
damaged("text_file", b"hello, this is no model\n" * 1000, "bad.fulgur")
damaged("gguf", b"GGUF" + good[4:], "bad.fulgur")
for k in range(4):  # tensor data: verify names the tensor
    flipped = bytearray(nano)
    flipped[(k + 1) * len(nano) // 6] ^= 4
    damaged(f"data_bit_{k}", bytes(flipped), "chunk", command=["verify", None])

# ---- checkpoints ----


def checkpoint(name, change, *words, src=f"{ORACLE}/orig-base", args=(), preexec=None):
    """A copy of a small checkpoint, changed by change(folder), must be refused."""
    folder, out = path("ckpt"), path("out.fulgur")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(src, folder)
    change(folder)
    check_error(name, run("convert", folder, out, *args, preexec=preexec), *words)
    left = [f for f in os.listdir(os.path.dirname(out)) if f.startswith("out.fulgur")]
    check(name + "_leaves_nothing", left == [], left)


def config(**changes):
    def change(folder):
        p = os.path.join(folder, "config.json")
        c = json.load(open(p))
        for k, v in changes.items():
            if v is KeyError:
                del c[k]
            else:
                c[k] = v
        json.dump(c, open(p, "w"))
    return change


def weights(edit):
    """edit(header dict, data bytearray) on model.safetensors."""
    def change(folder):
        p = os.path.join(folder, "model.safetensors")
        raw = open(p, "rb").read()
        (n,) = struct.unpack("<Q", raw[:8])
        head, data = json.loads(raw[8 : 8 + n]), bytearray(raw[8 + n :])
        edit(head, data)
        text = json.dumps(head).encode()
        open(p, "wb").write(struct.pack("<Q", len(text)) + text + data)
    return change


def raw(edit):
    def change(folder):
        p = os.path.join(folder, "model.safetensors")
        data = edit(bytearray(open(p, "rb").read()))
        open(p, "wb").write(data)
    return change


def poke(data, at, value):
    data[at : at + len(value)] = value
    return data


W1 = "model.layers.0.block_sparse_moe.experts.0.w1.weight"


def set_shape(name, shape):
    def edit(head, data):
        head[name]["shape"] = shape
    return edit


def set_value(name, bits):
    def edit(head, data):
        at = head[name]["data_offsets"][0]
        data[at + 10 : at + 12] = struct.pack("<H", bits)
    return edit


def drop(name):
    def edit(head, data):
        begin, end = head.pop(name)["data_offsets"]
        del data[begin:end]
        for v in head.values():
            if "data_offsets" in v and v["data_offsets"][0] >= end:
                v["data_offsets"] = [x - (end - begin) for x in v["data_offsets"]]
    return edit


def rename(old, new):
    def edit(head, data):
        head[new] = head.pop(old)
    return edit


def offsets(name, begin, end):
    def edit(head, data):
        head[name]["data_offsets"] = [begin, end]
    return edit


checkpoint("no_config", lambda f: os.remove(f + "/config.json"), "config.json")
checkpoint("empty_config", lambda f: open(f + "/config.json", "w").close(), "config.json")
checkpoint("config_not_json", lambda f: open(f + "/config.json", "w").write("{'a': 1}"), "config.json")
checkpoint("missing_key", config(num_local_experts=KeyError), "num_local_experts")
checkpoint("minimax_m2", config(model_type="minimax_m2", architectures=["MiniMaxM2ForCausalLM"]), "M2")
checkpoint("shared_experts", config(shared_intermediate_size=64), "shared")
checkpoint("foreign_architecture", config(model_type="llama", architectures=["LlamaForCausalLM"]), "lama")
checkpoint("negative_hidden", config(hidden_size=-64), "hidden_size")
checkpoint("huge_layers", config(num_hidden_layers=1 << 40), "num_hidden_layers")
checkpoint("wrong_type_key", config(vocab_size="many"), "vocab_size")
checkpoint("short_layer_list", config(attn_type_list=[0, 1]), "attn_type_list")
checkpoint("no_weights", lambda f: os.remove(f + "/model.safetensors"), "model.safetensors")
checkpoint("empty_weights", lambda f: open(f + "/model.safetensors", "w").close(), "model.safetensors")
checkpoint("truncated_weights", raw(lambda d: d[: len(d) // 2]), "model.safetensors")
checkpoint("huge_header", raw(lambda d: poke(d, 0, struct.pack("<Q", 1 << 63))), "model.safetensors")
checkpoint("long_header", raw(lambda d: poke(d, 0, struct.pack("<Q", len(d)))), "model.safetensors")
checkpoint("header_not_json", raw(lambda d: poke(d, 8, b"[[[[")), "model.safetensors")
checkpoint("wrong_shape", weights(set_shape(W1, [64, 96])), W1)
checkpoint("overflowing_shape", weights(set_shape(W1, [1 << 33, 1 << 33])), W1)
checkpoint("missing_tensor", weights(drop(W1)), W1)
checkpoint("unknown_tensor", weights(rename(W1, "model.layers.0.extra.weight")), "extra.weight")
checkpoint("negative_offset", weights(offsets(W1, -8, 12280)), W1)
checkpoint("cyclic_offset", weights(offsets(W1, 12288, 0)), W1)
checkpoint("offset_past_end", weights(offsets(W1, 1 << 40, (1 << 40) + 12288)), W1)
checkpoint("nan_weight", weights(set_value(W1, 0x7FC0)), W1, "nan")
checkpoint("inf_weight", weights(set_value(W1, 0xFF80)), W1, "inf")
checkpoint("bad_tokenizer", lambda f: open(f + "/tokenizer.json", "w").write("{}"), "tokenizer.json")
checkpoint("unknown_type", lambda f: None, "q3", args=("--type", "q3"))
checkpoint("no_recipe", lambda f: None, "absent.txt", args=("--recipe", path("absent.txt")))
open(path("recipe.txt"), "w").write("*.w1.weight q9\n")
checkpoint("bad_recipe", lambda f: None, "recipe.txt", args=("--recipe", path("recipe.txt")))


def small_disk():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))


checkpoint("disk_full", lambda f: None, "out.fulgur", preexec=small_disk)


def nano_index(edit):
    def change(folder):
        p = os.path.join(folder, "model.safetensors.index.json")
        x = json.load(open(p))
        edit(x["weight_map"])
        json.dump(x, open(p, "w"))
    return change


S0, S1 = "model-00000-of-00004.safetensors", "model-00001-of-00004.safetensors"
checkpoint("missing_shard", lambda f: os.remove(f"{f}/{S1}"), S1, src=NANO)
checkpoint("index_outside", nano_index(lambda m: m.update({"lm_head.weight": "../x.safetensors"})), "../x", src=NANO)
checkpoint("index_misses", nano_index(lambda m: m.pop("lm_head.weight")), "lm_head", src=NANO)
checkpoint("index_invents", nano_index(lambda m: m.update({"model.more.weight": S0})), "model.more", src=NANO)

# ---- arguments, places, permissions ----

check_error("absent_model", run("run", path("absent.fulgur"), "-p", "x"), "absent.fulgur")
check_error("model_is_folder", run("run", NANO, "-p", "x"), NANO)
check_error("absent_source", run("convert", path("nowhere"), path("o.fulgur")), "nowhere")
shutil.copytree(f"{ORACLE}/orig-base", path("models--a--b/snapshots/0123"))
for args in (["convert", path("models--a--b"), path("o.fulgur")], ["plan", path("models--a--b"), "--ram", "9G"]):
    check_error(f"{args[0]}_of_a_cache", run(*args), "config.json: not there", "models--a--b/snapshots")
check_error("out_folder_absent", run("convert", f"{ORACLE}/orig-base", path("no/o.fulgur")), "no/o.fulgur")
check_error("out_is_folder", run("convert", f"{ORACLE}/orig-base", os.path.dirname(GOOD)))
check_error("no_tokenizer", run("run", GOOD, "-p", "x"), "tokenizer")
check_error("absent_ids", run("logits", GOOD, "--ids", path("none"), "--out", path("o")), "none")
for args in (["convert", f"{ORACLE}/orig-base", "-"], ["synth", "-"], ["logits", GOOD, "--ids", IDS, "--out", "-"]):
    check_error(f"{args[0]}_to_a_dash", run(*args), "output: - ", "expected a file name")
check("no_file_of_that_name", not os.path.exists("-"))
os.mkdir(path("pointers"))
open(path("pointers/tokenizer.json"), "w").write("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
check_error("tokenize_a_pointer", run("tokenize", path("pointers"), "-p", "a"), "a Git LFS pointer")
for more in (["--dir", "."], ["-t", "1"]):
    check_usage(f"topology_and_{more[0].strip('-')}", run("doctor", "--topology", "node:2 core:2 pu:1", *more), "--topology with --")
open(path("words"), "w").write("1 two 3")
check_error("ids_are_words", run("logits", GOOD, "--ids", path("words"), "--out", path("o")), "two")
open(path("big"), "w").write("1 99999")
check_error("id_too_large", run("logits", GOOD, "--ids", path("big"), "--out", path("o")), "99999")
check_error("device_full", run("logits", GOOD, "--ids", IDS, "--out", "/dev/full"), "/dev/full")
check_error("context_too_small", run("run", path("nano.fulgur"), "-p", "one two three four five", "-c", "2"), "context")
check_error("context_too_large", run("run", path("nano.fulgur"), "-p", "x", "-c", "99999999"), "context")
check_error("absent_text", run("score", path("nano.fulgur"), path("none.txt")), "none.txt")
open(path("short.txt"), "w").write("a")
check_error("text_too_short", run("score", path("nano.fulgur"), path("short.txt")), "text")
check_error("vocabularies_differ", run("score", path("nano.fulgur"), "Makefile", "--against", GOOD), "vocabulary")
check_usage("unknown_cpu", run("info", GOOD, "--cpu", "z80"), "--cpu: z80, expected auto, scalar")
check_error("unknown_meta", run("info", GOOD, "--meta", "nothing"), "nothing")
# root reads everything, so that it must be somebody else (whom the folder of the file lets in)
NOBODY = (lambda: os.setuid(65534)) if os.geteuid() == 0 else None
os.chmod(os.path.dirname(GOOD), 0o755)
try:
    may = run("info", GOOD, preexec=NOBODY)[0] == 0  # the control
except PermissionError:
    may = False
if may:
    os.chmod(GOOD, 0)
    check_error("no_permission", run("info", GOOD, preexec=NOBODY), "good.fulgur")
    os.chmod(GOOD, 0o644)
else:
    report("skip", "no_permission", "root reads everything, and nobody else can reach the program")
finish()
