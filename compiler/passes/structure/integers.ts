/** Which values are provably integers, and within which bounds: what makes `unpack(pack(c)) = c` a theorem. */
import type { Node } from "../../../ir/node.ts";
import { isMovement } from "../../../ir/ops.ts";
import { isInteger, rangeOf } from "../../../ir/types.ts";
import { splatOf } from "./values.ts";

/** Smallest and largest value, both included. */
export type Range = readonly [low: number, high: number];

const ANY: Range = [-Infinity, Infinity];

/** Bounds of a value that is an integer in every element, or `undefined` where that is not provable. */
export function integerRange(node: Node): Range | undefined {
  const splat = splatOf(node), [p, q] = node.inputs;
  if (splat !== undefined) return Number.isInteger(splat) ? [splat, splat] : undefined;
  if (isInteger(node.type.dtype)) return rangeOf(node.type.dtype);
  if (!p) return undefined;
  if (isMovement(node.op) && node.inputs.length === 1 && node.op !== "pad") return integerRange(p);
  switch (node.op) {
    case "round":
    case "floor":
      return integerRange(p) ?? ANY;
    case "cast":
    case "straightThrough":
    case "hold":
      return integerRange(p);
    case "minimum":
      return combine(p, q, (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1])]);
    case "maximum":
      return combine(p, q, (a, b) => [Math.max(a[0], b[0]), Math.max(a[1], b[1])]);
    default:
      return undefined;
  }
}

function combine(p: Node, q: Node | undefined, join: (a: Range, b: Range) => Range): Range | undefined {
  const a = integerRange(p), b = q && integerRange(q);
  return a && b && join(a, b);
}
