/**
 * What a group of the contracted axis adds to a sum: factor · (sum of the group's products) - shift, neither of which depends on the
 * elements of the group. So a factor can be applied to parts of the sum, and shifts be added up apart, of several groups at once.
 */
import type { Expr } from "../kernel.ts";
import type { CodedOperand } from "./coded_operand.ts";

/** A factor and a shift, over batch, row, column and the contracted axes but the last; undefined where they are 1 and 0. */
export interface GroupTerm {
  readonly factor?: Expr | undefined;
  readonly shift?: Expr | undefined;
}

/** The term of (codes - zero) · scale; its shift still lacks what activations sum up to, and both lack their step. */
export const termOfOperand = ({ scale, zero }: CodedOperand): GroupTerm => ({
  factor: scale,
  shift: zero && scale ? product(zero, scale) : zero,
});

/** An expression in the group's sum of integers, which has the id `inner`, as a term; undefined where it is not (sum - shift) · factor. */
export function linearTerm(expr: Expr, inner: number): GroupTerm | undefined {
  if (expr.kind !== "map" || expr.scalar !== "f32") return undefined;
  const [left, right] = expr.args;
  if (expr.op === "cast" && !expr.half) return left?.kind === "value" && left.id === inner ? {} : undefined;
  if (!left || !right) return undefined;
  if (expr.op === "sub") {
    const sum = linearTerm(left, inner);
    return sum && !sum.factor && !sum.shift && !dependsOn(right, inner) ? { shift: right } : undefined;
  }
  if (expr.op !== "mul") return undefined;
  for (const [value, factor] of [[left, right], [right, left]] as const) {
    const term = linearTerm(value, inner);
    if (!term || term.factor || dependsOn(factor, inner)) continue;
    return { factor, shift: term.shift && product(term.shift, factor) };
  }
  return undefined;
}

const product = (x: Expr, y: Expr): Expr => ({ kind: "map", op: "mul", scalar: "f32", args: [x, y] });

function dependsOn(expr: Expr, id: number): boolean {
  switch (expr.kind) {
    case "value":
      return expr.id === id;
    case "map":
      return expr.args.some((arg) => dependsOn(arg, id));
    case "gather":
      return dependsOn(expr.index, id);
    case "constant":
    case "load":
    case "index":
      return false;
    default:
      return expr satisfies never;
  }
}
