import { assertAlmostEquals, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import { fnv1a, philox, type Random, random, resumeRandom } from "../../ir/random.ts";

const take = <T>(n: number, draw: () => T): T[] => Array.from({ length: n }, draw);
const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

Deno.test("philox() gives the published answers of Philox4x32-10", () => {
  const ones = 0xffffffff;
  assertEquals(philox([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  assertEquals(philox([ones, ones, ones, ones], [ones, ones]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
  assertEquals(
    philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  );
});

Deno.test("fnv1a() gives the published answers of 64-bit FNV-1a", () => {
  assertEquals(fnv1a(""), [0x84222325, 0xcbf29ce4]);
  assertEquals(fnv1a("a"), [0x8601ec8c, 0xaf63dc4c]);
  assertEquals(fnv1a("foobar"), [0xf73967e8, 0x85944171]);
});

Deno.test("random() draws the words of its counter block in order", () => {
  const [low, high] = fnv1a("stream");
  const first = philox([0, 0, low, high], [7, 0]);
  const second = philox([1, 0, low, high], [7, 0]);
  const draw = random(7, "stream");
  assertEquals(take(8, () => draw.int(2 ** 32)), [...first, ...second]);
});

Deno.test("random() repeats for equal seed and stream and differs otherwise", () => {
  const sample = (seed: number, stream: string) => take(8, random(seed, stream).uniform);
  assertEquals(sample(1, "a"), sample(1, "a"));
  assertNotEquals(sample(1, "a"), sample(2, "a"));
  assertNotEquals(sample(1, "a"), sample(1, "b"));
  assertNotEquals(sample(1, "a"), sample(1 + 2 ** 32, "a"));
});

Deno.test("resumeRandom() continues exactly where the state was taken", () => {
  const mixed = (draw: Random) => [draw.uniform(), draw.int(3), draw.normal(), draw.sign(), draw.int(5)];
  for (let before = 0; before < 9; before++) {
    const draw = random(5, "resumed");
    take(before, draw.sign);
    const state = JSON.parse(JSON.stringify(draw.state()));
    assertEquals(state, { seed: 5, stream: "resumed", position: before });
    assertEquals(mixed(resumeRandom(state)), mixed(draw));
  }
  const far = { seed: Number.MAX_SAFE_INTEGER, stream: "é", position: 2 ** 45 + 3 };
  const draw = resumeRandom(far);
  const values = take(5, draw.sign);
  assertEquals(draw.state().position, far.position + 5);
  assertEquals(values, take(5, resumeRandom(far).sign));
});

Deno.test("uniform() fills [0, 1) evenly", () => {
  const values = take(64_000, random(3, "uniform").uniform);
  assertEquals(values.every((v) => v >= 0 && v < 1), true);
  const counts = new Array<number>(16).fill(0);
  for (const v of values) counts[Math.floor(v * 16)] = (counts[Math.floor(v * 16)] ?? 0) + 1;
  assertEquals(chiSquare(counts) < 37.7, true); // 99.9 % quantile at 15 degrees of freedom
});

Deno.test("int() is uniform", () => {
  for (const [n, quantile] of [[2, 10.83], [3, 13.82], [7, 22.46]] as const) {
    const counts = new Array<number>(n).fill(0);
    const draw = random(4, "int");
    take(30_000, () => draw.int(n)).forEach((v) => counts[v] = (counts[v] ?? 0) + 1);
    assertEquals(chiSquare(counts) < quantile, true, `${n}: ${counts}`);
  }
});

Deno.test("int() rejects the words that would favour small results", () => {
  const n = 3 * 2 ** 30; // a quarter of all words is drawn again
  const draw = random(6, "reject");
  const values = take(12_000, () => draw.int(n));
  assertAlmostEquals(mean(values) / n, 0.5, 0.01);
  assertAlmostEquals(draw.state().position / values.length, 4 / 3, 0.02);
});

Deno.test("normal() has the moments of the standard normal", () => {
  const values = take(60_000, random(8, "normal").normal);
  assertAlmostEquals(mean(values), 0, 0.015);
  assertAlmostEquals(mean(values.map((v) => v ** 2)), 1, 0.02);
  assertAlmostEquals(mean(values.map((v) => v ** 3)), 0, 0.05);
  assertAlmostEquals(mean(values.map((v) => v ** 4)), 3, 0.15);
  assertEquals(values.every(Number.isFinite), true);
});

Deno.test("sign() is balanced and neighbours are uncorrelated", () => {
  const values = take(40_000, random(9, "sign").sign);
  assertEquals(values.every((v) => v === 1 || v === -1), true);
  assertAlmostEquals(mean(values), 0, 0.02);
  assertAlmostEquals(mean(values.slice(1).map((v, i) => v * (values[i] ?? 0))), 0, 0.02);
});

Deno.test("streams of one seed are uncorrelated", () => {
  const a = random(1, "layers.0.adapter");
  const b = random(1, "layers.1.adapter");
  assertAlmostEquals(mean(take(40_000, () => a.normal() * b.normal())), 0, 0.02);
});

Deno.test("random() and int() throw on arguments outside their ranges", () => {
  assertThrows(() => random(-1, "x"), RangeError, "Expected the seed to be a non-negative safe integer but found -1");
  assertThrows(() => random(0.5, "x"), RangeError, "found 0.5");
  assertThrows(() => resumeRandom({ seed: 1, stream: "x", position: NaN }), RangeError, "Expected the position");
  for (const n of [0, -1, 1.5, 2 ** 32 + 1]) {
    assertThrows(
      () => random(1, "x").int(n),
      RangeError,
      `Expected the number of choices to be an integer from 1 to 2^32 but found ${n}`,
    );
  }
});

/** Pearson's statistic of counts against equal frequencies. */
function chiSquare(counts: readonly number[]): number {
  const expected = counts.reduce((a, b) => a + b, 0) / counts.length;
  return counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
}
