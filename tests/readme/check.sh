#!/usr/bin/env bash
# check.sh program PROGRAM EXPECTED.txt WORK   runs PROGRAM and compares
# check.sh run MANYHOP SOURCE WORK             runs examples/run.sh and compares with the README's console block
# Words must be equal; times, bytes and thread counts may be anything; other numbers agree to 1e-3 of their size (and 2
# in the fourth decimal), those in exponent notation to 10 %.
set -euo pipefail

work=$4
case $1 in
  program)
    "$2" >"$work/got.txt"
    cp "$3" "$work/shown.txt"
    ;;
  run)
    work=$work/run
    rm -rf "$work"
    mkdir -p "$work"
    ln -s "$3/examples" "$work/examples"
    awk '/^```console$/ {inside = 1; next} /^```$/ {inside = 0} inside' "$3/README.md" | sed '/^\$ make run$/d' >"$work/shown.txt"
    (cd "$work" && examples/run.sh "$2" >got.txt && test -s out/out.safetensors)
    pictures=$(find "$work/out" -name '*.svg' -size +0 | wc -l)
    [ "$pictures" -eq 6 ] || { echo "$pictures pictures instead of 6" >&2; exit 1; }
    ;;
esac

normal() {
  sed -E -e 's/[0-9.]+ (ns|us|ms|s|min)( |,|$)/TIME\2/g' -e 's/[0-9.]+ ([KMG]i)?B( |,|$)/BYTES\2/g' \
    -e 's/[0-9]+ threads?/THREADS/g' -e 's/ +/ /g' -e 's/ $//' "$1"
}
normal "$work/shown.txt" >"$work/shown.normal"
normal "$work/got.txt" >"$work/got.normal"
[ -s "$work/shown.normal" ] || { echo "the README shows nothing to compare" >&2; exit 1; }

awk -v got="$work/got.normal" '
  function number(text) { return text ~ /^-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?$/ }
  function near(a, b, text,   d, size, allowed) {
    d = a > b ? a - b : b - a
    size = a < 0 ? -a : a
    allowed = text ~ /e/ ? 0.1 * size : text ~ /\./ ? 1e-3 * size + 2e-4 : 0
    return d <= allowed
  }
  {
    if ((getline line < got) <= 0) { print "missing: " $0; bad = 1; next }
    count = split($0, shown, " ")
    if (split(line, actual, " ") != count) { print "shown: " $0 "\ngot:   " line; bad = 1; next }
    for (i = 1; i <= count; ++i) {
      a = shown[i]; b = actual[i]
      sub(/[,;]$/, "", a); sub(/[,;]$/, "", b)
      if (a == b) continue
      if (number(a) && number(b) && near(a + 0, b + 0, a)) continue
      print "shown: " $0 "\ngot:   " line; bad = 1; break
    }
  }
  END {
    if ((getline line < got) > 0) { print "not shown: " line; bad = 1 }
    exit bad
  }' "$work/shown.normal"
