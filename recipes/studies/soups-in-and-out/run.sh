#!/bin/sh
# Soups in and out of distribution, and what each further fine-tune adds: sh run.sh RECIPE OUT [--set KEY=VALUE ...]
# The same command resumes.
#   HF_SOUPS   the command, with what goes before its subcommands (hf-soups)
#   SLOTS      runs side by side (1)
#   SHIFTS     names of the recipe's shifts, to test differences on: "v2 r sketch objectnet a"
#   SUBSETS    random subsets of each number of runs (10)
#   SIZES      numbers of runs, where not all up to all: "1 2 4 8 16 32"
#   DIAGNOSE   further options of hf-soups diagnose: --rows 200 --points 1 --grid 5
set -eu
soups=${HF_SOUPS:-hf-soups} recipe=$1 out=$2
shift 2
# status 1: some runs failed; they are named, and left out of all that follows
$soups sweep "$recipe" --out "$out/runs" --slots "${SLOTS:-1}" "$@" || [ $? -eq 1 ]
$soups cook "$out/runs" --out "$out/soups" --method uniform --method greedy --method learned --method learned-by-tensor \
    --method wise-ft
echo "== in and out of distribution"
$soups leaderboard "$out/runs"
for rows in report ${SHIFTS:-}; do
    echo "== differences on $rows"
    $soups compare "$out/runs" --on "$rows"
done
echo "== gain against angle, error planes, soups against ensembles"
$soups diagnose "$out/runs" ${DIAGNOSE:-}
echo "== score against the number of fine-tunes"
# shellcheck disable=SC2046 # one word for each option
$soups by-number "$out/runs" --greedy --subsets "${SUBSETS:-10}" $(printf -- '--size %s ' ${SIZES:-} | sed 's/--size *$//')
