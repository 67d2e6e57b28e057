// The dialog of one mixture, with its sounds and pictures. Its elements exist only while it is open,
// so that no file is loaded before it is needed.

// Colours of the pictures (see COLOUR_MAPS in page.py) and what both ends mean.
const LEVEL = (decibels) => ["magma", `\u2212${decibels} dB`, "0 dB, the loudest of the mixture"];
const SHARE = ["viridis", "0", "1"];
const WEIGHT = ["viridis", "least", "most"];
const ENERGY = ["inferno", "least energy", "most"];

const SOUNDS = [
  ["true", "True source", "true_spectrogram"],
  ["separated", "Separated", "separated_spectrogram"],
  ["denoised", "Denoised", "denoised_spectrogram"],
];

class MixtureDialog {
  // mixtures, measures, terms and axes as in the page's contents; order() returns the numbers of the
  // mixtures in the order of Previous and Next.
  constructor({ mixtures, measures, terms, axes }, order) {
    this.terms = terms;
    this.axes = axes;
    this.byNumber = new Map(mixtures.map((mixture) => [mixture.number, mixture]));
    this.measures = measures;
    this.order = order;
    this.dialog = document.getElementById("mixture");
    this.title = document.getElementById("mixture-title");
    this.body = document.getElementById("mixture-body");
    const find = (id) => document.getElementById(id);
    find("close").addEventListener("click", () => this.dialog.close());
    find("previous").addEventListener("click", () => this.move(-1));
    find("next").addEventListener("click", () => this.move(1));
    this.dialog.addEventListener("close", () => this.closed());
    this.dialog.addEventListener("keydown", (event) => this.pressed(event));
    addEventListener("hashchange", () => this.follow());
    this.follow();
  }

  // The address contains the number of the open mixture, so that it can be shared.
  open(number) {
    location.hash = `mixture-${number}`;
  }

  follow() {
    const found = /^#mixture-(\d+)$/.exec(location.hash);
    const mixture = found && this.byNumber.get(Number(found[1]));
    if (mixture) this.show(mixture);
    else if (this.dialog.open) this.dialog.close();
  }

  show(mixture) {
    this.number = mixture.number;
    const names = mixture.sources.map((source) => source.category);
    this.title.textContent = `Mixture ${mixture.number}: ${names.join(" + ")}`;
    this.body.replaceChildren(...this.contents(mixture));
    const order = this.order();
    const at = order.indexOf(mixture.number);
    document.getElementById("previous").disabled = at <= 0;
    document.getElementById("next").disabled = at < 0 || at === order.length - 1;
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
    this.title.focus();
  }

  move(by) {
    const order = this.order();
    const number = order[order.indexOf(this.number) + by];
    // Replaces the history entry: Back leads to the page, not through all mixtures.
    if (number !== undefined) location.replace(`#mixture-${number}`);
  }

  pressed(event) {
    if (event.target.matches("audio, video")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && !event.altKey && !event.ctrlKey && !event.metaKey) this.move(by);
  }

  closed() {
    this.body.replaceChildren();
    if (location.hash.startsWith("#mixture-")) history.replaceState(null, "", "#");
    document.querySelector(`#rows button[value="${this.number}"]`)?.focus();
  }

  contents(mixture) {
    const { files } = mixture;
    const parts = [];
    if (!mixture.shown) {
      parts.push(make("p", { class: "empty" }, "No sounds or pictures of this mixture were saved."));
    }
    if (files.player) {
      const link = make("a", { href: files.player }, "Pixel player of this clip");
      parts.push(make("p", {}, link, ": listen to the sound that the model assigns to each place in the picture"));
    }
    const own = [
      this.soundFigure("Mixture", files.sound, files.spectrogram),
      this.maskFigure("Weight of each time-frequency bin in the loss", files.weighting, WEIGHT),
    ].filter(Boolean);
    if (own.length) parts.push(make("div", { class: "whole" }, ...own));
    const sources = mixture.sources.map((source) => this.source(source));
    parts.push(make("div", { class: "sources" }, ...sources));
    return parts;
  }

  source(source) {
    const { files } = source;
    const cells = this.measures.map(([measure, name], k) =>
      make(
        "div",
        {},
        make("dt", {}, term(name, this.terms)),
        make("dd", {}, decibels(source.measures[k], measure === "sdr_improvement")),
      ),
    );
    return make(
      "section",
      {},
      make("h3", {}, source.category),
      make("p", { class: "name" }, named(source)),
      make("dl", { class: "measures" }, ...cells),
      sideBySide(
        videoFigure("Video with its original sound", files.video, files.frame),
        heatFigure("Where the model locates the sound", files.heat),
      ),
      ...SOUNDS.map(([sound, name, picture]) =>
        this.soundFigure(name, files[sound], files[picture]),
      ),
      sideBySide(
        this.maskFigure("Predicted mask", files.predicted_mask, SHARE),
        this.maskFigure("True mask", files.true_mask, SHARE),
      ),
    );
  }

  // A sound and its spectrogram if there is one, with a line at the current time.
  soundFigure(name, sound, picture) {
    if (!sound && !picture) return null;
    const parts = [];
    const audio =
      sound && make("audio", { preload: "none", controls: true, "aria-label": name, src: sound });
    if (picture) {
      const box = make("div", { class: "box" }, image(`Spectrogram: ${name}`, picture, "stretched"));
      if (audio) addPlayhead(audio, box, this.axes);
      parts.push(withAxes(box, this.axes));
    }
    if (audio) parts.push(audio);
    const colours = picture && this.axes && LEVEL(this.axes.decibels);
    return make("figure", {}, caption(name, colours), ...parts);
  }

  maskFigure(name, picture, colours) {
    if (!picture) return null;
    const box = make("div", { class: "box still" }, image(name, picture, "stretched"));
    return make("figure", {}, caption(name, colours), withAxes(box, this.axes));
  }
}

// Those of two figures that exist, side by side where there is room.
function sideBySide(...figures) {
  const existing = figures.filter(Boolean);
  return existing.length ? make("div", { class: "beside" }, ...existing) : null;
}

function heatFigure(name, picture) {
  if (!picture) return null;
  return make("figure", {}, caption(name, ENERGY), image(name, picture, "whole-picture"));
}

// A name, and a legend of colours: their map and what both ends mean.
function caption(name, colours) {
  if (!colours) return make("figcaption", {}, name);
  const [map, low, high] = colours;
  const bar = make("span", { class: `colours ${map}` });
  return make("figcaption", { class: "keyed" }, name, make("span", {}, `${low} `, bar, ` ${high}`));
}

// A picture with frequencies at its left and times below.
function withAxes(box, axes) {
  if (!axes) return box;
  const labels = (side, ticks, edge) =>
    make("div", { class: side, "aria-hidden": "true" }, ...ticks.map(([share, text]) => {
      const label = make("span", {}, text);
      label.style[edge] = `${100 * share}%`;
      return label;
    }));
  return make("div", { class: "axes" },
    labels("hertz", axes.hertz, "bottom"),
    box,
    labels("seconds", axes.seconds, "left"),
  );
}

function videoFigure(name, video, frame) {
  if (!video) return null;
  const player = make("video", { preload: "none", controls: true, playsinline: true, src: video });
  if (frame) player.poster = frame;
  player.setAttribute("aria-label", name);
  return make("figure", {}, make("figcaption", {}, name), player);
}

function image(name, address, kind) {
  return make("img", { src: address, alt: name, class: kind });
}

function addPlayhead(audio, box, axes) {
  const line = make("div", { class: "playhead", hidden: true });
  box.append(line);
  // Times at both edges of the picture.
  const edges = () => axes?.edges ?? [0, audio.duration];
  const place = () => {
    line.hidden = !(audio.duration > 0);
    const [begin, end] = edges();
    line.style.left = `${(100 * (audio.currentTime - begin)) / (end - begin)}%`;
    if (!audio.paused && audio.isConnected) requestAnimationFrame(place);
  };
  for (const event of ["play", "seeked", "timeupdate"]) audio.addEventListener(event, place);
  // For the keyboard, the audio controls do the same.
  box.addEventListener("click", async (event) => {
    const bounds = box.getBoundingClientRect();
    const share = (event.clientX - bounds.left) / bounds.width;
    await audio.play();
    const [begin, end] = edges();
    audio.currentTime = Math.min(Math.max(0, begin + share * (end - begin)), audio.duration);
  });
}
