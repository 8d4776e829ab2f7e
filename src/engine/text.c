/* SPDX-License-Identifier: MIT
 *
 * Text and token ids for those who have nothing but the public interface.
 */
#include "src/base/mem.h"
#include "src/engine/engine.h"

static fg_status give(fg_status st, fg_ids *got, uint32_t **ids, size_t *n_ids)
{
    if (st != FG_OK) {
        fg_ids_fini(got);
        return st;
    }
    *ids = got->data;
    *n_ids = got->len;
    return FG_OK;
}

fg_status fg_engine_encode(fg_engine *e, const char *text, size_t n, bool markup, uint32_t **ids,
                           size_t *n_ids, fg_err *err)
{
    const fg_tokenizer *t;
    fg_ids got = {0};
    *ids = NULL;
    *n_ids = 0;
    FG_TRY(fg_engine_tokenizer(e, &t, err));
    return give(fg_tokenizer_encode(t, NULL, text, n, markup, &got, err), &got, ids, n_ids);
}

fg_status fg_engine_decode(fg_engine *e, const uint32_t *ids, size_t n_ids, char **text, size_t *n,
                           fg_err *err)
{
    const fg_tokenizer *t;
    fg_buf b = {0};
    *text = NULL;
    *n = 0;
    FG_TRY(fg_engine_tokenizer(e, &t, err));
    const fg_status st = fg_tokenizer_decode(t, ids, n_ids, false, &b, err);
    if (st == FG_OK) fg_buf_put(&b, "", 1);
    if (st != FG_OK || b.failed) {
        fg_buf_fini(&b);
        return st != FG_OK ? st : fg_fail_nomem(err, "text");
    }
    *text = (char *)b.data;
    *n = b.len - 1;
    return FG_OK;
}

fg_status fg_engine_encode_chat(fg_engine *e, const fg_message *message, size_t n_message,
                                uint32_t **ids, size_t *n_ids, fg_err *err)
{
    static const fg_chat_role roles[] = {[FG_MESSAGE_SYSTEM] = FG_CHAT_SYSTEM,
                                         [FG_MESSAGE_USER] = FG_CHAT_USER,
                                         [FG_MESSAGE_ASSISTANT] = FG_CHAT_ASSISTANT};
    const fg_tokenizer *t;
    fg_ids got = {0};
    *ids = NULL;
    *n_ids = 0;
    FG_TRY(fg_engine_tokenizer(e, &t, err));
    fg_chat_part *part = fg_mem_zalloc_array(n_message + 1, sizeof *part);
    fg_chat_message *m = fg_mem_zalloc_array(n_message + 1, sizeof *m);
    fg_status st = part == NULL || m == NULL ? fg_fail_nomem(err, "conversation") : FG_OK;
    for (size_t i = 0; st == FG_OK && i < n_message; i++) {
        if ((uint32_t)message[i].role >= sizeof roles / sizeof roles[0]) {
            st = fg_fail(err, FG_EINVAL, "message %zu: role %u, expected one of fg_message_role", i,
                         (uint32_t)message[i].role);
            break;
        }
        part[i] = (fg_chat_part){.text = message[i].text, .n = message[i].n};
        m[i] = (fg_chat_message){.role = roles[message[i].role], .part = &part[i], .n_part = 1};
    }
    if (st == FG_OK) {
        const fg_chat c = {.message = m, .n_message = n_message, .generate = true};
        st = fg_chat_encode(&c, t, NULL, &got, err);
    }
    fg_mem_free(part);
    fg_mem_free(m);
    return give(st, &got, ids, n_ids);
}

void fg_free(void *p)
{
    fg_mem_free(p);
}
