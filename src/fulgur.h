/* SPDX-License-Identifier: MIT
 *
 * Fulgur's public interface, for C11 and C++17; it includes nothing but the C library.
 *
 * An engine is one opened model: mapping, kernels, tables, thread team.  It is immutable while in
 * use and shared by its sessions.  A session is one timeline of tokens: it owns state, key-value
 * cache and buffers.  A reply is the sampling loop.  The caller owns token arrays and text.
 *
 *     fg_err err = {FG_OK, ""};
 *     fg_engine *e;
 *     fg_session *s;
 *     fg_engine_opts eo = fg_engine_opts_default();
 *     fg_session_opts so = fg_session_opts_default();
 *     if (fg_engine_open(&e, "m1.fulgur", &eo, &err) != FG_OK) ...err.msg...
 *     if (fg_engine_encode(e, text, n, false, &ids, &n_ids, &err) != FG_OK) ...
 *     if (fg_session_create(&s, e, &so, &err) != FG_OK) ...
 *     if (fg_session_eval(s, ids, n_ids, NULL, NULL, &err) != FG_OK) ...
 *     next = argmax(fg_session_logits(s)) ...
 *     fg_session_destroy(&s);
 *     fg_engine_close(&e);
 *
 * Threads: calls on one engine or its sessions must not overlap; the engine uses its own team
 * inside.  Numbers: the same file and tokens give the same logits, bit for bit, for any thread
 * count, CPU level, memory bound, split of the tokens into calls and company in a pass.
 *
 * The library prints nothing, never exits, handles no signals, and reads no environment.
 *
 * Structs of options begin with their size, which the _default functions set: a program that was
 * compiled with an older header goes on working with a newer library.  What is marked experimental
 * may change between minor versions.
 */
#ifndef FG_SRC_FULGUR_H
#define FG_SRC_FULGUR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FG_VERSION_MAJOR 0
#define FG_VERSION_MINOR 1
#define FG_VERSION_PATCH 0
#define FG_VERSION       "0.1.0"

/* What the library exports, and what the header does itself. */
#if defined(__GNUC__)
#define FG_INLINE static inline __attribute__((unused))
#else
#define FG_INLINE static inline
#endif
#ifndef FG_API
#if defined(__GNUC__)
#define FG_API __attribute__((visibility("default")))
#else
#define FG_API
#endif
#endif

/* Version of the library that is linked, "MAJOR.MINOR.PATCH"; FG_VERSION is the header's. */
FG_API const char *fg_version(void);

/* ---- status ---- */

/* Append only; the values are stable and may be logged. */
#define FG_STATUS_MAP(X)                                                                           \
    X(FG_OK, 0, "success")                                                                         \
    X(FG_ENOMEM, -1, "out of memory")                                                              \
    X(FG_EIO, -2, "input/output error")                                                            \
    X(FG_EFORMAT, -3, "malformed file")                                                            \
    X(FG_EVERSION, -4, "unsupported version")                                                      \
    X(FG_ECHECKSUM, -5, "checksum mismatch")                                                       \
    X(FG_ESHAPE, -6, "tensor does not fit the model")                                              \
    X(FG_EINVAL, -7, "invalid argument")                                                           \
    X(FG_ENOTSUP, -8, "not supported")                                                             \
    X(FG_ELIMIT, -9, "limit exceeded")                                                             \
    X(FG_EDATA, -10, "invalid numeric data")                                                       \
    X(FG_ECANCEL, -11, "cancelled")

typedef enum fg_status {
#define FG_STATUS_ENUM(name, value, text) name = (value),
    FG_STATUS_MAP(FG_STATUS_ENUM)
#undef FG_STATUS_ENUM
} fg_status;

typedef struct fg_err {
    fg_status code; /* FG_OK until fg_fail wrote here */
    char msg[512];  /* one line, NUL-terminated; over-long messages are cut */
} fg_err;

/* Static text of a status code; never NULL. */
FG_API const char *fg_status_text(fg_status code);

/* ---- choices ----
 *
 * Values are append only.  COUNT, the number of values, is no value.  A name is static text, as the
 * command line has it; NULL: no such value in this build. */

/* Highest level of CPU features that kernels may use. */
typedef enum fg_cpu_level {
    FG_CPU_LEVEL_AUTO = 0, /* the highest that this machine has */
    FG_CPU_LEVEL_SCALAR = 1,
    FG_CPU_LEVEL_AVX2 = 2,
    FG_CPU_LEVEL_AVX512VNNI = 3,
    FG_CPU_LEVEL_AMX = 4,
    FG_CPU_LEVEL_NEON = 5,
    FG_CPU_LEVEL_DOTPROD = 6,
    FG_CPU_LEVEL_I8MM = 7,
    FG_CPU_LEVEL_COUNT
} fg_cpu_level;
FG_API const char *fg_cpu_level_name(fg_cpu_level level);

/* Which experts stay in memory; changes time only. */
typedef enum fg_policy {
    FG_POLICY_LRU = 0, /* evicts the least recently requested */
    FG_POLICY_LFU = 1, /* the least frequently requested, counts halve now and then, so that old
                        * subjects fade; ties as LRU */
    FG_POLICY_PIN =
        2, /* the hottest of the file's heat map stay once they are in; the rest as LRU */
    /* not live, only of a replay, to compare with: */
    FG_POLICY_RANDOM = 3,  /* evicts any */
    FG_POLICY_OPTIMAL = 4, /* the one whose next request is farthest away (Belady 1966): no choice
                            * has fewer misses, as long as the experts of each layer are one wave */
    FG_POLICY_COUNT
} fg_policy;
FG_API const char *fg_policy_name(fg_policy policy);
FG_API bool fg_policy_is_live(fg_policy policy); /* an engine may have it */

/* By what experts are read ahead of need; changes time only.  Whether it is on goes by a clock. */
typedef enum fg_predict {
    FG_PREDICT_NONE = 0,
    FG_PREDICT_FREQUENCY = 1, /* the layer's most requested so far; counts halve now and then */
    FG_PREDICT_PREVIOUS = 2,  /* those of the token before, then of the one before that, ... */
    FG_PREDICT_ROUTER = 3,    /* the best of that layer's router on the state of this layer */
    FG_PREDICT_FACTOR = 4,    /* what token, text and the layers so far suggest */
    FG_PREDICT_BOTH = 5, /* of these two, at each distance, the one that was better in training */
    FG_PREDICT_COUNT
} fg_predict;
FG_API const char *fg_predict_name(fg_predict predict);

/* How experts are read. */
typedef enum fg_io {
    FG_IO_AUTO = 0, /* io_uring, or pread where that is refused */
    FG_IO_URING = 1,
    FG_IO_PREAD = 2, /* a few threads */
    FG_IO_COUNT
} fg_io;
FG_API const char *fg_io_name(fg_io io);

/* Elements of the key-value cache.  f16 halves the f32 cache: 11 bits of precision, rounded to
 * nearest even; a key or value beyond 65504 becomes infinite. */
typedef enum fg_kv_choice {
    FG_KV_CHOICE_AUTO = 0, /* int8 for quantized files, f32 for f32 and bf16 files */
    FG_KV_CHOICE_F32 = 1,
    FG_KV_CHOICE_F16 = 2,
    FG_KV_CHOICE_INT8 = 3,
    FG_KV_CHOICE_COUNT
} fg_kv_choice;
FG_API const char *fg_kv_choice_name(fg_kv_choice kv);

/* Which NUMA node has which part of the weights; changes time only.  On a machine of one node all
 * are the same. */
typedef enum fg_numa {
    FG_NUMA_SLICE = 0,  /* every matrix is cut over the nodes; each reads its own part */
    FG_NUMA_STRICT = 1, /* the same, and an engine that cannot have it does not open */
    /* to compare with: */
    FG_NUMA_INTERLEAVE = 2,  /* pages dealt round the nodes, whoever reads them */
    FG_NUMA_EXPERT = 3,      /* an expert is whole on one node; dense matrices as with slice */
    FG_NUMA_MIRROR = 4,      /* every node has a copy of everything */
    FG_NUMA_FIRST_TOUCH = 5, /* where the system puts them: nothing is bound but the threads */
    FG_NUMA_COUNT
} fg_numa;
FG_API const char *fg_numa_name(fg_numa numa);

/* Where weights are that no bound of memory applies to; changes time only. */
typedef enum fg_residency {
    FG_RESIDENCY_AUTO = 0,   /* map: nobody knows how long a run will be */
    FG_RESIDENCY_MAP = 1,    /* the file in the page cache */
    FG_RESIDENCY_COPY = 2,   /* read into memory of the process when the engine opens */
    FG_RESIDENCY_SHARED = 3, /* the same in a file on hugetlbfs or tmpfs, for later processes too */
    FG_RESIDENCY_COUNT
} fg_residency;
FG_API const char *fg_residency_name(fg_residency residency);

/* Pages of copied weights. */
typedef enum fg_pages {
    FG_PAGES_AUTO = 0,  /* huge ones as far as the system gives them without being asked */
    FG_PAGES_SMALL = 1, /* 4 KiB */
    FG_PAGES_HUGE = 2,  /* transparent huge pages */
    FG_PAGES_TLB = 3,   /* reserved ones (hugetlbfs); FG_ENOMEM when there are too few */
    FG_PAGES_COUNT
} fg_pages;
FG_API const char *fg_pages_name(fg_pages pages);

/* ---- engine ---- */

typedef struct fg_engine fg_engine;
typedef struct fg_session fg_session;

typedef struct fg_engine_opts {
    size_t size;       /* of this struct */
    uint32_t n_thread; /* 0: one per physical core, within affinity and cgroup quota */
    fg_cpu_level cpu;  /* highest kernel level to use */
    bool pin; /* workers are bound to cores, and so is the calling thread until the engine closes */
    /* Memory in bytes for weights, sessions and the program (96 MiB); 0: the file is mapped and the
     * system decides.  With a bound, dense parts are read into memory and experts on demand.
     * Changes time only, never a bit.  Where the machine or the limits of its control group leave
     * less, the bound is that. */
    uint64_t ram_bytes;
    fg_policy policy;   /* which experts stay */
    fg_io io;           /* how they are read */
    fg_predict predict; /* what is read ahead of need */
    uint32_t ahead;     /* for how many layers, 1 to 8; 0: the default */
    uint32_t
        pretend_nodes; /* for tests: so many NUMA nodes, whatever the machine has; 0: its own */
    /* Told, in a line without its end, of what the engine does otherwise than asked for (less
     * memory than ram_bytes), before it reads anything.  May be NULL. */
    void (*note)(void *ctx, const char *line);
    void *note_ctx;
    uint32_t n_node; /* NUMA nodes to use, the first ones, at most all; 0: all */
    fg_numa numa;
    fg_residency residency;
    fg_pages pages;
    const char *image; /* with FG_RESIDENCY_SHARED: the file, made when it is not there */
    /* While weights are read or placed at opening, with bytes done and total; false cancels
     * (FG_ECANCEL).  May be NULL. */
    bool (*progress)(void *ctx, uint64_t done, uint64_t total);
    void *progress_ctx;
    uint32_t n_thread_prefill; /* workers of prompts; 0: n_thread, or all cores */
    /* Parts of the nodes follow what each reads of its own memory, measured at opening, instead of
     * its cores; half a second, where there are several. */
    bool measure_nodes;
    /* The card that does the dense parts, and holds as many experts as fit: its number,
     * FG_GPU_OFF, or FG_GPU_AUTO, the first one if it can be had; when there is one that cannot,
     * `note` is told why.  Changes time only. */
    int32_t gpu;
    uint64_t gpu_bytes; /* of its memory to use at most, besides the driver's own; 0: what it has */
    /* A file of public keys (those of signify, one after another): the model must be signed by one
     * of them, in MODEL.sig beside it.  Metadata and what each token uses are checked when the file
     * is opened, an expert when it is first used, which may end an evaluation with FG_ECHECKSUM;
     * `note` is told by whom, how long it took, at the end how long that of the experts took, and
     * which metadata is not signed.  Not with an image.  NULL: nothing is asked. */
    const char *signers;
    /* For FG_PREDICT_FACTOR and _BOTH, NULL or a file: the model that they begin with, of fulgur
     * factor train --trace; and where it is written, with what this engine's sessions taught it,
     * when the engine is closed (a failure is told to `note`).  A file that is there must be such a
     * model.  Without the first they begin with nothing, without the second nothing is kept.
     * FG_EINVAL with another predictor, or without ram_bytes. */
    const char *predict_model, *predict_save;
} fg_engine_opts;
enum { FG_GPU_OFF = -1, FG_GPU_AUTO = -2 };

/* LFU, the router's predictions, workers bound to cores, everything else 0 or automatic.  size: of
 * the caller's struct. */
FG_API void fg_engine_opts_init(fg_engine_opts *o, size_t size);
FG_INLINE fg_engine_opts fg_engine_opts_default(void)
{
    fg_engine_opts o;
    fg_engine_opts_init(&o, sizeof o);
    return o;
}

/* Opens a model file: validates header and directory, maps the data (touching none of it), starts
 * the team.  With ram_bytes the dense parts are read, with a copy everything.  Where there are
 * several NUMA nodes, weights are brought to those that own them, and the kernel is asked whether
 * they are there.  *out must be closed after all its sessions. Errors: FG_EIO, FG_EFORMAT,
 * FG_EVERSION, FG_ECHECKSUM (the file), FG_EINVAL (an option), FG_ENOTSUP (CPU level absent, policy
 * without its heat map), FG_ELIMIT (ram_bytes too small; pages elsewhere with FG_NUMA_STRICT),
 * FG_ENOMEM. */
FG_API fg_status fg_engine_open(fg_engine **out, const char *path, const fg_engine_opts *opts,
                                fg_err *err);
FG_API void fg_engine_close(fg_engine **e); /* accepts NULL */

/* Whether the file still has the weights that were opened; to be asked before results that took
 * long are believed, since a mapped file may be written to under a running engine.  At once FG_OK
 * while its size and times have not moved, and with ram_bytes, where each read is checked as it
 * arrives; else all weights are read and compared with the hashes in the file.  progress, with
 * bytes done and total, may be NULL; false cancels.  Errors: FG_EIO (changed: nothing that was
 * evaluated since is of use), FG_ECANCEL, FG_ENOMEM. */
FG_API fg_status fg_engine_check(fg_engine *e,
                                 bool (*progress)(void *ctx, uint64_t done, uint64_t total),
                                 void *ctx, fg_err *err);

/* For a program's own handler of SIGBUS, which the system sends when a page of a mapped file is
 * gone (cut short, a bad block): the path of the file whose mapping holds the address, siginfo's
 * si_addr; NULL: it is not the library's.  Async-signal-safe. */
FG_API const char *fg_mapped_file(const void *address);

/* The thread that opened a pinned engine is bound to the core of worker 0 until it closes it.  A
 * host that minds detaches it, or attaches another one, which then makes all calls. */
FG_API void fg_engine_detach(fg_engine *e);
FG_API void fg_engine_attach(fg_engine *e);

typedef struct fg_engine_info {
    size_t size; /* of this struct, set by the caller */
    uint32_t n_vocab, n_layer, n_thread;
    uint64_t n_ctx_max;   /* positions of the model */
    uint64_t token_bytes; /* weight bytes that one decoded token reads */
    const char *cpu;      /* kernel level in use; static text, as is the next */
    const char *threads;  /* thread backend: "openmp" or "pthread" */
} fg_engine_info;
/* Fills *out but for its size. */
FG_API void fg_engine_get_info(const fg_engine *e, fg_engine_info *out);

/* ---- text ---- */

/* Token ids of n bytes of UTF-8 (what is not UTF-8 counts as U+FFFD); markup: special tokens spelt
 * in the text count as such.  *ids [*n_ids] is freed with fg_free.  FG_ENOTSUP when the file has no
 * tokenizer; FG_ENOMEM. */
FG_API fg_status fg_engine_encode(fg_engine *e, const char *text, size_t n, bool markup,
                                  uint32_t **ids, size_t *n_ids, fg_err *err);
/* The text of ids, special tokens included; NUL-terminated, *n bytes, freed with fg_free. */
FG_API fg_status fg_engine_decode(fg_engine *e, const uint32_t *ids, size_t n_ids, char **text,
                                  size_t *n, fg_err *err);

typedef enum fg_message_role {
    FG_MESSAGE_SYSTEM = 0,
    FG_MESSAGE_USER = 1,
    FG_MESSAGE_ASSISTANT = 2,
} fg_message_role;
typedef struct fg_message {
    fg_message_role role;
    const char *text; /* n bytes; special tokens spelt in it stay text */
    size_t n;
} fg_message;
/* Token ids of a conversation in the markup of the release, ending with the head of the assistant's
 * next message.  *ids as in fg_engine_encode.  FG_EINVAL: a tokenizer without that markup. */
FG_API fg_status fg_engine_encode_chat(fg_engine *e, const fg_message *message, size_t n_message,
                                       uint32_t **ids, size_t *n_ids, fg_err *err);

/* Frees what the functions above gave; accepts NULL. */
FG_API void fg_free(void *p);

/* ---- session ----
 *
 * Lightning state cannot be cut back: within the present chunk of 64 tokens a session rewinds for
 * nothing, further back to the nearest of its marks, else to the start.  Whatever is rewound and
 * evaluated again, the logits are those of a plain run, bit for bit. */

typedef struct fg_session_opts {
    size_t size;      /* of this struct */
    uint64_t n_ctx;   /* positions; 0: the model's maximum, at most 4096 */
    uint32_t n_batch; /* tokens evaluated together in prefill; 0: FG_SESSION_BATCH, for a longer
                       * prompt up to FG_SESSION_LONG_BATCH where an eighth of the free memory has
                       * room for them, with a card up to what that has room for, and when not all
                       * experts are in memory as many as make the
                       * fewest reads, within the bound.  Never changes the result */
    fg_kv_choice kv;
    uint32_t n_mark; /* marks kept at most; 0: FG_SESSION_MARKS */
    bool stops;      /* progress may stop a pass anywhere, not only between passes; costs the memory
                      * of one mark */
} fg_session_opts;
enum { FG_SESSION_BATCH = 512, FG_SESSION_LONG_BATCH = 2048, FG_SESSION_MARKS = 4 };

/* size: of the caller's struct. */
FG_API void fg_session_opts_init(fg_session_opts *o, size_t size);
FG_INLINE fg_session_opts fg_session_opts_default(void)
{
    fg_session_opts o;
    fg_session_opts_init(&o, sizeof o);
    return o;
}

/* Errors: FG_ELIMIT (context beyond the model's, or memory beyond ram_bytes or what is there),
 * FG_EINVAL, FG_ENOMEM. */
FG_API fg_status fg_session_create(fg_session **out, fg_engine *e, const fg_session_opts *opts,
                                   fg_err *err);
FG_API void fg_session_destroy(fg_session **s); /* accepts NULL */

FG_API uint64_t fg_session_pos(const fg_session *s);   /* tokens evaluated so far */
FG_API uint64_t fg_session_n_ctx(const fg_session *s); /* room in tokens */
FG_API uint64_t fg_session_bytes(const fg_session *s); /* of it that count against ram_bytes */
/* [pos] the tokens; borrowed until the session changes. */
FG_API const uint32_t *fg_session_ids(const fg_session *s);
FG_API void fg_session_reset(fg_session *s); /* empty, same room, no marks */

/* logits[n_vocab] of the token at absolute position pos; valid during the call only. */
typedef void fg_session_logits_fn(void *ctx, uint64_t pos, const float *logits);

/* Evaluates n tokens (n >= 1, ids < n_vocab) after what the session holds.  on_logits, when not
 * NULL, sees every token's logits in order.  Errors: FG_EINVAL (an id), FG_ELIMIT (no room; nothing
 * was evaluated), FG_ECANCEL (progress; the batches before it are in, and the session is as after
 * the last of them), FG_EIO (an expert could not be read: the session answers the same until it is
 * reset or rewound to a mark). */
FG_API fg_status fg_session_eval(fg_session *s, const uint32_t *ids, size_t n,
                                 fg_session_logits_fn *on_logits, void *ctx, fg_err *err);

/* Experimental.  The same for several sessions of one engine, whose tokens share passes: weights
 * are read once for all of them.  Progress is that of the first one that has tokens left. */
typedef struct fg_eval_item {
    fg_session *session; /* each at most once */
    const uint32_t *ids; /* [n], n >= 1 */
    size_t n;
    fg_session_logits_fn *on_logits; /* may be NULL */
    void *ctx;
} fg_eval_item;
FG_API fg_status fg_session_eval_many(const fg_eval_item *items, size_t n_item, fg_err *err);

/* Logits [n_vocab] of the last evaluated token; valid until the session changes.  NULL when there
 * are none: nothing was evaluated since the start, a reset or a rewind. */
FG_API const float *fg_session_logits(const fg_session *s);

/* Goes back to pos (at most the present one), or as near before it as is possible: *at.  Tokens
 * from *at on are forgotten, and so are marks after it.  Within the chunk nothing is copied.
 * FG_EINVAL. */
FG_API fg_status fg_session_rewind(fg_session *s, uint64_t pos, uint64_t *at, fg_err *err);

/* Remembers the state at the present position, to rewind to; of more than n_mark one goes, such
 * that what stays lies the farther apart the farther back it is.  FG_ELIMIT (ram_bytes), FG_ENOMEM:
 * no mark was made. */
FG_API fg_status fg_session_mark(fg_session *s, fg_err *err);

/* Makes the session hold exactly ids[n] (n >= 1), with the logits of the last one: goes back to the
 * common prefix and evaluates the rest.  *kept (may be NULL): tokens that were not evaluated again.
 * Errors: those of fg_session_eval. */
FG_API fg_status fg_session_sync(fg_session *s, const uint32_t *ids, size_t n, size_t *kept,
                                 fg_err *err);

/* A second session with the same tokens, state and room, without marks and observers.  Errors:
 * those of fg_session_create. */
FG_API fg_status fg_session_fork(fg_session **out, const fg_session *s, fg_err *err);

/* Called between batches of fg_session_eval, and with opts.stops some times a second within one,
 * with tokens done and total; false stops.  NULL: off. */
FG_API void fg_session_set_progress(fg_session *s, bool (*fn)(void *ctx, size_t done, size_t total),
                                    void *ctx);

/* Experimental.  An observer of the rows that the session keeps: it is not told of a pass that was
 * stopped, nor of rows that are rewound before the next evaluation.  routed: selected experts of a
 * layer, sel[n_tok][n_used] with weights, layer by layer for each pass.  rewound: rows from pos on,
 * of which it was told, are gone.  NULL members are not called; the struct is copied, NULL switches
 * off. */
typedef struct fg_observer {
    void (*routed)(void *ctx, uint32_t layer, uint64_t pos, uint64_t n_tok, const uint32_t *sel,
                   const float *weights);
    void (*rewound)(void *ctx, uint64_t pos);
    void *ctx;
} fg_observer;
FG_API void fg_session_set_observer(fg_session *s, const fg_observer *o);
/* Tells the observer of what is held back till the next evaluation. */
FG_API void fg_session_flush(fg_session *s);

/* ---- reply ---- */

typedef struct fg_sampler fg_sampler; /* settings and random state */

typedef struct fg_logit_bias {
    uint32_t id;
    float add; /* to its logit; -infinity: never */
} fg_logit_bias;

typedef struct fg_sampler_opts {
    size_t size;    /* of this struct */
    double temp;    /* 0 (greedy) or 1e-6 .. 1e6; default 1 (MiniMax-M1's recommendation) */
    double top_p;   /* above 0, at most 1 = off; default 0.95 (the same) */
    double min_p;   /* 0 = off (default) .. 1 */
    uint64_t seed;  /* default 0 */
    uint32_t top_k; /* 0 = off (default) */
    /* Experimental, from here on.  What a logit loses before the choice; log-probabilities stay
     * those of the model.  A token that the prompt or the reply has: its logit is divided by
     * `repeat` when positive, multiplied when not; 1 = off (default), above 0.  A token that is n
     * times in the reply: presence + n * frequency, each -2 to 2, 0 = off (default). */
    double repeat, presence, frequency;
    const fg_logit_bias *bias; /* [n_bias], copied */
    size_t n_bias;
} fg_sampler_opts;

/* size: of the caller's struct. */
FG_API void fg_sampler_opts_init(fg_sampler_opts *o, size_t size);
FG_INLINE fg_sampler_opts fg_sampler_opts_default(void)
{
    fg_sampler_opts o;
    fg_sampler_opts_init(&o, sizeof o);
    return o;
}

/* A sampler for this engine's vocabulary, which never chooses an id without a token.  The same
 * logits, settings and seed give the same choice on every machine.  FG_EINVAL (a setting),
 * FG_ENOMEM. */
FG_API fg_status fg_engine_sampler(fg_engine *e, const fg_sampler_opts *o, fg_sampler **out,
                                   fg_err *err);
FG_API void fg_sampler_destroy(fg_sampler **s); /* accepts NULL */

/* Why a reply ended: enumerator, name for machines, text for people. */
#define FG_END_MAP(X)                                                                              \
    X(FG_END_MODEL, "stop", "the model ended it")                                                  \
    X(FG_END_LENGTH, "length", "the most tokens that were asked for")                              \
    X(FG_END_CONTEXT, "context", "the context is full")                                            \
    X(FG_END_CANCEL, "cancel", "the caller stopped it")                                            \
    X(FG_END_STRING, "stop_string", "a stop string")                                               \
    X(FG_END_REPEAT, "repetition", "it repeated itself")
typedef enum fg_end {
#define FG_END_ENUM(id, name, text) id,
    FG_END_MAP(FG_END_ENUM)
#undef FG_END_ENUM
        FG_END_COUNT
} fg_end;
FG_API const char *fg_end_name(fg_end end);
FG_API const char *fg_end_text(fg_end end);

typedef enum fg_think_part {
    FG_THINK_ANSWER = 0,
    FG_THINK_REASONING = 1,
    FG_THINK_TAG = 2, /* "<think>" or "</think>" itself, always whole */
} fg_think_part;

/* Experimental.  What happens in a reply, in order. */
typedef enum fg_event_kind {
    FG_EVENT_TEXT = 0,      /* of the answer */
    FG_EVENT_REASONING = 1, /* of the thought */
    FG_EVENT_TAG = 2,       /* "<think>" or "</think>" itself, always whole */
    FG_EVENT_TOOL = 3,      /* a call of a tool; not sent yet */
    FG_EVENT_FORCED = 4,    /* ids follow that were given, not sampled: `why`, `pos`, `n_id` */
    FG_EVENT_STOP = 5,      /* the last one: `end` */
} fg_event_kind;
typedef enum fg_forced {
    FG_FORCED_NOTHING = 0,
    FG_FORCED_BUDGET = 1,     /* the thought reached its budget and is closed */
    FG_FORCED_REPEAT = 2,     /* the thought repeated itself and is closed */
    FG_FORCED_NO_THOUGHT = 3, /* none was wanted: an empty one */
} fg_forced;
typedef struct fg_event {
    fg_event_kind kind;
    const char *text; /* n bytes, whole UTF-8 characters, valid during the call; NULL: no text */
    size_t n;
    bool forced;   /* text of ids that were given */
    bool replayed; /* text of before a resume, told again */
    fg_forced why;
    uint64_t pos, n_id; /* FORCED: position of the first id, and how many */
    fg_end end;         /* STOP */
} fg_event;
enum { FG_DRAFT_OFF = 0, FG_DRAFT_AUTO = -1, FG_DRAFT_MAX = 7 };
#define FG_THINK_BUDGET_AUTO UINT64_MAX

typedef struct fg_reply_opts {
    size_t size;          /* of this struct */
    fg_sampler *sampler;  /* borrowed; its random state moves on */
    uint64_t n_max;       /* tokens at most; default 256 */
    const uint32_t *stop; /* [n_stop] more ids that end the reply; they are not given to emit */
    size_t n_stop;
    bool special;    /* markup tokens are given as text */
    bool ignore_eos; /* go on after markup tokens, each of which but the think tags ends a reply
                      * else (stop ids still end it) */
    bool goes_on;    /* the last token is evaluated too, after markup the end token: the
                      * conversation continues after it */
    /* Whole UTF-8 characters as they come, with the part of the reply that they belong to; false
     * ends the reply. */
    bool (*emit)(void *ctx, fg_think_part part, const char *text, size_t n);
    /* Before each pass, which is a token or, with drafts, a few; false ends the reply.  May be
     * NULL. */
    bool (*poll)(void *ctx);
    void *ctx;
    /* ---- experimental from here on ---- */
    bool (*event)(void *ctx, const fg_event *e); /* instead of emit; false ends the reply */
    /* [n_stop_text] texts that end the answer where they first appear, and are not part of it;
     * valid UTF-8, none empty.  The thought, and white space after it, is not searched.  The tokens
     * that spell one are evaluated: who goes on after the reply takes them back. */
    const char *const *stop_text;
    size_t n_stop_text;
    /* Tokens of the thought at most, at the next end of a line (within 64 tokens) it is closed by
     * think_message and the tag; 0: no limit; FG_THINK_BUDGET_AUTO, the default: n_max less 4096,
     * none where that is nothing. */
    uint64_t think_budget;
    const char *think_message; /* the last line of such a thought; NULL: none */
    bool in_thought;           /* the prompt has opened it */
    bool no_thought;           /* an empty one is given */
    /* The reply ends, its thought is closed, after so many consecutive tokens that each had a
     * probability above 0.99; those that copy from an earlier part do not count.  0: off; default
     * 3000. */
    uint64_t repeat_stop;
    /* Tokens guessed ahead and checked in one pass, at most FG_DRAFT_MAX; FG_DRAFT_AUTO, the
     * default: as many as pay.  Changes time only. */
    int32_t draft;
    const uint32_t *attached; /* [n_attached] a text that the reply may quote, for guesses */
    size_t n_attached;
} fg_reply_opts;

/* size: of the caller's struct. */
FG_API void fg_reply_opts_init(fg_reply_opts *o, size_t size);
FG_INLINE fg_reply_opts fg_reply_opts_default(void)
{
    fg_reply_opts o;
    fg_reply_opts_init(&o, sizeof o);
    return o;
}

typedef struct fg_reply {
    fg_end end;
    uint64_t n_gen;  /* tokens generated, without the one that ended it */
    uint64_t n_eval; /* tokens evaluated, within `seconds` */
    double seconds;
} fg_reply;

/* Generates after what the session holds, which must have logits.  The session then holds what was
 * evaluated.  Errors: FG_EINVAL (an option, no logits), FG_EDATA (logits that are not numbers),
 * FG_ENOTSUP (no tokenizer in the file), those of fg_session_eval; *out tells how far it came. */
FG_API fg_status fg_reply_run(fg_session *s, const fg_reply_opts *o, fg_reply *out, fg_err *err);

/* ---- generator ----
 *
 * Experimental.  A reply as a state machine, for who evaluates himself (several sequences in a
 * pass), or keeps a reply to go on with it later; fg_reply_run is the loop over it.
 *
 *     fg_generator_begin(g, ids, n, n_ctx, &err);       the prompt, with all earlier turns
 *     for (fg_step step = {0}; !step.ended;) {
 *         fg_generator_step(g, logits, &step, &err);    of the last evaluated token
 *         if (step.n > 0) ...evaluate step.ids...
 *     }
 *
 * It does not look at a session, and holds copies of ids; options, their texts and the sampler are
 * borrowed until it is destroyed. */
typedef struct fg_generator fg_generator;

typedef struct fg_step {
    const uint32_t *ids; /* [n] to evaluate next, in order; valid until the next call */
    size_t n;            /* several when they are forced; 0: only when it has ended */
    fg_forced forced;    /* why they were given; FG_FORCED_NOTHING: sampled */
    bool ended;          /* no step follows; ids, if any, are evaluated so that the session
                          * continues after them */
    fg_end end;
} fg_step;

typedef struct fg_generator_stats {
    size_t size;                    /* of this struct, set by the caller */
    uint64_t n_gen;                 /* tokens, as in fg_reply */
    uint64_t n_thought;             /* of them in the thought */
    uint64_t n_forced;              /* of them given */
    uint64_t n_budget;              /* of the thought; 0: none */
    uint64_t n_drafted, n_accepted; /* tokens guessed ahead; of them right */
    double gain;    /* seconds without drafts by seconds with them, as estimated; 1: none */
    double logprob; /* sum of the natural logarithms of the sampled tokens' probabilities, the end
                     * token's included, at temperature 1; only with repeat_stop */
} fg_generator_stats;

/* o: as for fg_reply_run; emit or event, and sampler, are needed.  Errors: FG_EINVAL (an option),
 * FG_ENOTSUP (no tokenizer in the file), FG_ENOMEM. */
FG_API fg_status fg_generator_create(fg_generator **out, fg_engine *e, const fg_reply_opts *o,
                                     fg_err *err);
FG_API void fg_generator_destroy(fg_generator **g); /* accepts NULL */

/* A new reply after the n ids, of n_ctx positions in all (0: no limit).  FG_ELIMIT, FG_ENOMEM. */
FG_API fg_status fg_generator_begin(fg_generator *g, const uint32_t *ids, size_t n, uint64_t n_ctx,
                                    fg_err *err);

/* What was returned before is evaluated now: logits [n_vocab] of the last id.  Sends the events of
 * the next ids.  Errors: FG_EDATA (logits; nothing has changed), FG_EINVAL (it has ended),
 * FG_ENOMEM. */
FG_API fg_status fg_generator_step(fg_generator *g, const float *logits, fg_step *out, fg_err *err);

/* Ends the reply: what is held back is told, then STOP with FG_END_CANCEL. */
FG_API void fg_generator_cancel(fg_generator *g);

/* The loop: from where the generator stands (begun or resumed with the session's ids) to the end of
 * the reply.  Errors and *out: fg_reply_run. */
FG_API fg_status fg_generator_run(fg_generator *g, fg_session *s, fg_reply *out, fg_err *err);

/* What the ids do not tell: random state, counters.  For the moment at which `pos` ids are
 * evaluated, which is before or after the ids of the last step; in `poll` and after
 * fg_generator_run that is fg_session_pos.  FG_EINVAL: another pos. */
enum { FG_GENERATOR_STATE = 160 };
FG_API fg_status fg_generator_save(const fg_generator *g, uint64_t pos,
                                   uint8_t state[FG_GENERATOR_STATE], fg_err *err);

/* Goes on with a reply: ids [n] all of the session, of which n_prompt are before the reply.  With
 * the options of before the text goes on as if nothing had happened.  state [n_state] as saved with
 * exactly these ids, after which a reply that was cut off by its length, the context or a cancel
 * can go on; NULL: counters are made of the ids, and the sampler stays as it is.  told: the text so
 * far is sent as events, `replayed`.  *ended (may be NULL): it had come to its end.  Errors:
 * FG_EFORMAT, FG_EVERSION, FG_ECHECKSUM (the state), FG_EINVAL (other ids), those of begin. */
FG_API fg_status fg_generator_resume(fg_generator *g, const uint32_t *ids, size_t n_prompt,
                                     size_t n, uint64_t n_ctx, const uint8_t *state, size_t n_state,
                                     bool told, bool *ended, fg_err *err);

/* Fills *out but for its size. */
FG_API void fg_generator_get_stats(const fg_generator *g, fg_generator_stats *out);

#ifdef __cplusplus
}
#endif

#endif
