/* SPDX-License-Identifier: MIT
 *
 * One pass over the pattern that copies or rewrites token by token.  Two bits of context are kept:
 * whether matching is case-insensitive here (PCRE2 versions disagree on \p{Lu} then) and, inside a
 * class, whether a hyphen is pending (a set must not become the end of a range).
 */
#include "src/text/regex.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Characters by general category (M, P, S, Z: the whole group) that Unicode 15.0, 15.1 and 16.0
 * assigned, i.e. that an Oniguruma of Unicode 16 has and a PCRE2 of Unicode 14 lacks.  Adding them
 * to a newer PCRE2 changes nothing. */
static const struct added {
    char category[3];
    uint32_t first, last;
} added[] = {
    {"Ll", 0x1c8a, 0x1c8a},   {"Ll", 0xa7cd, 0xa7cd},   {"Ll", 0xa7db, 0xa7db},
    {"Ll", 0x10d70, 0x10d85}, {"Ll", 0x1df25, 0x1df2a}, {"Lm", 0x10d4e, 0x10d4e},
    {"Lm", 0x10d6f, 0x10d6f}, {"Lm", 0x16d40, 0x16d42}, {"Lm", 0x16d6b, 0x16d6c},
    {"Lm", 0x1e030, 0x1e06d}, {"Lm", 0x1e4eb, 0x1e4eb}, {"Lo", 0x105c0, 0x105f3},
    {"Lo", 0x10d4a, 0x10d4d}, {"Lo", 0x10d4f, 0x10d4f}, {"Lo", 0x10ec2, 0x10ec4},
    {"Lo", 0x1123f, 0x11240}, {"Lo", 0x11380, 0x11389}, {"Lo", 0x1138b, 0x1138b},
    {"Lo", 0x1138e, 0x1138e}, {"Lo", 0x11390, 0x113b5}, {"Lo", 0x113b7, 0x113b7},
    {"Lo", 0x113d1, 0x113d1}, {"Lo", 0x113d3, 0x113d3}, {"Lo", 0x11bc0, 0x11be0},
    {"Lo", 0x11f02, 0x11f02}, {"Lo", 0x11f04, 0x11f10}, {"Lo", 0x11f12, 0x11f33},
    {"Lo", 0x1342f, 0x1342f}, {"Lo", 0x13441, 0x13446}, {"Lo", 0x13460, 0x143fa},
    {"Lo", 0x16100, 0x1611d}, {"Lo", 0x16d43, 0x16d6a}, {"Lo", 0x18cff, 0x18cff},
    {"Lo", 0x1b132, 0x1b132}, {"Lo", 0x1b155, 0x1b155}, {"Lo", 0x1e4d0, 0x1e4ea},
    {"Lo", 0x1e5d0, 0x1e5ed}, {"Lo", 0x1e5f0, 0x1e5f0}, {"Lo", 0x2b739, 0x2b739},
    {"Lo", 0x2ebf0, 0x2ee5d}, {"Lo", 0x31350, 0x323af}, {"Lu", 0x1c89, 0x1c89},
    {"Lu", 0xa7cb, 0xa7cc},   {"Lu", 0xa7da, 0xa7da},   {"Lu", 0xa7dc, 0xa7dc},
    {"Lu", 0x10d50, 0x10d65}, {"M", 0x897, 0x897},      {"M", 0xcf3, 0xcf3},
    {"M", 0xece, 0xece},      {"M", 0x10d69, 0x10d6d},  {"M", 0x10efc, 0x10eff},
    {"M", 0x11241, 0x11241},  {"M", 0x113b8, 0x113c0},  {"M", 0x113c2, 0x113c2},
    {"M", 0x113c5, 0x113c5},  {"M", 0x113c7, 0x113ca},  {"M", 0x113cc, 0x113d0},
    {"M", 0x113d2, 0x113d2},  {"M", 0x113e1, 0x113e2},  {"M", 0x11f00, 0x11f01},
    {"M", 0x11f03, 0x11f03},  {"M", 0x11f34, 0x11f3a},  {"M", 0x11f3e, 0x11f42},
    {"M", 0x11f5a, 0x11f5a},  {"M", 0x13440, 0x13440},  {"M", 0x13447, 0x13455},
    {"M", 0x1611e, 0x1612f},  {"M", 0x1e08f, 0x1e08f},  {"M", 0x1e4ec, 0x1e4ef},
    {"M", 0x1e5ee, 0x1e5ef},  {"Nd", 0x10d40, 0x10d49}, {"Nd", 0x116d0, 0x116e3},
    {"Nd", 0x11bf0, 0x11bf9}, {"Nd", 0x11f50, 0x11f59}, {"Nd", 0x16130, 0x16139},
    {"Nd", 0x16d70, 0x16d79}, {"Nd", 0x1ccf0, 0x1ccf9}, {"Nd", 0x1e4f0, 0x1e4f9},
    {"Nd", 0x1e5f1, 0x1e5fa}, {"No", 0x1d2c0, 0x1d2d3}, {"P", 0x1b4e, 0x1b4f},
    {"P", 0x1b7f, 0x1b7f},    {"P", 0x10d6e, 0x10d6e},  {"P", 0x113d4, 0x113d5},
    {"P", 0x113d7, 0x113d8},  {"P", 0x11b00, 0x11b09},  {"P", 0x11be1, 0x11be1},
    {"P", 0x11f43, 0x11f4f},  {"P", 0x16d6d, 0x16d6f},  {"P", 0x1e5ff, 0x1e5ff},
    {"S", 0x2427, 0x2429},    {"S", 0x2ffc, 0x2fff},    {"S", 0x31e4, 0x31e5},
    {"S", 0x31ef, 0x31ef},    {"S", 0x10d8e, 0x10d8f},  {"S", 0x1cc00, 0x1ccef},
    {"S", 0x1cd00, 0x1ceb3},  {"S", 0x1f6dc, 0x1f6dc},  {"S", 0x1f774, 0x1f776},
    {"S", 0x1f77b, 0x1f77f},  {"S", 0x1f7d9, 0x1f7d9},  {"S", 0x1f8b2, 0x1f8bb},
    {"S", 0x1f8c0, 0x1f8c1},  {"S", 0x1fa75, 0x1fa77},  {"S", 0x1fa87, 0x1fa89},
    {"S", 0x1fa8f, 0x1fa8f},  {"S", 0x1faad, 0x1faaf},  {"S", 0x1fabb, 0x1fabf},
    {"S", 0x1fac6, 0x1fac6},  {"S", 0x1face, 0x1facf},  {"S", 0x1fada, 0x1fadc},
    {"S", 0x1fadf, 0x1fadf},  {"S", 0x1fae8, 0x1fae9},  {"S", 0x1faf7, 0x1faf8},
    {"S", 0x1fbcb, 0x1fbef},
};

static const char white_space[] =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";

static const char *const categories[] = {"L", "Lu", "Ll", "Lt", "Lm", "Lo", "M",
                                         "N", "Nd", "Nl", "No", "P",  "S",  "Z"};

enum { MAX_DEPTH = 64 };

typedef struct rx {
    const char *start, *p, *end;
    fg_buf *out;
    const char *name;
    fg_err *err;
    bool caseless[MAX_DEPTH]; /* by group depth */
    size_t depth;
} rx;

static fg_status refuse(const rx *r, fg_status code, const char *what)
{
    return fg_fail(r->err, code,
                   "%s: %s at byte %zu of the regular expression, expected syntax that Oniguruma "
                   "and PCRE2 share",
                   r->name, what, (size_t)(r->p - r->start));
}

static bool at(const rx *r, const char *s)
{
    const size_t n = strlen(s);
    return (size_t)(r->end - r->p) >= n && memcmp(r->p, s, n) == 0;
}

static void copy(rx *r, size_t n)
{
    fg_buf_put(r->out, r->p, n);
    r->p += n;
}

/* \p{..}, \P{..}: r->p after the letter. */
static fg_status put_property(rx *r, bool negated, bool in_class)
{
    const char *close =
        r->p < r->end && *r->p == '{' ? memchr(r->p, '}', (size_t)(r->end - r->p)) : NULL;
    if (close == NULL) return refuse(r, FG_EFORMAT, "a property without {name}");
    char name[3] = {0};
    const size_t n = (size_t)(close - r->p) - 1;
    if (n >= 1 && n <= 2) memcpy(name, r->p + 1, n);
    bool known = false;
    for (size_t i = 0; i < sizeof categories / sizeof categories[0]; i++) {
        known = known || strcmp(name, categories[i]) == 0;
    }
    if (!known) return refuse(r, FG_ENOTSUP, "a property that is not a general category");
    if (r->caseless[r->depth] && name[0] == 'L' && strchr("ult", name[1]) != NULL && n == 2) {
        return refuse(r, FG_ENOTSUP, "a case property in a case-insensitive group");
    }
    if (in_class && negated) return refuse(r, FG_ENOTSUP, "a negated property inside a class");
    r->p = close + 1;
    if (!in_class) fg_buf_put_str(r->out, negated ? "[^" : "[");
    fg_buf_printf(r->out, "\\p{%s}", name);
    for (size_t i = 0; i < sizeof added / sizeof added[0]; i++) {
        if (strncmp(added[i].category, name, n) != 0) continue;
        fg_buf_printf(r->out, "\\x{%x}-\\x{%x}", (unsigned)added[i].first, (unsigned)added[i].last);
    }
    if (!in_class) fg_buf_u8(r->out, ']');
    return FG_OK;
}

/* \x{H..} and \uHHHH: r->p at the letter. */
static fg_status put_code_point(rx *r)
{
    const bool braces = *r->p == 'x';
    const char *q = r->p + 1;
    if (braces && (q == r->end || *q++ != '{')) {
        return refuse(r, FG_ENOTSUP, "\\x without braces");
    }
    uint32_t cp = 0;
    size_t n = 0;
    for (; q < r->end && n < 8; q++, n++) {
        const char *digits = "0123456789abcdef";
        const char *d = *q == '\0' ? NULL : strchr(digits, *q >= 'A' && *q <= 'F' ? *q + 32 : *q);
        if (d == NULL || (!braces && n == 4)) break;
        cp = cp << 4 | (uint32_t)(d - digits);
    }
    const bool ended = braces ? n >= 1 && q < r->end && *q == '}' : n == 4;
    if (!ended || cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff)) {
        return refuse(r, FG_EFORMAT, "an escape that is no code point");
    }
    fg_buf_printf(r->out, "\\x{%x}", (unsigned)cp);
    r->p = q + (braces ? 1 : 0);
    return FG_OK;
}

/* At a backslash.  *is_set: what was put stands for more than one character. */
static fg_status put_escape(rx *r, bool in_class, bool *is_set)
{
    *is_set = false;
    if (r->end - r->p < 2) return refuse(r, FG_EFORMAT, "a backslash at the end");
    const char c = r->p[1];
    if (c == 'p' || c == 'P') {
        *is_set = true;
        r->p += 2;
        return put_property(r, c == 'P', in_class);
    }
    if (c == 'x' || c == 'u') {
        r->p++;
        return put_code_point(r);
    }
    if (strchr("sSdD", c) != NULL && c != '\0') {
        *is_set = true;
        if (c == 'd' || c == 'D') { /* decimal digits; reuse the category and its additions */
            if (in_class && c == 'D') return refuse(r, FG_ENOTSUP, "\\D inside a class");
            rx sub = *r;
            sub.start = sub.p = "{Nd}";
            sub.end = sub.p + 4;
            r->p += 2;
            return put_property(&sub, c == 'D', in_class);
        }
        r->p += 2;
        if (c == 'S') { /* the complement of PCRE2's \s lacks U+180E only */
            fg_buf_put_str(r->out, in_class ? "\\S\\x{180e}" : "[\\S\\x{180e}]");
        } else {
            fg_buf_printf(r->out, in_class ? "%s" : "[%s]", white_space);
        }
        return FG_OK;
    }
    if (c == 'v') {
        fg_buf_put_str(r->out, "\\x{b}");
        r->p += 2;
        return FG_OK;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool same = letter ? strchr("rntfae", c) != NULL || (!in_class && strchr("Az", c) != NULL)
                             : c > ' ' && c < 0x7f && !(c >= '0' && c <= '9');
    if (!same && c != ' ') return refuse(r, FG_ENOTSUP, "an escape of unknown meaning");
    copy(r, 2);
    return FG_OK;
}

static fg_status put_class(rx *r)
{
    copy(r, 1);
    if (r->p < r->end && *r->p == '^') copy(r, 1);
    bool hyphen = false; /* an unescaped '-' that follows something was just put */
    for (size_t n = 0; r->p < r->end; n++) {
        if (*r->p == ']') {
            if (n == 0) return refuse(r, FG_ENOTSUP, "an empty class");
            copy(r, 1);
            return FG_OK;
        }
        if (*r->p == '[') return refuse(r, FG_ENOTSUP, "a class inside a class");
        if (at(r, "&&")) return refuse(r, FG_ENOTSUP, "an intersection of classes");
        if (*r->p != '\\') {
            hyphen = *r->p == '-' && n > 0 && !hyphen;
            copy(r, 1);
            continue;
        }
        bool is_set;
        FG_TRY(put_escape(r, true, &is_set));
        if (is_set && (hyphen || (at(r, "-") && !at(r, "-]")))) {
            return refuse(r, FG_EFORMAT, "a set as the end of a range");
        }
        hyphen = false;
    }
    return refuse(r, FG_EFORMAT, "a class without end");
}

static fg_status put_group(rx *r)
{
    static const char *const heads[] = {"(?:", "(?=",  "(?!",   "(?<=", "(?<!",
                                        "(?>", "(?i:", "(?-i:", "(?i)", "(?-i)"};
    if (at(r, "(*")) return refuse(r, FG_ENOTSUP, "a verb");
    const char *head = "(";
    for (size_t i = 0; i < sizeof heads / sizeof heads[0] && at(r, "(?"); i++) {
        if (at(r, heads[i])) head = heads[i];
    }
    if (head[1] == '\0' && at(r, "(?")) return refuse(r, FG_ENOTSUP, "a group of unknown kind");
    const size_t n = strlen(head);
    const char *i = strchr(head, 'i');
    const bool caseless = i == NULL ? r->caseless[r->depth] : i[-1] != '-';
    copy(r, n);
    if (head[n - 1] == ')') {
        /* a(?i)b|c: Ruby's option takes in the alternatives after it, PCRE2's does too but without
         * making them a group; only at the very start is that the same */
        if (r->p != r->start + n) return refuse(r, FG_ENOTSUP, "an option after the start");
        r->caseless[r->depth] = caseless; /* to the end of the enclosing group */
        return FG_OK;
    }
    if (r->depth + 1 == MAX_DEPTH) return refuse(r, FG_ENOTSUP, "deep nesting");
    r->caseless[++r->depth] = caseless;
    return FG_OK;
}

/* At '{': {n}, {n,} or {n,m}, n and m of at most 5 digits. */
static fg_status put_repeat(rx *r)
{
    size_t n[2] = {0, 0}, part = 0;
    const char *q = r->p + 1;
    for (; q < r->end && *q != '}'; q++) {
        if (*q == ',' && part == 0) {
            part = 1;
        } else if (*q >= '0' && *q <= '9' && n[part] < 5) {
            n[part]++;
        } else {
            return refuse(r, FG_ENOTSUP, "a brace that is no repeat count");
        }
    }
    if (q == r->end || n[0] == 0) return refuse(r, FG_ENOTSUP, "a brace that is no repeat count");
    copy(r, (size_t)(q - r->p) + 1);
    /* Ruby reads {n}+ as a repeated repeat, PCRE2 as possessive; {n}? differs for exact counts. */
    if (at(r, "+") || at(r, "?")) return refuse(r, FG_ENOTSUP, "a mark after a repeat count");
    return FG_OK;
}

fg_status fg_regex_translate(const char *pattern, size_t n, fg_buf *out, const char *name,
                             fg_err *err)
{
    rx r = {
        .start = pattern, .p = pattern, .end = pattern + n, .out = out, .name = name, .err = err};
    while (r.p < r.end) {
        bool is_set;
        switch (*r.p) {
        case '\\': FG_TRY(put_escape(&r, false, &is_set)); break;
        case '[': FG_TRY(put_class(&r)); break;
        case '(': FG_TRY(put_group(&r)); break;
        case ')':
            if (r.depth == 0) return refuse(&r, FG_EFORMAT, "a closing parenthesis");
            r.depth--;
            copy(&r, 1);
            break;
        case '{': FG_TRY(put_repeat(&r)); break;
        case '^':
        case '$': return refuse(&r, FG_ENOTSUP, "a line anchor");
        case '\0': return refuse(&r, FG_ENOTSUP, "a NUL");
        default: copy(&r, 1);
        }
    }
    if (r.depth != 0) return refuse(&r, FG_EFORMAT, "a group without end");
    return out->failed ? fg_fail_nomem(err, "a regular expression") : FG_OK;
}
