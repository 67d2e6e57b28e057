// The page: display, mouse and keyboard.
//
// `window.player` is an interface for tests and for the browser's console:
//   await player.ready               until all sounds are computed
//   await player.soundAt(x, y)       samples of the cell at x, y, shares of the picture in [0, 1)
//   player.regionSound(k)            samples of region k; k = number of regions for the rest
//   player.mixture()                 samples of the mixture
//   player.sampleRate                Hz
//   player.setGain(k, gain)          gain from 0 to 1
//   player.setMuted(k, muted), player.setSolo(k, solo)
//   await player.select(row, column) select a cell to play; player.selectMixture() for the mixture
//   player.play(), player.pause()
//   player.level()                   root mean square of the output, 0 to 1
//   player.drift()                   seconds by which the sound is ahead of the video
//   player.selected()                {row, column, samples}; row and column null for the mixture

const find = (id) => document.getElementById(id);
const video = document.querySelector("#picture video");
const picture = find("picture");
const dark = matchMedia("(prefers-color-scheme: dark)");

const LEGENDS = {
  heat: "Bright: places to which the model assigns much of the sound.",
  moving: "Bright: places to which the model assigns much of the sound at this moment.",
  colours: "Similar colours: places to which the model assigns similar sounds.",
  none: "",
};

let clip;
let sound;
let playback;
let seconds;
let cards = [];
let now;
let selected = null;
let cursor = { row: 0, column: 0 };
let selections = 0;

async function begin() {
  const metadata = videoMetadata();
  clip = await readClip();
  seconds = (await metadata) || clip.audio.length / clip.sampleRate;
  sound = new Sound(clip);
  playback = new Playback(video, clip.sampleRate, seconds);
  cursor = { row: Math.floor(clip.height / 2), column: Math.floor(clip.width / 2) };
  picture.setAttribute(
    "aria-label",
    `Picture, ${clip.height} rows of ${clip.width} places. ` +
      "Arrow keys move the cursor, Enter plays a place.",
  );
  now = plotOf(find("now"), () => "--ink");
  await makeCards();
  describe();
  drawOutlines(find("marks"), clip);
  numberRegions();
  addListeners();
  showMixture();
  draw();
}

// The length of the video in seconds, or undefined if the browser cannot play it.
function videoMetadata() {
  return new Promise((resolve) => {
    const failed = () => {
      note("This browser cannot play the video of this page.");
      resolve();
    };
    const loaded = () => {
      // The style limits the height of the picture by it.
      picture.style.setProperty("--aspect", video.videoWidth / video.videoHeight || 1);
      resolve(video.duration);
    };
    if (video.error) failed();
    else if (video.readyState >= 1) loaded();
    video.addEventListener("loadedmetadata", loaded);
    video.addEventListener("error", failed);
  });
}

function note(text) {
  const element = find("note");
  element.hidden = false;
  element.textContent = [element.textContent, text].join(" ").trim();
}

function describe() {
  if (clip.peak === 0) note("This clip is silent.");
  else if (clip.regions.length === 0) note("No region with sound was found in this clip.");
  find("about").textContent =
    `This page computes all sounds from ${clip.channels} component maps of the mixture and the ` +
    `visual features of ${clip.height} \u00d7 ${clip.width} places` +
    (clip.motion
      ? `, and from ${clip.motion.maps} maps of the mixture that are ` +
        "weighted by the motion of each place. "
      : ". ") +
    (clip.rule
      ? "The sounds of the videos are those that were evaluated, which may overlap; the rest is the " +
        "mixture minus their sum. "
      : "The sounds of the regions and the rest sum to the mixture. ") +
    "The sounds of single places overlap. " +
    `Spectrograms show ${LOWEST_HZ} Hz to ${(clip.sampleRate / 2000).toFixed(1)} kHz over a ` +
    `range of ${RANGE_DB} dB. ` +
    "Source: Zhao et al., The Sound of Pixels, ECCV 2018.";
}

// Cards

async function makeCards() {
  const masks = await sound.regionMasks();
  const rest = { name: clip.regions.length ? "Rest" : "Whole sound", rest: true };
  for (const [k, region] of [...clip.regions, rest].entries()) {
    const card = makeCard(k, region);
    card.samples = sound.sound(masks[k]);
    card.levels = spectrogramLevels(sound, masks[k]);
    cards.push(card);
    await yieldToPage();
  }
  for (const card of cards) card.track.audio = card.samples;
  const last = cards.at(-1);
  last.track.audio = withEnd(last.samples, clip.audio);
  playback.setTracks(cards.map((card) => card.track));
}

// Samples after the last whole frame are added to the rest.
function withEnd(samples, audio) {
  const whole = Float32Array.from(audio);
  whole.set(samples);
  return whole;
}

function makeCard(k, region) {
  const element = find("card").content.firstElementChild.cloneNode(true);
  const get = (selector) => element.querySelector(selector);
  get(".number").textContent = region.rest ? "0" : k + 1;
  if (!region.rest) colourNumber(get(".number"), region.colour);
  get(".name").textContent = region.name;
  const card = {
    element,
    region,
    track: { gain: 1, muted: false, solo: false },
    mute: get(".mute"),
    solo: get(".solo"),
    slider: get(".volume input"),
    output: get("output"),
    ...plotOf(element, () => region.colour ?? "--quiet"),
  };
  card.mute.setAttribute("aria-label", `Mute ${region.name}`);
  card.solo.setAttribute("aria-label", `Solo ${region.name}`);
  card.slider.setAttribute("aria-label", `Volume of ${region.name}`);
  card.mute.addEventListener("click", () => setMuted(k, !card.track.muted));
  card.solo.addEventListener("click", () => setSolo(k, !card.track.solo));
  card.slider.addEventListener("input", () => setGain(k, card.slider.valueAsNumber));
  get(".title").append(saveButton(region, () => card.samples));
  find("cards").append(element);
  return card;
}

function saveButton(region, samples) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "WAV";
  button.setAttribute("aria-label", `Save ${region.name} as WAV`);
  button.addEventListener("click", () => save(samples(), region.name));
  return button;
}

function save(samples, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(wav(samples, clip.sampleRate));
  link.download = `${name.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "sound"}.wav`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function plotOf(element, colour) {
  const plot = element.querySelector(".plot");
  const [wave, spectrum] = ["wave", "spectrum"].map((name) => {
    const canvas = document.createElement("canvas");
    canvas.className = name;
    return canvas;
  });
  const playhead = document.createElement("div");
  playhead.className = "playhead";
  plot.setAttribute("aria-hidden", "true");
  plot.append(wave, spectrum, playhead);
  plot.addEventListener("click", (event) => {
    video.currentTime = (event.offsetX / plot.clientWidth) * seconds;
  });
  return { wave, spectrum, playhead, colour };
}

function drawPlot({ wave, spectrum, samples, levels, colour }) {
  const style = getComputedStyle(document.documentElement);
  const named = colour();
  const wanted = named.startsWith("--") ? style.getPropertyValue(named).trim() : named;
  drawWave(wave, samples, clip.peak, wanted);
  drawSpectrogram(spectrum, levels, clip.frames, channels(style.getPropertyValue("--ink").trim()));
}

// Black or white, whichever has more contrast.
function colourNumber(element, colour) {
  const [r, g, b] = channels(colour);
  element.style.background = colour;
  element.style.color = 0.299 * r + 0.587 * g + 0.114 * b > 115 ? "#000" : "#fff";
}

function numberRegions() {
  clip.regions.forEach((region, k) => {
    if (region.cells.length === 0) return;
    const number = document.createElement("span");
    number.className = "number";
    number.textContent = k + 1;
    colourNumber(number, region.colour);
    number.style.top = `${(100 * Math.floor(region.cells[0] / clip.width)) / clip.height}%`;
    number.style.left = `${(100 * (region.cells[0] % clip.width)) / clip.width}%`;
    find("numbers").append(number);
  });
}

// Gains

function setGain(k, gain) {
  const { track, slider, output } = cards[k];
  track.gain = Math.min(Math.max(gain, 0), 1);
  slider.value = track.gain;
  output.textContent = `${Math.round(100 * track.gain)}%`;
  showGains();
}

function setMuted(k, muted) {
  cards[k].track.muted = muted;
  showGains();
}

function setSolo(k, solo) {
  cards[k].track.solo = solo;
  showGains();
}

// Changing the volume of a region selects the mixture, so that the change is audible.
function showGains() {
  selectMixture();
  for (const { element, track, mute, solo } of cards) {
    mute.setAttribute("aria-pressed", track.muted);
    solo.setAttribute("aria-pressed", track.solo);
    element.classList.toggle("inaudible", playback.effectiveGain(track) === 0);
  }
  playback.balance();
  nameMixture();
}

function nameMixture() {
  const changed = cards.some(({ track }) => playback.effectiveGain(track) !== 1);
  find("playing").textContent = changed ? "Remix of the regions" : "Mixture";
}

function setSilenced(silenced) {
  playback.setSilenced(silenced);
  find("silence").setAttribute("aria-pressed", silenced);
}

// Places

async function select(row, column) {
  const number = ++selections;
  cursor = { row, column };
  const mask = await sound.cellMask(row, column);
  // Another place was selected in the meantime.
  if (number !== selections) return;
  selected = { row, column };
  now.samples = sound.sound(mask);
  now.levels = spectrogramLevels(sound, mask);
  playback.setPlace(now.samples);
  find("playing").textContent =
    `Place in row ${row + 1}, column ${column + 1} of ${clip.height} \u00d7 ${clip.width}`;
  find("mixture").disabled = false;
  find("save").textContent = "Save this place";
  showCell(find("cursor"), selected);
  drawPlot(now);
}

function selectMixture() {
  selections++;
  if (selected) showMixture();
}

function showMixture() {
  selected = null;
  playback.setPlace(null);
  now.samples = clip.audio;
  now.levels = spectrogramLevels(sound, null);
  find("mixture").disabled = true;
  find("save").disabled = false;
  find("save").textContent = "Save the mixture";
  find("cursor").hidden = !picture.matches(":focus-visible");
  nameMixture();
  drawPlot(now);
}

function showCell(element, { row, column }) {
  element.hidden = false;
  element.style.left = `${(100 * column) / clip.width}%`;
  element.style.top = `${(100 * row) / clip.height}%`;
  element.style.width = `${100 / clip.width}%`;
  element.style.height = `${100 / clip.height}%`;
}

function cellAt(x, y) {
  const index = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);
  return { row: index(y, clip.height), column: index(x, clip.width) };
}

function cellUnder(event) {
  const box = picture.getBoundingClientRect();
  return cellAt((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}

function moveCursor(rows, columns) {
  if (!find("cursor").hidden) {
    cursor = {
      row: Math.min(Math.max(cursor.row + rows, 0), clip.height - 1),
      column: Math.min(Math.max(cursor.column + columns, 0), clip.width - 1),
    };
  }
  showCell(find("cursor"), cursor);
}

// Time

function play() {
  playback.open();
  return video.play().catch(() => {});
}

function toggle() {
  if (video.paused) play();
  else video.pause();
}

function showTime() {
  const time = video.currentTime;
  find("seek").value = time;
  find("time").textContent = `${time.toFixed(1)} / ${seconds.toFixed(1)} s`;
  const share = `translateX(${(100 * Math.min(time, seconds)) / seconds}%)`;
  for (const { playhead } of [now, ...cards]) playhead.style.transform = share;
  if (overlay() === "heat") drawHeat(find("overlay"), clip, frameNow());
}

function frameNow() {
  const frame = Math.round((video.currentTime * clip.sampleRate) / clip.hop);
  return Math.min(frame, clip.frames - 1);
}

// Runs only while the video plays.
function tick() {
  showTime();
  playback.follow();
  if (!video.paused) requestAnimationFrame(tick);
}

// Overlay

function overlay() {
  return document.querySelector("input[name=overlay]:checked").value;
}

function showOverlay() {
  const chosen = overlay();
  const canvas = find("overlay");
  canvas.hidden = chosen === "none";
  canvas.classList.toggle("cells", chosen === "colours");
  const legend = chosen === "heat" && clip.motion ? "moving" : chosen;
  find("legend").textContent = LEGENDS[legend];
  if (chosen === "heat") drawHeat(canvas, clip, frameNow());
  if (chosen === "colours") drawColours(canvas, clip);
}

function nextOverlay() {
  const choices = [...document.querySelectorAll("input[name=overlay]")];
  const at = choices.findIndex((choice) => choice.checked);
  choices[(at + 1) % choices.length].checked = true;
  showOverlay();
}

function showOutlines() {
  const hidden = !find("outlines").checked;
  find("marks").toggleAttribute("hidden", hidden);
  find("numbers").hidden = hidden;
}

function draw() {
  cards.forEach(drawPlot);
  drawPlot(now);
  showOverlay();
  showTime();
}

// Mouse and keys

function addListeners() {
  find("seek").max = seconds;
  find("play").addEventListener("click", toggle);
  find("seek").addEventListener("input", (event) => {
    video.currentTime = event.target.valueAsNumber;
  });
  find("loop").addEventListener("change", (event) => {
    video.loop = event.target.checked;
    playback.follow();
  });
  find("silence").addEventListener("click", () => setSilenced(!playback.silenced));
  find("mixture").addEventListener("click", () => {
    selectMixture();
    picture.focus();
  });
  find("save").addEventListener("click", () => {
    const place = selected ? `row ${selected.row + 1} column ${selected.column + 1}` : "mixture";
    save(now.samples, `${clip.title} ${place}`);
  });
  find("overlays").addEventListener("change", () => {
    showOverlay();
    showOutlines();
  });
  dark.addEventListener("change", draw);
  for (const event of ["play", "pause"]) video.addEventListener(event, showPlaying);
  for (const event of ["seeking", "seeked", "ended"]) video.addEventListener(event, showTime);
  addPictureListeners();
  addEventListener("keydown", onKey);
}

function showPlaying() {
  find("play").textContent = video.paused ? "Play" : "Pause";
  if (!video.paused) requestAnimationFrame(tick);
}

// Dragging with a mouse selects the places on its way; a finger scrolls the page.
function addPictureListeners() {
  let last = null;
  const same = (place) => last && last.row === place.row && last.column === place.column;
  const point = (event) => {
    last = cellUnder(event);
    select(last.row, last.column);
    play();
  };
  picture.addEventListener("click", (event) => {
    if (same(cellUnder(event))) play();
    else point(event);
    last = null;
  });
  picture.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) point(event);
  });
  picture.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return;
    showCell(find("hover"), cellUnder(event));
    if (event.buttons === 1 && last && !same(cellUnder(event))) point(event);
  });
  picture.addEventListener("pointerleave", () => {
    find("hover").hidden = true;
    last = null;
  });
  picture.addEventListener("focus", () => {
    if (picture.matches(":focus-visible")) showCell(find("cursor"), cursor);
  });
  picture.addEventListener("blur", () => {
    find("cursor").hidden = selected === null;
    if (selected) showCell(find("cursor"), (cursor = { ...selected }));
  });
}

const ARROWS = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};

// Keys that a focused control handles itself are left to it.
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const free = !event.target.closest?.("button, a, input");
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  if (digit) {
    const k = digit[1] === "0" ? cards.length - 1 : Number(digit[1]) - 1;
    if (k >= cards.length || (k === cards.length - 1 && digit[1] !== "0")) return;
    if (event.shiftKey) setMuted(k, !cards[k].track.muted);
    else setSolo(k, !cards[k].track.solo);
  } else if (event.key === "Escape") selectMixture();
  else if (event.key === "m" || event.key === "M") setSilenced(!playback.silenced);
  else if (event.key === "l" || event.key === "L") find("loop").click();
  else if (event.key === "o" || event.key === "O") nextOverlay();
  else if (event.key === " " && (free || event.target.type === "range")) toggle();
  else if (event.key === "Enter" && free) {
    if (find("cursor").hidden) return;
    select(cursor.row, cursor.column);
    play();
  } else if (event.key in ARROWS && free) moveCursor(...ARROWS[event.key]);
  else return;
  event.preventDefault();
}

window.pageRuns = true;
window.player = {
  ready: begin().catch((error) => {
    const damaged = error.message === DAMAGED;
    find("playing").textContent = damaged ? "Damaged" : "This page does not work in this browser";
    note(error.message);
    throw error;
  }),
  soundAt: async (x, y) => {
    const { row, column } = cellAt(x, y);
    return sound.sound(await sound.cellMask(row, column));
  },
  regionSound: (k) => cards[k].samples,
  mixture: () => clip.audio,
  get sampleRate() {
    return clip.sampleRate;
  },
  setGain,
  setMuted,
  setSolo,
  select,
  selectMixture,
  play,
  pause: () => video.pause(),
  level: () => playback.level(),
  drift: () => playback.drift(),
  selected: () => ({ row: null, column: null, ...selected, samples: now.samples }),
};
