/* SPDX-License-Identifier: MIT */
#include "src/base/json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/utf8.h"

/* As many values as a document can have: each begins it, or follows a comma or a bracket.  *nul is
 * where a string has a NUL, as it is or as \u0000, n without one: what follows it would be lost. */
static size_t count_values(const char *text, size_t n, size_t *nul)
{
    size_t count = 1;
    *nul = n;
    for (size_t i = 0; i < n; i++) {
        const char c = text[i];
        count += c == ',' || c == '[' || c == '{';
        if (c != '"') continue;
        for (i++; i < n && text[i] != '"'; i++) {
            const bool escaped = text[i] == '\\';
            if (*nul == n && (text[i] == '\0' ||
                              (escaped && n - i > 6 && memcmp(text + i + 1, "u0000", 5) == 0))) {
                *nul = i;
            }
            i += escaped;
        }
    }
    return count;
}

fg_status fg_json_parse(fg_json **root, const char *text, size_t n, const char *name, fg_err *err)
{
    const char *end = NULL;
    size_t nul;
    *root = NULL;
    if (count_values(text, n, &nul) > FG_JSON_MAX_VALUES) {
        return fg_fail(err, FG_ELIMIT, "%s: more than %d values, expected a smaller JSON document",
                       name, (int)FG_JSON_MAX_VALUES);
    }
    if (nul < n) {
        return fg_fail(err, FG_EFORMAT, "%s: NUL in a string at byte %zu, expected text", name,
                       nul);
    }
    *root = cJSON_ParseWithLengthOpts(text, n, &end, false);
    if (*root == NULL) {
        const size_t at = end == NULL || end < text ? 0 : (size_t)(end - text);
        return fg_fail(err, FG_EFORMAT, "%s: not JSON at byte %zu, expected a JSON document", name,
                       at);
    }
    for (const char *p = end; p < text + n && *p != '\0'; p++) {
        if (strchr(" \t\r\n", *p) != NULL) continue;
        fg_json_free(*root);
        *root = NULL;
        return fg_fail(err, FG_EFORMAT, "%s: more text at byte %zu, expected one JSON document",
                       name, (size_t)(p - text));
    }
    return FG_OK;
}

fg_status fg_json_parse_file(fg_json **root, const char *path, uint64_t max_bytes, fg_err *err)
{
    char *text;
    size_t n;
    *root = NULL;
    FG_TRY(fg_io_read_all(path, max_bytes, &text, &n, err));
    const fg_status st = fg_json_parse(root, text, n, path, err);
    fg_mem_free(text);
    return st;
}

void fg_json_free(fg_json *root)
{
    cJSON_Delete(root);
}

const fg_json *fg_json_get(const fg_json *node, const char *name)
{
    const fg_json *found = NULL;
    for (const fg_json *c = cJSON_IsObject(node) ? node->child : NULL; c != NULL; c = c->next) {
        if (strcmp(c->string, name) == 0) found = c;
    }
    return found;
}

const fg_json *fg_json_first(const fg_json *node)
{
    return node == NULL ? NULL : node->child;
}

const fg_json *fg_json_next(const fg_json *child)
{
    return child->next;
}

const char *fg_json_name(const fg_json *child)
{
    return child->string;
}

size_t fg_json_size(const fg_json *node)
{
    size_t n = 0;
    for (const fg_json *c = fg_json_first(node); c != NULL; c = c->next) n++;
    return n;
}

bool fg_json_is_object(const fg_json *node)
{
    return cJSON_IsObject(node);
}

bool fg_json_is_array(const fg_json *node)
{
    return cJSON_IsArray(node);
}

bool fg_json_is_null(const fg_json *node)
{
    return cJSON_IsNull(node);
}

bool fg_json_str(const fg_json *node, const char **out)
{
    if (!cJSON_IsString(node)) return false;
    *out = node->valuestring;
    return true;
}

bool fg_json_bool(const fg_json *node, bool *out)
{
    if (!cJSON_IsBool(node)) return false;
    *out = cJSON_IsTrue(node);
    return true;
}

bool fg_json_f64(const fg_json *node, double *out)
{
    if (!cJSON_IsNumber(node) || !isfinite(node->valuedouble)) return false;
    *out = node->valuedouble;
    return true;
}

bool fg_json_u64(const fg_json *node, uint64_t *out)
{
    double v;
    if (!fg_json_f64(node, &v) || v < 0 || v > 9007199254740992.0 || v != floor(v)) return false;
    *out = (uint64_t)v;
    return true;
}

/* shown: for people and other programs, see json.h; else as Python does. */
static void put_string(fg_buf *b, const char *s, size_t n, bool shown)
{
    const uint8_t *p = (const uint8_t *)s;
    fg_buf_u8(b, '"');
    for (size_t len; n > 0; p += len, n -= len) {
        uint32_t c;
        len = fg_utf8_next(p, n, &c);
        switch (c) {
        case '"': fg_buf_put_str(b, "\\\""); break;
        case '\\': fg_buf_put_str(b, "\\\\"); break;
        case '\n': fg_buf_put_str(b, "\\n"); break;
        case '\r': fg_buf_put_str(b, "\\r"); break;
        case '\t': fg_buf_put_str(b, "\\t"); break;
        case '\b': fg_buf_put_str(b, "\\b"); break;
        case '\f': fg_buf_put_str(b, "\\f"); break;
        case FG_UTF8_BAD:
        case FG_UTF8_CUT: fg_utf8_put(b, FG_UTF8_REPLACEMENT); break;
        default:
            if (c < 0x20 || (shown && fg_utf8_is_control(c))) {
                fg_buf_printf(b, "\\u%04x", (unsigned)c);
            } else {
                fg_buf_put(b, p, len);
            }
        }
    }
    fg_buf_u8(b, '"');
}

void fg_json_put_str(fg_buf *b, const char *s, size_t n)
{
    put_string(b, s, n, true);
}

static void put_number(fg_buf *b, double v)
{
    if (v == floor(v) && fabs(v) < 1e15) {
        fg_buf_printf(b, "%.0f", v);
        return;
    }
    if (!isfinite(v)) { /* 1e999, as Python reads and prints it */
        fg_buf_put_str(b, v < 0 ? "-Infinity" : "Infinity");
        return;
    }
    char text[40];
    for (int digits = 1; digits <= 17; digits++) { /* shortest that reads back equal */
        (void)snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    fg_buf_put_str(b, text);
}

void fg_json_put_node(fg_buf *b, const fg_json *node)
{
    if (cJSON_IsString(node)) {
        put_string(b, node->valuestring, strlen(node->valuestring), false);
    } else if (cJSON_IsNumber(node)) {
        put_number(b, node->valuedouble);
    } else if (cJSON_IsBool(node)) {
        fg_buf_put_str(b, cJSON_IsTrue(node) ? "true" : "false");
    } else if (cJSON_IsObject(node) || cJSON_IsArray(node)) {
        const bool object = cJSON_IsObject(node);
        fg_buf_u8(b, object ? '{' : '[');
        for (const fg_json *c = node->child; c != NULL; c = c->next) {
            if (c != node->child) fg_buf_put_str(b, ", ");
            if (object) {
                put_string(b, c->string, strlen(c->string), false);
                fg_buf_put_str(b, ": ");
            }
            fg_json_put_node(b, c);
        }
        fg_buf_u8(b, object ? '}' : ']');
    } else {
        fg_buf_put_str(b, "null");
    }
}

const char *fg_json_show(const fg_json *node, char out[FG_JSON_SHOWN])
{
    fg_buf b = {0};
    if (node != NULL) fg_json_put_node(&b, node);
    const char *text = node == NULL ? "nothing" : fg_buf_str(&b);
    if (text == NULL) text = "a value"; /* no memory */
    const size_t n = strlen(text);
    (void)snprintf(out, FG_JSON_SHOWN, "%s", text);
    if (n >= FG_JSON_SHOWN) memcpy(out + FG_JSON_SHOWN - 4, "...", 4);
    fg_buf_fini(&b);
    return out;
}
