/**
 * Transforms at run time, where no weight can take them: `a · W = (T a) · (T W)` before linear layers that follow an elementwise
 * function (down projections; quept-method.md 6.1), and `attention(T q, T k, v) = attention(q, k, v)` where keys are quantized.
 */
import type { Builder } from "../../../ir/builder.ts";
import { concreteDim } from "../../../ir/dim.ts";
import { hadamardFactor } from "../../../ir/hadamard.ts";
import type { Node } from "../../../ir/node.ts";
import { isMap, isMovement } from "../../../ir/ops.ts";
import { dotAxes } from "../../../ir/ops/contractions.ts";
import { rewrite } from "../../../ir/rewrite.ts";
import { functionPass, type NamedPass } from "../pass.ts";
import { isCheckpointTime, isConstantAlong } from "./values.ts";

/** Which transforms to insert. */
export interface OnlineHadamardOptions {
  /** Also on queries and keys of every attention, for quantized keys. */
  readonly keys: boolean;
}

/** The pass. Axes of a length without a Hadamard matrix are left as they are, with a note. */
export const onlineHadamard = ({ keys }: OnlineHadamardOptions): NamedPass =>
  functionPass("online_hadamard", (graph, { note }, name) => {
    const usable = (n: number, what: string): boolean => {
      if (hadamardFactor(n)) return true;
      note(`${what} of "${name}" keep their basis: no Hadamard matrix of order ${n} is known here`);
      return false;
    };
    return rewrite(graph, (node, b) => {
      if (node.op === "dot") return transformLinear(node, b, usable);
      return keys && node.op === "attention" ? transformKeys(node, b, usable) : undefined;
    });
  });

type Usable = (n: number, what: string) => boolean;

function transformLinear(node: Node, b: Builder, usable: Usable): Node | undefined {
  const [x, w] = node.inputs;
  if (!x || !w || isCheckpointTime(x) || !isCheckpointTime(w)) return undefined;
  const { lhsContract, rhsContract } = dotAxes([x.type, w.type], node.attrs);
  const [axis, weightAxis] = [lhsContract.at(-1), rhsContract.at(-1)];
  if (axis === undefined || weightAxis === undefined || !isElementwise(x)) return undefined;
  const width = concreteDim(x.type.shape[axis] ?? 1);
  if (!usable(width, "inputs of a linear layer")) return undefined;
  return b.make("dot", [b.hadamard(x, axis), b.hadamard(w, weightAxis)], node.attrs);
}

function transformKeys(node: Node, b: Builder, usable: Usable): Node | undefined {
  const [q, k, ...rest] = node.inputs;
  if (!q || !k || !usable(concreteDim(k.type.shape[3] ?? 1), "queries and keys")) return undefined;
  return b.make("attention", [b.hadamard(q, 3), b.hadamard(k, 3), ...rest], node.attrs);
}

/**
 * Whether a value comes from an elementwise function, which commutes with no rotation. Sums, scales and movements of values that are
 * none do not count (norms are scales): their rotation comes with the residual stream's or with that of attention's values.
 */
function isElementwise(x: Node): boolean {
  const [p, q] = x.inputs, axis = x.type.shape.length - 1;
  if (x.op === "cast" || (isMovement(x.op) && x.op !== "gather")) return x.inputs.some(isElementwise);
  if (!isMap(x.op) || isCheckpointTime(x)) return false;
  if (!p || !q) return true;
  if (x.op === "add" || x.op === "sub") return isElementwise(p) || isElementwise(q);
  const scaled = isScale(q, axis) ? p : x.op === "mul" && isScale(p, axis) ? q : undefined;
  return (x.op === "mul" || x.op === "div") && scaled ? isElementwise(scaled) : true;
}

const isScale = (factor: Node, axis: number): boolean => isCheckpointTime(factor) || isConstantAlong(factor, axis);
