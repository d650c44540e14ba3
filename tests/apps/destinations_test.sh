#!/bin/sh
# Where results go: what is not a regular file is refused, links and modes stay, what is read is
# never written over, and a bad name is told before the work, not after.
# Usage: destinations_test.sh PITH BUILD_DIR
. tests/support/common.sh

"$pith" demo --exact --tokens 512 --needles 1 --keep "$dir/m.gguf" >/dev/null 2>&1 || fail "demo"
cp "$dir/m.gguf" "$dir/copy"
say="run -m $dir/m.gguf -p Luni -n 1 --temp 0 -q"

mkfifo "$dir/fifo"
refused 1 "not a regular file" "$pith" quantize "$dir/m.gguf" "$dir/fifo" Q8_0
[ -p "$dir/fifo" ] || fail "the pipe is gone"
refused 1 "not a regular file" "$pith" $say --save "$dir/fifo"
refused 1 "not a regular file" "$pith" inspect "$dir/fifo"
refused 1 "not a regular file" "$pith" quantize "$dir/m.gguf" "$dir" Q8_0
refused 1 "has no name" "$pith" quantize "$dir/m.gguf" "" Q8_0
refused 1 "No such file" "$pith" $say --save "$dir/none/s"
[ -s "$dir/out" ] && fail "the answer came before the bad name was told"

ln -s "$dir/target" "$dir/link"
: >"$dir/target"
chmod 600 "$dir/target"
"$pith" $say --save "$dir/link" >/dev/null 2>&1 || fail "save through a link"
[ -L "$dir/link" ] && [ -s "$dir/target" ] || fail "the link was replaced"
[ "$(stat -c %a "$dir/target")" = 600 ] || fail "the mode was $(stat -c %a "$dir/target")"

refused 2 "is the file that is read" "$pith" quantize "$dir/m.gguf" "$dir/m.gguf" Q8_0
refused 2 "is the file that is read" "$pith" $say --save "$dir/m.gguf"
refused 2 "is the file that is read" "$pith" trace -m "$dir/m.gguf" -p Luni --html "$dir/m.gguf"
refused 2 "a GGUF file already" "$pith" convert "$dir/m.gguf" "$dir/x.gguf"
cmp -s "$dir/m.gguf" "$dir/copy" || fail "the model was changed"

refused 2 "between 0 and 256" "$pith" $say -t 20000
refused 2 "odd number" "$pith" calibrate tsp -m "$dir/m.gguf" -p "Luni toru" "$dir/c" --width 2
if [ -w /dev/full ]; then
  "$pith" run -m "$dir/m.gguf" -p "Luni toru. Bafe" -n 3 -q >/dev/full 2>"$dir/err"
  [ $? = 1 ] || fail "a full standard output is not an error"
  grep -q "cannot write to standard output" "$dir/err" || fail "$(cat "$dir/err")"
fi

[ $failures = 0 ] && echo "ok"
exit $failures
