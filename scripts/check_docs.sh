#!/bin/sh
# Files that documents and comments name exist.  In *.md: words in backquotes that end like a source
# file (.c .h .inc .md .sh) or begin with a folder of the top level; in C, shell and Makefile: names of
# source files in comments.  A name is a path from the root, from the file's own folder, or the end of a
# path; "*" stands for any text.  Names without a folder that are other projects' are listed below.
# check_docs.sh FILE...  checks these files against the tree (for the control in tests).
set -eu
cd "${FULGUR_TREE:-$(dirname "$0")/..}"
tree=$(find . -name .git -prune -o -path ./build -prune -o -print | sed 's|^\./||')
[ $# -gt 0 ] || set -- $(printf '%s\n' "$tree" | grep -E '(\.(c|h|inc|md|sh)|^Makefile)$')
out=$(printf '%s\n' "$tree" | awk -v files="$*" '
BEGIN {
    n = split("cJSON.h cjson/cJSON.h xxhash.h hwloc.h omp.h pcre2.h utf8proc.h histedit.h cblas.h liburing.h openssl/crypto.h openssl/evp.h openssl/sha.h math.h arm_neon.h", w, " ")
    for (i = 1; i <= n; i++) foreign[w[i]] = 1
}
# Every end of a path that begins at a folder: what a short name may be.
{
    for (path = $0; ; path = substr(path, RSTART + 1)) {
        known[path] = 1
        if (!match(path, /\//)) break
    }
    all[++n_all] = $0
}
function exists(name, dir,   i, re) {
    if (name in known || (name ".c") in known || (dir "/" name) in known || name in foreign) return 1
    if (name !~ /\*/) return 0
    re = name
    gsub(/\./, "\\.", re)
    gsub(/\*/, "[^/]*", re)
    for (i = 1; i <= n_all; i++) if (all[i] ~ ("(^|/)" re "$")) return 1
    return 0
}
function source(w) { return w ~ /^[A-Za-z0-9_\/.*-]*[A-Za-z0-9_*]\.(c|h|inc|md|sh)$/ }
function top(w) { return w ~ /^(src|quant|convert|simd|tests|bench|scripts)\/[A-Za-z0-9_\/.*-]+$/ }
function check(text, where, dir, prose,   n, i, w, part) {
    gsub(/"[^"]*"/, " ", text)
    gsub(/\([a-z0-9]*\)|[][`(),;:=|]|\047s/, " ", text)
    n = split(text, part, /[ \t]+/)
    for (i = 1; i <= n; i++) {
        w = part[i]
        sub(/[.\/]+$/, "", w)
        if ((source(w) || (!prose && top(w))) && !exists(w, dir)) print where ": " w ", expected a file of the tree"
    }
}
END {
    n_file = split(files, file, " ")
    for (f = 1; f <= n_file; f++) {
        dir = file[f]
        if (!sub(/\/[^\/]*$/, "", dir)) dir = "."
        inside = line_no = 0
        while ((getline line < file[f]) > 0) {
            where = file[f] ":" ++line_no
            if (file[f] ~ /\.md$/) {
                if (line ~ /^```/) inside = !inside
                if (inside) continue
                n_quote = split(line, quote, /`/)
                for (q = 2; q <= n_quote; q += 2) check(quote[q], where, dir, 0)
            } else if (file[f] ~ /(\.sh|Makefile)$/) {
                if (line ~ /^#/) check(line, where, dir, 1)
            } else { # C: what stands between the marks of a comment
                gsub(/"([^"\\]|\\.)*"/, " ", line)
                text = ""
                while (line != "") {
                    at = index(line, inside ? "*/" : "/*")
                    if (inside) text = text " " (at == 0 ? line : substr(line, 1, at - 1))
                    if (at == 0) break
                    line = substr(line, at + 2)
                    inside = !inside
                }
                check(text, where, dir, 1)
            }
        }
        close(file[f])
    }
}')
[ -z "$out" ] || { printf '%s\n' "$out"; exit 1; }
