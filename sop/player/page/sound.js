// The sound of any place of the picture. Computes what sop/inference/embedding.py and
// sop/model/spectrogram.py do from the numbers that sop/player/player.py writes into the page.
//
// Shapes: W windows, C channels, E envelopes, S maps of the sound that motion weighs, R mask rows,
// F bins, M frames. Spectrograms and masks are stored frame by frame: (M, F) and (M, R).

const DAMAGED =
  "This page is damaged: a part of the file is missing or was changed. Copy or write it again.";

// Read the description and the arrays of the clip from the page.
async function readClip() {
  const [description, data] = ["clip", "data"].map((id) => document.getElementById(id));
  const content = new TextEncoder().encode(description.textContent + data.textContent);
  if (crc32(content) !== Number(data.dataset.checksum)) throw new Error(DAMAGED);
  const clip = JSON.parse(description.textContent);
  const text = atob(data.textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const bytes = await new Response(stream).arrayBuffer();
  const kinds = { f4: Float32Array, i2: Int16Array, u1: Uint8Array };
  let at = 0;
  for (const [name, kind, size] of clip.arrays) {
    clip[name] = new kinds[kind](bytes, at, size);
    at += clip[name].byteLength;
  }
  clip.bins = clip.frame / 2 + 1;
  clip.audio = Float32Array.from(clip.samples, (sample) => (sample / 32767) * clip.peak);
  addUp(clip.components, clip.rows, clip.frames * clip.rows);
  if (clip.motion) {
    // Envelopes begin before the clip and end after it.
    clip.motion.length = clip.motion.lead + clip.frames + clip.motion.tail;
    addUp(clip.envelopes, 1, clip.motion.length);
  }
  return clip;
}

// The checksum of zlib, gzip and PNG.
function crc32(bytes) {
  const table = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });
  let sum = -1;
  for (const byte of bytes) sum = table[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ -1) >>> 0;
}

// Undo the differences between consecutive frames of each channel.
function addUp(values, step, channel) {
  for (let i = 0; i < values.length; i++) {
    if (i % channel >= step) values[i] += values[i - step];
  }
}

class Sound {
  constructor(clip) {
    this.clip = clip;
    this.transform = fourier(clip.frame);
    this.window = Float64Array.from(
      { length: clip.frame },
      (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / clip.frame),
    );
    this.spectrum = this.stft(clip.audio);
    this.warp = clip.logFrequency ? warp(clip.positions, clip.rows) : null;
  }

  // Periodic Hann window, centred frames, zero padding. Two real frames share a complex transform.
  stft(audio) {
    const { frame, hop, frames, bins } = this.clip;
    const re = new Float32Array(frames * bins);
    const im = new Float32Array(frames * bins);
    const x = new Float64Array(frame);
    const y = new Float64Array(frame);
    for (let m = 0; m < frames; m += 2) {
      const begin = m * hop - frame / 2;
      for (let i = 0; i < frame; i++) {
        x[i] = (audio[begin + i] || 0) * this.window[i];
        y[i] = m + 1 < frames ? (audio[begin + hop + i] || 0) * this.window[i] : 0;
      }
      this.transform(x, y);
      for (let k = 0; k < bins; k++) {
        const mirrored = (frame - k) % frame;
        const at = m * bins + k;
        re[at] = (x[k] + x[mirrored]) / 2;
        im[at] = (y[k] - y[mirrored]) / 2;
        if (m + 1 < frames) {
          re[at + bins] = (y[k] + y[mirrored]) / 2;
          im[at + bins] = (x[mirrored] - x[k]) / 2;
        }
      }
    }
    return { re, im };
  }

  // Apply a mask, (M, F): returns hop * (M - 1) samples in [-1, 1].
  sound(mask) {
    const { frame, hop, frames, bins } = this.clip;
    const { re, im } = this.spectrum;
    const length = hop * (frames - 1);
    const sum = new Float64Array(length + 2 * frame);
    const x = new Float64Array(frame);
    const y = new Float64Array(frame);
    for (let m = 0; m < frames; m += 2) {
      const pair = m + 1 < frames;
      for (let k = 0; k < bins; k++) {
        const at = m * bins + k;
        const a = mask[at] * re[at];
        const b = mask[at] * im[at];
        const c = pair ? mask[at + bins] * re[at + bins] : 0;
        const d = pair ? mask[at + bins] * im[at + bins] : 0;
        // The lowest and the highest frequency are real; the others have mirror images.
        const inner = k > 0 && k < bins - 1;
        x[k] = inner ? a - d : a;
        y[k] = inner ? b + c : c;
        if (inner) {
          x[frame - k] = a + d;
          y[frame - k] = c - b;
        }
      }
      this.transform(y, x);
      for (let i = 0; i < frame; i++) {
        const at = m * hop + i;
        sum[at] += (x[i] / frame) * this.window[i];
        if (pair) sum[at + hop] += (y[i] / frame) * this.window[i];
      }
    }
    const power = this.windowPower(length + 2 * frame);
    const audio = new Float32Array(length);
    for (let i = 0; i < length; i++) {
      const value = sum[i + frame / 2] / power[i + frame / 2];
      audio[i] = Math.max(-1, Math.min(1, value));
    }
    return audio;
  }

  // The sum of the squared windows of all frames.
  windowPower(length) {
    if (!this.power) {
      this.power = new Float64Array(length);
      for (let m = 0; m < this.clip.frames; m++) {
        for (let i = 0; i < this.clip.frame; i++) {
          this.power[m * this.clip.hop + i] += this.window[i] ** 2;
        }
      }
    }
    return this.power;
  }

  // Return the weights of all maps at a frame for a place, {features: (W, C), envelopes:
  // (E, lead + M + tail)}: those of the components and, with motion, of its maps: tap i of a map
  // weighs the envelopes of frame m - lead + i.
  weights({ features, envelopes }, m) {
    const { windows, channels, frames, crossfade, motion, taps } = this.clip;
    const weights = Array.from({ length: channels }, (_, c) => {
      let sum = 0;
      for (let w = 0; w < windows; w++) {
        sum += crossfade[w * frames + m] * features[w * channels + c];
      }
      return sum;
    });
    const size = motion && motion.lead + 1 + motion.tail;
    for (let map = 0; motion && map < motion.maps; map++) {
      let sum = 0;
      for (let e = 0; e < motion.envelopes; e++) {
        const tap = (map * motion.envelopes + e) * size;
        const at = e * motion.length + m;
        for (let i = 0; i < size; i++) sum += taps[tap + i] * envelopes[at + i];
      }
      weights.push(sum);
    }
    return weights;
  }

  // Return the logits of the mask of a place: (M, R).
  logits(place) {
    const { frames, rows, components, steps, offsets, bias } = this.clip;
    const logits = new Float32Array(frames * rows);
    for (let m = 0; m < frames; m++) {
      const row = logits.subarray(m * rows, (m + 1) * rows);
      const weights = this.weights(place, m);
      row.fill(weights.reduce((sum, weight, c) => sum + weight * offsets[c], bias));
      for (let c = 0; c < weights.length; c++) {
        const weight = weights[c] * steps[c];
        const at = (c * frames + m) * rows;
        for (let r = 0; r < rows; r++) row[r] += weight * components[at + r];
      }
    }
    return logits;
  }

  // Convert activated masks, (M, R), to the linear frequency axis, (M, F), and clamp them at 0.
  finish(mask) {
    const { frames, rows, bins } = this.clip;
    const finished = this.warp ? new Float32Array(frames * bins) : mask;
    if (this.warp) {
      const { lower, weight } = this.warp;
      for (let m = 0; m < frames; m++) {
        for (let k = 0; k < bins; k++) {
          const at = m * rows + lower[k];
          finished[m * bins + k] = mask[at] + weight[k] * (mask[at + 1] - mask[at]);
        }
      }
    }
    for (let i = 0; i < finished.length; i++) if (finished[i] < 0) finished[i] = 0;
    return finished;
  }

  // Convert the logits of several places to masks, in place, like Embedding.masks.
  masks(masks) {
    if (this.clip.activation === "softmax") softmax(masks);
    else masks.forEach((mask) => activate(mask, this.clip.activation));
    return masks.map((mask) => this.finish(mask));
  }

  cellPlace(row, column) {
    const { windows, height, width, channels, cells, motion } = this.clip;
    const features = new Float32Array(windows * channels);
    for (let w = 0; w < windows; w++) {
      const at = ((w * height + row) * width + column) * channels;
      features.set(cells.subarray(at, at + channels), w * channels);
    }
    return { features, envelopes: motion && this.cellEnvelopes(row * width + column) };
  }

  cellEnvelopes(cell) {
    const { height, width, motion } = this.clip;
    const { envelopes, envelopeSteps, envelopeOffsets } = this.clip;
    const { length } = motion;
    const values = new Float32Array(motion.envelopes * length);
    for (let e = 0; e < motion.envelopes; e++) {
      const at = (e * height * width + cell) * length;
      for (let i = 0; i < length; i++) {
        values[e * length + i] = envelopeOffsets[e] + envelopeSteps[e] * envelopes[at + i];
      }
    }
    return values;
  }

  regionPlace(k) {
    const { windows, channels, motion, features, regionEnvelopes } = this.clip;
    const part = (values, size) => values.subarray(k * size, (k + 1) * size);
    return {
      features: part(features, windows * channels),
      envelopes: motion && part(regionEnvelopes, motion.envelopes * motion.length),
    };
  }

  // The mask of one cell. A softmax runs over all cells of the picture, as in the heat map.
  async cellMask(row, column) {
    const place = this.cellPlace(row, column);
    if (this.clip.activation !== "softmax") return this.masks([this.logits(place)])[0];
    this.total ??= this.totalOfCells();
    const { greatest, sum } = await this.total;
    const mask = this.logits(place);
    for (let i = 0; i < mask.length; i++) mask[i] = Math.exp(mask[i] - greatest[i]) / sum[i];
    return this.finish(mask);
  }

  // The denominator of the softmax over all cells: sum * exp(greatest).
  async totalOfCells() {
    const { frames, rows, height, width } = this.clip;
    const greatest = new Float32Array(frames * rows).fill(-Infinity);
    const sum = new Float64Array(frames * rows);
    for (let cell = 0; cell < height * width; cell++) {
      const logits = this.logits(this.cellPlace(Math.floor(cell / width), cell % width));
      for (let i = 0; i < logits.length; i++) {
        const top = Math.max(greatest[i], logits[i]);
        sum[i] = sum[i] * Math.exp(greatest[i] - top) + Math.exp(logits[i] - top);
        greatest[i] = top;
      }
      await yieldToPage();
    }
    return { greatest, sum };
  }

  // Masks of the regions and of the rest; they sum to 1 in every bin. Those of an evaluated mixture
  // are used as evaluation does, so that the mask of the rest may be negative.
  async regionMasks() {
    const logits = [];
    for (let k = 0; k < this.clip.regions.length; k++) {
      logits.push(this.logits(this.regionPlace(k)));
      await yieldToPage();
    }
    const masks = this.masks(logits);
    const size = this.clip.frames * this.clip.bins;
    return this.clip.rule
      ? evaluatedMasks(masks, this.clip.rule, size)
      : normalizeMasks(masks, size);
  }
}

// The position of each linear row between two log rows, rounded to single precision where the
// library does so.
function warp(positions, rows) {
  const last = rows - 1;
  const lower = new Uint32Array(positions.length);
  const weight = new Float32Array(positions.length);
  positions.forEach((position, k) => {
    const share = Math.fround(Math.fround(position + 1) / 2);
    const at = Math.min(Math.max(Math.fround(share * last), 0), last);
    lower[k] = Math.min(Math.floor(at), last - 1);
    weight[k] = at - lower[k];
  });
  return { lower, weight };
}

function activate(values, activation) {
  const n = values.length;
  if (activation === "sigmoid") {
    for (let i = 0; i < n; i++) values[i] = 1 / (1 + Math.exp(-values[i]));
  } else if (activation === "tanh") {
    for (let i = 0; i < n; i++) values[i] = Math.tanh(values[i]);
  } else if (activation === "relu") {
    for (let i = 0; i < n; i++) if (values[i] < 0) values[i] = 0;
  }
}

// Softmax over the masks in each bin.
function softmax(masks) {
  const size = masks.length ? masks[0].length : 0;
  for (let i = 0; i < size; i++) {
    let greatest = -Infinity;
    for (const mask of masks) greatest = Math.max(greatest, mask[i]);
    let sum = 0;
    for (const mask of masks) sum += mask[i] = Math.exp(mask[i] - greatest);
    for (const mask of masks) mask[i] /= sum;
  }
}

// Divide each bin among places and the rest by the squares of their masks, like normalize_masks in
// embedding.py.
function normalizeMasks(masks, size) {
  const rest = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    let greatest = 0;
    let sum = 0;
    for (const mask of masks) {
      greatest = Math.max(greatest, mask[i]);
      sum += mask[i] ** 2;
    }
    sum += Math.max(1 - greatest, 0) ** 2;
    rest[i] = 1;
    for (const mask of masks) {
      mask[i] = mask[i] ** 2 / sum;
      rest[i] -= mask[i];
    }
    rest[i] = Math.max(rest[i], 0);
  }
  return [...masks, rest];
}

// Gains of masks, like MaskRule in spectrogram.py, and what they lack to sum to 1.
function evaluatedMasks(masks, { threshold, power }, size) {
  const rest = new Float32Array(size).fill(1);
  if (power !== null) sharePowers(masks, power, size);
  for (const mask of masks) {
    for (let i = 0; i < size; i++) {
      if (power === null && threshold !== null) mask[i] = mask[i] > threshold ? 1 : 0;
      rest[i] -= mask[i];
    }
  }
  return [...masks, rest];
}

// Replace masks by their shares in the sum of their powers; by equal ones where all are 0.
function sharePowers(masks, power, size) {
  for (let i = 0; i < size; i++) {
    let greatest = 0;
    for (const mask of masks) greatest = Math.max(greatest, mask[i]);
    const powers = masks.map((mask) => (greatest === 0 ? 1 : (mask[i] / greatest) ** power));
    const sum = powers.reduce((total, value) => total + value, 0);
    masks.forEach((mask, n) => (mask[i] = powers[n] / sum));
  }
}

// Let the page handle events before the next piece of work.
function yieldToPage() {
  return new Promise((resolve) => setTimeout(resolve));
}

// 16-bit mono WAV.
function wav(audio, sampleRate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * audio.length));
  const text = (at, value) => [...value].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * audio.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, 2 * sampleRate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * audio.length, true);
  audio.forEach((sample, i) => {
    const clipped = Math.max(-1, Math.min(1, sample));
    view.setInt16(44 + 2 * i, Math.round(clipped * 32767), true);
  });
  return new Blob([view], { type: "audio/wav" });
}
