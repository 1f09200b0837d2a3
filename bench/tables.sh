#!/usr/bin/env bash
# bench/tables.sh FOLDER [NAME...]   Every table of bench/README.md again, one log each in FOLDER, on a machine that does nothing else.
#
# PYTHON (default python3) imports the peers and manyhop; PROGRAM is the command line (default build/default/manyhop), BENCH the benchmarks (default
# build/bench/bench). About forty minutes on two cores for all. A table that exists is left as it is, so that a broken run goes on.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:?a folder for the logs}
shift
mkdir -p "$folder"
python=${PYTHON:-python3}
program=${PROGRAM:-build/default/manyhop}
bench=${BENCH:-build/bench/bench}
blocks='overlap(64,32)|lift(regular(1,seed=1),64)|global(64)'
only=" $* "

table() {  # table NAME COMMAND...
  local name=$1
  shift
  [ "$only" = '  ' ] || [[ $only == *" $name "* ]] || return 0
  [ -e "$folder/$name.txt" ] && return 0
  printf '%s: %s\n' "$name" "$*" >&2
  { printf '$ %s\n' "$*"; "$@"; } >"$folder/$name.part" 2>&1 && mv "$folder/$name.part" "$folder/$name.txt" || printf '%s: failed, see %s\n' "$name" "$folder/$name.part" >&2
}

peers=("$python" bench/peers.py --program "$program")
table train "$python" bench/train.py --rounds 5
table train_checkpointed "$python" bench/train.py --rounds 5 --only manyhop,dense --backward checkpointed
table train_bf16 "$python" bench/train.py --rounds 5 --only manyhop,dense --dtype bf16 --pattern "$blocks"
table together "$python" bench/together.py --rounds 9
table peers_small "${peers[@]}" --cases n=1024,n=4096 --rounds 5
table peers_blocks_small "${peers[@]}" --cases n=4096 --rounds 5 --pattern "$blocks"
table spectral "$python" bench/spectral.py --program "$program" --rounds 3 --cases 'diffuser(64,64,64)@16384' 'regular(64)@16384'
table spectral_large "$python" bench/spectral.py --program "$program" --rounds 1 --cases 'window(64)@16384' 'diffuser(64,64,64)@65536' 'diffuser(64,64,64)@1048576!'
table sparsek "$python" bench/sparsek.py --rounds 5 --program "$bench/bench_sparsek"
table same_graph "$python" bench/same_graph.py --program "$program" --repeat 15 --rounds 5
table peers_bf16 "${peers[@]}" --cases n=1024,n=4096 --rounds 5 --dtype bf16
table peers_blocks_bf16 "${peers[@]}" --cases n=4096,n=16384 --rounds 3 --dtype bf16 --pattern "$blocks"
table peers_large "${peers[@]}" --cases n=16384 --rounds 3
table peers_blocks_large "${peers[@]}" --cases n=16384 --rounds 3 --pattern "$blocks"
table peers_cora "${peers[@]}" --cases n=2708 --rounds 5 --pattern 'sym(file("examples/cora/edges.txt"))|self'
table peers_regular "${peers[@]}" --cases n=16384 --rounds 3 --pattern 'regular(32)'
table scaling_blocks "$python" bench/scaling.py --program "$program" --to 20 --repeat 1 --only blocks --json "$folder/scaling_blocks.json"
table scaling_edges "$python" bench/scaling.py --program "$program" --to 20 --repeat 1 --only 'single edges' --json "$folder/scaling_edges.json"
