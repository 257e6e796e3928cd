#!/bin/sh
# Fine-tunes of one text model on one task, and their soups: sh run.sh RECIPE OUT [--set KEY=VALUE ...]
# The same command resumes.
#   HF_SOUPS   the command, with what goes before its subcommands (hf-soups)
#   SLOTS      runs side by side (1)
#   SUBSETS    random subsets of each number of runs (10)
#   SIZES      numbers of runs, where not all up to all: "1 2 4 8 16 32"
#   DIAGNOSE   further options of hf-soups diagnose: --pairs 6 --points 1 --grid 5
set -eu
soups=${HF_SOUPS:-hf-soups} recipe=$1 out=$2
shift 2
# status 1: some runs failed; they are named, and left out of all that follows
$soups sweep "$recipe" --out "$out/runs" --slots "${SLOTS:-1}" "$@" || [ $? -eq 1 ]
$soups cook "$out/runs" --out "$out/soups" --method uniform --method greedy
$soups leaderboard "$out/runs"
$soups compare "$out/runs"
echo "== gain against angle, error planes, soups against ensembles"
$soups diagnose "$out/runs" ${DIAGNOSE:-}
echo "== score against the number of fine-tunes"
# shellcheck disable=SC2046 # one word for each option
$soups by-number "$out/runs" --greedy --subsets "${SUBSETS:-10}" $(printf -- '--size %s ' ${SIZES:-} | sed 's/--size *$//')
