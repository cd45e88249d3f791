#!/bin/sh
# Profiles, compiles and runs on the card's own machine, which has planc, ONNX Runtime for CUDA and OR-Tools installed.
#
#     sh benchmarks/gpu/campaign.sh OUT SECONDS CASE:PERCENT[,PERCENT ...] ...      e.g. r50-32:100,50,35 gpt2:35
#
# SECONDS is the solver's limit for each plan. What OUT holds already (cost tables, plans) is not made again.
set -u
out=$1 seconds=$2
shift 2
here=$(dirname "$0")
export PYTHONUNBUFFERED=1
mkdir -p "$out/costs" "$out/plans"
cases=$(for job in "$@"; do echo "${job%%:*}"; done)
missing=$(for case in $cases; do [ -e "$out/costs/$case.costs.json" ] || echo "$case"; done)
[ -z "$missing" ] || python3 "$here/profile_networks.py" --out "$out/costs" $missing
python3 "$here/compile_plans.py" "$out/costs" "$out/plans" "$seconds" "$@"
python3 "$here/run_plans.py" --out "$out" "$out/plans" $cases
