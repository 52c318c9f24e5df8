import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { batchesOf, pickRows } from "../../../compiler/calibrate/batches.ts";
import { MERGE_INPUTS, mergeProgram } from "../../../compiler/calibrate/merge.ts";
import { adamProgram, stepScalars } from "../../../compiler/calibrate/optimizer.ts";
import { reconstructionLoss } from "../../../compiler/calibrate/block_losses.ts";
import { TRAIN_LEAVES, trainProgram } from "../../../compiler/calibrate/train_program.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { graphOf } from "../../../ir/node.ts";
import { tensorType } from "../../../ir/types.ts";

const flat = (rows: readonly (readonly number[])[]) => Float64Array.from(rows.flat());
const near = (found: ArrayLike<number>, expected: readonly number[], tolerance = 1e-6) => {
  assertEquals(found.length, expected.length);
  expected.forEach((value, i) => assertAlmostEquals(found[i] ?? NaN, value, tolerance));
};

const merge = (
  groups: readonly (readonly (readonly number[])[])[],
  options: { top: number; weights: number[] },
  valid?: number[],
) => {
  const tokens = groups[0]?.length ?? 0;
  const graph = mergeProgram([1, tokens, 2], groups.length, { kind: "selective", ...options });
  const leaves = Object.fromEntries(groups.map((rows, g) => [MERGE_INPUTS.group(g), flat(rows)]));
  return evaluate(graph, {
    ...leaves,
    [MERGE_INPUTS.tokenWeights]: Float64Array.from(valid ?? new Array(tokens).fill(1)),
  }).merged ?? [];
};

const HIGH = [[1, .1], [1, 1], [1, .9], [0, 2]],
  MIDDLE = [[1, .2], [.5, 1], [1, .5], [1, 1]],
  LOW = [[1, 0], [0, 1], [1, 1], [2, 0]];

Deno.test("mergeProgram() keeps the most alike half and averages the rest (golden of section 12.1)", () => {
  near(merge([HIGH, MIDDLE, LOW], { top: 0.5, weights: [0.3, 0.3, 0.4] }), [1, .1, .45, 1, 1, .9, 1.1, .9]);
});

Deno.test("mergeProgram() keeps everything at top = 1 and averages everything at top = 0", () => {
  near(merge([HIGH, MIDDLE, LOW], { top: 1, weights: [0.3, 0.3, 0.4] }), HIGH.flat());
  const average = HIGH.flat().map((x, i) => 0.3 * x + 0.3 * (MIDDLE.flat()[i] ?? 0) + 0.4 * (LOW.flat()[i] ?? 0));
  near(merge([HIGH, MIDDLE, LOW], { top: 0, weights: [0.3, 0.3, 0.4] }), average);
});

Deno.test("mergeProgram() gives equal outputs back, breaks ties by index and does not count padding", () => {
  near(merge([HIGH, HIGH, HIGH], { top: 0.5, weights: [0.3, 0.3, 0.4] }), HIGH.flat());
  const same = [[1, 0], [1, 0], [1, 0]], other = [[2, 0], [2, 0], [2, 0]];
  // All cosines are 1: of three tokens one is kept, the first; with padding in front the first real one.
  near(merge([same, other], { top: 0.4, weights: [0.5, 0.5] }), [1, 0, 1.5, 0, 1.5, 0]);
  near(merge([same, other], { top: 0.5, weights: [0.5, 0.5] }, [0, 1, 1]), [1.5, 0, 1, 0, 1.5, 0]);
});

Deno.test("trainProgram() computes the loss as coded: a sum over tokens, a mean over the rest (golden of section 12.1)", () => {
  const b = createBuilder(), graph = graphOf({ h: b.input("h", tensorType("f32", [1, 3, 2])) });
  for (const [power, expected] of [[1, 3.5], [2, 7.5]] as const) {
    const { [TRAIN_LEAVES.lossSum]: loss } = evaluate(trainProgram(graph, reconstructionLoss(power)), {
      h: Float64Array.of(1, 2, 3, 4, 0, 0),
      [TRAIN_LEAVES.target]: Float64Array.of(0, 2, 1, 7, 1, 0),
      [TRAIN_LEAVES.tokenWeights]: Float64Array.of(1, 1, 1),
      [TRAIN_LEAVES.lossSum]: Float64Array.of(0),
      [TRAIN_LEAVES.lossWeight]: Float64Array.of(1),
    });
    near(loss ?? [], [expected]);
  }
});

Deno.test("adamProgram() makes the steps of Adam and leaves the gradient at zero", () => {
  const graph = adamProgram(2), rate = 0.1;
  let state = { values: [1, -2], moment1: [0, 0], moment2: [0, 0] };
  const expected = { p: [1, -2], m: [0, 0], v: [0, 0] };
  for (const [t, g] of [[1, [0.5, -3]], [2, [0.25, 0]], [3, [-1, 2]]] as const) {
    const scalars = stepScalars(t, 10, rate);
    const result = evaluate(graph, {
      values: Float64Array.from(state.values),
      moment1: Float64Array.from(state.moment1),
      moment2: Float64Array.from(state.moment2),
      gradient: Float64Array.from(g),
      rate: Float64Array.of(scalars.rate),
      correction1: Float64Array.of(scalars.correction1),
      correction2: Float64Array.of(scalars.correction2),
    }, { precision: "f64" });
    g.forEach((x, i) => {
      expected.m[i] = 0.9 * (expected.m[i] ?? 0) + 0.1 * x;
      expected.v[i] = 0.999 * (expected.v[i] ?? 0) + 0.001 * x * x;
      const mean = (expected.m[i] ?? 0) / (1 - 0.9 ** t), square = (expected.v[i] ?? 0) / (1 - 0.999 ** t);
      expected.p[i] = (expected.p[i] ?? 0) - scalars.rate * mean / (Math.sqrt(square) + 1e-8);
    });
    near(result.values ?? [], expected.p, 1e-12);
    near(result.gradient ?? [], [0, 0]);
    const list = (name: string) => Array.from(result[name] ?? []);
    state = { values: list("values"), moment1: list("moment1"), moment2: list("moment2") };
  }
});

Deno.test("stepScalars() falls along a cosine from the rate to a hundredth of it", () => {
  assertAlmostEquals(stepScalars(1, 100, 1).rate, 1);
  assertAlmostEquals(stepScalars(51, 100, 1).rate, 0.505);
  assertAlmostEquals(stepScalars(101, 100, 1).rate, 0.01);
});

Deno.test("batchesOf() pads behind the end with weight 0 and fills the last batch up", () => {
  const { list, tokens } = batchesOf([Int32Array.of(5, 6, 7), Int32Array.of(8), Int32Array.of(9, 9)], 2, 2);
  assertEquals(tokens, 2);
  assertEquals(list.map(({ ids }) => [...ids]), [[5, 6, 8, 0], [9, 9, 0, 0]]);
  assertEquals(list.map(({ weights }) => [...weights]), [[1, 1, 1, 0], [1, 1, 0, 0]]);
  assert(list.every(({ positions }) => [...positions].join() === "0,1,0,1"));
});

Deno.test("pickRows() takes row i from the i-th source", () => {
  assertEquals([...pickRows([Float32Array.of(1, 2, 3, 4), Float32Array.of(5, 6, 7, 8)], 2)], [1, 2, 7, 8]);
});
