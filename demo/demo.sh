#!/bin/sh
# What `./run demo` shows, given the built program: a completion as it streams, drafters against plain
# decoding, and the same batch alone and as an mpirun job of two shards and a drafter rank.
set -eu
convoke=$1
model=demo/model
eagle=eagle:demo/drafters/eagle
prompts=demo/prompts.jsonl
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

bold="" plain=""
if [ -t 1 ]; then
  bold=$(printf '\033[1m') plain=$(printf '\033[0m')
fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

title "1. A completion (accepted draft tokens are coloured on a terminal)"
"$convoke" generate --model $model --drafter $eagle --temperature 0 --max-tokens 96 --stats \
  'class Stack:
    """A stack of items."""

    def __init__(self):
        self.items = []

    def push(self, item):
'

title "2. Drafters against plain decoding, on the demo prompts"
drafters=none,ngram,lookahead
for method in medusa pass eagle eagle3; do
  drafters=$drafters,$method:demo/drafters/$method
done
"$convoke" bench --model $model --prompts $prompts --drafters $drafters --sweep temperature=0,1 \
  --max-tokens 64 --limit 12

title "3. The same batch: alone without drafting, and under mpirun with two shards and a drafter"
"$convoke" batch --model $model -i $prompts -o "$work/alone.jsonl" --quiet
# Two shards and a drafter on one machine, however few cores it has and whoever starts it.
root=""
[ "$(id -u)" = 0 ] && root="--allow-run-as-root"
OMPI_MCA_mpi_yield_when_idle=1 mpirun -np 3 --oversubscribe --bind-to none $root \
  "$convoke" batch --model $model -i $prompts -o "$work/mpirun.jsonl" --drafter $eagle --quiet
sort "$work/alone.jsonl" > "$work/a"
sort "$work/mpirun.jsonl" > "$work/b"
lines=$(wc -l < "$work/a")
if cmp -s "$work/a" "$work/b"; then
  printf '\nAll %d outputs are identical, byte for byte.\n' "$lines"
else
  printf '\nOUTPUTS DIFFER: this is a bug in Convoke. Please report it.\n' >&2
  diff "$work/a" "$work/b" | head -n 4 >&2
  exit 1
fi
