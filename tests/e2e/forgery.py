#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whose a model is: files changed by somebody who makes every XXH3 right again, as FORMAT.md says how, must be
refused by the name of what was changed.  Controls: a file rewritten without a change is accepted, and each
forgery passes all hashes that were there before SHA-256."""
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, "scripts")
import fg_read
from e2e import NANO, check, check_error, check_usage, finish, nano, path, report, run

M, BAD = path("m.fulgur"), path("bad.fulgur")
os.environ["XDG_CONFIG_HOME"] = path("config")
nano(M)


class Forger:
    """A model file in memory, and how to make its hashes right."""

    def __init__(self, name):
        self.b = bytearray(open(name, "rb").read())
        self.r = fg_read.Reader(name)
        at = [i for i in (0, 1) if struct.unpack_from("<Q", self.b, 4096 * i + 16)[0] % 2 == 1 - i
              and self.b[4096 * i] == 0x89]
        self.slot = max(at, key=lambda i: struct.unpack_from("<Q", self.b, 4096 * i + 16)[0]) * 4096
        self.file_bytes, self.dir, self.dir_bytes = struct.unpack_from("<3Q", self.b, self.slot + 24)
        self.meta0 = self.dir + 160 + (self.r.shape["n_layer"] + 15) // 16 * 16

    def rehash(self, chunks=()):
        for c in chunks:
            n = min(1 << 20, self.r.data_bytes - (c << 20))
            at = self.r.data_offset + (c << 20)
            struct.pack_into("<Q", self.b, self.r.table_offset + 8 * c, fg_read.xxh3(bytes(self.b[at:at + n])))
        table = bytes(self.b[self.r.table_offset:self.r.table_offset + 8 * self.r.n_chunk])
        struct.pack_into("<Q", self.b, self.slot + 88, fg_read.xxh3(table))
        n_meta = struct.unpack_from("<I", self.b, self.dir + 128)[0]
        for i in range(n_meta):
            at = self.meta0 + 288 * i
            offset, n = struct.unpack_from("<2Q", self.b, at + 256)
            struct.pack_into("<Q", self.b, at + 272, fg_read.xxh3(bytes(self.b[offset:offset + n])))
        d = bytes(self.b[self.dir:self.dir + self.dir_bytes])
        struct.pack_into("<5Q", self.b, self.slot + 24, self.file_bytes, self.dir, self.dir_bytes, fg_read.xxh3(d),
                         self.r.table_offset)
        struct.pack_into("<Q", self.b, self.slot + 4088, fg_read.xxh3(bytes(self.b[self.slot:self.slot + 4088])))

    def blob(self, key):
        offset, n, _ = self.r.meta[key]
        return offset, bytes(self.b[offset:offset + n])

    def edit(self, key, old, new):
        offset, text = self.blob(key)
        assert text.count(old) >= 1 and len(old) == len(new)
        at = offset + text.index(old)
        self.b[at:at + len(old)] = new

    def add_key(self, key, text):
        """A complete new directory after the end, as an appender makes it."""
        d = bytearray(self.b[self.dir:self.dir + self.dir_bytes])
        keys = sorted([*self.r.meta, key])
        place = self.meta0 - self.dir + 288 * keys.index(key)
        offset = (self.file_bytes + 63) // 64 * 64
        self.b = self.b[:self.file_bytes].ljust(offset, b"\0") + text
        d[place:place] = key.encode().ljust(256, b"\0") + struct.pack("<4Q", offset, len(text), 0, 0)
        struct.pack_into("<I", d, 128, len(keys))
        self.b = self.b.ljust((len(self.b) + 63) // 64 * 64, b"\0")
        self.dir, self.dir_bytes = len(self.b), len(d)
        self.meta0 = self.dir + 160 + (self.r.shape["n_layer"] + 15) // 16 * 16
        self.b += d
        self.file_bytes = len(self.b)

    def save(self, chunks=()):
        self.rehash(chunks)
        open(BAD, "wb").write(self.b)


# keys: made, shown, pinned only when the fingerprint that was typed is the key's
status, out, err = run("key", "new", path("ours"))
paper = out.decode().strip()
check("key_new", status == 0 and len(paper) == 79 and os.stat(path("ours.sec")).st_mode & 0o777 == 0o600, err)
check_error("key_new_again", run("key", "new", path("ours")), "ours.sec", "new file")
check("key_shown", run("key", path("ours.pub"))[1].decode().strip() == paper)
check_error("key_not_there", run("key", path("none.pub")), "none.pub")
check_error("key_is_none", run("key", path("ours.sec")), "no public key")
status, out, err = run("sign", M, "--key", path("ours.sec"))
check("sign", status == 0 and os.path.exists(M + ".sig"), err)
check("signature_waits_for_a_key", b"not checked: no key is pinned" in run("verify", M)[1])
check_error("no_key_is_pinned", run("verify", M, "--require-signature"), "keys: no key is pinned")
status, out, err = run("verify", M, "--key", path("ours.pub"))
check("first_use_shows_the_fingerprint", status == 0 and f"key {paper} is not pinned".encode() in err
      and b"compare it with the one on paper" in err, err)
check_error("pin_other", run("key", "pin", path("ours.pub"), paper[:-1] + ("0" if paper[-1] != "0" else "1")),
            "ours.pub", "as on paper")
check("pin_other_pins_nothing", not os.path.exists(path("config/fulgur/keys")))
check("pin", run("key", "pin", path("ours.pub"), paper.upper().replace(" ", ""))[0] == 0
      and run("key", path("ours.pub"))[1].decode().strip() == paper + "  pinned")
run("key", "new", path("theirs"))
check_error("secret_key_with_passphrase", run("sign", M, "--key", path("ours.pub")), "ours.pub", "secret key")
check_usage("sign_with_what", run("sign", M), "--key")

# what is as it was signed
GOOD = ["run", "-m", M, "-p", "hello", "-n", "2", "--temp", "0", "--require-signature"]
status, out, err = run("verify", M)
check("verify_signed", status == 0 and f"signed      by key {paper}".encode() in out and err == b"", out)
check("verify_json", json.loads(run("verify", M, "--json")[1])["signed_by"] == paper)
status, out, err = run(*GOOD)
check("run_signed", status == 0 and b"signed by key " + paper.encode() in err and b" checked in " in err
      and b" of experts checked at their first use" in err, err)
plain = run(*GOOD[:-1])
check("run_signed_quiet", b"signed" not in run(*GOOD, "-q")[2])
check("run_signed_same_answer", out == plain[1] and b"signed" not in plain[2])
status, out2, err = run(*GOOD, "--ram", "200M")
check("run_signed_ram", status == 0 and out2 == out, err)
status, out2, err = run(*GOOD, "--residency", "copy")
check("run_signed_copy", status == 0 and out2 == out and b"first use" not in err, err)
status, out, err = run("chat", M, "-p", "hi", "-n", "2", "--temp", "0", "--key", path("ours.pub"))
check("chat_signed", status == 0 and b"signed by key" in err, err)
shutil.copy(M + ".sig", BAD + ".sig")
f = Forger(M)
f.save()
check("control_rewritten", open(BAD, "rb").read() == open(M, "rb").read() and run("verify", BAD)[0] == 0)


def forged(name, *words, early=False, chunks=()):
    """BAD is refused by verify, run and chat, which name the words; old hashes see nothing."""
    if not early:
        r = fg_read.Reader(BAD)
        table = r.read(r.table_offset, 8 * r.n_chunk)
        good = fg_read.xxh3(table) == r.root and all(fg_read.xxh3(r.read(o, n)) == h for o, n, h in r.meta.values())
        for c in chunks:
            size = min(1 << 20, r.data_bytes - (c << 20))
            good &= fg_read.xxh3(r.read(r.data_offset + (c << 20), size)) == struct.unpack_from("<Q", table, 8 * c)[0]
        check(name + ".old_hashes_are_right", good)
    check_error(name + ".verify", run("verify", BAD), "bad.fulgur", *words)
    check_error(name + ".run", run("run", BAD, *GOOD[3:], "-q"), "bad.fulgur", *words)
    check_error(name + ".chat", run("chat", BAD, "-p", "x", "-n", "1", "--require-signature", "-q"), "bad.fulgur", *words)


f = Forger(M)
vocab = json.loads(f.blob("tokenizer.json")[1])["model"]["vocab"]
one = [w for w in vocab if len(w) == 5 and w.isalpha() and w.isascii()][:2]
a, b = (f'"{w}"'.encode() for w in one)
f.edit("tokenizer.json", a, b'"\0\0\0\0\0"')
f.edit("tokenizer.json", b, a)
f.edit("tokenizer.json", b'"\0\0\0\0\0"', b)
f.save()
forged("vocabulary", "metadata tokenizer.json has SHA-256")

f = Forger(M)
text = f.blob("tokenizer_config.json")[1]
at = text.index(b"chat_template") + 40 if b"chat_template" in text else 40
f.edit("tokenizer_config.json", text[at:at + 8], text[at:at + 7] + bytes([text[at + 7] ^ 1]))
f.save()
forged("template", "metadata tokenizer_config.json has SHA-256")

f = Forger(M)
at = f.meta0 + 288 * len(f.r.meta) + 32  # of layer 0: its dense part is before expert 0
e0, e1 = bytes(f.b[at - 16:at]), bytes(f.b[at:at + 16])
f.b[at - 16:at], f.b[at:at + 16] = e1, e0
f.save()
forged("expert_offsets", "expert", early=True)

f = Forger(M)
(o0, n0), (o1, n1) = f.r.experts[3][5], f.r.experts[3][6]
x, y = bytes(f.b[o0:o0 + n0]), bytes(f.b[o1:o1 + n1])
f.b[o0:o0 + n0], f.b[o1:o1 + n1] = y, x
span = range((o0 - f.r.data_offset) >> 20, ((o1 + n1 - 1 - f.r.data_offset) >> 20) + 1)
f.save(span)
forged("expert_bytes", "model.layers.3.", "another SHA-256", chunks=span)

f = Forger(M)
t = f.r.by_name["model.layers.2.self_attn.out_proj.weight"]
at = t.offset + 200
f.b[at] ^= 1
chunk = (at - f.r.data_offset) >> 20
f.save([chunk])
forged("one_weight", f"chunk {chunk} (", "another SHA-256", chunks=[chunk])
check("control_without_a_question", run("run", BAD, *GOOD[3:-1])[0] == 0)

# a weight of an expert: refused where it is used, and only there; with a copy everything is
f = Forger(M)
dense = {c for t in f.r.tensors if t.expert == fg_read.NONE
         for c in range(((t.scales or t.offset) - f.r.data_offset) >> 20,
                        ((t.offset + (4 * t.n_row if t.vector else t.n_panel * t.stride) - 1 - f.r.data_offset) >> 20) + 1)}
told = int(float(re.search(rb"([\d.]+) MB of experts checked", run(*GOOD)[2]).group(1)) * 1e6 / (1 << 20) + 0.5)
chunks = [c for c in range(f.r.n_chunk - 1) if c not in dense]
refused, first, other = 0, None, None
for c in chunks:
    f = Forger(M)
    f.b[f.r.data_offset + (c << 20) + 500_000] ^= 4
    f.save([c])
    status, answer, err = run("run", BAD, *GOOD[3:], "-q")
    refused += status == 1
    good = (status == 1 and b"chunk %d (" % c in err and b"another SHA-256" in err) or (status == 0 and answer == plain[1])
    if not good or (status == 1 and first is None):
        check(f"expert_{c}", good, (status, answer, err))
        check_error(f"expert_{c}.ram", run("run", BAD, *GOOD[3:], "-q", "--ram", "130M"), f"chunk {c} (", "another SHA-256")
        first = c
    elif status == 0 and other is None:
        check_error(f"expert_{c}.copy", run("run", BAD, *GOOD[3:], "-q", "--residency", "copy"), f"chunk {c} (")
        check_error(f"expert_{c}.verify", run("verify", BAD), f"chunk {c} (", "another SHA-256")
        other = c
check("experts_by_use", 0 < refused < len(chunks) and refused == told, (refused, told, len(chunks)))

f = Forger(M)
f.add_key("generation_config.json", b'{"temperature": 9.0}')
f.save()
forged("key_added", "metadata generation_config.json is not in its SHA-256 text", "added later")

f = Forger(M)
at = f.dir + f.dir_bytes - 96 * 30 + 76  # the error of a tensor's worst row, which no run reads
struct.pack_into("<f", f.b, at, 0.5)
f.save()
forged("tensor_record", "the record of model.layers.7.")

# the text is made right as well: only the signature is left
f = Forger(M)
f.b[t.offset + 200] ^= 1
f.rehash([chunk])
open(BAD, "wb").write(f.b)
start = f.r.data_offset + (chunk << 20)
offset, text = f.blob("sha256")
line = text.split(b"\n").index(b"chunk " + hashlib.sha256(open(M, "rb").read()[start:start + (1 << 20)]).hexdigest().encode())
lines = text.split(b"\n")
lines[line] = b"chunk " + hashlib.sha256(f.b[start:start + (1 << 20)]).hexdigest().encode()
f.b[offset:offset + len(text)] = b"\n".join(lines)
f.save([chunk])
forged("text_too", "bad.fulgur.sig: not of this file", chunks=[chunk])
os.rename(BAD + ".sig", path("away"))
check("control_text_too", run("verify", BAD)[0] == 0)
check_error("no_signature", run("verify", BAD, "--require-signature"), "bad.fulgur.sig: no such file")

# a key of somebody else's: by him alone it is good
run("sign", BAD, "--key", path("theirs.sec"))
forged("foreign_key", "bad.fulgur.sig: by a foreign key", chunks=[])
check("control_foreign_key", run("verify", BAD, "--key", path("theirs.pub"), "-q")[0] == 0)
for name, text in (("empty", b""), ("words", b"untrusted comment: x\nhello\n"), ("two", open(M + ".sig", "rb").read() * 2),
                   ("long", b"x" * 70000)):
    open(BAD + ".sig", "wb").write(text)
    check_error("bad_signature." + name, run("verify", BAD), "bad.fulgur.sig")

# an older generation put in force: another tokenizer, signed again, and the newer slot overwritten
os.mkdir(path("src"))
for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(os.path.join(NANO, name), path("src"))
config = json.load(open(path("src/tokenizer_config.json")))
json.dump({**config, "added_by_the_test": 1}, open(path("src/tokenizer_config.json"), "w"))
shutil.copy(M, BAD)
check("other_tokenizer", run("convert", path("src"), BAD, "--only-tokenizer")[0] == 0 and run("verify", BAD, "-q")[0] == 1)
os.remove(BAD + ".sig")
check("other_tokenizer_is_known", run("verify", BAD)[0] == 0)
check("signed_again", run("sign", BAD, "--key", path("ours.sec"))[0] == 0 and run("verify", BAD)[0] == 0)
new = open(BAD, "rb").read()
g = struct.unpack_from("<Q", new, 16)[0], struct.unpack_from("<Q", new, 4096 + 16)[0]
old = bytearray(new)
newest = 0 if g[0] > g[1] else 4096
old[newest:newest + 4096] = bytes(4096)
open(BAD, "wb").write(old)
forged("generation_before", "metadata tokenizer", early=True)
first = bytearray(new)  # the very first one: its slot was overwritten, its directory is still there
first[:4096], first[4096:8192] = open(M, "rb").read()[:4096], bytes(4096)
open(BAD, "wb").write(first)
forged("generation_first", "bad.fulgur.sig: made for generation", "an older generation is in force", early=True)

# metadata that is measured later may be anybody's, and is named
shutil.copy(M, BAD)
shutil.copy(M + ".sig", BAD + ".sig")
open(path("t.txt"), "w").write(open("README.md").read()[:3000])
check("heat", run("trace", BAD, path("t.txt"), "--heat", "--tokens", "40")[0] == 0)
status, out, err = run("verify", BAD)
check("not_signed", status == 0 and b"not signed  metadata heat" in out, out + err)
check("not_signed.run", b"not signed: metadata heat" in run("run", BAD, *GOOD[3:])[2])

# an image of weights stands in for the file's, and nobody signed it
check_error("image", run("run", M, *GOOD[3:], "--residency", "shared", "--image", path("image")),
            "image, whose weights nobody signed")
check("image_not_made", not os.path.exists(path("image")))

# a file of a converter that had no SHA-256, by leaving the entry out
f = Forger(M)
d = bytes(f.b[f.dir:f.dir + f.dir_bytes])
at = f.meta0 - f.dir + 288 * sorted(f.r.meta).index("sha256")
d = bytearray(d[:at] + d[at + 288:])
struct.pack_into("<I", d, 128, len(f.r.meta) - 1)
f.b[f.dir:] = d
f.dir_bytes, f.file_bytes = len(d), f.dir + len(d)
f.save()
check("old_file", b"no metadata sha256" in run("verify", BAD, "-q")[2] and run("info", BAD)[0] == 0)
os.remove(BAD + ".sig")
check("old_file_is_good", json.loads(run("verify", BAD, "--json")[1])["sha256"] is False)
check_error("old_file_cannot_be_signed", run("sign", BAD, "--key", path("ours.sec")), "no metadata sha256", "--add-sha256")
status, out, err = run("verify", BAD, "--add-sha256")
check("added", status == 0 and json.loads(run("verify", BAD, "--json")[1])["sha256"] is True, err)
check_error("added_once", run("verify", BAD, "--add-sha256"), "has metadata sha256")
check("added_and_signed", run("sign", BAD, "--key", path("ours.sec"))[0] == 0 and run("verify", BAD)[0] == 0)

# signify reads what we write, and we what it writes
if shutil.which("signify-openbsd"):
    open(path("text"), "wb").write(run("info", M, "--meta", "sha256")[1])
    tool = lambda *a: subprocess.run(["signify-openbsd", *a], capture_output=True)
    check("signify_verifies", tool("-V", "-p", path("ours.pub"), "-x", M + ".sig", "-m", path("text")).returncode == 0)
    tool("-S", "-s", path("ours.sec"), "-m", path("text"), "-x", M + ".sig")
    check("signify_signs", b"signed      by" in run("verify", M)[1])
    tool("-G", "-n", "-p", path("s.pub"), "-s", path("s.sec"))
    check("signify_keys", run("sign", M, "--key", path("s.sec"))[0] == 0
          and run("verify", M, "--key", path("s.pub"), "-q")[0] == 0)
else:
    report("skip", "signify", "no signify-openbsd")
finish()
