#!/bin/sh
# Fine-tunes of one image model from a fitted and from a random head, all soups of each: sh run.sh RECIPE OUT [--set KEY=VALUE ...]
# The same command resumes.
#   HF_SOUPS   the command, with what goes before its subcommands (hf-soups)
#   SLOTS      runs side by side (1)
#   SUBSETS    random subsets of each number of runs (10)
#   SIZES      numbers of runs, where not all up to all: "1 2 4 8 16 32"
#   PAIRS      pairs of runs whose lines are measured (15)
set -eu
soups=${HF_SOUPS:-hf-soups} recipe=$1 out=$2
shift 2
for head in linear-probe shared-random; do
    echo "== head: $head"
    # status 1: some runs failed; they are named, and left out of all that follows
    $soups sweep "$recipe" --out "$out/$head/runs" --slots "${SLOTS:-1}" "$@" --set head.init=$head || [ $? -eq 1 ]
    $soups cook "$out/$head/runs" --out "$out/$head/soups" --method uniform --method greedy --method learned \
        --method learned-by-tensor --method model-stock --method wise-ft
    $soups leaderboard "$out/$head/runs"
    echo "== differences on report rows"
    $soups compare "$out/$head/runs"
    echo "== gain against angle"
    $soups diagnose "$out/$head/runs" --pairs "${PAIRS:-15}" --points 1 --grid 0
done
echo "== score against the number of fine-tunes"
# shellcheck disable=SC2046 # one word for each option
$soups by-number "$out/linear-probe/runs" "$out/shared-random/runs" --out "$out/by_number" --greedy \
    --subsets "${SUBSETS:-10}" $(printf -- '--size %s ' ${SIZES:-} | sed 's/--size *$//')
