"use strict";
const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));

// A click on a column header sorts the rows by it: first the way the column is usually read, then the other way round.
for (const table of all("table.data")) {
  const body = table.tBodies[0];
  const heads = all("th[data-col]", table);
  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const column = Number(head.dataset.col);
      const first = head.classList.contains("n") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.sort;
      const rows = Array.from(body.rows);
      rows.sort((a, b) => {
        const x = key(a), y = key(b);
        // A cell without a value is last whichever way the column is sorted.
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        const p = Number(x), q = Number(y);
        return sign * (x !== "" && y !== "" && !Number.isNaN(p) && !Number.isNaN(q) ? p - q : x.localeCompare(y));
      });
      for (const row of rows) {
        row.classList.remove("start");
        body.append(row);
      }
    });
  }
}

// Headers stick to the window where a table fits; one that does not scrolls in its own box, and shows that it does.
const fit = () => {
  for (const box of all(".scroll:not(.plot)")) {
    box.classList.remove("wide");
    box.classList.toggle("wide", box.firstElementChild.offsetWidth > box.clientWidth + 1);
  }
};
addEventListener("resize", fit);
addEventListener("toggle", fit, true);
fit();
for (const button of all("button.more")) {
  button.addEventListener("click", () => {
    const open = button.closest(".table").classList.toggle("every");
    button.textContent = open ? "fewer columns" : "all columns";
    fit();
  });
}

// A link to something folded opens it.
const unfold = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = target && target.closest("details");
  if (!fold) return;
  fold.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();

// One figure of several at a time.
for (const input of all(".pick input")) {
  input.addEventListener("change", () => {
    for (const tab of all(".tab", input.closest(".tabs"))) tab.classList.toggle("off", tab.dataset.tab !== input.value);
  });
}

// One family alone; one method picked out in every table and figure. A click on a method's name picks it too.
for (const run of all(".run")) {
  const pick = (name, value) => {
    const select = run.querySelector(`select[data-filter=${name}]`);
    if (select) select.value = value;
    if (name === "f") {
      for (const row of all("tr[data-f]", run)) row.hidden = value !== "" && row.dataset.f !== value && row.dataset.m !== "full";
    } else {
      run.classList.toggle("chosen", value !== "");
      for (const part of all("[data-m]", run)) part.classList.toggle("picked", part.dataset.m === value);
    }
  };
  for (const select of all("select[data-filter]", run)) {
    select.addEventListener("change", () => pick(select.dataset.filter, select.value));
  }
  for (const name of all("tbody tr[data-m] > th", run)) {
    name.addEventListener("click", () => {
      const method = name.parentElement.dataset.m;
      pick("m", name.parentElement.classList.contains("picked") ? "" : method);
    });
  }
}

// The words of a figure's points, by keyboard: arrow keys go from one to the next.
const tip = document.getElementById("tip");
for (const plot of all(".plot")) {
  let at = -1;
  const points = () => all("g > title", plot).map((title) => title.parentElement);
  const show = (step) => {
    const found = points();
    if (!found.length) return;
    at = (at + step + found.length) % found.length;
    for (const point of found) point.classList.remove("at");
    const point = found[at], place = point.getBoundingClientRect();
    point.classList.add("at");
    tip.textContent = point.querySelector("title").textContent;
    tip.hidden = false;
    tip.style.left = `${Math.max(4, Math.min(place.left, innerWidth - tip.offsetWidth - 8)) + scrollX}px`;
    tip.style.top = `${place.bottom + scrollY + 6}px`;
  };
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined && event.key !== "Escape") return;
    if (step === undefined) tip.hidden = true;
    else show(step);
    event.preventDefault();
  });
  plot.addEventListener("blur", () => {
    tip.hidden = true;
    for (const point of all(".at", plot)) point.classList.remove("at");
  });
}
