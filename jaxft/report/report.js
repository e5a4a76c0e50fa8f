"use strict";
// The page is whole without this: it adds values on hover, sorting and copying. All text goes in as text.

for (const chart of document.querySelectorAll(".chart")) {
  const stops = JSON.parse(chart.dataset.stops).map(([x, head, rows, dots]) => ({ x, head, rows, dots }));
  const svg = chart.querySelector(":scope > svg");
  const cursor = svg.querySelector(".cursor");
  const tip = add(chart, "div", "tip");
  tip.setAttribute("role", "status");
  let dots = [];
  let current = -1;
  chart.tabIndex = 0;
  chart.setAttribute("role", "group");
  chart.setAttribute("aria-label", svg.getAttribute("aria-label") + ". Arrow keys read off the values.");

  function show(index) {
    current = Math.max(0, Math.min(stops.length - 1, index));
    const stop = stops[current];
    dots.forEach((dot) => dot.remove());
    dots = stop.dots.map(([series, x, y]) => {
      const dot = document.createElementNS(svg.namespaceURI, "circle");
      for (const [name, value] of Object.entries({ class: `spot s${series}`, cx: x, cy: y, r: 4.5 })) {
        dot.setAttribute(name, value);
      }
      return svg.appendChild(dot);
    });
    cursor.setAttribute("transform", `translate(${stop.x} 0)`);
    tip.replaceChildren();
    add(tip, "b", "", stop.head);
    for (const [series, name, value] of stop.rows) {
      const row = add(tip, "span", `s${series}`);
      add(row, "i", "", name);
      row.append(" ", value);
    }
    chart.classList.add("reading");
    const { width, top } = svg.getBoundingClientRect();
    const place = (stop.x / svg.viewBox.baseVal.width) * width;
    const left = place + 14 + tip.offsetWidth > width ? place - 14 - tip.offsetWidth : place + 14;
    tip.style.left = `${Math.max(0, Math.min(left, width - tip.offsetWidth))}px`;
    tip.style.top = `${top - chart.getBoundingClientRect().top}px`;
  }
  function hide() {
    chart.classList.remove("reading");
    dots.forEach((dot) => dot.remove());
    dots = [];
  }
  function follow(event) {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const distances = stops.map((stop) => Math.abs(stop.x - x));
    show(distances.indexOf(Math.min(...distances)));
  }
  if (!stops.length) continue;
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: stops.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = add(head, "button");
    button.type = "button";
    button.append(...[...head.childNodes].filter((node) => node !== button));
    button.addEventListener("click", () => {
      const isText = head.classList.contains("text");
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        if (isText) return key(a).localeCompare(key(b)) * (descending ? -1 : 1);
        const [left, right] = [Number(key(a)), Number(key(b))];
        if (Number.isNaN(left) || Number.isNaN(right)) return Number.isNaN(left) - Number.isNaN(right);
        return (left - right) * (descending ? -1 : 1);
      });
      table.tBodies[0].append(...rows);
    });
  });
}

for (const block of document.querySelectorAll(".copy")) {
  const button = add(block, "button", "", "Copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    const code = block.querySelector("code");
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}

for (const box of document.querySelectorAll(".scroll")) {
  if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
}

function add(parent, tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return parent.appendChild(element);
}
