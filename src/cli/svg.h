/* SPDX-License-Identifier: MIT
 *
 * What the drawings share: SVG 1.1 without scripts, in one text buffer, that follows the viewer's
 * light or dark scheme.  Colours keep a contrast on white and on black; besides, every series has
 * its own mark, so that nothing depends on colour alone.
 */
#ifndef FG_SRC_CLI_SVG_H
#define FG_SRC_CLI_SVG_H

#include "src/base/buf.h"
#include "src/base/status.h"

enum { SVG_MARKS = 5 };

/* Classes of the style: bg, fg (text), grid, frame, softmax (a band). */
void svg_begin(fg_buf *b, int width, int height, const char *title);
void svg_end(fg_buf *b);

/* attributes: more of them, with a space before each; may be empty. */
void svg_put_text(fg_buf *b, double x, double y, const char *attributes, const char *text);
void svg_put_mark(fg_buf *b, double x, double y, int mark, const char *colour);

#endif
