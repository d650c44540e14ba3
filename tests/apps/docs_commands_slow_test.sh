#!/bin/sh
# Every `$ pith ...` of README.md and docs/ runs as it is typed there, in a folder that has files of
# those names: tiny models and short texts. Usage: docs_commands_slow_test.sh PITH BUILD_DIR
set -u
pith=$(realpath "$1")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

python3 - >"$dir/commands" <<'PY'
import pathlib, re
seen = set()
for page in [pathlib.Path("README.md"), *sorted(pathlib.Path("docs").rglob("*.md"))]:
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), flags=re.S):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r" {2,}", " ", re.sub(r" {2,}# .*", "", line[2:]))
            if line.startswith("$ ") and "pith" in line and command not in seen:
                seen.add(command)
                print(command)
PY
[ "$(wc -l <"$dir/commands")" -gt 30 ] || {
  echo "FAILED: only $(wc -l <"$dir/commands") commands were found"
  exit 1
}

# What the commands expect to find.
export HOME="$dir/home"
work=$dir/work
mkdir -p "$HOME/.zfunc" "$HOME/.config/fish/completions" "$HOME/.local/share/man/man1" "$work"
ln -s "$pith" "$dir/pith"
PATH=$dir:$PATH
python3 tests/support/make_hf_folder.py "$work/SmolLM-135M"
python3 tests/support/make_checkpoint.py "$work"
cd "$work" || exit 1
mv model.bin stories15M.bin
pith convert SmolLM-135M model.gguf >/dev/null
pith convert SmolLM-135M model-f16.gguf >/dev/null
i=0
while [ $i -lt 12 ]; do
  echo "the king and the queen went on and on, and the rain in the end came down on $i inns"
  i=$((i + 1))
done >report.txt
cp report.txt book.txt
cp report.txt wiki.test.raw
echo '{"dataset": "multi_news", "context": "The king went on.", "answers": ["He went."]}' \
  >multi_news.jsonl
command -v git >/dev/null 2>&1 && git init -q . && git add report.txt && echo more >>report.txt

failures=0
while read -r command; do  # in the order of the pages: some need what others wrote
  case $command in
    # Minutes of work, or a gigabyte: demo_test.sh and the tests of convert do the like.
    *"pith demo"* | *--geometry*) continue ;;
    # Programs that are not everywhere.
    *"| jq "*) command -v jq >/dev/null 2>&1 || continue ;;
    *"git diff"*) command -v git >/dev/null 2>&1 || continue ;;
    *"| man "*) command -v man >/dev/null 2>&1 || continue ;;
  esac
  # Without a limit an answer of made-up weights never ends.
  case $command in
    *"pith run "* | *"pith chat "*)
      case $command in
        *" -n "*) ;;
        *) command=$(printf '%s\n' "$command" | sed -E 's/pith (run|chat) /pith \1 -n 8 /') ;;
      esac ;;
  esac
  # The tiny model has a token per letter: one sample, and room for it.
  case $command in
    *"pith eval -m "*)
      command=$(printf '%s\n' "$command" | sed -E 's/ --(samples|lengths) [0-9,]+//g')
      case $command in *" --task "*) ;; *) command="$command --task passkey" ;; esac
      command="$command --samples 1 --lengths 4000 -c 4000" ;;
  esac
  if ! bash -c "set -o pipefail; $command" </dev/null >"$dir/out" 2>"$dir/err"; then
    echo "FAILED: $command: $(cat "$dir/err")"
    failures=$((failures + 1))
  fi
done <"$dir/commands"
[ "$failures" = 0 ]
