#!/usr/bin/env python3
"""Pith and llama.cpp on the same file, threads and lengths, turn by turn.

The machine's speed drifts, so a figure alone says little: every round runs each program once,
one after the other, and the table shows medians over the rounds and the ratio of the medians.

    PITH_LLAMA_BENCH=/path/to/llama-bench bench/side_by_side.py MODEL.gguf... \\
        [-p 512] [-n 64] [-d 0,16384] [-t 2] [-r 3] [--kv full --kv snapkv:budget=0.1] \\
        [--peer ik=/path/to/llama-bench,-fa,1,-ctk,q8_0,-ctv,q8_0]

A test is "pp512" (read 512 tokens) or "tg64" (write 64), "@ d16384" after so many others. Every
result is also one JSON line in the file of -o, so that a broken-off run loses nothing; with
--resume, what is there already is not run again.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys


def numbers(text):
    return [int(part) for part in text.split(",") if part]


def run_json(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def run_pith(binary, model, test, threads, spec, extra):
    prompt, generate, depth = test
    rows = run_json([binary, "bench", "-m", model, "-p", str(prompt), "-n", str(generate),
                     "-d", str(depth), "-t", str(threads), "-r", "1", "--kv", spec,
                     "-o", "json", *extra])
    return rows[0]["tokens_per_second"]


def run_peer(command, model, test, threads):
    prompt, generate, depth = test
    rows = run_json([command[0], "-m", model, "-p", str(prompt), "-n", str(generate),
                     "-d", str(depth), "-t", str(threads), "-r", "1", "-o", "json", *command[1:]])
    return rows[0]["avg_ts"]


def name_of(test):
    prompt, generate, depth = test
    name = f"pp{prompt}" if prompt else f"tg{generate}"
    return f"{name} @ d{depth}" if depth else name


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def parse():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    arguments.add_argument("models", nargs="+", metavar="MODEL.gguf")
    arguments.add_argument("-p", default="512", help="prompt lengths (default 512)")
    arguments.add_argument("-n", default="64", help="tokens to write (default 64)")
    arguments.add_argument("-d", default="0", help="depths (default 0)")
    arguments.add_argument("-t", type=int, default=os.cpu_count(), help="threads")
    arguments.add_argument("-r", type=int, default=3, help="rounds (default 3)")
    arguments.add_argument("--kv", action="append", metavar="SPEC", help="methods (default full)")
    arguments.add_argument("--pith", default="build/release/pith", help="the pith to measure")
    arguments.add_argument("--pith-option", action="append", default=[],
                           help="one more argument of pith bench, as in --pith-option=-b=256")
    arguments.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND,ARG,...",
                           help="a llama-bench and its options; default $PITH_LLAMA_BENCH")
    arguments.add_argument("-o", metavar="FILE.jsonl", help="keep every result")
    arguments.add_argument("--resume", action="store_true", help="do not rerun what -o holds")
    options = arguments.parse_args()
    peers = {}
    for peer in options.peer:
        name, equals, command = peer.partition("=")
        if not equals or not command:
            arguments.error(f"--peer is NAME=COMMAND,ARG,..., not '{peer}'")
        peers[name] = command.split(",")
    if not peers and os.environ.get("PITH_LLAMA_BENCH"):
        peers["llama.cpp"] = [os.environ["PITH_LLAMA_BENCH"]]
    for command in [[options.pith], *peers.values()]:
        if not os.access(command[0], os.X_OK):
            arguments.error(f"{command[0]} is not a program; build it, or name another")
    if options.resume and not options.o:
        arguments.error("--resume needs the file of -o")
    return options, peers


def main():
    options, peers = parse()
    specs = options.kv or ["full"]
    tests = []
    for depth in numbers(options.d):
        tests += [(p, 0, depth) for p in numbers(options.p) if p > 0]
        tests += [(0, n, depth) for n in numbers(options.n) if n > 0]
    results = {}  # (model, test, who) -> speeds
    if options.resume and os.path.exists(options.o):
        with open(options.o, encoding="utf-8") as kept:
            for line in kept:
                r = json.loads(line)
                results.setdefault((r["model"], r["test"], r["who"]), []).append(r["speed"])
    contenders = [(f"pith {spec}", spec) for spec in specs] + [(name, None) for name in peers]
    runs = [(model, test, turn, who, spec) for model in options.models for test in tests
            for turn in range(options.r) for who, spec in contenders]
    for i, (model, test, turn, who, spec) in enumerate(runs):
        key = (os.path.basename(model), name_of(test), who)
        if len(results.get(key, [])) > turn:
            continue
        if sys.stderr.isatty():
            print(f"\r\033[K{i}/{len(runs)} {' '.join(key)}", end="", file=sys.stderr, flush=True)
        if spec is not None:
            speed = run_pith(options.pith, model, test, options.t, spec, options.pith_option)
        else:
            speed = run_peer(peers[who], model, test, options.t)
        results.setdefault(key, []).append(speed)
        if options.o:
            with open(options.o, "a", encoding="utf-8") as kept:
                print(json.dumps({"model": key[0], "test": key[1], "who": who, "speed": speed,
                                  "threads": options.t}), file=kept)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)

    names = [who for who, _ in contenders]
    print(f"{processor()}, {options.t} threads, medians of {options.r} alternating rounds, "
          "tokens/s (lowest-highest)\n")
    ratios = [f"{names[0]} / {peer}" for peer in peers]
    print("| model | test | " + " | ".join(names + ratios) + " |")
    print("|---|---|" + "---:|" * (len(names) + len(ratios)))
    for model in options.models:
        for test in tests:
            cells, medians = [], {}
            for who in names:
                speeds = results[os.path.basename(model), name_of(test), who]
                medians[who] = statistics.median(speeds)
                cells.append(f"{medians[who]:.1f} ({min(speeds):.1f}-{max(speeds):.1f})")
            cells += [f"{medians[names[0]] / medians[peer]:.2f}" for peer in peers]
            print(f"| {os.path.basename(model)} | {name_of(test)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
