#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The evidence in a file: errors of its tensors, their drawing, score's figures and the quality card.

Figures are computed a second time here, from the logits command and from the checkpoint, in Python."""
import array
import hashlib
import importlib.util
import json
import math
import os
import statistics
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import FULGUR, NANO, check, check_error, finish, nano, path, run

spec = importlib.util.spec_from_file_location("fg_read", "scripts/fg_read.py")
fg_read = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fg_read)

M, B, TEXT = path("q4 & <b>.fulgur"), path("bf16.fulgur"), path("text.txt")
nano(M)
nano(B, "--type", "bf16")
text = open("tests/vectors/nano/tasks.jsonl", "rb").read()[:6000]  # never edited: some checks know its figures
open(TEXT, "wb").write(text)


def digest(name):
    return hashlib.sha256(open(name, "rb").read()).hexdigest()


def near(a, b, rel=2e-5, absolute=2e-6):
    return abs(a - b) <= rel * abs(b) + absolute


# score against a second computation: 4 windows of 48 tokens, the last of a window predicts the next
WINDOW, N_WINDOW = 48, 4
SCORE = ["score", M, TEXT, "--window", str(WINDOW), "--chunks", str(N_WINDOW), "--against", B]
status, out, err = run(*SCORE, "--json")
got = json.loads(out)
ids = [int(x) for x in run("tokenize", M, "-f", TEXT)[1].split()]


def log_softmax(x):
    top = max(x)
    return top, top + math.log(sum(math.exp(v - top) for v in x))


def window_logits(model, w):
    open(path("ids"), "w").write(" ".join(map(str, ids[w * WINDOW:(w + 1) * WINDOW])))
    run("logits", model, "--ids", path("ids"), "--out", path("l.f32"))
    a = array.array("f")
    a.frombytes(open(path("l.f32"), "rb").read())
    n = len(a) // WINDOW
    return [a[t * n:(t + 1) * n] for t in range(WINDOW)]


nll, ref, kld, same = [], [], [], []
for w in range(N_WINDOW):
    for t, (a, b) in enumerate(zip(window_logits(M, w), window_logits(B, w))):
        following = ids[w * WINDOW + t + 1]
        (top_a, log_a), (top_b, log_b) = log_softmax(a), log_softmax(b)
        nll.append(log_a - a[following])
        ref.append(log_b - b[following])
        kld.append(sum(math.exp(y - log_b) * ((y - log_b) - (x - log_a)) for x, y in zip(a, b)))
        same.append(float(a.index(top_a) == b.index(top_b)))
n = len(nll)


def stderr(x, windows=True):
    """The larger of two: independent tokens, independent windows."""
    sums = [sum(x[i:i + WINDOW]) for i in range(0, len(x), WINDOW)]
    return max(statistics.stdev(x) / math.sqrt(len(x)), windows * statistics.stdev(sums) * math.sqrt(len(sums)) / len(x))


mean = statistics.fmean
Z = 1.959963985
ratio = math.exp(mean(nll) - mean(ref))
ratio_se = ratio * stderr([a - b for a, b in zip(nll, ref)])
ppl, ppl_se = math.exp(mean(nll)), math.exp(mean(nll)) * stderr(nll)
want = {
    "tokens": n, "nll": mean(nll), "nll_stderr": stderr(nll), "ppl": ppl, "ref_nll": mean(ref),
    "ref_ppl": math.exp(mean(ref)), "ppl_ratio": ratio, "ppl_ratio_stderr": ratio_se,
    "kld_mean": mean(kld), "kld_stderr": stderr(kld), "kld_max": max(kld),
    "kld_p99": sorted(kld)[math.ceil(0.99 * n) - 1], "top1": mean(same),
    "top1_stderr": stderr(same),
}
bad = {k: (got.get(k), v) for k, v in want.items() if not near(got.get(k, math.nan), v)}
check("score_figures", status == 0 and not bad and n == WINDOW * N_WINDOW, (bad, err))
for name, m, s in (("ppl_ci95", ppl, ppl_se), ("ppl_ratio_ci95", ratio, ratio_se)):  # on the scale of logarithms
    f = math.exp(Z * s / m)
    check(f"score_{name}", near(got[name][0], m / f) and near(got[name][1], m * f), (got[name], m, s))
m, s = mean(kld), stderr(kld)
check("score_kld_ci95", near(got["kld_ci95"][0], m - Z * s) and near(got["kld_ci95"][1], m + Z * s), (got["kld_ci95"], m, s))
# the upper end may be the largest, which is printed to 6 decimals
check("score_p99_interval", got["kld_p99_ci95"][0] <= got["kld_p99"] <= got["kld_p99_ci95"][1] <= got["kld_max"] + 0.5e-6, got)
# negative controls: unpaired errors would be several times larger; a shifted text gives other figures
unpaired = ratio * math.hypot(stderr(nll), stderr(ref))
check("score_ratio_is_paired", got["ppl_ratio_stderr"] < unpaired / 3 and not near(unpaired, ratio_se), unpaired)
check("score_windows_count", any(not near(stderr(x), stderr(x, False), 1e-3) for x in (nll, kld, same)))
open(path("shifted.txt"), "wb").write(text[1:])
other = json.loads(run("score", M, path("shifted.txt"), *SCORE[3:], "--json")[1])
check("score_sees_the_text", not near(other["nll"], want["nll"], 1e-3) and not near(other["kld_mean"], want["kld_mean"], 1e-3))
timing = ("seconds", "tokens_per_s")
same_figures = [json.loads(run(*SCORE, "--json", *o)[1]) for o in (["-t", "1"], ["--cpu", "scalar", "-t", "3"])]
check("score_threads_and_levels", all({k: v for k, v in x.items() if k not in timing} ==
                                      {k: v for k, v in got.items() if k not in timing} for x in same_figures), same_figures)

# the card: only when asked for, in MODEL alone, and it says what score said
before, before_b = digest(M), digest(B)
status, out, err = run("info", M, "--quality")
check("no_card", status == 0 and b"0 quality cards" in out and b"--card" in out, out + err)
check("no_card_json", json.loads(run("info", M, "--quality", "--json")[1])["cards"] == [])
check("card_needs_reference", run("score", M, TEXT, "--card")[0] == 2)
check_error("card_against_itself", run("score", M, TEXT, "--against", M, "--card"), "same weights")
check("score_changes_nothing", digest(M) == before)
first = open(M, "rb").read()
status, out, err = run(*SCORE, "--card", "--json")
cards = json.loads(run("info", M, "--quality", "--json")[1])
c = cards["cards"][0]
check("card", status == 0 and len(cards["cards"]) == 1 and c["of_these_weights"] and c["numerics"] == 2
      and c["of_these_numerics"] and digest(B) == before_b, (out, err, cards))
bad = {k: (c.get(k), v) for k, v in want.items() if not near(c.get(k, math.nan), v)}
check("card_figures", not bad, bad)
R, RB = fg_read.Reader(M), fg_read.Reader(B)
check("card_identity", c["text"] == "text.txt" and c["text_bytes"] == len(text) and c["window"] == WINDOW
      and int(c["text_xxh3"], 16) == fg_read.xxh3(text) and int(c["model"]["data_root"], 16) == R.root
      and int(c["reference"]["data_root"], 16) == RB.root and c["model"]["type"] == "q4"
      and c["reference"]["type"] == "bf16" and c["cache"] == "int8" and cards["data_root"] == c["model"]["data_root"], c)
now = open(M, "rb").read()
check("card_names_no_folder", os.path.dirname(TEXT).encode() not in now)
check("card_spares_the_weights", now[8192:len(first)] == first[8192:] and len(now) > len(first))
check("card_verifies", b"good" in run("verify", M)[1])
second = subprocess.run([sys.executable, "scripts/fg_read.py", M, "--verify"], capture_output=True)
check("card_second_reader", second.returncode == 0 and "quality" in R.meta, second.stderr)
check("card_meta", json.loads(run("info", M, "--meta", "quality")[1])["version"] == 1)
check("card_model_runs", run("run", M, "-p", "Once", "-n", "4", "--temp", "0")[0] == 0)
status, out, err = run("info", M, "--quality")
check("card_table", status == 0 and b"text.txt" in out and b"%.5f" % got["kld_mean"] in out and b"NOT OF" not in out, out)
run(*SCORE, "--card")
check("card_replaced", len(json.loads(run("info", M, "--quality", "--json")[1])["cards"]) == 1)
run("score", M, TEXT, "--window", "24", "--chunks", "2", "--against", B, "--card")
check("card_of_another_window", [x["window"] for x in json.loads(run("info", M, "--quality", "--json")[1])["cards"]] == [48, 24])

# a card that came to other weights is shown as such: one weight changed, all hashes made right again
W = path("other.fulgur")
data = bytearray(open(M, "rb").read())
R = fg_read.Reader(M)
slot = max((0, 4096), key=lambda s: struct.unpack_from("<Q", data, s + 16)[0] if data[s] == 0x89 else 0)
data[R.data_offset + (1 << 20) + 5000] ^= 1
chunk = bytes(data[R.data_offset + (1 << 20):R.data_offset + (2 << 20)])
struct.pack_into("<Q", data, R.table_offset + 8, fg_read.xxh3(chunk))
struct.pack_into("<Q", data, slot + 88, fg_read.xxh3(data[R.table_offset:R.table_offset + 8 * R.n_chunk]))
struct.pack_into("<Q", data, slot + 4088, fg_read.xxh3(data[slot:slot + 4088]))
open(W, "wb").write(data)
status, out, err = run("info", W, "--quality")
check_error("card_of_other_weights_forged", run("verify", W), "chunk 1", "has another SHA-256")  # all else is right
check("card_of_other_weights", out.count(b"NOT OF THESE WEIGHTS") == 2, out + err)
check("card_of_other_weights_json", not any(x["of_these_weights"] for x in json.loads(run("info", W, "--quality", "--json")[1])["cards"]))

# so is one of other numerics: its version changed in place, and the hashes of metadata, directory and header
data = bytearray(open(M, "rb").read())
R = fg_read.Reader(M)
slot = max((0, 4096), key=lambda s: struct.unpack_from("<Q", data, s + 16)[0] if data[s] == 0x89 else 0)
offset, size, old = R.meta["quality"]
now = bytes(data[offset:offset + size]).replace(b'"numerics": 2', b'"numerics": 1', 1)
data[offset:offset + size] = now
where, n = R.dir_offset, R.dir_bytes
at = data.index(struct.pack("<Q", old), where, where + n)
struct.pack_into("<Q", data, at, fg_read.xxh3(now))
struct.pack_into("<Q", data, slot + 48, fg_read.xxh3(bytes(data[where:where + n])))
struct.pack_into("<Q", data, slot + 4088, fg_read.xxh3(data[slot:slot + 4088]))
open(W, "wb").write(data)
status, out, err = run("info", W, "--quality")
check("card_of_other_numerics", b"good" in run("verify", W)[1] and out.count(b"OF OTHER NUMERICS: version 1 of the int8") == 1, out + err)
check("card_of_these_numerics", b"OF OTHER NUMERICS" not in run("info", M, "--quality")[1])
check("card_of_other_numerics_json", [x["of_these_numerics"] for x in json.loads(run("info", W, "--quality", "--json")[1])["cards"]] == [False, True])

# a damaged file gets no card and stays as it is
D = path("damaged.fulgur")
data = bytearray(open(M, "rb").read())
data[R.meta["recipe"][0]] ^= 1
open(D, "wb").write(data)
small = ["--window", "24", "--chunks", "1", "--against", B, "--card"]
check_error("card_damaged", run("score", D, TEXT, *small), "recipe", "expected")
check("card_damaged_untouched", open(D, "rb").read() == bytes(data))
with open(M, "rb+") as held:
    import fcntl
    fcntl.flock(held, fcntl.LOCK_EX)
    before = digest(M)
    check_error("card_locked", run("score", M, TEXT, *small), "another process")
    check("card_locked_untouched", digest(M) == before)
check("card_unlocked", run("score", M, TEXT, *small)[0] == 0)

# tensors: the table as JSON agrees with itself, with the second reader and with the checkpoint
info = json.loads(run("info", M, "--tensors", "--json")[1])
by_name = {t["name"]: t for t in info["tensors"]}
check("tensors_all", len(by_name) == len(R.tensors) and all(
    near(by_name[t.name]["err_rms"], t.err_rms) and near(by_name[t.name]["peak"] or 0, t.peak) for t in R.tensors))
roles = {r["role"]: r for r in info["roles"]}
ok = True
for name, r in roles.items():
    own = [t for t in info["tensors"] if t["role"] == name]
    weights = sum(t["rows"] * t["columns"] for t in own)
    rms = math.sqrt(sum(t["rows"] * t["columns"] * t["err_rms"] ** 2 for t in own) / weights)
    ok = ok and r["tensors"] == len(own) and r["weights"] == weights and r["bytes"] == sum(t["bytes"] for t in own) \
        and near(r["err_rms"], rms) and near(r["bits"], 8 * r["bytes"] / weights)
check("tensors_roles", ok and len(roles) == 17 and sum(r["tensors"] for r in roles.values()) == len(R.tensors), roles)


def checkpoint(name):
    """Rows of a bf16 tensor of the checkpoint."""
    file = f"{NANO}/" + json.load(open(f"{NANO}/model.safetensors.index.json"))["weight_map"][name]
    with open(file, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        t = json.loads(f.read(n))[name]
        f.seek(8 + n + t["data_offsets"][0])
        raw = f.read(t["data_offsets"][1] - t["data_offsets"][0])
    cols = t["shape"][1]
    flat = struct.unpack(f"<{len(raw) // 2}f", b"".join(b"\0\0" + raw[i:i + 2] for i in range(0, len(raw), 2)))
    return [flat[i:i + cols] for i in range(0, len(flat), cols)]


for name in ("model.layers.7.block_sparse_moe.experts.3.w2.weight", "model.layers.7.self_attn.k_proj.weight"):
    err2 = ref2 = worst = peak = 0.0
    t = R.by_name[name]
    for w, v in zip(checkpoint(name), R.rows(t)):
        v = fg_read.unrotate(v) if getattr(t, "rotated", False) else v
        e, s = sum((a - b) ** 2 for a, b in zip(w, v)), sum(a * a for a in w)
        err2, ref2, worst = err2 + e, ref2 + s, max(worst, e / s)
        peak = max(peak, max(map(abs, w)))
    own, rms = by_name[name], math.sqrt(ref2 / (t.n_row * t.n_col))
    check("tensor_" + name.split(".")[-2], near(own["err_rms"], math.sqrt(err2 / ref2), 1e-4)
          and near(own["err_max_row"], math.sqrt(worst), 1e-4) and (t.rotated or near(own["peak"], peak / rms, 1e-4))
          and own["bits"] > 4, (own, math.sqrt(err2 / ref2), math.sqrt(worst), peak / rms))
status, out, err = run("info", M, "--tensors")
check("tensors_table", status == 0 and b"worst row" in out and b"expert down" in out, err)
check("info_one_report", run("info", M, "--tensors", "--quality")[0] == 2)

# the drawing: XML without scripts, every series with its marks, nothing overwritten that should not be
S = path("plot.svg")
SVG = "{http://www.w3.org/2000/svg}"
status, out, err = run("info", M, "--plot", S)
root = ET.parse(S).getroot()
texts = [t.text for t in root.iter(SVG + "text")]
marks = sum(1 for e in root.iter() if e.tag in (SVG + "circle", SVG + "path", SVG + "rect") and (e.get("fill") or "").startswith("#")
            and e.get("fill-opacity") is None)
# 3 expert roles x 8 layers, 3 lightning x 7, 4 softmax x 1, embedding, lm_head; one more of each in the legend
check("plot", status == 0 and root.tag == SVG + "svg" and root.get("version") == "1.1" and marks == 24 + 21 + 4 + 2 + 12, marks)
check("plot_texts", all(w in texts for w in ("expert gate: q4", "softmax q: q6", "lm_head: q8", "layer", "relative RMS error (log scale)"))
      and any("q4 & <b>.fulgur" in t for t in texts), texts)
raw = open(S).read()
check("plot_is_plain", "<script" not in raw and "href" not in raw and "nan" not in raw and "prefers-color-scheme: dark" in raw)
try:
    ET.fromstring(raw.replace("&amp;", "&"))
    check("plot_control", False, "a parser that takes a bare & checks nothing")
except ET.ParseError:
    check("plot_control", True)
before = digest(M)
check_error("plot_spares_the_model", run("info", M, "--plot", M), "the same file as the input")
os.symlink(M, path("link.svg"))
check_error("plot_spares_a_link", run("info", M, "--plot", path("link.svg")), "a link")
check("plot_model_untouched", digest(M) == before and os.path.islink(path("link.svg")))
check_error("plot_device", run("info", M, "--plot", "/dev/null"), "not a regular file")
check_error("plot_folder", run("info", M, "--plot", path("no/such.svg")), "expected")
open(S, "w").write("old")
check("plot_replaces", run("info", M, "--plot", S)[0] == 0 and open(S).read() == raw)
run("synth", path("s.fulgur"), "--shape", f"{NANO}/config.json", "--layers", "1", "--tokenizer", NANO)
# nothing measured, and nothing lost: the checkpoint is bf16
check_error("plot_without_errors", run("info", B, "--plot", path("s.svg")), "no quantization error")
check_error("plot_nothing_measured", run("info", path("s.fulgur"), "--plot", path("s.svg")), "no quantization error")
check("plot_leaves_nothing", [f for f in os.listdir(os.path.dirname(S)) if ".svg." in f or f == "s.svg"] == [])
finish()
