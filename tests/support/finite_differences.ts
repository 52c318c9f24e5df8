/** Gradients of the op table against central differences of the reference semantics, both in double precision. */
import { assertAlmostEquals } from "@std/assert";
import { evaluate } from "../../backends/reference/evaluate.ts";
import { gradients } from "../../ir/autodiff.ts";
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node } from "../../ir/node.ts";
import { random } from "../../ir/random.ts";
import { isFloat, sizeOf } from "../../ir/types.ts";
import type { RandomGraph } from "./random_graphs.ts";

/** Half the distance of the two points: its square, the error of the method, and 1e-16 / STEP, that of doubles, are about equal. */
const STEP = 1e-5;

/** The floating-point leaves of a graph. */
export const floatLeaves = (graph: Graph): readonly Node[] =>
  [...leavesOf(graph, "param"), ...leavesOf(graph, "input")].filter(({ type }) => isFloat(type.dtype));

/**
 * Asserts that the gradient of Σ ⟨random weights, output⟩ over all floating-point outputs agrees with its central difference
 * in every element of the leaves `wrt`.
 */
export function assertGradients({ graph, leaves }: RandomGraph, wrt: readonly Node[], where: string): void {
  const rng = random(1, where), weights: Record<string, Float64Array> = {}, b = createBuilder();
  const outputs = graph.outputs.filter(({ node }) => isFloat(node.type.dtype));
  const cotangents = Object.fromEntries(outputs.map(({ name, node }) => {
    weights[name] = Float64Array.from({ length: sizeOf(node.type.shape) }, () => 2 * rng.uniform() - 1);
    return [name, b.input(`cotangent ${name}`, node.type)];
  }));
  const found = graphOf(
    gradients(b, graph, cotangents, wrt).map((node, i) => ({ name: nameOf(wrt[i] as Node), node })),
  );
  const given = Object.fromEntries(Object.entries(weights).map(([name, data]) => [`cotangent ${name}`, data]));
  const exact = evaluate(found, { ...leaves, ...given }, { precision: "f64" });

  const objective = (name: string, data: Float64Array): number => {
    const results = evaluate(graph, { ...leaves, [name]: data }, { precision: "f64" });
    let total = 0;
    for (const { name: output } of outputs) {
      results[output]?.forEach((y, i) => total += y * (weights[output]?.[i] ?? 0));
    }
    return total;
  };
  for (const name of wrt.map(nameOf)) {
    const values = leaves[name] ?? new Float64Array(), gradient = exact[name] ?? new Float64Array();
    for (let i = 0; i < values.length; i++) {
      const at = (step: number) => objective(name, values.with(i, (values[i] ?? 0) + step));
      const difference = (at(STEP) - at(-STEP)) / (2 * STEP);
      assertAlmostEquals(
        gradient[i] ?? NaN,
        difference,
        1e-6 * (1 + Math.abs(difference)),
        `${where}: d ${name}[${i}]`,
      );
    }
  }
}
