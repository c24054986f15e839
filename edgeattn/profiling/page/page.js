"use strict";

// Without a script the page is whole; with one its tables sort and search, and marks tell values.
for (const element of document.querySelectorAll(".script-only")) element.hidden = false;
document.documentElement.classList.add("script");

// Theme: the system's until one is chosen. Files opened from disk may have no storage.
const THEMES = ["system", "light", "dark"];
const themeButton = document.getElementById("theme");
const recall = () => { try { return localStorage.getItem("edgeattn-theme"); } catch { return null; } };
const remember = (theme) => { try { localStorage.setItem("edgeattn-theme", theme); } catch { /* not kept */ } };
function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  themeButton.querySelector("span").textContent = theme;
}
let theme = THEMES.includes(recall()) ? recall() : "system";
setTheme(theme);
themeButton.addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  setTheme(theme);
  remember(theme);
});

// Sorting: down, up, and back to the order in which things run.
const collator = new Intl.Collator(undefined, { numeric: true });
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    return "key" in cell.dataset ? Number(cell.dataset.key) : cell.textContent;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b);
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const isNumber = head.classList.contains("number");
    const first = isNumber ? "descending" : "ascending";
    const second = isNumber ? "ascending" : "descending";
    const before = head.getAttribute("aria-sort");
    const order = before === first ? second : before === second ? null : first;
    for (const other of heads) other.removeAttribute("aria-sort");
    let rows = original;
    if (order) {
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const isKnown = (row) => !isNumber || "key" in row.cells[column].dataset;
      const known = original.filter(isKnown);
      known.sort((a, b) => sign * compare(value(a, column), value(b, column)));
      rows = [...known, ...original.filter((row) => !isKnown(row))];  // the unknown always last
    }
    body.append(...rows);
  }));
}

// Searching: every word has to occur in the row.
for (const input of document.querySelectorAll("input[type=search]")) {
  const holder = input.closest(".table");
  const rows = [...holder.querySelectorAll("tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const amount = holder.querySelector("[data-count]");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, i) => { row.hidden = !words.every((word) => texts[i].includes(word)); });
    const shown = rows.filter((row) => row.checkVisibility()).length;  // styles may hide some, too
    amount.textContent = shown === rows.length ? String(shown) : `${shown} of ${rows.length}`;
    holder.querySelector(".nothing").hidden = shown > 0;
  });
}

// A module of the treemap is looked up in the table of modules.
for (const cell of document.querySelectorAll("[data-find]")) {
  cell.addEventListener("click", () => {
    const input = document.querySelector("#modules input");
    input.value = input.value === cell.dataset.find ? "" : cell.dataset.find;
    input.dispatchEvent(new Event("input"));
    for (const other of document.querySelectorAll("[data-find]")) {
      other.setAttribute("aria-pressed", String(other === cell && input.value !== ""));
    }
  });
}

// Words beside the pointer, or at what has the focus.
const tip = document.getElementById("tip");
function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 8))}px`;
  tip.style.top = `${y + height + 24 > innerHeight ? y - height - 10 : y + 18}px`;
}
const tipped = (event) => event.target.closest?.("[data-tip]");
document.addEventListener("pointermove", (event) => {
  const element = tipped(event);
  if (element) showTip(element.dataset.tip, event.clientX, event.clientY);
  else tip.hidden = true;
});
document.addEventListener("focusin", (event) => {
  const element = tipped(event);
  if (!element || !element.matches(":focus-visible")) return;
  const box = element.getBoundingClientRect();
  showTip(element.dataset.tip, box.left, box.top + box.height / 2);
});
document.addEventListener("focusout", () => { tip.hidden = true; });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
