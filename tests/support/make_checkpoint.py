#!/usr/bin/env python3
"""Writes a llama2.c checkpoint with made-up weights, and its vocabulary, for tests of commands.

make_checkpoint.py FOLDER [dim hidden layers heads kv_heads context]
"""
import array
import random
import struct
import sys

folder = sys.argv[1]
shape = [int(word) for word in sys.argv[2:]] or [64, 96, 2, 4, 2, 512]
dim, hidden, layers, heads, kv_heads, context = shape
kv_dim = dim * kv_heads // heads

# Bytes, letters with and without a space in front, and a few words they merge to.
words = ["th", "he", "in", "er", " t", " a", " th", " the", "an", "and", " and", "on", "ing"]
letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
pieces = ["<unk>", "\n<s>\n", "\n</s>\n"] + ["<0x%02X>" % i for i in range(256)]
pieces += [" "] + letters + words + [".", ",", "?"]
with open(folder + "/tokenizer.bin", "wb") as f:
    f.write(struct.pack("<i", max(len(p) for p in pieces)))
    for rank, piece in enumerate(pieces):
        score = -rank if piece in words else -1000.0 - rank
        f.write(struct.pack("<fi", score, len(piece)) + piece.encode())

generator = random.Random(1)
block = array.array("f", [generator.gauss(0, 1) for _ in range(65536)])


def matrix(f, rows, cols):
    scaled = array.array("f", [x * (1.5 / cols**0.5) for x in block])
    left = rows * cols
    start = generator.randrange(len(block))
    while left > 0:
        part = scaled[start:start + left]
        part.tofile(f)
        left -= len(part)
        start = 0


def ones(f, count):
    array.array("f", [1.0] * count).tofile(f)


with open(folder + "/model.bin", "wb") as f:
    f.write(struct.pack("<7i", dim, hidden, layers, heads, kv_heads, len(pieces), context))
    # Also the output matrix. The first number of a row keeps the model to pieces that are text: it
    # stays in the residual stream of every text token and speaks against bytes and control tokens.
    for piece in pieces:
        row = array.array("f", [generator.gauss(0, 0.5) for _ in range(dim)])
        row[0] = -8.0 if piece.startswith("<") or piece.startswith("\n") else 8.0
        row.tofile(f)
    ones(f, layers * dim)
    for _ in range(layers):
        matrix(f, dim, dim)
    for _ in range(2 * layers):
        matrix(f, kv_dim, dim)
    for _ in range(layers):
        matrix(f, dim, dim)
    ones(f, layers * dim)
    for _ in range(layers):
        matrix(f, hidden, dim)
    for _ in range(layers):
        matrix(f, dim, hidden)
    for _ in range(layers):
        matrix(f, hidden, dim)
    ones(f, dim)
    array.array("f", [0.0] * (context * (dim // heads))).tofile(f)
