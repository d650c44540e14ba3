#!/bin/sh
# A long session on disk: it loads in well under a tenth of the time its prompt took to read, and a
# kill -9 in the middle of saving leaves the old file. Usage: session_slow_test.sh PITH BUILD_DIR
. tests/support/common.sh

# A model of some work per token, and a prompt of 32,768 tokens.
python3 tests/support/make_checkpoint.py "$dir" 64 128 3 4 4 65536 || fail "make_checkpoint.py"
"$pith" convert "$dir/model.bin" "$dir/model.gguf" --type f32 >/dev/null || fail "convert"
model=$dir/model.gguf
python3 - "$pith" "$model" "$dir/text" <<'PY' || fail "prompt"
import subprocess, sys
words = "the king and the queen went on and on in the rain ".split()
text = " ".join(words[i * 7 % len(words)] for i in range(40000))
def tokens(text):
    return int(subprocess.run([sys.argv[1], "tokenize", "-m", sys.argv[2], "-f", "-", "--count"],
                              input=text.encode(), capture_output=True, check=True).stdout)
many = tokens(text)
text = text[: len(text) * 32768 // many]
assert abs(tokens(text) - 32768) < 40
open(sys.argv[3], "w").write(text)
PY
run() {
  "$pith" run -m "$model" --temp 0 -c 65536 -q "$@"
}

mkdir "$dir/saved"
run -f "$dir/text" -n 0 --kv snapkv:budget=0.02 --save "$dir/saved/s" --json >"$dir/read" || fail "save"
python3 - "$dir/read" "$pith" "$model" "$dir/saved/s" <<'PY' || fail "loading is slow"
import json, subprocess, sys, time
read = json.load(open(sys.argv[1]))
seconds = read["prompt_tokens"] / read["prompt_tokens_per_second"]
best = 1e9
for _ in range(3):
    start = time.monotonic()
    subprocess.run([sys.argv[2], "run", "-m", sys.argv[3], "--load", sys.argv[4], "-n", "1", "-q",
                    "-c", "65536"], check=True, capture_output=True)
    best = min(best, time.monotonic() - start)
print(f"{read['prompt_tokens']} tokens were read in {seconds:.2f} s; the process that loads them "
      f"takes {best:.3f} s")
assert best < seconds / 20, (best, seconds)
PY

# The full session, which takes long enough to write that a kill meets it half written.
run --load "$dir/saved/s" -n 4 >"$dir/before" || fail "load"
run -f "$dir/text" -n 0 --save "$dir/full" >/dev/null || fail "save the full session"
met=0
for _ in 1 2 3 4 5 6; do
  run --load "$dir/full" -n 0 --save "$dir/saved/s" >/dev/null 2>&1 &
  pid=$!
  while kill -0 $pid 2>/dev/null && [ -z "$(find "$dir/saved" -type f ! -name s -size +64k)" ]; do :; done
  kill -9 $pid 2>/dev/null
  wait $pid 2>/dev/null
  [ $? = 137 ] || {  # it was quicker: the new file is whole
    run -f "$dir/text" -n 0 --kv snapkv:budget=0.02 --save "$dir/saved/s" >/dev/null
    continue
  }
  met=$((met + 1))
  run --load "$dir/saved/s" -n 4 >"$dir/after" 2>"$dir/err" || fail "after a kill: $(cat "$dir/err")"
  cmp -s "$dir/before" "$dir/after" || fail "after a kill, another session"
  find "$dir/saved" -type f ! -name s -exec rm {} +
done
echo "$met of 6 kills met a file that was being written"
[ $met -gt 0 ] || fail "no kill met a file half written, so this shows nothing"

[ "$failures" = 0 ]
