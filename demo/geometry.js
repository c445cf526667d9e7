// From an image to the network's input, and from its output to a map: geometry.py in JavaScript. Both directions resize
// like TensorFlow 1 (area, bicubic; corners aligned). Pinned by test_demo_files.py::test_geometry_equals_that_of_test.

// Gray level of the border around an image.
const PADDING = 126;

// Common aspect ratios of photographs, landscape and portrait.
const ASPECT_RATIOS = [1, 4 / 3, 3 / 2, 16 / 9];

/** Round to the nearest integer, halves to the even one, like NumPy and TensorFlow. */
export function roundHalfEven(x) {
  const below = Math.floor(x);
  const rest = x - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}

/**
 * The network's input size that an image fills best, among sizes with about the given number of pixels.
 *
 * @param {number} height of the image.
 * @param {number} width of the image.
 * @param {number} pixels of the network's input.
 * @returns {number[]} height and width, divisible by 8.
 */
export function fittedSize(height, width, pixels = 240 * 320) {
  const side = (factor) => Math.max(8, roundHalfEven(Math.sqrt(pixels * factor) / 8) * 8);
  const sizes = ASPECT_RATIOS.flatMap((ratio) => {
    const [short, long] = [side(1 / ratio), side(ratio)];
    return [[short, long], [long, short]];
  });
  const filled = (size) => {
    const ratio = Math.min(size[0] / height, size[1] / width);
    return (height * width * ratio ** 2) / (size[0] * size[1]);
  };
  // Of equally good sizes, the first by height and width.
  sizes.sort((one, other) => one[0] - other[0] || one[1] - other[1]);
  return sizes.reduce((best, size) => (filled(size) > filled(best) ? size : best));
}

/** The place of an image in the network's input of [height, width]: its scaled size, and its top left corner. */
export function placement(height, width, size) {
  const ratio = Math.min(size[0] / height, size[1] / width);
  const [scaledHeight, scaledWidth] = [height, width].map((side) => Math.max(1, roundHalfEven(side * ratio)));
  return {
    height: scaledHeight,
    width: scaledWidth,
    top: Math.floor((size[0] - scaledHeight) / 2),
    left: Math.floor((size[1] - scaledWidth) / 2),
  };
}

/**
 * Fit an image into the network's input: resize it at its own aspect ratio, then pad it.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image RGBA, 0 to 255; alpha is ignored.
 * @param {number[]} size height and width of the network's input.
 * @returns {Float32Array} (size[0], size[1], 3), RGB, 0 to 255.
 */
export function resizeAndPad(image, size) {
  const place = placement(image.height, image.width, size);
  const whole = { top: 0, left: 0, height: place.height, width: place.width };
  const pixels = { values: image.data, height: image.height, width: image.width, channels: 3, stride: 4 };
  const resized = resize(pixels, [place.height, place.width], whole);
  const padded = new Float32Array(size[0] * size[1] * 3).fill(PADDING);
  for (let row = 0; row < place.height; row++) {
    const line = resized.subarray(row * place.width * 3, (row + 1) * place.width * 3);
    padded.set(line, ((place.top + row) * size[1] + place.left) * 3);
  }
  return padded;
}

/**
 * The inverse of `resizeAndPad`: the network's output at the size of the original image.
 *
 * @param {Float32Array} map (size[0], size[1]), 0 to 1, the border included.
 * @param {number[]} size height and width of the map.
 * @param {number} height of the image.
 * @param {number} width of the image.
 * @returns {Float32Array} (height, width), 0 to 255, not rounded.
 */
export function cropAndRestore(map, size, height, width) {
  const ratio = Math.max(height / size[0], width / size[1]);
  const restored = [roundHalfEven(size[0] * ratio), roundHalfEven(size[1] * ratio)];
  const top = Math.floor((restored[0] - height) / 2);
  const left = Math.floor((restored[1] - width) / 2);
  const values = map.map((value) => value * 255);
  const pixels = { values, height: size[0], width: size[1], channels: 1, stride: 1 };
  return resize(pixels, restored, { top, left, height, width });
}

/** The part of the network's output that the image covers, at the output's own resolution; 0 to 255. */
export function cropPadding(map, size, height, width) {
  const place = placement(height, width, size);
  const values = new Float32Array(place.height * place.width);
  for (let row = 0; row < place.height; row++) {
    for (let column = 0; column < place.width; column++) {
      values[row * place.width + column] = 255 * map[(place.top + row) * size[1] + place.left + column];
    }
  }
  return { values, height: place.height, width: place.width };
}

// Area interpolation when either side shrinks, else bicubic. Only the part of the result in `window` is computed.
function resize(pixels, size, window) {
  const shrinks = size[0] < pixels.height || size[1] < pixels.width;
  const kernel = shrinks ? areaTaps : bicubicTaps;
  const columns = kernel(pixels.width, size[1], window.left, window.width);
  const rows = kernel(pixels.height, size[0], window.top, window.height);
  const narrowed = resizeColumns(pixels, columns, window.width);
  return resizeRows(narrowed, rows, window.height, window.width * pixels.channels);
}

function resizeColumns({ values, height, width, channels, stride }, { taps, indices, weights }, newWidth) {
  const result = new Float32Array(height * newWidth * channels);
  for (let row = 0; row < height; row++) {
    const start = row * width * stride;
    for (let column = 0; column < newWidth; column++) {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        for (let tap = column * taps; tap < (column + 1) * taps; tap++) {
          sum += weights[tap] * values[start + indices[tap] * stride + channel];
        }
        result[(row * newWidth + column) * channels + channel] = sum;
      }
    }
  }
  return result;
}

function resizeRows(values, { taps, indices, weights }, newHeight, length) {
  const result = new Float32Array(newHeight * length);
  const sums = new Float64Array(length);
  for (let row = 0; row < newHeight; row++) {
    sums.fill(0);
    for (let tap = row * taps; tap < (row + 1) * taps; tap++) {
      const start = indices[tap] * length;
      for (let i = 0; i < length; i++) {
        sums[i] += weights[tap] * values[start + i];
      }
    }
    for (let i = 0; i < length; i++) {
      result[row * length + i] = Math.min(255, Math.max(0, sums[i]));
    }
  }
  return result;
}

// Each output pixel is the mean of the input that it covers. TensorFlow computes in float32.
function areaTaps(from, to, start, count) {
  const scale = alignedScale(from, to);
  const taps = Math.ceil(scale) + 2;
  const { indices, weights } = emptyTaps(taps, count);
  for (let i = 0; i < count; i++) {
    const low = Math.fround((start + i) * scale);
    const high = Math.fround((start + i + 1) * scale);
    for (let pixel = Math.floor(low), tap = i * taps; pixel < Math.ceil(high); pixel++, tap++) {
      const covered = Math.min(pixel + 1, high) - Math.max(pixel, low);
      indices[tap] = Math.min(pixel, from - 1);
      weights[tap] = covered / scale;
    }
  }
  return { taps, indices, weights };
}

// Keys' cubic with a = -0.75, for which TensorFlow 1 uses a table of 1024 steps.
function bicubicTaps(from, to, start, count) {
  const scale = alignedScale(from, to);
  const { indices, weights } = emptyTaps(4, count);
  for (let i = 0; i < count; i++) {
    const position = Math.fround((start + i) * scale);
    const below = Math.floor(position);
    const offset = roundHalfEven((position - below) * 1024) / 1024;
    const distances = [1 + offset, offset, 1 - offset, 2 - offset];
    for (let tap = 0; tap < 4; tap++) {
      indices[i * 4 + tap] = Math.min(from - 1, Math.max(0, below - 1 + tap));
      weights[i * 4 + tap] = cubic(distances[tap]);
    }
  }
  return { taps: 4, indices, weights };
}

function cubic(x) {
  const a = -0.75;
  return x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
}

function alignedScale(from, to) {
  return Math.fround(to > 1 ? (from - 1) / (to - 1) : from / to);
}

function emptyTaps(taps, count) {
  return { indices: new Int32Array(taps * count), weights: new Float64Array(taps * count) };
}
