#include "apps/trace_html.h"

#include <algorithm>

#include "apps/json_writer.h"

namespace pith {
namespace {

// The data as one JSON object. "<" is escaped, so that no text can end the script element.
std::string page_data(const Trace& trace, const TraceRecorder& record) {
  JsonWriter json(0);
  json.object().key("model").value(trace.model).key("spec").value(trace.spec);
  json.key("window").value(record.window());
  json.key("bytes").value(trace.cache_bytes).key("full").value(trace.full_cache_bytes);
  json.key("text").array();
  for (const std::string& piece : trace.pieces) json.value(piece);
  json.end().key("layers").array();
  for (const LayerTrace& layer : record.layers()) {
    json.object().key("rows").value(layer.tokens.size()).key("heads").array();
    for (const HeadTrace& head : layer.heads) {
      json.object().key("kept").array();
      int32_t last = 0;  // differences are short
      for (const int32_t token : head.kept) {
        json.value(token - last);
        last = token;
      }
      json.end().key("bytes").value(head.bytes).key("mass").value(head.mass_kept).end();
    }
    json.end().end();
  }
  json.end();
  // The attention each token received, summed over heads, and what of it was kept.
  std::vector<float> received(trace.tokens.size()), kept(trace.tokens.size());
  for (const LayerTrace& layer : record.layers())
    for (const HeadTrace& head : layer.heads) {
      size_t next = 0;
      for (size_t r = 0; r < layer.tokens.size(); ++r) {
        const auto token = static_cast<size_t>(layer.tokens[r]);
        received[token] += head.mass[r];
        while (next < head.kept.size() && head.kept[next] < layer.tokens[r]) ++next;
        if (next < head.kept.size() && head.kept[next] == layer.tokens[r])
          kept[token] += head.mass[r];
      }
    }
  json.key("received").array();
  for (const float x : received) json.value(x);
  json.end().key("saved").array();
  for (const float x : kept) json.value(x);
  std::string text = json.end().end().text();
  for (size_t at = text.find('<'); at != std::string::npos; at = text.find('<', at))
    text.replace(at, 1, "\\u003c");
  return text;
}

constexpr std::string_view kHead = R"html(<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What was kept</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fdfdfb; --line: #d4d4cc; --quiet: #666;
  --kept: 20, 110, 190; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e2; --paper: #16181b; --line: #3a3d42; --quiet: #9a9a95; --kept: 90, 165, 240; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
p { margin: .3rem 0; } .quiet { color: var(--quiet); font-size: .9rem; }
code { font-family: ui-monospace, monospace; }
dl { display: flex; flex-wrap: wrap; gap: .4rem 2rem; margin: .8rem 0; }
dt { font-size: .8rem; color: var(--quiet); } dd { margin: 0; font-variant-numeric: tabular-nums; }
.maps { display: flex; flex-wrap: wrap; gap: 1.5rem 3rem; }
.map { border-collapse: separate; border-spacing: 2px; }
.map th { font-weight: normal; font-size: .75rem; color: var(--quiet); padding: 0 .3rem; }
.map td { padding: 0; }
.map button { width: 2.6rem; height: 1.5rem; border: 1px solid var(--line); padding: 0; cursor: pointer;
  font: .7rem ui-monospace, monospace; color: var(--ink); background: none; }
.map button[aria-pressed=true] { outline: 3px solid var(--ink); outline-offset: -1px; }
button:focus-visible, select:focus-visible { outline: 3px solid rgb(var(--kept)); }
#text { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); padding: 1rem;
  max-height: 32rem; overflow: auto; font-family: ui-monospace, monospace; font-size: .85rem; }
#lost { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
#lost th, #lost td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; }
#lost th:nth-child(2), #lost td:nth-child(2) { text-align: left; white-space: pre-wrap;
  font-family: ui-monospace, monospace; font-size: .85rem; }
.ramp { display: inline-block; width: 1.6rem; height: .9rem; border: 1px solid var(--line);
  vertical-align: -.1rem; }
</style>
<h1>What was kept</h1>
<p><code id="spec"></code> on <code id="model"></code></p>
<dl id="figures"></dl>
<noscript><p>This page draws itself with a script that it carries; please allow it.</p></noscript>
<h2>Heads</h2>
<p class="quiet">A row is a layer, a column a key/value head. Choose a head to see what it kept below.
<button type="button" id="every">All heads</button></p>
<div class="maps">
<section><p>Rows kept, % of the prompt</p><table class="map" id="rows"></table></section>
<section><p>Attention mass kept, %</p><table class="map" id="mass"></table></section>
</div>
<h2>Text <span class="quiet" id="which"></span></h2>
<p class="quiet">Kept by none <span class="ramp"></span>
<span class="ramp" style="background: rgba(var(--kept), .2)"></span>
<span class="ramp" style="background: rgba(var(--kept), .4)"></span>
<span class="ramp" style="background: rgba(var(--kept), .65)"></span> all. Point at a token for its number.</p>
<div id="text" tabindex="0" role="region" aria-label="The prompt"></div>
<h2>What was lost</h2>
<p class="quiet" id="about"></p>
<table id="lost"><thead><tr><th>token</th><th>text around it</th><th>received</th><th>lost</th>
<th>heads that kept it</th></tr></thead><tbody></tbody></table>
<script>
const data = )html";

constexpr std::string_view kTail = R"html(;
const byId = id => document.getElementById(id);
const make = (tag, text) => { const e = document.createElement(tag); e.textContent = text ?? ''; return e; };
const percent = x => (100 * x).toFixed(x >= 0.9995 || x === 0 ? 0 : x < 0.1 ? 1 : 0);
const size = b => b < 1048576 ? (b / 1024).toFixed(1) + ' KiB' : (b / 1048576).toFixed(1) + ' MiB';
const tokens = data.text.length;
const heads = data.layers.flatMap((layer, l) => layer.heads.map((head, h) => {
  let last = 0;
  return { l, h, rows: layer.rows, kept: head.kept.map(d => last += d), mass: head.mass, bytes: head.bytes };
}));
const mean = f => heads.reduce((sum, head) => sum + f(head), 0) / heads.length;
byId('spec').textContent = data.spec;
byId('model').textContent = data.model;
for (const [name, value] of [
  ['tokens', tokens.toLocaleString('en')], ['cache', size(data.bytes)],
  ['full cache, f16', size(data.full)], ['share', percent(data.bytes / data.full) + ' %'],
  ['rows kept, mean over heads', percent(mean(h => h.kept.length / tokens)) + ' %'],
  ['attention mass kept, mean', percent(mean(h => h.mass)) + ' %'],
  ['least of a head', percent(Math.min(...heads.map(h => h.mass))) + ' %']]) {
  const item = make('div');
  item.append(make('dt', name), make('dd', value));
  byId('figures').append(item);
}
const counts = new Uint16Array(tokens);
for (const head of heads) for (const t of head.kept) ++counts[t];

let chosen = -1;
function map(id, value) {
  const table = byId(id), top = table.insertRow();
  top.append(make('th'));
  for (const head of data.layers[0].heads.keys()) top.append(make('th', head));
  let row;
  heads.forEach((head, i) => {
    if (head.h === 0) { row = table.insertRow(); row.append(make('th', head.l)); }
    const x = value(head), button = make('button', percent(x));
    button.type = 'button';
    button.dataset.head = i;
    button.style.background = `rgba(var(--kept), ${0.75 * x})`;
    button.setAttribute('aria-pressed', false);
    button.setAttribute('aria-label', `layer ${head.l}, head ${head.h}: ${percent(x)} %`);
    button.title = `layer ${head.l}, head ${head.h}: ${head.kept.length} of ${head.rows} rows, `
      + `${size(head.bytes)}, ${percent(head.mass)} % of the attention mass`;
    button.onclick = () => choose(chosen === i ? -1 : i);
    row.insertCell().append(button);
  });
}
function choose(i) {
  chosen = i;
  for (const b of document.querySelectorAll('.map button'))
    b.setAttribute('aria-pressed', b.dataset.head === String(i));
  const head = heads[i], kept = head && new Set(head.kept);
  byId('which').textContent = head ? `as layer ${head.l}, head ${head.h} kept it`
    : `by how many of ${heads.length} heads kept it`;
  const text = byId('text'), parts = document.createDocumentFragment();
  data.text.forEach((piece, t) => {
    const share = head ? +kept.has(t) : counts[t] / heads.length, span = make('span', piece);
    if (share > 0) span.style.background = `rgba(var(--kept), ${(0.1 + 0.55 * share).toFixed(3)})`;
    span.dataset.t = t;
    parts.append(span);
  });
  text.replaceChildren(parts);
}
byId('text').onpointerover = event => {
  const t = event.target.dataset?.t;
  if (t !== undefined) event.target.title = `token ${t}, kept by ${counts[t]} of ${heads.length} heads`;
};
byId('every').onclick = () => choose(-1);
map('rows', head => head.kept.length / tokens);
map('mass', head => head.mass);
choose(-1);

const lost = data.received.map((x, t) => [x - data.saved[t], t]).filter(([x]) => x > 1e-6)
  .sort((a, b) => b[0] - a[0] || a[1] - b[1]);
const all = lost.reduce((sum, [x]) => sum + x, 0);
byId('about').textContent = lost.length === 0
  ? 'Nothing that the end of the prompt looks at.'
  : `Of what the last ${data.window} queries pay, ${percent(all / heads.length)} % went to rows that are gone, `
    + `spread over ${lost.length} tokens. These lost most; received and lost are sums over heads.`;
for (const [x, t] of lost.slice(0, 40)) {
  const row = byId('lost').tBodies[0].insertRow(), around = make('td');
  const part = (from, to) => data.text.slice(Math.max(0, from), to).join('').replaceAll('\n', '\u23ce');
  around.append(part(t - 4, t), make('mark', part(t, t + 1)), part(t + 1, t + 5));
  row.append(make('td', t), around, make('td', data.received[t].toFixed(4)), make('td', x.toFixed(4)),
    make('td', `${counts[t]} of ${heads.length}`));
}
</script>
</html>
)html";

}  // namespace

std::string trace_page(const Trace& trace, const TraceRecorder& record) {
  return std::string(kHead) + page_data(trace, record) + std::string(kTail);
}

}  // namespace pith
