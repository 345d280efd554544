// Draws the JSON of probes/viewer/problem_json.py: graphs, solutions, and what is known of each token. Every text enters the page
// as text, never as markup. `at` is how many rows of the solutions are written; everything follows from it in `show`.
"use strict";
const page = JSON.parse(document.getElementById("page-data").textContent);
const { problem, panels } = page;
const nodes = new Map(problem.graph.nodes.map((n) => [n.slot, n]));
const BOX = { w: 185, h: 56 };
const most = Math.max(...panels.map((p) => p.rows.length));
let at = 0, playing = null, pinned = null;

// ---------------------------------------------------------------------------------------------------- small pieces
function el(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "rect", "circle", "text", "defs", "marker"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(key, value === true ? "" : value);
  element.append(...children.filter((child) => child != null));
  return element;
}
const percent = (p) => (p == null ? "?" : p > 0.9995 ? "100%" : p > 0 && p < 0.001 ? "<0.1%" : (100 * p).toFixed(1) + "%");
const nameOf = (slot) => (nodes.has(slot) ? `${nodes.get(slot).owner} ${nodes.get(slot).thing}` : "");
const label = (k) => (k === problem.modulus ? "unknown" : String(k));
const meter = (name, p, kind, is = false) =>
  el("div", { class: is ? "meter is" : "meter" }, el("span", {}, name),
    el("span", { class: "track" }, el("i", { class: kind, style: `width:${100 * (p ?? 0)}%` })), el("span", {}, percent(p)));

// ------------------------------------------------------------------------------------------- what holds at a place
// The rows before `place`, as {slot: the row that defined it last}.
function definedBy(panel, place) {
  const by = new Map();
  for (const row of panel.rows.slice(0, place)) if (row.binds && row.slot >= 0) by.set(row.slot, row);
  return by;
}
const isReady = (node, by) => node.needed && !by.has(node.slot) && node.below.every((slot) => by.has(slot));
const readAt = (panel, task, place) => {
  const all = panel.reads[task]?.at;
  return all && all[Math.min(place, all.length - 1)];
};
// What the chip under a node says: before the solution whether it is needed, afterwards its value.
function chipOf(panel, node, by, place) {
  const found = readAt(panel, place === 0 ? "nece" : "value", place)?.[node.slot];
  if (!found) return null;
  const [k, p] = found[0];
  if (place === 0) return { text: `${k ? "needed" : "not needed"} ${Math.round(100 * p)}%`, good: (k === 1) === node.needed };
  if (k === problem.modulus) return { text: "reads ?", good: by.has(node.slot) ? false : null };
  const truth = by.get(node.slot)?.written ?? node.value;
  return { text: `reads ${k}  ${Math.round(100 * p)}%`, good: k === truth };
}

// --------------------------------------------------------------------------------------------------------- the graph
function curve(edge) {
  const a = nodes.get(edge.from), b = nodes.get(edge.to);
  const points = [[a.x + BOX.w / 2, a.y]];
  for (const [x, y] of edge.via) points.push([x - BOX.w / 2, y], [x + BOX.w / 2, y]);
  points.push([b.x - BOX.w / 2 - 4, b.y]);
  let d = `M${points[0]}`;
  for (let i = 1; i < points.length; i++) {
    const [x0, y0] = points[i - 1], [x1, y1] = points[i], bend = (x1 - x0) / 2;
    d += ` C${x0 + bend},${y0} ${x1 - bend},${y1} ${x1},${y1}`;
  }
  return d;
}
const tip = (id) => el("marker", { id, viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 9, markerHeight: 9,
  markerUnits: "userSpaceOnUse", orient: "auto" }, el("path", { d: "M0,0.6 L8,4 L0,7.4 z" }));

function drawGraph(panel, number) {
  const passing = problem.graph.edges.flatMap((edge) => edge.via.map(([, y]) => y));
  const xs = problem.graph.nodes.map((n) => n.x), ys = [...problem.graph.nodes.map((n) => n.y), ...passing];
  const x0 = Math.min(...xs) - BOX.w / 2 - 22, x1 = Math.max(...xs) + BOX.w / 2 + 22;
  const y0 = Math.min(...ys) - BOX.h / 2 - 22, y1 = Math.max(...ys) + BOX.h / 2 + 28;
  const least = (panels.length > 1 ? 0.5 : 0.62) * (x1 - x0);
  const svg = el("svg", { viewBox: `${x0} ${y0} ${x1 - x0} ${y1 - y0}`, role: "img",
    "aria-label": `Dependency graph of ${problem.graph.nodes.length} parameters`,
    style: `max-width:${1.15 * (x1 - x0)}px;min-width:${least}px` });
  if (number === 0) svg.append(el("defs", {}, tip("tip"), tip("tip-off"), tip("tip-flow")));
  panel.edges = problem.graph.edges.map((edge) => ({ ...edge, path: el("path", { d: curve(edge) }) }));
  panel.edges.forEach((edge) => svg.append(edge.path));
  panel.nodes = new Map();
  for (const node of problem.graph.nodes) {
    const round = node.abstract ? 27 : 6, left = -BOX.w / 2, up = -BOX.h / 2;
    const rect = (grow, cls) => el("rect", { class: cls, x: left - grow, y: up - grow, width: BOX.w + 2 * grow,
      height: BOX.h + 2 * grow, rx: round + (grow > 0 ? grow : 0) });
    const name = (text, y) => el("text", { x: left + (node.abstract ? 18 : 12), y, style: `font-size:${Math.min(12.5, 250 / text.length)}px` }, text);
    const parts = { value: el("text", { class: "value", x: -left - 12, y: 6 }), was: el("text", { class: "was", x: -left - 12, y: 20 }),
      badge: el("g", { class: "badge", transform: `translate(${left + 2},${up + 2})` }, el("circle", { r: 11 }), el("text", { y: 4 })),
      chip: el("g", { class: "chip", transform: `translate(0,${-up})` }, el("rect", { y: -8, height: 16, rx: 8 }), el("text", { y: 3.7 })) };
    const g = el("g", { transform: `translate(${node.x},${node.y})`, tabindex: 0,
      onmouseenter: () => point(g, node.slot, () => aboutNode(panel, node)), onmouseleave: leave,
      onfocus: () => point(g, node.slot, () => aboutNode(panel, node)), onblur: leave },
      rect(7, "halo"), node.query ? rect(4, "ring") : null, rect(0, "box"), name(node.owner, -5), name(node.thing, 13),
      parts.value, parts.was, parts.badge, parts.chip);
    panel.nodes.set(node.slot, { g, ...parts });
    svg.append(g);
  }
  return el("div", { class: "graph" }, svg);
}

function showGraph(panel) {
  const by = definedBy(panel, at), now = at > 0 ? panel.rows[at - 1] : null;
  for (const [slot, part] of panel.nodes) {
    const node = nodes.get(slot), row = by.get(slot), chip = chipOf(panel, node, by, at);
    const state = row ? ["done", row.group] : isReady(node, by) ? ["ready"] : node.ancestor ? ["needed"] : ["unneeded"];
    if (node.query) state.push("query");
    if (now && now.slot === slot) state.push("now");
    part.g.setAttribute("class", ["node", ...state].join(" "));
    const written = row ? row.written : null, value = written ?? node.value;
    part.value.textContent = value ?? (node.missing ? "not given" : "?");
    part.value.style.fontSize = value == null && node.missing ? "11px" : "";
    part.was.textContent = written != null && written !== node.value ? `true: ${node.value ?? "none"}` : "";
    part.badge.style.display = row ? "" : "none";
    part.badge.lastChild.textContent = row ? (row.group === "wrong" ? "✕" : row.step + 1) : "";
    part.chip.style.display = chip ? "" : "none";
    part.chip.setAttribute("class", `chip ${chip?.good == null ? "" : chip.good}`);
    part.chip.lastChild.textContent = chip?.text ?? "";
    const width = 14 + 5.9 * (chip?.text.length ?? 0);
    for (const [key, value] of [["x", -width / 2], ["width", width]]) part.chip.firstChild.setAttribute(key, value);
  }
  for (const edge of panel.edges)
    edge.path.setAttribute("class", `edge ${now && now.slot === edge.to && now.binds ? "flow" : nodes.get(edge.to).ancestor ? "" : "off"}`);
}

// ------------------------------------------------------------------------------------------------------ the solution
function drawRows(panel) {
  panel.lines = panel.rows.map((row, r) => {
    const words = el("span", { class: "tokens" });
    for (let t = row.start; t < row.stop; t++) {
      const token = panel.tokens[t], drawn = drawToken(panel, row, r, t, token);
      if (token.text.startsWith(" ")) words.append(" ");
      words.append(drawn);
    }
    return el("div", { class: `row ${row.group}`, onclick: (event) => event.target.closest(".token") || go(r + 1) },
      el("b", {}, row.step >= 0 ? String(row.step + 1) : ""), words, el("small", {}, row.kind));
  });
  return el("div", { class: "rows" }, ...panel.lines);
}

function drawToken(panel, row, r, t, token) {
  const kinds = ["token", token.special && "special", token.o === 0 && "never", token.allowed?.length > 1 && "fork"];
  const about = () => aboutToken(panel, row, r, t, token);
  const element = el("span", { class: kinds.filter(Boolean).join(" "), tabindex: 0, onmouseenter: () => point(element, row.slot, about),
    onmouseleave: leave, onfocus: () => point(element, row.slot, about), onblur: leave,
    onclick: () => { pinned = pinned === element ? null : element; mark(); } },
    token.text.trim(), el("i", { class: "p", style: `width:${100 * token.p}%` }),
    token.o != null ? el("i", { class: "o", style: `width:${100 * token.o}%` }) : null);
  return element;
}

// ---------------------------------------------------------------------------------------------------------- the card
const card = el("div", { id: "card", role: "status", hidden: true });

function point(target, slot, content) {
  if (pinned && pinned !== target) return;
  card.replaceChildren(...content().filter((part) => part != null));
  card.hidden = false;
  const spot = target.getBoundingClientRect(), size = card.getBoundingClientRect();
  const below = spot.bottom + 10 + size.height < innerHeight || spot.top < size.height + 10;
  card.style.left = Math.max(8, Math.min(spot.left, innerWidth - size.width - 8)) + "px";
  card.style.top = Math.max(8, below ? Math.min(spot.bottom + 10, innerHeight - size.height - 8) : spot.top - size.height - 10) + "px";
  light(slot);
}
function leave() {
  if (pinned) return;
  card.hidden = true;
  light(-1);
}
function mark() {
  document.querySelectorAll(".token.pinned").forEach((one) => one.classList.remove("pinned"));
  if (pinned) pinned.classList.add("pinned");
}
function light(slot) {
  for (const panel of panels) for (const [s, part] of panel.nodes) part.g.classList.toggle("about", s === slot);
  document.querySelectorAll(".problem span").forEach((one) => one.classList.toggle("about", slot >= 0 && one.dataset.slot === String(slot)));
}

// What the oracle does after something the generator cannot write (synth.oracle).
const AFTER = {
  continued: "Something impossible was written before: the oracle takes it as it stands and goes on.",
  corrected: "Something impossible was written before: the oracle takes the step back.",
  abstained: "Something impossible was written before, and what follows is not determined: the oracle abstains.",
};
function aboutToken(panel, row, r, t, token) {
  const reads = aboutReads(panel, row.slot, r, "before this step");
  const word = (token.word ?? token.text).trim();
  const rest = (list, kind) => list.map(([text, p]) => meter(text, p, kind, text === word));
  return [
    el("h3", {}, `“${word}”`, el("span", { class: "soft" }, `  token ${t + 1}, ${row.step >= 0 ? "step " + (row.step + 1) : "after the steps"}: ${row.kind}`)),
    meter("the model", token.p, "p-fill"),
    token.q != null ? meter("the other model", token.q, "q-fill") : null,
    panel.oracle ? meter("the oracle", token.o, "o-fill") : null,
    token.status ? el("p", { class: "soft" }, AFTER[token.status]) : null,
    el("div", { class: "pair" },
      el("div", {}, el("h4", {}, "the model's likeliest"), ...rest(token.top, "p-fill")),
      token.allowed ? el("div", {}, el("h4", {}, token.allowed.length ? "what the oracle allows" : "the oracle says nothing"),
        ...rest(token.allowed, "o-fill"), token.more ? el("p", { class: "soft" }, `and ${token.more} more`) : null) : null),
    ...(reads.length ? [el("h4", { class: "of" }, `Of ${nameOf(row.slot)} the hidden state says:`), ...reads] : []),
  ];
}

function aboutNode(panel, node) {
  const by = definedBy(panel, at), row = by.get(node.slot);
  const state = row ? `defined in step ${row.step + 1}: ${row.kind}` : isReady(node, by) ? "ready: all it rests on is defined"
    : node.needed ? "needed, not ready yet" : node.ancestor ? "cannot be derived" : "not needed for the question";
  return [
    el("h3", {}, nameOf(node.slot)),
    el("p", { class: "soft" }, `${state}${node.query ? "; this is the question" : ""}`),
    el("p", {}, `true value ${node.value ?? "none"}${row && row.written != null && row.written !== node.value ? `, written ${row.written}` : ""}`),
    node.below.length ? el("p", { class: "soft" }, "rests on " + node.below.map(nameOf).join(", ")) : null,
    ...aboutReads(panel, node.slot, at, at < panel.rows.length ? "before the next step" : "at the end"),
  ];
}

const QUESTIONS = { nece: "needed?", known: "computed yet?", can_next: "can it come next?", nece_next: "needed, and next?" };
function aboutReads(panel, slot, place, when) {
  const parts = [], value = readAt(panel, "value", place)?.[slot];
  const head = (task, text) => el("h4", {}, `${text} (probe at layer ${panel.reads[task].layer})`);
  if (value) parts.push(head("value", `value, read ${when}`), ...value.map(([k, p]) => meter(label(k), p, "r-fill")));
  for (const [task, read] of Object.entries(panel.reads)) {
    const found = task === "value" ? null : readAt(panel, task, task === "nece" ? 0 : place)?.[slot];
    if (found) parts.push(head(task, `${QUESTIONS[task]} read ${task === "nece" ? "before the solution" : when}`), meter(read.labels[1], found.find(([k]) => k === 1)?.[1], "r-fill"));
  }
  return parts;
}

// ------------------------------------------------------------------------------------------------------ the controls
function go(place) {
  at = Math.max(0, Math.min(most, place));
  show();
}
function play() {
  if (playing) { clearInterval(playing); playing = null; }
  else {
    if (at === most) go(0);
    playing = setInterval(() => { go(at + 1); if (at === most) play(); }, 900);
  }
  controls.play.textContent = playing ? "❚❚" : "▶";
}
function show() {
  for (const panel of panels) {
    const place = Math.min(at, panel.rows.length);
    showGraph(panel);
    panel.lines.forEach((line, r) => {
      line.classList.toggle("later", r >= at);
      line.classList.toggle("now", r === place - 1 && at > 0);
    });
  }
  controls.slider.value = at;
  controls.place.textContent = at === 0 ? "before the solution" : at > most - 1 ? `the end (${most} of ${most})` : `step ${at} of ${most}`;
}
const button = (text, title, action) => el("button", { title, "aria-label": title, onclick: action }, text);
const controls = {
  slider: el("input", { type: "range", min: 0, max: most, value: 0, "aria-label": "how much of the solution is written", oninput: (e) => go(+e.target.value) }),
  play: button("▶", "play (space)", play), place: el("output", {}),
  reads: button("probe read-outs", "show or hide what the probes read (p)", () => toggleReads()),
};
function toggleReads() {
  const off = document.body.classList.toggle("noreads");
  controls.reads.setAttribute("aria-pressed", String(!off));
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
  const keys = { ArrowRight: () => go(at + 1), ArrowLeft: () => go(at - 1), Home: () => go(0), End: () => go(most), p: toggleReads,
    " ": event.target.tagName === "BUTTON" ? null : play, Escape: () => { pinned = null; mark(); leave(); } };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

// ----------------------------------------------------------------------------------------------------------- the page
function legend() {
  const swatch = (cls, text, round = 4) => el("span", {}, el("svg", { viewBox: "0 0 30 18" }, el("g", { class: `node ${cls}` },
    el("rect", { class: "box", x: 1, y: 1, width: 28, height: 16, rx: round }))), text);
  const bar = (cls, text) => el("span", {}, el("i", { class: cls }), text);
  return el("div", { class: "legend" }, swatch("needed", "needed"), swatch("ready", "ready now"), swatch("done right", "done"),
    swatch("done wrong", "done wrongly ✕"), swatch("done waste", "done, not needed"), swatch("unneeded", "not needed"), swatch("needed", "a total (no sentence)", 8),
    bar("p-fill", "probability of the token: model"), panels.some((p) => p.oracle) ? bar("o-fill", "oracle") : null,
    panels.some((p) => p.oracle) ? el("span", {}, el("b", {}, "bold"), "the oracle has a choice") : null, panels.some((p) => p.oracle) ? el("span", {}, el("span", { class: "token never" }, "wavy"), "cannot come") : null,
    panels.some((p) => p.reads.value || p.reads.nece) ? el("span", {}, el("span", { class: "r-fill" }), "reads: what a probe makes of the hidden state, dashed where it is wrong") : null);
}
function heading(panel) {
  const first = panel.first_mistake >= 0 ? `step ${panel.first_mistake + 1}: ` : "";
  const numbers = [`answer ${panel.answer ?? "none"}`, `log-probability ${(panel.logp + 0).toFixed(2).replace(/^-(0\.0+)$/, "$1")}`];
  if (panel.kl != null) numbers.push(`KL from the oracle ${panel.kl.toFixed(4)} nats a token`);
  if (!panel.finished) numbers.push("cut off: it did not end");
  const reads = Object.entries(panel.reads);
  const line = ([task, r]) => el("tr", {}, ...[task, `layer ${r.layer}`, `right ${percent(r.accuracy)} [${percent(r.low)}, ${percent(r.high)}]`,
    `n = ${r.n}`, `most frequent label ${percent(r.majority)}`, r.low <= r.majority ? "no better" : ""].map((text) => el("td", {}, text)));
  const short = "probes on the test split: " + reads.map(([task, r]) => `${task} ${percent(r.accuracy)}${r.low <= r.majority ? " (no better than chance)" : ""}`).join(", ");
  return el("div", {}, el("div", { class: "head" }, el("h2", {}, panel.name),
    el("span", { class: `verdict ${panel.right ? "right" : "wrong"}` }, panel.right ? "fully correct" : first + panel.reason)),
    el("p", { class: "soft" }, numbers.join(" · ")), reads.length ? el("details", {}, el("summary", {}, short), el("table", {}, ...reads.map(line))) : null);
}
function build() {
  const text = problem.sentences.map((s) => el("span", { "data-slot": s.slot, class: s.question ? "asks" : s.context ? "context" : "" }, s.text));
  const some = panels.some((panel) => Object.keys(panel.reads).length);
  controls.reads.setAttribute("aria-pressed", "true");
  document.getElementById("glass").append(
    el("h1", {}, problem.question, " ", el("b", {}, problem.answer)),
    el("p", { class: "soft" }, `${page.where} · ${problem.ops} operation${problem.ops === 1 ? "" : "s"}, ${problem.given} sentences, modulo ${problem.modulus}`),
    el("div", { class: "bar" }, button("←", "one step back (left arrow)", () => go(at - 1)), controls.play,
      button("→", "one step on (right arrow)", () => go(at + 1)), controls.slider, controls.place, some ? controls.reads : null,
      el("span", { class: "soft" }, "keys ← → step, space plays, p read-outs; hover or click a token or a parameter")),
    legend(),
    el("div", { class: panels.length > 1 ? "panels two" : "panels" },
      ...panels.map((panel, i) => el("section", {}, heading(panel), drawGraph(panel, i), drawRows(panel)))),
    card);
  const below = el("section", { class: "text" }, el("h2", {}, "the problem"), el("p", { class: "problem" }, ...text));
  const last = document.querySelector(".panels");
  if (panels.length > 1) last.after(below);
  else {
    const rows = last.querySelector(".rows"), both = el("div", { class: "beside" });
    rows.replaceWith(both);
    both.append(rows, below);
  }
  show();
}
build();
