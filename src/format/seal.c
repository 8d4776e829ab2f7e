/* SPDX-License-Identifier: MIT
 *
 * Chunks are read by several threads, each the next one that nobody has: SHA-256 takes a core a
 * second for one or two GB, less than a good drive delivers.  Threads of our own, because the team
 * of an engine does not exist yet when a file is opened.
 */
#include "src/format/seal.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "src/base/crypto.h"
#include "src/base/mem.h"
#include "src/format/seal_text.h"

typedef unsigned long long ull; /* for %llu */

#define FIRST_LINE "fulgur sha256 1\n"

enum {
    HEX = 2 * FG_SHA256_BYTES,
    SHAPE_BYTES = 128, /* of the directory's head: everything but counts of the directory */
    GENERATION_AT = sizeof FIRST_LINE - 1 + sizeof "generation " - 1,
    CHUNK_LINE = 6 + HEX + 1,
    MAX_THREAD = 64,
};

bool fg_seal_leaves_out(const char *key)
{
    return strcmp(key, "quality") == 0 || strcmp(key, "heat") == 0 || strcmp(key, FG_SEAL_KEY) == 0;
}

/* --- the text --- */

uint64_t fg_seal_text_bytes(const fg_directory *d, uint64_t n_chunk)
{
    uint64_t n = GENERATION_AT + 16 + 1;
    n += sizeof "shape " - 1 + 2 * SHAPE_BYTES + 1;
    n += sizeof "attention " - 1 + d->shape.n_layer + 1;
    n += sizeof "layout " - 1 + 16 + 1 + 16 + 1 + 2 + 1;
    for (uint32_t i = 0; i < d->n_meta; i++) {
        if (!fg_seal_leaves_out(d->meta[i].key))
            n += sizeof "meta " - 1 + HEX + 1 + 16 + 1 + strlen(d->meta[i].key) + 1;
    }
    n += d->n_tensor * (sizeof "tensor " - 1 + 2 * (uint64_t)FG_TENSOR_RECORD_BYTES + 1);
    return n + n_chunk * CHUNK_LINE + sizeof "end\n" - 1;
}

static void put_hex(fg_buf *b, const char *word, const uint8_t *bytes, size_t n)
{
    char text[2 * SHAPE_BYTES + 1];
    fg_hex(bytes, n, text);
    fg_buf_put_str(b, word);
    fg_buf_put(b, text, 2 * n);
}

static void put_meta(fg_buf *b, const fg_meta_entry *m, const uint8_t *sha)
{
    put_hex(b, "meta ", sha, FG_SHA256_BYTES);
    fg_buf_printf(b, " %016llx ", (ull)m->bytes);
    fg_buf_put_str(b, m->key);
    fg_buf_u8(b, '\n');
}

bool fg_seal_text_print(fg_buf *b, const fg_directory *d, const fg_slot *slot, uint64_t generation,
                        const uint8_t *meta, const uint8_t *chunk)
{
    fg_buf dir = {0};
    fg_directory_encode(d, &dir);
    if (dir.failed) {
        fg_buf_fini(&dir);
        return false;
    }
    fg_buf_put_str(b, FIRST_LINE);
    fg_buf_printf(b, "generation %016llx\n", (ull)generation);
    put_hex(b, "shape ", dir.data, SHAPE_BYTES);
    fg_buf_put_str(b, "\nattention ");
    for (uint32_t i = 0; i < d->shape.n_layer; i++)
        fg_buf_u8(b, dir.data[FG_DIR_HEAD_BYTES + i] == 0 ? 'L' : 'S');
    fg_buf_printf(b, "\nlayout %016llx %016llx %02x\n", (ull)slot->data_offset,
                  (ull)slot->data_bytes, slot->n_part == 0 ? 1 : slot->n_part);
    for (uint32_t i = 0; i < d->n_meta; i++) {
        if (!fg_seal_leaves_out(d->meta[i].key))
            put_meta(b, &d->meta[i], meta + (size_t)i * FG_SHA256_BYTES);
    }
    const uint8_t *record = dir.data + (dir.len - d->n_tensor * FG_TENSOR_RECORD_BYTES);
    for (uint64_t i = 0; i < d->n_tensor; i++, record += FG_TENSOR_RECORD_BYTES) {
        put_hex(b, "tensor ", record, FG_TENSOR_RECORD_BYTES);
        fg_buf_u8(b, '\n');
    }
    fg_buf_fini(&dir);
    for (uint64_t i = 0; chunk != NULL && i < slot->n_chunk; i++) {
        put_hex(b, "chunk ", chunk + i * FG_SHA256_BYTES, FG_SHA256_BYTES);
        fg_buf_u8(b, '\n');
    }
    if (chunk != NULL) fg_buf_put_str(b, "end\n");
    return !b->failed;
}

bool fg_seal_text_chunks(const char *text, size_t n, uint64_t n_chunk, uint8_t *chunk)
{
    const uint64_t want = n_chunk * CHUNK_LINE + 4;
    if (n < want || memcmp(text + n - 4, "end\n", 4) != 0) return false;
    const char *p = text + (n - want);
    for (uint64_t i = 0; i < n_chunk; i++, p += CHUNK_LINE, chunk += FG_SHA256_BYTES) {
        if (memcmp(p, "chunk ", 6) != 0 || p[CHUNK_LINE - 1] != '\n' ||
            !fg_unhex(p + 6, FG_SHA256_BYTES, chunk))
            return false;
    }
    return true;
}

/* --- a file's own --- */

struct fg_seal {
    const fg_model_file *f;
    const char *text; /* borrowed */
    size_t n;
    uint64_t generation;
    uint8_t *chunk; /* 32 bytes each */
};

/* SHA-256 of all blobs that the text is about; others stay zero.  *out is freed with
 * fg_mem_free. */
static fg_status hash_meta(const fg_model_file *f, uint8_t **out, fg_err *err)
{
    const uint64_t n = fg_model_file_n_meta(f);
    *out = fg_mem_zalloc((size_t)n * FG_SHA256_BYTES + 1);
    if (*out == NULL) return fg_fail_nomem(err, fg_model_file_path(f));
    for (uint64_t i = 0; i < n; i++) {
        const char *key, *bytes;
        uint64_t size;
        size_t len;
        fg_model_file_meta_at(f, i, &key, &size);
        if (fg_seal_leaves_out(key)) continue;
        FG_TRY(fg_model_file_meta(f, key, &bytes, &len, err));
        if (!fg_sha256(bytes, len, *out + i * FG_SHA256_BYTES)) return fg_fail_nomem(err, key);
    }
    return FG_OK;
}

static size_t line_bytes(const char *p, size_t n)
{
    const char *end = memchr(p, '\n', n);
    return end == NULL ? n : (size_t)(end - p);
}

static bool begins(const char *p, size_t n, const char *word)
{
    return n >= strlen(word) && memcmp(p, word, strlen(word)) == 0;
}

/* A line "meta HASH BYTES KEY"; the length of the key, 0: no such line. */
static size_t key_of(const char *p, size_t n, const char **key)
{
    const size_t at = 5 + HEX + 1 + 16 + 1;
    if (!begins(p, n, "meta ") || n <= at) return 0;
    *key = p + at;
    return n - at;
}

static int order_keys(const char *a, size_t n_a, const char *b, size_t n_b)
{
    const int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
    return order != 0 ? order : (n_a > n_b) - (n_a < n_b);
}

static fg_status fail_meta(const fg_model_file *f, const char *mine, size_t n_mine,
                           const char *text, size_t n_text, fg_err *err)
{
    const char *path = fg_model_file_path(f), *a = NULL, *b = NULL;
    const size_t n_a = key_of(mine, n_mine, &a), n_b = key_of(text, n_text, &b);
    const int order = n_a == 0 ? 1 : n_b == 0 ? -1 : order_keys(a, n_a, b, n_b);
    if (order < 0) {
        return fg_fail(err, FG_ECHECKSUM,
                       "%s: metadata %.*s is not in its SHA-256 text, expected no such key; it was "
                       "added later",
                       path, (int)n_a, a);
    }
    if (order > 0) {
        return fg_fail(err, FG_ECHECKSUM,
                       "%s: no metadata %.*s, expected it as in its SHA-256 text", path, (int)n_b,
                       b);
    }
    return fg_fail(err, FG_ECHECKSUM,
                   "%s: metadata %.*s has SHA-256 %.16s..., expected %.16s... of its SHA-256 text",
                   path, (int)n_a, a, mine + 5, text + 5);
}

/* Names the first line in which a file's text is not what the file is. */
static fg_status fail_first(const fg_model_file *f, const fg_buf *mine, const char *text, size_t n,
                            fg_err *err)
{
    const char *path = fg_model_file_path(f), *p = (const char *)mine->data;
    size_t left = mine->len;
    uint64_t tensor = 0;
    char name[96];
    while (left > 0 && n > 0) {
        const size_t a = line_bytes(p, left), b = line_bytes(text, n);
        if (a == left || b == n) break;
        if (a == b && memcmp(p, text, a) == 0) {
            tensor += begins(p, a, "tensor ");
            p += a + 1;
            left -= a + 1;
            text += b + 1;
            n -= b + 1;
            continue;
        }
        if (begins(p, a, "meta ") || begins(text, b, "meta "))
            return fail_meta(f, p, a, text, b, err);
        if (begins(p, a, "tensor ")) {
            const fg_tensor *t = fg_model_file_tensor(f, tensor);
            fg_role_name((fg_role)t->role, t->layer, t->expert, name);
            return fg_fail(err, FG_ECHECKSUM,
                           "%s: the record of %s is another than in its SHA-256 text, expected the "
                           "same",
                           path, name);
        }
        return fg_fail(err, FG_ECHECKSUM,
                       "%s: another %.*s than in its SHA-256 text, expected the same", path,
                       (int)strcspn(p, " \n"), p);
    }
    return fg_fail(err, FG_EFORMAT, "%s: metadata %s ends early or late, expected a line for all",
                   path, FG_SEAL_KEY);
}

static fg_status read_generation(fg_seal *s, fg_err *err)
{
    uint8_t be[8];
    if (s->n < GENERATION_AT + 17 || memcmp(s->text, FIRST_LINE, sizeof FIRST_LINE - 1) != 0 ||
        !fg_unhex(s->text + GENERATION_AT, sizeof be, be)) {
        return fg_fail(err, FG_EFORMAT, "%s: metadata %s is no text of version 1, expected one",
                       fg_model_file_path(s->f), FG_SEAL_KEY);
    }
    s->generation = 0;
    for (size_t i = 0; i < sizeof be; i++) s->generation = s->generation << 8 | be[i];
    const uint64_t now = fg_model_file_plan(s->f)->slot.generation;
    if (s->generation >= 1 && s->generation <= now) return FG_OK;
    return fg_fail(err, FG_ECHECKSUM,
                   "%s: generation %llu in force, expected %llu at least, with which its SHA-256 "
                   "text was made",
                   fg_model_file_path(s->f), (ull)now, (ull)s->generation);
}

static fg_status compare(fg_seal *s, const uint8_t *meta, fg_err *err)
{
    const fg_file_plan *p = fg_model_file_plan(s->f);
    fg_buf mine = {0};
    fg_status st = FG_OK;
    const bool ok = fg_seal_text_print(&mine, &p->dir, &p->slot, s->generation, meta, NULL);
    s->chunk = fg_mem_alloc((size_t)p->slot.n_chunk * FG_SHA256_BYTES);
    if (!ok || s->chunk == NULL) {
        st = fg_fail_nomem(err, fg_model_file_path(s->f));
    } else if (s->n < mine.len || memcmp(s->text, mine.data, mine.len) != 0) {
        st = fail_first(s->f, &mine, s->text, s->n, err);
    } else if (s->n != fg_seal_text_bytes(&p->dir, p->slot.n_chunk) ||
               !fg_seal_text_chunks(s->text, s->n, p->slot.n_chunk, s->chunk)) {
        st = fg_fail(err, FG_EFORMAT,
                     "%s: metadata %s ends otherwise, expected a line for each of %llu chunks",
                     fg_model_file_path(s->f), FG_SEAL_KEY, (ull)p->slot.n_chunk);
    }
    fg_buf_fini(&mine);
    return st;
}

fg_status fg_seal_open(fg_seal **out, const fg_model_file *f, fg_err *err)
{
    const char *text;
    size_t n;
    uint8_t *meta = NULL;
    *out = NULL;
    FG_TRY(fg_model_file_meta(f, FG_SEAL_KEY, &text, &n, err));
    if (text == NULL) return FG_OK;
    fg_seal *s = fg_mem_zalloc(sizeof *s);
    if (s == NULL) return fg_fail_nomem(err, fg_model_file_path(f));
    s->f = f;
    s->text = text;
    s->n = n;
    fg_status st = read_generation(s, err);
    if (st == FG_OK) st = hash_meta(f, &meta, err);
    if (st == FG_OK) st = compare(s, meta, err);
    fg_mem_free(meta);
    if (st != FG_OK) fg_seal_close(&s);
    *out = s;
    return st;
}

void fg_seal_close(fg_seal **s)
{
    if (*s == NULL) return;
    fg_mem_free((*s)->chunk);
    fg_mem_free(*s);
    *s = NULL;
}

const char *fg_seal_text(const fg_seal *s, size_t *n)
{
    *n = s->n;
    return s->text;
}

uint64_t fg_seal_generation(const fg_seal *s)
{
    return s->generation;
}

/* --- all chunks --- */

typedef struct pass {
    const fg_model_file *f;
    const fg_seal *want; /* NULL: the hashes go to sha */
    uint8_t *sha;
    const uint8_t *only; /* NULL: all */
    uint64_t n_chunk, n_wanted;
    _Atomic uint64_t next, done;
    atomic_bool stop;
    pthread_mutex_t lock; /* of the two below */
    fg_err err;           /* of the first chunk that failed, by number */
    uint64_t failed;
} pass;

static void keep_failure(pass *p, uint64_t chunk, const fg_err *err)
{
    (void)pthread_mutex_lock(&p->lock);
    if (p->err.code == FG_OK || chunk < p->failed) {
        p->err = *err;
        p->failed = chunk;
    }
    (void)pthread_mutex_unlock(&p->lock);
    atomic_store(&p->stop, true);
}

fg_status fg_seal_check_chunk(const fg_seal *s, uint64_t chunk, const uint8_t *bytes, size_t n,
                              fg_err *err)
{
    uint8_t sha[FG_SHA256_BYTES];
    char name[192];
    if (!fg_sha256(bytes, n, sha)) return fg_fail_nomem(err, fg_model_file_path(s->f));
    if (memcmp(sha, s->chunk + chunk * FG_SHA256_BYTES, sizeof sha) == 0) return FG_OK;
    fg_model_file_name_chunk(s->f, chunk, name, sizeof name);
    return fg_fail(err, FG_ECHECKSUM,
                   "%s: chunk %llu (%s) has another SHA-256, expected that of its SHA-256 text",
                   fg_model_file_path(s->f), (ull)chunk, name);
}

static fg_status take_chunk(pass *p, uint64_t chunk, uint8_t *buf, fg_err *err)
{
    size_t n;
    FG_TRY(fg_model_file_read_chunk(p->f, chunk, buf, &n, err));
    if (p->want != NULL) return fg_seal_check_chunk(p->want, chunk, buf, n, err);
    if (fg_sha256(buf, n, p->sha + chunk * FG_SHA256_BYTES)) return FG_OK;
    return fg_fail_nomem(err, fg_model_file_path(p->f));
}

/* Takes chunks until there are none; pass NULL: tells nobody. */
static void work(pass *p, const fg_seal_pass *tell)
{
    fg_err err = {0};
    uint8_t *buf = fg_mem_alloc((size_t)FG_FILE_CHUNK);
    if (buf == NULL) {
        (void)fg_fail_nomem(&err, fg_model_file_path(p->f));
        keep_failure(p, 0, &err);
        return;
    }
    while (!atomic_load(&p->stop)) {
        const uint64_t i = atomic_fetch_add(&p->next, 1);
        if (i >= p->n_chunk) break;
        if (p->only != NULL && p->only[i] == 0) continue;
        if (take_chunk(p, i, buf, &err) != FG_OK) keep_failure(p, i, &err);
        const uint64_t done = atomic_fetch_add(&p->done, 1) + 1;
        if (tell == NULL || tell->progress == NULL ||
            tell->progress(tell->ctx, done * FG_FILE_CHUNK, p->n_wanted * FG_FILE_CHUNK))
            continue;
        (void)fg_fail(&err, FG_ECANCEL, "%s: cancelled after %llu chunks, expected %llu",
                      fg_model_file_path(p->f), (ull)done, (ull)p->n_wanted);
        keep_failure(p, p->n_chunk, &err);
    }
    fg_mem_free(buf);
}

static void *worker(void *ctx)
{
    work(ctx, NULL);
    return NULL;
}

static uint32_t processors(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

/* A thread that cannot be had is done without. */
static fg_status go_through(pass *p, const fg_seal_pass *how, fg_err *err)
{
    pthread_t thread[MAX_THREAD];
    const uint32_t want = how->n_thread == 0 ? processors() : how->n_thread;
    uint32_t n = 0;
    for (uint64_t i = 0; i < p->n_chunk; i++) p->n_wanted += p->only == NULL || p->only[i] != 0;
    (void)pthread_mutex_init(&p->lock, NULL);
    while (n + 1 < want && n < MAX_THREAD && pthread_create(&thread[n], NULL, worker, p) == 0) n++;
    work(p, how);
    while (n > 0) (void)pthread_join(thread[--n], NULL);
    (void)pthread_mutex_destroy(&p->lock);
    if (p->err.code != FG_OK && err != NULL) *err = p->err;
    return p->err.code;
}

fg_status fg_seal_check_data(const fg_seal *s, const fg_seal_pass *how, fg_err *err)
{
    const uint64_t n_chunk = fg_model_file_plan(s->f)->slot.n_chunk;
    pass p = {.f = s->f, .want = s, .only = how->only, .n_chunk = n_chunk};
    return go_through(&p, how, err);
}

fg_status fg_seal_make(fg_buf *b, const fg_model_file *f, uint64_t generation,
                       const fg_seal_pass *how, fg_err *err)
{
    const fg_file_plan *plan = fg_model_file_plan(f);
    pass p = {.f = f, .n_chunk = plan->slot.n_chunk};
    uint8_t *meta = NULL;
    p.sha = fg_mem_alloc((size_t)p.n_chunk * FG_SHA256_BYTES);
    fg_status st =
        p.sha == NULL ? fg_fail_nomem(err, fg_model_file_path(f)) : hash_meta(f, &meta, err);
    if (st == FG_OK) st = go_through(&p, how, err);
    if (st == FG_OK && !fg_seal_text_print(b, &plan->dir, &plan->slot, generation, meta, p.sha)) {
        st = fg_fail_nomem(err, fg_model_file_path(f));
    }
    fg_mem_free(meta);
    fg_mem_free(p.sha);
    return st;
}
