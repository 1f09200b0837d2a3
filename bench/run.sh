#!/usr/bin/env bash
# bench/run.sh [FOLDER] [GOOGLE-BENCHMARK-OPTION...]   Runs every binary of FOLDER/bench; one JSON file each beside it.
set -euo pipefail
folder=${1:-build/bench}
[ $# -gt 0 ] && shift
for program in "$folder"/bench/bench_*; do
  [ -x "$program" ] && [ -f "$program" ] || continue
  "$program" --benchmark_repetitions=5 --benchmark_counters_tabular=true \
    --benchmark_out="$folder/$(basename "$program").json" --benchmark_out_format=json "$@"
done
