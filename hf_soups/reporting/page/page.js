"use strict";
(() => {
  const said = document.getElementById("said");

  // Sorting: numbers the largest first, words from A; what is not known stays last in either direction.
  const compare = (a, b, number, sign) => {
    const one = a.dataset.value, other = b.dataset.value;
    if (one === "" || other === "") return (one === "") - (other === "");
    const order = number ? Number(one) - Number(other) : one.localeCompare(other, "en", { numeric: true });
    return sign * order;
  };
  const sort = (button) => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const column = head.cellIndex;
    const number = [...body.rows].every((row) => !Number.isNaN(Number(row.cells[column].dataset.value)));
    const first = number && button.dataset.number === "1" ? "descending" : "ascending";
    const now = head.getAttribute("aria-sort");
    const next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
    const sign = next === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row, i) => [row, i]);
    rows.sort(([a, i], [b, j]) => compare(a.cells[column], b.cells[column], number, sign) || i - j);
    body.append(...rows.map(([row]) => row));
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", other === head ? next : "none");
    said.textContent = `Sorted by ${button.textContent.trim()}, ${next}.`;
  };
  for (const button of document.querySelectorAll("button.sort")) button.addEventListener("click", () => sort(button));

  // Light and dark: as the system says, until the button is pressed.
  const theme = document.getElementById("theme"), system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => theme.setAttribute("aria-pressed", String(dark()));
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    show();
  });
  system.addEventListener("change", show);
  theme.hidden = false;
  show();

  // Charts: drawn as SVG; expressions are interpreted, since the page's policy forbids making code from text.
  const options = {
    mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false, hover: false,
    tooltip: { disableDefaultStyle: true },
  };
  for (const place of document.querySelectorAll(".chart")) {
    const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
    window.vegaEmbed(place, spec, options).catch((error) => {
      place.classList.add("chart-failed");
      place.textContent = `This chart could not be drawn (${error.message}); the numbers are below.`;
    });
  }
})();
