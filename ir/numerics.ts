/** Numeric conventions that every backend repeats: rounding, half precision, the error function. */

/** Round to nearest, ties to even (IEEE; `Math.round` differs on ties). */
export function roundEven(x: number): number {
  if (!(Math.abs(x) < 4503599627370496)) return x; // already integral, infinite or NaN
  const below = Math.floor(x), fraction = x - below;
  if (fraction < 0.5) return below;
  if (fraction > 0.5) return below + 1;
  return below % 2 === 0 ? below : below + 1;
}

const scratch = new DataView(new ArrayBuffer(4));

/** The nearest half-precision value (ties to even), as its 16 bits. */
export function halfBits(x: number): number {
  scratch.setFloat32(0, x);
  const bits = scratch.getUint32(0), sign = (bits >>> 16) & 0x8000, magnitude = Math.abs(x);
  if (Number.isNaN(x)) return sign | 0x7e00;
  if (magnitude >= 65520) return sign | 0x7c00; // rounds beyond 65504
  // In units of the last place, from the double itself: by way of single precision it would be rounded twice.
  const exponent = Math.max(((bits >>> 23) & 255) - 127, -14);
  return sign | (((exponent + 14) << 10) + roundEven(magnitude / 2 ** (exponent - 10)));
}

/** The value of 16 bits in half precision. */
export function halfValue(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The error function, by its Taylor series for small and its continued fraction for large arguments (error < 1e-14). */
export function erf(x: number): number {
  const magnitude = Math.abs(x);
  if (Number.isNaN(x)) return NaN;
  if (magnitude > 6) return Math.sign(x);
  if (magnitude < 2.5) {
    let term = x, sum = x;
    for (let n = 1; n < 80 && Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
      term *= -x * x / n;
      sum += term / (2 * n + 1);
    }
    return 2 / Math.sqrt(Math.PI) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (magnitude + fraction);
  return Math.sign(x) * (1 - Math.exp(-magnitude * magnitude) / Math.sqrt(Math.PI) / (magnitude + fraction));
}
