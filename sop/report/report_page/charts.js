// The charts: drawn one after the other once the page can be seen and used.

async function drawCharts({ charts, theme, library }, opened) {
  const places = [...document.querySelectorAll("[data-chart]")];
  for (const place of places) {
    // What comes below should stay where it is when the chart arrives.
    place.style.minHeight = `${charts[place.dataset.chart].height + 40}px`;
  }
  if (!places.length) return;
  await painted();
  if (!(await load(library))) {
    for (const place of places) say(place, `The file ${library}, which draws this, is not there.`);
    return;
  }
  for (const place of places) {
    await breathe();
    await draw(place, charts[place.dataset.chart], theme, opened);
  }
}

// The library is large: it is asked for last. Whether it came.
function load(library) {
  return new Promise((resolve) => {
    const script = make("script", { src: library });
    script.addEventListener("load", () => resolve(true));
    script.addEventListener("error", () => resolve(false));
    document.body.append(script);
  });
}

async function draw(place, spec, config, opened) {
  try {
    const { view } = await vegaEmbed(place, spec, {
      mode: "vega-lite",
      config,
      renderer: "svg",
      actions: false,
      // The page's policy lets no text become code, and no style come from a script.
      ast: true,
      defaultStyle: false,
      tooltip: (_, event, item, value) => showTip(event, value),
    });
    view.addEventListener("click", (_, item) => {
      if (item?.datum?.mixture !== undefined) opened(item.datum.mixture);
    });
  } catch (error) {
    say(place, `This chart could not be drawn: ${error.message}`);
  }
}

function say(place, text) {
  place.replaceChildren(make("p", { class: "empty" }, text));
}

function showTip(event, value) {
  const tip = document.getElementById("tip");
  tip.hidden = !value;
  if (!value) return;
  const rows = Object.entries(value).map(([name, text]) =>
    make("div", {}, make("span", {}, name), make("span", {}, String(text).replace(/^-/, "\u2212"))),
  );
  tip.replaceChildren(...rows);
  const right = Math.max(8, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.min(event.clientX + 14, right)}px`;
  const below = event.clientY + 14;
  const fits = below + tip.offsetHeight < innerHeight;
  tip.style.top = `${fits ? below : event.clientY - tip.offsetHeight - 8}px`;
}

// Until the page was drawn once; a page in the background is not.
function painted() {
  if (document.hidden) return breathe();
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
}

// Let the page answer before the next piece of work.
function breathe() {
  return new Promise((resolve) => setTimeout(resolve));
}
