#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Second reader of .fulgur files: src/format/FORMAT.md in Python, standard library only.

Its job is to disagree with the C reader when the document and the code differ, so it shares
no code with it.  Section numbers in comments are those of FORMAT.md.

  fg_read.py FILE                         shape, metadata, sizes
  fg_read.py FILE --list                  one line a tensor
  fg_read.py FILE --verify [--chunks N]   all hashes (N chunks spread over the file; default all)
  fg_read.py FILE --tensor NAME --out F   that tensor as row-major little-endian f32
  fg_read.py --types                      the weight types that it knows, a line each
"""
import argparse
import array
import hashlib
import math
import os
import struct
import sys

MASK = (1 << 64) - 1


class Bad(Exception):
    pass


def need(ok, message):
    if not ok:
        raise Bad(message)


# XXH3-64 with seed 0 (8.1) ---------------------------------------------------------------------
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")
P32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
P64 = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63,
       0x27D4EB2F165667C5)


def u32(b, at):
    return struct.unpack_from("<I", b, at)[0]


def u64(b, at):
    return struct.unpack_from("<Q", b, at)[0]


def fold(a, b):
    p = a * b
    return (p & MASK) ^ (p >> 64)


def avalanche(h):
    h = (h ^ (h >> 37)) * 0x165667919E3779F9 & MASK
    return h ^ (h >> 32)


def avalanche64(h):
    h = (h ^ (h >> 33)) * P64[1] & MASK
    h = (h ^ (h >> 29)) * P64[2] & MASK
    return h ^ (h >> 32)


def rotl(x, n):
    return ((x << n) | (x >> (64 - n))) & MASK


def mix16(b, at, key):
    return fold(u64(b, at) ^ u64(SECRET, key), u64(b, at + 8) ^ u64(SECRET, key + 8))


def xxh3_short(b):
    n = len(b)
    if n == 0:
        return avalanche64(u64(SECRET, 56) ^ u64(SECRET, 64))
    if n <= 3:
        v = b[0] << 16 | b[n >> 1] << 24 | b[n - 1] | n << 8
        return avalanche64(v ^ u32(SECRET, 0) ^ u32(SECRET, 4))
    if n <= 8:
        h = (u32(b, n - 4) + (u32(b, 0) << 32)) ^ u64(SECRET, 8) ^ u64(SECRET, 16)
        h ^= rotl(h, 49) ^ rotl(h, 24)
        h = h * 0x9FB21C651E98DF25 & MASK
        h = (h ^ ((h >> 35) + n)) * 0x9FB21C651E98DF25 & MASK
        return h ^ (h >> 28)
    if n <= 16:
        lo = u64(b, 0) ^ u64(SECRET, 24) ^ u64(SECRET, 32)
        hi = u64(b, n - 8) ^ u64(SECRET, 40) ^ u64(SECRET, 48)
        swapped = int.from_bytes(lo.to_bytes(8, "little"), "big")
        return avalanche((n + swapped + hi + fold(lo, hi)) & MASK)
    acc = n * P64[0]
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            acc += mix16(b, 16 * i, 32 * i) + mix16(b, n - 16 * (i + 1), 32 * i + 16)
        return avalanche(acc & MASK)
    for i in range(8):
        acc += mix16(b, 16 * i, 16 * i)
    acc = avalanche(acc & MASK)
    for i in range(8, n // 16):
        acc += mix16(b, 16 * i, 16 * (i - 8) + 3)
    return avalanche((acc + mix16(b, n - 16, 136 - 17)) & MASK)


def xxh3(b):
    b = bytes(b)
    n = len(b)
    if n <= 240:
        return xxh3_short(b)
    acc = [P32[2], P64[0], P64[1], P64[2], P64[3], P32[1], P64[4], P32[0]]
    stripe_keys = [struct.unpack_from("<8Q", SECRET, 8 * s) for s in range(16)]

    def add(words, keys):  # one stripe of 64 bytes; sums are cut to 64 bits at the scramble
        for i in range(8):
            w = words[i]
            k = w ^ keys[i]
            acc[i ^ 1] += w
            acc[i] += (k & 0xFFFFFFFF) * (k >> 32)

    blocks = (n - 1) // 1024
    last = struct.unpack_from("<8Q", SECRET, 128)
    for j in range(blocks):
        words = struct.unpack_from("<128Q", b, 1024 * j)
        for s in range(16):
            add(words[8 * s:8 * s + 8], stripe_keys[s])
        for i in range(8):
            a = acc[i] & MASK
            acc[i] = (a ^ (a >> 47) ^ last[i]) * P32[0] & MASK
    for s in range((n - 1 - 1024 * blocks) // 64):
        add(struct.unpack_from("<8Q", b, 1024 * blocks + 64 * s), stripe_keys[s])
    add(struct.unpack_from("<8Q", b, n - 64), struct.unpack_from("<8Q", SECRET, 192 - 64 - 7))
    h = n * P64[0]
    for i in range(4):
        h += fold((acc[2 * i] & MASK) ^ u64(SECRET, 11 + 16 * i),
                  (acc[2 * i + 1] & MASK) ^ u64(SECRET, 19 + 16 * i))
    return avalanche(h & MASK)


# Header and directory (3, 4) -------------------------------------------------------------------
NONE = 0xFFFFFFFF
LAYER = "model.layers.%d."
EXPERT = LAYER + "block_sparse_moe.experts.%d."
NAMES = ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"] + [
    LAYER + s + ".weight" for s in
    ("input_layernorm", "post_attention_layernorm", "self_attn.qkv_proj", "self_attn.output_gate",
     "self_attn.out_proj", "self_attn.norm", "self_attn.q_proj", "self_attn.k_proj",
     "self_attn.v_proj", "self_attn.o_proj", "block_sparse_moe.gate")] + [
    EXPERT + s + ".weight" for s in ("w1", "w3", "w2")]
VECTORS = (2, 3, 4, 8)
ROUTER = 13
# 6: name, superblock bytes, lines of a group, number of codes, value of code q
TYPES = {0: ("f32", 8192, 0, 0, "float"), 1: ("bf16", 4096, 0, 0, "float"),
         4: ("q4", 1088, 4, 16, "lut[q]"), 5: ("q5", 1344, 5, 32, "q - 16"),
         6: ("q6", 1600, 6, 64, "q - 32"), 8: ("q8", 2112, 8, 256, "i8")}
TYPE_NAME = {t: x[0] for t, x in TYPES.items()}
SUPERBLOCK = {t: x[1] for t, x in TYPES.items()}
LINES = {t: x[2] for t, x in TYPES.items()}
COUNTS = ("n_layer d_model n_head n_kv_head d_head d_rotary n_expert n_used d_ff n_vocab").split()
REALS = ("rope_theta norm_eps inner_norm_eps alpha_softmax beta_softmax alpha_lightning "
         "beta_lightning alpha_mlp beta_mlp").split()


def up(x, to):
    return -(-x // to) * to


class Tensor:
    def __init__(self, b, at):
        (self.role, self.layer, self.expert, self.type, self.n_row, self.n_col, self.offset,
         self.stride, self.scales) = struct.unpack_from("<4I5Q", b, at)
        self.lut = struct.unpack_from("<16b", b, at + 56)
        self.err_rms, self.err_max_row = struct.unpack_from("<2f", b, at + 72)
        self.peak, self.err_out = struct.unpack_from("<2f", b, at + 88)
        need(all(math.isnan(x) or 0 <= x < math.inf
                 for x in (self.err_rms, self.err_max_row, self.peak, self.err_out)), "errors or peak of a tensor")
        flags = u32(b, at + 80)
        need(flags < 2 and u32(b, at + 84) == 0, "reserved bits of a tensor record are not zero")
        self.rotated = flags == 1
        need(self.role < len(NAMES) and self.type in SUPERBLOCK, "unknown role or type")
        parts = [x for x in (self.layer, self.expert) if x != NONE]
        need(NAMES[self.role].count("%d") == len(parts), "layer or expert given or missing")
        self.name = NAMES[self.role] % tuple(parts)
        self.vector = self.role in VECTORS
        self.n_panel = up(self.n_row, 16) // 16
        self.panel = up(self.n_col, 128) // 128 * SUPERBLOCK[self.type]


class Reader:
    def __init__(self, path):
        self.n_part, self.file = 0, open(path, "rb")
        self.size = os.fstat(self.file.fileno()).st_size
        need(self.size >= 8192, "shorter than two header slots")
        best = None
        for i in range(2):
            s = self.read(4096 * i, 4096)
            if s[:8] == b"\x89FULGUR\n" and xxh3(s[:4088]) == u64(s, 4088):
                generation = u64(s, 16)
                need(generation > 0 and (generation - 1) % 2 == i, "generation in the wrong slot")
                if best is None or generation > u64(best, 16):
                    best = s
        need(best is not None, "no valid header slot")
        self.read_version = u32(best, 8)
        self.generation = u64(best, 16)
        need(1 <= self.read_version <= 3, "read version %d, expected 1 to 3" % self.read_version)
        (self.file_bytes, self.dir_offset, self.dir_bytes, self.dir_hash, self.table_offset,
         self.n_chunk, self.data_offset, self.data_bytes, self.root,
         chunk_log2) = struct.unpack_from("<9QI", best, 24)
        need(chunk_log2 == 20 and not any(best[100:104]) and not any(best[108:256])
             and not any(best[512:4088]),
             "header fields of another version")
        need(self.file_bytes <= self.size, "truncated: %d bytes of %d" % (self.size, self.file_bytes))
        need(self.n_chunk == up(self.data_bytes, 1 << 20) >> 20, "number of chunks")
        need(self.data_offset % (2 << 20) == 0, "start of the data region")
        d = self.read(self.dir_offset, self.dir_bytes)
        need(xxh3(d) == self.dir_hash, "hash of the directory")
        self.directory(d)
        self.check_places()
        n_part = u32(best, 104)
        need(n_part == 0 or self.read_version >= 3 and 2 <= n_part <= 16, "%d parts" % n_part)
        self.parts = [self.file] + [self.open_part(path, k, n_part) for k in range(1, n_part)]
        self.n_part = n_part

    def open_part(self, path, k, n_part):  # 3.1
        f = open("%s.%d" % (path, k), "rb")
        h = f.read(4096)
        need(len(h) == 4096 and h[:8] == b"\x89FGPART\n" and xxh3(h[:4088]) == u64(h, 4088), f.name + ": no part")
        need(struct.unpack_from("<4I3Q", h, 8) == (3, k, n_part, 0, self.data_offset, self.data_bytes, self.root),
             f.name + ": a part of another file")
        need(not any(h[48:4088]), f.name + ": reserved bytes of the header are not zero")
        need(os.fstat(f.fileno()).st_size >= self.data_offset + self.data_bytes, f.name + ": truncated")
        return f

    def read(self, offset, n):
        runs = []
        for at, m, k in self.runs(offset, n) if self.n_part else [(offset, n, 0)]:
            f = self.parts[k] if self.n_part else self.file
            f.seek(at)
            runs.append(f.read(m))
        b = b"".join(runs)
        need(len(b) == n, "%d bytes at offset %d are outside the file" % (n, offset))
        return b

    def runs(self, offset, n):  # 3.1: (offset, bytes, part) of [offset, offset + n)
        at, end = offset, offset + n
        for layer, experts in enumerate(self.experts):
            for expert, (begin, size) in enumerate(experts):
                if begin >= end or begin + size <= at:
                    continue
                if at < begin:
                    yield at, begin - at, 0
                    at = begin
                stripe = up(-(-size // self.n_part), 4096)
                while at < min(end, begin + size):
                    j = (at - begin) // stripe
                    stop = min(end, begin + size, begin + (j + 1) * stripe)
                    yield at, stop - at, (j + expert + layer) % self.n_part
                    at = stop
        if at < end:
            yield at, end - at, 0

    def directory(self, d):
        need(len(d) >= 160, "directory too short")
        self.raw = d
        self.shape = dict(zip(COUNTS, struct.unpack_from("<10I", d, 0)))
        self.shape["n_ctx_max"] = u64(d, 40)
        self.shape.update(zip(REALS, struct.unpack_from("<9d", d, 48)))
        self.shape["postnorm"], self.shape["slope_form"] = struct.unpack_from("<2I", d, 120)
        n_meta, n_tensor = u32(d, 128), u64(d, 136)
        need(u32(d, 132) == 0 and u64(d, 144) == 0, "reserved bytes of the directory are not zero")
        n_layer, n_expert = self.shape["n_layer"], self.shape["n_expert"]
        at = 160 + up(n_layer, 16)
        self.attn = d[160:160 + n_layer]
        need(len(d) == at + 288 * n_meta + 16 * n_layer * (1 + n_expert) + 96 * n_tensor,
             "length of the directory")
        need(n_tensor == 3 + n_layer * (7 + 3 * n_expert), "number of tensors")
        self.meta = {}
        for _ in range(n_meta):
            key = d[at:at + 256].rstrip(b"\0").decode("ascii")
            self.meta[key] = struct.unpack_from("<3Q", d, at + 256)
            at += 288
        need(list(self.meta) == sorted(self.meta) and len(self.meta) == n_meta, "metadata keys")
        self.dense, self.experts = [], []
        for _ in range(n_layer):
            pairs = list(struct.iter_unpack("<2Q", d[at:at + 16 * (1 + n_expert)]))
            self.dense.append(pairs[0])
            self.experts.append(pairs[1:])
            at += 16 * (1 + n_expert)
        self.tensors = [Tensor(d, at + 96 * i) for i in range(n_tensor)]
        self.by_name = {t.name: t for t in self.tensors}
        need(len(self.by_name) == n_tensor, "a tensor occurs twice")

    def dims(self, role):  # 4.4
        s = self.shape
        h, kv, m = s["n_head"] * s["d_head"], s["n_kv_head"] * s["d_head"], s["d_model"]
        v, f = s["n_vocab"], s["d_ff"]
        return [(v, m), (v, m), (1, m), (1, m), (1, m), (3 * h, m), (h, m), (m, h), (1, h), (h, m),
                (kv, m), (kv, m), (m, h), (s["n_expert"], m), (f, m), (f, m), (m, f)][role]

    def order(self):  # 5.1
        yield 0, NONE, NONE
        for layer, kind in enumerate(self.attn):
            for role in (3, 4, 9, 10, 11, 12, 13) if kind else (3, 4, 8, 5, 6, 7, 13):
                yield role, layer, NONE
            for expert in range(self.shape["n_expert"]):
                for role in (14, 15, 16):
                    yield role, layer, expert
        yield 2, NONE, NONE
        yield 1, NONE, NONE

    def check_places(self):  # 5.2
        need([(t.role, t.layer, t.expert) for t in self.tensors] == list(self.order()),
             "order of tensors")
        pos = self.data_offset
        for i, t in enumerate(self.tensors):
            need((t.n_row, t.n_col) == self.dims(t.role), t.name + ": dimensions")
            need(t.type == 0 or not (t.vector or t.role == ROUTER), t.name + ": not f32")
            need(not t.rotated or (self.read_version >= 2 and LINES[t.type] and t.n_col % 128 == 0
                                   and t.role not in (0, ROUTER)), t.name + ": rotated")  # 6.2
            need(t.role != 15 or t.rotated == self.tensors[i - 1].rotated,
                 t.name + ": rotated unlike its gate")
            scales = up(64 * t.n_panel, 4096) if LINES[t.type] else 0
            if t.role in (14, 15):
                continue
            if t.role == 3 or t.role == 1:
                pos = up(pos, 2 << 20)
            begin = pos
            if t.role == 16:
                gate, up_, down = self.tensors[i - 2:i + 1]
                for x in (gate, up_, down):
                    n = up(64 * x.n_panel, 4096) if LINES[x.type] else 0
                    need(x.scales == (pos if n else 0), x.name + ": row scales")
                    pos += n
                pair = gate.panel + up_.panel
                need((gate.offset, gate.stride, up_.offset, up_.stride) ==
                     (pos, pair, pos + gate.panel, pair), gate.name + ": place of the pair")
                pos = up(pos + gate.n_panel * pair, 4096)
                need((down.offset, down.stride) == (pos, down.panel), down.name + ": place")
                pos = up(pos + down.n_panel * down.panel, 4096)
                need(self.experts[t.layer][t.expert] == (begin, pos - begin), t.name + ": extent")
            elif t.vector:
                need((t.offset, t.stride, t.scales) == (pos, 0, 0), t.name + ": place")
                pos = up(pos + 4 * t.n_col, 4096)
            else:
                need((t.offset, t.stride, t.scales) == (pos + scales, t.panel, scales and pos),
                     t.name + ": place")
                pos = up(t.offset + t.n_panel * t.panel, 4096)
            if t.role == 3:
                dense = begin
            elif t.role == ROUTER:
                need(self.dense[t.layer] == (dense, pos - dense), t.name + ": dense extent")
        need(self.data_bytes == pos - self.data_offset, "length of the data region")

    def sha256_text(self):  # 4.5
        """Lines of the key sha256 that are right, those of the chunks left out; None without it."""
        if "sha256" not in self.meta:
            return None
        offset, n, _ = self.meta["sha256"]
        text = self.read(offset, n).decode("ascii")
        lines = text.split("\n")
        generation = int(lines[1].split(" ")[1], 16)
        need(1 <= generation <= self.generation, "generation of the SHA-256 text")
        d = self.raw
        want = ["fulgur sha256 1", "generation %016x" % generation, "shape " + d[:128].hex(),
                "attention " + "".join("LS"[x] for x in self.attn),
                "layout %016x %016x %02x" % (self.data_offset, self.data_bytes, self.n_part or 1)]
        for key, (o, m, _) in self.meta.items():
            if key not in ("quality", "heat", "sha256"):
                want.append("meta %s %016x %s" % (hashlib.sha256(self.read(o, m)).hexdigest(), m, key))
        first = len(d) - 96 * len(self.tensors)
        want += ["tensor " + d[first + 96 * i:first + 96 * (i + 1)].hex() for i in range(len(self.tensors))]
        need(lines[:len(want)] == want, "the SHA-256 text differs from the file")
        need(lines[len(want) + self.n_chunk:] == ["end", ""], "end of the SHA-256 text")
        return lines[len(want):len(want) + self.n_chunk]

    def verify(self, n_sample):
        table = self.read(self.table_offset, 8 * self.n_chunk)
        need(xxh3(table) == self.root, "hash of the chunk table")
        for key, (offset, n, h) in self.meta.items():
            need(xxh3(self.read(offset, n)) == h, "hash of metadata " + key)
        sha = self.sha256_text()
        n = min(n_sample or self.n_chunk, self.n_chunk)
        for c in sorted({i * self.n_chunk // n for i in range(n)}):
            size = min(1 << 20, self.data_bytes - (c << 20))
            b = self.read(self.data_offset + (c << 20), size)
            need(xxh3(b) == u64(table, 8 * c), "hash of chunk %d" % c)
            need(sha is None or sha[c] == "chunk " + hashlib.sha256(b).hexdigest(), "SHA-256 of chunk %d" % c)
        return n

    def rows(self, t):  # 6
        if t.vector:
            yield array.array("f", self.read(t.offset, 4 * t.n_col))
            return
        k_all = up(t.n_col, 128)
        for p in range(t.n_panel):
            b = self.read(t.offset + p * t.stride, t.panel)
            scale = struct.unpack("<16f", self.read(t.scales + 64 * p, 64)) if t.scales else None
            for r in range(min(16, t.n_row - 16 * p)):
                values = decode_row(t, b, r, k_all)
                if scale:
                    # integer x f32 is exact in double, so storing rounds once, as f32 would
                    values = [v * scale[r] for v in values]
                yield array.array("f", values[:t.n_col])


SIGNS = bytes.fromhex("ac39302badace7dad6027ecad92494e8")


def unrotate(row):  # 6.2: w = v R^T, block by block of 128
    out = array.array("f")
    for k in range(0, len(row), 128):
        v = list(row[k:k + 128])
        d = 1
        while d < 128:
            v = [v[i ^ d] - v[i] if i & d else v[i] + v[i + d] for i in range(128)]
            d *= 2
        out.extend(x * (1 - 2 * (SIGNS[i // 8] >> i % 8 & 1)) / math.sqrt(128)
                   for i, x in enumerate(v))
    return out


def decode_row(t, b, r, k_all):
    """Row r of a panel: f32 values, or group scale x code value as exact integers."""
    if t.type == 0:
        return [struct.unpack_from("<f", b, 64 * k + 4 * r)[0] for k in range(k_all)]
    if t.type == 1:
        return [struct.unpack("<f", b"\0\0" + b[32 * k + 2 * r:32 * k + 2 * r + 2])[0]
                for k in range(k_all)]
    lines = LINES[t.type]
    out = []
    for sb in range(0, len(b), SUPERBLOCK[t.type]):
        group_scale = struct.unpack_from("<4b", b, sb + 4 * r)
        for g in range(4):
            at = sb + 64 + 64 * lines * g + 4 * r
            line = [b[at + 64 * j:at + 64 * j + 4] for j in range(lines)]
            for k in range(32):
                j, byte = k // 4 % 4, k % 4
                if t.type == 8:
                    v = line[k // 4][byte]
                    v -= 256 * (v > 127)
                else:
                    v = line[j][byte] >> (4 if k >= 16 else 0) & 15
                if t.type == 4:
                    v = t.lut[v]
                elif t.type == 5:
                    v = (v | (line[4][byte] >> (k // 4) & 1) << 4) - 16
                elif t.type == 6:
                    v = (v | (line[4 + k // 16][byte] >> (2 * j) & 3) << 4) - 32
                out.append(float(group_scale[g] * v))
    return out


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    a.add_argument("file", nargs="?")
    a.add_argument("--types", action="store_true")
    a.add_argument("--list", action="store_true")
    a.add_argument("--verify", action="store_true")
    a.add_argument("--chunks", type=int, default=0, help="with --verify: only so many chunks")
    a.add_argument("--tensor")
    a.add_argument("--out")
    a.add_argument("--unrotate", action="store_true",
                   help="with --tensor: W of a rotated matrix, not W R as stored")
    o = a.parse_args()
    if o.types:
        for t, x in sorted(TYPES.items()):
            print(t, *x)
        return
    need(o.file is not None, "no FILE")
    r = Reader(o.file)
    if o.list:
        for t in r.tensors:
            error = "" if math.isnan(t.err_rms) else " rms %.6f" % t.err_rms
            error += " peak %.3f" % t.peak if t.peak > 0 else ""
            error += " rotated" if t.rotated else ""
            print("%-70s %-4s %8d x %-8d at %d%s" % (t.name, TYPE_NAME[t.type], t.n_row, t.n_col,
                                                     t.offset, error))
    elif o.verify:
        print("%s: %d of %d chunks verified" % (o.file, r.verify(o.chunks), r.n_chunk))
    elif o.tensor:
        need(o.tensor in r.by_name, "no tensor " + o.tensor)
        need(o.out is not None, "--tensor needs --out")
        with open(o.out, "wb") as f:
            t = r.by_name[o.tensor]
            for row in r.rows(t):
                if o.unrotate and t.rotated:
                    row = unrotate(row)
                if sys.byteorder == "big":
                    row.byteswap()
                row.tofile(f)
    else:
        for k, v in r.shape.items():
            print("%-16s %s" % (k, v))
        print("%-16s %s" % ("attention", "".join("LS"[x] for x in r.attn)))
        for k, (_, n, _) in r.meta.items():
            print("metadata %s: %d bytes" % (k, n))
        print("%d tensors, %d bytes" % (len(r.tensors), r.file_bytes))


if __name__ == "__main__":
    try:
        main()
    except (Bad, OSError, UnicodeDecodeError, IndexError, struct.error) as e:
        sys.exit("fg_read.py: %s" % e)
