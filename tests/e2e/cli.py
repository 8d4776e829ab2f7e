#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The commands as a user meets them, on the nano model."""
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import FULGUR, NANO, ORACLE, check, check_error, check_usage, finish, nano, path, run

M = path("nano.fulgur")
COMMANDS = ["convert", "synth", "run", "chat", "score", "logits", "tokenize", "info", "verify", "bench",
            "plan"]

status, out, err = run("convert", NANO, M, "--json")
check("convert", status == 0 and json.loads(out)["file_bytes"] == os.path.getsize(M), err)
first = open(M, "rb").read()
status, out, err = run("convert", NANO, M, "-t", "1", "--force")
check("convert_is_reproducible", status == 0 and open(M, "rb").read() == first, err)

# recipes, calibration, budgets: mistakes in one line, and what a user reads after a good one
for name, args, want in (
        ("name_and_type", ("--recipe", "fast", "--type", "q4"), b"recipe fast: "),
        ("target_alone", ("--target-bpw", "4.5"), b"a target without a sensitivity file"),
        ("calib_absent", ("--calib", path("absent.txt")), b"absent.txt: "),
        ("sensitivity_absent", ("--target-bpw", "5", "--sensitivity", path("absent.json")), b"absent.json: ")):
    status, out, err = run("convert", NANO, path("no.fulgur"), *args)
    check(f"convert_{name}", status == 1 and want in err and err.count(b"\n") == 1, err)
    check(f"convert_{name}_leaves_nothing", not os.path.exists(path("no.fulgur")))
check("convert_diagonal_alone", run("convert", NANO, path("no.fulgur"), "--calib-diagonal")[0] == 2)
with open(path("calib.txt"), "w") as f:
    f.write(open("src/format/FORMAT.md").read()[:3000])
status, out, err = run("convert", NANO, path("cal.fulgur"), "--calib", path("calib.txt"))
check("convert_calibrated", status == 0 and b"calibrated with" in out and b"expert down" in out, err)
status, out, err = run("info", path("cal.fulgur"), "--tensors", "--json")
tensors = json.loads(out)["tensors"] if status == 0 else []
measured = [t for t in tensors if t["type"].startswith("q") and t["role"] != "embedding"]
check("calibrated_outputs_are_measured", len(measured) > 700 and all(0 < t["err_out"] < t["err_rms"] * 1.5 for t in measured))
check("embedding_is_not", all(t["err_out"] is None for t in tensors if t["role"] == "embedding"))

# usage: help works everywhere, mistakes give status 2 and one line
status, out, err = run("--help")
check("help", status == 0 and all(c.encode() in out for c in COMMANDS), out)
check("version", run("--version")[0] == 0)
for c in COMMANDS:
    status, out, err = run(c, "--help")
    check(f"help_{c}", status == 0 and b"Example:" in out and err == b"", err)
    status, out, err = run(c, "--no-such-option")
    check(f"usage_{c}", status == 2 and err.count(b"\n") == 1 and b"--help" in err, err)
    status, out, err = run(c)
    check(f"operands_{c}", status == 2 and err.count(b"\n") == 1, err)
check("usage_nothing", run()[0] == 2)
check("usage_unknown", run("frobnicate")[0] == 2)
check("usage_number", run("run", M, "-p", "x", "-n", "-1")[0] == 2)

for c in [*COMMANDS, "trace", "trace replay", "doctor", "sensitivity"]:
    said = [run(*c.split(), *a) for a in (["-V"], ["x", "y", "--version", "--no-such-option"])]
    check(f"version_{c}", all(s[0] == 0 and s[1] == run("-V")[1] for s in said), said)
    short = run(*c.split(), "-h")
    check(f"help_forms_{c}", short[0] == 0 and short[1] == run(*c.split(), "--help")[1] == run("-h", *c.split())[1]
          and short[1] != run("help", *c.split())[1], short)
for name, args, names in (
        ("recipe", ("convert", NANO, path("no.fulgur"), "--recipe", "nosuch"), ("fast", "balanced", "faithful")),
        ("recipe_plan", ("plan", NANO, "--recipe", "nosuch"), ("fast", "balanced", "faithful")),
        ("recipe_synth", ("synth", path("no.fulgur"), "--recipe", "nosuch"), ("fast", "balanced", "faithful")),
        ("type", ("convert", NANO, path("no.fulgur"), "--type", "nosuch"), ("q4", "q5", "q6", "q8", "bf16", "f32")),
        ("shape", ("synth", path("no.fulgur"), "--shape", "nosuch"), ("m1", "config.json"))):
    check_error(f"choices_{name}", run(*args), "nosuch", *names)
check_usage("command_near", run("convrt", NANO), "expected one of those in fulgur --help, perhaps convert\n")
check_usage("command_near_to_none", run("quantize", NANO), "expected one of those in fulgur --help\n")
check_usage("choices_style", run("chat", M, "--style", "nosuch"), "nosuch", "official", "minimax-ai")

# the model that FULGUR_MODEL names, where none is given
USUAL = {"FULGUR_MODEL": M}
check("usual_model", run("info", env=USUAL)[1] == run("info", M)[1] and run("tokenize", "-p", "a", env=USUAL)[0] == 0)
check("usual_model_is_overruled", run("info", path("cal.fulgur"), env=USUAL)[1] == run("info", "-m", path("cal.fulgur"), env=USUAL)[1]
      != run("info", M)[1])
check_usage("usual_model_is_named", run("info"), "FULGUR_MODEL")
check_error("usual_model_is_bad", run("info", env={"FULGUR_MODEL": path("nowhere")}), "nowhere")

# one definition of bits per weight, one set of units, counts that can be read
BITS = re.compile(rb"(\d\.\d\d) bits per weight")
said = [run(*a)[1] for a in (("info", M), ("plan", M, "--bandwidth", "50", "--gemm", "100"), ("plan", NANO, "--bandwidth", "50", "--gemm", "100"),
                             ("convert", NANO, path("no.fulgur"), "--dry-run"), ("convert", NANO, M, "--force"))]
check("bits_per_weight", {b for s in said for b in BITS.findall(s)} == {b"4.92"} and all(BITS.search(s) for s in said), said)
out = run("plan", M, "--bandwidth", "50", "--gemm", "100", "--ram", "512G")[1]
check("units_of_memory", b"; 512 GiB given" in out and b"38.9 MB (38,932,304 bytes)" in out and b"29,825,024 weights" in out, out)
check_error("units_in_errors", run("run", M, "-p", "x", "--ram", "50M"), "memory: 50.0 MiB, expected at least", " MiB")
rates = [json.loads(run("plan", M, "--gemm", "100", "--json", "--bandwidth", r)[1])["rates"]["read_gbs"] for r in ("50", "50G", "50GB/s", "50GiB/s")]
check("units_of_rates", rates == [50, 50, 50, 53.687], rates)

# what exists is replaced with --force only, what is read never, whatever link leads there
for name, args, inputs in (("convert", ("convert", NANO, M), ()), ("synth", ("synth", M, "--layers", "1"), ()),
                           ("trace", ("trace", M, path("calib.txt"), "--tokens", "4", "-o"), (M, path("calib.txt"))),
                           ("sensitivity", ("sensitivity", path("cal.fulgur"), M, path("calib.txt"), "-o"), (path("cal.fulgur"), M, path("calib.txt"))),
                           ("logits", ("logits", M, "--ids", path("three"), "--out"), (M, path("three"))),
                           ("taps", ("run", M, "-f", path("calib.txt"), "-n", "1", "--taps"), (M, path("calib.txt"))),
                           ("plot", ("info", M, "--plot"), (M,)), ("csv", ("bench", M, "--csv"), (M,))):
    open(path("three"), "w").write("1 2 3")
    if name in ("convert", "synth", "trace", "sensitivity"):
        there = () if args[-1] not in ("-o",) else (path("there"),)
        open(path("there"), "w").write("mine")
        check_error(f"{name}_replaces_nothing", run(*args, *there), "exists already", "--force")
        check(f"{name}_leaves_it", open(path("there")).read() == "mine" and open(M, "rb").read() == first)
    for i, victim in enumerate(inputs):
        for kind, link in (("itself", None), ("symlink", os.symlink), ("hardlink", os.link)):
            to, was = victim if link is None else path(f"{kind}.out"), open(victim, "rb").read()
            if link is not None:
                link(victim, to)
            force = ("--force",) if name in ("trace", "sensitivity") else ()
            check_error(f"{name}_spares_{i}_{kind}", run(*args, to, *force), "a link" if kind == "symlink" else "the same file as the input")
            check(f"{name}_spared_{i}_{kind}", open(victim, "rb").read() == was)
            if link is not None:
                os.unlink(to)
os.symlink(path("nowhere"), path("dangling"))
for args in (("convert", NANO), ("synth", "--force"), ("trace", M, path("calib.txt"), "--tokens", "4", "--force", "-o"),
             ("info", M, "--plot"), ("bench", M, "--csv")):
    check_error(f"{args[0]}_replaces_no_link", run(*args, path("dangling")), "dangling: a link")
check("links_stay", os.path.islink(path("dangling")) and not os.path.exists(path("nowhere")))
check_error("csv_device", run("bench", M, "--csv", "/dev/full", timeout=5), "not a regular file")
os.mkfifo(path("unread"))
check_error("taps_to_nobody", run("run", M, "-p", "x", "-n", "1", "--taps", path("unread"), timeout=5), "not a regular file")
check_error("csv_below_a_file", run("bench", M, "--csv", path("three/x"), timeout=5), "Not a directory")

# of a variable that is not set
check_usage("empty_file_name", run("convert", NANO, path("no.fulgur"), "--calib", ""), "--calib: nothing, expected TEXT_FILE")
check_usage("empty_operand", run("info", ""), "an empty operand, expected MODEL")
check("control: a text may be empty", run("chat", M, "-p", "x", "--system", "", "-n", "1")[0] == 0)

# --quiet; what a terminal gets
PROMPT = ["run", M, "-p", "The old man looked at the sea and", "-n", "24"]
loud, quiet = run(*PROMPT, "--temp", "0", "--ram", "1G"), run(*PROMPT, "--temp", "0", "--ram", "1G", "-q")
check("quiet", quiet == (0, loud[1], b"") and b"tok/s" in loud[2] and b"hits" in loud[2], quiet)
check("quiet_errors_stay", run("run", path("nowhere"), "-p", "x", "--quiet")[2].count(b"\n") == 1)

# stop strings, guesses, bias, budgets of a reply
def reply(*args):
    status, out, err = run(*PROMPT, "--json", *args)
    return json.loads(out) if status == 0 else err


whole = reply("--temp", "0", "--draft", "off")
part = whole["text"][20:26]
stopped = reply("--temp", "0", "--stop", "never there", "--stop", part)
check("stop_string", stopped["text"] == whole["text"][:whole["text"].find(part)] and stopped["end"] == "stop_string",
      (whole, stopped))
for seed in ("1", "2"):
    texts = {json.dumps([reply("--seed", seed, "--draft", n)[k] for k in ("text", "generated_tokens", "end")])
             for n in ("off", "1", "7", "auto")}
    check(f"guesses_change_nothing_{seed}", len(texts) == 1, texts)
check("guesses_another_seed", reply("--seed", "1")["text"] != reply("--seed", "2")["text"])  # the control
check("temperature", reply("--temperature", "0")["text"] == whole["text"])
thought = reply("--logit-bias", "4092=1000", "-n", "200", "--think-budget", "30", "--think-message", "Enough.")  # <think>
check("budget_closes", "Enough.\n</think>\n\n" in thought["text"]
      and thought["forced_tokens"] > 2 and 30 + 64 <= thought["thought_tokens"] <= 30 + 64 + thought["forced_tokens"], thought)
check("budget_says_so", b"--think-budget" in run(*PROMPT, "--logit-bias", "4092=1000", "-n", "200", "--budget", "1k", "--think-budget", "30")[2])
for name, args, want in (("bias", ("--logit-bias", "5"), "ID=X"), ("bias_number", ("--logit-bias", "5=nan"), "ID=X"),
                         ("bias_sign", ("--logit-bias", "-5=1"), "ID=X"), ("bias_id", ("--logit-bias", "4096=1"), "4096"),
                         ("message", ("--think-message", "a</think>"), "</think>"), ("stop_bytes", ("--stop", b"\xff"), "UTF-8")):
    check_error(f"reply_{name}", run(*PROMPT, *args), want)
for name, args in (("stop", ("--stop", "")), ("many_stops", 17 * ("--stop", "x")), ("draft", ("--draft", "8")),
                   ("draft_word", ("--draft", "on")), ("thousands", ("--budget", "k")), ("negative", ("--think-budget", "-1")),
                   ("penalty", ("--repeat-penalty", "0")), ("penalty_nan", ("--frequency-penalty", "nan"))):
    check_usage(f"reply_{name}", run(*PROMPT, *args))


def terminal(*args, **env):
    """What fulgur writes to a terminal that is its standard output and standard error."""
    master, slave = pty.openpty()
    p = subprocess.Popen([FULGUR, *args], stdin=subprocess.DEVNULL, stdout=slave, stderr=slave,
                         env={**{k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}, **env})
    os.close(slave)
    got = b""
    while True:
        try:
            more = os.read(master, 65536)
        except OSError:  # the end
            break
        if not more:
            break
        got += more
    os.close(master)
    return p.wait(), got


VERIFY, ASK = ["verify", M], ["chat", M, "--temp", "0", "-p", "Add 17 and 3.", "-n", "12"]
dim, line = b"\033[2m", b"\033[K"
check("terminal", dim in terminal(*ASK, TERM="xterm")[1] and line in terminal(*VERIFY, TERM="xterm")[1])  # the control of what follows
check("no_color", dim not in terminal(*ASK, TERM="xterm", NO_COLOR="1")[1] and dim in terminal(*ASK, TERM="xterm", NO_COLOR="")[1])
check("dumb_terminal", all(b"\033" not in terminal(*a, **t)[1] for a in (ASK, VERIFY) for t in ({"TERM": "dumb"}, {})))
check("quiet_terminal", line not in terminal(*VERIFY, "-q", TERM="xterm")[1])

# info, verify
status, out, err = run("info", M)
check("info", status == 0 and b"lightning" in out and b"q4" in out, out + err)
info = json.loads(run("info", M, "--json")[1])
check("info_json", info["layers"] == 8 and info["bytes"] == len(first), info)
status, out, err = run("info", M, "--tensors")
check("info_tensors", status == 0 and out.count(b"\n") == 1 + 3 + 7 * 7 + 1 * 7 + 8 * 96 + 22, out.count(b"\n"))
check("info_meta", run("info", M, "--meta", "config.json")[1] == open(f"{NANO}/config.json", "rb").read())
check("verify", b"good" in run("verify", M)[1])
check("verify_json", json.loads(run("verify", M, "--json")[1])["ok"] is True)

# the independent reader agrees
status = subprocess.run([sys.executable, "scripts/fg_read.py", M, "--verify"], capture_output=True)
check("independent_reader", status.returncode == 0, status.stdout + status.stderr)

# tokenize: model and folder agree, round trip, special tokens only on demand
TEXT = "Hello, w\u00f6rld! \u4f60\u597d <think> 12345\n"
ids = run("tokenize", M, "-p", TEXT)[1]
check("tokenize_folder", ids != b"" and ids == run("tokenize", NANO, "-p", TEXT)[1])
check("tokenize_stdin", ids == run("tokenize", M, stdin=TEXT.encode())[1])
check("tokenize_round_trip", run("tokenize", M, "--decode", stdin=ids)[1] == TEXT.encode())
check("tokenize_special", ids != run("tokenize", M, "--special", "-p", TEXT)[1])
check("tokenize_json", json.loads(run("tokenize", M, "--json", "-p", "a b")[1])["n"] > 0)

# run: greedy is reproducible for any thread count and level, seeds decide, text streams to stdout
greedy = run(*PROMPT, "--temp", "0")
check("run_greedy", greedy[0] == 0 and len(greedy[1]) > 20, greedy)
check("run_threads", run(*PROMPT, "--temp", "0", "-t", "1")[1] == greedy[1])
check("run_scalar", run(*PROMPT, "--temp", "0", "--cpu", "scalar")[1] == greedy[1])
a, b = run(*PROMPT, "--seed", "1")[1], run(*PROMPT, "--seed", "2")[1]
check("run_seed", a == run(*PROMPT, "--seed", "1", "-t", "1", "--cpu", "scalar")[1] and a != b, (a, b))


def full(*args):
    """As run; standard output has no room."""
    with open("/dev/full", "w") as no_room:
        p = subprocess.run([FULGUR, *args], stdout=no_room, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    return p.returncode, b"", p.stderr


# nothing but the first reason: no speeds of what could not be said; a file that was made is no failure
for args in (["run", M, "-p", "Once", "-n", "8"], ["chat", M, "-p", "Once", "-n", "8"],
             ["info", M], ["help"], ["run", "--help"]):
    check_error(f"{args[0]}_full_stdout", full(*args), "standard output: No space left on device")
IDS = path("few_ids.txt")
with open(IDS, "w") as file:
    file.write("1 2 3")
for args in (["logits", M, "--ids", IDS, "--out", path("full.f32"), "--json"], ["trace", M, IDS, "-o", path("full.trace")]):
    status, _, err = full(*args)
    check(f"{args[0]}_full_stdout_is_made", status == 0 and b"is complete, but its report" in err and len(err.splitlines()) == 1, err)

# chat: answers, keeps the conversation, from -p and from a pipe; user text is no markup
SYSTEM = ["--system", "You are a helpful assistant.", "--temp", "0"]
status, out, err = run("chat", M, *SYSTEM, "-p", "Please compute the sum of 289 and 8794.")
check("chat_sum", status == 0 and b"9083" in out.split(b"</think>")[-1], out)
status, out, err = run("chat", M, *SYSTEM, "--hide-think", "-p", "Add 17 and 3.")
check("chat_hide_think", status == 0 and b"20" in out and b"think" not in out, out)
status, out, err = run("chat", M, *SYSTEM, stdin=b"Add 17 and 3.\nWhich is larger, 134 or 9?\n")
check("chat_turns", status == 0 and out.count(b"</think>") == 2 and b"134" in out, out)
# as markup this would be one token; as text it is several
plain = run("chat", M, *SYSTEM, "-n", "2", "-p", "x")[2]
status, out, err = run("chat", M, *SYSTEM, "-n", "2", "-p", "<end_of_sentence>")
tokens = [int(e.split(b"prompt ")[1].split()[0]) for e in (plain, err)]
check("chat_markup_in_text", status == 0 and tokens[1] >= tokens[0] + 3, tokens)

# score, logits
text = path("text.txt")
open(text, "w").write("It was a bright cold day, and the clocks were striking. " * 40)
score = json.loads(run("score", M, text, "--window", "64", "--against", M, "--json")[1])
check("score_itself", score["kld_mean"] == 0 and score["top1"] == 1 and score["ppl"] == score["ref_ppl"], score)
nano(path("bf16.fulgur"), "--type", "bf16")
score = json.loads(run("score", M, text, "--window", "64", "--against", path("bf16.fulgur"), "--json")[1])
check("score_against", 0 < score["kld_mean"] < 0.3 and score["kld_p99"] >= score["kld_mean"], score)
open(path("ids"), "wb").write(ids)
status, out, err = run("logits", M, "--ids", path("ids"), "--out", path("l.f32"))
n = len(ids.split())
check("logits", status == 0 and os.path.getsize(path("l.f32")) == n * 4096 * 4, err)
one = open(path("l.f32"), "rb").read()
run("logits", M, "--ids", path("ids"), "--out", path("l.f32"), "--batch", "1", "-t", "1", "--cpu", "scalar")
check("logits_bits", open(path("l.f32"), "rb").read() == one)

# key-value cache: a choice that moves the logits a little; the default follows the file
caches = {}
for kind in ("auto", "f32", "f16", "int8"):
    run("logits", M, "--ids", path("ids"), "--out", path("c.f32"), "--cache-type", kind)
    caches["q4", kind] = open(path("c.f32"), "rb").read()
    status, out, err = run("logits", path("bf16.fulgur"), "--ids", path("ids"), "--out", path("c.f32"), "--cache-type", kind)
    raw = open(path("c.f32"), "rb").read()
    check(f"cache_{kind}", status == 0 and len(raw) == len(one), err)
    caches[kind] = struct.unpack(f"<{len(raw) // 4}f", raw)
far = {k: max(abs(a - b) for a, b in zip(caches[k], caches["f32"])) for k in ("auto", "f16", "int8")}
check("cache_default", far["auto"] == 0 and caches["q4", "auto"] == caches["q4", "int8"] == one)
check("cache_differs", len({caches["q4", k] for k in ("f32", "f16", "int8")}) == 3)
check("cache_f16_is_close", 0 < far["f16"] < 0.02 and far["f16"] < far["int8"] / 4, far)
for c in (["logits", M, "--ids", path("ids"), "--out", path("c.f32")], ["run", M, "-p", "x"], ["chat", M, "-p", "x"],
          ["score", M, text], ["bench", M]):
    status, out, err = run(*c, "--cache-type", "q4")
    check(f"cache_usage_{c[0]}", status == 2 and err.count(b"\n") == 1 and b"q4" in err, err)
check("cache_run", len(run(*PROMPT, "--temp", "0", "--cache-type", "f16")[1]) > 20)
check("cache_chat", b"20" in run("chat", M, *SYSTEM, "--cache-type", "f16", "-p", "Add 17 and 3.")[1])
score = json.loads(run("score", M, text, "--window", "64", "--against", M, "--cache-type", "f16", "--json")[1])
check("cache_score", 0 < score["kld_mean"] < 0.01, score)

check("oracle_without_tokenizer", run("convert", f"{ORACLE}/hf-long", path("o.fulgur"), "--type", "f32")[0] == 0)

# synth, bench
S = path("synth.fulgur")
SYNTH = ["synth", S, "--shape", f"{NANO}/config.json", "--layers", "2", "--tokenizer", NANO]
status, out, err = run(*SYNTH, "--json")
check("synth", status == 0 and json.loads(out)["file_bytes"] == os.path.getsize(S), out + err)
first = open(S, "rb").read()
check("synth_is_reproducible", run(*SYNTH, "-t", "1", "--force")[0] == 0 and open(S, "rb").read() == first)
check("synth_verifies", b"good" in run("verify", S)[1])
check("synth_kinds", b"1 lightning, 1 softmax" in run("info", S)[1])
check("synth_runs", run("run", S, "-p", "x", "-n", "2")[0] == 0)
status = subprocess.run([sys.executable, "scripts/fg_read.py", S, "--verify"], capture_output=True)
check("synth_independent_reader", status.returncode == 0, status.stdout + status.stderr)
check("synth_bad_shape", run("synth", path("x.fulgur"), "--shape", f"{NANO}/tokenizer.json")[0] == 1)
BENCH = ["bench", S, "-p", "8", "-n", "2", "-r", "3", "--ctx", "0,100,999999"]
status, out, err = run(*BENCH, "--cold")
check("bench", status == 0 and b"in cache" in out and b"left out" in out and b"start cold" in out, out + err)
status, out, err = run(*BENCH, "--cache-type", "f16", "--json", "--csv", path("b.csv"), "--commit", 'a"b')
bench = json.loads(out)["metrics"]
check("bench_cache", status == 0, err)
check("bench_json", bench["decode.ctx=100"]["value"] > 0 and bench["prefill.ctx=0"]["unit"] == "tok/s", bench)
before = open(S, "rb").read(4096)
check_error("bench_csv_over_the_model", run(*BENCH, "--csv", S), "the same file as")
check("bench_csv_left_the_model", open(S, "rb").read(4096) == before)
check("bench_csv", open(path("b.csv")).read().count("\n") == 1 + len(bench))
status, out, err = run("bench", S, "-p", "0", "-n", "0", "-r", "3", "--kernels", "--json")
figures = json.loads(out)
many = {name: m["value"] for name, m in figures["metrics"].items() if name.startswith("many.%s.q" % figures["level"])}
check("bench_many_tokens", figures["level"] == "scalar" or len(many) >= 15 and min(many.values()) > 0, many)
timed = {name.split(".")[1] for name in figures["metrics"] if name.startswith("kernel.")}
slots = re.findall(r"^    fg_\w+_fn \*(\w+);", open("simd/kernels.h").read(), re.M)
slots += ["panel_" + kind for kind in re.findall(r"^FG_Q(?:TYPE|KIND)\(\w+,\s*(\w+),", open("quant/types.inc").read(), re.M)]
# what the unit does without a kernel, given apart; of latent factors (src/factor/README.md), not of a model
slots = [s for s in slots if s not in ("peak", "pattern") and not s.startswith("factor_")]
check("bench_times_every_kernel", len(slots) > 20 and not set(slots) - timed, set(slots) - timed)
check("bench_ctx", run("bench", S, "--ctx", "1,")[0] == 2)

# what is read is not written; a NUL is no end; pipes and devices are texts; -m as in llama.cpp
victim = path("victim.fulgur")
open(victim, "wb").write(first)
status, out, err = run("logits", victim, "--ids", path("ids"), "--out", victim)
check("logits_spares_its_model", status == 1 and open(victim, "rb").read() == first, err)
part = path("victim.part")
shutil.copy(victim, part)
status, out, err = run("logits", part, "--ids", path("ids"), "--out", path("victim"))
check("logits_leaves_part_alone", status == 0 and open(part, "rb").read() == first and os.path.getsize(path("victim")) == n * 4096 * 4, err)
shutil.copy(path("bf16.fulgur"), part)
os.unlink(path("victim"))
status, out, err = run("sensitivity", part, M, text, "-o", path("victim"), "-n", "8")
check("sensitivity_leaves_part_alone", status == 0 and open(part, "rb").read() == open(path("bf16.fulgur"), "rb").read()
      and "fulgur" in open(path("victim")).read(), err)
check("outputs_leave_nothing", sorted(f for f in os.listdir(os.path.dirname(M)) if f.startswith("victim"))
      == ["victim", "victim.fulgur", "victim.part"], os.listdir(os.path.dirname(M)))
umask = os.umask(0o027)
run("logits", M, "--ids", path("ids"), "--out", path("mode.f32"))
os.umask(umask)
check("output_has_the_usual_mode", os.stat(path("mode.f32")).st_mode & 0o777 == 0o640, oct(os.stat(path("mode.f32")).st_mode))
os.unlink(part)
open(path("nul"), "wb").write(b"1 2\0 3 4")
check("ids_with_nul", run("logits", M, "--ids", path("nul"), "--out", path("l.f32"))[0] == 1)
check("text_from_device", run("tokenize", M, "-f", "/dev/stdin", stdin=TEXT.encode())[1] == ids)
check("model_option", run("tokenize", "-m", M, "-p", TEXT)[1] == ids)
check("run_json", json.loads(run("run", M, "-p", "Once", "-n", "5", "--temp", "0", "--json")[1])["generated_tokens"] == 5)
check("model_is_folder_hint", b"fulgur convert" in run("run", NANO, "-p", "x")[2])


def interrupted(delay, *args):
    """Starts fulgur, sends SIGINT after a while, None: when it has said something; (status, stdout, stderr)."""
    p = subprocess.Popen([FULGUR, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if delay is None:
        os.read(p.stdout.fileno(), 1)
    else:
        time.sleep(delay)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    return p.returncode, out, err


open(path("many"), "w").write(" ".join(str(i % 4000) for i in range(30000)))
status, out, err = interrupted(0.5, "logits", M, "--ids", path("many"), "--out", path("many.f32"))
left = [f for f in os.listdir(os.path.dirname(M)) if f.startswith("many.f32")]
check("interrupt_leaves_nothing", status == 130 and left == [] and err.count(b"\n") == 1, (status, left, err))
status, out, err = interrupted(None, "run", M, "-p", "Once upon a time", "-n", "1000000", "-c", "32000", "--ignore-eos")
check("interrupt_ends_run", status == 0 and b"tok/s" in err, (status, err))

# memory of a conversion does not grow with the checkpoint: 16 times the vocabulary, sparse on disk
peaks = []
for n_vocab in (1 << 15, 1 << 19):
    folder = path(f"big{n_vocab}")
    shutil.copytree(f"{ORACLE}/orig-top1", folder)
    c = json.load(open(folder + "/config.json"))
    raw = open(folder + "/model.safetensors", "rb").read()
    (n,) = struct.unpack("<Q", raw[:8])
    head = json.loads(raw[8 : 8 + n])
    at, parts = 0, []
    for k, v in sorted(head.items(), key=lambda kv: kv[1]["data_offsets"][0] if kv[0] != "__metadata__" else -1):
        if k == "__metadata__":
            continue
        begin, end = v["data_offsets"]
        size = end - begin
        if v["shape"][0] == c["vocab_size"]:
            v["shape"][0], size = n_vocab, n_vocab * v["shape"][1] * 2
            parts.append((at, b"\x80\x3f"))  # one that is not zero: zeros throughout are refused
        else:
            parts.append((at, raw[8 + n + begin : 8 + n + end]))
        v["data_offsets"] = [at, at + size]
        at += size
    c["vocab_size"] = n_vocab
    json.dump(c, open(folder + "/config.json", "w"))
    text = json.dumps(head).encode()
    with open(folder + "/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for offset, data in parts:
            f.seek(8 + len(text) + offset)
            f.write(data)
        f.truncate(8 + len(text) + at)
    p = subprocess.Popen([FULGUR, "convert", folder, path("big.fulgur"), "--type", "bf16", "-t", "1", "--force"], stdout=subprocess.DEVNULL)
    _, status, use = os.wait4(p.pid, 0)
    p.returncode = status
    peaks.append((status, use.ru_maxrss))
check("convert_memory_is_bounded", peaks[0][0] == peaks[1][0] == 0 and peaks[1][1] < peaks[0][1] + 24 * 1024, peaks)
finish()
