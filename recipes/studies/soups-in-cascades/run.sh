#!/bin/sh
# Soups as members of cascades: sh run.sh RECIPE OUT NAME=MODEL ... [--set KEY=VALUE ...]
# Every MODEL, the smallest first, is fine-tuned by the recipe's sweep. Cascades of the runs are searched; then soups are
# cooked, join the pool, and cascades are searched again. The same command resumes.
#   HF_SOUPS   the command, with what goes before its subcommands
#   SLOTS      runs side by side (1)
set -eu
soups=${HF_SOUPS:-hf-soups} recipe=$1 out=$2
shift 2
pool=
for word in "$@"; do
    case $word in --*) break ;; esac
    pool="$pool $word"
    shift
done
answer() { # every sweep's runs, and the soups that are there, on the rows that choose and on those that report
    for split in select report; do
        # shellcheck disable=SC2086 # one word for each sweep
        $soups predict $sweeps --recipe "$recipe" --split $split --out "$out/preds/$split" "$@"
    done
}
search() { # NAME; status 1 says that no plan reaches the goal, which is a result
    $soups cascade search "$out/preds/select" --report "$out/preds/report" --max-members 3 --out "$out/$1.json" ||
        [ $? -eq 1 ]
    $soups cascade draw "$out/$1.json#cheapest" --out "$out/pictures/$1" --no-images
}

sweeps=
for word in $pool; do
    name=${word%%=*}
    $soups sweep "$recipe" --out "$out/$name" --slots "${SLOTS:-1}" --set "model=${word#*=}" "$@"
    sweeps="$sweeps $name=$out/$name"
done
if ! [ -f "$out/without-soups.json" ]; then
    answer "$@"
    echo "== cascades of runs"
    search without-soups
fi
for word in $pool; do
    name=${word%%=*}
    if ! [ -d "$out/soups/$name" ]; then
        $soups cook "$out/$name" --method uniform --method greedy --out "$out/soups/$name"
    fi
    echo "== runs, soups, ensembles and cascades of $name"
    $soups leaderboard "$out/$name" --cascades
done
answer "$@"
echo "== cascades of runs and soups"
search with-soups
$soups ensemble "$out/preds/select" --report "$out/preds/report"
$soups cascade build "$out/with-soups.json#cheapest" --out "$out/cascade" --overwrite
