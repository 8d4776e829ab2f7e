/* SPDX-License-Identifier: MIT
 *
 * The tutorials are executed by the tests as they stand here (tests/e2e/tutorials.py).
 */
#include "src/cli/topics.h"

#include <stdio.h>
#include <string.h>

#include "src/cli/args.h"
#include "src/cli/common.h"
#include "src/cli/confine.h"
#include "src/cli/help.h"

static const char sandbox_text[] =
    "Before a command reads anything that a stranger may have written, it gives away what it does "
    "not need: files by Landlock, system calls by seccomp. Both hold for every thread, and nobody "
    "gets anything back. A model file that takes over its reader then finds no network, no other "
    "program, and no file but those below.\n"
    "The system's own data may be read in every command (/proc, /sys, locales, time zones, "
    "terminal "
    "descriptions), /dev/null, /dev/zero and /dev/tty be written. Reading experts with io_uring "
    "goes through rings that were made before and can do nothing but read. No command starts a "
    "program or a process, opens a socket, changes owners or modes, or pushes text into the "
    "terminal. OpenBLAS (convert --calib) and the driver of a card are loaded before.\n"
    "`chat` makes the folder of sessions before it goes in, since a rule is for what is there, and "
    "removes it at the end if `/save`, `--session` and `--history` put nothing there.\n"
    "A folder is open with all that is in it: with the model in your home folder, `convert` and "
    "`chat` may write there. Give models a folder of their own.\n"
    "With a card (`--gpu`) its driver needs more: devices may be opened and asked, system folders "
    "be read, /tmp and /dev/shm be written, and sockets of this machine be used, as its "
    "services listen there. Other programs and the network stay out of reach; `--gpu off` takes "
    "the rest "
    "away too.\n"
    "`--no-sandbox` leaves all of it, and says so in a line. A kernel without Landlock (before "
    "Linux 5.13, or where it is switched off) or seccomp is a line too, and the command goes on "
    "with the other one. `fulgur doctor` says what this kernel has.\n"
    "What the paths of a command line may be used for; `makes` is create, write, rename and "
    "unlink:";

static const char admin_text[] =
    "For whoever has to allow this program on a machine that he answers for.\n"
    "Network: none. No port is opened, no name looked up, nothing sent or fetched; `socket` is "
    "refused to it by its own sandbox (`fulgur help sandbox`). No telemetry, no update.\n"
    "Rights: none beyond the user's. No setuid or setgid file, no capability, no service, no "
    "group, "
    "no kernel module. It does not start other programs.\n"
    "Reads: what its command line names; a model's parts beside it (M.fulgur.1 and so on); /proc, "
    "/sys (processors, memory, control groups); /etc/localtime, locales and terminal descriptions; "
    "~/.editrc and ~/.terminfo, if there. `convert --calib` loads libopenblas.so.0 and `--gpu` "
    "libcuda.so.1, "
    "from where the system's loader finds them; a static program loads nothing.\n"
    "Writes: what its command line names, through a temporary file beside it that is renamed when "
    "it is whole; temporary files without a name beside OUT (`convert`) and in `--dir` (`doctor`, "
    "`plan`); "
    "`numa.csv` (`numa` without `--csv`); the model itself with `score --card`, `trace --heat` and "
    "`convert --only-tokenizer`; with `chat --session`, `--history` and `/save`, "
    "$XDG_STATE_HOME/fulgur (~/.local/state/fulgur), a folder that stays empty during any other "
    "conversation and is removed when it ends. Nothing else: no cache, no log, no configuration "
    "file.\n"
    "Executable memory: the tokenizer's regular expressions are compiled by PCRE2 into memory that "
    "can be executed; where that is refused they are interpreted, with the same result. A card's "
    "driver does the same with kernels. Otherwise no page is both written and executed.\n"
    "Environment: FULGUR_MODEL, TERM, NO_COLOR, HOME, TERMINFO, TERMINFO_DIRS, LOCPATH, the "
    "locale's "
    "(LC_ALL, LC_CTYPE, LANG), TZ, OMP_*.\n"
    "Allow-lists: a bundle's MANIFEST has the SHA-256 of every file, the program's in the line "
    "that ends "
    "with bin/fulgur; two people who build one commit get the same. Of an installed one:\n"
    "  sha256sum \"$(command -v fulgur)\"\n"
    "Removing: `sh install.sh --uninstall`, `make uninstall` or the package manager; models and "
    "what was "
    "written by name stay.";

static const char convert_text[] =
    "From a downloaded checkpoint to a model file that is checked and judged. The folder of the "
    "checkpoint is MiniMax-M1-80k here; M1 takes an hour or more, the rest seconds.\n"
    "What would it be, would it fit, how fast would it run? Figures that you do not give are "
    "measured:\n"
    "  $ fulgur plan MiniMax-M1-80k --type q4 --ram 64G --disk 7GB/s --bandwidth 80GB/s --gemm "
    "900\n"
    "What would the conversion need of disk and memory? Nothing is written by this:\n"
    "  $ fulgur convert MiniMax-M1-80k m1.fulgur --dry-run\n"
    "Convert. Stopped by Ctrl-C or a loss of power it goes on with the same command:\n"
    "  $ fulgur convert MiniMax-M1-80k m1.fulgur\n"
    "Every byte has a checksum, and every tensor its error:\n"
    "  $ fulgur verify m1.fulgur\n"
    "  $ fulgur info m1.fulgur --plot errors.svg\n"
    "A text of the kind that you will use makes the same size better. Any will do to try it:\n"
    "  $ fulgur run m1.fulgur -p 'Once upon a time' -n 400 --seed 1 --ignore-eos >text.txt\n"
    "  $ fulgur convert MiniMax-M1-80k better.fulgur --calib text.txt\n"
    "Perplexity of both on a text, lower is better; judge with one that was not used above:\n"
    "  $ fulgur score m1.fulgur text.txt\n"
    "  $ fulgur score better.fulgur text.txt\n"
    "Without room for checkpoint and model at once see `--wait-for-shards` and `--delete-consumed` "
    "in `fulgur help convert`.";

static const char terminal_text[] =
    "Using a model from a terminal. Say once which one, and commands need not be told:\n"
    "  $ export FULGUR_MODEL=$PWD/m1.fulgur\n"
    "Complete a text; `--seed` with another number tells another one:\n"
    "  $ fulgur run -p 'Once upon a time' -n 40 --seed 1\n"
    "One question, one answer, always the most likely words:\n"
    "  $ fulgur chat -p 'Please compute the sum of 4821 and 3657.' --temp 0\n"
    "Only the answer, without the reasoning before it, for a script:\n"
    "  $ fulgur chat -p 'Please compute the sum of 4821 and 3657.' --temp 0 --hide-think -q "
    ">answer.txt\n"
    "A conversation, with a prompt, line editing and history; Ctrl-C stops an answer, Ctrl-D ends "
    "it:\n"
    "  fulgur chat\n"
    "Without a terminal it reads one message a line:\n"
    "  $ printf 'Hello.\\nWho are you?\\n' | fulgur chat -n 40\n"
    "Longer texts come from files or a pipe:\n"
    "  $ printf 'Once upon a time' | fulgur run -f - -n 20\n"
    "Where the model is larger than memory, give a bound, and experts are read when they are asked "
    "for:\n"
    "  $ fulgur run -p 'Once upon a time' -n 20 --ram 2G\n"
    "`fulgur doctor` says what would make this machine faster, `fulgur plan` what to expect of it.";

static const char numa_text[] =
    "An experiment with several NUMA nodes: what is expected, what is measured, and why they "
    "differ. Look at this machine, or at another one in hwloc's words or from its `lstopo "
    "FILE.xml`:\n"
    "  $ fulgur doctor --topology 'node:2 core:8 pu:1'\n"
    "What each policy of placement should give there, with the arithmetic; `--read` is what one "
    "node "
    "reads of its own memory:\n"
    "  $ fulgur numa MiniMax-M1-80k/config.json --predict --topology 'node:2 core:8 pu:1' --read "
    "200GB/s\n"
    "How even the nodes' parts of a token are, phase by phase:\n"
    "  $ fulgur numa MiniMax-M1-80k/config.json --imbalance --topology 'node:2 core:8 pu:1'\n"
    "Where a model's weights are on this machine:\n"
    "  $ fulgur info m1.fulgur --placement\n"
    "Measure here. All combinations take turns, the file is the journal, a sweep that was stopped "
    "goes on "
    "with the same command; the drawing has all that the file has:\n"
    "  $ fulgur numa m1.fulgur -t 1 --pages small --rounds 1 -r 1 --csv numa.csv --svg "
    "numa.svg\n"
    "Prediction beside measurement:\n"
    "  $ fulgur numa m1.fulgur --predict --csv numa.csv\n"
    "Weights bound to their nodes, or refused where they cannot be:\n"
    "  $ fulgur run m1.fulgur -p 'Once upon a time' -n 20 --residency copy";

static const char offline_text[] =
    "From a stick to an answer on a machine without network, compiler or administrator. What is "
    "needed "
    "is a bundle (made by scripts/bundle.sh where the source is) and a model file. Lines with a $ "
    "are "
    "typed there, those with stick$ in the bundle's folder on the stick.\n"
    "On paper, from whoever made the bundle: its version, the SHA-256 of MANIFEST and the "
    "fingerprint of the key that signs models. Compare:\n"
    "  stick$ sha256sum MANIFEST\n"
    "Install below ~/.local; every file is compared with MANIFEST first. Another place is --prefix "
    "DIR, where home allows no programs (noexec). Where there is a card and the bundle has "
    "fulgur-gpu, that is the same program with --gpu:\n"
    "  stick$ sh install.sh\n"
    "  stick$ export PATH=\"$HOME/.local/bin:$PATH\"\n"
    "  $ fulgur --version\n"
    "The model is one file, or several with numbers behind the name; a bundle may have it in "
    "models. Where sticks are smaller than it, and where it is to be proved who made it, see "
    "`fulgur "
    "help tutorial-carry`. Every byte has a checksum:\n"
    "  $ fulgur verify m1.fulgur\n"
    "  $ fulgur info m1.fulgur\n"
    "What to expect here (figures that you do not give are measured), and what would make it "
    "faster "
    "(`fulgur doctor`, 15 seconds):\n"
    "  $ fulgur plan m1.fulgur --bandwidth 80GB/s --gemm 900 --disk 1GB/s\n"
    "Ask it something; `fulgur chat m1.fulgur` is a conversation:\n"
    "  $ fulgur chat m1.fulgur -p 'Please compute the sum of 4821 and 3657.' --temp 0\n"
    "A checkpoint can be converted here as well, with a text to calibrate with if there is one:\n"
    "  $ fulgur convert MiniMax-M1-80k own.fulgur\n"
    "All manual pages are inside: `fulgur help`, `fulgur help convert`, `fulgur help sandbox`, "
    "`fulgur help "
    "admin`. To remove it:\n"
    "  stick$ sh install.sh --uninstall\n";

static const char carry_text[] =
    "A model goes to another machine over sticks that are smaller than it, and there it is known "
    "whose it is. Two folders stand for the stick and the other machine here, so that it can be "
    "tried at home; what is done there is marked THERE.\n"
    "  $ mkdir stick there\n"
    "Sign what leaves. `ours.sec` stays here; the line that is printed, the key's fingerprint, "
    "goes on paper, `ours.pub` by another way than the sticks:\n"
    "  $ fulgur key new ours\n"
    "  $ fulgur sign m1.fulgur --key ours.sec\n"
    "Fill the stick; the signature goes along. It is read back, and the last line says whether it "
    "was all, or how many more "
    "sticks of this size it takes. Then it may be unplugged; take another one and repeat the same "
    "command:\n"
    "  $ fulgur carry pack m1.fulgur stick\n"
    "THERE: take it over, stick by stick in any order. Each one keeps an answer:\n"
    "  $ fulgur carry unpack stick -o there\n"
    "Bring the stick back and fill it again: what arrived makes room, what was damaged is sent "
    "once more. When it says that all of it has arrived, you are done:\n"
    "  $ fulgur carry pack m1.fulgur stick\n"
    "How far is it? Of a model at either side, or of a stick:\n"
    "  $ fulgur carry status m1.fulgur\n"
    "THERE: whose is it? The first time the fingerprint is shown, for you to compare with the "
    "paper; `fulgur key pin` keeps a key, and `--key` is not needed any more:\n"
    "  $ fulgur verify there/m1.fulgur --key ours.pub\n"
    "  $ fulgur run there/m1.fulgur --key ours.pub -p 'Once upon a time' -n 20\n"
    "Any of these commands may be stopped, by Ctrl-C or a loss of power, and run again. Where "
    "there "
    "is no room for a second copy, `--move` at both sides gives back what has arrived. A stick "
    "that is lost: `fulgur carry pack m1.fulgur stick --again`. To carry the same model to a "
    "second "
    "machine, delete `m1.fulgur.carry` first, and `carry.received` on the sticks.";

static const topic topics[] = {
    {"tutorial-convert", "from a checkpoint to a model file, checked and judged", convert_text,
     NULL},
    {"tutorial-terminal", "using a model from a terminal and in scripts", terminal_text, NULL},
    {"tutorial-numa", "an experiment with several NUMA nodes", numa_text, NULL},
    {"tutorial-offline", "from a stick to an answer, without a network", offline_text, NULL},
    {"tutorial-carry", "a model over sticks smaller than it, and whose it is", carry_text, NULL},
    {"admin", "what it reads, writes and needs, for who has to allow it", admin_text, NULL},
    {"sandbox", "what each command may read, write, make and remove", sandbox_text, confine_print},
};
enum { N_TOPIC = sizeof topics / sizeof topics[0] };

const topic *topic_at(int i)
{
    return i < N_TOPIC ? &topics[i] : NULL;
}

const topic *topic_find(const char *name)
{
    for (int i = 0; i < N_TOPIC; i++) {
        if (strcmp(topics[i].name, name) == 0) return &topics[i];
    }
    return NULL;
}

int topic_print(const topic *t)
{
    printf("fulgur help %s: %s\n\n", t->name, t->summary);
    for (const char *at = t->text; *at != '\0';) {
        const size_t n = strcspn(at, "\n");
        const bool as_it_is = strncmp(at, "  ", 2) == 0;
        if (as_it_is) printf("%.*s\n", (int)n, at);
        if (!as_it_is) help_put(at, n, 0, 0);
        at += n;
        at += *at == '\n';
        if (!as_it_is || strncmp(at, "  ", 2) != 0) (void)putchar('\n');
    }
    if (t->more != NULL) t->more();
    return cli_finish_stdout();
}
