/** Rounding, half precision and the error function. */
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { erf, halfBits, halfValue, roundEven } from "../../ir/numerics.ts";

Deno.test("roundEven() takes ties to the even neighbour and leaves large, infinite and missing numbers", () => {
  const cases: readonly [x: number, y: number][] = [
    [0.5, 0],
    [1.5, 2],
    [2.5, 2],
    [-0.5, -0],
    [-1.5, -2],
    [-2.5, -2],
    [0.49999999999999994, 0],
    [0.5000000000000001, 1],
    [2.4, 2],
    [-2.6, -3],
    [4503599627370495.5, 4503599627370496],
    [9007199254740991, 9007199254740991],
    [-Infinity, -Infinity],
  ];
  for (const [x, y] of cases) assert(roundEven(x) === y, `roundEven(${x}) = ${roundEven(x)}, not ${y}`);
  assert(Number.isNaN(roundEven(NaN)));
});

Deno.test("halfBits() inverts halfValue() for all 65536 half-precision values", () => {
  for (let bits = 0; bits < 65536; bits++) {
    const value = halfValue(bits), nan = (bits & 0x7c00) === 0x7c00 && (bits & 0x3ff) !== 0;
    assertEquals(Number.isNaN(value), nan);
    if (!nan && halfBits(value) !== bits) throw new Error(`${bits} became ${halfBits(value)}`);
  }
  assertEquals(halfBits(NaN) & 0x7fff, 0x7e00);
  assertEquals([halfValue(0x3c00), halfValue(0x7bff), halfValue(0x0001), halfValue(0xc000)], [1, 65504, 2 ** -24, -2]);
});

Deno.test("halfBits() rounds to the nearest, ties to even, between all neighbours", () => {
  const scratch = new DataView(new ArrayBuffer(8));
  /** The double next to a positive one, upwards or downwards. */
  const next = (x: number, direction: 1n | -1n) => {
    scratch.setFloat64(0, x);
    scratch.setBigUint64(0, scratch.getBigUint64(0) + direction);
    return scratch.getFloat64(0);
  };
  for (let bits = 0; bits < 0x7c00; bits++) {
    const below = halfValue(bits), above = bits === 0x7bff ? 65536 : halfValue(bits + 1), middle = (below + above) / 2;
    const found = [next(middle, -1n), middle, next(middle, 1n), -middle].map(halfBits), even = bits + bits % 2;
    const expected = [bits, even, bits + 1, even | 0x8000];
    if (found.join() !== expected.join()) throw new Error(`around ${middle}: expected ${expected} but found ${found}`);
  }
});

Deno.test("erf() agrees with its integral to 1e-13 and is odd", () => {
  // Simpson's rule, whose error is far below at this step.
  const steps = 2000, density = (t: number) => 2 / Math.sqrt(Math.PI) * Math.exp(-t * t);
  for (let x = 0.05; x < 6.5; x += 0.05) {
    let sum = density(0) + density(x);
    for (let i = 1; i < steps; i++) sum += (i % 2 === 0 ? 2 : 4) * density(x * i / steps);
    assertAlmostEquals(erf(x), sum * x / steps / 3, 1e-13);
    assertEquals(erf(-x), -erf(x));
  }
  assertEquals([erf(0), erf(Infinity), erf(-Infinity), erf(NaN)], [0, 1, -1, NaN]);
  assertAlmostEquals(erf(1e-10), 1.1283791670955126e-10, 1e-24);
});
