#!/bin/sh
# Files that cannot be read or written cost one sentence and leave nothing behind.
# Usage: files_test.sh PITH BUILD_DIR
. tests/support/common.sh

python3 tests/support/make_checkpoint.py "$dir" 256 512 4 4 2 128 || fail "make_checkpoint.py"

"$pith" convert "$dir/model.bin" "$dir/model.gguf" --type f32 >/dev/null || fail "convert"
"$pith" inspect "$dir/model.gguf" | grep -q token_embd.weight || fail "inspect"
"$pith" quantize "$dir/model.gguf" "$dir/q8.gguf" q8_0 >/dev/null || fail "quantize"

# Truncated anywhere, a file is refused.
size=$(wc -c <"$dir/model.gguf")
for part in 0 3 8 100 5000 $((size / 2)) $((size - 1)); do
  head -c "$part" "$dir/model.gguf" >"$dir/cut.gguf"
  refused 1 'pith: ' "$pith" inspect "$dir/cut.gguf"
  refused 1 'pith: ' "$pith" quantize "$dir/cut.gguf" "$dir/none.gguf" q8_0
done
head -c 100000 "$dir/model.bin" >"$dir/cut.bin"
refused 1 'pith: ' "$pith" convert "$dir/cut.bin" "$dir/none.gguf" --tokenizer "$dir/tokenizer.bin"
printf 'not a model at all, only some text\n' >"$dir/text.gguf"
refused 1 'pith: ' "$pith" inspect "$dir/text.gguf"

# Files that do not open.
refused 1 'pith: ' "$pith" inspect "$dir"
refused 1 'pith: ' "$pith" inspect "$dir/absent.gguf"
refused 1 'pith: ' "$pith" quantize "$dir/model.gguf" "$dir/absent/out.gguf" q8_0
refused 1 'pith: ' "$pith" convert "$dir" "$dir/none.gguf"
refused 2 'pith: ' "$pith" convert "$dir/model.bin" "$dir/none.gguf" --tokenizer
refused 2 'pith: ' "$pith" quantize "$dir/model.gguf" "$dir/none.gguf" q9_9

# A disk that fills up: files may grow to 2 MiB (4096 blocks of 512 bytes), the results are larger.
mkdir "$dir/full"
limited() {
  (
    trap '' XFSZ
    ulimit -f 4096
    exec "$@"
  )
}
refused 1 'pith: ' limited "$pith" convert "$dir/model.bin" "$dir/full/out.gguf"
refused 1 'pith: ' limited "$pith" quantize "$dir/model.gguf" "$dir/full/out.gguf" q8_0
# A file that is already there stays as it was.
echo before >"$dir/full/kept.gguf"
refused 1 'pith: ' limited "$pith" quantize "$dir/model.gguf" "$dir/full/kept.gguf" q8_0
[ "$(cat "$dir/full/kept.gguf")" = before ] || fail "a failed write replaced the file"
rm "$dir/full/kept.gguf"
[ -z "$(ls -A "$dir/full")" ] || fail "a full disk left $(ls -A "$dir/full")"
[ ! -e "$dir/none.gguf" ] || fail "a refused command left a file"

# Standard output that takes nothing.
if [ -e /dev/full ]; then
  "$pith" inspect "$dir/model.gguf" >/dev/full 2>"$dir/err"
  [ $? = 1 ] || fail "a full standard output is not an error"
  grep -q '^pith: cannot write to standard output' "$dir/err" || fail "$(cat "$dir/err")"
fi

[ "$failures" = 0 ]
