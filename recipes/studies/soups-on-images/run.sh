#!/bin/sh
# Soups of fine-tunes from a learnt head and from one shared random head: sh run.sh RECIPE OUT [--set KEY=VALUE ...]
# The same command resumes. FIGURES, a file, keeps what was found for the page of evidence.
#   HF_SOUPS   the command, with what goes before its subcommands (hf-soups)
#   PYTHON     what runs the study's own script (python)
#   SLOTS      runs side by side (1)
#   SHIFTS     names of the recipe's shifts, to test differences on
#   SUBSETS    random subsets of each number of runs (10)
#   SIZES      numbers of runs: "1 2 4 8 16 32"
#   DIAGNOSE   further options of hf-soups diagnose: --rows 200 --points 1 --grid 0
set -eu
soups=${HF_SOUPS:-hf-soups} recipe=$1 out=$2
shift 2
for head in linear-probe shared-random; do
    runs=$out/$head/runs
    echo "== head: $head"
    # status 1: some runs failed; they are named, and left out of all that follows
    $soups sweep "$recipe" --out "$runs" --slots "${SLOTS:-1}" "$@" --set head.init=$head || [ $? -eq 1 ]
    $soups cook "$runs" --out "$out/$head/soups" --method uniform --method greedy --method learned \
        --method learned-by-tensor --method model-stock --method wise-ft
    $soups leaderboard "$runs"
    for rows in report ${SHIFTS:-}; do
        echo "== differences on $rows"
        $soups compare "$runs" --on "$rows"
    done
    # shellcheck disable=SC2086 # one word for each option
    $soups diagnose "$runs" ${DIAGNOSE:-}
    # shellcheck disable=SC2046 # one word for each option
    $soups by-number "$runs" --greedy --subsets "${SUBSETS:-10}" $(printf -- '--size %s ' ${SIZES:-} | sed 's/--size *$//')
done
echo "== the two heads"
${PYTHON:-python} "$(dirname "$0")/figures.py" "$out/linear-probe/runs" "$out/shared-random/runs" ${FIGURES:+--figures "$FIGURES"}
