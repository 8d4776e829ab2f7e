#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""trace and trace replay: what a user sees of them, the live figures again, and errors that say what is missing."""
import json
import os
import re
import resource
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from e2e import check, check_error, choices, finish, nano, path, run

M, TEXT, T, U = path("m.fulgur"), path("text.txt"), path("t.trace"), path("u.trace")
nano(M)
open(TEXT, "w").write(open("README.md").read()[:3000])
SAME = ("hits", "prefetch_hits", "misses", "prefetches", "wasted", "extra")


def leftovers(name):
    return [f for f in os.listdir(os.path.dirname(name)) if f.startswith(os.path.basename(name))]


def row(table, policy, predict):
    return next(r for r in table["rows"] if (r["policy"], r["predict"]) == (policy, predict))


status, out, err = run("trace", M, TEXT, "-o", T, "--tokens", "150")
check("records", (status, err) == (0, b"") and out.startswith(b"150 tokens; trace in") and os.path.getsize(T) > 150 * 8 * 132, (out, err))
check("says_that_the_text_is_inside", b"contains the text" in out, out)
before = open(T, "rb").read()
check_error("not_again", run("trace", M, TEXT, "-o", T, "--tokens", "9"), "t.trace: exists already", "--force")
check("replaces_and_leaves_nothing", open(T, "rb").read() == before and leftovers(T) == ["t.trace"]
      and run("trace", M, TEXT, "-o", T, "--tokens", "150", "--force")[0] == 0 and leftovers(T) == ["t.trace"])
_, text, err = run("trace", "replay", T, "--ram", "1M")
check_error("too_small", (_, text, err), "memory: 1.00 MiB", "expected at least")
least = int(re.search(rb"at least (\d+)", err).group(1))
check("least_is_enough", run("trace", "replay", T, "--ram", str(least))[0] == 0)
check("least_is_least", run("trace", "replay", T, "--ram", str(least - 1))[0] == 1)
size = json.loads(run("trace", "replay", T, "--ram", str(least), "--json")[1])["slot_bytes"]
ram = str(least + 57 * size)  # 60 experts
status, text, err = run("trace", "replay", T, "--ram", ram)
check("table", status == 0 and all(w in text for w in (b"60 of 256 experts", b"mapped model", b"optimal  none", b"random   router", b"4 ahead @2",
                                                         b"first half of this trace", b"inside, as token ids")), text)
table = json.loads(run("trace", "replay", T, "--ram", ram, "--json")[1])
policies = {r["policy"] for r in table["rows"]}
check("all_policies", policies == {*choices("--policy"), "random", "optimal"}, policies)
check("all_rows", len(table["rows"]) == len(policies) * len(choices("--predict")) and not any(r["as_recorded"] for r in table["rows"]) and table["slots"] == 60)
asked = 150 * 8 * 2
check("all_requests", all(r["hits"] + r["prefetch_hits"] + r["misses"] == asked for r in table["rows"]))
best = row(table, "optimal", "none")["misses"]
check("none_reads_less_than_optimal", all(r["misses"] + r["prefetches"] >= best for r in table["rows"]) and best < row(table, "lru", "none")["misses"])
recall = {(r["predict"], r["ahead"]): r for r in table["recall"]}
check("recall", {k[0] for k in recall} == {"frequency", "previous", "router"} and recall["router", 1]["asked"] == 150 * 7 * 2
      and recall["router", 1]["recall@2"] > recall["router", 4]["recall@2"] > 3 * 0.0625 and recall["previous", "next"]["asked"] == 150 * 8 * 2, recall)
card = json.loads(run("trace", "replay", T, "--ram", ram, "--json", "--gpu-mem", str(64 * size))[1])["card"]
check("card", card["residents"] == 64 and card["reads"] == asked and card["heat"] > card["row_split"] == 0.25 and 0 < card["running"] < 1, card)
check("card_of_none", "card" not in table)
status, wide, _ = run("trace", "replay", T, "--ram", ram, "--json", "--ahead", "4")
check("ahead", status == 0 and row(json.loads(wide), "lru", "router") != row(table, "lru", "router") and row(json.loads(wide), "lru", "none") == row(table, "lru", "none"))

# a live run is what its replay says: of its own trace with every predictor, of any trace without
for predict in reversed(choices("--predict")):  # none is the last
    policy, batch = "lfu" if predict == "frequency" else "lru", "9" if predict == "previous" else "1"
    name = f"live.{policy}.{predict}"
    status, out, err = run("trace", M, TEXT, "--force", "-o", U, "--tokens", "150", "--batch", batch, "--json", "--ram", ram, "--policy", policy, "--predict", predict)
    live = json.loads(out) if status == 0 else {}
    again = json.loads(run("trace", "replay", U, "--ram", ram, "--json")[1])
    mine = [r for r in again["rows"] if r["as_recorded"]]
    check(name, len(mine) == 1 and (mine[0]["policy"], mine[0]["predict"]) == (policy, predict) and all(mine[0][k] == live[k] for k in SAME), (live, mine, err))
    check(name + ".line", f"{live['hits'] + live['prefetch_hits']:,} of {sum(live[k] for k in SAME[:3]):,} hits".encode() in err, err)
    if batch == "1":
        check(name + ".other_ram", not any(r["as_recorded"] for r in json.loads(run("trace", "replay", U, "--ram", "1G", "--json")[1])["rows"]))
check("live_equals_mapped_trace", all(row(table, "lru", "none")[k] == live[k] for k in SAME), (row(table, "lru", "none"), live))

# tokens: a trace without them; a model trained on one, judged on another, used live
P, Q, W = path("m.predict"), path("q.predict"), path("without.trace")
TEXT2 = path("text2.txt")
open(TEXT2, "w").write(open("README.md").read()[3000:9000])
status, out, err = run("trace", M, TEXT, "-o", W, "--tokens", "150", "--no-text")
check("no_text", status == 0 and b"without the text" in out and b"not inside" in run("trace", "replay", W, "--ram", ram)[1], out)
check_error("train_needs_tokens", run("factor", "train", "--trace", W, "-o", P), "without token ids", "record it again")
run("trace", M, TEXT, "--force", "-o", U, "--tokens", "700")
check_error("each_trace_once", run("factor", "train", "--trace", U + "," + T + "," + U), U + ": the same as trace 1")
check_error("not_over_a_trace", run("factor", "train", "--trace", U + "," + T, "-o", T, "--force"), "the same file as the input")
status, out, err = run("factor", "train", "--trace", U, "-o", P, "--algorithm", "npid", "--epochs", "20", "--json")
check("train", status == 0 and json.loads(out)["tokens"] == 700 and json.loads(out)["algorithm"] == "npid" and json.loads(out)["recall@4"]["next"] > 0.2, (out, err))
status, out, err = run("factor", "train", "--trace", U + "," + T, "-o", Q, "--epochs", "20")
check("train_two", status == 0 and b"850 tokens" in out and b"which experts the text's tokens used" in out, (out, err))
learned = open(P, "rb").read()
held = json.loads(run("trace", "replay", T, "--ram", ram, "--json", "--predict-model", P + "," + Q)[1])
names = {r["predict"] for r in held["recall"]}
check("judged", names == {"frequency", "previous", "router", "id table", "id + previous", "factor (npid)", "factor (ads-cheap)", "router + factor"}
      and held["held_from"] == 0 and len(held["sizes"]) == 3 * 9, names)
of = {(r["predict"], r["ahead"]): r["recall@4"] for r in held["recall"]}
check("factors_know_more_than_nothing", of["factor (npid)", "next"] > of["previous", "next"] > 0 and ("router", "next") not in of, of)
half = json.loads(run("trace", "replay", U, "--ram", ram, "--json")[1])
check("trains_on_the_first_half", half["held_from"] == 350 and "factor (ads)" in {r["predict"] for r in half["recall"]})
status, out, err = run("trace", M, TEXT2, "--force", "-o", U, "--tokens", "150", "--json", "--ram", ram, "--predict", "router+factor", "--predict-model", P, "--predict-save", Q)
again = json.loads(run("trace", "replay", U, "--ram", ram, "--json", "--predict-model", P)[1])
mine = [r for r in again["rows"] if r["as_recorded"]]
check("live.learned", status == 0 and len(mine) == 1 and all(mine[0][k] == json.loads(out)[k] for k in SAME), (out, err, mine))
check("saved_and_left_alone", open(P, "rb").read() == learned and open(Q, "rb").read() != learned and leftovers(Q) == ["q.predict"])
check_error("not_over_other_files", run("run", M, "-p", "x", "--ram", "1G", "--predict", "factor", "--predict-save", TEXT), "text.txt", "factor train --trace")
check_error("not_for_routers", run("run", M, "-p", "x", "--ram", "1G", "--predict-model", P), "m.predict: a model of experts for predictor router,", "expected factor")
check_error("not_without_ram", run("run", M, "-p", "x", "--predict", "factor", "--predict-save", Q), "without --ram")
check_error("no_place_to_save", run("run", M, "-p", "x", "--ram", "1G", "--predict", "factor", "--predict-save", path("no/q")), "a folder to write to")
open(Q, "wb").write(learned[:50] + bytes([learned[50] ^ 1]) + learned[51:])
check_error("damaged_model", run("run", M, "-p", "x", "--ram", "1G", "--predict", "factor", "--predict-model", Q), "q.predict", "checksum")

# heat map
check_error("pin_without_heat", run("run", M, "-p", "x", "--ram", "1G", "--policy", "pin"), "no heat map", "fulgur trace")
check("info_without_heat", b"heat map" not in run("info", M)[1])
status, out, err = run("trace", M, TEXT, "--heat", "--tokens", "100")
check("heat", (status, err) == (0, b"") and b"heat map in" in out, (out, err))
check("info_with_heat", b"heat map    100 tokens of text.txt\n" in run("info", M)[1], run("info", M)[1])
check("still_verifies", run("verify", M)[0] == 0)
heat = json.loads(run("info", M, "--meta", "heat")[1])
check("heat_counts", [sum(r) for r in heat["use"]] == [200] * 8 and len(heat["use"][0]) == 32 and heat["tokens"] == 100)
run("trace", M, TEXT, "--heat", "--tokens", "40")
check("heat_is_replaced", [sum(r) for r in json.loads(run("info", M, "--meta", "heat")[1])["use"]] == [80] * 8)
want = run("run", M, "-p", "Once upon", "-n", "9", "--temp", "0")[1]
status, out, err = run("run", M, "-p", "Once upon", "-n", "9", "--temp", "0", "--ram", "1G", "--policy", "pin")
check("pin_runs", status == 0 and out == want, err)
status, out, err = run("trace", M, TEXT, "--force", "-o", U, "--tokens", "150", "--json", "--ram", ram, "--policy", "pin")
again = json.loads(run("trace", "replay", U, "--ram", ram, "--json")[1])
mine = [r for r in again["rows"] if r["as_recorded"]]
check("live.pin", status == 0 and again["heat"] == "file" and len(mine) == 1 and all(mine[0][k] == json.loads(out)[k] for k in SAME), (out, mine))

# errors
data = open(T, "rb").read()
for name, bad, words in (("cut", data[:-1], "bytes, expected"), ("flipped", data[:900] + bytes([data[900] ^ 4]) + data[901:], "damaged"),
                         ("head", data[:20] + b"\1" + data[21:], "damaged header"), ("empty", b"", "no routing trace"), ("short", data[:100], "100 bytes"),
                         ("foreign", open(TEXT, "rb").read(), "no routing trace"), ("version", data[:8] + b"\3" + data[9:], "version 3")):
    open(U, "wb").write(bad)
    check_error("bad." + name, run("trace", "replay", U, "--ram", "1G"), words, "u.trace")
check_error("bad.model", run("trace", "replay", M, "--ram", "1G"), "no routing trace")
check_error("bad.missing", run("trace", "replay", path("none"), "--ram", "1G"), "No such file")
shutil.copy(M, path("keep.fulgur"))
check_error("out_is_model", run("trace", M, TEXT, "-o", M), "the same file")
check_error("out_is_text", run("trace", M, TEXT, "-o", TEXT), "the same file")
check("model_untouched", open(M, "rb").read() == open(path("keep.fulgur"), "rb").read())
# what lies beside the output under any name is the user's: a model called x.part, an unfinished conversion to x
for name in ("beside.part", "beside.fulgur.part"):
    shutil.copy(M, path(name))
    status, out, err = run("trace", path(name), TEXT, "-o", path(name[:-5]), "--tokens", "5")
    check("part_is_left_alone." + name, (status, err) == (0, b"") and open(path(name), "rb").read() == open(M, "rb").read(), err)
    check("part_is_no_output." + name, sorted(leftovers(path(name[:-5]))) == [name[:-5], name], leftovers(path("beside")))
check_error("out_is_folder", run("trace", M, TEXT, "-o", os.path.dirname(M)), "a folder")
check_error("out_is_device", run("trace", M, TEXT, "-o", "/dev/null"), "not a regular file")
check_error("out_is_nowhere", run("trace", M, TEXT, "-o", path("no/where")), "No such file")
os.unlink(U)
full = run("trace", M, TEXT, "--force", "-o", U, "--tokens", "150", preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)))
check_error("disk_full", full, "File too large")
check("nothing_left", leftovers(U) == [], leftovers(U))
open(path("nothing.txt"), "w").close()
check_error("no_tokens", run("trace", M, path("nothing.txt"), "--force", "-o", U), "no tokens")
for name, args in {"nothing_to_write": [M, TEXT], "no_text": [M], "no_ram": ["replay", T], "no_trace": ["replay", "--ram", "1G"],
                   "ahead": ["replay", T, "--ram", "1G", "--ahead", "9"]}.items():
    check("usage." + name, run("trace", *args)[0] == 2)
check("help", b"--ahead" in run("trace", "replay", "--help")[1] and b"--heat" in run("trace", "--help")[1])
finish()
