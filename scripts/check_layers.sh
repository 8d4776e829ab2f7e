#!/bin/sh
# The rules between rooms (src/ARCHITECTURE.md).  Fails when a file includes a folder that its own may
# not see, an *_impl.h of another folder, or a library's header outside its one place; when two files
# have the same name; and when a type is defined twice.
# FULGUR_TREE: another tree to check instead of this one (for the controls, tests/lint/layers.py).
set -eu
cd "${FULGUR_TREE:-$(dirname "$0")/..}"
files=$(find src quant simd convert bench tests -type f \( -name '*.[ch]' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh' \))
out=$(printf '%s\n' "$files" | awk '
# A rule: "folder: what it may include".  Its own folder and src/base are always allowed; an entry is a
# folder, itself only, or one header, or "=FOLDER": what FOLDER may include.
function rule(text,   p, dir) {
    p = index(text, ":")
    dir = substr(text, 1, p - 1)
    may[dir] = " " dir (dir == "src" ? "" : " src/base") " " substr(text, p + 1) " "
}
function expand(list,   n, part, i, out) {
    n = split(list, part, " ")
    out = " "
    for (i = 1; i <= n; i++) out = out (part[i] ~ /^=/ ? expand(may[substr(part[i], 2)]) : part[i] " ")
    return out
}
function folder(path) { sub(/\/[^\/]*$/, "", path); return path }
BEGIN {
    rule("src:") # fulgur.h alone
    rule("src/base: src/fulgur.h")
    rule("src/sys: src/fulgur.h")
    rule("quant:")
    rule("src/text: src/fulgur.h")
    rule("simd: src/sys quant")
    rule("simd/scalar: =simd simd"); rule("simd/x86: =simd simd"); rule("simd/arm: =simd simd"); rule("simd/cuda: =simd simd")
    rule("src/format: src/fulgur.h quant")
    rule("src/format/write: src/format quant")
    rule("src/carry: src/fulgur.h src/format/reader.h")
    rule("src/factor: src/sys simd")
    rule("src/expert: src/sys src/format src/factor quant src/fulgur.h")
    rule("src/model: src/sys src/format src/expert quant simd src/fulgur.h")
    rule("src/device: src/sys src/format src/expert src/model quant simd simd/cuda")
    rule("src/engine: src/fulgur.h src/sys src/format src/text src/expert src/model src/device quant simd")
    rule("src/eval: =src/engine src/engine src/format/write src/factor")
    rule("src/plan: =src/engine src/engine bench/bench.h")
    rule("bench: =src/engine src/engine")
    rule("convert/source: src/format/format.h src/format/shape.h")
    rule("convert/choose: quant src/format/file_plan.h src/format/shape.h src/model/quant_unit.h convert/source/names.h")
    rule("convert/calib: src/sys src/format/reader.h src/text/tokenizer.h src/model quant")
    rule("convert: src/sys src/format src/format/write src/text quant convert/source convert/choose convert/calib")
    rule("src/serve: src/fulgur.h")
    rule("src/cli: src/fulgur.h src/engine src/carry src/format/signature.h src/format/write/reseal.h src/factor src/eval src/plan bench convert convert/choose src/expert/heat.h src/expert/fetch.h src/sys/machine.h src/sys/room.h src/sys/disk.h src/sys/sandbox.h quant/linalg.h")
    home["cjson/cJSON.h"] = "src/base/json.c";     home["xxhash.h"] = "src/base/hash.c"
    home["hwloc.h"] = "src/sys/topo.c";            home["omp.h"] = "src/sys/team.c"
    home["pcre2.h"] = "src/text/pretoken.c";       home["utf8proc.h"] = "src/text/pretoken.c"
    home["histedit.h"] = "src/cli/line.c";         home["cblas.h"] = "quant/linalg.c"
    home["liburing.h"] = "src/expert/fetch_uring.c"; home["openssl/crypto.h"] = "src/base/crypto.c"
    home["openssl/evp.h"] = "src/base/crypto.c";   home["openssl/sha.h"] = "src/base/crypto.c"
}
{
    path = $0; dir = folder(path); name = path; sub(/.*\//, "", name)
    if (name in seen) print path ": the name of " seen[name] ", expected another one"
    seen[name] = path
    product = path !~ /^tests\//
    if (product && !(dir in may)) print path ": no rule for " dir ", expected one in check_layers.sh"
    list = product && dir in may ? expand(may[dir]) : ""
    n = 0
    while ((getline line < path) > 0) {
        n++
        if (line ~ /^#[ \t]*include/) {
            inc = line; sub(/^[^"<]*["<]/, "", inc); sub(/[">].*$/, "", inc)
            if (line ~ /</) {
                if (product && inc in home && home[inc] != path)
                    print path ":" n ": includes <" inc ">, which belongs to " home[inc]
                continue
            }
            if (product && !index(list, " " folder(inc) " ") && !index(list, " " inc " "))
                print path ":" n ": " dir " may not include " inc
            if (product && inc ~ /_impl\.h$/ && folder(inc) != dir)
                print path ":" n ": " inc " is for its own folder"
        }
        # "typedef struct name {" ... or "} name;" at the left margin
        if (product && match(line, /^typedef (struct|enum|union) fg_[a-z0-9_]+ \{/)) {
            split(line, word, " ")
            if (word[3] in type) print path ":" n ": " word[3] " is defined in " type[word[3]] " already"
            type[word[3]] = path ":" n
        }
    }
    close(path)
}')
[ -z "$out" ] || { printf '%s\n' "$out"; exit 1; }
