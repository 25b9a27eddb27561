// One stream of news: at first whole plots, then numbered changes. A number that is missing, or silence, and we ask anew.
"use strict";

const GAP = 200, SILENCE = 30000, LONGEST_DELAY = 10000; // milliseconds
const NUMBERS = {
  f8: Float64Array, f4: Float32Array, i4: Int32Array, u4: Uint32Array,
  i2: Int16Array, u2: Uint16Array, i1: Int8Array, u1: Uint8Array,
};
const state = document.getElementById("state"), main = document.querySelector("main");
const plots = new Map(); // by id: {n, isOver, section, figures: by name {data, layout, place, isMain, isStale}}

// --- what the server says ---------------------------------------------------------------

let source, delay, lostAt = null, watch, retry;

function connect() {
  clearTimeout(retry);
  source?.close();
  source = new EventSource("news");
  source.onmessage = event => { hear(JSON.parse(event.data)); };
  source.onerror = lose;
  listen();
}

function listen() {
  clearTimeout(watch);
  watch = setTimeout(lose, SILENCE);
}

function lose() {
  source.close();
  clearTimeout(watch);
  clearTimeout(retry);
  lostAt ??= new Date();
  delay = Math.min(2 * (delay || 500), LONGEST_DELAY);
  retry = setTimeout(connect, delay);
  tell();
}

function hear(message) {
  delay = 0;
  lostAt = null;
  listen();
  const ids = new Set(message.plots.map(([id]) => id));
  for (const id of [...plots.keys()].filter(id => !ids.has(id))) drop(id);
  for (const one of message.news)
    if (one.whole) showWhole(one);
    else if (plots.get(one.plot)?.n + 1 === one.n) change(one);
    else return connect();
  message.plots.forEach(([id, isOver]) => {
    const plot = plots.get(id);
    plot.isOver = isOver;
    plot.section.classList.toggle("over", isOver);
  });
  arrange(message.plots.map(([id]) => plots.get(id).section));
  tell();
  drawSoon();
}

function tell() {
  const all = [...plots.values()], isOver = all.length && all.every(plot => plot.isOver);
  let text = "Live", look = "live";
  if (lostAt && isOver) [text, look] = ["The program has ended. This is the last state", ""];
  else if (lostAt) [text, look] = [`No connection since ${lostAt.toLocaleTimeString()}: ${guess()}`, "lost"];
  else if (isOver) [text, look] = ["All plots have ended", ""];
  else if (!all.length) [text, look] = ["Connected. No points yet", "live"];
  if (state.textContent !== text) state.textContent = text; // a screen reader says it once
  state.className = look;
  document.title = all.map(plot => plot.title).join(", ") || "Live plots";
}

function guess() {
  return delay < LONGEST_DELAY ? "trying again" : "the program has ended, or cannot be reached. This is its last state";
}

// --- plots and their figures ------------------------------------------------------------

function showWhole({plot: id, n, whole}) {
  const plot = plots.get(id) ?? newPlot(id);
  const names = Object.keys(whole.figures);
  for (const name of [...plot.figures.keys()].filter(name => !names.includes(name))) remove(plot.figures, name);
  Object.assign(plot, {n, title: whole.title});
  plot.section.querySelector("h2 span").textContent = whole.title;
  for (const name of names) setFigure(plot, name, whole.figures[name]);
  for (const name of names) plot.section.append(plot.figures.get(name).frame);
}

function change({plot: id, n, delta}) {
  const plot = plots.get(id);
  plot.n = n;
  for (const [name, {whole, ends}] of Object.entries(delta))
    if (whole) setFigure(plot, name, whole);
    else for (const [trace, kept, x, y] of ends) extend(plot.figures.get(name), trace, kept, x, y);
}

function setFigure(plot, name, figure) {
  const found = plot.figures.get(name) ?? newFigure(plot, name);
  found.data = figure.data.map(trace => ({...trace, x: numbers(trace.x), y: numbers(trace.y)}));
  const title = figure.layout?.title?.text ?? figure.layout?.title;
  found.layout = {uirevision: "asyncjobs", ...(title ? {} : {margin: BARE}), ...figure.layout};
  found.isMain = name === plot.title;
  found.caption.hidden = Boolean(title);
  found.isStale = true;
}

function extend(figure, number, kept, x, y) {
  const trace = figure.data[number];
  figure.data[number] = {...trace, x: joined(trace.x, kept, numbers(x)), y: joined(trace.y, kept, numbers(y))};
  figure.isStale = true;
}

function joined(old, kept, rest) {
  const all = new old.constructor(kept + rest.length);
  all.set(old.subarray(0, kept));
  all.set(rest, kept);
  return all;
}

function numbers(column) {
  if (!column?.bdata || column.shape) return column;
  const bytes = Uint8Array.from(atob(column.bdata), character => character.charCodeAt(0));
  return new NUMBERS[column.dtype](bytes.buffer);
}

function newPlot(id) {
  const section = document.createElement("section");
  section.innerHTML = "<h2><span></span><small>ended</small></h2>";
  const plot = {section, figures: new Map(), isOver: false, title: ""};
  plots.set(id, plot);
  return plot;
}

function newFigure(plot, name) {
  const frame = document.createElement("figure"), place = document.createElement("div");
  const caption = document.createElement("figcaption");
  place.className = "drawing";
  caption.textContent = name;
  frame.setAttribute("aria-label", name);
  frame.append(caption, place);
  const figure = {frame, caption, place};
  plot.figures.set(name, figure);
  return figure;
}

function arrange(sections) {
  // What stands where it belongs is not touched: it would lose the pointer that is over it.
  sections.forEach((section, n) => {
    if (main.children[n] !== section) main.insertBefore(section, main.children[n] ?? null);
  });
}

function drop(id) {
  const plot = plots.get(id);
  for (const name of [...plot.figures.keys()]) remove(plot.figures, name);
  plot.section.remove();
  plots.delete(id);
}

function remove(figures, name) {
  Plotly.purge(figures.get(name).place);
  figures.get(name).frame.remove();
  figures.delete(name);
}

// --- drawing ----------------------------------------------------------------------------

let drawnAt = 0, isDrawingSoon = false;

function drawSoon() {
  if (isDrawingSoon) return;
  isDrawingSoon = true;
  // A hidden page gets no frames: it draws when it is seen again.
  setTimeout(() => requestAnimationFrame(draw), Math.max(0, drawnAt + GAP - performance.now()));
}

function draw() {
  isDrawingSoon = false;
  drawnAt = performance.now();
  for (const plot of plots.values())
    for (const figure of plot.figures.values()) {
      if (!figure.isStale) continue;
      figure.isStale = false;
      const layout = figure.isMain ? headed(figure, figure.place.clientWidth) : figure.layout;
      Plotly.react(figure.place, figure.data, themed(layout), config);
    }
}

function drawAll() {
  for (const plot of plots.values()) for (const figure of plot.figures.values()) figure.isStale = true;
  drawSoon();
}

dark.addEventListener("change", drawAll);
connect();
