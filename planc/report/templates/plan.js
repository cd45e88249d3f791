"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const plots = [...document.querySelectorAll(".canvas")];
  const tip = document.getElementById("tip");
  const timeline = document.querySelector(".timeline");
  let from = 0, to = data.width, by = Object.keys(data.stacks)[0], drag = null;

  const trim = (value, digits) => String(Number(value.toFixed(digits)));
  const time = ns => {
    for (const [limit, factor, unit] of [[1e3, 1, "ns"], [1e6, 1e3, "µs"], [1e9, 1e6, "ms"]])
      if (ns < limit) return trim(ns / factor, 3) + " " + unit;
    return trim(ns / 1e9, 4) + " s";
  };
  const size = bytes => {
    let unit = 0;
    for (; bytes >= 1024 && unit < 4; unit++) bytes /= 1024;
    return (unit ? bytes.toFixed(1) : bytes) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][unit];
  };

  function ticks() {
    const span = (to - from) / data.width * data.step_ns, start = from / data.width * data.step_ns;
    const raw = Math.max(span / 8, 1), power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= raw);
    timeline.replaceChildren();
    for (let at = Math.ceil(start / step) * step; at <= start + span; at += step) {
      const label = document.createElement("span");
      const place = (at - start) / span;
      label.style.left = 100 * place + "%";
      if (place < .02) label.style.transform = "none"; else if (place > .97) label.style.transform = "translateX(-100%)";
      label.textContent = at ? time(at) : "0";
      timeline.append(label);
    }
  }

  function zoom(a, b) {
    const least = data.width / 1e5, span = Math.min(data.width, Math.max(least, b - a));
    from = Math.max(0, Math.min(a, data.width - span));
    to = from + span;
    for (const plot of plots) {
      const svg = plot.querySelector("svg"), box = svg.viewBox.baseVal;
      svg.setAttribute("viewBox", `${from} 0 ${span} ${box.height}`);
    }
    ticks();
  }

  function place(event) {
    const margin = 14, box = tip.getBoundingClientRect();
    const left = event.clientX + margin + box.width > innerWidth ? event.clientX - margin - box.width : event.clientX + margin;
    const top = Math.min(event.clientY + margin, innerHeight - box.height - 6);
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, top) + "px";
  }

  function tell(text) {
    const [head, ...rest] = text.split("\n"), bold = document.createElement("b");
    bold.textContent = head;
    tip.replaceChildren(bold, rest.join("\n"));
  }

  function tellMemory(x) {
    const stack = data.stacks[by];
    let low = 0, high = stack.x.length;
    while (high - low > 1) { const mid = (low + high) >> 1; if (stack.x[mid] <= x) low = mid; else high = mid; }
    const names = Object.keys(stack.values).reverse(), total = names.reduce((sum, n) => sum + stack.values[n][low], 0);
    const table = document.createElement("table"), bold = document.createElement("b");
    bold.textContent = `${size(total)} at ${time(x / data.width * data.step_ns)}`;
    for (const name of names) {
      if (!stack.values[name][low]) continue;
      const row = table.insertRow(), swatch = document.createElement("i"), cell = row.insertCell();
      const band = document.querySelector(`.stack[data-by="${by}"] [data-name="${CSS.escape(name)}"]`);
      swatch.className = band.dataset.style;
      cell.append(swatch, name);
      row.insertCell().textContent = size(stack.values[name][low]);
    }
    tip.replaceChildren(bold, table);
  }

  const position = (event, plot) => {
    const box = plot.getBoundingClientRect();
    return from + (to - from) * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  const share = x => 100 * (x - from) / (to - from) + "%";

  function tapped(event, plot, hit, x) {
    const text = hit && hit.dataset && hit.dataset.t;
    if (text) tell(text); else if (plot.parentNode.classList.contains("memory")) tellMemory(x); else { tip.style.display = "none"; return; }
    tip.style.display = "block";
    place(event);
  }
  document.addEventListener("pointerdown", event => { if (!event.target.closest(".canvas")) tip.style.display = "none"; });

  for (const plot of plots) {
    plot.addEventListener("pointermove", event => {
      const x = position(event, plot);
      for (const other of plots) {
        const cross = other.querySelector(".cross"), grip = other.querySelector(".grip");
        cross.style.display = "block";
        cross.style.left = share(x);
        grip.style.display = drag === null ? "none" : "block";
        if (drag !== null) { grip.style.left = share(Math.min(drag, x)); grip.style.right = `calc(100% - ${share(Math.max(drag, x))})`; }
      }
      const text = event.target.dataset && event.target.dataset.t;
      if (text) tell(text); else if (plot.parentNode.classList.contains("memory")) tellMemory(x); else { tip.style.display = "none"; return; }
      tip.style.display = "block";
      place(event);
    });
    plot.addEventListener("pointerleave", event => {
      if (event.pointerType === "mouse") tip.style.display = "none";
      for (const other of plots) other.querySelector(".cross").style.display = "none";
    });
    plot.addEventListener("pointerdown", event => { if (event.button === 0) { drag = position(event, plot); plot.setPointerCapture(event.pointerId); } });
    plot.addEventListener("pointerup", event => {
      const x = position(event, plot), start = drag;
      drag = null;
      for (const other of plots) other.querySelector(".grip").style.display = "none";
      if (start === null) return;
      if (Math.abs(x - start) > (to - from) / 200) zoom(Math.min(start, x), Math.max(start, x));
      else {
        const hit = document.elementFromPoint(event.clientX, event.clientY);
        if (event.pointerType !== "mouse") tapped(event, plot, hit, x);
        pick(hit && hit.dataset ? hit.dataset.s : undefined);
      }
    });
    plot.addEventListener("dblclick", () => zoom(0, data.width));
  }

  const map = document.querySelector(".slab svg");
  let picked;
  function pick(key) {
    picked = key === picked ? undefined : key;
    map.classList.toggle("picked", picked !== undefined);
    for (const item of document.querySelectorAll("[data-s]")) item.classList.toggle("on", item.dataset.s === picked);
  }

  document.getElementById("reset").addEventListener("click", () => { zoom(0, data.width); if (picked !== undefined) pick(picked); });
  for (const [id, factor] of [["closer", 0.5], ["wider", 2]])
    document.getElementById(id).addEventListener("click", () => { const mid = (from + to) / 2, half = (to - from) / 2 * factor; zoom(mid - half, mid + half); });
  document.addEventListener("keydown", event => {
    if (event.target.matches("input, select")) return;
    const step = (to - from) / 4;
    if (event.key === "ArrowLeft") zoom(from - step, to - step);
    else if (event.key === "ArrowRight") zoom(from + step, to + step);
    else if (event.key === "Escape") zoom(0, data.width);
  });
  for (const button of document.querySelectorAll("button[data-by]"))
    button.addEventListener("click", () => {
      by = button.dataset.by;
      for (const other of document.querySelectorAll("button[data-by]")) other.setAttribute("aria-pressed", other === button);
      for (const part of document.querySelectorAll(".stack, .legend[data-by]")) part.toggleAttribute("hidden", part.dataset.by !== by);
    });

  const body = document.querySelector("tbody");
  for (const head of document.querySelectorAll(".sortable th"))
    head.querySelector("button").addEventListener("click", () => {
      const column = head.cellIndex, down = head.getAttribute("aria-sort") !== "descending";
      for (const other of head.parentNode.cells) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => { const v = row.cells[column].dataset.v; return v === undefined ? row.cells[column].textContent : Number(v); };
      const rows = [...body.rows].sort((a, b) => { const x = value(a), y = value(b); return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1); });
      body.append(...rows);
    });
  document.getElementById("filter").addEventListener("input", event => {
    const wanted = event.target.value.toLowerCase();
    let left = 0;
    for (const row of body.rows) { row.hidden = !row.textContent.toLowerCase().includes(wanted); left += !row.hidden; }
    const nothing = document.getElementById("nothing");
    nothing.hidden = left > 0;
    nothing.textContent = left ? "" : `no tensor matches “${event.target.value}”`;
  });
  body.addEventListener("click", event => { const row = event.target.closest("tr"); if (row) pick(row.dataset.s); });
  body.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(event.target.closest("tr").dataset.s); }
  });
  addEventListener("resize", ticks);
  ticks();
})();
