// The sample browser. Its state is in the address after #, so that a sample can be linked to.

const state = { group: 0, filter: "all", search: "", id: null };

const group = () => DATA.groups[state.group];
const scoreOf = (answer) => (answer.length && !answer[3] ? answer[1] : null);

function verdict(answer) {
  if (!answer.length) return ["·", "not asked", "partly"];
  if (answer[3]) return ["!", "failed", "wrong"];
  if (answer[1] === null) return ["·", "not scored", "partly"];
  if (answer[1] === 1) return ["✓", "right", "right"];
  return answer[1] === 0 ? ["✗", "wrong", "wrong"] : ["◐", `score ${Number(answer[1].toFixed(3))}`, "partly"];
}

// Filters

function filters() {
  const { methods, baseline, binary } = group();
  const found = [["all", "all samples", () => true], ["disagree", "methods disagree", (item) => item.differs]];
  methods.forEach((method, index) => {
    if (baseline === null || index === baseline) return;
    const flip = (sign) => (item) => {
      const [ours, theirs] = [scoreOf(item.answers[baseline]), scoreOf(item.answers[index])];
      return ours !== null && theirs !== null && Math.sign(theirs - ours) === sign;
    };
    const base = methods[baseline];
    found.push([`loss:${method}`, binary ? `${base} right, ${method} wrong` : `${method} scores below ${base}`, flip(-1)]);
    found.push([`gain:${method}`, binary ? `${base} wrong, ${method} right` : `${method} scores above ${base}`, flip(1)]);
  });
  found.push(["wrong", "all methods wrong", (item) => item.answers.every((answer) => scoreOf(answer) === 0)]);
  found.push(["failed", "some answer failed", (item) => item.answers.some((answer) => answer[3])]);
  return found.filter(([key, , test]) => key === "all" || group().items.some(test));
}

function haystack(item) {
  return [item.id, item.question || "", ...item.answers.map((answer) => answer[0] || "")].join("\n").toLowerCase();
}

function matching() {
  const [, , test] = filters().find(([key]) => key === state.filter) || filters()[0];
  const words = state.search.trim().toLowerCase();
  return group().items.filter((item) => test(item) && (!words || haystack(item).includes(words)));
}

// The controls and the list

function groupName(entry) {
  const twins = DATA.groups.filter((other) => other.task === entry.task && other.model === entry.model);
  return twins.length > 1 ? `${entry.model} (conditions ${entry.conditions})` : entry.model;
}

function drawControls() {
  const tasks = [...new Set(DATA.groups.map((entry) => entry.task))];
  options(byId("sample-task"), tasks.map((task) => [task, task]), group().task);
  const models = DATA.groups.map((entry, index) => [entry, index]).filter(([entry]) => entry.task === group().task);
  options(byId("sample-group"), models.map(([entry, index]) => [String(index), groupName(entry)]), String(state.group));
  const known = filters();
  if (!known.some(([key]) => key === state.filter)) state.filter = "all";
  options(byId("sample-filter"), known.map(([key, text, test]) => [key, `${text} (${group().items.filter(test).length})`]), state.filter);
  byId("sample-search").value = state.search;
}

function drawList(items) {
  const { total, items: all, disagreeing, disagreeing_shown: shown } = group();
  const part = all.length < total
    ? `${all.length} of the run's ${total} samples are in this page, among them ${shown} of the ${disagreeing} on which methods disagree`
    : `all ${total} samples are in this page; methods disagree on ${disagreeing}`;
  byId("sample-count").textContent = `${items.length} match; ${part}.`;
  byId("sample-list").replaceChildren(...items.map((item) => h("li", {}, entry(item))));
  byId("sample-list").hidden = !items.length;
}

function entry(item) {
  const verdicts = item.answers.map(verdict);
  const said = group().methods.map((method, index) => `${method} ${verdicts[index][1]}`).join(", ");
  const question = item.question || item.id;
  const current = item.id === state.id;
  const button = h("button", { type: "button", "aria-current": current ? "true" : null, tabindex: current ? 0 : -1, "aria-label": `${question}: ${said}` },
    h("span", { class: "words" }, question),
    h("span", { class: "under" }, h("span", {}, item.id), h("span", { class: "verdicts" }, verdicts.map(([sign, , style]) => h("span", { class: style }, sign)))));
  button.addEventListener("click", () => choose(item.id));
  return button;
}

// The sample

function drawSample(items) {
  const place = items.findIndex((item) => item.id === state.id);
  const item = items[place];
  const view = byId("sample-view");
  if (!item) {
    view.replaceChildren(h("p", { class: "fine" }, "No sample matches. Choose another filter or clear the search."));
    return;
  }
  const step = (text, to, id) => {
    const button = h("button", { type: "button", id, disabled: !items[to] }, text);
    button.addEventListener("click", () => choose(items[to].id));
    return button;
  };
  const pictures = item.images && item.images.length ? shots(item) : item.n_images ? h("p", { class: "gone" }, "Made without images.") : null;
  view.replaceChildren(
    h("div", { class: "steps" }, step("← Previous", place - 1, "previous"), step("Next →", place + 1, "next"),
      h("span", { class: "place" }, `${place + 1} of ${items.length} · `, h("a", { href: address() }, item.id))),
    h("div", { class: pictures ? "case" : "case bare" }, pictures, h("div", {}, asked(item), answers(item))),
    ...[attention(item)].filter(Boolean));
}

// What had the focus is drawn anew; without it the arrow keys would go nowhere.
function keepFocus(id) {
  const [wanted, other] = id === "previous" ? ["previous", "next"] : ["next", "previous"];
  const button = byId(wanted) && byId(wanted).disabled ? byId(other) : byId(wanted);
  if (button) button.focus({ preventScroll: true });
}

function shots(item) {
  const pictures = item.images.map((name, index) => name === null ? h("p", { class: "gone" }, "The image was not found when this page was made.")
    : h("img", { src: IMAGES[name], alt: `Image ${index + 1} of ${item.images.length} of sample ${item.id}` }));
  return h("div", { class: item.images.length > 1 ? "shots many" : "shots" }, pictures);
}

function asked(item) {
  return h("div", {},
    (item.turns || []).length ? h("p", { class: "turns" }, item.turns.map(([role, text]) => `${role}: ${text}`).join("\n")) : null,
    h("p", { class: "question" }, item.question === undefined ? "The question is not in the run (imported answers)." : item.question),
    item.targets ? h("p", { class: "known" }, "Reference: ", h("b", {}, item.targets.join(" / "))) : null);
}

function answers(item) {
  return h("div", { class: "answers" }, item.answers.map((answer, index) => {
    const [sign, text, style] = verdict(answer);
    const read = answer.length && answer[2] !== null ? h("p", { class: "read" }, readable(answer[2])) : null;
    return h("article", { class: `answer is-${style}` },
      h("header", {}, h("b", {}, group().methods[index]), h("span", { class: style }, `${sign} ${text}`)),
      answer.length ? h("p", { class: "text" }, answer[3] || answer[0] || "(empty)") : null, read);
  }));
}

// What scoring read in an answer: a word, or lists by name.
function readable(value) {
  const flat = (entry) => Array.isArray(entry) ? (new Set(entry).size === 1 ? String(entry[0]) : entry.join(" → ")) : typeof entry === "object" ? JSON.stringify(entry) : String(entry);
  if (value === null || typeof value !== "object") return `read as: ${value}`;
  if (Array.isArray(value)) return `read as: ${value.map(flat).join(", ")}`;
  return Object.entries(value).map(([key, entries]) => `${key}: ${Array.isArray(entries) ? entries.map(flat).join(", ") || "none" : flat(entries)}`).join("\n");
}

// State

function address() {
  const { task, model, conditions } = group();
  const twins = DATA.groups.filter((other) => other.task === task && other.model === model);
  const parts = { task, model, ...(twins.length > 1 ? { conditions } : {}), id: state.id };
  if (state.filter !== "all") parts.show = state.filter;
  if (state.search) parts.search = state.search;
  return `#${new URLSearchParams(parts)}`;
}

function choose(id) {
  state.id = id;
  redraw(true);
}

function redraw(remember) {
  const items = matching();
  if (!items.some((item) => item.id === state.id)) state.id = items.length ? items[0].id : null;
  const focused = byId("sample-list").contains(document.activeElement);
  const stepping = byId("sample-view").contains(document.activeElement) ? document.activeElement.id : null;
  drawList(items);
  drawSample(items);
  const current = byId("sample-list").querySelector("[aria-current]");
  if (current) keepInView(current);
  if (focused && current) current.focus({ preventScroll: true });
  if (stepping !== null) keepFocus(stepping);
  if (remember && state.id !== null) history.replaceState(null, "", address());
}

// Scrolls the list, not the page.
function keepInView(button) {
  const list = byId("sample-list");
  const [outer, inner] = [list.getBoundingClientRect(), button.getBoundingClientRect()];
  if (inner.top < outer.top) list.scrollTop -= outer.top - inner.top;
  if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom;
}

function followAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (!wanted.has("id")) return;
  const index = DATA.groups.findIndex((entry) => entry.task === wanted.get("task") && entry.model === wanted.get("model") && [null, entry.conditions].includes(wanted.get("conditions")));
  if (index < 0) return;
  Object.assign(state, { group: index, filter: wanted.get("show") || "all", search: wanted.get("search") || "", id: wanted.get("id") });
  drawControls();
  redraw(false);
  byId("samples").scrollIntoView();
}

function step(by) {
  const items = matching();
  const next = items[items.findIndex((item) => item.id === state.id) + by];
  if (next) choose(next.id);
}

function startSamples() {
  if (!byId("samples")) return;
  const switched = (index) => { Object.assign(state, { group: index, id: null }); drawControls(); redraw(true); };
  byId("sample-task").addEventListener("change", (event) => {
    const same = (entry) => entry.task === event.target.value;
    const kept = DATA.groups.findIndex((entry) => same(entry) && entry.model === group().model);
    switched(kept < 0 ? DATA.groups.findIndex(same) : kept);
  });
  byId("sample-group").addEventListener("change", (event) => switched(Number(event.target.value)));
  byId("sample-filter").addEventListener("change", (event) => { state.filter = event.target.value; redraw(true); });
  byId("sample-search").addEventListener("input", (event) => { state.search = event.target.value; redraw(true); });
  byId("sample-form").addEventListener("submit", (event) => event.preventDefault());
  byId("samples").addEventListener("keydown", (event) => {
    if (event.target.closest("input, select") || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const inList = byId("sample-list").contains(event.target);
    const by = { ArrowLeft: -1, ArrowRight: 1, ...(inList ? { ArrowUp: -1, ArrowDown: 1 } : {}) }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  window.addEventListener("hashchange", followAddress);
  drawControls();
  redraw(false);
  followAddress();
}
