"use strict";
(() => {
  const root = document.documentElement, board = document.getElementById("board"), body = board.tBodies[0];
  const get = (id) => document.getElementById(id);
  const rows = [...body.rows];

  // ---- metric, filters, sorting
  const shown = (cell) => cell.dataset.dataset !== undefined;
  function metric() {
    const chosen = get("metric").value;
    for (const row of rows) for (const cell of row.cells) if (shown(cell)) {
      const m = chosen === "main" ? cell.dataset.main : chosen, link = cell.querySelector("a");
      cell.dataset.value = cell.getAttribute(`data-${m}`);
      if (link) link.textContent = cell.getAttribute(`data-${m}-text`);
    }
    places();
  }
  function places() {
    const n = rows[0] ? rows[0].cells.length : 0;
    for (let i = 0; i < n; i++) {
      const column = rows.filter((r) => shown(r.cells[i]) && r.dataset.role !== "unimodal" && r.cells[i].dataset.value !== "");
      const values = [...new Set(column.map((r) => Number(r.cells[i].dataset.value).toPrecision(12)))].sort((a, b) => b - a);
      for (const r of rows) if (shown(r.cells[i])) r.cells[i].classList.remove("best", "second");
      for (const r of column) {
        const place = values.indexOf(Number(r.cells[i].dataset.value).toPrecision(12));
        if (place === 0) r.cells[i].classList.add("best");
        if (place === 1) r.cells[i].classList.add("second");
      }
    }
  }
  function filter() {
    const dataset = get("dataset").value, role = get("role").value, text = get("search").value.toLowerCase();
    let n = 0;
    for (const row of rows) {
      row.hidden = (role && row.dataset.role !== role) || !row.cells[0].dataset.value.toLowerCase().includes(text);
      n += !row.hidden;
    }
    for (const cell of board.querySelectorAll("[data-dataset]")) cell.hidden = Boolean(dataset) && cell.dataset.dataset !== dataset;
    get("count").textContent = `${n} of ${rows.length} methods`;
  }
  function sort(head) {
    const i = [...head.parentNode.cells].indexOf(head), text = head.dataset.kind === "text";
    const first = text || head.dataset.low !== undefined ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first, sign = order === "ascending" ? 1 : -1;
    for (const h of head.parentNode.cells) h.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const key = (row) => row.cells[i].dataset.value;
    rows.sort((a, b) => {
      const x = key(a), y = key(b);
      if (text) return sign * x.localeCompare(y);
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (Number(x) - Number(y));
    });
    body.append(...rows);
  }
  for (const head of board.tHead.rows[0].cells) head.querySelector("button").addEventListener("click", () => sort(head));
  get("metric").addEventListener("change", metric);
  for (const id of ["dataset", "role"]) get(id).addEventListener("change", filter);
  get("search").addEventListener("input", filter);
  get("filters").addEventListener("submit", (event) => event.preventDefault());
  filter();

  // ---- a page that a server renews: reload when a run has ended, keep what was chosen
  const controls = ["metric", "dataset", "role", "search"];
  if (document.body.dataset.live) {
    for (const id of controls) { const kept = sessionStorage.getItem(id); if (kept !== null) get(id).value = kept; }
    metric(); filter();
    setInterval(async () => {
      const answer = await fetch("/stamp").catch(() => null);
      if (!answer || !answer.ok || (await answer.text()) === document.body.dataset.live) return;
      for (const id of controls) sessionStorage.setItem(id, get(id).value);
      location.reload();
    }, 3000);
  }

  // ---- a score leads to its runs
  function open() {
    const target = location.hash.length > 1 && get(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
  }
  addEventListener("hashchange", open);
  open();

  // ---- theme
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  function theme() {
    const dark = chosen === null ? system.matches : chosen === "dark";
    root.dataset.theme = dark ? "dark" : "light";
    get("theme").textContent = dark ? "Light" : "Dark";
    draw(true);
  }
  get("theme").addEventListener("click", () => { chosen = root.dataset.theme === "dark" ? "light" : "dark"; theme(); });
  system.addEventListener("change", theme);

  // ---- charts, drawn when they come into view
  const given = JSON.parse(get("specs").textContent), drawn = new Set(), views = new Map();
  function config() {
    if (root.dataset.theme !== "dark") return given.config;
    const ink = "#c9d1d9", merged = structuredClone(given.config);
    merged.background = "transparent";
    for (const part of ["axis", "legend", "header", "title"]) Object.assign(merged[part], { labelColor: ink, titleColor: ink, color: ink });
    Object.assign(merged.axis, { domainColor: "#8b949e", tickColor: "#8b949e", gridColor: "#30363d" });
    merged.rule = { color: ink }; merged.tick = { color: ink };
    return merged;
  }
  function show(box) {
    drawn.add(box);
    const options = { renderer: "svg", actions: false, config: config() };
    window.vegaEmbed(box, given.charts[box.dataset.chart], options).then((result) => views.set(box, result.view)).catch((error) => { box.textContent = `This chart cannot be drawn: ${error.message}`; });
  }
  const watch = new IntersectionObserver((entries) => {
    for (const e of entries) if (e.isIntersecting && window.vegaEmbed && !drawn.has(e.target)) show(e.target);
  }, { rootMargin: "400px" });
  function draw(again) {
    for (const box of document.querySelectorAll("[data-chart]")) {
      if (again && drawn.has(box)) show(box);
      watch.unobserve(box); watch.observe(box);
    }
  }
  for (const button of document.querySelectorAll(".save")) button.addEventListener("click", async () => {
    const box = button.parentNode.querySelector("[data-chart]"), view = views.get(box);
    if (!view) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([await view.toSVG()], { type: "image/svg+xml" }));
    link.download = `${box.dataset.chart}.svg`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
  addEventListener("vega", () => draw(false));
  addEventListener("beforeprint", () => { for (const box of document.querySelectorAll("[data-chart]")) if (window.vegaEmbed && !drawn.has(box)) show(box); });
  theme();
})();
