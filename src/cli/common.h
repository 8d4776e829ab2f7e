/* SPDX-License-Identifier: MIT
 *
 * What the commands share: error lines, progress on stderr, opening a model, reading text, and the
 * generation loop of run and chat.
 */
#ifndef FG_SRC_CLI_COMMON_H
#define FG_SRC_CLI_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "src/base/buf.h"
#include "src/cli/args.h"
#include "src/cli/signals.h"
#include "src/engine/session.h"

/* Prints "fulgur: <message>" and returns EXIT_FAILED. */
int cli_fail(const fg_err *err);

/* What was collected goes to standard output, and is freed; FG_ENOMEM when there was no room to
 * collect it. */
fg_status print_buf(fg_buf *b, fg_err *err);

/* The same as the file at path, through a temporary one; b is left alone. */
fg_status write_buf(const fg_buf *b, const char *path, fg_err *err);

/* After a write to standard output, whether it was good: which is returned, and if not, errno is
 * remembered for the message at the end. */
bool cli_wrote(bool good);
/* Flushes stdout; false: something could not be written, now or before. */
bool cli_flush(void);
/* The same at the end of a command; EXIT_FAILED with a message that has the first reason. */
int cli_finish_stdout(void);
/* The same of one that has made the file `path`: whatever becomes of its report, it has not failed,
 * and there is a warning instead. */
int cli_finish_made(const char *who, const char *path);

/* Text that the program did not make (a model's, a file's) on standard output: as it is, and on a
 * terminal with what the terminal would act on written out (fg_utf8_put_shown).  False: not
 * written. */
bool cli_write(const char *text, size_t n);
/* The same for a name inside a line, in one of 4 rotating static buffers. */
const char *cli_shown(const char *s);

/* A notice on stderr: as printf, and nothing with --quiet. */
void cli_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Of fg_io_on_slow: a note. */
void cli_say_slow(const char *path, uint64_t seconds);

/* fd is a terminal that knows escape sequences (TERM is not dumb); and may have colours and the
 * like (NO_COLOR is not set). */
bool cli_is_screen(int fd);
bool cli_has_style(int fd);

/* Progress line on stderr, redrawn at most ten times a second on a terminal; elsewhere a line every
 * ten minutes; not with --quiet. */
typedef struct progress {
    const char *what; /* "convert" */
    const char *unit; /* "B" prints sizes, else counts */
    uint64_t start_ns, last_ns;
    uint64_t logged_ns; /* of the last line where there is no terminal */
    uint64_t from;      /* of done: what was there at the start, no part of the rate */
    bool on;            /* stderr is a terminal */
    bool drawn;
    char note[96]; /* extra text, e.g. a running estimate; empty: none */
} progress;
void progress_start(progress *p, const char *what, const char *unit);
/* Always true unless the user interrupted (SIGINT). */
bool progress_show(void *progress, uint64_t done, uint64_t total);
void progress_end(progress *p); /* clears the line */

/* Where standard error is no terminal, a line every ten minutes says how far it is.  True when one
 * is due at now_ns (fg_clock_ns) and the time of day `wall`; text is filled then. */
bool progress_log(progress *p, uint64_t now_ns, time_t wall, uint64_t done, uint64_t total,
                  char *text, size_t size);

/* A line "WHO: warning: TEXT" on stderr, which may cross a progress line. */
void cli_warn(const char *who, const char *text);
/* Says on stderr what of a text is not UTF-8, if anything is. */
void cli_tell_utf8(const char *who, const char *name, const char *text, size_t n);

/* The texts of src/base/units.h for printf, in one of CLI_KEPT static buffers that take turns: of
 * files and rates ("1.23 GB"), of memory ("1.23 GiB"), and of counts ("1,234,567"). */
enum { CLI_KEPT = 8 };
const char *cli_bytes(double bytes);
const char *cli_memory(double bytes);
const char *cli_count(uint64_t n);

/* The same, "unknown" for UINT64_MAX. */
const char *cli_known_memory(uint64_t bytes);

/* Threads and kernels, also of a run that is only planned. */
#define THREAD_OPTS(o)                                                                             \
    {"threads", 't',                                                                               \
     OPT_U32,   &(o).n_thread,                                                                     \
     1,         1024,                                                                              \
     "N",       "threads (default: physical cores; to generate, as many of them as are fastest)"}, \
    {                                                                                              \
        "cpu", 0, OPT_CHOICE, CHOICE((o).cpu, fg_cpu_level_name, FG_CPU_LEVEL_COUNT), 0, 0,        \
            "LEVEL", "highest kernel level to use"                                                 \
    }

/* Options of every command that opens a model; paste with ENGINE_OPTS. */
#define ENGINE_OPTS(o)                                                                             \
    THREAD_OPTS(o),                                                                                \
    {                                                                                              \
        "threads-prefill", 0, OPT_U32, &(o).n_thread_prefill, 1, 1024, "N",                        \
            "threads for prompts (default: as --threads)"                                          \
    }

/* Which nodes have what; paste after ENGINE_OPTS. */
#define NODE_OPTS(o)                                                                               \
    {"numa", 0, OPT_CHOICE, CHOICE((o).numa, fg_numa_name, FG_NUMA_COUNT),                         \
     0,      0, "POLICY",   "which NUMA node has which weights"},                                  \
    {                                                                                              \
        "nodes", 0, OPT_U32, &(o).n_node, 1, 64, "N", "NUMA nodes to use (default: all)"           \
    }

/* The same and where weights lie. */
#define NUMA_OPTS(o)                                                                               \
    NODE_OPTS(o),                                                                                  \
        {"residency", 0, OPT_CHOICE, CHOICE((o).residency, fg_residency_name, FG_RESIDENCY_COUNT), \
         0,           0, "HOME",     "where weights are without --ram"},                           \
        {"measure-nodes",                                                                          \
         0,                                                                                        \
         OPT_FLAG,                                                                                 \
         &(o).measure_nodes,                                                                       \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         "parts of nodes by the bandwidth of each, not by its cores"},                             \
        {"pages", 0, OPT_CHOICE, CHOICE((o).pages, fg_pages_name, FG_PAGES_COUNT),                 \
         0,       0, "KIND",     "with --residency copy, pages of the weights"},                   \
    {                                                                                              \
        "image", 0, OPT_STR, &(o).image, 0, 0, "FILE",                                             \
            "with --residency shared, on hugetlbfs or tmpfs; made when it is not there"            \
    }

/* Name of a policy that a run can have; NULL for one of replays only. */
const char *cli_policy_name(fg_policy policy);

/* Options of the commands that run a model within a bound of memory; paste after ENGINE_OPTS. */
#define STREAM_OPTS(o)                                                                             \
    {"ram",    0,                                                                                  \
     OPT_SIZE, &(o).ram_bytes,                                                                     \
     0,        0,                                                                                  \
     "SIZE",   "memory to use, e.g. 24G: experts are read on demand (default: map the file)"},     \
        {"policy", 0, OPT_CHOICE, CHOICE((o).policy, cli_policy_name, FG_POLICY_COUNT),            \
         0,        0, "NAME",     "with --ram, which experts stay"},                               \
        {"predict", 0, OPT_CHOICE, CHOICE((o).predict, fg_predict_name, FG_PREDICT_COUNT),         \
         0,         0, "NAME",     "with --ram, by what to read ahead"},                           \
        {"ahead", 0,                                                                               \
         OPT_U32, &(o).ahead,                                                                      \
         1,       FG_PREDICT_AHEAD,                                                                \
         "N",     "with --ram, for how many layers (default: 2)"},                                 \
        {"predict-model",                                                                          \
         0,                                                                                        \
         OPT_STR,                                                                                  \
         &(o).predict_model,                                                                       \
         0,                                                                                        \
         0,                                                                                        \
         "FILE",                                                                                   \
         "with --predict factor, what it begins with, of fulgur factor train --trace"},            \
        {"predict-save",                                                                           \
         0,                                                                                        \
         OPT_STR,                                                                                  \
         &(o).predict_save,                                                                        \
         0,                                                                                        \
         0,                                                                                        \
         "FILE",                                                                                   \
         "with --predict factor, keep there what this run teaches it"},                            \
    {                                                                                              \
        "io", 0, OPT_CHOICE, CHOICE((o).io, fg_io_name, FG_IO_COUNT), 0, 0, "NAME",                \
            "with --ram, how they are read"                                                        \
    }

/* The card; of commands whose options begin with cli_engine_opts(). */
#define GPU_OPTS(o)                                                                                \
    {"gpu", 0, OPT_GPU,      &(o).gpu,                                                             \
     0,     0, "auto|off|N", "card that does the dense parts and some experts (default: auto)"},   \
    {                                                                                              \
        "gpu-mem", 0, OPT_SIZE, &(o).gpu_bytes, 0, 0, "SIZE",                                      \
            "memory of the card to use, e.g. 40G (default: what is free)"                          \
    }

/* fg_engine_opts_default, and a card if there is one that can be used. */
fg_engine_opts cli_engine_opts(void);
/* For a command that prints JSON: why there is no card is told nobody who did not ask for one. */
void cli_gpu_silent(fg_engine_opts *o);

/* What the manual pages say of it. */
#define GPU_ABOUT                                                                                  \
    "\nWith `--gpu` a card does attention, norms, routers and the head, and the experts that fit " \
    "into its memory; the others stay with the processor. `auto` is the first card if it can be "  \
    "used, and says in a line why one that is there cannot; a number is that card or an error. "   \
    "The answers are the same in every bit. Nothing of CUDA is needed but the driver, which is "   \
    "opened when a card is asked for, and never with `off`."

/* What the manual pages say of homes. */
#define NUMA_ABOUT                                                                                 \
    "\n`--residency auto` is `map`, the file in the page cache: a copy is read from the disk "     \
    "anew each time, and only `fulgur doctor` knows whether it pays here. `copy` reads the "       \
    "weights into memory of the process, each NUMA node's part into its own. `shared` does so "    \
    "in a file on tmpfs or hugetlbfs, `--image`, readable by its owner alone, which later runs "   \
    "of the same model, nodes and policy find and open at once; it stays until it is deleted, "    \
    "and what it holds is trusted. Parts of nodes follow their cores, so that they are the same "  \
    "each time; `--measure-nodes` is for nodes that read less, or more, than their cores say."

/* What the manual pages of these commands say of it. */
#define STREAM_ABOUT                                                                               \
    "With `--ram` the weights that every token needs are kept in memory, and experts are read "    \
    "on demand, past the page cache. `--policy` says which experts stay: `lru`, `lfu`, or "        \
    "`pin`, the hottest of the heat map that `fulgur trace --heat` puts into the file. "           \
    "`--predict` says by what the next ones are read ahead: by default the routers of the next "   \
    "two layers (`--ahead`), run on the state of this one; `factor` goes by which experts the "    \
    "tokens of a text use (`--predict-model`, of `fulgur factor train --trace`; "                  \
    "`--predict-save` keeps what this run learns), `router+factor` by the better of both. "        \
    "Nothing of it changes a result; each is tried now and then, and is on while it saves time. "  \
    "`fulgur trace replay` compares them. What a card multiplies by takes no room."

/* The key-value cache of a session; kv is a fg_kv_choice. */
#define CACHE_OPT(kv)                                                                              \
    {                                                                                              \
        "cache-type", 0, OPT_CHOICE, CHOICE(kv, fg_kv_choice_name, FG_KV_CHOICE_COUNT), 0, 0,      \
            "TYPE", "key-value cache"                                                              \
    }

/* Sampling and limits of a generation. */
typedef struct gen_opts {
    uint64_t n_predict; /* tokens at most */
    fg_sampler_opts sampler;
    bool special;    /* print markup tokens */
    bool ignore_eos; /* go on after the end-of-sentence token */
    bool goes_on;    /* the last token is evaluated too: the conversation continues after it */
    uint64_t think_budget;
    const char *think_message;
    opt_list stop, bias;
    bool no_repeat_stop;
    int32_t draft;
} gen_opts;
gen_opts gen_opts_default(void);
#define GEN_OPTS(o, n_usual)                                                                       \
    {"n-predict", 'n',  OPT_U64, &(o).n_predict,                                                   \
     0,           1e15, "N",     "tokens to generate at most (default: " n_usual ")"},             \
        {"budget", 0,    OPT_TOKENS, &(o).n_predict,                                               \
         0,        1e15, "N",        "the same; thousands may be written 80k"},                    \
        {"temp", 0, OPT_F64, &(o).sampler.temp, 0, 100, "T", "temperature (default: 1)"},          \
        {"temperature", 0, OPT_F64, &(o).sampler.temp, 0, 100, "T", "the same"},                   \
        {"top-p", 0, OPT_F64, &(o).sampler.top_p, 0, 1, "P", "nucleus size (default: 0.95)"},      \
        {"top-k", 0,   OPT_U32, &(o).sampler.top_k,                                                \
         0,       1e9, "K",     "best tokens kept; 0: all (default)"},                             \
        {"min-p", 0, OPT_F64, &(o).sampler.min_p,                                                  \
         0,       1, "P",     "least share of the best token (default: 0)"},                       \
        {"repeat-penalty",                                                                         \
         0,                                                                                        \
         OPT_F64,                                                                                  \
         &(o).sampler.repeat,                                                                      \
         0.01,                                                                                     \
         100,                                                                                      \
         "X",                                                                                      \
         "divides logits of tokens that prompt or reply have (default: 1, off)"},                  \
        {"presence-penalty",                                                                       \
         0,                                                                                        \
         OPT_F64,                                                                                  \
         &(o).sampler.presence,                                                                    \
         -2,                                                                                       \
         2,                                                                                        \
         "X",                                                                                      \
         "subtracted for a token that the reply has (default: 0)"},                                \
        {"frequency-penalty",                                                                      \
         0,                                                                                        \
         OPT_F64,                                                                                  \
         &(o).sampler.frequency,                                                                   \
         -2,                                                                                       \
         2,                                                                                        \
         "X",                                                                                      \
         "and for each time that it has it (default: 0)"},                                         \
        {"logit-bias",                                                                             \
         0,                                                                                        \
         OPT_LIST,                                                                                 \
         &(o).bias,                                                                                \
         0,                                                                                        \
         0,                                                                                        \
         "ID=X",                                                                                   \
         "added to the logit of a token; may be repeated"},                                        \
        {"stop", 0, OPT_LIST, &(o).stop,                                                           \
         0,      0, "TEXT",   "ends the answer where it would appear; may be repeated"},           \
        {"think-budget",                                                                           \
         0,                                                                                        \
         OPT_TOKENS,                                                                               \
         &(o).think_budget,                                                                        \
         0,                                                                                        \
         1e15,                                                                                     \
         "N",                                                                                      \
         "tokens of thought at most; 0: no limit (default: -n less 4096)"},                        \
        {"think-message",                                                                          \
         0,                                                                                        \
         OPT_STR,                                                                                  \
         &(o).think_message,                                                                       \
         0,                                                                                        \
         0,                                                                                        \
         "TEXT",                                                                                   \
         "last line of a thought that is cut by its budget"},                                      \
        {"no-repeat-stop",                                                                         \
         0,                                                                                        \
         OPT_FLAG,                                                                                 \
         &(o).no_repeat_stop,                                                                      \
         0,                                                                                        \
         0,                                                                                        \
         NULL,                                                                                     \
         "go on after 3,000 tokens that each were all but certain"},                               \
        {"draft",                                                                                  \
         0,                                                                                        \
         OPT_DRAFT,                                                                                \
         &(o).draft,                                                                               \
         0,                                                                                        \
         FG_DRAFT_MAX,                                                                             \
         "auto|off|N",                                                                             \
         "tokens guessed from earlier text and checked together (default: auto)"},                 \
    {                                                                                              \
        "seed", 's', OPT_U64, &(o).sampler.seed, 0, 9e15, "S", "random seed (default: 0)"          \
    }

/* What the manual pages say of it. */
#define GEN_ABOUT                                                                                  \
    "\nA thought, where a reply begins with one, is closed at `--think-budget`, at the next end "  \
    "of "                                                                                          \
    "a line, so that an answer still comes; nothing is sampled for it. A reply that "              \
    "repeats itself, 3,000 tokens in a row each above a probability of 0.99, ends, or its "        \
    "thought is closed; text copied from the prompt, or by an answer from its thought, does "      \
    "not count. Text that has stood before is guessed to come again, and guesses are checked "     \
    "in one pass: that changes the speed and never the text, and with `--draft auto` it goes "     \
    "off while it does not pay."

/* The same for the library.  o is borrowed, and so are its texts; emit or event are left to the
 * caller. */
fg_reply_opts gen_reply_opts(const gen_opts *o, fg_sampler *sampler);
/* fg_engine_sampler with the bias of o, which is checked. */
fg_status gen_sampler(fg_engine *e, const gen_opts *o, fg_sampler **out, fg_err *err);
/* The line, without its end, for a thought that was closed or a reply that was ended without being
 * asked; NULL: none. */
const char *gen_notice(const fg_event *e);

typedef struct gen_stats {
    uint64_t n_prompt;
    double prompt_s;
    fg_reply reply;
    fg_generator_stats more;
} gen_stats;

/* Evaluates the prompt, showing progress when it is long; SIGINT stops it with FG_ECANCEL. */
fg_status eval_prompt(fg_session *s, const fg_ids *prompt, fg_err *err);

/* Evaluates the prompt and generates until SIGINT at the latest.  What ends it early is told in a
 * line on stderr. */
typedef bool emit_fn(void *ctx, fg_think_part part, const char *text, size_t n);
fg_status generate(fg_session *s, fg_sampler *sampler, const fg_ids *prompt, const gen_opts *o,
                   emit_fn *emit, void *ctx, gen_stats *stats, fg_err *err);

/* Before a run of n_predict tokens whose speed will be printed: what reading memory reaches now.
 * Nothing is measured for a few tokens, or with experts read on demand: then the disk is the limit,
 * and the bound has no room for the measurement. */
void measure_read(fg_engine *e, uint64_t n_predict);

/* For a poll: false after SIGINT. */
bool cli_goes_on(void *ctx);

/* One line on stderr: tokens and rates of both phases, weight bytes per token, GB/s, and after
 * measure_read their share of what reading memory reached then and reaches now (over 100 % means
 * that weights stayed in the cache). */
void print_speed(fg_engine *e, const gen_stats *g);

/* With --ram, one line on stderr: experts in memory, hits, bytes and rate of reading. */
void print_store(fg_engine *e);

/* fg_engine_open; what the engine has to note is a line on stderr, unless opts has a note. */
fg_status open_engine(fg_engine **e, const char *path, const fg_engine_opts *opts, fg_err *err);

/* Before a figure is given out or stored: fg_engine_check, with a line of progress when it has to
 * read.  SIGINT stops it with FG_ECANCEL. */
fg_status check_engine(fg_engine *e, fg_err *err);

/* One line on stderr when less than the machine's memory may be had: what is measured keeps within
 * it. */
void say_memory_limit(void);

/* Tokenizer from a model file or from a folder with tokenizer.json.  *owned is destroyed by the
 * caller with fg_tokenizer_destroy. */
fg_status open_tokenizer(const char *path, fg_tokenizer **owned, fg_err *err);

/* Whole file, pipe or device, or standard input for "-", of at most 256 MiB; NUL-terminated; freed
 * with fg_mem_free. */
fg_status read_text(const char *path, char **text, size_t *n, fg_err *err);

/* fg_tok_state_create, and fg_tokenizer_encode with one, that SIGINT stops (FG_ECANCEL). */
fg_status open_encoder(const fg_tokenizer *t, fg_tok_state **s, fg_err *err);
fg_status encode_text(const fg_tokenizer *t, const char *text, size_t n, bool special, fg_ids *ids,
                      fg_err *err);

/* A device, or what is below /dev and may lead to a pipe: written to as it is.  Not a named pipe,
 * which opens when somebody reads it, and no signal ends the wait. */
bool is_stream(const char *out);

/* Before any work, of a file that is written anew (NULL: none): fg_io_check_output; FG_EINVAL when
 * `out` is one of the n files that are read (NULL: none), through links too, and, where it holds
 * long work and force is not given, when it exists. */
fg_status check_output(const char *out, bool force, const char *const *in, size_t n, fg_err *err);
#define FORCE_OPT(force)                                                                           \
    {                                                                                              \
        "force", 0, OPT_FLAG, &(force), 0, 0, NULL, "replace the output file when it exists"       \
    }

/* Appends decimal ids separated by white space, commas or brackets; n bytes, `name` for errors. */
fg_status parse_ids(const char *text, size_t n, const char *name, fg_ids *ids, fg_err *err);

#endif
