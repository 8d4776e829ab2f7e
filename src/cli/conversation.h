/* SPDX-License-Identifier: MIT
 *
 * A conversation, as the parts of `fulgur chat` share it: cmd_chat.c opens it and reads messages,
 * chat_turns.c evaluates and shows turns, chat_commands.c does what begins with a slash,
 * chat_sessions.c keeps the conversation on disk.
 */
#ifndef FG_SRC_CLI_CONVERSATION_H
#define FG_SRC_CLI_CONVERSATION_H

#include "src/base/buf.h"
#include "src/cli/common.h"
#include "src/cli/line.h"
#include "src/cli/meters.h"
#include "src/engine/saved.h"
#include "src/engine/session.h"

typedef enum stats_mode { STATS_NONE = 0, STATS_SHORT = 1, STATS_FULL = 2, STATS_COUNT } stats_mode;
const char *stats_mode_name(unsigned mode);

/* Ids of a reply that were given, not sampled. */
typedef struct forced_ids {
    uint64_t pos, n;
    fg_forced why;
} forced_ids;
enum { MAX_FORCED = 2 };

/* One message and its reply. */
typedef struct turn {
    uint64_t head;   /* ids of the conversation before it */
    uint64_t prompt; /* and before the reply */
    fg_buf user, thought, answer;
    fg_generator_stats stats; /* of the whole reply */
    double thought_s;
    fg_end end;
    /* What is needed to go on with a reply that was cut off: ids before it was closed, and the
     * generator's state. */
    uint64_t cut;
    uint8_t state[FG_GENERATOR_STATE];
    bool has_state; /* else counters are made of the ids */
    bool can_go_on;
    bool under_way; /* not closed: it goes on when the session is opened */
    forced_ids forced[MAX_FORCED];
    size_t n_forced, n_told; /* of them noted in the saved session */
} turn;

typedef struct talk {
    const char *path; /* of the model */
    fg_engine *e;
    fg_session *s;
    fg_session_opts so;
    fg_sampler *sampler;
    const fg_tokenizer *t;
    fg_tok_state *words;
    gen_opts gen;
    /* Texts of gen that are freed: those of stop that /set made, or a session; of bias; the
     * message. */
    char *stop_own[OPT_LIST_MAX], *bias_own[OPT_LIST_MAX], *own_message;
    fg_chat_style style;
    char *system; /* owned; NULL: none */
    /* The ids of the conversation to the end of its last turn.  The session may be elsewhere: what
     * is missing is evaluated before the next reply, what is too much is forgotten then. */
    fg_ids ids;
    turn *turn; /* [n_turn] */
    size_t n_turn, cap_turn;
    fg_buf attached;     /* texts of /read, which go with the next message */
    fg_buf attached_say; /* "+notes.txt" */
    fg_buf pending;      /* a message that came back: whatever is done first, it is not lost */
    const char *notice;  /* of the reply, static text, to be told behind it; NULL: none */
    fg_generator *g;     /* of the reply under way */
    think_mode think;
    bool think_given; /* on the command line, in another way than as --think */
    stats_mode stats;
    bool forget_thinking; /* after each reply */
    bool interactive;     /* somebody can answer: an error does not end the conversation */
    bool json;            /* nothing is shown */
    char *folder;         /* of sessions; NULL until it is needed */
    fg_saved *saved;      /* NULL: the conversation is kept in memory only */
    bool save_failed;     /* it was said */
    bool half_said;       /* its log has the message that is in the editor, and what of it is
                           * evaluated stays */
    bool unsaid;          /* it was dropped there, and the log has it still */
    fg_buf settings;      /* as its log has them */
    meters *m;
    line_reader *line;
    double read_gbs; /* of reading memory; 0: not known yet */
} talk;

void talk_fini(talk *k);

/* ---- turns ---- */

/* One turn: evaluates the message, with what is attached, and shows the reply.  Errors leave the
 * conversation as it was before; FG_ELIMIT: there is no room for it.  FG_ECANCEL: Ctrl-C while it
 * was evaluated, of which the beginning is kept for the same message. */
fg_status chat_turn(talk *k, const char *text, size_t n, fg_err *err);
/* Goes on with the last reply.  FG_EINVAL: it was not cut off. */
fg_status chat_continue(talk *k, fg_err *err);
/* Forgets the last n turns. */
void chat_undo(talk *k, size_t n);
/* Tokens of the conversation that are evaluated again before it goes on. */
uint64_t chat_return_cost(const talk *k);
/* Evaluates the replies again without their thoughts. */
fg_status chat_forget_thinking(talk *k, fg_err *err);
/* Another room: a session with n positions that holds the same. */
fg_status chat_resize(talk *k, uint64_t n_ctx, fg_err *err);
/* The sampler with the present settings. */
fg_status chat_resample(talk *k, fg_err *err);

/* Where the session and ids part; with the logits of the last one at hand, or it is not counted. */
uint64_t chat_common(const talk *k, const fg_ids *ids);
/* Evaluates what of ids is missing in the session, which then holds exactly these, with the logits
 * of the last one; `head` is where the turn begins whose message is said[n_said] (NULL: none). */
fg_status chat_reach(talk *k, const fg_ids *ids, uint64_t head, const char *said, size_t n_said,
                     fg_err *err);
/* Adds a turn; its reply is empty. */
fg_status chat_begin_turn(talk *k, const char *text, size_t n, uint64_t n_prompt, fg_err *err);
/* Remembers ids of the turn's reply that were given. */
void chat_forced(turn *u, uint64_t pos, uint64_t n, fg_forced why);
/* The ids of a reply that a stop string ended, without those that spell it: the conversation goes
 * on from what was shown.  What of the first of them was shown is encoded anew.  u->answer has the
 * beginning of a stop string when the reply was cut within it before, and is cut too. */
fg_status chat_cut_stop(talk *k, turn *u, fg_err *err);
/* Whether a reply with this end can go on. */
bool chat_can_go_on(fg_end end);

/* The conversation for /export: Markdown, or a line of JSON a message. */
void chat_put_markdown(const talk *k, fg_buf *out);
void chat_put_jsonl(const talk *k, fg_buf *out);

/* ---- sessions on disk ---- */

/* Before the session is made: a saved one of this name decides its room, unless there is a wish for
 * more, and its cache.  FG_EINVAL: a name that cannot be. */
fg_status chat_saved_room(talk *k, const char *name, fg_err *err);
/* The latest one's name, to be freed; NULL: there is none. */
fg_status chat_saved_latest(talk *k, char **name, fg_err *err);
/* Opens the session of this name, or makes one of the conversation. */
fg_status chat_saved_open(talk *k, const char *name, const fg_saved_opts *o, fg_err *err);
/* Leaves on disk what the conversation is now.  k->saved is NULL then. */
void chat_saved_close(talk *k);
/* Another conversation in place of this one. */
fg_status chat_saved_load(talk *k, const char *name, fg_err *err);
/* Lists them. */
fg_status chat_saved_list(talk *k, fg_buf *out, fg_err *err);
/* Writes what is due, or all of it; a failure is told once, and the conversation goes on. */
void chat_saved_due(talk *k);
void chat_saved_turn(talk *k, const char *end);
/* After a slice of a prompt; told: of ids that the log has. */
void chat_saved_passed(talk *k, bool told);
/* A reply that the program has to leave in its middle: it goes on when the session is opened. */
void chat_saved_reply(talk *k);
/* What is said at a position that the session has. */
void chat_saved_message(talk *k, uint64_t pos, fg_message_role role, const char *text, size_t n);
/* The conversation from the reply of this turn on has other ids now, which the session holds. */
void chat_saved_retell(talk *k, size_t first);
/* The log holds the conversation, and nothing that was undone or came to nothing. */
fg_status chat_saved_settle(talk *k, fg_err *err);
/* The present settings, where they are not those of the log; now: on the disk at once. */
void chat_saved_settings(talk *k, bool now);
/* The reply in whose middle the session was left; FG_EINVAL: it was not. */
fg_status chat_resume(talk *k, fg_err *err);

/* ---- settings that a session keeps ---- */

/* As JSON. */
void chat_settings_put(talk *k, fg_buf *out);
/* Takes those that the command line does not give; *said: names and values of what is another one
 * now.  FG_EFORMAT: no settings. */
fg_status chat_settings_take(talk *k, const void *json, size_t n, fg_buf *said, fg_err *err);
/* The room that they ask for; 0: they say nothing. */
uint64_t chat_settings_room(const void *json, size_t n);
/* Whether they can be read: FG_EFORMAT. */
fg_status chat_settings_check(const void *json, size_t n, const char *name, fg_err *err);
const char *chat_style_name(unsigned style);

/* ---- commands ---- */

typedef enum command_result {
    COMMAND_NONE, /* a message: what stands behind the first slash, if there are two */
    COMMAND_DONE,
    COMMAND_FAILED, /* said why */
    COMMAND_QUIT,
} command_result;
/* Does what a line asks for, if it is a command. */
command_result chat_command(talk *k, const char *line, size_t n);

/* A message goes back to the editor, as it has to be typed, and is not lost by what is done first:
 * after each command it is there again. */
void chat_put_back(talk *k, const char *text, size_t n);

/* The name of the command that is closest to what was typed (without its slash). */
const char *chat_nearest_command(const char *name);
/* line_complete_fn for commands, settings and files. */
bool chat_complete(void *talk, const char *text, size_t n, fg_buf *more, fg_buf *list);

#endif
