"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = (id) => JSON.parse($(id).textContent);
  const charts = data("charts"), pairs = data("pairs"), gallery = data("gallery");
  const root = document.documentElement;
  const PALETTE = {
    light: ["#0b6e99", "#d1642b", "#3f8f5b", "#9657a5", "#b08a1e", "#5b6d7a", "#c24d75", "#2b4f9e"],
    dark: ["#58b4d8", "#f0955f", "#6cc68d", "#c48fd4", "#dcb955", "#9fb0bc", "#ea85a8", "#86a5ee"],
  };

  // Theme: the system's, until the button is used.
  let theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const setTheme = (name) => { theme = name; root.dataset.theme = name; drawAll(); };
  $("theme").onclick = () => setTheme(theme === "dark" ? "light" : "dark");
  matchMedia("(prefers-color-scheme: dark)").onchange = (event) => setTheme(event.matches ? "dark" : "light");

  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const config = () => ({
    background: null,
    font: getComputedStyle(document.body).fontFamily.replaceAll('"', "'"),
    range: { category: PALETTE[theme] },
    axis: { labelColor: colour("--ink"), titleColor: colour("--muted"), gridColor: colour("--line"),
            domainColor: colour("--line"), tickColor: colour("--line"), titleFontWeight: 400, labelLimit: 150 },
    axisY: { grid: false }, axisX: { grid: true },
    header: { labelColor: colour("--ink") },
    legend: { labelColor: colour("--ink"), titleColor: colour("--muted"), symbolOpacity: 1 },
    view: { stroke: null },
    params: [{ name: "ink", value: colour("--ink") }, { name: "muted", value: colour("--muted") }],
  });

  const labelRoom = { overview: 180, tasks: 150, deltas: 150 };
  async function draw(id, spec) {
    const place = $(`chart-${id}`);
    if (!place || !spec) return;
    const ready = structuredClone(spec);
    const inner = ready.spec ?? ready;
    inner.width = Math.max(120, place.clientWidth - 60 - Math.min(labelRoom[id] ?? 30, place.clientWidth * 0.42));
    const merged = config();
    if (place.clientWidth < 500) merged.axis.labelLimit = 120;
    merged.legend.labelLimit = Math.max(120, place.clientWidth - 60);
    await vegaEmbed(place, ready, { actions: false, renderer: "svg", config: merged });
    place.dataset.drawn = theme;
  }

  function differences() {
    const first = $("first").value, second = $("second").value;
    const turned = Number(first) > Number(second);
    const found = pairs[turned ? `${second}|${first}` : `${first}|${second}`] ?? [];
    return found.map((row) => turned
      ? { ...row, difference: -row.difference, low: -row.high, high: -row.low } : row);
  }
  function drawDeltas() {
    if (!$("chart-deltas")) return;
    const rows = differences().map((row) => ({ ...row, clear: row.p < 0.05, sign: row.difference >= 0 }));
    const clear = rows.filter((row) => row.clear && !row.task.startsWith("mean "));
    const better = clear.filter((row) => row.sign).length;
    $("deltas-summary").textContent = rows.length
      ? `${better} tasks significantly better, ${clear.length - better} significantly worse, of ${rows.filter((r) => !r.task.startsWith("mean ")).length}.`
      : "Nothing to compare: choose two different models that were evaluated on the same data.";
    const y = { field: "task", type: "nominal", sort: rows.map((row) => row.task), title: null };
    const x = (field) => ({ field, type: "quantitative", title: "difference, points" });
    const tooltip = ["task", "difference", "low", "high", "p"].map((field) => ({ field }));
    return draw("deltas", {
      data: { values: rows },
      facet: { field: "benchmark", type: "nominal", sort: [...new Set(rows.map((row) => row.benchmark))], header: { title: null, labelAnchor: "start", labelFontWeight: "bold" } },
      columns: 1, resolve: { scale: { y: "independent" } },
      spec: { height: { step: 18 }, layer: [
        { mark: { type: "bar", height: { band: 0.6 } }, encoding: { y, x: x("difference"), tooltip,
          color: { condition: { test: "datum.sign", value: colour("--good") }, value: colour("--bad") },
          opacity: { condition: { test: "datum.clear", value: 1 }, value: 0.3 } } },
        { mark: { type: "rule", color: colour("--ink") }, encoding: { y, x: x("low"), x2: { field: "high" }, tooltip } },
      ] },
    });
  }
  function drawAll() { for (const [id, spec] of Object.entries(charts)) draw(id, spec); drawDeltas(); }
  for (const id of ["first", "second"]) if ($(id)) $(id).onchange = drawDeltas;
  let width = innerWidth, timer;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth; clearTimeout(timer); timer = setTimeout(drawAll, 150);
  });

  // The best of each column.
  for (const table of document.querySelectorAll("#overview table")) {
    const columns = {};
    for (const cell of table.querySelectorAll("td[data-score]")) (columns[cell.cellIndex] ??= []).push(cell);
    for (const cells of Object.values(columns)) {
      const best = Math.max(...cells.map((cell) => Number(cell.dataset.score)));
      if (cells.length > 1) cells.filter((cell) => Number(cell.dataset.score) === best).forEach((cell) => cell.classList.add("best"));
    }
  }

  // Failures.
  const STEP = 12;
  let shown = STEP;
  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  function item(what, content, className) {
    const made = element("div", `item ${className ?? ""}`);
    made.append(element("div", "what", what));
    if (content.picture !== null) {
      const image = element("img");
      image.src = gallery.pictures[content.picture];
      image.alt = content.text || "picture";
      made.append(image);
    }
    if (content.instruction) made.append(element("div", "instruction", content.instruction));
    if (content.text) made.append(element("div", "", content.text));
    return made;
  }
  const opinion = (answer) => answer.judge === null || answer.judge === undefined ? "" : `, judge ${answer.judge.toFixed(2)}`;
  const score = (answer) => answer.similarity === null ? "" : answer.similarity.toFixed(3);
  function cardOf(card, labels) {
    const made = element("article", "card");
    const head = element("header");
    head.append(element("b", "", card.task), element("span", "", labels[card.model]));
    if (card.kind) head.append(element("span", "tag", card.kind));
    if (card.rank) head.append(element("span", "", `right answer at rank ${card.rank}`));
    const row = element("div", "row");
    row.append(item("query", card.query), item(`right answer, ${score(card.gold)}${opinion(card.gold)}`, card.gold, "right"));
    const answers = element("div", "answers");
    card.top.forEach((answer, place) => answers.append(
      item(`${place + 1}. ${score(answer)}${opinion(answer)}`, answer, answer.gold ? "right" : "wrong")));
    row.append(answers);
    made.append(head, row);
    return made;
  }
  const options = (id, values) => { for (const value of values) $(id).append(new Option(value.replaceAll("_", " "), value)); };
  options("by-task", [...new Set(gallery.cards.map((card) => card.task))].sort());
  options("by-kind", [...new Set(gallery.cards.map((card) => card.kind))].filter(Boolean).sort());
  const labels = [...$("by-model").options].filter((o) => o.value !== "").map((o) => o.text);
  function filter() {
    const model = $("by-model").value, task = $("by-task").value, kind = $("by-kind").value;
    const found = gallery.cards.filter((card) =>
      (model === "" || card.model === Number(model)) && (task === "" || card.task === task) && (kind === "" || card.kind === kind));
    $("count").textContent = `${found.length} failures`;
    $("cards").replaceChildren(...found.slice(0, shown).map((card) => cardOf(card, labels)));
    $("more").hidden = found.length <= shown;
  }
  for (const id of ["by-model", "by-task", "by-kind"]) $(id).onchange = () => { shown = STEP; filter(); };
  $("more").onclick = () => { shown += STEP; filter(); };
  filter();
  setTheme(theme);
})();
