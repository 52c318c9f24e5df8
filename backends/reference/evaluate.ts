/** Evaluates graphs with the reference semantics of the op table: slow, obvious, the oracle of every test. */
import { type Graph, nameOf, type Node } from "../../ir/node.ts";
import { halfBits, halfValue } from "../../ir/numerics.ts";
import { recordOf } from "../../ir/ops.ts";
import type { Values } from "../../ir/ops/record.ts";
import { type DType, sizeOf, typeText } from "../../ir/types.ts";

/** How precise the evaluation is. */
export interface EvaluateOptions {
  /** `f32` (default) rounds every result to its type; `f64` keeps doubles, for finite differences. */
  readonly precision?: "f32" | "f64";
}

/**
 * Computes the outputs of a graph.
 *
 * @param graph a graph with concrete shapes
 * @param leaves row-major values of every `param` and `input`, by name
 * @returns row-major values of every output, by name
 */
export function evaluate(
  graph: Graph,
  leaves: Readonly<Record<string, Float64Array>>,
  { precision = "f32" }: EvaluateOptions = {},
): Record<string, Float64Array> {
  const values = new Map<Node, Values>();
  for (const node of graph.nodes) {
    const data = node.op === "param" || node.op === "input" ? leafValues(node, leaves) : compute(node, values);
    values.set(node, { type: node.type, data: precision === "f32" ? roundTo(node.type.dtype, data) : data });
  }
  return Object.fromEntries(
    graph.outputs.map(({ name, node }) => [name, values.get(node)?.data ?? new Float64Array()]),
  );
}

function compute(node: Node, values: ReadonlyMap<Node, Values>): Float64Array {
  const inputs = node.inputs.map((input) => {
    const found = values.get(input);
    if (!found) throw new Error(`Internal error in evaluate: operand of ${node.op} is not computed yet`);
    return found;
  });
  const { evaluate: semantics } = recordOf(node.op);
  if (!semantics) throw new TypeError(`Cannot evaluate ${node.op}: it has no reference semantics`);
  return semantics(inputs, node.attrs, node.type);
}

function leafValues(node: Node, leaves: Readonly<Record<string, Float64Array>>): Float64Array {
  const data = leaves[nameOf(node)], size = sizeOf(node.type.shape);
  if (data?.length === size) return data;
  throw new RangeError(
    `Expected ${size} values for ${node.op} "${nameOf(node)}" of ${typeText(node.type)} but found ${
      data?.length ?? "none"
    }`,
  );
}

function roundTo(dtype: DType, data: Float64Array): Float64Array {
  if (dtype === "f32") return data.map(Math.fround);
  return dtype === "f16" ? data.map((x) => halfValue(halfBits(x))) : data;
}
