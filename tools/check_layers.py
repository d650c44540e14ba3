#!/usr/bin/env python3
"""Fails if a file includes a room that it may not know, or lies in a folder that is no room.

check_layers.py [ROOT]    ROOT: of the repository; here, if not given
"""
import pathlib
import re
import sys

MAY_KNOW = {  # room: the rooms it may include; transitive, so only the highest are listed
    "base": [],
    "tensor": ["base"],
    "kernels": ["tensor"],
    "gguf": ["tensor"],
    "backend": ["kernels"],
    "model": ["gguf"],
    "text": ["gguf"],
    "kv": ["backend"],
    "policy": ["kv", "gguf"],
    "methods": ["policy"],
    "runtime": ["policy", "model", "text"],
    "calibrate": ["runtime"],
    "eval": ["runtime"],
    "convert": ["gguf"],
    "train": ["calibrate", "convert"],
    "apps": ["methods", "calibrate", "convert", "eval"],
}
SUBFOLDERS = {"backend": ["cuda"]}  # no other room has any
PROGRAMS = {  # what the programs of src/ may include
    "main.cpp": ["apps"],
    "train_main.cpp": ["apps", "base", "calibrate", "gguf", "model", "runtime", "train"],
    "train_vocabulary_main.cpp": ["base", "train"],
}
BENCH = ["runtime", "methods", "convert"]  # the library, not the commands

# tests/<room> may include what the room may know; a kernel's test needs no engine. These make a
# model and run it, too. Files of tests/support count where they are included.
RUNS_MODELS = {
    "methods": ["calibrate", "convert"],
    "runtime": ["methods", "convert"],
    "calibrate": ["methods", "convert"],
    "eval": ["methods", "convert"],
    "convert": ["methods", "runtime"],
    "train": ["methods"],
}
TEST_FOLDERS = ["support", "scripts", "fuzz", "golden"]  # beside those of rooms
TEST_LIBRARIES = ["gtest", "gmock", "rapidcheck"]

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
bad = 0


def complain(sentence):
    global bad
    print(sentence)
    bad += 1


def below(rooms):
    known = set(rooms)
    for room in rooms:
        known |= below(MAY_KNOW[room])
    return known


def sources(folder):
    found = (root / folder).rglob("*")
    return sorted(p for p in found if p.suffix in (".h", ".cpp", ".cu") and p.is_file())


def includes(path):
    """Yields (line number, folder, file) of includes in quotes."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = re.match(r'\s*#\s*include\s+"(?:(\w+)/)?([^"]+)"', line)
        if match:
            yield number, match[1], match[2]


def check(path, who, known, also=()):
    for number, folder, file in includes(path):
        where = f"{path.relative_to(root)}:{number}"
        if folder in also:
            continue
        if folder is None:
            complain(f'{where}: "{file}" names no room; includes are written from the root of src/')
        elif folder not in MAY_KNOW:
            complain(f"{where}: '{folder}' is no room that {who} may include")
        elif folder not in known:
            complain(f"{where}: {who} may not know {folder}")


def support_rooms(path, seen):
    """Adds to `seen` what the files of tests/support bring along that `path` includes."""
    for _, folder, file in includes(path):
        if folder == "support":
            for name in (file, file.removesuffix(".h") + ".cpp"):
                other = root / "tests" / "support" / name
                if other.exists() and other not in seen:
                    seen.add(other)
                    support_rooms(other, seen)
    return seen


def check_src():
    for path in sorted((root / "src").iterdir()):
        if path.is_dir() and path.name not in MAY_KNOW:
            complain(
                f"src/{path.name}: no room of this name is known; give it a line in MAY_KNOW of "
                "tools/check_layers.py, in CMakeLists.txt and in docs/architecture.md"
            )
    for path in sources("src"):
        room, *folders = path.relative_to(root / "src").parts[:-1] or [None]
        if room is None:
            check(path, "the program", set(PROGRAMS.get(path.name, [])))
        elif room in MAY_KNOW:
            if folders and folders != SUBFOLDERS.get(room):
                complain(f"{path.relative_to(root)}: rooms have no subfolders")
            check(path, room, below([room]))


def check_bench():
    for path in sources("bench"):
        check(path, "bench", below(BENCH), ["bench"])


def check_tests():
    everything = set(MAY_KNOW)
    for path in sorted((root / "tests").iterdir()):
        if path.is_dir() and path.name not in MAY_KNOW and path.name not in TEST_FOLDERS:
            complain(
                f"tests/{path.name}: tests lie in a folder named like the room of src/ they test"
            )
    for path in sources("tests"):
        room = path.relative_to(root / "tests").parts[0]
        if room not in MAY_KNOW:
            check(path, "a test", everything, ["support", *TEST_LIBRARIES])
            continue
        who, known = f"a test of {room}", below([room, *RUNS_MODELS.get(room, [])])
        check(path, who, known, ["support", *TEST_LIBRARIES])
        for helper in sorted(support_rooms(path, set())):
            for _, folder, _ in includes(helper):
                if folder in MAY_KNOW and folder not in known:
                    complain(
                        f"{path.relative_to(root)}: {who} may not know {folder}, which "
                        f"{helper.relative_to(root)} includes"
                    )


check_src()
if (root / "bench").is_dir():
    check_bench()
if (root / "tests").is_dir():
    check_tests()
sys.exit(bad != 0)
