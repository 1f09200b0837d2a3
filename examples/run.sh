#!/usr/bin/env bash
# examples/run.sh PROGRAM   Real text and a real graph in, diffused attention out; writes out/ in the current folder.
set -euo pipefail

program=${1:-build/default/manyhop}
examples=$(dirname "$0")
mkdir -p out

# q, k, v of a pretrained encoder over 512 tokens of a book, mixed over five hops of six patterns; all but `full`
# spend about 63 edges a token.
echo '$ manyhop attend --qkv examples/alice-minilm-l6.safetensors --hops 5 --teleport 0.1 ...'
"$program" attend --qkv "$examples/alice-minilm-l6.safetensors" \
  --pattern 'full' \
  --pattern 'window(32)' \
  --pattern 'longformer(24, 8)' \
  --pattern 'bigbird(8, 1)' \
  --pattern 'diffuser(24, 15, 8)' \
  --pattern 'regular(62)|self' \
  --hops 5 --teleport 0.1 --compare full --svg out -o out/out.safetensors

# Labels of 140 papers spread over citations to the other 2568.
echo
echo "\$ manyhop diffuse 'file(\"examples/cora/edges.txt\")|self' --hops 100 --teleport 0.1 ..."
"$program" diffuse "file(\"$examples/cora/edges.txt\")|self" --undirected --hops 100 --teleport 0.1 \
  --labels "$examples/cora/labels.txt" --masks "$examples/cora/masks.txt"
