#!/bin/sh
# The same fine-tunes from three heads: sh run.sh RECIPE OUT [--set KEY=VALUE ...]
# Heads made of texts, fitted as a linear probe, drawn at random; everything else is equal. The same command resumes.
#   HF_SOUPS   the command, with what goes before its subcommands (hf-soups)
#   SLOTS      runs side by side (1)
#   PAIRS      pairs of runs whose lines are measured (15)
#   SUBSETS    random subsets of each number of runs (10)
set -eu
soups=${HF_SOUPS:-hf-soups} recipe=$1 out=$2
shift 2
for head in zero-shot linear-probe shared-random; do
    echo "== head: $head"
    # status 1: some runs failed; they are named, and left out of all that follows
    $soups sweep "$recipe" --out "$out/$head/runs" --slots "${SLOTS:-1}" "$@" --set head.init=$head || [ $? -eq 1 ]
    $soups cook "$out/$head/runs" --method uniform --method greedy --method wise-ft --out "$out/$head/soups"
    $soups leaderboard "$out/$head/runs"
    $soups diagnose "$out/$head/runs" --pairs "${PAIRS:-15}" --points 1 --grid 0
done
echo "== score against the number of fine-tunes, head by head"
$soups by-number "$out/zero-shot/runs" "$out/linear-probe/runs" "$out/shared-random/runs" --out "$out/by_number" \
    --subsets "${SUBSETS:-10}"
