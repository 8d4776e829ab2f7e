/* SPDX-License-Identifier: MIT
 *
 * Short words (nearly all) take the plain quadratic algorithm on arrays that fit the first-level
 * cache.  Long ones keep a heap of (rank, position) keys over a linked list.  A key is stale when
 * its position no longer starts a pair of that rank; it cannot become valid again, because tokens
 * only grow, so comparing ranks is enough to drop it.
 *
 * The cache is set-associative with two ways; a word goes into the first and pushes the former
 * first into the second, which keeps frequent words without any bookkeeping.
 */
#include "src/text/bpe.h"

#include <string.h>

#include "src/base/mem.h"

enum {
    SHORT_WORD = 48,
    CACHE_SETS = 1 << 14,
    CACHE_WORD = 30, /* bytes; longer words are not kept */
    CACHE_IDS = 8,
    KEEP_LONG = 1 << 16, /* bytes of a word whose work arrays are kept for the next */
};

typedef struct cached {
    uint8_t len; /* 0: empty */
    uint8_t n_id;
    uint8_t word[CACHE_WORD];
    uint32_t id[CACHE_IDS];
} cached;

_Static_assert(sizeof(cached) == FG_CACHE_LINE, "a cached word fills one cache line");

struct fg_bpe_state {
    cached *cache; /* [CACHE_SETS][2] */
    /* work of a long word of n bytes */
    uint32_t *id, *rank, *next, *prev; /* [n] each, in one block at id */
    uint64_t *heap;                    /* [2 n] rank << 32 | position */
    size_t cap;                        /* n that fits */
};

bool fg_bpe_init(fg_bpe *b, uint32_t n_merge)
{
    uint32_t bits = 6;
    while (((uint64_t)1 << bits) / 2 < n_merge) bits++;
    b->bits = bits;
    b->n_merge = n_merge;
    b->slot = fg_mem_alloc(((size_t)1 << bits) * sizeof *b->slot);
    b->result = fg_mem_alloc(n_merge * sizeof *b->result);
    if (b->slot == NULL || b->result == NULL) return false;
    memset(b->slot, 0xff, ((size_t)1 << bits) * sizeof *b->slot);
    return true;
}

void fg_bpe_fini(fg_bpe *b)
{
    fg_mem_free(b->slot);
    fg_mem_free(b->result);
    b->slot = NULL;
    b->result = NULL;
}

/* The pair's slot, or the empty one where it belongs. */
static fg_merge *find_pair(const fg_bpe *b, uint32_t left, uint32_t right)
{
    const uint64_t key = (uint64_t)left << 32 | right;
    const size_t mask = ((size_t)1 << b->bits) - 1;
    size_t i = (size_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - b->bits));
    for (;; i = (i + 1) & mask) {
        fg_merge *m = &b->slot[i];
        if ((m->left == left && m->right == right) || m->left == FG_NO_TOKEN) return m;
    }
}

static uint32_t rank_of(const fg_bpe *b, uint32_t left, uint32_t right)
{
    const fg_merge *m = find_pair(b, left, right);
    return m->left == FG_NO_TOKEN ? FG_NO_RANK : m->rank;
}

void fg_bpe_add(fg_bpe *b, uint32_t rank, uint32_t left, uint32_t right, uint32_t result)
{
    *find_pair(b, left, right) = (fg_merge){left, right, rank};
    b->result[rank] = result;
}

bool fg_bpe_state_create(fg_bpe_state **out)
{
    fg_bpe_state *s = fg_mem_zalloc(sizeof *s);
    *out = s;
    if (s == NULL) return false;
    s->cache = fg_mem_zalloc_array((size_t)CACHE_SETS * 2, sizeof *s->cache);
    if (s->cache != NULL) return true;
    fg_bpe_state_destroy(out);
    return false;
}

static void drop_long(fg_bpe_state *s)
{
    fg_mem_free(s->id);
    fg_mem_free(s->heap);
    s->id = NULL;
    s->heap = NULL;
    s->cap = 0;
}

void fg_bpe_state_destroy(fg_bpe_state **s)
{
    if (*s == NULL) return;
    drop_long(*s);
    fg_mem_free((*s)->cache);
    fg_mem_free(*s);
    *s = NULL;
}

/* Returns the number of ids left in id[]. */
static size_t merge_short(const fg_bpe *b, const uint8_t *word, size_t n, uint32_t *id)
{
    uint32_t rank[SHORT_WORD]; /* of the pair (i, i + 1) */
    for (size_t i = 0; i < n; i++) id[i] = b->byte_id[word[i]];
    for (size_t i = 0; i + 1 < n; i++) rank[i] = rank_of(b, id[i], id[i + 1]);
    while (n > 1) {
        size_t at = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (rank[i] < rank[at]) at = i; /* strict: the leftmost of equals */
        }
        if (rank[at] == FG_NO_RANK) break;
        id[at] = b->result[rank[at]];
        n--;
        for (size_t i = at + 1; i < n; i++) id[i] = id[i + 1];
        for (size_t i = at; i + 1 < n; i++) rank[i] = rank[i + 1];
        if (at + 1 < n) rank[at] = rank_of(b, id[at], id[at + 1]);
        if (at > 0) rank[at - 1] = rank_of(b, id[at - 1], id[at]);
    }
    return n;
}

static void heap_push(uint64_t *heap, size_t *len, uint64_t key)
{
    size_t i = (*len)++;
    for (; i > 0 && heap[(i - 1) / 2] > key; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = key;
}

static uint64_t heap_pop(uint64_t *heap, size_t *len)
{
    const uint64_t top = heap[0], key = heap[--*len];
    const size_t n = *len;
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= key) break;
        heap[i] = heap[child];
    }
    heap[i] = key;
    return top;
}

static bool reserve_long(fg_bpe_state *s, size_t n)
{
    if (n <= s->cap) return true;
    drop_long(s);
    s->id = fg_mem_zalloc_array(n, 4 * sizeof *s->id);
    s->heap = fg_mem_zalloc_array(n, 2 * sizeof *s->heap);
    if (s->id == NULL || s->heap == NULL) {
        drop_long(s);
        return false;
    }
    s->rank = s->id + n;
    s->next = s->rank + n;
    s->prev = s->next + n;
    s->cap = n;
    return true;
}

static void set_pair(const fg_bpe *b, fg_bpe_state *s, size_t n, uint32_t i, size_t *n_heap)
{
    s->rank[i] = s->next[i] < n ? rank_of(b, s->id[i], s->id[s->next[i]]) : FG_NO_RANK;
    if (s->rank[i] != FG_NO_RANK) heap_push(s->heap, n_heap, (uint64_t)s->rank[i] << 32 | i);
}

/* Each merge takes one key out and puts at most two in, and there are fewer than n merges and n
 * first keys, so that the heap never holds more than 2 n. */
static fg_status merge_long(const fg_bpe *b, fg_bpe_state *s, const uint8_t *word, size_t n,
                            fg_ids *ids, fg_err *err)
{
    if (!reserve_long(s, n)) return fg_fail_nomem(err, "a long word");
    size_t n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        s->id[i] = b->byte_id[word[i]];
        s->next[i] = i + 1;
        s->prev[i] = i - 1; /* not read at 0 */
    }
    for (uint32_t i = 0; i < n; i++) set_pair(b, s, n, i, &n_heap);
    while (n_heap > 0) {
        const uint64_t key = heap_pop(s->heap, &n_heap);
        const uint32_t i = (uint32_t)key, rank = (uint32_t)(key >> 32);
        if (s->rank[i] != rank) continue;
        const uint32_t gone = s->next[i];
        s->id[i] = b->result[rank];
        s->next[i] = s->next[gone];
        if (s->next[i] < n) s->prev[s->next[i]] = i;
        s->rank[gone] = FG_NO_RANK;
        set_pair(b, s, n, i, &n_heap);
        if (i > 0) set_pair(b, s, n, s->prev[i], &n_heap);
    }
    fg_status st = FG_OK;
    for (size_t i = 0; i < n && st == FG_OK; i = s->next[i]) {
        if (!fg_ids_push(ids, s->id[i])) st = fg_fail_nomem(err, "token ids");
    }
    if (n > KEEP_LONG) drop_long(s);
    return st;
}

static fg_status push_all(fg_ids *ids, const uint32_t *id, size_t n, fg_err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (!fg_ids_push(ids, id[i])) return fg_fail_nomem(err, "token ids");
    }
    return FG_OK;
}

/* The two ways of the word's set; `padded` is the word followed by zeros, 32 bytes. */
static cached *find_set(const fg_bpe_state *s, const uint8_t *padded, size_t n)
{
    uint64_t part[4];
    memcpy(part, padded, sizeof part);
    uint64_t h = n;
    for (size_t i = 0; i < 4; i++) {
        h = (h ^ part[i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return s->cache + 2 * (size_t)(h >> 40) % ((size_t)CACHE_SETS * 2);
}

fg_status fg_bpe_word(const fg_bpe *b, fg_bpe_state *s, const uint8_t *word, size_t n, fg_ids *ids,
                      fg_err *err)
{
    if (n == 1) return push_all(ids, &b->byte_id[word[0]], 1, err);
    if (n > INT32_MAX) {
        return fg_fail(err, FG_ELIMIT, "text: a word of %zu bytes, expected at most 2147483647", n);
    }
    cached *set = NULL;
    if (n <= CACHE_WORD) {
        uint8_t padded[32] = {0};
        memcpy(padded, word, n);
        set = find_set(s, padded, n);
        for (size_t way = 0; way < 2; way++) {
            if (set[way].len == n && memcmp(set[way].word, word, n) == 0) {
                return push_all(ids, set[way].id, set[way].n_id, err);
            }
        }
    }
    uint32_t id[SHORT_WORD];
    size_t n_id = 1;
    const uint32_t whole = b->whole_words ? fg_vocab_find(b->vocab, word, n) : FG_NO_TOKEN;
    if (whole != FG_NO_TOKEN) {
        id[0] = whole;
    } else if (n <= SHORT_WORD) {
        n_id = merge_short(b, word, n, id);
    } else {
        return merge_long(b, s, word, n, ids, err);
    }
    if (set != NULL && n_id <= CACHE_IDS) {
        set[1] = set[0];
        set[0].len = (uint8_t)n;
        set[0].n_id = (uint8_t)n_id;
        memcpy(set[0].word, word, n);
        memcpy(set[0].id, id, n_id * sizeof *id);
    }
    return push_all(ids, id, n_id, err);
}
