#!/bin/sh
# Ctrl-C in the middle of a command that writes: exit code 130, one sentence, no partial file.
# Usage: interrupt_test.sh PITH BUILD_DIR
set -u
pith=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failures=0

fail() {
  echo "FAILED: $*"
  failures=$((failures + 1))
}

# The signal is sent when the temporary file has appeared, so the work is in its middle. A fifo
# as input would be simpler, but models are mapped.
interrupted() {
  signals=$1
  shift
  "$@" >"$dir/out" 2>"$dir/err" &
  pid=$!
  while kill -0 $pid 2>/dev/null && ! ls "$dir/made" | grep -q .; do :; done
  for _ in $signals; do kill -INT $pid 2>/dev/null; done
  wait $pid
  code=$?
  # The work may have been quicker than the signal: then it is complete.
  if [ "$code" = 0 ]; then
    echo "note: '$*' was done before the signal came"
    rm -f "$dir"/made/*
    return
  fi
  [ "$code" = 130 ] || fail "$* ended with $code: $(cat "$dir/err")"
  [ -z "$(ls -A "$dir/made")" ] || fail "$* left $(ls -A "$dir/made")"
  rm -f "$dir"/made/*
}

python3 - "$dir" <<'PY'
import struct, sys
d = sys.argv[1]
dim, hidden, layers, heads, kv, vocab, ctx = 512, 2048, 6, 8, 4, 300, 128
weights = (vocab * dim + layers * (2 * dim + 2 * dim * dim + 2 * dim * dim // 2 + 3 * dim * hidden)
           + dim + ctx * (dim // heads))
with open(d + "/model.bin", "wb") as f:
    f.write(struct.pack("<7i", dim, hidden, layers, heads, kv, vocab, ctx))
    block = struct.pack("<4096f", *[(i * 37 % 101 - 50) / 50 for i in range(4096)])
    left = 4 * weights
    while left > 0:
        f.write(block[:left])
        left -= len(block)
with open(d + "/tokenizer.bin", "wb") as f:
    f.write(struct.pack("<i", 8))
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [b"<0x%02X>" % i for i in range(256)]
    pieces += [b"t%d" % i for i in range(vocab - len(pieces))]
    for piece in pieces:
        f.write(struct.pack("<fi", 0.0, len(piece)) + piece)
PY
mkdir "$dir/made"
"$pith" convert "$dir/model.bin" "$dir/model.gguf" --type f32 >/dev/null || fail "convert"

for _ in 1 2 3; do
  interrupted "once" "$pith" convert "$dir/model.bin" "$dir/made/out.gguf"
  interrupted "once" "$pith" quantize "$dir/model.gguf" "$dir/made/out.gguf" q4_k
  interrupted "once twice" "$pith" quantize "$dir/model.gguf" "$dir/made/out.gguf" q6_k
done

[ "$failures" = 0 ]
