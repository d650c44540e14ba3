#!/usr/bin/env python3
"""Two runs of one benchmark, side by side: compare.py BEFORE AFTER

Reads what `pith-bench --benchmark_out=FILE --benchmark_repetitions=5` (Google Benchmark's JSON) or
`pith bench -o jsonl` wrote. Prints the ratio of the medians and marks with * what lies outside the
noise: the two ranges do not overlap.
"""
import json
import statistics
import sys


def load(path):
    """name -> list of speeds; higher is better."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    speeds = {}
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        whole = None
    if isinstance(whole, dict) and "benchmarks" in whole:
        for run in whole["benchmarks"]:
            if run.get("run_type") != "aggregate" and not run.get("error_occurred"):
                speeds.setdefault(run["run_name"], []).append(1e9 / run["real_time"])
        return speeds
    rows = whole if isinstance(whole, list) else [json.loads(l) for l in text.splitlines() if l]
    for row in rows if isinstance(rows, list) else [rows]:
        name = " ".join(str(row[k]) for k in ("model", "spec", "isa", "threads", "test"))
        speeds.setdefault(name, []).append(row["tokens_per_second"])
    return speeds


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        before, after = load(sys.argv[1]), load(sys.argv[2])
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"{' or '.join(sys.argv[1:])}: not results of a benchmark ({error})")
    names = [name for name in before if name in after]
    if not names:
        sys.exit("the two files have no benchmark in common")
    width = max(map(len, names))
    print(f"{'':{width}}  after/before")
    for name in names:
        a, b = before[name], after[name]
        apart = min(b) > max(a) or max(b) < min(a)
        print(f"{name:{width}}  {statistics.median(b) / statistics.median(a):6.3f}"
              f"{' *' if apart and len(a) > 1 and len(b) > 1 else ''}")
    for name in sorted(set(before) ^ set(after)):
        print(f"{name:{width}}  only in the {'first' if name in before else 'second'}")


if __name__ == "__main__":
    main()
