// Sorting by a click on a column's title; what has no value stays last.

function sortBy(header) {
  const table = header.closest("table");
  const column = [...header.parentNode.children].indexOf(header);
  const numbers = header.classList.contains("number");
  const [usual, other] = numbers ? ["descending", "ascending"] : ["ascending", "descending"];
  const order = header.getAttribute("aria-sort") === usual ? other : usual;
  const value = (row) => {
    const text = row.children[column].dataset.value;
    return numbers ? (text === "" || text === "–" ? null : Number(text)) : text;
  };
  const compare = (a, b) => {
    const [first, second] = [value(a), value(b)];
    if (first === null || second === null) return (first === null) - (second === null);
    const difference = numbers ? first - second : first.localeCompare(second, "en", { numeric: true });
    return order === "descending" ? -difference : difference;
  };
  for (const one of header.parentNode.children) one.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  table.classList.add("sorted");
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

const shownTask = (task) => [task, ""].includes(byId("filter-task").value);
const shownModel = (model) => [model, ""].includes(byId("filter-model").value);

function filterBoard() {
  for (const block of document.querySelectorAll("#board .block")) {
    const rows = [...block.querySelectorAll("tbody tr")];
    for (const row of rows) row.hidden = !shownModel(row.dataset.model);
    block.hidden = ("task" in block.dataset && !shownTask(block.dataset.task)) || rows.every((row) => row.hidden);
  }
}

function startBoard(changed) {
  for (const header of document.querySelectorAll(".board thead th")) {
    header.firstChild.addEventListener("click", () => sortBy(header));
  }
  for (const id of ["filter-task", "filter-model"]) {
    byId(id).addEventListener("change", () => { filterBoard(); changed(); });
  }
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  filterBoard();
}
