import { assert, assertEquals } from "@std/assert";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { logSoftmax, silu, softmax } from "../../../ir/composites/activations.ts";
import { rmsNorm } from "../../../ir/composites/norms.ts";
import { graphOf, type Node } from "../../../ir/node.ts";
import { tensorType } from "../../../ir/types.ts";
import { maxDifference } from "../../support/run_module.ts";

const b = createBuilder();
const x = b.input("x", tensorType("f32", [2, 3]));
const run = (y: Node, leaves: Record<string, Float64Array>) =>
  evaluate(graphOf({ y }), leaves, { precision: "f64" }).y ?? new Float64Array();
const values = Float64Array.of(1, -2, 3, 0.5, 0, 1000);

Deno.test("rmsNorm() divides by the root mean square and multiplies by the gain", () => {
  const gain = b.param("gain", tensorType("f32", [3]), "checkpoint");
  const found = run(rmsNorm(b, x, 0.25, gain), { x: values, gain: Float64Array.of(1, 2, -1) });
  const [first, second] = [Math.sqrt(14 / 3 + 0.25), Math.sqrt((0.25 + 1e6) / 3 + 0.25)] as const;
  const plain = [1 / first, -2 / first, 3 / first, 0.5 / second, 0, 1000 / second];
  assert(maxDifference(run(rmsNorm(b, x, 0.25), { x: values }), plain) < 1e-14);
  assert(maxDifference(found, plain.map((value, i) => value * ([1, 2, -1][i % 3] ?? 0))) < 1e-14);
});

Deno.test("softmax() and logSoftmax() agree, sum to one along either axis, and bear large values", () => {
  for (const axis of [0, 1]) {
    const p = run(softmax(b, x, axis), { x: values }), logs = run(logSoftmax(b, x, axis), { x: values });
    assert(maxDifference(p, logs.map(Math.exp)) < 1e-14);
    assert(p.every((value) => value >= 0 && value <= 1));
    assert(logs.every(Number.isFinite), "no logarithm of an underflow");
    const totals = run(b.sum(softmax(b, x, axis), [axis]), { x: values });
    assert(maxDifference(totals, totals.map(() => 1)) < 1e-14);
  }
  const [, , last] = run(logSoftmax(b, x, 1), { x: Float64Array.of(0, Math.log(2), Math.log(5), 0, 0, 0) });
  assert(Math.abs((last ?? 0) - Math.log(5 / 8)) < 1e-15);
});

Deno.test("silu() is x · sigmoid(x)", () => {
  const found = run(silu(b, x), { x: values });
  assertEquals(found.length, 6);
  assert(maxDifference(found, values.map((v) => v / (1 + Math.exp(-v)))) < 1e-14);
});
