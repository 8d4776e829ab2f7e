#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""chat in a terminal: keys, pasted text, commands, what Ctrl-C leaves in every state, windows, signals, locales.  The
terminal is a pty, its screen is drawn here (Screen).  Models are puppets whose tokens are bytes, so that what was sent is
known to the byte, from /export and from counts."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import unicodedata

sys.path.insert(0, os.path.dirname(__file__))
import puppet
from e2e import FULGUR, check, finish, nano, path, run

PATTERN = "[^\\n]|\\n"  # every byte is a token
for name, script, more in (
        ("plain", ["Hello", " world", "."], {}),
        ("thinks", ["<think>", "one\n", "two\n", "three\n", "four\n", "five\n", "six\n", "seven\n", "eight", "</think>", "\n\n", "ans",
                    "wer."], {}),
        ("ansi", ["\x1b]0;title\x07", "\x1b[2J", "\x1b[31m", "\x9b5m", "red\u202e"], {}),
        ("long", ["word ", "and "], {"loop": 0}),
        ("muses", ["<think>", "hm ", "so "], {"loop": 1})):
    puppet.make(path(name), script, pattern=PATTERN, n_ctx=1 << 20, **more)
    status, _, err = run("convert", path(name), path(name + ".fulgur"), "--type", "f32", "-q")
    assert status == 0, err
PASTE, PASTED = b"\x1b[200~", b"\x1b[201~"
UTF8 = {"LANG": "C.UTF-8"}
PROGRAM = os.path.abspath(FULGUR)


class Screen:
    """What is on a terminal of `width` columns after some bytes; rows that scrolled off are kept."""

    def __init__(self, width):
        self.width, self.rows, self.y, self.x = width, [[]], 0, 0

    def feed(self, text):
        for m in re.finditer(r"\x1b\[([?0-9;]*)([A-Za-z~])|\x1b\][^\x07]*\x07|\x1b.|[^\x1b]", text, re.S):
            if m.group(2):
                self.act(m.group(1), m.group(2))
            elif not m.group(0).startswith("\x1b"):
                self.put(m.group(0))
        return self

    def act(self, args, letter):
        n = int(args or 1) if args.isdigit() or not args else 1
        if letter == "A":
            self.y = max(0, self.y - n)
        elif letter == "B":
            self.y += n
        elif letter == "C":
            self.x += n
        elif letter == "D":
            self.x = max(0, self.x - n)
        elif letter == "K":
            del self.row()[self.x:]
        elif letter == "J":
            del self.row()[self.x:]
            del self.rows[self.y + 1:]
        elif letter == "P":
            del self.row()[self.x:self.x + n]
        elif letter == "@":
            self.row()[self.x:self.x] = " " * n

    def row(self):
        while len(self.rows) <= self.y:
            self.rows.append([])
        return self.rows[self.y]

    def put(self, c):
        if c == "\r":
            self.x = 0
        elif c == "\n":
            self.y += 1
            self.row()
        elif c == "\b":
            self.x = max(0, self.x - 1)
        elif c >= " ":
            wide = 2 if unicodedata.east_asian_width(c) in "WF" else 1
            if self.x + wide > self.width:
                self.y, self.x = self.y + 1, 0
            row = self.row()
            row.extend(" " * (self.x - len(row)))
            row[self.x:self.x + wide] = [c] + [""] * (wide - 1)
            self.x += wide

    def text(self):
        return "\n".join("".join(r).rstrip() for r in self.rows)


class Chat:
    def __init__(self, model, *args, env=UTF8, term="xterm", columns=80, rows=24):
        self.columns = columns
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            job = os.fork()  # as a shell has it: what leads the session is not what is stopped
            os.setpgid(job, job)
            if job:
                os.tcsetpgrp(0, job)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                os._exit(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]) & 255)
            while os.tcgetpgrp(0) != os.getpid():
                time.sleep(0.001)
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the suite may run under nohup
            keep = {k: v for k, v in os.environ.items() if k in ("PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "HOME")}
            os.environ.clear()
            os.environ.update({**keep, "TERM": term, **env})
            os.chdir(path(""))  # the sandbox lets it write there
            os.execv(PROGRAM, [PROGRAM, "chat", model, "--temp", "0", "-t", "1", *args])
        self.resize(columns, rows)
        self.found = termios.tcgetattr(self.fd)
        self.out, self.at, self.status = b"", 0, None

    def resize(self, columns, rows=24):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def pump(self, seconds):
        """Reads for so long, or until the program is silent for as long as that; False: it has ended."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            got = os.read(self.fd, 65536)
        except OSError:
            got = b""
        self.out += got
        return got != b""

    def until(self, pattern, seconds=60):
        """Waits for a pattern behind what was waited for before; the bytes to its end."""
        end = time.time() + seconds
        while time.time() < end:
            m = re.search(pattern, self.out[self.at:], re.S)
            if m:
                got = self.out[self.at:self.at + m.end()]
                self.at += m.end()
                return got
            if not self.pump(0.2):
                break
        m = re.search(pattern, self.out[self.at:], re.S)
        got = self.out[self.at:]
        self.at = len(self.out)
        if not m:
            print(f"  waited in vain for {pattern!r} in {got[-1500:]!r}")
            self.lost = True
        return got

    lost = False

    def job(self):
        """The process of the program."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as f:
            return int(f.read().split()[0])

    def give(self, data, seconds=60):
        """Sends it, and waits until the program has read it: what was not would go with a Ctrl-C."""
        def read():
            with open(f"/proc/{self.job()}/io") as f:
                return int(f.readline().split()[1])
        before, end = read(), time.time() + seconds
        self.send(data)
        while read() < before + len(data) and time.time() < end:
            self.pump(0.01)

    def worked(self):
        """Seconds that the program has computed."""
        with open(f"/proc/{self.job()}/stat") as f:
            return sum(int(n) for n in f.read().rsplit(")", 1)[1].split()[11:13]) / os.sysconf("SC_CLK_TCK")

    def stops(self):
        job, end = self.job(), time.time() + 60
        while time.time() < end:
            with open(f"/proc/{job}/stat") as f:
                if f.read().rsplit(")", 1)[1].split()[0] == "T":
                    self.pump(0.1)
                    return True
            self.pump(0.05)
        return False

    def prompt(self):
        return self.until(rb"(?:2004h|\n)[^\n>]{0,40}K[^\n>]{0,40}> ")

    def send(self, data):
        data = data.encode() if isinstance(data, str) else data
        while data:
            select.select([], [self.fd], [], 5)
            n = os.write(self.fd, data[:1024])
            data = data[n:]
            if data:
                self.pump(0)

    def say(self, data):
        """Sends it with Enter, and waits for the next prompt."""
        self.send((data.encode() if isinstance(data, str) else data) + b"\r")
        return self.prompt()

    def messages(self):
        """What the user has said, through /export."""
        name = path(f"said{time.time_ns()}.jsonl")
        self.say(f"/export {name}")
        end = time.time() + 60  # the prompt may have been one from before, of a Ctrl-C that came late
        while not os.path.exists(name):
            if time.time() > end or not self.pump(0.1):
                return None
        with open(name) as f:
            return [json.loads(l) for l in f]

    def said(self):
        return [m["content"] for m in self.messages() or [] if m["role"] == "user"]

    def modes_are_back(self):
        return termios.tcgetattr(self.fd) == self.found

    def end(self, send=b"\x04", seconds=60):
        if send:
            self.send(send)
        end = time.time() + seconds
        while self.status is None and time.time() < end:
            self.pump(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        if self.status is None:
            os.kill(self.job(), signal.SIGKILL)
            os.waitpid(self.pid, 0)
        while self.pump(0.02) and select.select([self.fd], [], [], 0)[0]:
            pass
        os.close(self.fd)
        return self.status

    def screen(self):
        return Screen(self.columns).feed(self.out.decode("utf-8", "replace")).text()


def start(model="plain", *args, **more):
    c = Chat(path(model + ".fulgur"), *args, **more)
    c.prompt()
    return c


# ---- keys ----

LEFT, RIGHT, HOME, END = b"\x1b[D", b"\x1bOC", b"\x1b[H", b"\x1b[4~"
KEYS = [
    (b"abc" + LEFT + b"X", "abXc"), (b"abc" + LEFT + LEFT + RIGHT + b"X", "abXc"),
    (b"bc" + HOME + b"a" + END + b"d", "abcd"), (b"b\x1b[1~a\x1bOFc\x1b[7~0\x1b[8~1", "0abc1"),
    (b"one two three\x1b[1;5D\x1b[1;5DX", "one Xtwo three"), (b"one two\x1b[H\x1b[1;5CX", "oneX two"),
    (b"one two\x1bOd\x1b[1;3DX", "Xone two"), (b"one two\x1bbX", "one Xtwo"),
    (b"abc" + LEFT + LEFT + b"\x1b[3~X", "aXc"), (b"abc\x1b[H\x1b[3~\x1b[3~", "c"),
    (b"one two\x1b[H\x1b[3;5~X", "X two"), (b"a\x1b\rb", "a\nb"), (b"a\x1b[13;2ub\x1b[27;2;13~c", "a\nb\nc"),
    (b"one two\x17X", "one X"), (b"abc\x15X", "X"), (b"abc\x01\x0bX", "X"),
    # keys that mean nothing here leave nothing
    (b"a\x1bOP\x1bOQ\x1b[15~\x1b[24~\x1b[Z\x1b[5~\x1b[6~\x1b[2~b", "ab"), (b"a\x1b[[A\x1b[[Eb", "ab"),
    (b"a\x1b[1;5P\x1b[23;6~b\x1b[1;9Dc", "cab"), (b"a\x1b[M !!\x1b[<0;3;4M\x1b[<0;3;4mb", "ab"),
    (b"a\x1b[I\x1b[Ob\x1b[?1;2c\x1b[24;80Rc", "abc"), (b"a\x1b]11;rgb:0/0/0\x07b\x1b]10;x\x1b\\c\x1bP1$r\x1b\\d", "abcd"),
    (b"a\x1b[97;5ub\x1b[57399uc", "abc"), (b"a\x00b\x1b[201~c", "abc"), (b"\xe4\xb8\xad\xe6\x96\x87\x1b[D\xf0\x9f\x99\x82", "中🙂文"),
    (b"a\xffb\xc3(", "a\ufffdb\ufffd("), (b"x\xc2\x9b31my", "x\ufffd31my"), ("ßäé".encode() + LEFT + b"X", "ßäXé"),
    ("abc\x1b[D\x7fX".encode(), "aXc"),
]
c = start()
for keys, _ in KEYS:
    c.say(keys)
got = c.said()
for (keys, want), have in zip(KEYS, got + [None] * len(KEYS)):
    check(f"key {keys!r}", have == want, (have, want))
check("keys.all", len(got) == len(KEYS), got)
for patience in (0.25, 1, 4):  # how long it waits for the rest of a sequence is by the clock: a busy machine may need more
    c.give(b"ab\x1b")
    time.sleep(patience)
    c.say(b"c")
    if c.said()[-1:] == ["abc"]:
        break
check("key.lone_escape", c.said()[-1:] == ["abc"], c.said()[-1:])
check("key.ctrl_d_in_a_line_stays", (c.send(b"x\x04"), c.say(b"y"), c.said()[-1])[-1] == "xy")
check("key.ctrl_d_leaves", c.end() == 0, c.status)

# ---- pasted text ----

MEGABYTE = "".join(f"line {i} of a long text\n" for i in range(43000))[:1 << 20]
PASTES = [
    ("one_line", b"hello", "hello"), ("lines", b"line one\nline two\n\nline four", "line one\nline two\n\nline four"),
    ("crlf", b"a\r\nb\r\n\r\nc", "a\nb\n\nc"), ("cr", b"a\rb\r\rc", "a\nb\n\nc"), ("tabs", b"a\tb\n\tc", "a\tb\n\tc"),
    ("partial_end", b"a\x1b[201b\x1b[20\x1b[200~c", "a\x1b[201b\x1b[20\x1b[200~c"), ("wide", "中文\n🙂".encode(), "中文\n🙂"),
    ("not_utf8", b"a\xff\xc3(b\xe4\xb8", "a\ufffd\ufffd(b\ufffd"), ("nul", b"a\x00b", "a\ufffdb"), ("ctrl_c", b"a\x03b\x1ac\x04d", "a\x03b\x1ac\x04d"),
    ("slash", b"not /quit\n/quit", "not /quit\n/quit"), ("quotes", b"say \"\"\" thrice", 'say """ thrice'),
    ("hundred_lines", b"x\n" * 99 + b"y", "x\n" * 99 + "y"), ("8_kb", b"0123456\n" * 1024 + b"end", "0123456\n" * 1024 + "end"),
]
c = start("plain", "-c", "200000")
for name, data, want in PASTES:
    if len(data) < 300:
        c.say(PASTE + data + PASTED)
    else:
        c.say(b"see: " + PASTE + data + PASTED + b" ?")
got = c.said()
for (name, data, want), have in zip(PASTES, got + [None] * len(PASTES)):
    want = want if len(data) < 300 else "see: " + want + " ?"
    check(f"paste.{name}", have == want, (have or "")[:300])
check("paste.one_turn_each", len(got) == len(PASTES), len(got))
check("paste.brackets", c.out.count(b"\x1b[?2004h") == c.out.count(b"\x1b[?2004l") + 1, c.out.count(b"\x1b[?2004h"))
c.send(PASTE + b"a b" + PASTED)  # not sent before Enter, and it can be edited
c.send(b"\x1b[DX")
c.say(b"")
check("paste.can_be_edited", c.said()[-1] == "a Xb", c.said()[-1:])
c.end()
check("paste.brackets_off_at_the_end", c.out.rindex(b"\x1b[?2004l") > c.out.rindex(b"\x1b[?2004h"))
c = start("plain", "-c", "5000")
c.send(PASTE + MEGABYTE.encode() + PASTED + b"\r")
got = c.until(rb"context: ([\d,]+) tokens")
c.prompt()
count = int(re.search(rb"([\d,]+) tokens$", got).group(1).replace(b",", b"")) if not c.lost else 0
bare = len(MEGABYTE)
check("paste.megabyte", bare < count < bare + 100, (count, bare))
check("full_context.says_what_helps", b"/ctx" in c.out and b"/undo" in c.out, c.out[-400:])
c.send(b"\x15")  # the message is in the editor still: cleared
c.say("/ctx 60000")
check("full_context.comes_back", b"bytes]" in c.until(rb"bytes\]"))
c.send(b"\x03")
c.prompt()
c.say(b"small")
check("full_context.goes_on", c.said() == ["small"] and b"/58.6K> " in c.out, c.said())
c.end()

# ---- several lines, history ----

state = path("state")
c = start("plain", "--history", env={**UTF8, "XDG_STATE_HOME": state})
c.send(b"one\\\r")
c.until(rb"\.\.\. ")
c.say(b"two")
c.send(b'"""first\r')
c.until(rb"\.\.\. ")
c.send(b"second \\\r")
c.until(rb"\.\.\. ")
c.say(b'third"""')
c.say(b'"""whole"""')
c.say(b"\x1b[A\x1b[A!")  # two back
c.say(b"ab\x1b\rcd\x1b[AX\x1b[BY")  # up and down inside a message
check("lines", c.said() == ["one\ntwo", "first\nsecond \\\nthird", "whole", "first\nsecond \\\nthird!", "abX\ncdY"], c.said())
c.end()
file = os.path.join(state, "fulgur/history")
check("history.mode", os.path.exists(file) and os.stat(file).st_mode & 0o777 == 0o600 and os.stat(os.path.dirname(file)).st_mode & 0o777 == 0o700)
with open(file, "a") as f:
    f.writelines(f"old {i}\\nx\\\\y\n" for i in range(1500))
c = start("plain", "--history", env={**UTF8, "XDG_STATE_HOME": state})
c.say(b"\x1b[A\x1b[A\x1b[A.")  # the second one goes up inside the entry
check("history.kept", c.said() == ["old 1498\nx\\y."], c.said())
c.end()
kept = open(file).read().split("\n")
check("history.thousand", 1000 <= len(kept) <= 1005 or os.path.getsize(file) < (2 << 20), len(kept))
c = start("plain", env={**UTF8, "XDG_STATE_HOME": path("nothing")})
c.say(b"x")
c.end()
check("history.nothing_unless_asked", not os.path.exists(path("nothing")))

# ---- commands ----

note = path("a note.txt")
open(note, "w").write("noted\n")
c = start("thinks")
check("command.unknown", b"/retrry: unknown command" in c.say("/retrry") and b"/retry" in c.out)
c.send(b"\x15")
check("command.no_name", b"perhaps /help " in c.say("/"))
c.send(b"\x15")
check("command.none_is_sent", c.said() == [], c.said())
c.say("//tmp is a folder")
check("command.two_slashes", c.said() == ["/tmp is a folder"], c.said())
c.say(f"/read {note}")
check("command.read_shows", b"+a note.txt" in c.out, c.out[-300:])
c.say("what is it?")
check("command.read", c.said()[-1] == "noted\n\nwhat is it?", c.said())
check("command.think", b"three\r\nfour" in c.say("/think"))
c.say("/undo")
check("command.undo", len(c.said()) == 1)
os.mkfifo(path("nobody"))
c.send("/read " + path("nobody") + "\r")
c.until(rb"reading .*nobody, \d s")  # nobody writes
c.send(b"\x03")
check("command.read_is_stopped", b"stopped" in c.prompt(), c.out[-200:])
c.send(b"\x15")
before = c.messages()
c.say("/retry")
check("command.retry", c.messages() == before and b"seed    1" in c.say("/set"), before)
c.say("/set temp 0.5")
check("command.set", re.search(rb"temp +0.5 ", c.say("/set")) is not None)
check("command.set_refuses", b"/set top-p: 3, expected a number from 0 to 1" in c.say("/set top-p 3"))
c.send(b"\x15")
check("command.set_unknown", b"fulgur: /set: colour" in c.say("/set colour red"))
c.send(b"\x15")
c.say("/edit")
c.send(b"!")
c.say("")
check("command.edit", c.said() == ["/tmp is a folder!"], c.said())
used = re.findall(rb"(\d+)/\d+K> ", c.out)[-1]
c.say("/forget-thinking")
check("command.forget_thinking", int(re.findall(rb"(\d+)/\d+K> ", c.out)[-1]) < int(used), c.out[-200:])
c.say("/system Be brief.")
c.say("/reset")
c.say("hi")
check("command.system", [m["role"] for m in c.messages()] == ["system", "user", "assistant"])
md = path("t.md")
c.say(f"/export {md}")
check("command.export", "thought" in open(md).read() and "## You\n\nhi" in open(md).read())
check("command.export_keeps_files", b"exists already" in c.say(f"/export {md}"))
c.send(b"\x15")
check("command.status", b"positions" in c.say("/status") and all(w in c.say("/help") for w in (b"/undo", b"/export")))
c.send(b"/sta\t")
c.say(b"")
check("command.tab", b"avx" in c.out or b"kernels" in c.out)
c.send(b"/re\t\t")
c.until(rb"read.*retry.*reset")
c.send(b"\x15/read " + path("a no").encode() + b"\t\r")
c.until(rb"go with the next message")
c.prompt()
c.say("tabbed")
check("command.tab_file", c.said()[-1] == "noted\n\ntabbed", c.said())
c.send(b"a\tb")
c.say("")
check("command.tab_elsewhere", c.said()[-1] == "a\tb", c.said()[-1:])
c.say("/set stop wer")
c.say("/reset")
c.say("hi")
check("command.stop", c.messages()[-1]["content"].strip() == "ans", c.messages())
c.send("/quit\r")
check("command.quit", c.end(b"") == 0)

# ---- thoughts ----

c = start("thinks")
c.say("hi")
c.end()
text = c.screen()
check("fold.line", re.search(r"thought \d+ tokens, \d+ s \(/think shows it\)\nanswer\.", text), text[-400:])
check("fold.nothing_else", "seven" not in text and "<think>" not in text, text)
check("fold.control", "seven" in c.out.decode() or b"thought" in c.out)
c = start("thinks", "--think", "show")
c.say("hi")
c.end()
check("show", "seven" in c.screen() and b"\x1b[2m" in c.out)
c = start("thinks", "--think", "hide")
c.say("hi")
c.end()
check("hide", "seven" not in c.screen() and "hi\nanswer." in c.screen() and "thought" not in c.screen(), c.screen())
for name, env, term in (("no_color", {**UTF8, "NO_COLOR": "1"}, "xterm"), ("dumb", UTF8, "dumb")):
    c = Chat(path("thinks.fulgur"), env=env, term=term)
    c.prompt()
    c.say("hi")
    c.end()
    shown = c.out.replace(b"\x1b[?2004h", b"").replace(b"\x1b[?2004l", b"")
    check(f"{name}.shows", b"seven" in shown and b"\x1b[2m" not in shown, shown)
    if name == "dumb":
        check("dumb.no_escapes", b"\x1b" not in c.out, c.out)
c = start("muses", "--no-repeat-stop", columns=40)
c.send("hi\r")
for _ in range(6):  # rows drawn over rows
    c.until(rb"thinking: [\d,]+ tokens")
rows = Screen(40).feed(c.out[:c.at].decode("utf-8", "replace")).text().split("\n")
window = [r for r in rows if "hm " in r or "so" in r or "thinking" in r]
check("fold.six_rows", 2 <= len(window) <= 6, rows)
c.resize(30)
c.columns = 30
for _ in range(3):
    c.until(rb"thinking: [\d,]+ tokens")
c.send(b"\x03")
c.prompt()
check("fold.resized", b"stopped" in c.out and b"thought" in c.out, c.out[-300:])

# ---- Ctrl-C ----

check("interrupt.thought", c.said() == ["hi"] and c.messages()[-1]["reasoning_content"].startswith("hm so "))
n = len(c.messages()[-1]["reasoning_content"])
c.send("/continue\r")
c.until(rb"thinking: [\d,]+ tokens")
c.send(b"\x03")
c.prompt()
more = c.messages()[-1]["reasoning_content"]
check("interrupt.continue", len(more) > n and re.fullmatch("(hm so )*(hm )?", more), (n, len(more)))
c.end()
c = start("long", "--no-repeat-stop")
c.send("hi\r")
c.until(rb"word and word")
asked = c.worked()
c.send(b"\x03\x03\x03")
c.prompt()
check("interrupt.answer", c.worked() - asked < 1 and c.said() == ["hi"], c.out[-200:])
c.say("/set n 5")
c.say("again")
check("interrupt.goes_on", c.said() == ["hi", "again"] and c.messages()[-1]["content"] == "word and word and word ", c.messages()[-1])
c.send("half a line\x03")
c.prompt()
c.say("whole")
check("interrupt.prompt", c.said()[-1] == "whole")
c.send(b"x\x03")
c.prompt()
c.send(b"\x03")
check("interrupt.twice_leaves", c.end(b"") == 0)

if nano(path("nano.fulgur")) == 0:
    M = path("nano.fulgur")
    TEXT = "The old man looked at the sea and thought of the boats. " * 150
    c = Chat(M, "-t", "1", "-n", "6", "-c", "4000")
    c.prompt()
    c.send(PASTE + TEXT.encode() + PASTED + b"\r")
    c.until(rb"2004l")
    begun = c.worked()
    while c.worked() < begun + 0.15 and c.pump(0.02):  # somewhere in it
        pass
    asked = c.worked()
    c.send(b"\x03")
    got = c.until(rb"stopped; ([\d,]+) tokens|stopped; the message|prompt [\d,]+ tokens")
    heard = c.worked() - asked
    c.prompt()
    if b"(stopped; /continue" in got:  # it was through, and the reply is stopped
        c.say("/continue")
        turned = c.messages()
    elif b"(stopped; " in got:
        check("interrupt.prefill_heard", heard < 1, heard)
        c.say("")
        turned = c.messages()
    else:
        c.until(rb"leaves\)")  # it was through already: heard at the prompt
        c.prompt()
        turned = c.messages()
    c.end()
    plain = Chat(M, "-t", "1", "-n", "6", "-c", "4000")
    plain.prompt()
    plain.say(PASTE + TEXT.encode() + PASTED)
    want = plain.messages()
    plain.end()
    want_long = want
    if b"(stopped; /continue" in got:  # six tokens more, however many there were
        turned[-1]["content"] = turned[-1]["content"][:len(want[-1]["content"])]
    check("interrupt.prefill_goes_on", turned == want and want and want[0]["content"] == TEXT, (turned or [0])[-1:])

# ---- signals ----

c = start("long", "--no-repeat-stop")
c.send("half")
c.until(rb"half")
c.send(b"\x1a")
stopped = c.stops()
check("stop.stops", stopped)
check("stop.terminal_is_back", c.modes_are_back() and c.out.rindex(b"\x1b[?2004l") > c.out.rindex(b"\x1b[?2004h"))
os.kill(c.job(), signal.SIGCONT)
c.until(rb"\x1b\[\?2004h")
c.send(" line\r")
c.until(rb"word and")
c.send(b"\x1a")  # in a reply
stopped = c.stops()
check("stop.in_a_reply", stopped and c.modes_are_back())
os.kill(c.job(), signal.SIGCONT)
c.until(rb"word and word")
c.send(b"\x03")
c.prompt()
check("stop.goes_on", c.said() == ["half line"], c.said())
c.send("again\r")
c.until(rb"word and")
os.kill(c.job(), signal.SIGTERM)
status = c.end(b"")
check("term.leaves", status == 143 or status == 1, status)
c = start("plain")
os.kill(c.job(), signal.SIGHUP)
check("hup.leaves", c.end(b"") in (1, 129), c.status)
c = start("plain")
c.send("a long line of words that will wrap when the window gets narrow, as it does now")
c.until(rb"now")
c.resize(30)
c.until(rb"narrow")
c.send(b"\x1b[H0")
c.resize(100)
c.until(rb"as it does now")
c.say(b"")
check("resize.edit", c.said() == ["0a long line of words that will wrap when the window gets narrow, as it does now"], c.said())
c.send(b"/quit\r")
c.end(b"")

# ---- what is typed while the model speaks; text of the model ----

c = start("long", "--no-repeat-stop", "-n", "6000")
c.send("hi\r")
c.until(rb"word and")
c.give("next")
c.send(b"\x03")
c.prompt()
c.say("!")
check("typed_ahead", c.said()[-1:] == ["next!"], c.said())
c.end()
c = start("ansi")
c.say("hi")
c.end()
check("model_text_is_text", not any(s in c.out for s in (b"\x1b]0", b"\x1b[2J", b"\x1b[31m", b"\xc2\x9b", "\u202e".encode())), c.out)
check("model_text_control", "\ufffd[2J" in c.out.decode(), c.out)
for env in ({}, {"LANG": "C"}, {"LANG": "de_DE.UTF-8"}, {"LC_ALL": "POSIX"}, UTF8):
    c = start("plain", env=env)
    c.say("ß北é🙂")
    check(f"locale.{'_'.join(env.values()) or 'unset'}", c.said() == ["ß北é🙂"], c.said())
    c.end()

# ---- sessions on disk ----

KEPT = {**UTF8, "XDG_STATE_HOME": path("kept")}
c = start("thinks", "--session", "plan", env=KEPT)
c.say("hi")
c.say("more")
want = c.messages()
c.end()
c = start("thinks", "--resume", env=KEPT)
check("session.resume", c.messages() == want and b"session plan: 2 turns" in c.out, (c.messages(), want))
c.say("third")
c.say("/undo")
c.end()
c = start("thinks", "--session", "plan", env=KEPT)
check("session.undone", c.messages() == want, c.messages())
c.say("/branch other")
c.say("in other")
shown = c.say("/sessions")
check("session.list", b"plan" in shown and b"other" in shown and b"in use" in shown, shown)
c.say("/load plan")
check("session.load", c.messages() == want and b"2 turns" in c.out, c.messages())
check("session.none", b"fulgur: " in c.say("/load nothing"))
c.send(b"\x15/load other\r")
c.until(rb"3 turns")
c.prompt()
check("session.branch", c.said() == ["hi", "more", "in other"], c.said())
c.end()
c = start("thinks", env=KEPT)
c.say("kept later")
c.say("/save late")
c.say("and on")
want = c.messages()
c.end()
c = start("thinks", "--session", "late", env=KEPT)
check("session.save", c.messages() == want and len(c.said()) == 2, c.messages())
c.end()
# settings go with it, and what the command line gives wins
c = start("thinks", "--session", "set", env=KEPT)
c.say("/set n 700")
c.say("/set stop wer")
c.say("/set top-k 5")
c.say("hi")
first = c.messages()
check("settings.stop", first[-1]["content"].strip() == "ans", first)
c.say("/set think show")
c.end()
c = start("thinks", "--resume", "--top-k", "7", env=KEPT)
shown = c.out
check("settings.said", re.search(rb"with the session's n 700, stop \[\"wer\"\], think \"show\"; ", shown) is not None, shown)
shown = c.say("/set")
check("settings.kept", all(re.search(w, shown) for w in (rb"n +700", rb'stop +"wer"', rb"think +show", rb"top-k +7")), shown)
check("settings.text_is_what_was_shown", c.messages() == first, (c.messages(), first))
c.say("/ctx 60000")
c.end()
c = start("thinks", "--session", "set", env=KEPT)
check("session.ctx", b"/58.6K> " in c.out and b"top-k 7" in c.out, c.out)
c.say("/set stop")
c.say("more")
before = c.messages()
check("session.ctx_goes_on", before[-1]["content"].strip() == "answer." and before[-1]["reasoning_content"].startswith("one"), before)
c.say("/forget-thinking")
after = c.messages()
check("session.forgets", not any("reasoning_content" in m for m in after) and
      [m["content"].strip() for m in after] == [m["content"].strip() for m in before], after)
c.say("third")
after = c.messages()
c.end()
c = start("thinks", "--session", "set", env=KEPT)
check("session.forgot", c.messages() == after, (c.messages(), after))
c.end()
check("session.forgot_is_whole", run("session", "verify", "set", env=KEPT)[0] == 0)
status, out, _ = run("session", "list", "--json", env=KEPT)
kept = [x for x in json.loads(out) if x["name"] == "set"][0]["settings"]
check("settings.listed", kept["top-k"] == 7 and kept["stop"] == [] and kept["ctx"] == 60000 and kept["temp"] == 0, kept)
# what was given and not sampled
c = start("muses", "--no-repeat-stop", "--think-budget", "100", "-n", "300", "--session", "given", env=KEPT)
c.say("hi")
c.end()
status, out, _ = run("session", "export", path("muses.fulgur"), "given", "--json", env=KEPT)
given = [json.loads(l) for l in out.split(b"\n") if l][-1].get("given")
check("session.given", status == 0 and given and given[0]["why"] == "budget" and given[0]["tokens"] > 0, out[:300])
for how in (signal.SIGTERM, signal.SIGKILL):
    c = start("muses", "--no-repeat-stop", "--session", f"m{how}", env=KEPT)
    c.send("hi\r")
    c.until(rb"thinking: \d,\d+ tokens")
    os.kill(c.job(), how)
    c.end(b"")
    c = Chat(path("muses.fulgur"), "--no-repeat-stop", "--session", f"m{how}", env=KEPT)
    c.until(rb"the last reply goes on.*thinking: [\d,]+ tokens")
    c.send(b"\x03")
    c.prompt()
    got = c.messages()
    check(f"session.goes_on_after_{how.name}", got[0]["content"] == "hi" and re.fullmatch("(hm so )*(hm )?", got[1]["reasoning_content"])
          and len(got[1]["reasoning_content"]) > 3000, str(got)[:200])
    c.end()
FRESH = {**UTF8, "XDG_STATE_HOME": path("fresh/deep")}  # nothing is there yet, nor above it
check("session.resume_of_nothing", run("chat", path("plain.fulgur"), "--resume", env=FRESH)[0] == 1 and not os.path.exists(path("fresh")))
c = start("plain", env=FRESH)
c.say("hi")
c.say("/save first")
c.say("/branch second")
want = c.messages()
c.end()
c = start("plain", "--resume", env=FRESH)
check("session.save_makes_folders", b"session second: 1 turn)" in c.out and c.messages() == want, c.out[-300:])
c.end()
if os.path.exists(path("nano.fulgur")):  # killed in a long prompt: what was saved of it stays, and Enter sends it on
    ARGS = ("-t", "1", "-n", "6", "-c", "4000", "--session")
    for name, how in (("killed", signal.SIGKILL), ("told", signal.SIGTERM), ("stopped", None)):
        c = Chat(path("nano.fulgur"), *ARGS, name, env=FRESH)
        c.prompt()
        c.send(PASTE + TEXT.encode() + PASTED + b"\r")
        until = time.time() + 60
        while not os.path.exists(path(f"fresh/deep/fulgur/sessions/{name}.fgs/s.0")) and c.pump(0.01) and time.time() < until:
            pass
        job = c.job()
        if how is None:
            c.send(b"\x03")
            c.until(rb"stopped")
            c.prompt()
        else:
            os.kill(job, how)
        c.end(b"" if how else b"\x15/quit\r")
        c = Chat(path("nano.fulgur"), *ARGS, name, env=FRESH)
        got = c.until(rb"([\d,]+) tokens of it are;")
        kept = int(re.search(rb"([\d,]+) tokens of it are;", got).group(1).replace(b",", b"")) if not c.lost else 0
        check(f"session.{name}_message_returns", b"bytes]" in c.until(rb"K> .*bytes\]") and 900 < kept < 2500, (kept, c.out[-300:]))
        c.say(b"")
        check(f"session.{name}_goes_on", c.messages() == want_long, c.messages())
        c.end()
        check(f"session.{name}_is_whole", run("session", "verify", name, env=FRESH)[0] == 0)
    # stopped on the way back to where it is undone, or to other ids: what was said before is kept, at leaving as well
    c = Chat(path("nano.fulgur"), "-n", "40", "-c", "4000", "--session", "way", env=FRESH)
    c.prompt()
    c.say("What is 17 + 25?")
    c.say(PASTE + TEXT[:1100].encode() + PASTED)
    c.say("third")
    want = c.messages()
    c.end()
    for words, left in ((b"/forget-thinking", want), (b"fourth", want[:4])):
        run("session", "strip", "way", env=FRESH)  # a long way: there is no snapshot
        c = Chat(path("nano.fulgur"), "-t", "1", "--cpu", "scalar", "--session", "way", env=FRESH)
        c.prompt()
        if words == b"fourth":
            c.say("/undo")
        begun = c.worked()
        c.send(words + b"\r")
        while c.worked() < begun + 0.1 and c.pump(0.02):
            pass
        c.send(b"\x03")
        c.prompt()
        stopped = b"(stopped; the " in c.out
        c.end(b"\x15\x04")
        c = Chat(path("nano.fulgur"), "--session", "way", env=FRESH)
        c.prompt()
        check(f"session.stopped_{words.decode()}", not stopped or c.messages() == left, (c.messages(), left))
        c.end()
log = path("fresh/deep/fulgur/sessions/second.fgs/log")
with open(log) as f:  # what cannot be loaded costs nothing of what is here, kept on disk or not
    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for args in ((), ("--session", "first")):
        c = start("plain", *args, env=FRESH)
        c.say("here")
        before = c.messages()
        c.say("/load second")
        c.send(b"\x15")
        refused = b"in use" in c.out
        c.say("more")
        check(f"session.load_refused{len(args)}", refused and len(before) > 1 and c.messages()[:-2] == before, (before, c.messages()))
        c.end()
for kind, held in ((fcntl.LOCK_SH, b"1 turn)"), (fcntl.LOCK_EX, b"in use")):  # who reads is waited for, who writes is not
    with open(log) as f:
        fcntl.flock(f, kind | fcntl.LOCK_NB)
        c = Chat(path("plain.fulgur"), "--session", "second", env=FRESH)
        c.until(rb"leaves" if kind == fcntl.LOCK_SH else rb"in use")
        fcntl.flock(f, fcntl.LOCK_UN)  # whoever inherited it has it no more
    if kind == fcntl.LOCK_SH:
        c.prompt()  # what is typed before is not for it
    c.end()
    check(f"session.lock_{kind}", held in c.out, c.out)
for times in (1, 2):  # each damage leaves what it hid
    c = start("plain", "--session", "second", env=FRESH)
    c.say("more")
    c.say("and more")
    c.end()
    with open(log, "r+b") as f:
        f.seek(4096 * 2 + 100)
        f.write(b"damage")
    start("plain", "--session", "second", env=FRESH).end(b"\x15\x04")  # the message without a reply is in the editor
lost = sorted(os.path.getsize(os.path.join(os.path.dirname(log), n)) for n in os.listdir(os.path.dirname(log)) if n.startswith("log.lost"))
check("session.lost_is_kept", len(lost) == 2 and lost[0] > 0, lost)
check("session.rm_takes_all", run("session", "rm", "second", env=FRESH)[0] == 0 and not os.path.exists(os.path.dirname(log)))
c = start("plain", "--session", "hurt", env=FRESH)
for i in range(4):  # in the way of a snapshot
    os.mkdir(path(f"fresh/deep/fulgur/sessions/hurt.fgs/s.{i}.part"))
c.say("hi")
c.end()
check("session.failure_has_a_line", re.search(r"^Hello world\.\n+fulgur: .*is tried again\)", c.screen(), re.M | re.S) is not None, c.screen())
check("session.nothing_unless_asked", (start("plain", env={**UTF8, "XDG_STATE_HOME": path("none")}).end(), os.path.exists(path("none"))) == (0, False))

# ---- from files, as JSON ----

open(path("q.txt"), "w").write("from a file\n")
open(path("s.txt"), "w").write("Be kind.\n")
status, out, err = run("chat", path("thinks.fulgur"), "--temp", "0", "-f", path("q.txt"), "--system-file", path("s.txt"), "--json")
got = json.loads(out)
check("json", status == 0 and got["text"].strip() == "answer." and got["reasoning"].startswith("one") and got["end"] == "stop" and err == b"", (out, err))
a = run("chat", path("thinks.fulgur"), "--temp", "0", "-p", "from a file", "--system", "Be kind.", "--json")[1]
check("json.same_as_words", json.loads(a)["prompt_tokens"] == got["prompt_tokens"])
check("json.stdin", json.loads(run("chat", path("thinks.fulgur"), "-f", "-", "--json", stdin=b"from a file\n")[1])["text"] != "")
for args in (["--json"], ["-f", "a", "-f", path("q.txt")], ["-p", "a", "-f", path("q.txt")], ["--system", "a", "--system-file", path("s.txt"), "-p", "x"]):
    status, out, err = run("chat", path("plain.fulgur"), *args)
    check(f"usage.{args[0]}{args[2:3]}", status == 2 and err.count(b"\n") == 1, err)
status, _, err = run("chat", path("plain.fulgur"), "--session", "--resume", env=KEPT)
check("usage.session_named_as_an_option", status == 1 and b"expected a name" in err, err)
with open("/dev/full", "w") as full:
    err = subprocess.run([FULGUR, "chat", path("plain.fulgur"), "-p", "x", "--stats", "none"], stdout=full, stderr=subprocess.PIPE).stderr
check("pipe.full_disk", err == b"fulgur: standard output: No space left on device, expected a writable stream\n", err)
status, out, err = run("chat", path("thinks.fulgur"), "-p", "x", "--temp", "0", "--stop", "wer", "--stop", "zzz", "-q", "--think", "hide")
check("pipe.stop_hide_quiet", (status, out, err) == (0, b"ans\n", b""), (status, out, err))
status, out, err = run("chat", path("plain.fulgur"), "--temp", "0", "--stats", "none", stdin=b"a\n/nope\nb\n")
check("pipe.unknown_command", status == 1 and out == b"Hello world.\n" and err.startswith(b"fulgur: /nope"), (out, err))
both = [run("chat", path("plain.fulgur"), "--temp", "0", stdin=text) for text in (b"a b\r\n/quit\r\nc\r\n", b"a b")]
check("pipe.crlf", all(b[0] == 0 and b[1] == b"Hello world.\n" for b in both) and both[0][2].split(b",")[0] == both[1][2].split(b",")[0], both)
status, out, err = run("chat", path("plain.fulgur"), "--temp", "0", "--stats", "full", stdin=b'"""a\nb"""\n//x\n')
check("pipe.lines", status == 0 and out.count(b"world") == 2 and err.count(b"GB/s") == 2, (out, err))
finish()
