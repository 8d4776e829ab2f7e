/* SPDX-License-Identifier: MIT
 *
 * What is no command's: the pages of fulgur help TOPIC, text that the program has inside.
 */
#ifndef FG_SRC_CLI_TOPICS_H
#define FG_SRC_CLI_TOPICS_H

/* One page; in the order of topic_at. */
typedef struct topic {
    const char *name;    /* "sandbox" */
    const char *summary; /* one line */
    /* Paragraphs, a newline between two; a line that begins with two blanks stands as it is, so
     * that "  $ COMMAND" is what somebody types.  At most 100 columns then. */
    const char *text;
    void (*more)(void); /* prints what follows the text; NULL: nothing */
} topic;

const topic *topic_at(int i);              /* NULL after the last one */
const topic *topic_find(const char *name); /* NULL: none of that name */
int topic_print(const topic *t);           /* an exit status */

#endif
