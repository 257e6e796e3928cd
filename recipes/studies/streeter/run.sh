#!/bin/sh
# Streeter's greedy on a large pool: sh run.sh RECIPE OUT [NAME=SWEEP ...] [--set KEY=VALUE ...]
# With sweeps, all of their runs and soups are the pool: it is searched on the recipe's select rows and reported on its
# report rows. Without, the recipe's members are, and half of the report rows choose. The same command resumes.
# HF_SOUPS, SPLIT and PREDICT: as in ../cascades/run.sh.
set -eu
soups=${HF_SOUPS:-hf-soups} recipe=$1 out=$2
shift 2
sweeps=
for word in "$@"; do
    case $word in --*) break ;; esac
    sweeps="$sweeps $word"
    shift
done
predict() { # SPLIT POOL and options
    split=$1 pool=$2
    shift 2
    # shellcheck disable=SC2086 # one word for each sweep, and each option
    $soups predict $sweeps --recipe "$recipe" --split "$split" --out "$pool" ${PREDICT:-} "$@"
}
search() { # METHOD and options; status 1 says that no plan reaches the goal, which is a result
    echo "== $1"
    method=$1
    shift
    # shellcheck disable=SC2086 # one option or none
    $soups cascade search "$pool" --report "$report" $allowed --method "$method" --out "$out/$method.json" "$@" ||
        [ $? -eq 1 ]
    $soups cascade draw "$out/$method.json#cheapest" --out "$out/pictures/$method" --no-images
}

if [ -n "$sweeps" ]; then
    predict report "$out/preds/report" "$@"
    predict select "$out/preds/select" "$@"
    report=$out/preds/report allowed=
else
    predict "${SPLIT:-report}" "$out/preds/all" "$@" || [ $? -eq 1 ] # models that cannot be had are left out
    report=0.5 allowed=--allow-selection-on-report # of the report rows half choose
fi
search streeter
search beam --combine last # what a search over chains finds by the same rule: members answer alone
