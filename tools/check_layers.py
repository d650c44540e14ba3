#!/usr/bin/env python3
"""Fails if a room of src/ includes a room it may not know. Run from the repository root."""
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
    "convert": ["gguf"],
    "apps": ["methods", "calibrate", "convert"],
}


def below(room):
    rooms = {room}
    for other in MAY_KNOW[room]:
        rooms |= below(other)
    return rooms


bad = 0
for path in sorted(pathlib.Path("src").rglob("*.*")):
    room = path.relative_to("src").parts[0]
    if room not in MAY_KNOW:
        continue
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = re.match(r'#include "(\w+)/', line)
        if match and match[1] not in below(room):
            print(f"{path}:{number}: {room} may not know {match[1]}")
            bad += 1
sys.exit(bad != 0)
