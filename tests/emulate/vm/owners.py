# SPDX-License-Identifier: MIT
"""Which node should have which page of a model file, computed here from FORMAT.md 7 and the words of
src/sys/place.h and src/expert/slices.h, without the program; and the judgement of what the kernel said.

A page is a number, 4 KiB each from the beginning of the file.  Only pages with panels count: row scales, norms and
routers are small and lie where they like.
"""
import math
from collections import Counter
from fractions import Fraction

PAGE = 4096
EMBED, HEAD, UP, DOWN = 0, 1, 15, 16
STEPS = ({5, 6}, {7}, {9, 10, 11}, {12}, {HEAD})  # roles whose products are one step
VECTORS = (2, 3, 4, 8, 13)


def share(groups, weights, turn):
    """Groups of each node, and the node whose turn is next: by weight, rounded down; what is left goes to the largest
    remainders, ties to the nodes from `turn` on."""
    n = len(weights)
    exact = [Fraction(groups * w, sum(weights)) for w in weights]
    got = [math.floor(x) for x in exact]
    left = groups - sum(got)
    by_rest = sorted(range(n), key=lambda k: (got[k] - exact[k], (k - turn) % n))
    for k in by_rest[:left]:
        got[k] += 1
    return got, (turn + left) % n


class Model:
    """Of a scripts/fg_read.py Reader: what it has to be cut, and the cuts."""

    def __init__(self, reader):
        self.reader = reader
        self.n_page = -(-reader.file_bytes // PAGE)
        self.cut = [t for t in reader.tensors if t.role not in VECTORS and t.role not in (EMBED, UP)]

    @staticmethod
    def groups(t):
        """(panels of a group, groups) of a matrix; gate stands for up too."""
        group = PAGE // math.gcd(t.stride, PAGE)
        return group, -(-t.n_panel // group)

    def pages(self, t, first, last):
        """Those of panels first .. last - 1."""
        begin, end = t.offset + first * t.stride, t.offset + last * t.stride
        if last == t.n_panel:  # what pads the last page is nobody else's
            end = -(-end // PAGE) * PAGE
        assert begin % PAGE == 0 and end % PAGE == 0, t.name
        return range(begin // PAGE, end // PAGE)

    def shares(self, weights):
        """{tensor: groups of each node}: turns begin with another node in each layer, and go on within a step and
        over the experts of a layer."""
        out, n, turns = {}, len(weights), {}
        for t in self.cut:
            layer = t.layer if t.role != HEAD else 0
            step = next((i for i, roles in enumerate(STEPS) if t.role in roles), t.role)
            turn = turns.get((step, layer), layer % n)
            out[t], turns[step, layer] = share(self.groups(t)[1], weights, turn)
        return out

    def sliced(self, weights):
        """{page: node} when every matrix is cut."""
        owner = {}
        for t, groups in self.shares(weights).items():
            group, at = self.groups(t)[0], 0
            for node, n in enumerate(groups):
                end = min(at + n * group, t.n_panel)
                owner.update(dict.fromkeys(self.pages(t, at, end), node))
                at = end
        return owner

    def by_expert(self, n_node):
        """The same with whole experts, dealt round nodes of equal weight; the others are cut."""
        owner = self.sliced([1] * n_node)
        for t in self.cut:
            if t.role >= 14:
                owner.update(dict.fromkeys(self.pages(t, 0, t.n_panel), (t.layer + t.expert) % n_node))
        return owner

    def experts(self):
        """[pages of an expert's panels]."""
        out = {}
        for t in self.cut:
            if t.role >= 14:
                out.setdefault((t.layer, t.expert), []).extend(self.pages(t, 0, t.n_panel))
        return [set(x) for x in out.values()]


def parse(text):
    """{kind: {page: [nodes]}} of what guest.c writes."""
    found = {}
    for line in text.splitlines():
        kind, node, first, count = line.split()
        at = found.setdefault(kind, {})
        for page in range(int(first), int(first) + int(count)):
            at.setdefault(page, []).append(int(node))
    return found


def needed(where, pages, spare):
    """Pages without those of the sets in `spare` that are missing as a whole: experts that nobody asked for."""
    missing = {p for p in pages if p not in where}
    return set(pages).difference(*(group for group in spare if group <= missing))


def judge(where, owner, spare=()):
    """What is wrong, "" for nothing, with `where`, {page: [nodes]}: each page of `owner` must be on its node, once."""
    wrong, twice, absent = Counter(), 0, 0
    for page in needed(where, owner, spare):
        nodes = where.get(page, [])
        absent += len(nodes) == 0
        twice += len(nodes) > 1
        wrong.update((k, owner[page]) for k in nodes if k != owner[page])
    if not wrong and not twice and not absent and where:
        return ""
    pairs = ", ".join(f"{n} on {a} for {b}" for (a, b), n in sorted(wrong.items()))
    return (f"of {len(owner)} pages {sum(wrong.values())} on another node ({pairs}), {twice} twice, "
            f"{absent} missing")


def judge_all(where, pages, n_node, spare=()):
    """Of mirrored pages: each is on every node once."""
    pages = needed(where, pages, spare)
    bad = [p for p in pages if sorted(where.get(p, [])) != list(range(n_node))]
    return f"{len(bad)} of {len(pages)} pages are not once on each node" if bad or not where else ""


def judge_even(where, pages, n_node, spare=()):
    """Of interleaved pages: each is there once, and the nodes have equally many but for a huge page or two."""
    pages = needed(where, pages, spare)
    once = [where[p][0] for p in pages if len(where.get(p, [])) == 1]
    count = Counter(once)
    if (where and len(once) == len(pages) and
            all(abs(count[k] - len(pages) / n_node) <= 1024 for k in range(n_node))):
        return ""
    return f"{len(once)} of {len(pages)} pages once, on nodes {dict(count)}"
