// Fourier transforms of any length in double precision.

// Return a function that transforms n real and imaginary parts in place. With the parts swapped it
// computes n times the inverse.
function fourier(n) {
  return (n & (n - 1)) === 0 ? radix2(n) : bluestein(n);
}

function radix2(n) {
  const cosines = new Float64Array(n / 2);
  const sines = new Float64Array(n / 2);
  for (let k = 0; k < n / 2; k++) {
    cosines[k] = Math.cos((2 * Math.PI * k) / n);
    sines[k] = Math.sin((2 * Math.PI * k) / n);
  }
  const reversed = new Uint32Array(n);
  for (let i = 1; i < n; i++) reversed[i] = (reversed[i >> 1] >> 1) | (i & 1 ? n >> 1 : 0);

  return (re, im) => {
    swap(re, reversed);
    swap(im, reversed);
    pairs(re);
    pairs(im);
    for (let half = 2; half < n; half *= 2) {
      const stride = n / (2 * half);
      for (let start = 0; start < n; start += 2 * half) {
        for (let i = start, j = start + half, k = 0; i < start + half; i++, j++, k += stride) {
          const c = cosines[k];
          const s = sines[k];
          const x = re[j] * c + im[j] * s;
          const y = im[j] * c - re[j] * s;
          re[j] = re[i] - x;
          im[j] = im[i] - y;
          re[i] += x;
          im[i] += y;
        }
      }
    }
  };
}

function swap(values, places) {
  for (let i = 0; i < values.length; i++) {
    const j = places[i];
    if (i < j) {
      const value = values[i];
      values[i] = values[j];
      values[j] = value;
    }
  }
}

// Transforms of all pairs of neighbours.
function pairs(values) {
  for (let i = 0; i + 1 < values.length; i += 2) {
    const value = values[i + 1];
    values[i + 1] = values[i] - value;
    values[i] += value;
  }
}

// Bluestein's algorithm: a transform of any length as a convolution with a chirp, which is computed
// with transforms of a power of two. L. I. Bluestein, IEEE Trans. Audio Electroacoustics 18(4), 1970.
function bluestein(n) {
  const size = 2 ** Math.ceil(Math.log2(2 * n - 1));
  const transform = radix2(size);
  const cosines = new Float64Array(n);
  const sines = new Float64Array(n);
  const chirpRe = new Float64Array(size);
  const chirpIm = new Float64Array(size);
  for (let k = 0; k < n; k++) {
    // The angle is periodic in 2n; a small argument keeps its precision.
    const angle = (Math.PI * ((k * k) % (2 * n))) / n;
    cosines[k] = Math.cos(angle);
    sines[k] = Math.sin(angle);
    const mirrored = (size - k) % size;
    chirpRe[k] = chirpRe[mirrored] = cosines[k] / size;
    chirpIm[k] = chirpIm[mirrored] = sines[k] / size;
  }
  transform(chirpRe, chirpIm);
  const a = new Float64Array(size);
  const b = new Float64Array(size);

  return (re, im) => {
    for (let k = 0; k < n; k++) {
      a[k] = re[k] * cosines[k] + im[k] * sines[k];
      b[k] = im[k] * cosines[k] - re[k] * sines[k];
    }
    a.fill(0, n);
    b.fill(0, n);
    transform(a, b);
    for (let k = 0; k < size; k++) {
      const x = a[k] * chirpRe[k] - b[k] * chirpIm[k];
      b[k] = a[k] * chirpIm[k] + b[k] * chirpRe[k];
      a[k] = x;
    }
    transform(b, a);
    for (let k = 0; k < n; k++) {
      re[k] = a[k] * cosines[k] + b[k] * sines[k];
      im[k] = b[k] * cosines[k] - a[k] * sines[k];
    }
  };
}
