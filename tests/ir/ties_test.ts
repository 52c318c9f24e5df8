/** Gradients where the derivative does not exist: integer-valued codes sit exactly on the ends of a clamp. */
import { assertEquals } from "@std/assert";
import { evaluate } from "../../backends/reference/evaluate.ts";
import { lossGradients } from "../../ir/autodiff.ts";
import { type Builder, createBuilder } from "../../ir/builder.ts";
import { graphOf, type Node } from "../../ir/node.ts";
import { tensorType } from "../../ir/types.ts";

/** Gradients of Σ f(a, b) in a and in b at integers. */
function gradientsAt(
  f: (b: Builder, x: Node, y: Node) => Node,
  x: readonly number[],
  y: readonly number[] = x,
): readonly (readonly number[])[] {
  const b = createBuilder(),
    type = tensorType("f32", [x.length]),
    first = b.input("x", type),
    second = b.input("y", type);
  const graph = graphOf({ loss: b.sum(f(b, first, second), [0]) });
  const [dx, dy] = lossGradients(b, graph, "loss", [first, second]);
  const results = evaluate(graphOf({ x: dx as Node, y: dy as Node }), {
    x: Float64Array.from(x),
    y: Float64Array.from(y),
  });
  return [Array.from(results.x ?? []), Array.from(results.y ?? [])];
}

Deno.test("minimum and maximum give the gradient to the first operand on equality", () => {
  assertEquals(gradientsAt((b, x, y) => b.minimum(x, y), [1, 2, 3], [2, 2, 2]), [[1, 1, 0], [0, 0, 1]]);
  assertEquals(gradientsAt((b, x, y) => b.maximum(x, y), [1, 2, 3], [2, 2, 2]), [[0, 1, 1], [1, 0, 0]]);
});

Deno.test("a clamp passes the gradient at both of its ends", () => {
  const [dx] = gradientsAt((b, x) => b.minimum(b.maximum(x, 0), 3), [-1, 0, 1, 3, 4]);
  assertEquals(dx, [0, 1, 1, 1, 0]);
});

Deno.test("max and min share the gradient equally among ties", () => {
  assertEquals(gradientsAt((b, x) => b.max(x, [0]), [1, 3, 3, 2])[0], [0, 0.5, 0.5, 0]);
  assertEquals(gradientsAt((b, x) => b.min(x, [0]), [1, 3, 1, 1]).at(0)?.map((g) => Math.round(3 * g)), [1, 0, 1, 1]);
  assertEquals(gradientsAt((b, x) => b.max(b.maximum(x, 0), [0]), [-1, -2])[0], [0, 0]);
});

Deno.test("abs has the gradient 0 at 0", () => {
  assertEquals(gradientsAt((b, x) => b.abs(x), [-2, 0, 5])[0], [-1, 0, 1]);
});

Deno.test("a stopped gradient is straightThrough with a constant", () => {
  assertEquals(gradientsAt((b, x, y) => b.mul(b.straightThrough(x, b.constant(0, x.type)), y), [2, 3], [5, 7]), [
    [0, 0],
    [2, 3],
  ]);
});
