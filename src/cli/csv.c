/* SPDX-License-Identifier: MIT */
#include "src/cli/csv.h"

#include <time.h>

void csv_put_field(fg_buf *b, const char *s)
{
    fg_buf_put_str(b, "\"");
    for (; *s != '\0'; s++) {
        if (*s == '"') fg_buf_put_str(b, "\"");
        fg_buf_u8(b, (uint8_t)*s);
    }
    fg_buf_put_str(b, "\",");
}

csv_date csv_now(void)
{
    csv_date d = {""};
    const time_t now = time(NULL);
    struct tm tm;
    if (gmtime_r(&now, &tm) != NULL) (void)strftime(d.s, sizeof d.s, "%Y-%m-%dT%H:%MZ", &tm);
    return d;
}

bool csv_take_field(const char **at, char *field, size_t size)
{
    const char *p = *at;
    size_t n = 0;
    const bool quoted = *p == '"';
    bool closed = !quoted;
    if (*p == '\0' || *p == '\n') return false;
    if (quoted) p++;
    for (; *p != '\0' && *p != '\n'; p++) {
        if (quoted && *p == '"' && *++p != '"') { /* of two, the second is the field's */
            closed = true;
            break;
        }
        if (!quoted && *p == ',') break;
        if (n + 1 >= size) return false;
        field[n++] = *p;
    }
    if (!closed || (*p != ',' && *p != '\n' && *p != '\0')) return false;
    field[n] = '\0';
    *at = *p == ',' ? p + 1 : p;
    return true;
}
