/* SPDX-License-Identifier: MIT */
#include "src/cli/confine.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "quant/linalg.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/cli/common.h"
#include "src/cli/help.h"
#include "src/cli/origin.h"
#include "src/cli/planned.h"
#include "src/cli/state_dir.h"
#include "src/expert/fetch.h"
#include "src/plan/card.h"
#include "src/sys/disk.h"
#include "src/sys/sandbox.h"

/* ---- the table ---- */

enum {
    READ = FG_SANDBOX_READ,     /* the file, its parts if it is a model; all below a folder */
    WRITE = FG_SANDBOX_WRITE,   /* the file that is there */
    MAKE = FG_SANDBOX_MAKE,     /* in its folder, or in it if it is one: create, rename, unlink */
    REMOVE = FG_SANDBOX_REMOVE, /* unlink below it */
    BESIDE = 256,               /* read all in its folder */
    FOLDERS = 512,              /* names with commas between them */
    ALWAYS = 1024,              /* `name` is the path itself, which is no operand or option */
    NO_MODEL = 2048,            /* not where it is a model file */
    PINNED = 4096,              /* the user's file of keys, whose folder is made */
    STATE = 8192,               /* where the program keeps what it is asked to keep; made here */
    TREE = FG_SANDBOX_FOLDERS,  /* a session is a folder: rename and remove those below it */
};

enum { RULES = 12 };

typedef struct rule {
    const char *name; /* an operand as the synopsis has it, or an option */
    unsigned rights;  /* 0: no more rules */
    const char *when; /* only with this option; NULL: always */
    const char *path; /* of an option that is not given; NULL: none */
} rule;

typedef struct row {
    const char *command;
    bool rings; /* reads experts, or measures the disk */
    bool card;  /* looks for a card without an option that says so */
    rule rule[RULES];
} row;

#define READS(name)                                                                                \
    {                                                                                              \
        name, READ, NULL, NULL                                                                     \
    }
#define MAKES(name)                                                                                \
    {                                                                                              \
        name, MAKE, NULL, NULL                                                                     \
    }
#define SESSIONS(r)                                                                                \
    {                                                                                              \
        "dir", (r) | STATE, NULL, "sessions"                                                       \
    }
#define IMAGE MAKES("image"), MAKES("predict-save")
#define WITH(flag, n, r)                                                                           \
    {                                                                                              \
        n, r, flag, NULL                                                                           \
    }

static const row rows[] = {
    {"convert",
     false,
     false,
     {READS("SRC_DIR"),
      READS("recipe"),
      READS("sensitivity"),
      READS("calib"),
      MAKES("OUT.fulgur"),
      {"split", MAKE | FOLDERS, NULL, NULL},
      WITH("delete-consumed", "SRC_DIR", REMOVE)}},
    {"synth",
     false,
     false,
     {{"shape", READ | BESIDE, NULL, NULL},
      READS("recipe"),
      READS("tokenizer"),
      MAKES("OUT.fulgur"),
      {"split", MAKE | FOLDERS, NULL, NULL}}},
    {"run",
     true,
     false,
     {READS("MODEL"), READS("file"), READS("key"), MAKES("taps"), READS("predict-model"), IMAGE}},
    {"chat",
     true,
     false,
     {{"/", READ | ALWAYS, NULL, NULL},
      {".", MAKE | ALWAYS, NULL, NULL},
      READS("file"),
      READS("system-file"),
      {"history", MAKE | TREE | STATE, NULL, NULL},
      READS("key"),
      READS("predict-model"),
      IMAGE}},
    {"session list", false, false, {SESSIONS(READ)}},
    {"session rm", false, false, {SESSIONS(READ | WRITE | REMOVE | TREE)}},
    {"session export", false, false, {READS("MODEL"), SESSIONS(READ), MAKES("output")}},
    {"session verify", false, false, {SESSIONS(READ)}},
    {"session strip", false, false, {SESSIONS(READ | WRITE | REMOVE)}},
    {"score",
     true,
     false,
     {READS("MODEL"), READS("TEXT_FILE"), READS("against"), WITH("card", "MODEL", WRITE),
      READS("predict-model"), IMAGE}},
    {"logits",
     true,
     false,
     {READS("MODEL"), READS("ids"), MAKES("out"), READS("predict-model"), IMAGE}},
    {"tokenize", false, false, {READS("MODEL|DIR"), READS("file")}},
    {"info", true, false, {READS("MODEL"), MAKES("plot"), IMAGE}},
    {"verify", false, false, {READS("MODEL"), READS("key"), WITH("add-sha256", "MODEL", WRITE)}},
    {"sign", false, false, {READS("MODEL"), READS("key"), MAKES("MODEL")}},
    {"key", false, false, {READS("KEY_FILE")}},
    {"key new", false, false, {MAKES("NAME")}},
    {"key pin", false, false, {READS("KEY_FILE"), {"PINNED_KEYS", MAKE | PINNED, NULL, NULL}}},
    {"carry", false, false, {{"MODEL|STICK", READ | BESIDE, NULL, NULL}}},
    {"carry pack",
     false,
     false,
     {READS("MODEL"), MAKES("MODEL"), MAKES("STICK"), WITH("move", "MODEL", WRITE)}},
    {"carry unpack", false, false, {MAKES("STICK"), {"out", MAKE, NULL, "."}}},
    {"carry status", false, false, {{"MODEL|STICK", READ | BESIDE, NULL, NULL}}},
    {"bench",
     true,
     false,
     {READS("MODEL"), READS("shapes"), MAKES("csv"), READS("predict-model"), IMAGE}},
    {"sensitivity",
     true,
     false,
     {READS("BASE"), READS("LOW"), READS("TEXT_FILE"), MAKES("output")}},
    {"plan",
     true,
     false,
     {{"MODEL|DIR|config.json", READ | BESIDE, NULL, NULL},
      READS("recipe"),
      READS("topology"),
      {"MODEL|DIR|config.json", MAKE | NO_MODEL, NULL, NULL}}},
    {"doctor", true, true, {READS("topology"), MAKES("dir")}},
    {"numa",
     true,
     false,
     {{"MODEL|DIR|config.json", READ | BESIDE, NULL, NULL},
      READS("recipe"),
      READS("topology"),
      {"csv", MAKE, NULL, "numa.csv"},
      MAKES("svg")}},
    {"trace",
     true,
     false,
     {READS("MODEL"), READS("TEXT_FILE"), MAKES("out"), WITH("heat", "MODEL", WRITE),
      READS("predict-model"), IMAGE}},
    {"trace replay", false, false, {READS("TRACE"), {"predict-model", READ | FOLDERS, NULL, NULL}}},
    {"factor train",
     false,
     false,
     {READS("RATINGS"), WITH("trace", "RATINGS", READ | FOLDERS), READS("valid"), READS("test"),
      MAKES("out"), MAKES("save-split")}},
    {"factor predict", false, false, {READS("FACTORS"), READS("PAIRS"), READS("test")}},
    {"factor export", false, false, {READS("FACTORS"), MAKES("DIR")}},
    {"factor compare", false, false, {READS("RATINGS"), MAKES("plot")}},
};
enum { N_ROW = sizeof rows / sizeof rows[0] };

/* What the system's own libraries look at, in every command. */
static const struct {
    const char *path;
    unsigned rights;
} everywhere[] = {
    {"/proc", READ},
    {"/sys", READ},
    {"/dev/null", READ | WRITE},
    {"/dev/zero", READ | WRITE},
    {"/dev/urandom", READ},
    {"/dev/tty", READ | WRITE | FG_SANDBOX_DEVICE},
    {"/etc/localtime", READ},
    {"/usr/share/zoneinfo", READ},
    {"/usr/lib/locale", READ},
    {"/usr/share/locale", READ},
    {"/etc/terminfo", READ},
    {"/lib/terminfo", READ},
    {"/usr/share/terminfo", READ},
};

/* What a card's driver opens besides, when there is one. */
static const struct {
    const char *path;
    unsigned rights;
} of_card[] = {
    {"/dev", READ | WRITE | FG_SANDBOX_DEVICE},
    {"/dev/shm", READ | MAKE},
    {"/etc", READ},
    {"/usr", READ},
    {"/lib", READ},
    {"/lib64", READ},
    {"/opt", READ},
    {"/run", READ | WRITE},
    {"/var", READ},
    {"/tmp", READ | MAKE},
};

/* ---- paths ---- */

/* The folder that path is in. */
static void folder_of(const char *path, char out[PATH_MAX])
{
    (void)snprintf(out, PATH_MAX, "%s", path);
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') out[--n] = '\0';
    char *slash = strrchr(out, '/');
    if (slash == NULL) {
        memcpy(out, ".", 2);
    } else {
        slash[slash == out ? 1 : 0] = '\0';
    }
}

/* Where the links of a folder lead, as a downloader's cache has them: later ones lead there too. */
static void allow_targets(fg_sandbox *s, const char *folder)
{
    char path[PATH_MAX], target[PATH_MAX], home[PATH_MAX], last[PATH_MAX] = "";
    DIR *d = opendir(folder);
    if (d == NULL) fg_sandbox_note(s, errno);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        struct stat sb;
        const int n = snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (n < 0 || n >= PATH_MAX || lstat(path, &sb) != 0 || !S_ISLNK(sb.st_mode)) continue;
        if (realpath(path, target) == NULL) continue;
        folder_of(target, home);
        if (strcmp(home, last) != 0) (void)fg_sandbox_allow(s, home, READ);
        memcpy(last, home, sizeof last);
    }
    if (d != NULL) (void)closedir(d);
}

/* A model's parts and signature stand beside it, as files or as links; *n_file counts what may be
 * read. */
static void allow_file(fg_sandbox *s, const char *path, unsigned rights, uint32_t *n_file)
{
    char part[PATH_MAX], home[PATH_MAX];
    *n_file += fg_sandbox_allow(s, path, rights);
    for (unsigned k = 1; k < FG_MAX_PART; k++) {
        const int n = snprintf(part, sizeof part, "%s.%u", path, k);
        if (n < PATH_MAX) *n_file += fg_sandbox_allow(s, part, rights);
    }
    const int n = snprintf(part, sizeof part, "%s.sig", path); /* its signature */
    if (n < PATH_MAX && (rights & READ)) (void)fg_sandbox_allow(s, part, READ);
    folder_of(path, home);
    (void)fg_sandbox_allow(s, home, FG_SANDBOX_LIST);
}

/* A path that is written anew: in its folder, through a link also in that of the file; a device or
 * a pipe is written to. */
static void allow_made(fg_sandbox *s, const char *path)
{
    struct stat sb;
    char home[PATH_MAX], target[PATH_MAX], part[PATH_MAX];
    const bool there = stat(path, &sb) == 0;
    if (there && !S_ISREG(sb.st_mode)) {
        (void)fg_sandbox_allow(s, path, S_ISDIR(sb.st_mode) ? READ | MAKE : READ | WRITE);
        return;
    }
    folder_of(path, home);
    (void)fg_sandbox_allow(s, home, READ | MAKE);
    for (unsigned k = 0; k < FG_MAX_PART;
         k++) { /* itself, and parts of a conversion that goes on */
        const int n = k == 0 ? snprintf(part, sizeof part, "%s", path)
                             : snprintf(part, sizeof part, "%s.%u", path, k);
        if (n >= PATH_MAX || realpath(part, target) == NULL) continue;
        folder_of(target, home);
        (void)fg_sandbox_allow(s, home, READ | MAKE);
    }
}

static void allow_path(fg_sandbox *s, const char *path, unsigned rights, uint32_t *n_file)
{
    char home[PATH_MAX];
    if (rights & MAKE) {
        if (!(rights & NO_MODEL) || !planned_is_model(path)) allow_made(s, path);
        return;
    }
    allow_file(s, path, rights & (READ | WRITE | REMOVE), n_file);
    if (!(rights & READ)) return;
    allow_targets(s, path);
    if (!(rights & BESIDE)) return;
    folder_of(path, home);
    (void)fg_sandbox_allow(s, home, READ);
    allow_targets(s, home);
}

static void allow_list(fg_sandbox *s, const char *list, unsigned rights, uint32_t *n_file)
{
    char one[PATH_MAX];
    while (*list != '\0') {
        const size_t n = strcspn(list, ",");
        if (n < sizeof one) {
            memcpy(one, list, n);
            one[n] = '\0';
            allow_path(s, one, rights, n_file);
        }
        list += n + (list[n] == ',');
    }
}

/* Folders with colons between them, of a variable. */
static void allow_variable(fg_sandbox *s, const char *name)
{
    char one[PATH_MAX];
    const char *list = getenv(name);
    while (list != NULL && *list != '\0') {
        const size_t n = strcspn(list, ":");
        if (n > 0 && n < sizeof one) {
            memcpy(one, list, n);
            one[n] = '\0';
            (void)fg_sandbox_allow(s, one, READ);
        }
        list += n + (list[n] == ':');
    }
}

static void allow_home(fg_sandbox *s, const char *name)
{
    char path[PATH_MAX];
    const char *home = getenv("HOME");
    if (home == NULL || home[0] != '/') return;
    const int n = snprintf(path, sizeof path, "%s/%s", home, name);
    if (n < PATH_MAX) (void)fg_sandbox_allow(s, path, READ);
}

/* ---- a command line ---- */

typedef struct line {
    const command *c;
    const opt *opts;
    int n_opt;
    const char *const *operands;
    int n_operand;
} line;

static const opt *find_option(const line *l, const char *name)
{
    for (int i = 0; i < l->n_opt; i++) {
        if (strcmp(l->opts[i].name, name) == 0) return &l->opts[i];
    }
    return NULL;
}

/* The operand that the synopsis calls so. */
static const char *find_operand(const line *l, const char *name)
{
    const char *at = l->c->synopsis;
    for (int i = 0; i < l->n_operand; i++) {
        const size_t n = strcspn(at, " ");
        if (n == strlen(name) && strncmp(at, name, n) == 0) return l->operands[i];
        at += n;
        at += strspn(at, " ");
    }
    return NULL;
}

static bool is_given(const line *l, const char *flag)
{
    const opt *o = find_option(l, flag);
    return o != NULL && o->kind == OPT_FLAG && *(const bool *)o->value;
}

/* The folder of that name where the program keeps things; NULL: there is none, so nothing in it. */
static const char *state_folder(const char *name)
{
    static char path[PATH_MAX];
    char *in_it;
    if (cli_state_path(&in_it, name, NULL) != FG_OK) return NULL;
    (void)snprintf(path, sizeof path, "%s", in_it);
    fg_mem_free(in_it);
    return fg_io_exists(path) ? path : NULL;
}

/* A conversation may be kept at any time (/save): a rule is for what is there, so the folder is
 * made, and goes again if nothing was kept.  One message with its answer is not kept. */
static const char *chat_folder(const line *l)
{
    const opt *prompt = find_option(l, "prompt"), *file = find_option(l, "file");
    const bool one =
        *(const char *const *)prompt->value != NULL || *(const char *const *)file->value != NULL;
    return one ? NULL : cli_state_hold();
}

/* pinned: path of the user's keys, NULL: there is none. */
static const char *path_of(const line *l, const rule *r, const char *pinned)
{
    const opt *o = find_option(l, r->name);
    if ((r->rights & STATE) && r->path != NULL) { /* of --dir */
        const char *given = o == NULL ? NULL : *(const char *const *)o->value;
        return given != NULL ? given : state_folder(r->path);
    }
    if (r->rights & STATE) return chat_folder(l);
    if (r->rights & PINNED) return pinned;
    if (r->rights & ALWAYS) return r->name;
    if (o == NULL || o->kind != OPT_STR) return find_operand(l, r->name);
    const char *text = *(const char *const *)o->value;
    return text == NULL ? r->path : text;
}

/* An option with a text that the row does not name, and that may be a file: it is read. */
static void allow_unnamed(fg_sandbox *s, const line *l, const row *w, uint32_t *n_file)
{
    for (int i = 0; i < l->n_opt; i++) {
        const opt *o = &l->opts[i];
        bool named = !help_is_path(o);
        for (int k = 0; k < RULES && w->rule[k].rights != 0; k++) {
            named = named || strcmp(w->rule[k].name, o->name) == 0;
        }
        if (named || o->kind == OPT_LIST) {
            const opt_list *list = named ? NULL : o->value;
            for (size_t k = 0; list != NULL && k < list->n; k++) {
                allow_path(s, list->text[k], READ, n_file);
            }
            continue;
        }
        const char *text = *(const char *const *)o->value;
        if (text != NULL) allow_path(s, text, READ, n_file);
    }
}

/* Whether a card's driver was loaded; it is looked for where the command would. */
static bool has_card(const line *l, const row *w)
{
    const opt *o = find_option(l, "gpu");
    bool wanted = w->card;
    if (o != NULL && o->kind == OPT_GPU) wanted = *(const int32_t *)o->value != FG_GPU_OFF;
    if (o != NULL && o->kind == OPT_FLAG) wanted = *(const bool *)o->value;
    return wanted && fg_gpu_expected();
}

static uint32_t allow_all(fg_sandbox *s, const line *l, const row *w)
{
    uint32_t n_file = 0;
    for (size_t i = 0; i < sizeof everywhere / sizeof everywhere[0]; i++) {
        (void)fg_sandbox_allow(s, everywhere[i].path, everywhere[i].rights);
    }
    allow_variable(s, "TERMINFO");
    allow_variable(s, "TERMINFO_DIRS");
    allow_variable(s, "LOCPATH");
    allow_home(s, ".editrc");
    allow_home(s, ".terminfo");
    char *pinned = origin_pinned_path(NULL);
    if (pinned != NULL) (void)fg_sandbox_allow(s, pinned, READ);
    for (int k = 0; k < RULES && w->rule[k].rights != 0; k++) {
        const rule *r = &w->rule[k];
        const char *path = path_of(l, r, pinned);
        if (path != NULL && (r->rights & PINNED)) cli_make_folders(pinned);
        if (path == NULL || (r->when != NULL && !is_given(l, r->when))) continue;
        if (r->rights & STATE) {
            (void)fg_sandbox_allow(s, path, r->rights & (READ | WRITE | MAKE | REMOVE | TREE));
            const char *above = r->path == NULL ? cli_state_above() : NULL;
            if (above != NULL) (void)fg_sandbox_allow(s, above, TREE); /* empty ones go */
            continue;
        }
        if (r->rights & FOLDERS) allow_list(s, path, r->rights, &n_file);
        if (!(r->rights & FOLDERS)) allow_path(s, path, r->rights, &n_file);
    }
    allow_unnamed(s, l, w, &n_file);
    fg_mem_free(pinned);
    return n_file;
}

/* A rule that could not be made would be a file that is "denied" later, and no rules at all would
 * be no sandbox: neither is what the limit was set for. */
static fg_status fail_scarce(int why, fg_err *err)
{
    struct rlimit limit;
    if (why != EMFILE || getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return fg_fail(err, FG_EIO, "sandbox: %s, expected to make its rules", strerror(why));
    }
    return fg_fail(err, FG_EIO, "open files: all %llu in use, expected a higher limit (ulimit -n)",
                   (unsigned long long)limit.rlim_cur);
}

fg_status confine(const command *c, const opt *opts, int n_opt, const char *const *operands,
                  int n_operand, fg_err *err)
{
    const line l = {c, opts, n_opt, operands, n_operand};
    const row *w = NULL;
    for (int i = 0; i < N_ROW; i++) {
        if (strcmp(rows[i].command, c->name) == 0) w = &rows[i];
    }
    if (args_no_sandbox()) {
        cli_note("fulgur: no sandbox: any file may be opened and any system call made\n");
        return FG_OK;
    }
    if (w == NULL) return FG_OK;
    const opt *calib = find_option(&l, "calib");
    if (calib != NULL && *(const char *const *)calib->value != NULL) (void)fg_linalg_init(1, NULL);
    const bool card = has_card(&l, w);
    fg_sandbox s;
    fg_sandbox_begin(&s);
    const uint32_t n_file = allow_all(&s, &l, w);
    for (size_t i = 0; card && i < sizeof of_card / sizeof of_card[0]; i++) {
        (void)fg_sandbox_allow(&s, of_card[i].path, of_card[i].rights);
    }
    if (card) allow_variable(&s, "LD_LIBRARY_PATH");
    if (s.why != 0) return fail_scarce(s.why, err);
    if (w->rings) fg_fetch_reserve(n_file + 1);
    int why;
    if (w->rings) (void)fg_disk_has_uring(&why); /* and doctor wants to know */
    fg_sandbox_enter(&s, card ? FG_SANDBOX_SERVICES : 0);
    if (s.missing[0] != '\0') cli_note("fulgur: sandbox: %s\n", s.missing);
    return FG_OK;
}

/* ---- as text ---- */

/* "SRC_DIR, --recipe" of the rules with one of these rights; empty: none has. */
static void list_rules(const row *w, unsigned rights, char *out, size_t size)
{
    size_t at = 0;
    out[0] = '\0';
    for (int k = 0; k < RULES && w->rule[k].rights != 0 && at < size; k++) {
        const rule *r = &w->rule[k];
        if (!(r->rights & rights)) continue;
        const bool is_option = r->name[0] >= 'a' && r->name[0] <= 'z' && !(r->rights & STATE);
        const char *folder =
            !(r->rights & MAKE) || (r->rights & (FOLDERS | ALWAYS | STATE)) ? "" : "folder of ";
        const char *name = strcmp(r->name, "/") == 0   ? "every file that a person may name"
                           : strcmp(r->name, ".") == 0 ? "the working folder"
                           : !(r->rights & STATE)      ? r->name
                           : r->path != NULL           ? "the folder of sessions, or --dir"
                                                       : "the folder of history and sessions";
        const int n =
            snprintf(out + at, size - at, "%s%s%s%s%s%s%s", at == 0 ? "" : ", ", folder,
                     is_option ? "--" : "", name, r->rights & NO_MODEL ? " (no model)" : "",
                     r->when == NULL ? "" : " with --", r->when == NULL ? "" : r->when);
        at += n > 0 ? (size_t)n : 0;
    }
}

void confine_print(void)
{
    static const struct {
        const char *what;
        unsigned rights;
    } columns[] = {{"reads", READ}, {"writes", WRITE}, {"makes", MAKE}, {"removes", REMOVE}};
    char text[512];
    for (int i = 0; i < N_ROW; i++) {
        printf("%s\n", rows[i].command);
        for (size_t k = 0; k < sizeof columns / sizeof columns[0]; k++) {
            list_rules(&rows[i], columns[k].rights, text, sizeof text);
            if (text[0] == '\0') continue;
            printf("    %-10s", columns[k].what);
            help_put(text, strlen(text), 14, 14);
        }
        printf("    %-10snone\n    %-10snone\n", "programs", "network");
    }
}
