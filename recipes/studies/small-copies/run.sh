#!/bin/sh
# Copies of small nets against one large net: sh run.sh RECIPE OUT NAME=MODEL ... [--set KEY=VALUE ...]
# Each MODEL is trained from random weights as often as the recipe's sweep says, with other seeds; then every ensemble of
# copies of one is scored against every single model of another. The same command resumes.
#   HF_SOUPS   the command, with what goes before its subcommands: "hf-soups --import examples/wide_resnet.py"
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
copies=
for word in $pool; do
    name=${word%%=*}
    $soups sweep "$recipe" --out "$out/$name" --slots "${SLOTS:-1}" --set "model=${word#*=}" "$@"
    copies="$copies $name=$out/$name"
done
for split in select report; do
    # shellcheck disable=SC2086 # one word for each sweep
    $soups predict $copies --recipe "$recipe" --split $split --out "$out/preds/$split" "$@"
done
for combine in geometric mean; do
    echo "== copies combined by: $combine"
    $soups ensemble "$out/preds/select" --report "$out/preds/report" --combine $combine --curves "$out/pictures/$combine"
done
