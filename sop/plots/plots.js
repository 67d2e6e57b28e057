// Draws what DVC wrote into the element `written`: a division for each plot, which contains either
// pictures, or a script with one Vega-Lite specification: `var spec = {…}; vegaEmbed(…)`.
//
// `await plots` is for tests: it resolves to the number of plots when all are drawn.

async function drawPlots() {
  const written = document.getElementById("written").content;
  const shown = document.getElementById("plots");
  for (const plot of written.querySelectorAll("div[id]")) {
    const script = plot.querySelector("script");
    const place = document.createElement("div");
    shown.append(place);
    if (script) await drawSpec(place, plot.id, script.textContent);
    else place.append(plot);
  }
  return shown.children.length;
}

async function drawSpec(place, name, text) {
  try {
    const spec = JSON.parse(text.slice(text.indexOf("{"), text.lastIndexOf("};") + 1));
    // DVC's templates name version 5, of which they use nothing that later ones lack.
    delete spec.$schema;
    await vegaEmbed(place, spec, {
      mode: "vega-lite",
      renderer: "svg",
      // The content security policy forbids eval, and the editor is on the network.
      ast: true,
      actions: { export: true, source: true, compiled: false, editor: false },
    });
  } catch (error) {
    place.textContent = `${name} cannot be drawn: ${error.message}`;
  }
}

window.plots = drawPlots();
