"use strict";
// The page is readable as it comes. This draws the curves and makes the completions a table that
// can be searched and sorted. Text of a run enters the page as text only (textContent).
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function shown(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e6) ? value.toExponential(2) : String(+value.toPrecision(4));
}

/* ---- curves ---- */

let library = null;
function drawing() {
  // Packed, the library takes a third of the space, and the text is there before it is unpacked.
  library ??= (async () => {
    const packed = document.getElementById("library").textContent;
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    document.head.append(make("script", { textContent: await new Response(unpacked).text() }));
    return window.Plotly;
  })();
  return library;
}

const COLOURS = ["#4c6ef5", "#f08c00", "#12b886", "#e64980", "#7950f2", "#15aabf", "#82c91e", "#868e96"];

function look() {
  const axis = { gridcolor: style("--line"), zerolinecolor: style("--line"), linecolor: style("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: COLOURS,
    font: { color: style("--muted"), size: 11, family: "system-ui, sans-serif" },
    xaxis: { ...axis, title: { text: "step", standoff: 4 } }, yaxis: { ...axis, exponentformat: "e" },
    hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--ink") } },
  };
}

const short = (name) => name.replace(/^eval_/, "held-out ").replace(/^(held-out )?rewards\/(.+)\/mean$/, "$1$2")
  .replace(/^(held-out )?completions\//, "$1").replace(/_/g, " ");

async function draw(figure, panel, stage) {
  const Plotly = await drawing();
  const canvas = figure.querySelector(".canvas");
  const traces = panel.curves.map((curve) => ({
    x: curve.steps, y: curve.values, name: short(curve.name), type: "scatter",
    mode: curve.steps.length < 30 ? "lines+markers" : "lines",
    line: { width: 1.8, dash: curve.name.startsWith("eval_") ? "dot" : "solid" }, marker: { size: 4 },
    hovertemplate: "%{y:.5g}", connectgaps: false,
  }));
  const layout = {
    ...look(), margin: { l: 44, r: 10, t: 6, b: 34 }, hovermode: "x unified",
    showlegend: traces.length > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
  };
  const logarithmic = {
    name: "logarithmic", title: "logarithmic or linear scale",
    icon: { width: 24, height: 24, path: "M3 3v18h18v-2H5V3zM7 17C8 9 12 6 20 6V4C11 4 7 8 6 16z" },
    click: (plot) => Plotly.relayout(plot, { "yaxis.type": plot.layout.yaxis.type === "log" ? "linear" : "log", "yaxis.autorange": true }),
  };
  await Plotly.newPlot(canvas, traces, layout, {
    responsive: true, displaylogo: false, modeBarButtons: [[logarithmic, "zoom2d", "pan2d", "autoScale2d", "toImage"]],
  });
  stage.plots.push(canvas);
  canvas.on("plotly_relayout", (change) => zoomAlike(canvas, change, stage));
}

function zoomAlike(from, change, stage) {
  if (stage.zooming) return;
  const whole = change["xaxis.autorange"];
  const range = [change["xaxis.range[0]"], change["xaxis.range[1]"]];
  if (!whole && range[0] === undefined) return;
  stage.zooming = true;
  const wanted = whole ? { "xaxis.autorange": true } : { "xaxis.range": range };
  Promise.all(stage.plots.filter((plot) => plot !== from).map((plot) => window.Plotly.relayout(plot, wanted)))
    .finally(() => { stage.zooming = false; });
}

function curves(section, stage) {
  stage.plots = [];
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      const { panel, more } = entry.target.dataset;
      seen.unobserve(entry.target);
      draw(entry.target, more === undefined ? stage.panels[panel] : stage.more[more], stage);
    }
  }, { rootMargin: "200px" });
  section.querySelectorAll("figure.plot").forEach((figure) => seen.observe(figure));
}

dark.addEventListener("change", () => {
  for (const stage of data.stages) for (const plot of stage.plots) window.Plotly.relayout(plot, flat(look()));
});

function flat({ xaxis, yaxis, ...rest }) {
  const axes = ["gridcolor", "zerolinecolor", "linecolor"].flatMap((key) => [[`xaxis.${key}`, xaxis[key]], [`yaxis.${key}`, yaxis[key]]]);
  return { ...rest, ...Object.fromEntries(axes) };
}

/* ---- completions ---- */

const PAGE = 25;

function completions(root, { rewards, rows, prompts }) {
  const [search, table, count, place] = ["input[type=search]", "table", "[data-count]", "[data-page]"].map((each) => root.querySelector(each));
  const totals = rows.map((row) => row.reward).filter((value) => value !== null);
  const [low, high] = [Math.min(0, ...totals), Math.max(1e-9, ...totals)];
  const columns = [
    { title: "step", of: (row) => row.step }, { title: "reward", of: (row) => row.reward, meter: true },
    ...(rewards.length > 1 ? rewards.map((name, i) => ({ title: name, of: (row) => row.scores[i], optional: true })) : []),
    { title: "advantage", of: (row) => row.advantage, optional: true }, { title: "tokens", of: (row) => row.tokens, optional: true },
    { title: "prompt", of: (row) => prompts[row.prompt], text: true, optional: true }, { title: "completion", of: (row) => row.completion, text: true },
  ];
  const state = { column: 1, rising: false, page: 0, found: [] };

  const heads = columns.map((column, i) => {
    const button = make("button", { type: "button", textContent: column.title });
    button.addEventListener("click", () => {
      state.rising = state.column === i ? !state.rising : Boolean(column.text);
      state.column = i;
      update();
    });
    return make("th", { className: column.optional ? "optional" : "" }, button);
  });
  table.tHead.append(make("tr", {}, ...heads));

  const values = Object.fromEntries([...root.querySelectorAll("[data-filter]")].map((each) => [each.dataset.filter, each]));
  const [from, to] = [root.querySelector("[data-from]"), root.querySelector("[data-to]")];

  function update() {
    const words = search.value.toLowerCase();
    const [first, last] = [from.value === "" ? -Infinity : +from.value, to.value === "" ? Infinity : +to.value];
    const { of } = columns[state.column];
    state.found = rows.filter((row) =>
      (!values.why.value || row.why.includes(values.why.value)) && (!values.mode.value || row.mode === values.mode.value) &&
      row.step >= first && row.step <= last &&
      (!words || row.completion.toLowerCase().includes(words) || prompts[row.prompt].toLowerCase().includes(words)));
    const order = state.rising ? 1 : -1;
    state.found.sort((a, b) => {
      const [x, y] = [of(a), of(b)];
      if (x === null || y === null) return (x === null) - (y === null); // without a score last
      return order * (typeof x === "string" ? x.localeCompare(y) : x - y) || a.step - b.step;
    });
    state.page = 0;
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== state.column ? "none" : state.rising ? "ascending" : "descending"));
    heads.forEach((head, i) => { head.firstChild.textContent = columns[i].title + (i !== state.column ? "" : state.rising ? " ↑" : " ↓"); });
    show();
  }

  function show() {
    const pages = Math.max(1, Math.ceil(state.found.length / PAGE));
    table.tBodies[0].replaceChildren(...state.found.slice(state.page * PAGE, (state.page + 1) * PAGE).map(line));
    count.textContent = `${shown(state.found.length)} of ${shown(rows.length)}`;
    place.textContent = `page ${state.page + 1} of ${pages}`;
    root.querySelector("[data-previous]").disabled = state.page === 0;
    root.querySelector("[data-next]").disabled = state.page + 1 >= pages;
  }

  function line(row) {
    const cells = columns.map((column, i) => {
      const cell = make("td", { className: (column.optional ? "optional " : "") + (column.text ? "snippet" : "") });
      const value = column.of(row);
      if (i === columns.length - 1) {
        const button = make("button", { type: "button", className: "open", textContent: value.slice(0, 200).trim() || "(empty)" });
        button.setAttribute("aria-expanded", "false");
        cell.append(button);
      } else cell.append(column.text ? value.slice(0, 200).trim() : shown(value));
      if (column.meter && value !== null) {
        const filled = make("i");
        filled.style.width = `${(100 * (value - low)) / (high - low)}%`;
        cell.append(make("span", { className: "meter" }, filled));
      }
      return cell;
    });
    const element = make("tr", { className: "row" }, ...cells);
    element.addEventListener("click", () => {
      const next = element.nextSibling;
      const open = next?.classList.contains("detail");
      if (open) next.remove();
      else element.after(detail(row));
      element.querySelector(".open").setAttribute("aria-expanded", String(!open));
    });
    return element;
  }

  function detail(row) {
    const parts = rewards.map((name, i) => make("span", {}, `${name} ${shown(row.scores[i])}${row.weights[i] === 1 ? "" : ` × ${shown(row.weights[i])}`}`));
    const facts = `step ${row.step}, ${row.mode === "train" ? "training" : "held-out"}, group ${row.group}, ${shown(row.tokens)} tokens, advantage ${shown(row.advantage)}; here as ${row.why.join(", ")}`;
    const cell = make("td", { colSpan: columns.length },
      make("div", { className: "breakdown" }, make("b", {}, `reward ${shown(row.reward)}`), ...parts),
      make("p", { className: "muted", textContent: facts }),
      make("h4", { textContent: "prompt" }), marked(prompts[row.prompt]), make("h4", { textContent: "completion" }), marked(row.completion));
    if (row.columns) cell.append(make("h4", { textContent: "other columns" }), marked(row.columns));
    return make("tr", { className: "detail" }, cell);
  }

  function marked(text) {
    const words = search.value.toLowerCase();
    const pre = make("pre");
    const lower = text.toLowerCase();
    let at = 0;
    for (let next; words && (next = lower.indexOf(words, at)) >= 0; at = next + words.length)
      pre.append(text.slice(at, next), make("mark", { textContent: text.slice(next, next + words.length) }));
    pre.append(text.slice(at));
    return pre;
  }

  for (const each of [search, from, to]) each.addEventListener("input", update);
  Object.values(values).forEach((each) => each.addEventListener("change", update));
  root.querySelector("[data-previous]").addEventListener("click", () => { state.page -= 1; show(); });
  root.querySelector("[data-next]").addEventListener("click", () => { state.page += 1; show(); });
  update();
}

for (const section of document.querySelectorAll("[data-stage]")) {
  const stage = data.stages[section.dataset.stage];
  curves(section, stage);
  const root = section.querySelector("[data-completions]");
  if (root) completions(root, stage.completions);
}
document.documentElement.dataset.ready = "true";
