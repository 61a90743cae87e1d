"use strict";
// The page's behaviour. Everything that comes from data is written as a text node, never as markup; Plotly, which
// reads a few tags in its labels, gets them escaped (plain).
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const byId = (id) => document.getElementById(id);
  const tracks = data.tracks;
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const shown = (value, digits = 4) => (value === null || value === undefined ? "" : value.toFixed(digits));
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(4);

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "on") for (const [event, what] of Object.entries(value)) made.addEventListener(event, what);
      else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  function options(select, values, chosen) {
    const before = select.value;
    select.replaceChildren(...values.map((v) => {
      const [value, text] = Array.isArray(v) ? v : [v, v];
      return element("option", { value }, String(text));
    }));
    const wanted = [before, chosen].find((v) => values.some((o) => (Array.isArray(o) ? o[0] : o) === v));
    if (wanted !== undefined) select.value = wanted;
    select.disabled = values.length === 0;
  }

  // ------------------------------------------------------------------------------------------------ charts

  const colours = ["#1f77b4", "#d95f02", "#1b9e77", "#7570b3", "#c2185b", "#8a6d00", "#00838f", "#6d4c41", "#558b2f",
    "#5c6bc0", "#ad1457", "#00695c"];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function layout(more) {
    const axis = (given) => Object.assign({ gridcolor: style("--grid"), zerolinecolor: style("--soft"),
      linecolor: style("--line"), automargin: true }, given);
    return Object.assign({ paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { t: 12, r: 12, b: 48, l: 56 },
      font: { color: style("--ink"), family: "system-ui, sans-serif", size: 13 }, hovermode: "closest",
      legend: { orientation: "h", y: -0.22, yanchor: "top", font: { size: 12 } }, hoverlabel: { align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: style("--soft"), activecolor: style("--accent") } },
    more, { xaxis: axis(more.xaxis), yaxis: axis(more.yaxis) });
  }

  // Height of a chart with a legend of so many entries below it.
  const tall = (id, entries) => 360 + 21 * Math.ceil(entries / Math.max(1, Math.floor(byId(id).clientWidth / 270)));

  function draw(id, traces, more, empty) {
    const place = byId(id);
    place.classList.toggle("empty", traces.length === 0);
    if (traces.length === 0) {
      Plotly.purge(place);
      place.replaceChildren(empty || "Nothing to show for this choice.");
      return null;
    }
    if (!place.classList.contains("js-plotly-plot")) place.replaceChildren();
    return Plotly.react(place, traces, layout(more), { responsive: true, displaylogo: false,
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] });
  }

  // ------------------------------------------------------------------------------------------------ leaderboard

  const parts = Object.keys(data.boards);
  const state = { sort: "", up: false };
  const blocks = ["controls", "without content", "with content", "mixtures"];
  const differing = (row) => (row.changed || row.unusual ? `(${row.changed || row.unusual})` : "");
  const label = (row) => [row.method, row.representation, differing(row)].filter(Boolean).join(" ");
  const column = () => `${byId("metric").value}@${byId("k").value}`;
  const board = () => data.boards[byId("part").value];

  function fillBoardControls() {
    options(byId("part"), parts);
    const b = board();
    if (!b) return;
    const metrics = [...new Set(b.columns.map((c) => c.split("@")[0]))];
    options(byId("metric"), metrics, "NDCG");
    options(byId("k"), [...new Set(b.columns.filter((c) => c.startsWith(byId("metric").value + "@")).map((c) => c.split("@")[1]))]
      .sort((a, c) => a - c), "10");
    options(byId("method"), [["", "all"], ...[...new Set(b.rows.map((r) => r.method))].sort()], "");
    options(byId("representation"), [["", "all"], ...[...new Set(b.rows.map((r) => r.representation || "none"))].sort()], "");
  }

  function chosenRows() {
    const method = byId("method").value, representation = byId("representation").value;
    return board().rows.map((row, number) => ({ row, number })).filter(({ row }) => (!method || row.method === method)
      && (!representation || (row.representation || "none") === representation));
  }

  function valueOf(row, what) {
    if (what === "method") return row.method.toLowerCase();
    if (what === "representation") return row.representation.toLowerCase();
    if (what === "control") return row.control[column()] ? row.control[column()][0] : null;
    if (what === "worth") return row.worth[column()] ? row.worth[column()][0] : null;
    return row.figures[what] ? row.figures[what][0] : null;
  }

  function inOrder(rows) {
    const what = state.sort || column(), sign = state.up ? 1 : -1;
    const grouped = blocks.map((block) => [block, rows.filter(({ row }) => row.block === block)]);
    if (!state.sort && column() === board().columns[0]) return grouped;      // already in the table's order
    for (const [, several] of grouped) {
      several.sort((a, b) => {
        const one = valueOf(a.row, what), two = valueOf(b.row, what);
        if (one === null || two === null) return (one === null) - (two === null);
        return sign * (typeof one === "string" ? one.localeCompare(two) : one - two);
      });
    }
    return grouped;
  }

  function drawBoard() {
    fillBoardControls();
    const table = byId("board");
    if (!board()) {
      table.replaceChildren(element("caption", {}, "No figures yet: run a recommender, for example python knn.py."));
      for (const id of ["worth-plot", "k-plot", "activity-plot", "popularity-plot", "coverage-plot", "popular-plot"]) draw(id, [], {}, "No figures yet.");
      drawLearning();
      return;
    }
    const c = column(), k = byId("k").value;
    byId("board-title").textContent = board().title;
    const content = board().rows.some((row) => row.content);
    const others = ["NDCG", "Recall", "HitRate", "MRR", "Coverage"].map((m) => `${m}@${k}`)
      .filter((o) => o !== c && board().columns.includes(o));
    const heads = [["method", "method"], ["representation", "representation"], [c, c],
      ...(content ? [["control", "control"], ["worth", "worth"]] : []), ...others.map((o) => [o, o])];
    const sorted = state.sort || (c === board().columns[0] ? "" : c);     // without a wish, rows are in the table's order
    const header = element("tr", {}, ...heads.map(([key, text], i) => element("th",
      { scope: "col", class: i > 1 ? "number" : null, "data-column": key,
        "aria-sort": sorted === key ? (state.up ? "ascending" : "descending") : "none" },
      element("button", { type: "button", on: { click: () => sortBy(key, i < 2) } },
        text + (sorted === key ? (state.up ? " ▲" : " ▼") : "")))), element("th", { scope: "col" }, "runs"));
    const rows = chosenRows();
    const ends = rows.flatMap(({ row }) => row.figures[c] ? [row.figures[c][0] + (row.figures[c][1] || 0)] : []);
    const most = Math.max(...ends, 1e-9);
    const bodies = inOrder(rows).filter(([, several]) => several.length).map(([block, several]) => element("tbody", {},
      element("tr", { class: "block" }, element("th", { colspan: heads.length + 1, scope: "rowgroup" }, block)),
      ...several.map(({ row }) => boardRow(row, c, others, content, most))));
    table.replaceChildren(element("thead", {}, header), ...bodies);
    byId("board-notes").replaceChildren(...board().notes.map((note) => element("p", { class: "small" }, note)));
    drawWorth();
    drawDetail();
  }

  function sortBy(key, text) {
    state.up = state.sort === key ? !state.up : text;
    state.sort = key;
    drawBoard();
    document.querySelector(`#board th[data-column="${CSS.escape(key)}"] button`).focus();
  }

  function boardRow(row, c, others, content, most) {
    const figure = row.figures[c], control = row.control[c], worth = row.worth[c];
    const cells = [element("th", { scope: "row" }, row.method),
      element("td", {}, element("bdi", {}, [row.representation, differing(row)].filter(Boolean).join(" "))),
      figureCell(figure, most)];
    if (content) {
      cells.push(element("td", { class: "number" }, control ? `${shown(control[0])} (${control[1]})` : row.content ? "no control" : ""),
        element("td", { class: "number", title: worth ? worth[2] : null }, worth ? signed(worth[0]) + (worth[1] === null ? "" : ` ±${shown(worth[1])}`) : ""));
    }
    for (const other of others) cells.push(element("td", { class: "number" }, row.figures[other] ? shown(row.figures[other][0]) : ""));
    const names = [...row.runs, ...row.control_runs];
    cells.push(element("td", {}, element("details", {}, element("summary", {}, String(names.length)),
      ...names.map((name) => element("div", {}, element("a", { href: `#run-${name}`, on: { click: () => openRun(name) } }, name))))));
    return element("tr", {}, ...cells);
  }

  function openRun(name) {
    const place = byId(`run-${name}`);
    if (place) place.open = true;
  }

  function figureCell(figure, most) {
    if (!figure) return element("td", { class: "number" }, "not evaluated");
    const [mean, half, mark] = figure, low = Math.max(0, mean - (half || 0)), high = mean + (half || 0);
    const share = (v) => `${(100 * v / most).toFixed(2)}%`;
    const bar = element("span", { class: "bar", "aria-hidden": "true" });
    const interval = element("i", {}), point = element("b", {});
    interval.style.left = share(low);
    interval.style.width = share(high - low);
    point.style.left = share(mean);
    bar.append(interval, point);
    const text = shown(mean) + (half === null ? "" : ` ±${shown(half)}`);
    return element("td", { class: mark === "best" ? "number best" : "number" }, mark === "best" ? element("b", {}, text) : text,
      mark === "near" ? element("span", { class: "mark", title: "not distinguishable from the best of its block" }, " °") : null, bar);
  }

  // ------------------------------------------------------------------------------------------------ figures

  function drawWorth() {
    const c = column();
    const rows = chosenRows().filter(({ row }) => row.worth[c]).sort((a, b) => a.row.worth[c][0] - b.row.worth[c][0]);
    const methods = [...new Set(rows.map(({ row }) => row.method))].sort();
    const traces = methods.map((method, i) => {
      const own = rows.filter(({ row }) => row.method === method);
      return { type: "scatter", mode: "markers", name: plain(method), x: own.map(({ row }) => row.worth[c][0]),
        y: own.map(({ row }) => plain(label(row))), marker: { size: 10, color: colours[i % colours.length] },
        error_x: { type: "data", array: own.map(({ row }) => row.worth[c][1] || 0), color: colours[i % colours.length] },
        hovertemplate: "%{y}: %{x:.4f}<extra></extra>" };
    });
    draw("worth-plot", traces, { height: 110 + 34 * rows.length, showlegend: false, xaxis: { title: { text: `worth in ${c}` }, rangemode: "tozero" },
      yaxis: { categoryorder: "array", categoryarray: rows.map(({ row }) => plain(label(row))) } },
    "No representation has a control here: run it with --shuffle --seed 1, 2, ... to see what its content is worth.");
  }

  function detailRows() {
    const figures = data.curves[byId("part").value] || [];
    const all = byId("detail-rows").value === "all";
    return chosenRows().filter(({ row, number }) => figures[number] && (all || !row.changed))
      .map(({ row, number }) => ({ row, figures: figures[number] }));
  }

  function drawDetail() {
    const metric = byId("metric").value, c = column(), rows = detailRows();
    const line = (i) => ({ color: colours[i % colours.length], dash: ["solid", "dash", "dot"][Math.floor(i / colours.length) % 3] });
    draw("k-plot", rows.filter(({ figures }) => figures.over_k[metric]).map(({ row, figures }, i) => {
      const ks = Object.keys(figures.over_k[metric]), values = ks.map((k) => figures.over_k[metric][k]);
      return { type: "scatter", mode: "lines+markers", name: plain(label(row)), x: ks.map(Number), y: values.map((v) => v[0]),
        line: line(i), error_y: { type: "data", array: values.map((v) => v[1] || 0), thickness: 1, width: 2 },
        hovertemplate: `${metric}@%{x}: %{y:.4f}` };
    }), { height: tall("k-plot", rows.length), xaxis: { title: { text: "length of the list" }, type: "log", tickvals: [1, 2, 5, 10, 20, 50, 100] },
      yaxis: { title: { text: metric }, rangemode: "tozero" } });
    const cold = byId("part").value.startsWith("cold");
    for (const [id, kind] of [["activity-plot", "activity"], ["popularity-plot", "popularity"]]) {
      draw(id, rows.filter(({ figures }) => figures[kind][metric]).map(({ row, figures }, i) => ({
        type: "scatter", mode: "lines+markers", name: plain(label(row)), x: data.segments[kind],
        y: figures[kind][metric].map((v) => v[0]), text: figures[kind][metric].map((v) => `${v[2]} users`),
        line: line(i), error_y: { type: "data", array: figures[kind][metric].map((v) => v[1] || 0), thickness: 1, width: 2 },
        hovertemplate: `${metric}@${figures.at} %{y:.4f}, %{text}` })),
      { height: tall(id, rows.length), xaxis: { type: "category" }, yaxis: { title: { text: rows.length ? `${metric}@${rows[0].figures.at}` : metric }, rangemode: "tozero" } },
      kind === "popularity" && cold ? "Cold tracks have no plays in train, so there are no such segments." : undefined);
    }
    for (const [id, other, text] of [["coverage-plot", "Coverage", "share of the catalogue recommended"],
      ["popular-plot", "Popularity", "share of users who played what is recommended"]]) {
      const o = `${other}@${byId("k").value}`;
      draw(id, rows.map((r, i) => ({ row: r.row, i })).filter(({ row }) => row.figures[o] && row.figures[c]).map(({ row, i }) => ({
        type: "scatter", mode: "markers", name: plain(label(row)), x: [row.figures[o][0]], y: [row.figures[c][0]],
        marker: { size: 11, color: colours[i % colours.length] },
        error_y: { type: "data", array: [row.figures[c][1] || 0], thickness: 1 }, hovertemplate: "%{x:.3f}, %{y:.4f}" })),
      { height: 400, showlegend: false, xaxis: { title: { text: `${text} (${o})` }, rangemode: "tozero" }, yaxis: { title: { text: c }, rangemode: "tozero" } },
      other === "Popularity" && cold ? "Cold tracks have no popularity." : undefined);
    }
    drawLearning();
  }

  function drawLearning() {
    const tags = [...new Set(data.learning.flatMap((run) => Object.keys(run.curves)))].sort();
    options(byId("curve"), tags, tags.includes("val/NDCG@10") ? "val/NDCG@10" : "Loss/val");
    const tag = byId("curve").value;
    const known = data.learning.filter((run) => run.curves[tag]);
    draw("learning-plot", known.map((run, i) => ({ type: "scatter",
      mode: "lines+markers", name: plain(run.label), x: run.curves[tag].map((p) => p[0]), y: run.curves[tag].map((p) => p[1]),
      text: run.curves[tag].map(() => plain(run.run)), hovertemplate: "%{text}, epoch %{x}: %{y:.4f}",
      line: { color: colours[i % colours.length] } })), { height: tall("learning-plot", known.length), xaxis: Object.assign({ title: { text: "epoch" } }, Math.max(...known.flatMap((run) => run.curves[tag].map((p) => p[0]))) <= 12 ? { dtick: 1 } : {}), yaxis: { title: { text: tag } } },
    "No run here has learned in epochs.");
  }

  // ------------------------------------------------------------------------------------------------ sound

  const audio = byId("audio");
  let playing = -1;

  function play(number) {
    if (!tracks.sound[number]) return;
    if (playing === number && !audio.paused) { audio.pause(); return; }
    if (playing !== number) audio.src = tracks.sound[number];
    playing = number;
    byId("playing").textContent = `${tracks.name[number]}${tracks.by[number] ? ` · ${tracks.by[number]}` : ""}`;
    audio.play().catch((error) => { if (error.name !== "AbortError") byId("playing").textContent = `${tracks.name[number]} cannot be played: ${error.message}`; });
  }

  function pressed() {
    for (const button of document.querySelectorAll("button.play")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.track) === playing && !audio.paused));
    }
  }
  for (const event of ["play", "pause", "ended"]) audio.addEventListener(event, pressed);

  function playButton(number) {
    const has = Boolean(tracks.sound[number]);
    return element("button", { type: "button", class: "play", "data-track": number, disabled: !has, "aria-pressed": "false",
      "aria-label": has ? `Play ${tracks.name[number]}` : `No sound for ${tracks.name[number]}`, on: { click: () => play(number) } }, "▶");
  }

  function trackLine(number, hit, note) {
    const name = element("button", { type: "button", class: "name", dir: "auto", on: { click: () => showTrack(number) } }, tracks.name[number]);
    return element("li", { class: hit ? "hit" : null }, playButton(number), element("span", { class: "what" }, name,
      hit ? " ★" : null, hit ? element("span", { class: "who" }, "hit: this user played it") : null,
      element("span", { class: "who" }, element("bdi", {}, tracks.by[number]), note ? `${tracks.by[number] ? " · " : ""}${note}` : "")));
  }

  const card = (title, lines) => element("section", { class: "card" }, element("h4", {}, element("bdi", {}, title)),
    lines.length ? element("ol", {}, ...lines) : element("p", { class: "small" }, "nothing"));

  // ------------------------------------------------------------------------------------------------ maps

  const where = new Map(data.map.tracks.map((number, place) => [number, place]));

  function drawMap() {
    const names = Object.keys(data.map.embeddings);
    options(byId("embedding"), names);
    const map = data.map.embeddings[byId("embedding").value];
    options(byId("projection"), map ? ["PCA", "t-SNE"].filter((p) => map[p]) : []);
    options(byId("colour"), Object.keys(data.map.colours), data.map.first);
    if (!map) { draw("map-plot", [], {}, "No embeddings in this workspace yet."); return; }
    const [x, y] = map[byId("projection").value], colour = data.map.colours[byId("colour").value];
    const common = { type: "scatter", mode: "markers", hovertemplate: "%{text}<extra></extra>" };
    const trace = (places, more) => Object.assign({}, common, { x: places.map((p) => x[p]), y: places.map((p) => y[p]),
      customdata: places.map((p) => data.map.tracks[p]), text: places.map((p) => hover(data.map.tracks[p])) }, more);
    const all = data.map.tracks.map((_, place) => place).filter((place) => x[place] !== null);
    const size = all.length > 800 ? 6 : 8;
    let traces;
    if (!colour) traces = [trace(all, { marker: { size } })];
    else if (colour.kind === "number") {
      const known = all.filter((p) => colour.values[p] !== null);
      traces = [trace(known, { marker: { size, opacity: .85, color: known.map((p) => colour.values[p]), colorscale: "Viridis", showscale: true,
        colorbar: { title: { text: plain(byId("colour").value), side: "right" }, thickness: 12 } }, showlegend: false })];
    } else {
      const counts = new Map();
      for (const p of all) counts.set(colour.values[p], (counts.get(colour.values[p]) || 0) + 1);
      const last = (v) => (v === null ? 2 : v === "other" ? 1 : 0);
      const values = [...counts.keys()].sort((a, b) => last(a) - last(b) || counts.get(b) - counts.get(a));
      traces = values.map((value, i) => trace(all.filter((p) => colour.values[p] === value), { name: plain(value === null ? "unknown" : value),
        marker: { size, opacity: .85, color: last(value) ? "#9aa3ad" : colours[i % colours.length] } }));
    }
    const share = byId("projection").value === "PCA" ? `the two axes hold ${(100 * map.share).toFixed(0)} % of the variance` : "";
    const done = draw("map-plot", traces, { height: 600, xaxis: { showticklabels: false, title: { text: share } },
      yaxis: { showticklabels: false } });
    if (done) done.then((place) => {
      place.removeAllListeners("plotly_click");
      place.on("plotly_click", (event) => { const number = event.points[0].customdata; showTrack(number, true); play(number); });
    });
  }

  const hover = (number) => [tracks.name[number], tracks.by[number], `${tracks.plays[number]} plays in train, ${tracks.state[number]}`,
    tracks.sound[number] ? "" : "no sound"].filter(Boolean).map((line) => plain(line.slice(0, 60))).join("<br>");

  function showTrack(number, stay) {
    const place = byId("neighbours");
    const title = element("h3", { id: "track" }, "Near ", element("bdi", {}, tracks.name[number]));
    const about = element("p", { class: "small" }, playButton(number), " ", element("bdi", {}, tracks.by[number]), ` ${tracks.id[number]}, ${tracks.plays[number]} plays in train, ${tracks.state[number]}`);
    const near = data.near[number];
    const lists = near ? Object.entries(near).map(([name, list]) => card(name === "listeners" ? "listeners (who plays it)" : name,
      list.map(([other, cosine]) => trackLine(other, false, `cosine ${cosine.toFixed(2)}`)))) : [element("p", { class: "small" }, "Neighbours are listed for tracks on the map and in lists.")];
    place.replaceChildren(title, about, element("div", { class: "lists" }, ...lists));
    pressed();
    if (!stay) { title.tabIndex = -1; title.focus(); title.scrollIntoView({ block: "start" }); }
  }

  function fillNames() {
    const names = data.map.tracks.map((number) => element("option", { value: tracks.name[number] === tracks.id[number] ? tracks.id[number] : `${tracks.name[number]} [${tracks.id[number]}]` }));
    byId("names").replaceChildren(...names);
    byId("find").addEventListener("change", (event) => {
      const at = names.findIndex((option) => option.value === event.target.value);
      const typed = event.target.value.trim().toLowerCase();
      const number = at >= 0 ? data.map.tracks[at] : data.map.tracks.find((n) => tracks.name[n].toLowerCase() === typed || tracks.id[n].toLowerCase() === typed);
      if (number === undefined) byId("neighbours").replaceChildren(element("p", {}, `No track of the map is called ${event.target.value}.`));
      else { showTrack(number, true); play(number); }
    });
  }

  // ------------------------------------------------------------------------------------------------ users

  const userParts = [...new Set(data.users.map((user) => user.part))];

  const hits = (user) => Object.values(user.lists).flat().filter(([, hit]) => hit).length;

  function drawUsers() {
    options(byId("listen-part"), userParts);
    options(byId("user"), data.users.map((user, i) => [String(i), `${user.user} (${user.held_out} held out, ${hits(user)} hits)`]).filter(([i]) => data.users[i].part === byId("listen-part").value));
    const user = data.users[byId("user").value];
    if (!user) { byId("user-lists").replaceChildren(data.asked ? "No users to show: the workspace has no split, or no part to test." : "No users were asked for (report.py --users N)."); return; }
    const wanted = new Set([...document.querySelectorAll("#runs-shown input:checked")].map((box) => box.value));
    const lists = Object.entries(user.lists).filter(([run]) => wanted.has(run)).map(([run, list]) => card(`${data.runs[run]} (${list.filter(([, hit]) => hit).length} hits)`,
      list.map(([number, hit]) => trackLine(number, hit))));
    byId("user-lists").replaceChildren(card(data.history, user.history.map((n) => trackLine(n))), card("held out: what the lists should hold", user.truth.map((n) => trackLine(n))), ...lists);
    pressed();
  }

  function fillRuns() {
    const names = Object.keys(data.runs);
    for (const [i, run] of names.entries()) {
      byId("runs-shown").append(element("label", {}, element("input", { type: "checkbox", value: run, checked: i < 4, on: { change: drawUsers } }), data.runs[run]));
    }
    if (!names.length) byId("runs-shown").append(element("span", { class: "small" }, "no finished runs with lists"));
  }

  // ------------------------------------------------------------------------------------------------ start

  for (const id of ["part", "metric", "k", "method", "representation"]) byId(id).addEventListener("change", () => { if (id !== "method" && id !== "representation") { state.sort = ""; state.up = false; } drawBoard(); });
  byId("detail-rows").addEventListener("change", drawDetail);
  byId("curve").addEventListener("change", drawLearning);
  for (const id of ["embedding", "projection", "colour"]) byId(id).addEventListener("change", drawMap);
  for (const id of ["listen-part", "user"]) byId(id).addEventListener("change", drawUsers);
  dark.addEventListener("change", () => { drawBoard(); drawMap(); });
  fillRuns();
  fillNames();
  drawBoard();
  drawMap();
  drawUsers();
})();
