"use strict";
(() => {
  const said = document.getElementById("said");

  // Sorting: the best first, words from A; what is not known stays last in either direction.
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
    const first = number ? button.dataset.first : "ascending";
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

  // Terms: what one means, under the pointer, the focus or a finger; Escape and a touch elsewhere hide it.
  const tip = document.getElementById("tip");
  let of = null;
  const hide = () => { tip.hidden = true; of = null; };
  const beside = () => {
    const place = of.getBoundingClientRect(), edge = 8;
    const below = place.bottom + 6, above = place.top - tip.offsetHeight - 6;
    tip.style.left = `${Math.max(edge, Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - edge))}px`;
    tip.style.top = `${below + tip.offsetHeight > innerHeight && above > edge ? above : below}px`;
  };
  const explain = (button) => {
    of = button;
    tip.textContent = document.getElementById(button.dataset.term).textContent;
    tip.hidden = false;
    beside();
  };
  for (const button of document.querySelectorAll("[data-term]")) {
    for (const seen of ["pointerenter", "focus", "click"]) button.addEventListener(seen, () => explain(button));
    button.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
    button.addEventListener("blur", hide);
  }
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("pointerdown", (event) => { if (of && !of.contains(event.target)) hide(); });
  addEventListener("scroll", () => { if (of) beside(); }, { capture: true, passive: true });  // as focus scrolls to it

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
