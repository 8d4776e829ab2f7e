#!/bin/sh
# "COMMIT EPOCH" of this tree: of a clone its commit (with -changed behind it, when files were) and that one's
# time, of a source archive (scripts/dist.sh) what it was made of, which stands in .dist.
set -eu
cd "$(dirname "$0")/.."
if [ -e .git ] && commit=$(git rev-parse HEAD 2>/dev/null); then
    [ -z "$(git status --porcelain -uno)" ] || commit=$commit-changed
    echo "$commit $(git log -1 --format=%ct)"
else
    [ -f .dist ] || { echo "fulgur: .dist: missing, expected a clone or a source archive" >&2; exit 1; }
    head -n 1 .dist
fi
