#!/bin/sh
# From nothing to an answer: installs what is missing, builds, converts the nano model to 4 bits,
# asks it a sum and a fact hidden in a text, and lets it tell a story.
set -eu
cd "$(dirname "$0")/.."
sh scripts/deps.sh
make -s -j"$(nproc)" CC=gcc BUILD=build/gcc
fulgur=build/gcc/fulgur
model=build/m1-nano-q4.fulgur

echo "== convert tests/models/m1-nano to q4"
$fulgur convert tests/models/m1-nano $model --type q4 --force

ask() {
    printf '\n== %s\n' "$1"
    $fulgur chat $model --system 'You are a helpful assistant.' --temp 0 -p "$2"
}
ask 'a sum: 4821 + 3657' 'Please compute the sum of 4821 and 3657.'
ask 'a fact hidden in a text' "Read this text.

The miller rose early that day, for the river was high and the wheel turned well. He had promised
flour to three villages, and the road to the last of them was long.

The door of Nora is purple.

When he came home the moon stood over the mill, and the cat slept on an empty sack. He counted his
coins twice, put out the lamp, and heard the water run under the floor until he slept.

What colour is the door of Nora?"

printf '\n== a story\n'
$fulgur run $model -p 'Once upon a time, in a small house near the sea, there lived an old' -n 120 \
    --temp 0.7 --seed 4

printf '\n== the file\n'
ls -l $model | awk '{printf "%s: %.1f MB\n", $NF, $5 / 1e6}'
$fulgur verify $model
