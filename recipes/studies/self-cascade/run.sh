#!/bin/sh
# One model at two input sizes is two members: sh run.sh RECIPE OUT [--set KEY=VALUE ...]
# Half of the rows choose, half report. The same command resumes. HF_SOUPS, SPLIT and PREDICT: as in ../cascades/run.sh.
set -eu
soups=${HF_SOUPS:-hf-soups} recipe=$1 out=$2
shift 2
$soups predict --recipe "$recipe" --split "${SPLIT:-report}" --out "$out/preds" --measure-seconds ${PREDICT:-} "$@"
for combine in mean last; do # both sizes' answers together, or the larger one's alone
    echo "== members combined by: $combine"
    $soups cascade search "$out/preds" --report 0.5 --allow-selection-on-report --combine "$combine" --max-members 2 \
        --out "$out/$combine.json" || [ $? -eq 1 ]
    $soups cascade draw "$out/$combine.json#cheapest" --out "$out/pictures/$combine" --no-images
done
