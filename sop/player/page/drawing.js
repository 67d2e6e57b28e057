// Drawing: heat and colours over the video, outlines of regions, waveforms and spectrograms.

const SVG = "http://www.w3.org/2000/svg";
const SPECTRUM_ROWS = 96;
const LOWEST_HZ = 60;
const RANGE_DB = 60;

// Steps of matplotlib's inferno, which is ordered for any colour vision and in grey.
const HEAT = [
  [0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85],
  [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164],
];

function heatColour(value) {
  const at = Math.min(Math.max(value, 0), 1) * (HEAT.length - 1);
  const lower = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[lower].map((channel, i) => channel + (at - lower) * (HEAT[lower + 1][i] - channel));
}

// Energy of each cell at a spectrogram frame, scaled to 0 to 1 over the whole clip.
function heatAt(clip, frame) {
  const cells = clip.height * clip.width;
  const { least, span } = (clip.heatRange ??= range(clip.heat));
  const shares = heatShares(clip, frame);
  return Float32Array.from({ length: cells }, (_, cell) => {
    let energy = 0;
    for (const [map, share] of shares) energy += share * clip.heat[map * cells + cell];
    return span > 0 ? (energy - least) / span : 0;
  });
}

// The heat maps that are shown at a frame, and the share of each: the windows or, with motion, the
// two nearest of the maps of equal parts of the clip.
function heatShares(clip, frame) {
  if (!clip.motion) {
    return Array.from({ length: clip.windows }, (_, w) => [w, clip.crossfade[w * clip.frames + frame]]);
  }
  const last = clip.motion.heats - 1;
  const at = Math.min(Math.max(((frame + 0.5) / clip.frames) * (last + 1) - 0.5, 0), last);
  const lower = Math.floor(at);
  return [[lower, 1 - (at - lower)], [Math.min(lower + 1, last), at - lower]];
}

function range(values) {
  let least = Infinity;
  let most = -Infinity;
  for (const value of values) {
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  return { least, span: most - least };
}

// One canvas pixel for each cell; the browser scales it to the video.
function drawHeat(canvas, clip, frame) {
  const heat = heatAt(clip, frame);
  paint(canvas, clip.width, clip.height, (cell) => [
    ...heatColour(heat[cell]),
    clip.heatRange.span > 0 ? 50 + 150 * heat[cell] : 0,
  ]);
}

function drawColours(canvas, clip) {
  paint(canvas, clip.width, clip.height, (cell) => [
    ...clip.colours.subarray(3 * cell, 3 * cell + 3),
    190,
  ]);
}

function paint(canvas, width, height, colour) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set(colour(i), 4 * i);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// The outline of a set of cells as an SVG path, in units of cells.
function outline(cells, width) {
  const inside = new Set(cells);
  const has = (row, column) => column >= 0 && column < width && inside.has(row * width + column);
  return cells.map((cell) => {
    const row = Math.floor(cell / width);
    const column = cell % width;
    return [
      has(row - 1, column) ? "" : `M${column} ${row}h1`,
      has(row + 1, column) ? "" : `M${column} ${row + 1}h1`,
      has(row, column - 1) ? "" : `M${column} ${row}v1`,
      has(row, column + 1) ? "" : `M${column + 1} ${row}v1`,
    ].join("");
  }).join("");
}

// Each line has a dark line below it, so that it is visible on any picture.
function drawOutlines(svg, clip) {
  svg.setAttribute("viewBox", `0 0 ${clip.width} ${clip.height}`);
  for (const region of clip.regions) {
    const d = outline(region.cells, clip.width);
    const line = shape("path", { d, class: "line" });
    line.style.stroke = region.colour;
    svg.append(shape("path", { d, class: "casing" }), line);
  }
}

// Levels of a spectrogram: SPECTRUM_ROWS log-spaced bands by frames, 0 to 255 over RANGE_DB below
// the loudest bin of the clip. mask: (M, F), or null for the mixture.
function spectrogramLevels(sound, mask) {
  const { frames, bins, sampleRate } = sound.clip;
  const { re, im } = sound.spectrum;
  sound.loudest ??= re.reduce((most, x, i) => Math.max(most, x * x + im[i] * im[i]), 0);
  const edges = bandEdges(bins, sampleRate);
  const levels = new Uint8Array(SPECTRUM_ROWS * frames);
  if (sound.loudest === 0) return levels;
  for (let m = 0; m < frames; m++) {
    for (let row = 0; row < SPECTRUM_ROWS; row++) {
      let power = 0;
      for (let k = edges[row]; k < Math.max(edges[row + 1], edges[row] + 1); k++) {
        const at = m * bins + k;
        const weight = mask ? mask[at] * mask[at] : 1;
        power = Math.max(power, weight * (re[at] * re[at] + im[at] * im[at]));
      }
      const db = 10 * Math.log10(power / sound.loudest + 1e-12);
      levels[row * frames + m] = 255 * Math.max(0, 1 + db / RANGE_DB);
    }
  }
  return levels;
}

// The first bin of each band, and the end of the last.
function bandEdges(bins, sampleRate) {
  const highest = sampleRate / 2;
  return Array.from({ length: SPECTRUM_ROWS + 1 }, (_, row) => {
    const hz = LOWEST_HZ * (highest / LOWEST_HZ) ** (row / SPECTRUM_ROWS);
    return Math.min(Math.round((hz / highest) * (bins - 1)), bins - 1);
  });
}

// Text colour on the background of the page, low frequencies at the bottom.
function drawSpectrogram(canvas, levels, frames, ink) {
  paint(canvas, frames, SPECTRUM_ROWS, (i) => {
    const row = SPECTRUM_ROWS - 1 - Math.floor(i / frames);
    return [...ink, levels[row * frames + (i % frames)]];
  });
}

// peak: amplitude that fills the height.
function drawWave(canvas, audio, peak, colour) {
  const columns = 600;
  const height = 80;
  canvas.width = columns;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.fillStyle = colour;
  for (let column = 0; column < columns; column++) {
    const begin = Math.floor((column * audio.length) / columns);
    const end = Math.floor(((column + 1) * audio.length) / columns);
    const { least, span } = range(audio.subarray(begin, end));
    const scale = peak > 0 ? height / 2 / peak : 0;
    const top = height / 2 - (least + span) * scale;
    context.fillRect(column, Math.min(top, height / 2 - 0.5), 1, Math.max(span * scale, 1));
  }
}

// "#e69f00" to [230, 159, 0]; "rgb(1, 2, 3)" to [1, 2, 3].
function channels(colour) {
  if (colour.startsWith("#")) {
    return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  }
  return colour.match(/\d+/g).slice(0, 3).map(Number);
}
