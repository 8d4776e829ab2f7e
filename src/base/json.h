/* SPDX-License-Identifier: MIT
 *
 * JSON: typed access to a parsed document, and writing of strings.  cJSON.h is included in json.c
 * alone; an fg_json node is borrowed from its document and valid until fg_json_free of the root.
 *
 * Numbers are IEEE doubles, so integers are exact up to 2^53; fg_json_u64 refuses anything that is
 * not an exact non-negative integer.
 */
#ifndef FG_SRC_BASE_JSON_H
#define FG_SRC_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/base/status.h"

typedef struct cJSON fg_json;

/* Values that a document may have, which bounds the memory it takes when parsed: 144 bytes each and
 * twice the text, about 300 MB and not the forty times its size that a hostile one could ask for.
 * A vocabulary of 300,000 with as many merges in pairs has 1.2 million, the index of M1 has
 * 10^5. */
enum { FG_JSON_MAX_VALUES = 1 << 21 };

/* Parses n bytes (need not be NUL-terminated; trailing white space is allowed, other trailing
 * bytes are an error, and so is a string with a NUL in it, since strings end at one here).  `name`
 * is for the message.  *root is freed with fg_json_free.
 * Errors: FG_EFORMAT, FG_ELIMIT (more than FG_JSON_MAX_VALUES). */
fg_status fg_json_parse(fg_json **root, const char *text, size_t n, const char *name, fg_err *err);
/* Parses a file of at most max_bytes. */
fg_status fg_json_parse_file(fg_json **root, const char *path, uint64_t max_bytes, fg_err *err);
void fg_json_free(fg_json *root);

/* Member by exact name, or NULL (also when `node` is NULL or not an object); of several of that
 * name the last one, as others' readers do.  Linear search. */
const fg_json *fg_json_get(const fg_json *node, const char *name);

/* Iteration over the children of an object or array, in file order:
 * for (c = fg_json_first(n); c; c = fg_json_next(c)). */
const fg_json *fg_json_first(const fg_json *node);
const fg_json *fg_json_next(const fg_json *child);
const char *fg_json_name(const fg_json *child); /* member name; NULL in an array */
size_t fg_json_size(const fg_json *node);       /* number of children; O(n) */

bool fg_json_is_object(const fg_json *node);
bool fg_json_is_array(const fg_json *node);
bool fg_json_is_null(const fg_json *node); /* JSON null; false for NULL */

/* Typed values: false (and *out untouched) when the node is NULL or of another type. */
bool fg_json_str(const fg_json *node, const char **out);
bool fg_json_bool(const fg_json *node, bool *out);
bool fg_json_f64(const fg_json *node, double *out);
bool fg_json_u64(const fg_json *node, uint64_t *out);

/* Appends n bytes as a JSON string with quotes, valid whatever they are: what is not UTF-8 becomes
 * U+FFFD.  Escapes what must be and what a terminal would act on (fg_utf8_is_control); else
 * non-ASCII is kept. */
void fg_json_put_str(fg_buf *b, const char *s, size_t n);

/* Appends the node as Python's json.dumps(ensure_ascii=False) would print it: ", " and ": " as
 * separators, keys in file order. */
void fg_json_put_node(fg_buf *b, const fg_json *node);

/* The same into out, for an error's text: FG_JSON_SHOWN bytes at most, with ... for the rest.
 * NULL is "nothing". */
enum { FG_JSON_SHOWN = 64 };
const char *fg_json_show(const fg_json *node, char out[FG_JSON_SHOWN]);

#endif
