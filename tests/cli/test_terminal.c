/* SPDX-License-Identifier: MIT
 *
 * The terminal without one: bytes to keys, cut anywhere, and what is drawn, on a screen of the
 * test's own.  Controls: a key that leaks, a row too many, an escape sequence that gets through.
 */
#include <stdio.h>
#include <string.h>

#include "src/base/utf8.h"
#include "src/cli/conversation.h"
#include "src/cli/keys.h"
#include "src/cli/screen.h"
#include "tests/fg_test.h"

/* ---- keys ---- */

/* Keys as text: characters as they are, others by letter in angle brackets; a paste in braces. */
static void put_key(fg_buf *b, const keys *k, uint32_t key)
{
    static const char *const names[] = {"up",  "down",  "left",   "right", "home", "end",
                                        "del", "wleft", "wright", "wdel",  "nl",   "paste"};
    if (key == KEY_PASTE) {
        fg_buf_u8(b, '{');
        fg_buf_put(b, k->paste.data, k->paste.len);
        fg_buf_u8(b, '}');
    } else if (key >= KEY_FIRST) {
        fg_buf_printf(b, "<%s>", names[key - KEY_FIRST]);
    } else if (key == KEY_META) {
        fg_buf_put_str(b, "<alt>");
    } else {
        fg_utf8_put(b, key);
    }
}

/* In pieces of `step` bytes, between which time passes if `slow`. */
static const char *typed(const char *bytes, size_t n, size_t step, bool slow)
{
    static fg_buf b;
    keys k = {0};
    b.len = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t key;
        keys_feed(&k, (uint8_t)bytes[i]);
        while (keys_next(&k, &key)) put_key(&b, &k, key);
        if (slow && (i + 1) % step == 0 && keys_patience(&k) > 0 && keys_patience(&k) < 1000) {
            keys_expire(&k);
        }
    }
    uint32_t key;
    if (keys_patience(&k) > 0) keys_expire(&k);
    while (keys_next(&k, &key)) put_key(&b, &k, key);
    keys_fini(&k);
    return fg_buf_str(&b);
}

static const struct {
    const char *bytes, *want;
} sequences[] = {
    {"abc", "abc"},
    {"a\033[Db\033OCc", "a<left>b<right>c"},
    {"\033[A\033[B\033[H\033[F\033[1~\033[4~\033[7~\033[8~",
     "<up><down><home><end><home><end><home><end>"},
    {"\033[1;5D\033[1;5C\033[1;3D\033Od\033Oc\033[1;2C",
     "<wleft><wright><wleft><wleft><wright><right>"},
    {"\033[3~\033[3;5~\033[3^", "<del><wdel><wdel>"},
    {"\033\r\033\n\033[13;2u\033[27;2;13~\033OM\033[13u", "<nl><nl><nl><nl>\r\r"},
    {"\033b\033f", "<alt>b<alt>f"},
    {"\033[200~a\r\nb\rc\nd\033[201~e", "{a\nb\nc\nd}e"},
    {"\033[200~\033[201\033[20~\033[200~x\033[201~", "{\033[201\033[20~\033[200~x}"},
    {"\033[200~\303(\377\033[201~", "{\357\277\275(\357\277\275}"},
    {"\033[200~\033[201~z", "{}z"},
    /* nothing of these is typed */
    {"\033OP\033[15~\033[24;5~\033[[A\033[[E\033[Z\033[5~\033[2~x", "x"},
    {"\033[M !!\033[<0;1;2M\033[I\033[O\033[?62;4c\033[5;7Rx", "x"},
    {"\033]11;rgb:0/0/0\ax\033Pq\033\\y\033_z\033\\", "xy"},
    {"\033[97;5u\033[1;5P\033[201~x", "x"},
    {"\303\244\344\270\255\360\237\231\202", "\303\244\344\270\255\360\237\231\202"},
    {"\377a\303(\342\202", "\357\277\275a\357\277\275(\357\277\275"},
    {"\302\233x", "\357\277\275x"},
    {"\033", ""},
    {"a\033", "a"},
    {"\033\033[Dx", "<left>x"},
    {"\033[\001x", "\001x"},
};

FG_TEST(keys_of_sequences)
{
    for (size_t i = 0; i < sizeof sequences / sizeof sequences[0]; i++) {
        CHECK_STR(typed(sequences[i].bytes, strlen(sequences[i].bytes), 1, false),
                  sequences[i].want);
    }
    /* a zero is a key of its own, and in a paste it is no end */
    keys k = {0};
    uint32_t key = 9;
    keys_feed(&k, 0);
    CHECK(keys_next(&k, &key) && key == 0);
    keys_fini(&k);
    CHECK_STR(typed("\033[200~a\0b\033[201~", 15, 1, false), "{a\357\277\275b}");
}

FG_TEST(a_lone_escape_is_no_part_of_what_follows)
{
    CHECK_STR(typed("\033b", 2, 1, true), "b");
    CHECK_STR(typed("\033b", 2, 2, true), "<alt>b"); /* control: together it is */
    CHECK_STR(typed("\033Pabc", 5, 2, true), "abc"); /* Alt-P is not an answer of the terminal */
}

FG_TEST(long_and_endless_sequences)
{
    char text[4096];
    memset(text, '1', sizeof text);
    memcpy(text, "\033[", 2);
    text[sizeof text - 2] = 'D';
    text[sizeof text - 1] = 'x';
    CHECK_STR(typed(text, sizeof text, 1, false), "<left>x");
}

/* ---- the screen ---- */

enum { WIDTH = 20, HEIGHT = 40 };

typedef struct glass {
    char cell[HEIGHT][WIDTH + 1];
    unsigned x, y, lowest;
    bool acted; /* a sequence that screen.c never sends */
} glass;

static void look(glass *g, const fg_buf *b)
{
    for (size_t i = 0; i < b->len; i++) {
        const char c = (char)b->data[i];
        if (c == '\r') {
            g->x = 0;
        } else if (c == '\n') {
            g->x = 0;
            g->y++;
        } else if (c == '\033') {
            unsigned n = 0;
            g->acted = g->acted || b->data[++i] != '[';
            for (i++; b->data[i] >= '0' && b->data[i] <= '9'; i++) n = n * 10 + b->data[i] - '0';
            switch (b->data[i]) {
            case 'A': g->y -= n; break;
            case 'D': g->x -= n; break;
            case 'J':
                for (unsigned y = g->y + 1; y < HEIGHT; y++) memset(g->cell[y], ' ', WIDTH);
                memset(g->cell[g->y] + g->x, ' ', WIDTH - g->x);
                break;
            case 'K': memset(g->cell[g->y] + g->x, ' ', WIDTH - g->x); break;
            case 'm': g->acted = g->acted || (n != 0 && n != 2); break;
            default: g->acted = true;
            }
        } else {
            if (g->x == WIDTH) {
                g->x = 0;
                g->y++;
            }
            if (g->y >= HEIGHT) return;
            g->cell[g->y][g->x++] = c;
        }
        if (g->y > g->lowest) g->lowest = g->y;
    }
}

static void wipe(glass *g)
{
    memset(g, 0, sizeof *g);
    for (unsigned y = 0; y < HEIGHT; y++) memset(g->cell[y], ' ', WIDTH);
}

static const char *row(const glass *g, unsigned y)
{
    static char text[WIDTH + 1];
    size_t n = WIDTH;
    memcpy(text, g->cell[y], WIDTH);
    while (n > 0 && text[n - 1] == ' ') n--;
    text[n] = '\0';
    return text;
}

FG_TEST(a_thought_has_six_rows_and_leaves_one)
{
    screen s = {.width = WIDTH, .dims = true};
    fg_buf out = {0};
    glass g;
    wipe(&g);
    for (int i = 0; i < 30; i++) {
        char text[64];
        (void)snprintf(text, sizeof text, "line %d of it is long\n\n", i);
        screen_think(&s, text, strlen(text));
        screen_rows(&s, "12 tokens", &out);
        look(&g, &out);
        out.len = 0;
        CHECK(g.lowest < SCREEN_ROWS);
    }
    CHECK_STR(row(&g, 4), "ng"); /* cut before the last column */
    CHECK_STR(row(&g, 3), "line 29 of it is lo");
    CHECK_STR(row(&g, 5), "12 tokens");
    screen_line(&s, "thought", &out);
    screen_say(&s, "answer", 6, false, &out);
    look(&g, &out);
    CHECK_STR(row(&g, 0), "thought");
    CHECK_STR(row(&g, 1), "answer");
    for (unsigned y = 2; y < HEIGHT; y++) CHECK_STR(row(&g, y), "");
    CHECK(!g.acted);
    screen_fini(&s);
    fg_buf_fini(&out);
}

FG_TEST(a_sign_of_life_goes_when_text_comes)
{
    screen s = {.width = WIDTH, .dims = true};
    fg_buf out = {0};
    glass g;
    wipe(&g);
    screen_say(&s, "some", 4, false, &out);
    screen_wait(&s, " ... 2 s", &out);
    screen_wait(&s, " ... 12 s", &out);
    look(&g, &out);
    CHECK_STR(row(&g, 0), "some ... 12 s");
    out.len = 0;
    screen_say(&s, "thing", 5, false, &out);
    look(&g, &out);
    CHECK_STR(row(&g, 0), "something");
    out.len = 0;
    screen_say(&s, " of a row", 9, false, &out);
    screen_wait(&s, " ... 2 s", &out); /* no room: nothing */
    look(&g, &out);
    CHECK_STR(row(&g, 0), "something of a row");
    screen_fini(&s);
    fg_buf_fini(&out);
}

FG_TEST(text_never_acts)
{
    static const char *const bad[] = {"\033[2J",      "\033]0;t\a", "\302\233[m", "a\bb",
                                      "\342\200\256", "\302\205",   "\177",       "\r over"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        screen s = {.width = WIDTH};
        fg_buf out = {0};
        screen_say(&s, bad[i], strlen(bad[i]), false, &out);
        screen_think(&s, bad[i], strlen(bad[i]));
        for (size_t k = 0; k < out.len; k++) CHECK(out.data[k] >= 0x20 && out.data[k] != 0x7f);
        CHECK(memmem(out.data, out.len, "\357\277\275", 3) != NULL);
        CHECK(s.thought.len == out.len && memcmp(s.thought.data, out.data, out.len) == 0);
        out.len = 0;
        screen_put_safe(&out, "a\r\nb\tc\n", 7); /* control: this is text */
        CHECK_STR(fg_buf_str(&out), "a\nb\tc\n");
        screen_fini(&s);
        fg_buf_fini(&out);
    }
}

FG_TEST(without_style_nothing_is_sent_but_text)
{
    screen s = {.width = WIDTH};
    fg_buf out = {0};
    screen_say(&s, "think ", 6, true, &out);
    screen_say(&s, "say", 3, false, &out);
    screen_clear(&s, &out);
    CHECK_STR(fg_buf_str(&out), "think say");
    out.len = 0;
    s.dims = true; /* control */
    screen_say(&s, "think", 5, true, &out);
    CHECK(memchr(out.data, 033, out.len) != NULL);
    screen_fini(&s);
    fg_buf_fini(&out);
}

FG_TEST(another_width)
{
    screen s = {.width = 12, .dims = true};
    fg_buf out = {0};
    screen_think(&s, "abcdefghijklmnopqrstuvwxyz", 26);
    screen_rows(&s, "x", &out);
    out.len = 0;
    screen_moved(&s, 7, &out);
    CHECK_STR(fg_buf_str(&out), "\n"); /* the old rows stay where they are */
    out.len = 0;
    screen_rows(&s, "figures too long", &out);
    CHECK_STR(fg_buf_str(&out), "\033[2mabcdef\nghijkl\nmnopqr\nstuvwx\nyz\nfigure\033[0m");
    screen_fini(&s);
    fg_buf_fini(&out);
}

static const char *figure(void (*put)(fg_buf *b))
{
    static fg_buf b;
    b.len = 0;
    put(&b);
    return fg_buf_str(&b);
}

static void put_all(fg_buf *b)
{
    static const double s[] = {0.2, 59.4, 59.6, 581, 3600, 11100};
    for (size_t i = 0; i < sizeof s / sizeof s[0]; i++) {
        screen_put_time(b, s[i]);
        fg_buf_u8(b, ';');
    }
    static const uint64_t n[] = {0, 950, 12595, 32768, 1u << 20};
    for (size_t i = 0; i < sizeof n / sizeof n[0]; i++) {
        screen_put_size(b, n[i]);
        fg_buf_u8(b, ';');
    }
    screen_put_prompt(b, 1234, 3600, 12.0, 197.2);
    fg_buf_u8(b, ';');
    screen_put_thinking(b, 1234, 4.13, 35904);
}

FG_TEST(figures)
{
    CHECK_STR(figure(put_all),
              "0 s;59 s;1 min 0 s;9 min 41 s;1 h 00 min;3 h 05 min;0;950;12.3K;32K;1024K;"
              "prompt 34 % [###.......] 1,234 of 3,600 tokens, 12 tok/s, 3 min 17 s left;"
              "thinking: 1,234 tokens, 4.1 tok/s, 3 % of 35,904");
}

/* ---- commands ---- */

FG_TEST(names_that_are_nearly_right)
{
    static const char *const near[][2] = {
        {"retrry", "retry"},  {"hlep", "help"}, {"exprot", "export"}, {"forget", "forget-thinking"},
        {"stauts", "status"}, {"udno", "undo"}, {"sett", "set"},      {"cont", "continue"}};
    for (size_t i = 0; i < sizeof near / sizeof near[0]; i++) {
        CHECK_STR(chat_nearest_command(near[i][0]), near[i][1]);
    }
}

static const char *complete(const char *text, const char **list)
{
    static fg_buf more, names;
    talk k = {.gen = gen_opts_default()};
    more.len = names.len = 0;
    if (!chat_complete(&k, text, strlen(text), &more, &names)) return NULL;
    *list = fg_buf_str(&names);
    return fg_buf_str(&more);
}

FG_TEST(completion)
{
    const char *list = NULL;
    CHECK_STR(complete("/und", &list), "o ");
    CHECK_STR(complete("/re", &list), "");
    CHECK_STR(list, "read\nretry\nreset\n");
    CHECK_STR(complete("/set top", &list), "-");
    CHECK_STR(complete("/set think h", &list), "ide");
    CHECK_STR(complete("/read tests/models/m1-na", &list), "no/");
    CHECK_STR(complete("/nothing", &list), "");
    CHECK(complete("a message", &list) == NULL && complete("//etc", &list) == NULL);
}
