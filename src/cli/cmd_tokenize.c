/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/cli/commands.h"
#include "src/cli/common.h"

static int run(int argc, char **argv);

const command cmd_tokenize = {
    .name = "tokenize",
    .summary = "text to token ids and back",
    .synopsis = "MODEL|DIR",
    .example = "fulgur tokenize m1.fulgur -p 'Hello, world!'\n"
               "fulgur tokenize MiniMax-M1-80k -f book.txt --json\n"
               "fulgur tokenize m1.fulgur --decode -p '1 2 3'",
    .description =
        "Prints the token ids of a text, or with `--decode` the text of ids. The operand is a "
        "model file or a folder with tokenizer.json. Without `-p` and `-f` the text is read "
        "from standard input.",
    .run = run,
};

static fg_status encode(const fg_tokenizer *t, const char *text, size_t n, bool special, bool json,
                        fg_err *err)
{
    fg_ids ids = {0};
    fg_status st = encode_text(t, text, n, special, &ids, err);
    if (st == FG_OK) {
        if (json) printf("{\"n\": %zu, \"ids\": [", ids.len);
        for (size_t i = 0; i < ids.len; i++) {
            printf("%s%" PRIu32, i == 0 ? "" : json ? ", " : " ", ids.data[i]);
        }
        printf("%s\n", json ? "]}" : "");
    }
    fg_ids_fini(&ids);
    return st;
}

static fg_status decode(const fg_tokenizer *t, const char *text, size_t n, const char *name,
                        bool json, fg_err *err)
{
    fg_ids ids = {0};
    fg_buf out = {0};
    fg_status st = parse_ids(text, n, name, &ids, err);
    if (st == FG_OK) st = fg_tokenizer_decode(t, ids.data, ids.len, false, &out, err);
    if (st == FG_OK && json) {
        fg_buf b = {0};
        fg_buf_put_str(&b, "{\"text\": ");
        fg_json_put_str(&b, (const char *)out.data, out.len);
        fg_buf_put_str(&b, "}\n");
        st = print_buf(&b, err);
    } else if (st == FG_OK && out.len > 0) {
        (void)cli_write((const char *)out.data, out.len);
    }
    fg_ids_fini(&ids);
    fg_buf_fini(&out);
    return st;
}

static int run(int argc, char **argv)
{
    const char *prompt = NULL, *file = "-", *model;
    bool back = false, special = false, json = false;
    const opt opts[] = {
        {"prompt", 'p', OPT_STR, &prompt, 0, 0, "TEXT", "the text (default: read it with -f)"},
        {"file", 'f', OPT_STR, &file, 0, 0, "FILE", "read from FILE (default: standard input)"},
        {"decode", 0, OPT_FLAG, &back, 0, 0, NULL, "ids to text"},
        {"special", 0, OPT_FLAG, &special, 0, 0, NULL, "markup in the text counts as such"},
        {"json", 0, OPT_FLAG, &json, 0, 0, NULL, "JSON on stdout"},
    };
    int status;
    if (!args_parse(&cmd_tokenize, opts, sizeof opts / sizeof opts[0], argc, argv, &model, 1,
                    &status)) {
        return status;
    }
    fg_err err = {0};
    fg_tokenizer *t = NULL;
    char *text = NULL;
    size_t len = 0;
    fg_status st = open_tokenizer(model, &t, &err);
    if (st == FG_OK && prompt == NULL) st = read_text(file, &text, &len, &err);
    if (st == FG_OK) {
        const char *p = prompt == NULL ? text : prompt;
        const size_t m = prompt == NULL ? len : strlen(prompt);
        st = back ? decode(t, p, m, prompt == NULL ? file : "prompt", json, &err)
                  : encode(t, p, m, special, json, &err);
    }
    fg_tokenizer_destroy(&t);
    fg_mem_free(text);
    return st == FG_OK ? cli_finish_stdout() : cli_fail(&err);
}
