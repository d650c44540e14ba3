"""Recomputes what `pith trace` wrote of a prompt under snapkv, from the tensors it wrote, in float64.

trace_check.py TRACE.npz TRACE.json PAGE.html WINDOW WIDTH BUDGET
"""
import ast
import json
import math
import struct
import sys
import zipfile


def arrays(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None, "checksums"
        for name in archive.namelist():
            raw = archive.read(name)
            assert raw[:8] == b"\x93NUMPY\x01\x00", name
            header_bytes = struct.unpack_from("<H", raw, 8)[0]
            assert (10 + header_bytes) % 64 == 0, name
            header = ast.literal_eval(raw[10:10 + header_bytes].decode())
            count = math.prod(header["shape"])
            code = {"<f4": "f", "<i4": "i", "<i8": "q"}[header["descr"]]
            values = struct.unpack(f"<{count}{code}", raw[10 + header_bytes:])
            yield name.removesuffix(".npy"), (header["shape"], values)


def close(a, b, tolerance, what):
    assert abs(a - b) <= tolerance, f"{what}: {a} and {b}"


def main():
    path, json_path, page_path = sys.argv[1:4]
    window, width, budget = int(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6])
    npz = dict(arrays(path))
    trace = json.load(open(json_path, encoding="utf-8"))
    assert list(npz["tokens"][1]) == trace["tokens"]
    layers, heads = npz["budgets"][0]
    assert len(trace["layers"]) == layers
    checked = 0
    for layer in range(layers):
        rows = npz[f"layer{layer}.tokens"][0][0]
        assert rows == len(trace["tokens"]) == len(trace["text"])
        if f"layer{layer}.q" not in npz:
            continue
        (_, query_heads, dim), q = npz[f"layer{layer}.q"]
        k, v = npz[f"layer{layer}.k"][1], npz[f"layer{layer}.v"][1]
        group = query_heads // heads
        q_plain, k_plain = npz[f"layer{layer}.q_before_rope"][1], npz[f"layer{layer}.k_before_rope"][1]
        # A rotation keeps lengths, and leaves position 0 where it is.
        for i in range(dim * query_heads):
            close(q[i], q_plain[i], 1e-6, "position 0")
        for x, y in ((q, q_plain), (k, k_plain)):
            for i in range(0, len(x), 17 * dim):
                a = math.fsum(t * t for t in x[i:i + dim])
                b = math.fsum(t * t for t in y[i:i + dim])
                close(a, b, 1e-4 * (1 + a), "length")
        scores = [[0.0] * rows for _ in range(heads)]
        for h in range(query_heads):
            kv = h // group
            mass = [0.0] * rows
            for i in range(rows):
                if i < rows - window and i % 37:
                    continue  # some of the others are enough for outputs and sums
                at = (i * query_heads + h) * dim
                query = q[at:at + dim]
                logits = []
                for r in range(i + 1):
                    key = k[(kv * rows + r) * dim:(kv * rows + r + 1) * dim]
                    logits.append(sum(map(float.__mul__, query, key)) / math.sqrt(dim))
                most = max(logits)
                weights = [math.exp(x - most) for x in logits]
                total = math.fsum(weights)
                lse = npz[f"layer{layer}.lse"][1][i * query_heads + h]
                close(lse, most + math.log(total), 1e-4 * (1 + abs(lse)), "lse")
                for d in range(0, dim, 13):
                    out = math.fsum(w * v[(kv * rows + r) * dim + d]
                                    for r, w in enumerate(weights)) / total
                    close(npz[f"layer{layer}.attended"][1][at + d], out, 1e-4 * (1 + abs(out)), "out")
                if i >= rows - window:
                    for r, w in enumerate(weights):
                        mass[r] += w / total
            before = rows - window
            for r in range(rows):
                if r < before:
                    near = mass[max(0, r - width // 2):min(before, r + width // 2 + 1)]
                    scores[kv][r] += max(near)
                else:
                    scores[kv][r] += mass[r]
        for h in range(heads):
            traced = npz[f"layer{layer}.scores"][1][h * rows:(h + 1) * rows]
            for a, b in zip(traced, scores[h]):
                close(a, b, 1e-4 * (1 + b), "score")
            kept = list(npz[f"layer{layer}.head{h}.kept"][1])
            head = trace["layers"][layer]["heads"][h]
            assert kept == head["kept"] and head["budget"] == budget == len(kept)
            assert kept == sorted(set(kept)) and kept[-window:] == list(range(rows - window, rows))
            worst = min(traced[r] for r in kept if r < rows - window)
            lost = [r for r in range(rows - window) if r not in kept]
            assert all(traced[r] <= worst for r in lost), "a better row was dropped"
            mass = npz[f"layer{layer}.mass"][1][h * rows:(h + 1) * rows]
            close(math.fsum(mass), 1, 1e-4, "mass")
            close(math.fsum(mass[r] for r in kept), head["mass_kept"], 1e-5, "mass kept")
            assert head["bytes"] > 0
            checked += 1
    assert checked == 2 * heads, "two layers have tensors"
    page = open(page_path, encoding="utf-8").read()
    data = page.split("const data = ", 1)[1].split(";\n", 1)[0]
    assert "<" not in data and "http" not in page, "the page needs no network"
    shown = json.loads(data)
    assert shown["text"] == trace["text"]
    for a, b in zip(shown["layers"], trace["layers"]):
        for x, y in zip(a["heads"], b["heads"]):
            position, kept = 0, []
            for step in x["kept"]:
                position += step
                kept.append(position)
            assert kept == y["kept"]


main()
