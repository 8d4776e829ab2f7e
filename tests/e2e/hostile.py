#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Files made to do harm: a pattern without end, JSON that wants all memory, texts without end, bytes
that a terminal acts on.  Each gives one line, soon, and what is printed is harmless and valid."""
import json
import os
import pty
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import puppet
from e2e import FULGUR, NANO, check, check_error, check_usage, finish, path, run

SAY = ["\x1b]0;owned\x07", "\x1b[2J", "\x9b31m", "red \u202e", "\u2066\u200f", "\x7f", "Käse\n"]
puppet.make(path("say"), SAY)
MODEL = path("say.fulgur")
status, _, err = run("convert", path("say"), MODEL, "--type", "f32")
check("puppet", status == 0, err)


def terminal(*args, send=b""):
    """What fulgur ARGS writes to a terminal."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(FULGUR, [FULGUR, *args])
    out = b""
    if send:
        os.write(fd, send)
    while select.select([fd], [], [], 20)[0]:
        try:
            got = os.read(fd, 65536)
        except OSError:
            break
        out += got
    os.close(fd)
    os.waitpid(pid, 0)
    return out.decode("utf-8", "replace")


def harmless(text):
    """No control character but line ends, tabs and what the program itself may send: dim text, the end
    of a line being cleared, rows drawn again."""
    text = re.sub("[\r\n\t]|\x1b\\[[02]m|\x1b\\[[0-9]*[ADJK]", "", text)
    bad = [c for c in text if ord(c) < 32 or 0x7f <= ord(c) <= 0x9f or ord(c) in
           (0x61c, 0x200e, 0x200f, *range(0x2028, 0x202f), *range(0x2066, 0x206a))]
    return not bad


# ---- what a terminal acts on ----

check("control: bytes that act are told apart", not harmless(SAY[0]) and not harmless("\u202e") and
      not harmless("\x9b") and harmless("Käse\x1b[2m\r\n"))
out = terminal("run", MODEL, "-p", "x\n", "--temp", "0", "-n", "9")
check("run_on_a_terminal", harmless(out) and "\\x1b[2J" in out and "\\u202e" in out and "Käse" in out, out)
out = terminal("chat", MODEL, "-p", "x", "--temp", "0", "-n", "9")
check("chat_on_a_terminal", harmless(out) and "\ufffd[2J" in out and "Käse" in out, out)
status, raw, _ = run("run", MODEL, "-p", "x\n", "--temp", "0", "-n", "9")
check("a_pipe_gets_the_bytes", status == 0 and "".join(SAY).encode() in raw, raw)
IDS = "27 91 50 74 194 155 226 128 174 10"
out = terminal("tokenize", MODEL, "--decode", "-p", IDS)
check("decode_on_a_terminal", harmless(out) and "\\x1b[2J" in out, out)

NAMES = (b"esc\x1b]0;owned\x07\x1b[31m.fulgur", "c1\u009b31m.fulgur".encode(),
         "bidi\u202egpj.fulgur".encode(), "marks\u200e\u2067\u2028.fulgur".encode(), b"no\xff\xfeutf8.fulgur",
         b"tab\tand\nline.fulgur")
for i, name in enumerate(NAMES):
    bad = os.path.join(path("").encode(), name)
    status, _, err = run("info", bad)
    check(f"error_line_{i}", status == 1 and err.count(b"\n") == 1 and harmless(err.decode()), err)
    status, _, err = run(name)
    check(f"command_name_{i}", status == 2 and err.count(b"\n") == 1 and harmless(err.decode()), err)
    status, _, err = run("info", MODEL, name)
    check(f"operand_{i}", status == 2 and err.count(b"\n") == 1 and harmless(err.decode()), err)
    shutil.copy(MODEL, bad)
    out = terminal("verify", bad) + terminal("info", bad)
    check(f"name_on_a_terminal_{i}", harmless(out) and "good" in out and "file " in out, out)

LONG = path("a/" * 1500 + "x")
for command in (["info", LONG], ["run", MODEL, "-f", LONG], ["logits", MODEL, "--ids", LONG, "--out", path("o")]):
    check_error(f"long_name_{command[0]}", run(*command), "expected a readable file")

# ---- names from JSON, in error lines ----

for i, evil in enumerate(("\x1b]0;owned\x07", "\u009b31m", "\u202e", "\u2069\u200f", "\x7f")):
    for ascii in (False, True):
        shutil.rmtree(path("ck"), ignore_errors=True)
        shutil.copytree(path("say"), path("ck"))
        config = json.load(open(path("ck/config.json")))
        config["hidden_act"] = "x" + evil
        json.dump(config, open(path("ck/config.json"), "w"), ensure_ascii=ascii)
        _, _, err = result = run("convert", path("ck"), path("no.fulgur"))
        check_error(f"value_of_config_{i}_{ascii}", result, "hidden_act")
        check(f"value_of_config_{i}_{ascii}_harmless", harmless(err.decode()), err)
        with open(path("ck/model.safetensors.index.json"), "w") as f:
            json.dump({"weight_map": {"a" + evil: 3}}, f, ensure_ascii=ascii)
        shutil.copy(path("say/config.json"), path("ck/config.json"))
        _, _, err = result = run("convert", path("ck"), path("no.fulgur"))
        check_error(f"name_of_index_{i}_{ascii}", result)
        check(f"name_of_index_{i}_{ascii}_harmless", harmless(err.decode()), err)

# ---- JSON, whatever the bytes ----


def is_json(text):
    try:
        json.loads(text.decode("utf-8"), parse_constant=lambda c: 1 / 0)
        return True
    except (ValueError, ZeroDivisionError):
        return False


check("control: what is no JSON", not is_json(b'{"a": "\xff"}') and not is_json(b'{"a": NaN}') and is_json(b"{}"))
bad = []
for i in (*range(0, 256, 5), 128, 240, 254):
    status, out, _ = run("tokenize", MODEL, "--decode", "--json", "-p", str(i))
    if status != 0 or not is_json(out):
        bad.append((i, out))
check("decode_of_a_byte_is_json", not bad, bad[:3])
status, out, _ = run("run", MODEL, "-p", "x\n", "--temp", "0", "-n", "9", "--json")
check("run_json", status == 0 and is_json(out) and json.loads(out)["text"] == "".join(SAY), out)
with open(path("text"), "w") as f:
    f.write("Once upon a time there was a king.\n" * 8)
open(path("ids"), "w").write("1 2 3 4\n")
for i, name in enumerate((NAMES[2], NAMES[4])):
    model, new = os.path.join(path("").encode(), name), os.path.join(path("").encode(), b"new" + name)
    for command in (["info", model, "--json"], ["info", model, "--json", "--tensors"],
                    ["info", model, "--json", "--quality"], ["verify", model, "--json"],
                    ["plan", model, "--ram", "1G", "--json"],
                    ["score", model, path("text"), "-w", "32", "--json"],
                    ["logits", model, "--ids", path("ids"), "--out", new, "--json"],
                    ["trace", model, path("text"), "-o", new + b"t", "--tokens", "9", "--json"],
                    ["trace", "replay", new + b"t", "--ram", "120M", "--json"],
                    ["convert", path("say"), new, "--dry-run", "--json", "--force"],
                    ["convert", path("say"), new + b"c", "--json"],
                    ["synth", new + b"s", "--shape", path("say/config.json"), "--json"]):
        status, out, err = run(*command)
        what = "_".join(c for c in command[:2] if isinstance(c, str) and c.isalpha())
        check(f"json_{what}_{i}", status == 0 and is_json(out), (command, status, out, err))

# ---- JSON that wants memory ----


SANITIZED = b"__asan_init" in open(FULGUR, "rb").read()  # takes terabytes of addresses


def limited():
    if not SANITIZED:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))


def peak(*args):
    """(result, MB of the largest resident size) of fulgur ARGS."""
    p = subprocess.Popen([FULGUR, *args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=limited)
    err = p.stderr.read()
    _, status, usage = os.wait4(p.pid, 0)
    return (os.waitstatus_to_exitcode(status), b"", err), usage.ru_maxrss / 1024


for i, text in enumerate((b'{"a":[' + b"0," * (25 << 20) + b"0]}", b'{"a":[' + b"[]," * (3 << 20) + b"0]}",
                          b'{"a":' + b'{"":0},"":' * (2 << 20) + b"0}")):
    shutil.rmtree(path("ck"), ignore_errors=True)
    shutil.copytree(path("say"), path("ck"))
    with open(path("ck/model.safetensors"), "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
    result, mb = peak("convert", path("ck"), path("no.fulgur"))
    check_error(f"header_of_values_{i}", result, "model.safetensors", "values")
    check(f"header_of_values_{i}_takes_little", mb < (2000 if SANITIZED else 400), mb)
for name in ("config.json", "tokenizer.json", "model.safetensors.index.json"):
    shutil.rmtree(path("ck"), ignore_errors=True)
    shutil.copytree(path("say"), path("ck"))
    with open(path("ck/" + name), "wb") as f:
        f.write(b"[" + b"0," * (4 << 20) + b"0]")
    result, mb = peak("convert", path("ck"), path("no.fulgur"))
    check_error(f"{name}_of_values", result, name)
    check(f"{name}_of_values_takes_little", mb < (2000 if SANITIZED else 200), mb)

# ---- texts ----

os.mkfifo(path("fifo"))
writer = subprocess.Popen(["sh", "-c", f"echo words in a pipe > {path('fifo')}"])
status, out, err = run("tokenize", MODEL, "-f", path("fifo"))
check("text_from_a_pipe", status == 0 and len(out.split()) > 4, err)
writer.wait()
check_error("text_is_a_folder", run("score", MODEL, path("say")), "a directory")
with open(path("sparse"), "wb") as f:
    f.truncate(1 << 40)
check_error("text_is_sparse", run("tokenize", MODEL, "-f", path("sparse")), "bytes, expected at most")
for command in (["tokenize", MODEL, "-f", "/dev/zero"], ["score", MODEL, "/dev/zero"],
                ["run", MODEL, "-f", "/dev/zero"], ["trace", MODEL, "/dev/zero", "-o", path("t")]):
    result, mb = peak(*command)
    check_error(f"{command[0]}_of_dev_zero", result, "/dev/zero: more than", "expected a text")
for name, command in (("calib", ["convert", path("say"), path("no.fulgur"), "--calib", "/dev/zero"]),
                      ("recipe", ["convert", path("say"), path("no.fulgur"), "--recipe-file", "/dev/zero"]),
                      ("ids", ["logits", MODEL, "--ids", "/dev/zero", "--out", path("l")]),
                      ("model", ["info", "/dev/zero"]), ("model_pipe", ["info", path("fifo")]),
                      ("replay", ["trace", "replay", "/dev/zero"])):
    status, _, err = result = run(*command, timeout=60)
    check(f"{name}_is_a_device", status in (1, 2) and err.count(b"\n") == 1 and err.startswith(b"fulgur: "), err)

# ---- standard streams that are closed: the model is not taken for one of them ----

shutil.copy(MODEL, path("mine"))
open(path("few"), "w").write("a few words " * 20)
for closed in ("0<&-", "1>&-", "2>&-", "0<&- 1>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"):
    bad = []
    for command in (f"chat {path('mine')} -n 2", f"score {path('mine')} {path('few')} --against {MODEL} --card",
                    f"info {path('mine')}", f"run {path('mine')} -f - -n 2",
                    f"convert {path('say')} {path('closed')} --type f32 --force"):
        p = subprocess.run(["sh", "-c", f"exec {FULGUR} {command} {closed}"], input=b"x\n", capture_output=True,
                           timeout=60)
        writes = command.startswith(("convert", "score"))
        if p.returncode not in (0, 1) or p.stdout.count(b"\n") > 40:
            bad.append((command, p))
        if "1>&-" in closed and p.returncode == 0 and not writes and not command.startswith(("chat", "run")):
            bad.append((command, "no word of what was lost"))
        if b"context" in p.stderr or p.stderr.count(b"prompt ") > 1:
            bad.append((command, "asked itself", p.stderr))
    check(f"closed_{closed.replace(' ', '_')}", not bad and run("verify", path("mine"))[0] == 0 and
          run("verify", path("closed"))[0] == 0, bad)

# ---- files of a checkpoint that are named and cannot be had ----

for leaf in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors.index.json"):
    for kind, target in (("a link to nothing", path("nowhere")), ("symbolic links", leaf), ("zeros", None)):
        shutil.rmtree(path("ck"), ignore_errors=True)
        shutil.copytree(path("say"), path("ck"))
        name = path("ck/" + leaf)
        if os.path.exists(name):
            os.remove(name)
        if target:
            os.symlink(target, name)
        else:
            open(name, "wb").write(bytes(5000))
        for more in ((), ("--dry-run",)):
            result = run("convert", path("ck"), path("no.fulgur"), *more)
            check_error(f"{leaf}_{kind.replace(' ', '_')}{''.join(more)}", result, leaf + ": ")
            check(f"{leaf}_{kind.replace(' ', '_')}{''.join(more)}_says", kind.encode() in result[2], result)
check("control: the folder itself is good", run("convert", path("say"), path("no.fulgur"), "--dry-run")[0] == 0)

# ---- a pattern without end ----

TEXT = path("letters")
open(TEXT, "w").write("a" * 3000 + " ")
for i, pattern in enumerate(("(?:\\p{L}+)+[\\p{N}\\p{P}]|\\p{L}|\\s", "(?:a|aa)+[\\p{N}\\p{P}]|\\p{L}|\\s",
                             "\\p{L}*\\p{L}*\\p{L}*\\p{L}*\\p{L}*[\\p{N}]|\\p{L}|\\s",
                             "(?=(?:\\p{L}+)+[\\p{N}\\p{P}])a|\\p{L}|\\s")):
    shutil.rmtree(path("endless"), ignore_errors=True)
    puppet.make(path("endless"), SAY, pattern=pattern)
    begun = time.monotonic()
    result = run("tokenize", path("endless"), "-f", TEXT, timeout=60)
    check_error(f"pattern_{i}", result, "too many steps")
    check(f"pattern_{i}_is_stopped_soon", time.monotonic() - begun < 10, time.monotonic() - begun)
puppet.make(path("slow"), SAY, pattern="(?:a++b|a)*c|\\p{L}|\\s")  # PCRE2 counts few steps
open(path("slow_text"), "w").write("a" * 400000)
check_error("pattern_of_long_steps", run("tokenize", path("slow"), "-f", path("slow_text"), timeout=60), "too many steps")
status, out, err = run("tokenize", path("endless"), "-p", "plain text")
check("control: the pattern splits a plain text", status == 0 and len(out.split()) == 10, (out, err))

# ---- Ctrl-C while a text is taken apart ----

shutil.copy(path("say/model.safetensors"), path("endless/model.safetensors"))
status, _, err = run("convert", path("endless"), path("endless.fulgur"), "--type", "f32")
with open(path("large"), "w") as f:
    f.write("ab c " * (40 << 18))
p = subprocess.Popen([FULGUR, "run", path("endless.fulgur"), "-f", path("large")], stderr=subprocess.PIPE)
time.sleep(1.5)
stopped = p.poll() is None
begun = time.monotonic()
p.send_signal(signal.SIGINT)
err = p.stderr.read()
p.wait()
check_error("interrupt_is_heard", (p.returncode, b"", err), "cancelled", want=130)
check("interrupt_is_heard_at_once", stopped and time.monotonic() - begun < 2, time.monotonic() - begun)

finish()
