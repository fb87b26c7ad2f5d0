"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const said = document.getElementById("said");
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Plotly reads a little HTML in its texts: names are shown as they are.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const lines = (text) => plain(text).replace(/\n/g, "<br>");
  const methods = new Map(data.methods.map((m, i) => [m.name, { ...m, index: i, label: plain(m.title) }]));
  const hidden = new Set();

  // ---- tables: sort by a click on a heading; rows without a value stay last ----
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    for (const button of table.querySelectorAll("thead button")) {
      button.addEventListener("click", () => {
        const heading = button.closest("th");
        const column = heading.cellIndex;
        const text = heading.classList.contains("text");
        const up = heading.getAttribute("aria-sort") !== "ascending";
        const key = (row) => row.cells[column].dataset.sort ?? "";
        const compare = (a, b) => (text ? a.localeCompare(b, "en", { numeric: true }) : Number(a) - Number(b));
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === "" || y === "") return (x === "") - (y === "");
          return up ? compare(x, y) : compare(y, x);
        });
        body.append(...rows);
        for (const other of table.querySelectorAll("thead th[aria-sort]")) other.setAttribute("aria-sort", "none");
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        said.textContent = `Sorted by ${button.textContent.trim()}, ${up ? "ascending" : "descending"}`;
      });
    }
  }

  // ---- copy buttons; selecting the text is the way out where the clipboard is closed to local files ----
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      let done = true;
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        const range = document.createRange();
        range.selectNodeContents(code);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Selected";
      said.textContent = done ? "Copied" : "Selected: press Ctrl+C";
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }

  if (typeof Plotly === "undefined") return;

  // ---- charts ----
  const config = { displayModeBar: false, responsive: true, displaylogo: false };
  const coarse = matchMedia("(pointer: coarse)").matches; // a finger must be able to scroll past a chart
  const color = (method) => css(`--m${methods.get(method).index}`);
  const faded = (hex, alpha) => hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
  const shown = (method) => !hidden.has(method);

  const axis = (title, extra = {}) => ({
    title: { text: plain(title), font: { size: 12.5, color: css("--soft") }, standoff: 10 },
    gridcolor: css("--line"), zeroline: false, linecolor: css("--line"), tickfont: { size: 11.5, color: css("--soft") },
    automargin: true, ...extra,
  });
  const hover = () => ({ bgcolor: css("--panel"), bordercolor: css("--line"), font: { color: css("--ink"), size: 12.5 }, align: "left", namelength: 32 });
  const layout = (extra) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: coarse ? false : "zoom",
    font: { family: getComputedStyle(document.body).fontFamily, color: css("--ink"), size: 13 },
    margin: { l: 8, r: 14, t: 12, b: 8 },
    hoverlabel: hover(),
    ...extra,
  });
  const ruler = () => ({ showspikes: true, spikemode: "across", spikesnap: "hovered data", spikethickness: 1, spikecolor: css("--soft"), spikedash: "dot" });
  const logTicks = (range) => ({ type: "log", range, dtick: Math.max(1, Math.ceil((range[1] - range[0]) / 3.5)), exponentformat: "power" });

  function curves(div, task) {
    const section = div.closest(".part");
    const pick = (name) => section.querySelector(`[data-control="${name}"] [aria-pressed="true"]`)?.dataset.value;
    const [x, y] = [pick("x"), pick("y")];
    const chosen = task.curves[x][y];
    const traces = [];
    const band = methods.size - hidden.size > 4 ? 0.09 : 0.16; // many bands over each other must stay readable
    for (const c of chosen.series.filter((s) => shown(s.method))) {
      const m = methods.get(c.method);
      if (c.low.length) {
        traces.push({ x: [...c.x, ...c.x.slice().reverse()], y: [...c.high, ...c.low.slice().reverse()], type: "scatter", mode: "lines", fill: "toself",
          fillcolor: faded(color(c.method), band), line: { width: 0 }, hoverinfo: "skip" });
      }
      traces.push({ x: c.x, y: c.mid, type: "scatter", mode: c.x.length > 1 ? "lines" : "markers", name: m.label, line: { color: color(c.method), width: 2.2, dash: m.dash },
        marker: { color: color(c.method), size: 8 }, hovertemplate: "%{y:.4~g}" });
      if (c.stopped) {
        traces.push({ x: c.x.slice(-1), y: c.mid.slice(-1), type: "scatter", mode: "markers", hoverinfo: "skip", cliponaxis: false,
          marker: { symbol: "x-thin-open", size: 10, color: color(c.method), line: { width: 2.5, color: color(c.method) } } });
      }
    }
    Plotly.react(div, traces, layout({
      hovermode: "x unified", uirevision: `${x} ${y}`,
      xaxis: axis(x === "step" ? "step" : "seconds of training", { rangemode: "tozero", showgrid: false, ...ruler() }),
      yaxis: axis(chosen.title, { type: chosen.log ? "log" : "linear", range: chosen.range }),
    }), config);
  }

  function landscape(div, task) {
    const method = div.closest("figure").dataset.method;
    const { points, x, y, log, key, best, ordered } = task.landscape;
    const off = ["off scale", "pruned", "failed", "diverged"].filter((s) => Object.values(points).flat().some((p) => p.mark === s));
    const strip = off.length ? 0.06 + 0.09 * off.length : 0;
    const mine = points[method] ?? [];
    const inOrder = ordered.includes(method); // its trials have no learning rate to be placed by, or among others
    const others = inOrder ? [] : Object.entries(points).filter(([name]) => name !== method && !ordered.includes(name)).flatMap(([, p]) => p);
    const kept = (list, status) => list.filter((p) => (p.mark === "complete") === status);
    const c = color(method);
    const soft = css("--line");
    const tuned = mine.filter((p) => p.best);
    const traces = [
      { x: kept(others, true).map((p) => p.x), y: kept(others, true).map((p) => p.y), type: "scatter", mode: "markers", marker: { color: soft, size: 5 }, hoverinfo: "skip" },
      { x: kept(mine, true).map((p) => p.x), y: kept(mine, true).map((p) => p.y), text: kept(mine, true).map((p) => lines(p.text)), type: "scatter", mode: "markers",
        marker: { color: c, size: 8 }, hovertemplate: "%{text}<extra></extra>" },
      { x: tuned.map((p) => p.x), y: tuned.map((p) => (p.mark === "complete" ? p.y : null)), type: "scatter", mode: "markers", marker: { size: 15, color: "rgba(0,0,0,0)", line: { color: css("--ink"), width: 1.6 } }, hoverinfo: "skip" },
    ];
    if (off.length) {
      traces.push({ x: kept(mine, false).map((p) => p.x), y: kept(mine, false).map((p) => off.indexOf(p.mark)), text: kept(mine, false).map((p) => lines(p.text)), yaxis: "y2",
        type: "scatter", mode: "markers", marker: { color: c, size: 8, symbol: kept(mine, false).map((p) => ({ "off scale": "circle", pruned: "line-ns-open" }[p.mark] ?? "x-thin-open")), line: { width: kept(mine, false).map((p) => (p.mark === "off scale" ? 0 : 2)), color: c } },
        cliponaxis: false, hovertemplate: "%{text}<extra></extra>" });
    }
    const title = inOrder ? [{ text: mine.length ? `no ${plain(key)} tuned: trials in their order` : `no ${plain(key)} tuned`, xref: "paper", yref: "paper", x: 0.5, y: 0, yshift: -7, yanchor: "top", showarrow: false, font: { size: 10, color: css("--soft") } }] : [];
    Plotly.react(div, traces, layout({
      margin: { l: 44, r: 8, t: 8, b: 24 }, hovermode: "closest", hoverlabel: { ...hover(), font: { color: css("--ink"), size: 11.5 } }, dragmode: false, annotations: title,
      xaxis: axis("", { ...logTicks(x), showgrid: false, showticklabels: !inOrder, automargin: false, tickfont: { size: 10, color: css("--soft") }, anchor: off.length ? "y2" : "y", fixedrange: true }),
      yaxis: axis("", { type: log ? "log" : "linear", range: y, domain: [strip, 1], nticks: 5, fixedrange: true, automargin: false }),
      yaxis2: axis("", { domain: [0, Math.max(0.01, strip - 0.04)], range: [-0.6, off.length - 0.4], tickvals: off.map((_, i) => i), ticktext: off, showgrid: false,
        visible: off.length > 0, fixedrange: true, automargin: false, tickfont: { size: 9.5, color: css("--soft") } }),
      shapes: [
        ...(off.length ? [{ type: "line", xref: "paper", yref: "paper", x0: 0, x1: 1, y0: strip - 0.02, y1: strip - 0.02, line: { color: soft, width: 1 } }] : []),
        ...(best === null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: best, y1: best, line: { color: css("--soft"), width: 1, dash: "dot" } }]),
      ],
    }), { ...config, staticPlot: false });
  }

  function profile(div) {
    const measure = div.closest(".part").querySelector('[data-control="x"] [aria-pressed="true"]').dataset.value;
    const chosen = data.profiles[measure];
    const traces = chosen.series.filter((s) => shown(s.method)).map((s) => ({
      x: s.x, y: s.y, type: "scatter", mode: "lines", name: methods.get(s.method).label, hovertemplate: "%{y:.0%}",
      line: { color: color(s.method), width: 2.2, dash: methods.get(s.method).dash, shape: "hv" },
    }));
    Plotly.react(div, traces, layout({
      hovermode: "x unified", uirevision: measure, xaxis: axis(chosen.x_title, { range: [1, chosen.end], showgrid: false, ticksuffix: "×", ...ruler() }),
      yaxis: axis("share of problems", { range: [-0.02, 1.04], tickformat: ".0%" }),
    }), config);
  }

  function draw(div) {
    const task = data.tasks[div.closest("[data-task]")?.dataset.task];
    if (div.classList.contains("curves")) curves(div, task);
    else if (div.classList.contains("landscape")) landscape(div, task);
    else profile(div);
    div.dataset.drawn = "yes";
  }
  const charts = [...document.querySelectorAll(".chart")];
  const redraw = (test = () => true) => charts.filter((div) => div.dataset.drawn && test(div)).forEach(draw);

  // A chart is drawn when it comes near the window: a page with many tasks opens at once.
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { watch.unobserve(entry.target); draw(entry.target); }
    }
  }, { rootMargin: "600px" });
  charts.forEach((div) => watch.observe(div));
  addEventListener("beforeprint", () => charts.filter((div) => !div.dataset.drawn).forEach(draw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());

  for (const button of document.querySelectorAll(".switch button")) {
    button.addEventListener("click", () => {
      for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
      const div = button.closest(".part").querySelector(".chart");
      if (div.dataset.drawn) draw(div);
    });
  }

  // A method is hidden or shown in all curves at once; a double click leaves it alone (again: brings all back).
  const chips = [...document.querySelectorAll(".chip")];
  const press = () => {
    chips.forEach((chip) => chip.setAttribute("aria-pressed", String(shown(chip.dataset.method))));
    redraw((div) => !div.classList.contains("landscape"));
  };
  for (const chip of chips) {
    const name = chip.dataset.method;
    chip.addEventListener("click", () => { hidden.has(name) ? hidden.delete(name) : hidden.add(name); press(); });
    chip.addEventListener("dblclick", () => {
      const alone = shown(name) && hidden.size === methods.size - 1;
      hidden.clear();
      if (!alone) for (const other of methods.keys()) if (other !== name) hidden.add(other);
      press();
    });
  }
})();
