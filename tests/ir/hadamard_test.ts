import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { hadamardFactor, hadamardMatrix, hadamardTransform } from "../../ir/hadamard.ts";
import { random } from "../../ir/random.ts";

const ORDERS = [
  ...[1, 2, 4, 8, 12, 16, 20, 24, 28, 36, 40, 44, 48, 52, 60, 68, 76, 80, 84, 92, 100, 104, 108, 116, 124, 140, 148],
  ...[156, 172, 212, 220, 228, 232],
];

const randomRow = (n: number) => {
  const draw = random(1, `hadamard.${n}`);
  return Float64Array.from({ length: n }, draw.normal);
};
const norm = (x: Float64Array) => Math.hypot(...x);

function assertClose(actual: Float64Array, expected: Float64Array, tolerance = 1e-12) {
  assertEquals(actual.length, expected.length);
  actual.forEach((value, i) => assertAlmostEquals(value, expected[i] ?? NaN, tolerance));
}

/** T_n x by the definition, with the Kronecker product's entries computed one by one. */
function explicitTransform(x: Float64Array, K: number, m: number, transposed: boolean): Float64Array {
  const n = x.length;
  const matrix = hadamardMatrix(K);
  const parity = (bits: number) => bits.toString(2).replaceAll("0", "").length % 2;
  const entry = (i: number, j: number) =>
    (matrix[(i >> m) * K + (j >> m)] ?? NaN) * (parity(i & j & (2 ** m - 1)) ? -1 : 1) / Math.sqrt(n);
  return Float64Array.from(x, (_, i) => x.reduce((sum, v, j) => sum + v * (transposed ? entry(j, i) : entry(i, j)), 0));
}

for (const K of ORDERS) {
  Deno.test(`hadamardMatrix(${K}) holds signs and has orthogonal rows`, () => {
    const h = hadamardMatrix(K);
    assertEquals(h.length, K * K);
    assertEquals(h.every((value) => value === 1 || value === -1), true);
    for (let i = 0; i < K; i++) {
      for (let j = 0; j <= i; j++) {
        let product = 0;
        for (let k = 0; k < K; k++) product += (h[i * K + k] ?? 0) * (h[j * K + k] ?? 0);
        assertEquals(product, i === j ? K : 0, `rows ${i} and ${j}`);
      }
    }
  });
}

Deno.test("hadamardMatrix() throws for orders that have none and for orders it does not know", () => {
  assertThrows(
    () => hadamardMatrix(6),
    RangeError,
    "Cannot build a Hadamard matrix of order 6: expected 1, 2 or a multiple of 4",
  );
  assertThrows(
    () => hadamardMatrix(668),
    RangeError,
    "Cannot build a Hadamard matrix of order 668: no construction is known here",
  );
  assertThrows(() => hadamardMatrix(2.5), RangeError, "to be a positive integer but found 2.5");
});

Deno.test("hadamardFactor() takes the smallest constructible factor of every model's sizes", () => {
  const sizes: [n: number, K: number][] = [
    ...[64, 128, 2048, 4096, 8192].map((n): [number, number] => [n, 1]),
    [11008, 172],
    [14336, 28],
    [5120, 20],
    [13824, 108],
    [3584, 28],
    [18944, 148],
    [896, 28],
    [4864, 76],
    [1536, 12],
    [8960, 140],
    [5632, 44],
    [384, 12],
    [768, 12],
    [3072, 12],
    [576, 36],
    [960, 60],
    [2560, 20],
    [172, 172],
    [47 * 64, 752], // 4·47 has no construction here
  ];
  for (const [n, K] of sizes) assertEquals(hadamardFactor(n), { K, m: Math.log2(n / K) });
});

Deno.test("hadamardFactor() is undefined where no Hadamard matrix exists or is known", () => {
  for (const n of [0, -4, 1.5, 3, 6, 43, 86, 1000003, 167 * 4]) assertEquals(hadamardFactor(n), undefined);
});

for (const n of [1, 2, 64, 12, 24, 96, 112, 136, 160, 184, 312, 688]) {
  Deno.test(`hadamardTransform() of ${n} values equals the explicit Kronecker product`, () => {
    const x = randomRow(n);
    const { K, m } = hadamardFactor(n) ?? { K: 0, m: 0 };
    for (const transposed of [false, true]) {
      assertClose(hadamardTransform(x, { transposed }), explicitTransform(x, K, m, transposed));
    }
  });
}

Deno.test("hadamardTransform() is inverted by its transpose and keeps the norm", () => {
  for (const n of [128, 384, 11008, 14336, 4864]) {
    const x = randomRow(n);
    const y = hadamardTransform(x);
    assertAlmostEquals(norm(y), norm(x), 1e-9);
    assertClose(hadamardTransform(y, { transposed: true }), x);
    assertClose(hadamardTransform(hadamardTransform(x, { transposed: true })), x);
  }
});

Deno.test("hadamardTransform() on both operands of a product leaves it, its transpose on one does not", () => {
  for (const n of [12, 20, 60, 108, 140, 156, 172]) {
    const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);
    const w = randomRow(n);
    const a = randomRow(n).reverse();
    assertAlmostEquals(dot(hadamardTransform(w), hadamardTransform(a)), dot(w, a), 1e-10);
    const mixed = dot(hadamardTransform(w, { transposed: true }), hadamardTransform(a));
    assertEquals(Math.abs(mixed - dot(w, a)) > 1e-3, true);
  }
});

Deno.test("hadamardTransform() takes rows apart, keeps the type and leaves its argument alone", () => {
  const x = Float32Array.from(randomRow(3 * 24));
  const before = x.slice();
  const y = hadamardTransform(x, { rowLength: 24 });
  assertEquals(x, before);
  assertEquals(y instanceof Float32Array, true);
  for (const row of [0, 1, 2]) {
    assertEquals(y.slice(row * 24, row * 24 + 24), hadamardTransform(x.slice(row * 24, row * 24 + 24)));
  }
});

Deno.test("hadamardTransform() spreads one outlier over the whole row", () => {
  const x = new Float64Array(96);
  x[17] = 1;
  assertEquals(new Set(hadamardTransform(x).map(Math.abs)), new Set([1 / Math.sqrt(96)]));
});

Deno.test("hadamardTransform() throws for unknown lengths and for parts of rows", () => {
  assertThrows(() => hadamardTransform(new Float32Array(43)), RangeError, "Hadamard matrix of order 43");
  assertThrows(() => hadamardTransform(new Float32Array(0)), RangeError, "but found 0");
  const part = () => hadamardTransform(new Float32Array(20), { rowLength: 12 });
  assertThrows(part, RangeError, "Expected whole rows of 12 values but found 20 values");
});
