#!/bin/sh
# The report of pith eval: from a results file without running anything, with its figures as files;
# and in a browser, where chromium is installed: light and dark, wide and narrow.
# Usage: eval_report_test.sh PITH BUILD_DIR
. tests/support/common.sh

"$pith" demo --exact --tokens 512 --needles 1 --keep "$dir/recall.gguf" >/dev/null 2>&1 || fail "demo"
"$pith" eval -m "$dir/recall.gguf" --kv full --kv snapkv --kv knorm --budget 0.1,0.3 \
  --task needle,passkey --lengths 512,768 --samples 1 --results "$dir/r.sqlite" \
  -o html >"$dir/run.html" || fail "a run's report"
"$pith" eval --results "$dir/r.sqlite" --report-only -o html --figures "$dir/figures" \
  >"$dir/report.html" || fail "--report-only"
for spec in full snapkv:budget=0.1 snapkv:budget=0.3 knorm:budget=0.1 knorm:budget=0.3; do
  for page in run report; do
    grep -q "<code>$spec</code>" "$dir/$page.html" || fail "$page.html does not show $spec"
  done
done
grep -q "pith eval -m $dir/recall.gguf" "$dir/report.html" || fail "no command"
grep -Eq 'src="|<link|<img|@import|[^A-Z]url\(|https?://|fetch\(' "$dir/report.html" &&
  fail "the page needs something from elsewhere"
python3 - "$dir" <<'PY' || fail "figures"
import pathlib, sys, xml.dom.minidom
files = sorted((pathlib.Path(sys.argv[1]) / "figures").iterdir())
names = [f.name for f in files]
assert sum("score" in n for n in names) == 2 and sum("bytes" in n for n in names) == 2, names
assert sum("needle" in n for n in names) == 10 and sum("speed" in n for n in names) == 1, names
for f in files:
    assert xml.dom.minidom.parse(str(f)).documentElement.tagName == "svg"
    assert "var(" not in f.read_text()
PY
"$pith" eval --report-only 2>"$dir/err" && fail "--report-only without a file"
grep -q "name the file" "$dir/err" || fail "said: $(cat "$dir/err")"
refused 2 'leave --kv out' "$pith" eval --results "$dir/r.sqlite" --report-only --kv full
"$pith" eval --results "$dir/none.sqlite" --report-only 2>"$dir/err" && fail "no such file"
[ -e "$dir/none.sqlite" ] && fail "--report-only made a file"

[ $failures = 0 ] || exit 1
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
  echo "SKIPPED in a browser: no chromium is installed"
  exit 77
}

# What the page measures of itself, in a copy that has a script for it.
cat "$dir/report.html" - >"$dir/probe.html" <<'EOF'
<script>
const drawn = [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 50);
const focusable = [...document.querySelectorAll('a[href], summary, button, [tabindex="0"]')];
focusable[0].focus();
const buttons = [...document.querySelectorAll('figure button')];
const out = { svgs: document.querySelectorAll('svg').length, drawn: drawn.length,
  wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  focusable: focusable.length, focused: document.activeElement === focusable[0],
  dark: matchMedia('(prefers-color-scheme: dark)').matches,
  paper: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.querySelector('svg text.t')).fill };
// A picture is saved by a link, which is caught here and looked at.
HTMLAnchorElement.prototype.click = function () {
  out.saved = this.download;
  const picture = new Image();
  picture.onload = () => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [picture.width, picture.height];
    const paper = canvas.getContext('2d');
    paper.drawImage(picture, 0, 0);
    const points = paper.getImageData(0, 0, canvas.width, canvas.height).data;
    const colors = new Set();
    for (let at = 0; at < points.length; at += 4) colors.add(points.slice(at, at + 4).join());
    out.size = [picture.width, picture.height];
    out.corner = points.slice(0, 4).join();
    out.colors = [...colors].filter(c => ['0,0,0,255', '11,98,173,255'].includes(c)).length;
    document.title = 'probe ' + JSON.stringify(out);
  };
  picture.src = this.href;
};
buttons[0].focus();
out.buttonFocused = document.activeElement === buttons[0];
out.buttons = buttons.map(b => b.getAttribute('aria-label'));
out.figures = [...document.querySelectorAll('figure')].map(f => f.id);
const box = drawn[0].viewBox.baseVal;
out.drawnSize = [box.width, box.height];
buttons[0].click();
</script>
EOF
probe() {  # WIDTH SCHEME (0: dark, 1: light)
  HOME="$dir" timeout 60 "$browser" --headless --no-sandbox --disable-gpu \
    --user-data-dir="$dir/profile" --window-size="$1,900" --virtual-time-budget=20000 \
    --blink-settings=preferredColorScheme="$2" --dump-dom "file://$dir/probe.html" 2>/dev/null |
    sed -n 's/.*<title>probe \(.*\)<\/title>.*/\1/p'
}
for shown in '1200 0' '500 1'; do
  width=${shown% *} scheme=${shown#* }
  probe $width $scheme >"$dir/found.json"
  python3 - "$dir/found.json" $scheme <<'PY' || fail "the page at $width, scheme $scheme"
import html, json, re, sys
text = html.unescape(open(sys.argv[1]).read())
assert text.strip(), "the browser showed nothing"
found = json.loads(text)
assert found["svgs"] == found["drawn"] == 15, found
assert found["wider"] <= 0 and found["focused"] and found["focusable"] > 10, found
dark = sys.argv[2] == "0"
assert found["dark"] == dark, found
assert found["buttons"] == ["Save as PNG: " + f for f in found["figures"]], found
assert len(found["buttons"]) == 15 and found["buttonFocused"], found
# Twice as large, on white, with black text and the first series' blue: the colours of paper.
assert found["saved"] == found["figures"][0] + ".png", found
assert found["size"] == [2 * side for side in found["drawnSize"]], found
assert found["corner"] == "255,255,255,255" and found["colors"] == 2, found
light = lambda color: sum(map(int, re.findall(r"\d+", color)[:3])) > 380
assert light(found["paper"]) != dark and light(found["ink"]) == dark, found
PY
done
[ $failures = 0 ] || exit 1
