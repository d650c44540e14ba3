#!/usr/bin/env python3
"""Prints what failed tests said: failed_tests.py FILE, as `ctest --output-junit FILE` writes it."""
import sys
from xml.etree import ElementTree

for test in ElementTree.parse(sys.argv[1]).iter("testcase"):
    if test.get("status") == "fail":
        print(f"---- {test.get('name')}, {float(test.get('time')):.1f} s")
        print((test.findtext("system-out") or "").rstrip()[-20000:])
