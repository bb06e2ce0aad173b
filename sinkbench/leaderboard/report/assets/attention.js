// Where the model looks in one sample: the overlay, its share by layer and the heads, for each method.

const HEADS = 8;

function attention(item) {
  if (item.views) {
    return h("div", { class: "attention" }, h("h3", {}, "Where the model looks"),
      h("p", { class: "fine" }, "Line: the share of attention that is on the image, by layer (grey: the other methods). Heads: the same share in single heads, without and with the method, largest changes first."),
      h("div", { class: "looks" }, item.views.map((view) => look(view, item.views))));
  }
  if (!item.command) return null;
  return h("div", { class: "attention" }, h("h3", {}, "Attention"),
    h("p", { class: "fine" }, "Not drawn for this sample. This draws it; then make the report again with --attention views:"),
    h("pre", {}, h("code", {}, item.command)));
}

function look(view, views) {
  const changed = Object.entries(view.params).map(([key, value]) => `${key}=${JSON.stringify(value)}`).join(", ");
  const picture = view.overlay === null ? h("p", { class: "gone" }, "The overlay could not be read.")
    : h("img", { src: IMAGES[view.overlay], alt: `Attention over the image under ${view.method}` });
  return h("figure", { class: "look" }, picture,
    h("figcaption", {}, h("b", { title: changed || null }, view.method), ` → ${clipped(view.answer, 120)}`),
    view.share.length > 1 ? shares(view, views) : null, heads(view));
}

function shares(view, views) {
  const width = 270, height = 64, left = 34, bottom = height - 16;
  const top = Math.max(...views.flatMap((other) => other.share), 0.001);
  const x = linear([0, view.share.length - 1], left, width - 6);
  const y = linear([0, top], bottom, 6);
  const path = (values) => `M${values.map((value, layer) => `${x(layer)} ${y(value)}`).join("L")}`;
  const others = views.filter((other) => other !== view && other.share.length === view.share.length);
  return s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Share of attention on the image by layer: ${view.share.map((value) => value.toFixed(2)).join(", ")}` },
    s("line", { class: "axis", x1: left, x2: width - 6, y1: bottom, y2: bottom }),
    s("text", { class: "dim end", x: left - 5, y: 12 }, short(Number(top.toFixed(2)))), s("text", { class: "dim end", x: left - 5, y: bottom + 3 }, "0"),
    s("text", { class: "dim", x: left, y: height - 3 }, "layer 0"), s("text", { class: "dim end", x: width - 6, y: height - 3 }, String(view.share.length - 1)),
    others.map((other) => s("path", { class: "series other", d: path(other.share) })), s("path", { class: "series", d: path(view.share) }));
}

function heads(view) {
  if (!view.heads.length) return null;
  const changed = view.heads.some(([, , before, after]) => before.toFixed(3) !== after.toFixed(3));
  const titles = changed ? ["without", "with", "change"] : ["share"];
  const numbers = ([, , before, after]) => (changed ? [before.toFixed(3), after.toFixed(3), signed(after - before)] : [after.toFixed(3)]);
  const table = (rows) => h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "layer.head"), titles.map((title) => h("th", { scope: "col", class: "number" }, title)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, `${row[0]}.${row[1]}`), numbers(row).map((text) => h("td", { class: "number" }, text))))));
  const more = view.heads.slice(HEADS);
  return h("div", {}, table(view.heads.slice(0, HEADS)),
    more.length ? h("details", {}, h("summary", {}, `${more.length} more; the model has ${view.n_heads} heads`), table(more)) : null);
}
