"use strict";
// Draws the charts of the report into their places, in colours that follow the page (the charts' ink is currentColor,
// so that neither the dark theme nor paper needs another drawing), at a width that follows the window.
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const narrow = 640; // pixels: below, one panel a row

  // ------------------------------------------------------------------------------------------------ one chart

  // Pictures, whose panels keep their shape, stand side by side on a telephone, too.
  function columnsOf(chart) {
    const room = chart.place.clientWidth;
    const fit = chart.aspect ? Math.floor(room / 130) : room < narrow ? 1 : chart.perRow;
    return Math.max(1, Math.min(chart.panels, chart.perRow, fit));
  }

  async function draw(chart) {
    chart.columns = columnsOf(chart);
    const spec = structuredClone(chart.spec);
    spec.columns = chart.columns;
    // In one row a legend would be wider than a telephone, and the panels would give way to it.
    const room = chart.place.clientWidth;
    if (room < narrow) spec.config.legend = { ...spec.config.legend, columns: room < narrow / 1.6 ? 1 : 2 };
    spec.spec.width = Math.max(chart.aspect ? 60 : 120, Math.round(room / chart.columns) - (chart.aspect ? 22 : 70));
    if (chart.aspect) spec.spec.height = Math.round(spec.spec.width * chart.aspect);
    chart.result?.finalize();
    chart.result = await vegaEmbed(chart.place, spec, {
      actions: false,
      defaultStyle: false,
      ast: true, // expressions are interpreted, not compiled: the page's security policy allows no eval
      renderer: "svg",
      tooltip: { disableDefaultStyle: true, theme: "custom" },
    });
    await fit(chart);
    for (const name of ["role", "aria-roledescription", "aria-label"]) chart.place.setAttribute(name, chart[name]);
    chart.place.dataset.state = "drawn";
  }

  // Axes and labels take what they need, which only a drawing shows; the panels get the rest.
  async function fit(chart) {
    for (let turn = 0; turn < 2; turn++) {
      const over = parseFloat(chart.place.querySelector("svg").getAttribute("width")) - chart.place.clientWidth;
      const width = chart.result.view.signal("child_width");
      const wanted = Math.max(chart.aspect ? 60 : 120, Math.floor(width - over / chart.columns));
      if (Math.abs(wanted - width) < 2) return;
      const view = chart.result.view.signal("child_width", wanted);
      if (chart.aspect) view.signal("child_height", Math.round(wanted * chart.aspect));
      await view.resize().runAsync();
    }
  }

  async function resized(chart) {
    await (columnsOf(chart) === chart.columns ? fit(chart) : draw(chart));
  }

  // The wheel scrolls the page until the reader has clicked into a chart, and again when the pointer has left it.
  function guardWheel(place) {
    let inside = false;
    place.addEventListener("pointerdown", () => { inside = true; });
    place.addEventListener("pointerleave", () => { inside = false; });
    place.addEventListener("wheel", (event) => { if (!inside) event.stopPropagation(); }, { capture: true });
  }

  // Vega leaves out of a file what the chart is about: its name, and what it says in words.
  function described(chart, svg) {
    const file = new DOMParser().parseFromString(svg, "image/svg+xml");
    const name = chart.place.parentElement.querySelector(".name").textContent;
    for (const [tag, text] of [["desc", chart["aria-label"]], ["title", name]]) {
      const told = file.createElementNS("http://www.w3.org/2000/svg", tag);
      told.textContent = text;
      file.documentElement.prepend(told);
    }
    file.documentElement.setAttribute("role", "img");
    return new XMLSerializer().serializeToString(file);
  }

  async function save(chart, type) {
    const view = chart.result.view.background("white"); // outside this page ink is black
    const link = document.createElement("a");
    link.href = type === "png" ? await view.toImageURL("png", 2)
      : "data:image/svg+xml;charset=utf-8," + encodeURIComponent(described(chart, await view.toSVG()));
    view.background(null);
    link.download = `${chart.place.id}.${type}`;
    link.click();
  }

  function tools(chart) {
    const row = chart.place.parentElement.querySelector(".tools");
    for (const type of ["svg", "png"]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `Save as ${type.toUpperCase()}`;
      button.addEventListener("click", () => save(chart, type));
      row.append(button);
    }
    row.hidden = false;
  }

  async function start(chart) {
    chart.place = document.getElementById(chart.id);
    chart.perRow = chart.spec.columns;
    chart.aspect = chart.spec.usermeta?.aspect; // height over width
    for (const name of ["role", "aria-roledescription", "aria-label"]) chart[name] = chart.place.getAttribute(name) ?? "";
    guardWheel(chart.place);
    try {
      await draw(chart);
      tools(chart);
    } catch (error) {
      chart.place.dataset.state = "failed";
      chart.place.textContent = "This chart could not be drawn; its numbers are in the table below.";
      throw error;
    }
    let width = chart.place.clientWidth;
    let waiting = 0;
    new ResizeObserver(() => {
      if (chart.place.clientWidth === width) return;
      width = chart.place.clientWidth;
      clearTimeout(waiting);
      waiting = setTimeout(() => resized(chart), 150);
    }).observe(chart.place);
  }

  // ------------------------------------------------------------------------------------------------- the page

  const toggle = document.getElementById("theme");
  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const name = () => { toggle.textContent = dark() ? "Light page" : "Dark page"; };
  toggle.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    name();
  });
  name();
  toggle.hidden = false;
  document.getElementById("hint").hidden = charts.length === 0;

  Promise.all(charts.map(start)).then(() => { document.documentElement.dataset.state = "drawn"; });
})();
