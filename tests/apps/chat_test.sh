#!/bin/sh
# pith chat, driven through a pipe: one answer after the other over one cache that holds every turn
# once. Usage: chat_test.sh PITH BUILD_DIR
. tests/support/common.sh

python3 tests/support/make_hf_folder.py "$dir/hf" || fail "make_hf_folder.py"
model=$dir/model.gguf
"$pith" convert "$dir/hf" "$model" --type f32 >/dev/null || fail "convert"
chat() {
  "$pith" chat -m "$model" --temp 0 -n 12 -q "$@"
}
# What chatml writes for a message.
asked() {
  printf '<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n' "$1"
}
# How many tokens standard input is.
count() {
  "$pith" tokenize -m "$model" --count
}

# The first answer is what `pith run` says to the same text.
asked 'the king' >"$dir/prompt"
"$pith" run -m "$model" -f "$dir/prompt" --temp 0 -n 12 -q >"$dir/first" || fail "run"
printf 'the king\n' | chat | cmp -s - "$dir/first" || fail "the first answer is another"
printf 'the king' | chat | cmp -s - "$dir/first" || fail "a message without a line end"

# A line that ends in a backslash goes on in the next.
asked 'the
king' >"$dir/prompt"
"$pith" run -m "$model" -f "$dir/prompt" --temp 0 -n 12 -q >"$dir/two_lines" || fail "run"
printf 'the\\\nking\n' | chat | cmp -s - "$dir/two_lines" || fail "a message of two lines"

# The cache holds each turn once: what the template writes of it, and the answer's 12 tokens.
printf 'the king\n/stats\nand the queen\n/stats\n' | chat --kv full >"$dir/out" || fail "two turns"
one=$(($(asked 'the king' | count) + 12))
two=$({ printf '<|im_end|>\n' && asked 'and the queen'; } | count)
two=$((one + two + 12))
grep -o '[0-9]* tokens, cache' "$dir/out" | cut -d' ' -f1 >"$dir/held"
printf '%s\n' "$one" "$two" | cmp -s - "$dir/held" ||
  fail "the cache holds $(tr '\n' ' ' <"$dir/held")tokens, not $one and $two"
[ "$(head -n 1 "$dir/out")" = "$(cat "$dir/first")" ] || fail "the first of two answers is another"

# /clear forgets; a system message and a small cache are no obstacle.
printf 'the king\n/clear\nthe king\n' | chat >"$dir/out" || fail "/clear"
cat "$dir/first" "$dir/first" | cmp -s - "$dir/out" || fail "/clear did not forget"
printf 'the king and the queen\nthe end\n' |
  chat --system 'an inn' --kv snapkv:window=4,budget=16 >"$dir/out" || fail "--kv"
[ "$(wc -l <"$dir/out")" = 2 ] || fail "--kv: $(cat "$dir/out")"

# Commands answer with a sentence, empty lines with nothing.
printf '/help\n\n/halp\n/quit\nthe king\n' | chat >"$dir/out" || fail "/help"
grep -q '^/clear ' "$dir/out" || fail "/help: $(cat "$dir/out")"
grep -q 'no command /halp' "$dir/out" || fail "/halp: $(cat "$dir/out")"
grep -qxF "$(cat "$dir/first")" "$dir/out" && fail "/quit went on"

chat_once() {
  printf 'the king\n' | chat "$@"
}
refused 2 "known: phi4, chatml" chat_once --chat-template chatlm
refused 1 "raise the other with -c" chat_once -c 8
refused 1 "--kv-memory" chat_once --kv-memory 16KiB
"$pith" demo --exact --tokens 256 --needles 1 --keep "$dir/recall.gguf" >/dev/null 2>&1 || fail "demo --keep"
refused 1 "has no tokenizer.chat_template" "$pith" chat -m "$dir/recall.gguf"

# Ctrl-C ends the answer; what was written stays.
printf 'the king\n' | "$pith" chat -m "$model" -q --temp 0 -c 1000000 -n -1 >"$dir/out" 2>"$dir/err" &
pid=$!
while kill -0 $pid 2>/dev/null && [ ! -s "$dir/out" ]; do :; done
kill -INT $pid
wait $pid
code=$?
[ "$code" = 130 ] || fail "Ctrl-C gave $code: $(cat "$dir/err")"
[ -s "$dir/out" ] || fail "Ctrl-C lost the answer"

[ "$failures" = 0 ]
