// Sound synchronised with the video. The video is muted and leads: its time is checked repeatedly,
// and the sound restarts if it has drifted.

const RAMP_SECONDS = 0.02;
const LEAD_SECONDS = 0.01;
const DRIFT_SECONDS = 0.04;
const PATIENCE_SECONDS = 0.15;

class Playback {
  // tracks: {audio, gain, muted, solo}; they play together unless a place is selected.
  constructor(video, sampleRate, seconds) {
    this.video = video;
    this.sampleRate = sampleRate;
    this.seconds = seconds;
    this.tracks = [];
    this.place = null;
    this.original = false;
    this.silenced = false;
    this.range = { begin: 0, end: seconds };
    this.goingBack = false;
    this.context = null;
    this.run = null;
    for (const event of ["playing", "seeked", "ratechange", "timeupdate"]) {
      video.addEventListener(event, () => this.follow());
    }
    for (const event of ["pause", "ended", "emptied"]) {
      video.addEventListener(event, () => this.stop());
    }
    video.addEventListener("waiting", () => {
      if (!this.goingBack) this.stop();
    });
    video.addEventListener("seeked", () => (this.goingBack = false));
    video.addEventListener("seeking", () => {
      if (!this.goingBack && Math.abs(this.drift()) > DRIFT_SECONDS) this.stop();
    });
  }

  // Browsers allow sound only after the first click or key press.
  open() {
    if (this.context) {
      if (this.context.state !== "running") this.context.resume();
      return;
    }
    try {
      // At the sample rate of the clip, so that the browser resamples only once and well.
      this.context = new AudioContext({ sampleRate: this.sampleRate, latencyHint: "interactive" });
    } catch {
      this.context = new AudioContext();
    }
    this.context.addEventListener("statechange", () => this.follow());
    this.meter = new AnalyserNode(this.context, { fftSize: 2048 });
    this.master = new GainNode(this.context);
    this.master.connect(this.meter).connect(this.context.destination);
    this.regions = new GainNode(this.context);
    this.regions.connect(this.master);
    for (const track of this.tracks) this.attach(track, this.regions);
    if (this.place) this.attach(this.place, this.master);
    this.balance();
  }

  setTracks(tracks) {
    this.tracks = tracks;
    if (this.context) tracks.forEach((track) => this.attach(track, this.regions));
    this.balance();
  }

  // Play this sound instead of the tracks; null plays the tracks.
  setPlace(audio) {
    const before = this.place;
    this.place = audio && { audio, gain: 1 };
    if (this.context) {
      if (this.place) this.attach(this.place, this.master);
      if (before) this.endSource(before);
      if (this.place && this.run) this.startSource(this.place);
    }
    this.balance();
  }

  // Play all tracks at full volume, which is the mixture, whatever else was chosen.
  setOriginal(original) {
    this.original = original;
    this.balance();
  }

  // The stretch that loops, {begin, end} in seconds; null for all.
  setRange(range) {
    this.range = range ?? { begin: 0, end: this.seconds };
    this.follow();
  }

  // Let the video follow the sound, which loops by itself and goes on meanwhile.
  goBack() {
    this.goingBack = true;
    this.video.currentTime = this.range.begin;
  }

  setSilenced(silenced) {
    this.silenced = silenced;
    this.balance();
  }

  // The gain of a track, given the solo and mute buttons of all tracks.
  effectiveGain(track) {
    const excluded = this.tracks.some((other) => other.solo) && !track.solo;
    return track.muted || excluded ? 0 : track.gain;
  }

  balance() {
    if (!this.context) return;
    const { original, place } = this;
    for (const track of this.tracks) {
      this.ramp(track.node.gain, original ? 1 : this.effectiveGain(track));
    }
    this.ramp(this.regions.gain, place && !original ? 0 : 1);
    if (place) this.ramp(place.node.gain, original ? 0 : 1);
    this.ramp(this.master.gain, this.silenced ? 0 : 1);
  }

  ramp(parameter, value, when = this.context.currentTime) {
    parameter.cancelScheduledValues(when);
    parameter.setValueAtTime(parameter.value, when);
    parameter.linearRampToValueAtTime(value, when + RAMP_SECONDS);
  }

  attach(track, output) {
    track.node = new GainNode(this.context, { gain: track.gain });
    track.node.connect(output);
  }

  // The track as a buffer as long as the video, so that both loop together.
  buffer(track) {
    if (!track.buffer) {
      const length = Math.max(track.audio.length, Math.ceil(this.seconds * this.sampleRate));
      track.buffer = new AudioBuffer({ length, sampleRate: this.sampleRate });
      track.buffer.copyToChannel(track.audio, 0);
    }
    return track.buffer;
  }

  // Start all tracks at once, unless they are synchronised already.
  follow() {
    const { video, context } = this;
    const moving = !video.paused && !video.ended && !video.seeking && video.readyState >= 3;
    if (!context || context.state !== "running" || !moving) return;
    if (this.runs()) {
      const drift = Math.abs(this.drift());
      if (drift <= DRIFT_SECONDS) {
        this.run.driftSince = null;
        return;
      }
      this.run.driftSince ??= context.currentTime;
      if (context.currentTime - this.run.driftSince < PATIENCE_SECONDS) return;
    }
    this.start();
  }

  // Whether the sound runs as the video does.
  runs() {
    const { run, video } = this;
    return (
      run && run.rate === video.playbackRate && run.loop === video.loop && run.range === this.range
    );
  }

  start() {
    this.stop();
    const { video, context } = this;
    const latency = Math.min(context.outputLatency || context.baseLatency || 0, 0.5);
    const rate = video.playbackRate;
    const when = this.onSample(context.currentTime + LEAD_SECONDS);
    const offset = video.currentTime + (LEAD_SECONDS + latency) * rate;
    const { loop } = video;
    this.run = { when, offset, rate, latency, loop, range: this.range, driftSince: null };
    for (const track of this.tracks) this.startSource(track);
    if (this.place) this.startSource(this.place);
  }

  startSource(track) {
    const { context, run } = this;
    const when = Math.max(run.when, this.onSample(context.currentTime + LEAD_SECONDS));
    const position = run.offset + (when - run.when) * run.rate;
    const { begin, end } = run.range;
    const over = run.loop && position >= end;
    const offset = this.onSample(over ? begin + ((position - begin) % (end - begin)) : position);
    track.fade = new GainNode(context, { gain: 0 });
    track.fade.connect(track.node);
    track.fade.gain.setValueAtTime(0, when);
    track.fade.gain.linearRampToValueAtTime(1, when + RAMP_SECONDS);
    track.source = new AudioBufferSourceNode(context, {
      buffer: this.buffer(track),
      playbackRate: run.rate,
      loop: run.loop,
      loopStart: this.onSample(begin),
      loopEnd: this.onSample(end),
    });
    track.source.connect(track.fade);
    track.source.start(when, offset);
  }

  // Browsers interpolate linearly between samples, which attenuates high frequencies.
  onSample(seconds) {
    return Math.round(seconds * this.sampleRate) / this.sampleRate;
  }

  stop() {
    if (!this.run) return;
    this.run = null;
    this.tracks.forEach((track) => this.endSource(track));
    if (this.place) this.endSource(this.place);
  }

  endSource(track) {
    if (!track.source) return;
    const { source, fade } = track;
    this.ramp(fade.gain, 0);
    source.stop(this.context.currentTime + 2 * RAMP_SECONDS);
    source.addEventListener("ended", () => fade.disconnect());
    track.source = track.fade = null;
  }

  // Seconds by which the sound at the loudspeaker is ahead of the video.
  drift() {
    if (!this.run) return 0;
    const { when, offset, rate, latency, loop, range } = this.run;
    const position = offset + (this.context.currentTime - when - latency) * rate;
    const drift = position - this.video.currentTime;
    const length = range.end - range.begin;
    return loop ? drift - length * Math.round(drift / length) : drift;
  }

  // Root mean square of the output, 0 to 1.
  level() {
    if (!this.context) return 0;
    const samples = new Float32Array(this.meter.fftSize);
    this.meter.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
  }
}
