/* SPDX-License-Identifier: MIT */
#include "src/cli/svg.h"

#include <stdio.h>
#include <string.h>

static void put_escaped(fg_buf *b, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '<': fg_buf_put_str(b, "&lt;"); break;
        case '>': fg_buf_put_str(b, "&gt;"); break;
        case '&': fg_buf_put_str(b, "&amp;"); break;
        default: fg_buf_put(b, text, 1);
        }
    }
}

void svg_begin(fg_buf *b, int width, int height, const char *title)
{
    fg_buf_printf(b,
                  "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" version=\"1.1\" width=\"%d\" "
                  "height=\"%d\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" "
                  "font-size=\"12\">\n<title>",
                  width, height, width, height);
    put_escaped(b, title);
    fg_buf_put_str(b, "</title>\n"
                      "<style type=\"text/css\">\n"
                      ".bg{fill:#ffffff} .fg{fill:#222222} .grid{stroke:#dcdcdc} "
                      ".frame{stroke:#888888;fill:none} .softmax{fill:#888888;fill-opacity:0.13}\n"
                      "@media (prefers-color-scheme: dark){ .bg{fill:#15171b} "
                      ".fg{fill:#e4e4e4} .grid{stroke:#353941} }\n"
                      "</style>\n");
    fg_buf_printf(b, "<rect class=\"bg\" width=\"%d\" height=\"%d\"/>\n", width, height);
}

void svg_end(fg_buf *b)
{
    fg_buf_put_str(b, "</svg>\n");
}

void svg_put_text(fg_buf *b, double x, double y, const char *attributes, const char *text)
{
    fg_buf_printf(b, "<text class=\"fg\" x=\"%.1f\" y=\"%.1f\"%s>", x, y, attributes);
    put_escaped(b, text);
    fg_buf_put_str(b, "</text>\n");
}

void svg_put_mark(fg_buf *b, double x, double y, int mark, const char *colour)
{
    switch (mark) {
    case 0: fg_buf_printf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\"", x, y); break;
    case 1:
        fg_buf_printf(b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"5.4\" height=\"5.4\"", x - 2.7,
                      y - 2.7);
        break;
    case 2: fg_buf_printf(b, "<path d=\"M%.1f %.1fl3.6 6.4h-7.2z\"", x, y - 3.9); break;
    case 3:
        fg_buf_printf(b, "<path d=\"M%.1f %.1fl3.8 3.8l-3.8 3.8l-3.8 -3.8z\"", x, y - 3.8);
        break;
    default: fg_buf_printf(b, "<path d=\"M%.1f %.1fl3.6 -6.4h-7.2z\"", x, y + 3.9);
    }
    fg_buf_printf(b, " fill=\"%s\"/>\n", colour);
}
