// One plot in a notebook. The kernel pushes whole editions and is asked for nothing: while a cell runs, it would not
// answer. The last edition is part of the model, so a view that opens later has it at once.

const CONFIG = {
  displaylogo: false, responsive: true, showSendToCloud: false, modeBarButtonsToRemove: ["lasso2d", "select2d"],
};
// What tells of the theme in JupyterLab and in VS Code.
const THEME = ["class", "data-jp-theme-light", "data-vscode-theme-kind"];

/** plotly.js: the page's own, or one for all plots of the page. */
function plotly({ address, integrity }) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  window.asyncjobsPlotly ??= new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), { src: address, integrity, crossOrigin: "anonymous" });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      script.remove();
      delete window.asyncjobsPlotly; // the next edition tries again
      reject(new Error(`${address} could not be loaded; when the plot is closed, its figure is shown without it`));
    };
    document.head.append(script);
  });
  return window.asyncjobsPlotly;
}

/** The layout in the colours of its surroundings, whatever theme they have. */
function themed(layout, surroundings) {
  const ink = getComputedStyle(surroundings).color;
  const [red, green, blue] = ink.match(/[\d.]+/g).map(Number);
  const rule = `rgba(${red},${green},${blue},0.14)`, isDark = red + green + blue > 382;
  const look = { uirevision: "asyncjobs", ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
  look.font = { ...layout.font, color: ink };
  look.hoverlabel = { bgcolor: isDark ? "#22303c" : "#fff", font: { color: isDark ? "#fff" : "#22303c" } };
  for (const axis of new Set([...Object.keys(layout).filter(key => /^[xy]axis/.test(key)), "xaxis", "yaxis"]))
    look[axis] = { ...layout[axis], gridcolor: rule, linecolor: rule };
  return look;
}

function render({ model, el }) {
  const text = document.createElement("p");
  const places = new Map();
  let isAsked = false, isOver = false, turn = Promise.resolve();
  text.textContent = "A plot: it waits for the first points.";
  el.append(text);

  function place(name) {
    if (!places.has(name)) {
      const made = document.createElement("div");
      made.setAttribute("aria-label", name);
      places.set(name, made);
      el.append(made);
    }
    return places.get(name);
  }
  async function draw() {
    const edition = model.get("edition");
    if (!edition || isOver) return;
    const { react } = await plotly(model.get("source"));
    for (const [name, { data, layout = {} }] of Object.entries(JSON.parse(edition).figures))
      await react(place(name), data, themed(layout, el), CONFIG);
    text.hidden = true;
  }
  function complain(error) {
    text.textContent = `asyncjobs: ${error.message}`;
    text.hidden = false;
  }
  // Once a frame at most, the newest only, and not while nobody sees the page.
  function ask() {
    if (isAsked || isOver) return;
    isAsked = true;
    requestAnimationFrame(() => {
      isAsked = false;
      if (el.isConnected) turn = turn.then(draw).catch(complain);
      else ask();
    });
  }

  const dark = matchMedia("(prefers-color-scheme: dark)"), body = new MutationObserver(ask);
  model.on("change:edition", ask);
  dark.addEventListener("change", ask);
  body.observe(document.body, { attributes: true, attributeFilter: THEME });
  ask();
  return () => {
    isOver = true;
    model.off("change:edition", ask);
    dark.removeEventListener("change", ask);
    body.disconnect();
    if (window.Plotly) places.forEach(made => window.Plotly.purge(made));
  };
}

export default { render };
