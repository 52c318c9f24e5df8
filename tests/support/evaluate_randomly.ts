/** Evaluates graphs on random values: what a rewriting must not change. */
import { evaluate } from "../../backends/reference/evaluate.ts";
import { type Graph, leavesOf, nameOf, type Node } from "../../ir/node.ts";
import { random } from "../../ir/random.ts";
import { bindSymbols } from "../../ir/symbols.ts";
import { concreteShape, isFloat, isNarrow, rangeOf, sizeOf } from "../../ir/types.ts";

/** Outputs of a graph in double precision, with the symbol B bound to 2; leaves of one name have the same values in all graphs. */
export function evaluateRandomly(graph: Graph): Record<string, Float64Array> {
  const bound = bindSymbols(graph, { B: 2 });
  const leaves = [...leavesOf(bound, "input"), ...leavesOf(bound, "param")];
  return evaluate(bound, Object.fromEntries(leaves.map((node) => [nameOf(node), valuesOf(node)])), {
    precision: "f64",
  });
}

/** Normal numbers, any code, true or false; a leaf called s holds signs. */
function valuesOf(node: Node): Float64Array {
  const { dtype, shape } = node.type, stream = random(5, nameOf(node));
  const [low, high] = isNarrow(dtype) ? rangeOf(dtype) : [0, 1];
  const draw = () =>
    nameOf(node) === "s" ? stream.sign() : isFloat(dtype) ? stream.normal() : low + stream.int(high - low + 1);
  return Float64Array.from({ length: sizeOf(concreteShape(shape)) }, draw);
}
