/** The affine quantizer with adapters that act on its grid (quept-method 4.4, types 2 and 3). */
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { evaluate } from "../../backends/reference/evaluate.ts";
import { lossGradients } from "../../ir/autodiff.ts";
import { type Builder, createBuilder } from "../../ir/builder.ts";
import { affineQuantizer, POLICY_SLOPE } from "../../ir/composites/quantizers.ts";
import { graphOf, type Node } from "../../ir/node.ts";
import { roundEven } from "../../ir/numerics.ts";
import { random } from "../../ir/random.ts";
import { tensorType } from "../../ir/types.ts";

const ROWS = 3, COLUMNS = 7, TOP = 15, SPACES = ["scale", "rounding"] as const;
const f32 = (...shape: number[]) => tensorType("f32", shape);
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

/** Quantizes w in groups of 4, the last of which pads; the product is a leaf. */
function quantizer(b: Builder, space: typeof SPACES[number] | undefined, deploy = false): Node {
  const clip = (name: string) => b.param(name, f32(ROWS, 2, 1), "calibration");
  const product = b.param("product", f32(ROWS, COLUMNS), "calibration");
  return affineQuantizer(b, b.param("w", f32(ROWS, COLUMNS), "checkpoint"), {
    groupSize: 4,
    high: clip("high"),
    low: clip("low"),
    top: TOP,
    ...(space ? { adapter: { space, product: space === "rounding" ? b.mul(product, POLICY_SLOPE) : product } } : {}),
    ...(deploy ? { store: { name: "w", time: "configuration" as const, dtype: "u4" as const } } : {}),
  });
}

function values(seed: number, size: number): Record<string, Float64Array> {
  const draw = random(seed, "adapter spaces"),
    fill = (n: number, scale = 1) => Float64Array.from({ length: n }, () => Math.fround(draw.normal() * scale));
  const area = ROWS * COLUMNS;
  return { w: fill(area), product: fill(area, size), high: fill(ROWS * 2).map((x) => x + 3), low: fill(ROWS * 2) };
}

/** Scale and zero point of an element, and its weight in steps, from the formulas of quept-method 2.2. */
function gridAt({ w = new Float64Array(), high = w, low = w }: Record<string, Float64Array>, i: number) {
  const row = Math.floor(i / COLUMNS), group = Math.floor(i % COLUMNS / 4), at = row * 2 + group;
  const members = w.subarray(row * COLUMNS + group * 4, row * COLUMNS + Math.min(group * 4 + 4, COLUMNS));
  const hi = sigmoid(high[at] ?? 0) * Math.max(0, ...members), lo = sigmoid(low[at] ?? 0) * Math.min(0, ...members);
  const scale = (hi - lo) / TOP, zero = -roundEven(lo / scale);
  return { scale, zero, u: (w[i] ?? 0) / scale };
}

/** ⌊W/s + BA⌉, or ⌊W/s⌋ + ⌊ΔW⌉, before the clamp; and the derivative of what is rounded. */
function roundedAt(space: typeof SPACES[number], u: number, product: number): { code: number; slope: number } {
  if (space === "scale") return { code: roundEven(u + product), slope: 1 };
  const up = u - Math.floor(u) + 0.3 * product, slope = up > 0 && up < 1 ? 0.3 : 0;
  return { code: Math.floor(u) + roundEven(Math.min(Math.max(up, 0), 1)), slope };
}

Deno.test("adapters of a grid that are zero leave rounding to nearest", () => {
  const b = createBuilder(), leaves = { ...values(1, 1), product: new Float64Array(ROWS * COLUMNS) };
  const graph = graphOf({
    plain: quantizer(b, undefined),
    scale: quantizer(b, "scale"),
    rounding: quantizer(b, "rounding"),
  });
  const { plain, scale, rounding } = evaluate(graph, leaves);
  assertEquals(scale, plain);
  assertEquals(rounding, plain);
});

Deno.test("adapters of a grid follow the formulas of quept-method 4.4, and so do their gradients", () => {
  for (const space of SPACES) {
    let moved = 0;
    for (let seed = 0; seed < 20; seed++) {
      const leaves = values(seed, 2), draw = random(seed, "slopes"), b = createBuilder(), y = quantizer(b, space);
      const dy = Float64Array.from({ length: ROWS * COLUMNS }, draw.normal);
      const loss = b.reshape(b.sum(b.mul(y, b.input("dy", y.type)), [0, 1]), []), graph = graphOf({ y, loss });
      const product = graph.nodes.find(({ op, attrs }) => op === "param" && attrs.name === "product") as Node;
      const [slope = y] = lossGradients(b, graph, "loss", [product]);
      const found = evaluate(graphOf({ y, slope }), { ...leaves, dy }, { precision: "f64" });
      for (let i = 0; i < ROWS * COLUMNS; i++) {
        const { scale, zero, u } = gridAt(leaves, i), expected = roundedAt(space, u, leaves.product?.[i] ?? 0);
        const code = expected.code + zero, clamped = Math.min(Math.max(code, 0), TOP);
        assertAlmostEquals(found.y?.[i] ?? NaN, (clamped - zero) * scale, 1e-9, `${space} ${seed} [${i}]`);
        const gradient = clamped === code ? (dy[i] ?? 0) * scale * expected.slope : 0;
        assertAlmostEquals(found.slope?.[i] ?? NaN, gradient, 1e-9, `${space} ${seed} gradient [${i}]`);
        if (expected.code !== roundEven(u)) moved++;
      }
    }
    assert(moved > 40, `${moved} codes moved in ${space} space`);
  }
});

Deno.test("adapters of rounding policies move codes by less than one step", () => {
  const b = createBuilder(), graph = graphOf({ plain: quantizer(b, undefined), y: quantizer(b, "rounding") });
  const leaves = values(3, 50), { plain, y } = evaluate(graph, leaves, { precision: "f64" });
  for (let i = 0; i < ROWS * COLUMNS; i++) {
    const { scale } = gridAt(leaves, i), steps = Math.abs((y?.[i] ?? NaN) - (plain?.[i] ?? NaN)) / scale;
    assert(steps < 1e-9 || Math.abs(steps - 1) < 1e-9, `${steps} steps`);
  }
});

Deno.test("deploy forms with adapters of a grid equal train forms bit by bit", () => {
  for (const space of SPACES) {
    const b = createBuilder(), graph = graphOf({ train: quantizer(b, space), deploy: quantizer(b, space, true) });
    for (let seed = 0; seed < 20; seed++) {
      const { train, deploy } = evaluate(graph, values(seed, 2));
      assertEquals(train, deploy, space);
    }
  }
});
