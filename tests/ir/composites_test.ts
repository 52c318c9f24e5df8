import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { evaluate } from "../../backends/reference/evaluate.ts";
import { lossGradients } from "../../ir/autodiff.ts";
import { type Builder, createBuilder } from "../../ir/builder.ts";
import {
  affineQuantizer,
  cacheQuantizer,
  groupingOf,
  halfMaster,
  integerMaster,
  lowRankProduct,
  perTokenQuantizer,
} from "../../ir/composites/quantizers.ts";
import { graphOf, type Node } from "../../ir/node.ts";
import { roundEven } from "../../ir/numerics.ts";
import { random } from "../../ir/random.ts";
import { tensorType } from "../../ir/types.ts";

type Leaves = Record<string, readonly number[]>;
const f32 = (...shape: number[]) => tensorType("f32", shape);
const asValues = (leaves: Leaves) =>
  Object.fromEntries(Object.entries(leaves).map(([n, v]) => [n, Float64Array.from(v)]));
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

function assertClose(actual: ArrayLike<number> | undefined, expected: readonly number[], tolerance: number): void {
  assertEquals(actual?.length, expected.length);
  expected.forEach((x, i) => assertAlmostEquals(actual?.[i] ?? NaN, x, tolerance, `element ${i}`));
}

/** Values and gradients of Σ dy · y in double precision, where y is what `build` makes of leaves called `names`. */
function differentiate(build: (b: Builder) => Node, leaves: Leaves, dy: readonly number[]) {
  const b = createBuilder(), y = build(b), weighted = b.mul(y, b.input("dy", y.type));
  const loss = b.reshape(b.sum(weighted, y.type.shape.map((_, i) => i)), []);
  const graph = graphOf({ y, loss }), wrt = graph.nodes.filter((node) => node.op === "param");
  const names = wrt.map((node) => String(node.attrs.name));
  const grads = lossGradients(b, graph, "loss", wrt);
  const results = evaluate(
    graphOf({ y, ...Object.fromEntries(grads.map((g, i) => [`d.${names[i]}`, g])) }),
    asValues({ ...leaves, dy }),
    { precision: "f64" },
  );
  return (name: string) => Array.from(results[name] ?? []);
}

const weight = (p: number, q: number, groupSize: number, top: number) => (b: Builder) => {
  const groups = groupingOf(q, groupSize).groups;
  return affineQuantizer(b, b.param("w", f32(p, q), "checkpoint"), {
    groupSize,
    high: b.param("high", f32(p, groups, 1), "calibration"),
    low: b.param("low", f32(p, groups, 1), "calibration"),
    top,
  });
};

const ROW = [-1.0, -0.5, -0.1, 0.0, 0.2, 0.45, 0.8, 1.2];

Deno.test("affineQuantizer() and its gradients equal the golden row at 3 bits (quept-method 12.1)", () => {
  const get = differentiate(weight(1, 8, -1, 7), { w: ROW, high: [0], low: [1] }, [1, -2, 3, -4, 5, -6, 7, -8]);
  const s = 0.19015122551857214;
  assertClose(get("y"), [0, 1, 3, 4, 5, 6, 7, 7].map((c) => s * (c - 4)), 1e-15);
  assertClose(get("d.high"), [-0.24604405055438433], 1e-14);
  assertClose(get("d.low"), [-0.16125065480687467], 1e-14);
  assertClose(get("d.w"), [0.59957537959, -2, 3, -4, 5, -6, 0, -0.41007341759], 1e-11);
});

Deno.test("affineQuantizer() equals the golden row at 4 bits", () => {
  const get = differentiate(weight(1, 8, -1, 15), { w: ROW, high: [4], low: [4] }, ROW);
  assertClose(get("y"), [0, 4, 6, 7, 8, 10, 13, 15].map((c) => 0.1440286892055599 * (c - 7)), 1e-15);
});

Deno.test("affineQuantizer() without clipping is min/max quantization: errors of at most half a step", () => {
  const next = random(1, "test").normal, w = Array.from({ length: 60 }, next);
  for (const width of [2, 3, 4, 5, 6, 7, 8]) {
    const top = 2 ** width - 1, get = differentiate(weight(1, 60, -1, top), { w, high: [60], low: [60] }, w);
    const step = (Math.max(...w, 0) - Math.min(...w, 0)) / top;
    get("y").forEach((y, i) =>
      assert(Math.abs(y - (w[i] ?? 0)) <= step / 2 * (1 + 1e-9), `${width} bits, element ${i}`)
    );
  }
});

Deno.test("affineQuantizer() at the start of calibration shrinks the range by sigma(4) on both ends", () => {
  const w = [-2, 0.1, 3], get = differentiate(weight(1, 3, -1, 255), { w, high: [4], low: [4] }, w);
  const y = get("y"), factor = 0.98201379;
  assertAlmostEquals((y[2] ?? 0) - (y[0] ?? 0), 5 * factor, 1e-7);
});

Deno.test("affineQuantizer() appends zeros to the last group: 200 columns in groups of 128", () => {
  const next = random(2, "test").normal, w = Array.from({ length: 400 }, next);
  const clips = (n: number) => Array.from({ length: n }, (_, i) => 2 + i);
  const get = differentiate(weight(2, 200, 128, 15), { w, high: clips(4), low: clips(4) }, w);
  for (const row of [0, 1]) {
    for (const group of [0, 1]) {
      const own = w.slice(row * 200 + group * 128, row * 200 + Math.min(group * 128 + 128, 200));
      const padded = [...own, ...new Array<number>(128 - own.length).fill(0)], clip = [2 + row * 2 + group];
      const alone = differentiate(weight(1, 128, -1, 15), { w: padded, high: clip, low: clip }, padded);
      assertClose(
        get("y").slice(row * 200 + group * 128, row * 200 + group * 128 + own.length),
        alone("y").slice(0, own.length),
        1e-15,
      );
    }
  }
});

Deno.test("affineQuantizer() keeps zero, one-signed and outlier groups finite, with an integer zero point on the grid", () => {
  for (const w of [[0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [-3, -2, -1, -3], [0.01, 0.02, -100, 0.03]]) {
    const get = differentiate(weight(1, 4, -1, 7), { w, high: [4], low: [4] }, [1, 2, 3, 4]);
    for (const name of ["y", "d.w", "d.high", "d.low"]) assert(get(name).every(Number.isFinite), `${name} of ${w}`);
    const step = Math.max(sigmoid(4) * (Math.max(...w, 0) - Math.min(...w, 0)) / 7, 1e-5);
    const codes = get("y").map((y) => y / step);
    codes.forEach((code) => assertAlmostEquals(code, Math.round(code), 1e-9));
    assert(Math.max(...codes, 0) - Math.min(...codes, 0) <= 7 + 1e-9);
  }
  assertEquals(differentiate(weight(1, 4, -1, 7), { w: [0, 0, 0, 0], high: [4], low: [4] }, [1, 1, 1, 1])("y"), [
    0,
    0,
    0,
    0,
  ]);
});

Deno.test("affineQuantizer() rounds half to even", () => {
  // Range -3…4 in 7 steps: the step is 1, the zero point 3.
  const w = [-3, 4, 0.5, -0.5, 1.5, -1.5, 2.5],
    get = differentiate(weight(1, 7, -1, 7), { w, high: [60], low: [60] }, w);
  assertEquals(get("y").map((y) => y + 0), [-3, 4, 0, 0, 2, -2, 2]);
});

/** Ŵ of quept-method 2.1 and the closed-form gradients of 2.4 for one group whose range includes zero. */
function closedForm(v: readonly number[], dy: readonly number[], high: number, low: number, top: number) {
  const least = Math.min(...v), most = Math.max(...v), mn = Math.min(least, 0), mx = Math.max(most, 0);
  const s = (sigmoid(high) * mx - sigmoid(low) * mn) / top, z = -roundEven(sigmoid(low) * mn / s);
  const at = v.map((x) => {
    const u = x / s, t = roundEven(u) + z, c = Math.min(Math.max(t, 0), top), inside = t >= 0 && t <= top;
    return { y: (c - z) * s, inside: Number(inside), slope: inside ? roundEven(u) - u : c - z };
  });
  const total = at.reduce((sum, { slope }, i) => sum + slope * (dy[i] ?? 0), 0);
  const share = (x: number, extremum: number, passes: boolean) =>
    x === extremum && passes ? 1 / v.filter((other) => other === extremum).length : 0;
  return {
    y: at.map(({ y }) => y),
    high: total * mx * sigmoid(high) * (1 - sigmoid(high)) / top,
    low: -total * mn * sigmoid(low) * (1 - sigmoid(low)) / top,
    w: v.map((x, i) =>
      (dy[i] ?? 0) * (at[i]?.inside ?? 0) + share(x, most, most >= 0) * total * sigmoid(high) / top -
      share(x, least, least <= 0) * total * sigmoid(low) / top
    ),
  };
}

Deno.test("affineQuantizer() has the gradients of quept-method 2.4 at every width, with groups, padding and ties", () => {
  const draw = random(3, "test");
  for (const width of [2, 3, 4, 5, 6, 7, 8]) {
    for (const groupSize of [-1, 4]) {
      const top = 2 ** width - 1, q = 10, grouping = groupingOf(q, groupSize), n = 2 * grouping.groups;
      const w = Array.from({ length: 2 * q }, () => draw.int(3) === 0 ? draw.sign() * 1.5 : draw.normal());
      const high = Array.from({ length: n }, draw.normal), low = Array.from({ length: n }, draw.normal);
      const dy = Array.from({ length: 2 * q }, draw.normal);
      const get = differentiate(weight(2, q, groupSize, top), { w, high, low }, dy);
      for (let group = 0; group < n; group++) {
        const row = Math.floor(group / grouping.groups), column = group % grouping.groups * grouping.size;
        const from = row * q + column, to = row * q + Math.min(column + grouping.size, q);
        const fill = (values: readonly number[]) => [
          ...values.slice(from, to),
          ...new Array<number>(grouping.size - (to - from)).fill(0),
        ];
        const expected = closedForm(fill(w), fill(dy), high[group] ?? 0, low[group] ?? 0, top);
        const where = `${width} bits, group ${group}`;
        assertAlmostEquals(get("d.high")[group] ?? NaN, expected.high, 1e-12, where);
        assertAlmostEquals(get("d.low")[group] ?? NaN, expected.low, 1e-12, where);
        assertClose(get("y").slice(from, to), expected.y.slice(0, to - from), 1e-12);
        assertClose(get("d.w").slice(from, to), expected.w.slice(0, to - from), 1e-12);
      }
    }
  }
});

/** W + B·A. */
const withProduct = (b: Builder, rank: number, kept = 0) =>
  b.add(
    b.param("w", f32(3, 6), "checkpoint"),
    lowRankProduct(b, {
      left: b.param("left", f32(3, 4), "calibration"),
      right: b.param("right", f32(4, 6), "calibration"),
      rank,
      kept,
    }),
  );

const adapted = (rank: number, kept = 0) => (b: Builder) =>
  affineQuantizer(
    b,
    withProduct(b, rank, kept),
    {
      groupSize: -1,
      high: b.param("high", f32(3, 1, 1), "calibration"),
      low: b.param("low", f32(3, 1, 1), "calibration"),
      top: 15,
    },
  );

Deno.test("lowRankProduct() has the gradients of quept-method 2.4, exactly zero outside of its prefix", () => {
  const draw = random(4, "test"), fill = (n: number) => Array.from({ length: n }, draw.normal);
  const leaves = { w: fill(18), left: fill(12), right: fill(24), high: [1, 1, 1], low: [1, 1, 1] }, dy = fill(18);
  const get = differentiate(adapted(2), leaves, dy), inner = get("d.w");
  const at = (list: readonly number[], i: number) => list[i] ?? NaN;
  for (let i = 0; i < 3; i++) {
    for (let r = 0; r < 4; r++) {
      const sum = inner.slice(i * 6, i * 6 + 6).reduce((total, g, j) => total + g * at(leaves.right, r * 6 + j), 0);
      assertAlmostEquals(at(get("d.left"), i * 4 + r), r < 2 ? sum : 0, r < 2 ? 1e-12 : 0);
    }
  }
  assertEquals(get("d.right").slice(12), new Array(12).fill(0));
  const moved = {
    ...leaves,
    left: leaves.left.map((x, i) => i % 4 < 2 ? x : 99),
    right: leaves.right.map((x, i) => i < 12 ? x : -7),
  };
  assertEquals(differentiate(adapted(2), moved, dy)("y"), get("y"));
});

Deno.test("lowRankProduct() gives protected columns no gradient, and the others that of the whole adapter", () => {
  const draw = random(7, "test"), fill = (n: number) => Array.from({ length: n }, draw.normal);
  const leaves = { w: fill(18), left: fill(12), right: fill(24), high: [1, 1, 1], low: [1, 1, 1] }, dy = fill(18);
  const whole = differentiate(adapted(4), leaves, dy);
  for (const kept of [1, 3, 4]) {
    const get = differentiate(adapted(4, kept), leaves, dy);
    assertEquals(get("y"), whole("y"));
    assertEquals(get("d.left"), whole("d.left").map((slope, i) => i % 4 < kept ? 0 : slope));
    assertEquals(get("d.right"), whole("d.right").map((slope, i) => i < kept * 6 ? 0 : slope));
  }
});

Deno.test("lowRankProduct() with B = 0 leaves A without gradient", () => {
  const draw = random(5, "test"), fill = (n: number) => Array.from({ length: n }, draw.normal);
  const leaves = { w: fill(18), left: new Array<number>(12).fill(0), right: fill(24), high: [4, 4, 4], low: [4, 4, 4] };
  const get = differentiate(adapted(3), leaves, fill(18));
  assert(get("d.right").every((x) => x === 0));
  assert(get("d.left").some((x) => x !== 0));
});

Deno.test("lowRankProduct() merged before quantizing is bit-equal to quantizing on the fly", () => {
  const draw = random(6, "test"),
    fill = (n: number) => Float64Array.from({ length: n }, () => Math.fround(draw.normal()));
  const leaves = { w: fill(18), left: fill(12), right: fill(24), high: fill(3), low: fill(3) };
  const b = createBuilder(), fly = evaluate(graphOf({ y: adapted(4)(b) }), leaves);
  const merged = evaluate(
    graphOf({ w: withProduct(b, 4) }),
    leaves,
  );
  const again = evaluate(graphOf({ y: weight(3, 6, -1, 15)(b) }), { ...leaves, w: merged.w ?? new Float64Array() });
  assertEquals(again.y, fly.y);
});

const perToken = (tokens: number, width: number, top: number, clip = 1) => (b: Builder) =>
  perTokenQuantizer(b, b.param("x", f32(tokens, width), "checkpoint"), { top, clip });

Deno.test("perTokenQuantizer() and its gradient equal the golden token (quept-method 12.1)", () => {
  const get = differentiate(perToken(1, 4, 7), { x: [0.31, -1.4, 0.66, 0.05] }, [1, 2, -3, 4]);
  assertClose(get("y"), [0.4, -1.4, 0.6, 0], 1e-15);
  assertClose(get("d.x"), [1, 1.95, -3, 4], 1e-14);
});

Deno.test("perTokenQuantizer() shares the scale's gradient among ties of either sign", () => {
  const get = differentiate(perToken(1, 3, 7), { x: [1.4, -1.4, 0.29] }, [0, 0, 7]);
  const slope = 7 * (1 - 0.29 / 0.2); // G·(⌊u⌉ - u)
  assertClose(get("d.x"), [slope / 14, -slope / 14, 7], 1e-12);
});

Deno.test("perTokenQuantizer() scales with its token, bit by bit", () => {
  const draw = random(7, "test"), x = Float64Array.from({ length: 16 }, () => Math.fround(draw.normal()));
  const y = (factor: number) =>
    evaluate(graphOf({ y: perToken(1, 16, 7)(createBuilder()) }), { x: x.map((v) => v * factor) }).y ??
      new Float64Array();
  assertEquals(y(64), y(1).map((v) => v * 64));
});

Deno.test("perTokenQuantizer() keeps zero, tiny and outlier tokens", () => {
  const x = [0, 0, 1e-6, -5e-7, 1e4, 0.1], get = differentiate(perToken(3, 2, 127), { x }, [1, 1, 1, 1, 1, 1]);
  assertEquals(get("y").slice(0, 2), [0, 0]);
  assertClose(get("y").slice(2, 4), [1e-6, -5e-7], 5e-9);
  assertClose(get("y").slice(4), [1e4, 0], 1e-9);
  assert(get("d.x").every(Number.isFinite));
});

Deno.test("perTokenQuantizer() with a clip ratio stays on its grid", () => {
  const get = differentiate(perToken(1, 3, 7, 0.9), { x: [1, 0.5, -1] }, [1, 1, 1]);
  assertClose(get("y"), [0.9, 4 * 0.9 / 7, -0.9], 1e-14);
});

const cached = (vectors: number, width: number, top: number) => (b: Builder) =>
  cacheQuantizer(b, b.param("x", f32(vectors, width), "checkpoint"), { top, clip: 0.95 });

Deno.test("cacheQuantizer() equals the golden group (quept-method 12.1)", () => {
  const get = differentiate(cached(1, 4, 15), { x: [0.2, -0.6, 1.0, 0.1] }, [1, 1, 1, 1]);
  assertClose(get("y"), [0.20266667, -0.608, 0.912, 0.10133333], 1e-8);
});

Deno.test("cacheQuantizer() treats groups on their own; zero and constant groups are finite", () => {
  const one = [0.2, -0.6, 1.0, 0.1], x = [...one, 0, 0, 0, 0, 3, 3, 3, 3, -1, -2, -3, -1];
  const get = differentiate(cached(4, 4, 15), { x }, new Array(16).fill(1));
  assertEquals(get("y").slice(0, 4), differentiate(cached(1, 4, 15), { x: one }, one)("y"));
  assertEquals(get("y").slice(4, 8), [0, 0, 0, 0]);
  assertClose(get("y").slice(8, 12), [2.85, 2.85, 2.85, 2.85], 1e-12);
  assertAlmostEquals(Math.min(...get("y").slice(12)), -2.85, 1e-12);
  assert(get("d.x").every(Number.isFinite));
});

Deno.test("deploy forms equal train forms bit by bit", () => {
  const draw = random(8, "test"), x = Float64Array.from({ length: 24 }, () => Math.fround(draw.normal()));
  const clips = {
    high: Float64Array.from({ length: 6 }, draw.normal),
    low: Float64Array.from({ length: 6 }, draw.normal),
  };
  for (const width of [4, 5, 6, 7, 8] as const) {
    const b = createBuilder(), value = b.param("x", f32(3, 8), "checkpoint"), top = 2 ** width - 1;
    const range = {
      groupSize: 6,
      high: b.param("high", f32(3, 2, 1), "calibration"),
      low: b.param("low", f32(3, 2, 1), "calibration"),
      top,
    };
    const store = (time: "token" | "configuration") => ({ name: "x", time, dtype: `u${width}` }) as const;
    const pairs = [
      [affineQuantizer(b, value, range), affineQuantizer(b, value, { ...range, store: store("configuration") })],
      [
        perTokenQuantizer(b, value, { top: 2 ** (width - 1) - 1 }),
        perTokenQuantizer(b, value, { top: 2 ** (width - 1) - 1, codes: `i${width}` }),
      ],
      [
        cacheQuantizer(b, value, { top, clip: 0.95 }),
        cacheQuantizer(b, value, { top, clip: 0.95, store: store("token") }),
      ],
    ] as const;
    for (const [train, deploy] of pairs) {
      const results = evaluate(graphOf({ train, deploy }), { x, ...clips });
      assertEquals(results.train, results.deploy);
    }
  }
});

for (const fine of [false, true]) {
  const what = fine ? "an eighth" : "half";
  Deno.test(`integerMaster() keeps each weight within ${what} of a step of its group's f16 scale; zero stays zero`, () => {
    const draw = random(9, "test"),
      w = Float64Array.from({ length: 2 * 80 }, (_, i) => i < 64 || i % 9 === 0 ? 0 : Math.fround(draw.normal()));
    const b = createBuilder(), weight = b.param("w", f32(2, 80), "checkpoint");
    const graph = graphOf({ y: integerMaster(b, weight, { name: "w", groupSize: 64, fine }) });
    const y = evaluate(graph, { w }).y ?? new Float64Array();
    const names = graph.nodes.filter((n) => n.op === "hold").map((n) =>
      `${n.attrs.name} ${n.type.dtype}[${n.type.shape}]`
    );
    assertEquals(names.sort(), [
      "w.master.codes i8[2,2,64]",
      ...(fine ? ["w.master.fine u2[2,2,64]"] : []),
      "w.master.scales f16[2,2,1]",
    ]);
    const largest = Math.max(...w.map(Math.abs)), step = largest / 127 / (fine ? 4 : 1);
    y.forEach((v, i) => {
      assert(Math.abs(v - (w[i] ?? 0)) <= step * 0.5 * 1.001 + largest * 2 ** -11);
      if (w[i] === 0) assertEquals(v, 0);
    });
  });
}

Deno.test("halfMaster() is the weight in half precision", () => {
  const b = createBuilder(), y = halfMaster(b, b.param("w", f32(1, 3), "checkpoint"), "w");
  assertEquals([...evaluate(graphOf({ y }), { w: Float64Array.of(1, 0.1, 2049) }).y ?? []], [1, 0.0999755859375, 2048]);
});

Deno.test("quantizers refuse what they cannot group", () => {
  assertThrows(
    () => groupingOf(8, 0),
    RangeError,
    "Expected a group size of 1 or more, or -1 for whole rows, but found 0",
  );
  const b = createBuilder(), x = b.param("x", f32(2, 2, 2), "checkpoint");
  assertThrows(
    () => halfMaster(b, x, "x") && integerMaster(b, x, { name: "x", groupSize: 64, fine: false }),
    TypeError,
    "Expected a matrix",
  );
});
