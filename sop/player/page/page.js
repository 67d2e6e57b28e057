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
//   player.compare()                 the mixture instead of the choice, or the choice again
//   player.repeat(begin, end)        mark a stretch, seconds; player.repeatAll() for the whole clip
//   player.play(), player.pause()
//   player.level()                   root mean square of the output, 0 to 1
//   player.drift()                   seconds by which the sound is ahead of the video
//   player.selected()                {row, column, samples}; row and column null for the mixture
//   player.heard()                   samples of what is heard

const find = (id) => document.getElementById(id);
const video = document.querySelector("#picture video");
const picture = find("picture");
const dark = matchMedia("(prefers-color-scheme: dark)");

// Shortest stretch to repeat.
const STRETCH_SECONDS = 0.2;
// A movement of the mouse of more pixels marks a stretch; below, it is a click.
const DRAG_PIXELS = 4;

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
// The place that was chosen, or null: {row, column, samples, levels, decibels}.
let selected = null;
// Whether the mixture is heard instead of the choice, which is a place or a remix.
let original = false;
// The place under the mouse, and that of the arrow keys; `keyboard` says if these are in use.
let hovered = null;
let cursor = { row: 0, column: 0 };
let keyboard = false;
let selections = 0;
// The stretch that is repeated, or null: {begin, end}, seconds.
let stretch = null;

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
  showHeard();
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
  find("doubts").hidden = clip.notes.length === 0;
  for (const text of clip.notes) {
    find("doubts").querySelector("ul").append(document.createElement("li"));
    find("doubts").querySelector("li:last-child").textContent = text;
  }
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
    card.mask = masks[k];
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
  const [marked, playhead] = ["stretch", "playhead"].map((name) => {
    const element = document.createElement("div");
    element.className = name;
    return element;
  });
  marked.hidden = true;
  plot.setAttribute("aria-hidden", "true");
  plot.append(wave, spectrum, marked, playhead);
  listenToPlot(plot);
  return { wave, spectrum, playhead, colour };
}

// A click goes to a moment, and dragging marks a stretch.
function listenToPlot(plot) {
  let from = null;
  const secondsAt = (x) => {
    const box = plot.getBoundingClientRect();
    return Math.min(Math.max((x - box.left) / box.width, 0), 1) * seconds;
  };
  plot.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    from = event.clientX;
    plot.setPointerCapture(event.pointerId);
  });
  plot.addEventListener("pointermove", (event) => {
    if (from === null || Math.abs(event.clientX - from) <= DRAG_PIXELS) return;
    const ends = [secondsAt(from), secondsAt(event.clientX)];
    showStretch({ begin: Math.min(...ends), end: Math.max(...ends) });
  });
  plot.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const ends = [secondsAt(from), secondsAt(event.clientX)];
    if (Math.abs(event.clientX - from) > DRAG_PIXELS) repeat(Math.min(...ends), Math.max(...ends));
    else video.currentTime = ends[1];
    from = null;
  });
  plot.addEventListener("pointercancel", () => {
    from = null;
    showStretch(stretch);
  });
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
  slider.setAttribute("aria-valuetext", output.textContent);
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

// Changing the volume of a region makes the remix the choice, so that the change is audible.
function showGains() {
  selections++;
  selected = null;
  for (const { element, track, mute, solo } of cards) {
    mute.setAttribute("aria-pressed", track.muted);
    solo.setAttribute("aria-pressed", track.solo);
    element.classList.toggle("inaudible", playback.effectiveGain(track) === 0);
  }
  playback.setPlace(null);
  hear(false);
}

// The sound of the regions with their volumes; null if it is the mixture.
function remix() {
  const gains = cards.map(({ track }) => playback.effectiveGain(track));
  if (gains.every((gain) => gain === 1)) return null;
  const samples = new Float32Array(clip.audio.length);
  const mask = new Float32Array(clip.frames * clip.bins);
  cards.forEach((card, k) => {
    if (gains[k] === 0) return;
    card.track.audio.forEach((sample, i) => (samples[i] += gains[k] * sample));
    card.mask.forEach((share, i) => (mask[i] += gains[k] * share));
  });
  const audible = cards.filter((card, k) => gains[k] > 0);
  return {
    title: "Remix of the regions",
    short: audible.length === 1 ? audible[0].region.name : "Remix",
    text: audible.length ? "" : "Silent: every region is muted.",
    saves: "Save the remix",
    name: "remix",
    samples,
    levels: spectrogramLevels(sound, mask),
  };
}

function setSilenced(silenced) {
  playback.setSilenced(silenced);
  find("silence").setAttribute("aria-pressed", silenced);
}

// What is heard

function mixture() {
  return {
    title: "Mixture",
    short: "Mixture",
    text: clip.peak === 0 ? "The whole clip is silent." : "",
    saves: "Save the mixture",
    name: "mixture",
    samples: clip.audio,
    levels: (clip.levels ??= spectrogramLevels(sound, null)),
  };
}

// Listen to the mixture instead of the choice, or to the choice.
function hear(instead) {
  original = instead;
  playback.setOriginal(original);
  showHeard();
}

function compare() {
  if (find("hear-choice").disabled) {
    find("level").textContent = "Choose a place or a region first, to compare it with the mixture.";
  } else hear(!original);
}

function showHeard() {
  const choice = selected ?? remix();
  const shown = original || !choice ? mixture() : choice;
  now.heard = shown;
  now.samples = shown.samples;
  now.levels = shown.levels;
  find("playing").textContent = shown.title;
  find("level").textContent = shown.text;
  find("save").disabled = false;
  find("save").textContent = shown.saves;
  find("mixture").disabled = selected === null;
  find("hear-mixture").setAttribute("aria-pressed", shown !== choice);
  find("hear-choice").setAttribute("aria-pressed", shown === choice);
  find("hear-choice").disabled = !choice;
  find("hear-choice").querySelector("span").textContent = choice ? choice.short : "No choice";
  showCursor();
  drawPlot(now);
}

// Places

async function select(row, column) {
  const number = ++selections;
  cursor = { row, column };
  const mask = await sound.cellMask(row, column);
  // Another place was selected in the meantime.
  if (number !== selections) return;
  const samples = sound.sound(mask);
  const share = energy(samples) / energy(clip.audio);
  // As for the library, which looks for regions among the places that sound.
  const silent = !(clip.peak >= clip.silence.amplitude && share >= clip.silence.share);
  selected = {
    row,
    column,
    silent,
    title: `Place in row ${row + 1}, column ${column + 1} of ${clip.height} \u00d7 ${clip.width}`,
    short: "Place",
    text: levelText(share, silent, row, column),
    saves: "Save this place",
    name: `row ${row + 1} column ${column + 1}`,
    samples,
    levels: spectrogramLevels(sound, mask),
  };
  playback.setPlace(samples);
  hear(false);
}

function selectMixture() {
  selections++;
  if (!selected) return;
  selected = null;
  playback.setPlace(null);
  hear(false);
}

function energy(samples) {
  return samples.reduce((sum, sample) => sum + sample * sample, 0);
}

// How loud a place is, in words.
function levelText(share, silent, row, column) {
  const decibels = Math.round(10 * Math.log10(share));
  if (clip.peak < clip.silence.amplitude) return "Silent: the whole clip is silent.";
  if (silent) {
    return "Silent: the model assigns no sound to this place" +
      (decibels > -90 ? ` (${-decibels} dB below the mixture).` : ".");
  }
  const level = decibels < 0 ? `${-decibels} dB below the mixture` : "As loud as the mixture";
  const inside = regionsAt(row, column);
  return `${level}${inside ? `, in ${inside}` : ""}.`;
}

function regionsAt(row, column) {
  const cell = row * clip.width + column;
  return clip.regions
    .filter(({ cells }) => cells.includes(cell))
    .map(({ name }) => name)
    .join(", ");
}

// There is one frame in the picture: that of the arrow keys while they are in use, else the place
// that was chosen, else the place under the mouse.
function showCursor() {
  const at = keyboard ? cursor : (selected ?? hovered);
  const element = find("cursor");
  element.hidden = !at;
  if (!at) return;
  const chosen = selected && at.row === selected.row && at.column === selected.column;
  element.classList.toggle("chosen", Boolean(chosen));
  element.style.left = `${(100 * at.column) / clip.width}%`;
  element.style.top = `${(100 * at.row) / clip.height}%`;
  element.style.width = `${100 / clip.width}%`;
  element.style.height = `${100 / clip.height}%`;
  const tag = element.firstElementChild;
  tag.hidden = !(chosen && selected.silent);
  // Within the picture.
  tag.classList.toggle("above", at.row === clip.height - 1);
  tag.classList.toggle("left", at.column < clip.width / 4);
  tag.classList.toggle("right", at.column >= (3 * clip.width) / 4);
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
  if (document.activeElement !== picture) picture.focus();
  keyboard = true;
  showCursor();
  const inside = regionsAt(cursor.row, cursor.column);
  find("pointed").textContent =
    `Row ${cursor.row + 1}, column ${cursor.column + 1}${inside ? `, ${inside}` : ""}`;
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
  find("seek").setAttribute("aria-valuetext", `${time.toFixed(1)} of ${seconds.toFixed(1)} seconds`);
  const share = `translateX(${(100 * Math.min(time, seconds)) / seconds}%)`;
  for (const { playhead } of [now, ...cards]) playhead.style.transform = share;
  if (overlay() === "heat") drawHeat(find("overlay"), clip, frameNow());
}

function frameNow() {
  const frame = Math.round((video.currentTime * clip.sampleRate) / clip.hop);
  return Math.min(frame, clip.frames - 1);
}

// Repeat a stretch of the clip, however it is played. It is as long as can be marked, at least.
function repeat(begin, end) {
  begin = Math.max(Math.min(begin, seconds - STRETCH_SECONDS), 0);
  stretch = { begin, end: Math.min(Math.max(end, begin + STRETCH_SECONDS), seconds) };
  setLoop(true);
  playback.setRange(stretch);
  if (video.currentTime < stretch.begin || video.currentTime >= stretch.end) {
    video.currentTime = stretch.begin;
  }
  showStretch(stretch);
}

function repeatAll() {
  stretch = null;
  playback.setRange(null);
  showStretch(null);
}

// From this moment to the end that was marked, if it is later.
function beginHere() {
  const at = video.currentTime;
  repeat(at, stretch && stretch.end > at + STRETCH_SECONDS ? stretch.end : seconds);
}

function endHere() {
  const at = video.currentTime;
  repeat(stretch && stretch.begin < at - STRETCH_SECONDS ? stretch.begin : 0, at);
}

function showStretch(shown) {
  for (const element of document.querySelectorAll(".stretch")) {
    element.hidden = !shown;
    if (!shown) continue;
    element.style.left = `${(100 * shown.begin) / seconds}%`;
    element.style.width = `${(100 * (shown.end - shown.begin)) / seconds}%`;
  }
  find("whole").disabled = !shown;
  find("marked").textContent = shown
    ? `${shown.begin.toFixed(1)} to ${shown.end.toFixed(1)} s`
    : "Or drag across a waveform.";
}

function setLoop(loop) {
  find("loop").checked = loop;
  video.loop = loop;
  playback.follow();
}

// The video has no end in the middle: it goes back by this.
function keepInStretch() {
  if (!stretch || !video.loop || video.paused || video.seeking) return;
  const time = video.currentTime;
  if (time < stretch.begin - STRETCH_SECONDS / 2 || time >= stretch.end) playback.goBack();
}

// Runs only while the video plays.
function tick() {
  keepInStretch();
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
  find("loop").addEventListener("change", (event) => setLoop(event.target.checked));
  find("begin-here").addEventListener("click", beginHere);
  find("end-here").addEventListener("click", endHere);
  find("whole").addEventListener("click", repeatAll);
  find("hear-mixture").addEventListener("click", () => {
    if (!find("hear-choice").disabled) hear(true);
  });
  find("hear-choice").addEventListener("click", () => hear(false));
  find("silence").addEventListener("click", () => setSilenced(!playback.silenced));
  find("mixture").addEventListener("click", () => {
    selectMixture();
    picture.focus();
  });
  find("save").addEventListener("click", () => {
    save(now.samples, `${clip.title} ${now.heard.name}`);
  });
  find("overlays").addEventListener("change", () => {
    showOverlay();
    showOutlines();
  });
  dark.addEventListener("change", draw);
  for (const event of ["play", "pause"]) video.addEventListener(event, showPlaying);
  for (const event of ["seeking", "seeked", "ended"]) video.addEventListener(event, showTime);
  // Also while the page is in the background.
  video.addEventListener("timeupdate", keepInStretch);
  // What is behind the bar can be scrolled into view.
  new ResizeObserver(() => {
    document.documentElement.style.setProperty("--bar", `${find("bar").offsetHeight}px`);
  }).observe(find("bar"));
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
    keyboard = false;
    select(last.row, last.column);
    play();
  };
  picture.addEventListener("click", (event) => {
    // Firefox does not do this by itself; the arrow keys go on from here.
    picture.focus({ preventScroll: true, focusVisible: false });
    if (same(cellUnder(event))) play();
    else point(event);
    last = null;
  });
  picture.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0) point(event);
  });
  picture.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return;
    hovered = cellUnder(event);
    showCursor();
    if (event.buttons === 1 && last && !same(cellUnder(event))) point(event);
  });
  picture.addEventListener("pointerleave", () => {
    hovered = null;
    last = null;
    showCursor();
  });
  picture.addEventListener("focus", () => {
    keyboard = picture.matches(":focus-visible");
    showCursor();
  });
  picture.addEventListener("blur", () => {
    keyboard = false;
    if (selected) cursor = { row: selected.row, column: selected.column };
    showCursor();
  });
}

const LETTERS = {
  b: compare,
  e: endHere,
  l: () => setLoop(!video.loop),
  m: () => setSilenced(!playback.silenced),
  o: nextOverlay,
  s: beginHere,
  x: repeatAll,
};

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
  const letter = event.key?.toLowerCase();
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code);
  if (digit) {
    const k = digit[1] === "0" ? cards.length - 1 : Number(digit[1]) - 1;
    if (k >= cards.length || (k === cards.length - 1 && digit[1] !== "0")) return;
    if (event.shiftKey) setMuted(k, !cards[k].track.muted);
    else setSolo(k, !cards[k].track.solo);
  } else if (event.key === "Escape") selectMixture();
  else if (letter in LETTERS) LETTERS[letter]();
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
  compare,
  repeat,
  repeatAll,
  play,
  pause: () => video.pause(),
  level: () => playback.level(),
  drift: () => playback.drift(),
  selected: () => ({
    row: selected?.row ?? null,
    column: selected?.column ?? null,
    samples: selected ? selected.samples : clip.audio,
  }),
  heard: () => now.samples,
};
