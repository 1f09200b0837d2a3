#!/usr/bin/env python3
"""python3 bench/compare.py OLD.json NEW.json [--all]: ratios old/new of the median times of two Google Benchmark files.

Prints only what lies outside the noise: the spread (half of max - min over the median) of the repetitions of either
file, and at least 3 %. Exit 1 when something became slower.
"""
import argparse
import json
import statistics
import sys
from collections import defaultdict


def times(path):
    """name -> real times in ns, one a repetition (a file of aggregates alone gives its median)."""
    unit = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
    found, medians = defaultdict(list), {}
    with open(path, encoding="utf-8") as file:
        for run in json.load(file)["benchmarks"]:
            if run.get("error_occurred"):
                continue
            name, value = run.get("run_name", run["name"]), run["real_time"] * unit[run["time_unit"]]
            if run.get("run_type") == "aggregate":
                if run.get("aggregate_name") == "median":
                    medians[name] = [value]
            else:
                found[name].append(value)
    return {**medians, **found}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--all", action="store_true", help="also what did not change")
    options = parser.parse_args()
    old, new = times(options.old), times(options.new)

    def spread(values):
        return (max(values) - min(values)) / 2 / statistics.median(values)

    slower = False
    for name in old:
        if name not in new:
            print(f"{name}: only in {options.old}")
            continue
        before, after = statistics.median(old[name]), statistics.median(new[name])
        noise = max(0.03, spread(old[name]), spread(new[name]))
        ratio = before / after
        changed = abs(before - after) > noise * max(before, after)
        slower |= changed and ratio < 1
        if changed or options.all:
            print(f"{name:40s} {before / 1e6:10.3f} ms -> {after / 1e6:10.3f} ms   {ratio:5.2f}x"
                  f"   {'slower' if ratio < 1 else 'faster'}{'' if changed else ' (noise)'}   noise {noise:.1%}")
    for name in new:
        if name not in old:
            print(f"{name}: only in {options.new}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
