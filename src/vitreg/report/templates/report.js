"use strict";
// Draws the token maps from the data block and lets people point at them. No library, no network, no storage needed.
const data = JSON.parse(document.getElementById("data").textContent);

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const words16 = (text) => new Uint16Array(bytes(text).buffer);
const words32 = (text) => new Uint32Array(bytes(text).buffer);
const magma = bytes(data.palettes.magma), viridis = bytes(data.palettes.viridis);

function number(v) {
  const a = Math.abs(v);
  if (a >= 1e7) return v.toPrecision(3).replace("e+", "e");
  if (a >= 99.95) return Math.round(v).toLocaleString("en");
  return a === 0 ? "0" : a >= 9.995 ? v.toFixed(1) : a >= 0.9995 ? v.toFixed(2) : String(Number(v.toPrecision(3)));
}
function percent(v) {
  const p = 100 * v;
  return (p === 0 ? "0" : p < 0.001 ? "< 0.001" : p < 0.1 ? p.toFixed(3) : p < 0.995 ? p.toFixed(2) : p < 9.95 ? p.toFixed(1) : p >= 99.5 && p < 100 ? "> 99" : p.toFixed(0)) + "\u00a0%";
}

// Light and dark: the system decides until the button is pressed.
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// Charts: a column answers when pointed at, or with the arrow keys when the chart has the focus.
const tip = document.getElementById("tip");
function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(6, Math.min(x + 14, innerWidth - box.width - 6)) + "px";
  tip.style.top = (y - box.height - 12 < 4 ? y + 18 : y - box.height - 12) + "px";
}
for (const chart of document.querySelectorAll("svg.chart")) {
  const hits = [...chart.querySelectorAll(".hit[data-tip]")];
  const cells = chart.querySelector(".hit.cells");
  let at = -1;
  const clear = () => { tip.hidden = true; hits.forEach((h) => h.classList.remove("on")); chart.querySelector(".cell-mark")?.remove(); };
  const choose = (index, x, y) => {
    clear();
    at = index;
    if (hits.length) {
      const box = hits[index].getBoundingClientRect();
      hits[index].classList.add("on");
      showTip(hits[index].dataset.tip, x ?? box.left + box.width / 2, y ?? box.top + 60);
    } else {
      const rows = data.positions.rows, cols = data.positions.cols, row = Math.floor(index / cols), col = index % cols;
      const wide = cells.width.baseVal.value / cols, tall = cells.height.baseVal.value / rows;
      const mark = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const spot = { x: cells.x.baseVal.value + col * wide, y: cells.y.baseVal.value + row * tall, width: wide, height: tall, class: "cell-mark" };
      for (const [name, value] of Object.entries(spot)) mark.setAttribute(name, value);
      cells.after(mark);
      const box = mark.getBoundingClientRect();
      showTip(`row ${row}, column ${col}\noutlier in ${percent(data.positions.values[row][col])} of images`, x ?? box.right, y ?? box.top);
    }
  };
  const count = hits.length || (cells ? data.positions.rows * data.positions.cols : 0);
  hits.forEach((hit, i) => hit.addEventListener("pointermove", (e) => choose(i, e.clientX, e.clientY)));
  cells?.addEventListener("pointermove", (e) => {
    const box = cells.getBoundingClientRect();
    const within = (share, size) => Math.max(0, Math.min(size - 1, Math.floor(share * size)));
    const row = within((e.clientY - box.top) / box.height, data.positions.rows);
    choose(row * data.positions.cols + within((e.clientX - box.left) / box.width, data.positions.cols), e.clientX, e.clientY);
  });
  chart.addEventListener("pointerleave", clear);
  chart.addEventListener("blur", clear);
  chart.addEventListener("keydown", (e) => {
    const line = hits.length ? 1 : data.positions?.cols ?? 1;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: line, ArrowUp: -line }[e.key];
    if (e.key === "Escape") return clear();
    if (!step || !count) return;
    e.preventDefault();
    choose(at < 0 ? 0 : Math.max(0, Math.min(count - 1, at + step)));
  });
}

// Colour bars.
function paint(canvas, width, height, colour, gone) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const [table, at] = colour(i);
    pixels.data.set([table[at], table[at + 1], table[at + 2], gone?.[i] ? 0 : 255], 4 * i);
  }
  context.putImageData(pixels, 0, 0);
}
for (const [id, table] of [["norm-scale", magma], ["attention-scale", viridis]]) {
  const bar = document.getElementById(id);
  if (bar) paint(bar, 256, 1, (i) => [table, 3 * i]);
}

// One example: its maps share a grid, a token pointed at is marked on all of them.
class Maps {
  constructor(card) {
    const e = data.examples[card.dataset.example];
    Object.assign(this, { rows: e.rows, cols: e.cols, attended: e.attended, card, token: -1, pinned: false });
    this.norms = words16(e.norms);
    this.gone = Object.fromEntries(Object.entries(e.gone).map(([name, cells]) => [name, bytes(cells)]));
    this.outliers = bytes(e.outliers);
    this.near = bytes(e.near);
    this.threshold = e.threshold;
    this.attention = e.attention.map((a) => ({ name: a.name, max: a.max, values: words16(a.data), gone: a.gone && bytes(a.gone) }));
    this.attends = e.wide ? words32(e.attends) : words16(e.attends);
    this.shares = words16(e.shares);
    this.readout = card.querySelector(".readout");
    this.overs = [...card.querySelectorAll(".map")].map((map) => this.layOut(map, e));
    const area = card.querySelector(".maps");
    area.addEventListener("pointermove", (ev) => { if (ev.pointerType === "mouse" && !this.pinned) this.point(ev); });
    area.addEventListener("pointerleave", () => { if (!this.pinned) this.select(-1); });
    area.addEventListener("click", (ev) => this.pin(ev));
    area.addEventListener("keydown", (ev) => this.key(ev));
    area.addEventListener("focus", () => { if (this.token < 0 && area.matches(":focus-visible")) this.select(this.firstToken()); });
    area.addEventListener("blur", () => { this.pinned = false; this.select(-1); });
    this.say();
  }
  layOut(map, e) {
    const kind = map.dataset.map, title = map.parentElement.querySelector("figcaption");
    if (kind !== "image") {
      const base = document.createElement("canvas");
      base.className = "base";
      base.setAttribute("role", "img");
      base.setAttribute("aria-label", `${title.textContent.trim()} map of ${e.name}`);
      map.style.aspectRatio = e.aspect;
      if (kind === "norms") paint(base, this.cols, this.rows, (i) => [magma, 3 * (this.norms[i] >> 8)], this.gone.norms);
      if (kind === "pca") { const rgb = bytes(e.pca); paint(base, this.cols, this.rows, (i) => [rgb, 3 * i], this.gone.pca); }
      if (kind === "attention") {
        const one = this.attention[map.dataset.index];
        paint(base, this.cols, this.rows, (i) => [viridis, 3 * (one.values[i] >> 8)], one.gone);
        title.querySelector("small").textContent = `max ${percent(one.max)}`;
      }
      map.append(base);
    }
    const over = document.createElement("canvas");
    over.className = "over";
    map.append(over);
    new ResizeObserver(() => this.draw(over)).observe(map);
    return over;
  }
  firstToken() { const i = this.outliers.indexOf(1); return i >= 0 ? i : Math.floor(this.rows / 2) * this.cols + Math.floor(this.cols / 2); }
  under(ev) {
    const map = ev.target.closest?.(".map");
    if (!map) return -1;
    const box = map.getBoundingClientRect();
    const row = Math.floor(((ev.clientY - box.top) / box.height) * this.rows), col = Math.floor(((ev.clientX - box.left) / box.width) * this.cols);
    return row < 0 || col < 0 || row >= this.rows || col >= this.cols ? -1 : row * this.cols + col;
  }
  point(ev) { const at = this.under(ev); if (at !== this.token) this.select(at); }
  pin(ev) {
    const at = this.under(ev);
    this.pinned = at >= 0 && !(this.pinned && at === this.token);
    this.select(this.pinned || ev.pointerType === "mouse" ? at : -1);
  }
  key(ev) {
    if (ev.key === "Escape") { this.pinned = false; return this.select(-1); }
    let at = this.token;
    if (ev.key === "o" || ev.key === "O") {
      const from = this.outliers.indexOf(1, at + 1);
      at = from >= 0 ? from : this.outliers.indexOf(1);
      if (at < 0) return;
    } else {
      const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[ev.key];
      if (!move) return;
      if (at < 0) at = this.firstToken();
      const clamp = (v, size) => Math.max(0, Math.min(size - 1, v));
      at = clamp(Math.floor(at / this.cols) + move[0], this.rows) * this.cols + clamp((at % this.cols) + move[1], this.cols);
    }
    ev.preventDefault();
    this.pinned = true;
    this.select(at);
  }
  select(token) { this.token = token; this.say(); this.overs.forEach((over) => this.draw(over)); }
  norm(i) { return data.norms.low * Math.pow(data.norms.high / data.norms.low, this.norms[i] / 65535); }
  say() {
    const i = this.token, out = this.readout;
    out.replaceChildren();
    out.classList.toggle("active", i >= 0);
    const add = (text, tag, name) => { const node = tag ? document.createElement(tag) : document.createTextNode(text); if (tag) node.textContent = text; if (name) node.className = name; out.append(node); };
    if (i < 0) return add(this.attended ? "Point at a token to read its norm and see what it attends to." : "Point at a token to read its norm.");
    add(`row ${Math.floor(i / this.cols)}, column ${i % this.cols}: `);
    if (this.gone.norms?.[i]) return add("the model has dropped this patch.");
    add(`norm ${number(this.norm(i))}`, "b");
    add(", ");
    if (this.outliers[i]) add("outlier", "span", "is-outlier"); else add(this.near[i] ? "no outlier, but near the threshold" : "not an outlier");
    if (this.threshold) add(` (threshold ${number(this.threshold)})`);
    for (const a of this.attention) add(`, ${percent((a.max * a.values[i]) / 65535)} of ${a.name} attention`);
    const to = this.attendedBy(i);
    if (!to.length) return add(".");
    const outliers = to.filter(([j]) => this.outliers[j]), sum = (list) => list.reduce((s, [, share]) => s + share, 0);
    add(`. Its ${to.length} most attended patches take ${percent(sum(to))} of its attention`);
    add(outliers.length ? `, ${percent(sum(outliers))} goes to ${outliers.length} outlier${outliers.length > 1 ? "s" : ""} among them. ` : ", no outlier among them. ");
    add("Strongest: " + to.slice(0, 3).map(([j, s]) => `row ${Math.floor(j / this.cols)}, column ${j % this.cols} (${percent(s)})`).join("; ") + ".");
  }
  attendedBy(i) {
    const list = [];
    for (let k = 0; k < this.attended; k++) {
      const share = this.shares[i * this.attended + k] / 65535, j = this.attends[i * this.attended + k];
      if (share > 0 && j < this.rows * this.cols) list.push([j, share]);
    }
    return list;
  }
  draw(over) {
    const box = over.getBoundingClientRect(), zoom = devicePixelRatio || 1;
    if (!box.width) return;
    over.width = Math.round(box.width * zoom);
    over.height = Math.round(box.height * zoom);
    const g = over.getContext("2d"), w = box.width / this.cols, h = box.height / this.rows;
    g.scale(zoom, zoom);
    if (document.getElementById("outlines").checked) {
      this.outline(g, w, h, this.near, "rgba(0,0,0,.45)", "rgba(255,255,255,.6)", [3, 3]);
      this.outline(g, w, h, this.outliers, "rgba(0,0,0,.7)", "#7fe9ff", []);
    }
    if (this.token < 0) return;
    const centre = (i) => [((i % this.cols) + 0.5) * w, (Math.floor(i / this.cols) + 0.5) * h];
    const stroke = (colour, width) => { g.strokeStyle = colour; g.lineWidth = width; g.stroke(); };
    const [x0, y0] = centre(this.token), to = this.attendedBy(this.token), top = Math.max(...to.map(([, s]) => s), 1e-9);
    const reach = Math.max(5, Math.min(16, Math.min(box.width, box.height) * 0.05));
    for (const [j, share] of to) {
      const [x, y] = centre(j), r = Math.max(2, reach * Math.sqrt(share / top));
      const d = Math.hypot(x - x0, y - y0);
      if (d > r) {
        g.beginPath(); g.moveTo(x0, y0); g.lineTo(x - ((x - x0) * r) / d, y - ((y - y0) * r) / d);
        stroke("rgba(0,0,0,.45)", 2.2); stroke("rgba(255,255,255,.75)", 0.9);
      }
      g.beginPath(); g.arc(x, y, r, 0, 2 * Math.PI);
      stroke("rgba(0,0,0,.7)", 2.8); stroke("#fff", 1.3);
    }
    g.beginPath(); g.rect(x0 - Math.max(w, 6) / 2, y0 - Math.max(h, 6) / 2, Math.max(w, 6), Math.max(h, 6));
    stroke("#000", 4); stroke("#ffe14d", 2);
  }
  outline(g, w, h, cells, ground, colour, dashes) {
    const is = (r, c) => r >= 0 && c >= 0 && r < this.rows && c < this.cols && cells[r * this.cols + c];
    // One pixel outside the cells, so that small cells keep their colour.
    const out = 1, edge = (x0, y0, x1, y1) => { g.moveTo(x0, y0); g.lineTo(x1, y1); };
    g.beginPath();
    for (let r = 0; r < this.rows; r++) for (let c = 0; c < this.cols; c++) {
      if (!is(r, c)) continue;
      const left = c * w - out, right = (c + 1) * w + out, top = r * h - out, bottom = (r + 1) * h + out;
      if (!is(r - 1, c)) edge(left, top, right, top);
      if (!is(r + 1, c)) edge(left, bottom, right, bottom);
      if (!is(r, c - 1)) edge(left, top, left, bottom);
      if (!is(r, c + 1)) edge(right, top, right, bottom);
    }
    g.lineCap = "square";
    g.setLineDash(dashes);
    g.strokeStyle = ground; g.lineWidth = 2.2; g.stroke();
    g.strokeStyle = colour; g.lineWidth = 1; g.stroke();
    g.setLineDash([]);
  }
}
const all = [...document.querySelectorAll(".example")].map((card) => new Maps(card));
document.getElementById("outlines")?.addEventListener("change", () => all.forEach((m) => m.overs.forEach((o) => m.draw(o))));
for (const id of ["large", "further"]) document.getElementById(id)?.addEventListener("change", (e) => document.querySelector(".examples").classList.toggle(id, e.target.checked));

// Tables whose headings are buttons: a press sorts by the column, another the other way round. Rows without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", (e) => {
    const { kind, first } = e.currentTarget.dataset, before = head.getAttribute("aria-sort");
    const way = before === null ? first : before === "ascending" ? "descending" : "ascending", sign = way === "ascending" ? 1 : -1;
    const value = (row) => row.cells[column].dataset.value;
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", way);
    body.append(...[...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return sign * (kind === "number" ? x - y : x.localeCompare(y));
    }));
  }));
}
