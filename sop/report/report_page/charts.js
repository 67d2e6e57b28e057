// The charts: drawn one after the other, once the page is visible and usable.

async function drawCharts({ charts, theme, library }, openMixture) {
  const places = [...document.querySelectorAll("[data-chart]")];
  for (const place of places) {
    // Reserve the height, so that the content below does not move when the chart is drawn.
    place.style.minHeight = `${charts[place.dataset.chart].height + 40}px`;
  }
  if (!places.length) return;
  await firstPaint();
  if (!(await load(library))) {
    for (const place of places) showMessage(place, `The chart library ${library} is missing.`);
    return;
  }
  for (const place of places) {
    await nextTask();
    await draw(place, charts[place.dataset.chart], theme, openMixture);
  }
}

// Loads the library, which is large and therefore comes last. Resolves to whether that worked.
function load(library) {
  return new Promise((resolve) => {
    const script = make("script", { src: library });
    script.addEventListener("load", () => resolve(true));
    script.addEventListener("error", () => resolve(false));
    document.body.append(script);
  });
}

async function draw(place, spec, config, openMixture) {
  try {
    const { view } = await vegaEmbed(place, spec, {
      mode: "vega-lite",
      config,
      renderer: "svg",
      actions: false,
      // The content security policy forbids eval and styles from scripts.
      ast: true,
      defaultStyle: false,
      tooltip: (_, event, item, value) => showValues(event, value),
    });
    view.addEventListener("click", (_, item) => {
      if (item?.datum?.mixture !== undefined) openMixture(item.datum.mixture);
    });
  } catch (error) {
    showMessage(place, `This chart could not be drawn: ${error.message}`);
  }
}

function showMessage(place, text) {
  place.replaceChildren(make("p", { class: "empty" }, text));
}

function showValues(event, values) {
  if (!values) {
    hideTip();
    return;
  }
  const rows = Object.entries(values).map(([name, text]) =>
    make(
      "div",
      { class: "value" },
      make("span", {}, name),
      make("span", {}, String(text).replace(/^-/, "\u2212")),
    ),
  );
  showTip(event.clientX + 14, event.clientY + 14, ...rows);
}

// Resolves after the first paint; at once for a page in the background, which is not painted.
function firstPaint() {
  if (document.hidden) return nextTask();
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
}

// Lets the page handle events before the next task.
function nextTask() {
  return new Promise((resolve) => setTimeout(resolve));
}
