# SPDX-License-Identifier: MIT
"""A checkpoint whose reply is a fixed script: attention and experts are zero, so that a token alone
decides its successor.  Standard library only."""
import json
import os
import random
import struct

H, HEADS, HEAD, EXPERTS, FF = 128, 2, 16, 4, 32


def byte_alphabet():
    """The character that stands for each byte in a byte-level vocabulary."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in kept]
    return {b: chr(b) for b in kept} | {b: chr(256 + i) for i, b in enumerate(rest)}


def tokenizer(vocab, added, pattern):
    return {
        "added_tokens": [{"id": i, "content": s, "special": True, "normalized": False}
                         for s, i in added.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]},
        "post_processor": None, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": []}}


def config(n_vocab, n_ctx):
    alpha = {f"layernorm_{k}_{x}": v for k in ("full_attention", "linear_attention", "mlp")
             for x, v in (("alpha", 1.5), ("beta", 1.0))}
    return alpha | {
        "architectures": ["MiniMaxM1ForCausalLM"], "attn_type_list": [0, 1], "head_dim": HEAD,
        "hidden_act": "silu", "hidden_size": H, "intermediate_size": FF, "max_position_embeddings": n_ctx,
        "num_attention_heads": HEADS, "num_experts_per_tok": 2, "num_hidden_layers": 2,
        "num_key_value_heads": 1, "num_local_experts": EXPERTS, "postnorm": True, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "rotary_dim": 8, "shared_intermediate_size": 0,
        "tie_word_embeddings": False, "vocab_size": n_vocab}


def shapes(n_vocab):
    """Name, shape and fill of every tensor but the embedding and the head."""
    q = HEADS * HEAD
    for l, lightning in enumerate((True, False)):
        p = f"model.layers.{l}."
        a = p + "self_attn."
        yield from ((p + n + ".weight", (H,), 1) for n in ("input_layernorm", "post_attention_layernorm"))
        if lightning:
            yield from ((a + "qkv_proj.weight", (3 * q, H), 0), (a + "output_gate.weight", (q, H), 0),
                        (a + "out_proj.weight", (H, q), 0), (a + "norm.weight", (q,), 1))
        else:
            yield from ((a + "q_proj.weight", (q, H), 0), (a + "k_proj.weight", (HEAD, H), 0),
                        (a + "v_proj.weight", (HEAD, H), 0), (a + "o_proj.weight", (H, q), 0))
        moe = p + "block_sparse_moe."
        yield moe + "gate.weight", (EXPERTS, H), 0
        for e in range(EXPERTS):
            yield from ((f"{moe}experts.{e}.{w}.weight", s, 0)
                        for w, s in (("w1", (FF, H)), ("w2", (H, FF)), ("w3", (FF, H))))
    yield "model.norm.weight", (H,), 1


def make(folder, script, start="\n", pattern="\\p{L}+|[^\\p{L}]", n_ctx=256, loop=None):
    """script: the pieces (bytes or text, all different) that follow `start`, then the end mark, or the piece with the
    index `loop` again, without an end."""
    os.makedirs(folder)
    alphabet = byte_alphabet()
    vocab = {alphabet[b]: b for b in range(256)}
    marks = ["<end_of_document>", "<beginning_of_sentence>", "<end_of_sentence>", "<begin_of_document>"]
    added = {m: 256 + i for i, m in enumerate(marks)}
    chain = [start.encode()[0]]
    for piece in script:
        piece = piece if isinstance(piece, bytes) else piece.encode()
        name = "".join(alphabet[b] for b in piece)
        chain.append(vocab.setdefault(name, 260 + len(chain)))
    chain.append(added["<end_of_sentence>"] if loop is None else chain[1 + loop])
    n_vocab = 264 + len(chain)
    r = random.Random(3)
    embed = [[r.choice((-1.0, 1.0)) for _ in range(H)] for _ in range(n_vocab)]
    head = [[r.gauss(0, 1e-3) for _ in range(H)] for _ in range(n_vocab)]
    for a, b in zip(chain, chain[1:]):
        head[b] = [x + y for x, y in zip(head[b], embed[a])]
    body, header = b"", {}

    def put(name, shape, data):
        nonlocal body
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data

    for name, shape, fill in shapes(n_vocab):
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        put(name, shape, struct.pack("<f", fill) * n)
    for name, rows in (("model.embed_tokens.weight", embed), ("lm_head.weight", head)):
        put(name, (n_vocab, H), struct.pack(f"<{n_vocab * H}f", *[x for row in rows for x in row]))
    text = json.dumps(header).encode()
    with open(f"{folder}/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + body)
    with open(f"{folder}/config.json", "w") as f:
        json.dump(config(n_vocab, n_ctx), f)
    with open(f"{folder}/tokenizer.json", "w") as f:
        json.dump(tokenizer(vocab, added, pattern), f)
