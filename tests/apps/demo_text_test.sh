#!/bin/sh
# The demo on the trained model: numbers hidden in text are found in the full cache and lost with
# rows that are thrown away; and what it refuses. Usage: demo_text_test.sh PITH BUILD_DIR
. tests/support/common.sh

"$pith" demo --tokens 768 --needles 6 --kv full --kv streaming_llm:budget=0.1 -o json \
  >"$dir/table" 2>"$dir/err" || fail "demo: $(cat "$dir/err")"
json "$dir/table" 'j[0]["needles"] >= 4 and j[1]["needles"] <= 2'
json "$dir/table" 'j[1]["cache_bytes"] < 0.2 * j[0]["cache_bytes"]'
json "$dir/table" 'j[1]["peak_bytes"] < j[0]["peak_bytes"]'

# Any text hides them as well.
"$pith" demo -f docs/walk.md --tokens 768 --needles 2 --kv full >"$dir/table" || fail "--file"
grep -q "of docs/walk.md that hide 2 numbers" "$dir/table" || fail "the text is not named"

refused 2 "add --exact" "$pith" demo --keep "$dir/m.gguf"
refused 2 "leave out --file or --exact" "$pith" demo --exact -f docs/walk.md
refused 2 "--needles is at most 40" "$pith" demo --needles 41
refused 2 "--tokens is at most 65536" "$pith" demo --exact --tokens 70000
refused 1 "$dir/none.gguf: no such file" "$pith" demo -m "$dir/none.gguf"

[ "$failures" = 0 ]
