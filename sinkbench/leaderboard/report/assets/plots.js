// Small multiples, one panel for each task and model, drawn anew when the page's width changes.

const ROW = 25;
const LETTER = 6.6;

function shownPanels() {
  return DATA.panels.filter((panel) => shownTask(panel.task) && shownModel(panel.model));
}

function heading(panel) {
  const twins = DATA.panels.filter((other) => other.task === panel.task && other.model === panel.model);
  const note = twins.length > 1 ? ` · conditions ${panel.conditions}` : "";
  return h("h3", {}, `${panel.task} · ${panel.model} `, h("small", {}, panel.metric + note));
}

function range(values, pad) {
  const low = Math.min(...values), high = Math.max(...values);
  const room = (high - low) * pad || Math.abs(high) * 0.05 || 1;
  return [low - room, high + room];
}

const linear = ([low, high], from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);

function describeRun(panel, run, cost) {
  const lines = [run.marked, `${panel.metric.replace(/ [↑↓]$/, "")}: ${score(run.value)} ${brackets(run.ci)}`];
  if (run.delta) lines.push(`Δ ${signed(run.delta.value)} ${brackets(run.delta.ci)}`);
  if (cost) lines.push(`${cost.title}: ${short(run.costs[cost.key])}`, ...(run.fronts.includes(cost.key) ? ["on the front"] : []));
  return lines.join("\n");
}

// Bars

function drawBars(panel, width) {
  const runs = panel.runs.filter((run) => run.value !== null);
  const compared = runs.some((run) => run.delta);
  const longest = Math.max(...runs.map((run) => run.label.length), 4);
  const names = Math.min(longest * LETTER + 8, width * 0.32);
  const numbers = 44, gap = 14, top = 18;
  const rest = width - names - numbers - (compared ? gap : 0) - 4;
  const bars = compared ? rest * 0.55 : rest;
  const bottom = top + runs.length * ROW;
  const [low, high] = [Math.min(0, ...runs.map((run) => run.value)), Math.max(...runs.flatMap((run) => [run.value, ...(run.ci || [])])) || 1];
  const x = linear([low, high], names, names + bars);
  const parts = [];
  for (const tick of ticks(low, high, bars > 150 ? 4 : 2)) {
    parts.push(s("line", { class: "grid", x1: x(tick), x2: x(tick), y1: top, y2: bottom }));
    parts.push(s("text", { class: "dim mid", x: x(tick), y: bottom + 14 }, short(tick)));
  }
  const left = names + bars + numbers + gap;
  const deltas = runs.filter((run) => run.delta);
  const reach = Math.max(...deltas.flatMap((run) => [run.delta.value, ...(run.delta.ci || [])].map(Math.abs)), 0.001);
  const d = linear([-reach, reach], left, width - 4);
  if (compared) {
    parts.push(s("line", { class: "axis", x1: d(0), x2: d(0), y1: top, y2: bottom }));
    parts.push(s("text", { class: "dim mid", x: d(0), y: top - 6 }, "Δ"));
    const [nearest] = ticks(reach * 0.5, reach, 1).slice(-1);
    for (const tick of nearest ? [-nearest, 0, nearest] : [0]) {
      if (tick) parts.push(s("line", { class: "grid", x1: d(tick), x2: d(tick), y1: top, y2: bottom }));
      parts.push(s("text", { class: "dim mid", x: d(tick), y: bottom + 14 }, (tick > 0 ? "+" : "") + short(tick).replace("-", "−")));
    }
  }
  runs.forEach((run, index) => parts.push(barRow(panel, run, top + index * ROW + ROW / 2, { x, d, names, numbers: names + bars + numbers })));
  return s("svg", { width, height: bottom + 20, viewBox: `0 0 ${width} ${bottom + 20}`, role: "group", "aria-label": `Scores on ${panel.task}, ${panel.model}` }, parts);
}

function barRow(panel, run, y, { x, d, names, numbers }) {
  const row = s("g", { class: "run", tabindex: 0, role: "img", "aria-label": describeRun(panel, run), "data-method": run.method });
  row.append(s("rect", { x: 0, y: y - ROW / 2, width: numbers, height: ROW, fill: "transparent" }));
  row.append(s("text", { x: 0, y: y + 4 }, clipped(run.label, Math.floor((names - 6) / LETTER))));
  row.append(s("rect", { class: run.baseline ? "bar base" : "bar", x: Math.min(x(0), x(run.value)), y: y - 7, width: Math.max(Math.abs(x(run.value) - x(0)), 1), height: 14 }));
  if (run.ci) row.append(whisker("whisker", x(run.ci[0]), x(run.ci[1]), y));
  row.append(s("text", { class: "end", x: numbers, y: y + 4 }, score(run.value)));
  if (run.delta) {
    const better = panel.direction === "neutral" ? "" : (run.delta.value > 0) === (panel.direction === "higher") ? "good" : "bad";
    const tone = run.delta.sure ? `${better} sure` : "";
    if (run.delta.ci) row.append(whisker(`whisker ${run.delta.sure ? better : ""}`, d(run.delta.ci[0]), d(run.delta.ci[1]), y));
    row.append(s("circle", { class: `mark ${tone}`, cx: d(run.delta.value), cy: y, r: 4 }));
  }
  return withTip(row, describeRun(panel, run));
}

const whisker = (style, from, to, y) => s("path", { class: style, d: `M${from} ${y - 3}V${y + 3}M${from} ${y}H${to}M${to} ${y - 3}V${y + 3}` });

// Score against cost

function drawCost(panel, cost, width) {
  const runs = panel.runs.filter((run) => run.value !== null && run.costs[cost.key] !== null);
  const height = Math.round(Math.min(320, 190 + width * 0.2));
  const box = { left: 42, right: width - 12, top: 10, bottom: height - 38 };
  const x = linear(range(runs.map((run) => run.costs[cost.key]), 0.12), box.left, box.right);
  const y = linear(range(runs.flatMap((run) => [run.value, ...(run.ci || [])]), 0.06), box.bottom, box.top);
  const place = (run) => [x(run.costs[cost.key]), y(run.value)];
  const parts = [...axes(runs, cost, box, x, y)];
  for (const run of runs) {
    const [px] = place(run);
    if (run.ci) parts.push(s("path", { class: "whisker faint", d: `M${px} ${y(run.ci[0])}V${y(run.ci[1])}` }));
  }
  for (const method of new Set(runs.map((run) => run.method))) {
    const same = runs.filter((run) => run.method === method).sort((a, b) => a.costs[cost.key] - b.costs[cost.key]);
    if (same.length > 1) parts.push(s("path", { class: "budgets", "data-method": method, d: `M${same.map((run) => place(run).join(" ")).join("L")}` }));
  }
  const front = runs.filter((run) => run.fronts.includes(cost.key)).sort((a, b) => a.costs[cost.key] - b.costs[cost.key]);
  if (front.length > 1) parts.push(s("path", { class: "front-line", d: stairs(front.map(place)) }));
  const labels = placeLabels(runs.map((run) => ({ at: place(run), text: clipped(run.label, 26), first: front.includes(run) || run.baseline })), box);
  runs.forEach((run, index) => {
    const group = s("g", { class: "run", tabindex: 0, role: "img", "aria-label": describeRun(panel, run, cost), "data-method": run.method }, mark(run, place(run), front.includes(run)));
    if (labels[index]) group.append(s("text", { class: front.includes(run) || run.baseline ? "" : "dim", ...labels[index] }, clipped(run.label, 26)));
    parts.push(withTip(group, describeRun(panel, run, cost)));
  });
  return s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Score against cost on ${panel.task}, ${panel.model}` }, parts);
}

function axes(runs, cost, box, x, y) {
  const parts = [];
  const invert = (scale, low, high) => [low, high].map((end) => (end - scale(0)) / (scale(1) - scale(0)));
  for (const tick of ticks(...invert(y, box.bottom, box.top), 4)) {
    parts.push(s("line", { class: "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }));
    parts.push(s("text", { class: "dim end", x: box.left - 6, y: y(tick) + 4 }, short(tick)));
  }
  for (const tick of ticks(...invert(x, box.left, box.right), box.right > 320 ? 5 : 3)) {
    parts.push(s("line", { class: "axis", x1: x(tick), x2: x(tick), y1: box.bottom, y2: box.bottom + 4 }));
    parts.push(s("text", { class: "dim mid", x: x(tick), y: box.bottom + 16 }, short(tick)));
  }
  parts.push(s("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  parts.push(s("text", { class: "dim end", x: box.right, y: box.bottom + 32 }, clipped(`← cheaper: ${cost.title}`, Math.floor((box.right - box.left) / 5.6))));
  return parts;
}

function mark(run, [px, py], onFront) {
  const style = `mark${run.baseline ? " base" : ""}${onFront ? " front" : ""}`;
  if (run.baseline) return s("rect", { class: style, x: px - 4.5, y: py - 4.5, width: 9, height: 9 });
  return s("circle", { class: style, cx: px, cy: py, r: 5 });
}

const stairs = (points) => points.map(([px, py], index) => (index ? `H${px}V${py}` : `M${px} ${py}`)).join("");

// A label stands right of its point, or left, above or below; where all four places are taken it is left out.
function placeLabels(points, box) {
  const taken = points.map(({ at: [px, py] }) => [px - 6, py - 6, px + 6, py + 6]);
  const placed = points.map(() => null);
  const order = points.map((_, index) => index).sort((a, b) => points[b].first - points[a].first);
  for (const index of order) {
    const { at: [px, py], text } = points[index];
    const wide = text.length * LETTER;
    const places = [[px + 9, py - 7], [px - 9 - wide, py - 7], [px - wide / 2, py - 22], [px - wide / 2, py + 9], [px + 7, py - 20], [px + 7, py + 7]];
    const free = places.find(([left, top]) => {
      const inside = left >= box.left && left + wide <= box.right + 8 && top >= box.top - 6 && top + 13 <= box.bottom;
      return inside && taken.every((other, at) => at === index || left + wide < other[0] || left > other[2] || top + 13 < other[1] || top > other[3]);
    });
    if (!free) continue;
    taken.push([free[0], free[1], free[0] + wide, free[1] + 13]);
    placed[index] = { x: free[0], y: free[1] + 11 };
  }
  return placed;
}

// Tooltips

function withTip(element, text) {
  const show = () => showTip(element, text);
  element.addEventListener("pointerenter", show);
  element.addEventListener("focus", show);
  for (const name of ["pointerleave", "blur"]) element.addEventListener(name, hideTip);
  return element;
}

function showTip(element, text) {
  const tip = byId("tip");
  tip.textContent = text;
  tip.hidden = false;
  const target = (element.querySelector(".mark") || element).getBoundingClientRect();
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${window.scrollX + Math.max(8, Math.min(target.left + 12, room))}px`;
  const above = target.top - tip.offsetHeight - 10;
  tip.style.top = `${window.scrollY + (above > 4 ? above : target.bottom + 10)}px`;
  for (const line of element.ownerSVGElement.querySelectorAll(".budgets")) {
    line.classList.toggle("hot", line.dataset.method === element.dataset.method);
  }
}

function hideTip() {
  byId("tip").hidden = true;
  for (const line of document.querySelectorAll(".budgets.hot")) line.classList.remove("hot");
}

// All of them

function drawPanels() {
  hideTip();
  const scores = byId("score-panels"), chart = byId("cost-panels");
  const cost = DATA.costs.find((entry) => entry.key === byId("cost-select").value);
  put(scores, shownPanels().filter((panel) => panel.runs.some((run) => run.value !== null)), drawBars);
  if (!cost) return;
  const known = (panel) => panel.runs.filter((run) => run.value !== null && run.costs[cost.key] !== null).length > 1;
  put(chart, shownPanels().filter(known), (panel, width) => drawCost(panel, cost, width));
}

function put(container, panels, draw) {
  const figures = panels.map((panel) => h("figure", { class: "panel" }, heading(panel)));
  container.replaceChildren(...figures);
  if (!figures.length) container.append(h("p", { class: "fine" }, "No runs to compare here."));
  figures.forEach((figure, index) => figure.append(draw(panels[index], Math.floor(figure.clientWidth))));
}

function startPlots() {
  options(byId("cost-select"), DATA.costs.map((cost) => [cost.key, cost.title]));
  byId("cost").hidden = !DATA.costs.length;
  byId("cost-select").addEventListener("change", drawPanels);
  byId("cost-form").addEventListener("submit", (event) => event.preventDefault());
  // At once, so that a link to a sample finds it where it will stay.
  drawPanels();
  let width = byId("score-panels").clientWidth;
  new ResizeObserver(([entry]) => {
    if (Math.round(entry.contentRect.width) === width) return;
    width = Math.round(entry.contentRect.width);
    requestAnimationFrame(drawPanels);
  }).observe(byId("score-panels"));
}
