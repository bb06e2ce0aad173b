// Elements are made one by one and text goes in as text: nothing that a model said is ever parsed as HTML.

const DATA = JSON.parse(document.getElementById("data").textContent);
const IMAGES = JSON.parse(document.getElementById("images").textContent);
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const h = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const s = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
}

// Three decimals as the board has them; large numbers with a prefix.
function score(value) {
  return value === null ? "–" : value > 1 && value === Math.round(value) ? String(value) : value.toFixed(3);
}
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
const brackets = (ci) => (ci ? `[${ci[0].toFixed(3)}, ${ci[1].toFixed(3)}]` : "");

function short(value) {
  for (const [size, prefix] of [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (Math.abs(value) >= size) return Number((value / size).toPrecision(3)) + prefix;
  }
  return String(Number(value.toPrecision(3)));
}

// About `count` round numbers within [low, high].
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((unit) => unit * power).find((unit) => unit >= rough);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) {
    found.push(Number((index * step).toPrecision(12)));
  }
  return found;
}

const clipped = (text, letters) => (text.length > letters ? `${text.slice(0, Math.max(letters - 1, 1))}…` : text);
