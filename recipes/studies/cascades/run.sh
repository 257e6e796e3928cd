#!/bin/sh
# Cascades of a recipe's members: sh run.sh RECIPE OUT [--set KEY=VALUE ...]
# Every row is answered once by every member; half of the rows choose, half report. The same command resumes.
#   HF_SOUPS   the command, with what goes before its subcommands: "hf-soups --import examples/custom_architecture.py"
#   SPLIT      the recipe's split that is answered (report)
#   PREDICT    further options of hf-soups predict: --assume-label-order
set -eu
soups=${HF_SOUPS:-hf-soups} recipe=$1 out=$2
shift 2
# the members were trained elsewhere, so the report rows are the only ones: half of them choose
halves="--report 0.5 --allow-selection-on-report"
# shellcheck disable=SC2086 # two options
search() { # NAME and options; status 1 says that no plan reaches the goal, which is a result
    name=$1
    shift
    $soups cascade search "$out/preds" $halves --out "$out/$name.json" "$@" || [ $? -eq 1 ]
}

# shellcheck disable=SC2086 # one word for each option
$soups predict --recipe "$recipe" --split "${SPLIT:-report}" --out "$out/preds" --measure-seconds ${PREDICT:-} "$@"
echo "== ensembles"
$soups ensemble "$out/preds" $halves
echo "== match accuracy: the best single model's accuracy at the least cost"
search match-accuracy
echo "== match cost: the best accuracy at the best single model's cost"
search match-cost --max-average-cost 1x
echo "== worst case: the same accuracy, and no row costs more than 1.5 times the best single model"
search worst-case --min-accuracy best --max-worst-cost 1.5x
echo "== latency: seconds of one example at a time"
search latency --cost seconds_batch_1
echo "== throughput: seconds of an example at each member's best batch"
search throughput --cost seconds

case ${PREDICT:-} in *--assume-label-order*) labels=--assume-label-order ;; *) labels= ;; esac
# shellcheck disable=SC2086 # one word or none
$soups cascade build "$out/match-accuracy.json#cheapest" --out "$out/cascade" --overwrite $labels
$soups cascade draw "$out/match-accuracy.json#cheapest" --out "$out/pictures/match-accuracy"
$soups cascade draw "$out/match-cost.json#best@1x" --out "$out/pictures/match-cost"
$soups cascade draw "$out/latency.json#cheapest" --out "$out/pictures/latency" --no-images
