/**
 * Sums over groups of the contracted axis. What a group adds is factor · (sum of the group's products) - shift, neither of which depends
 * on the elements of the group. So a factor is applied to the four parts of a sum that a vector holds, and shifts are added up apart,
 * those of four groups at a time; and the parts of a total are summed up once, behind the last group.
 */
import { valuesIn } from "../exprs.ts";
import type { Expr } from "../kernel.ts";
import { type LeftBytes, sumsOffset } from "./activations.ts";
import { f32x4, i32, v128 } from "./assembler.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { type Contraction, outerAxes, ROW } from "./contraction.ts";
import { firstLanes } from "./lanes.ts";
import { nestedLoops, vectorLoop, withinAll } from "./nest.ts";
import type { Place, Vector } from "./place.ts";

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
    return sum && !sum.factor && !sum.shift && !valuesIn(right).includes(inner) ? { shift: right } : undefined;
  }
  if (expr.op !== "mul") return undefined;
  for (const [value, factor] of [[left, right], [right, left]] as const) {
    const term = linearTerm(value, inner);
    if (!term || term.factor || valuesIn(factor).includes(inner)) continue;
    return { factor, shift: term.shift && product(term.shift, factor) };
  }
  return undefined;
}

/** Totals by column and row, as vectors of four parts. */
export interface GroupTotals {
  /** Adds those of an open group, of which `sums` are the products. */
  add(sums: (column: number, row: number) => Vector): void;
  /** Takes off the shifts of all groups. */
  shift(): void;
  value(column: number, row: number): Vector;
}

/** Starts the totals of some columns, which are open in `lanes`. */
export function createGroupTotals(
  lanes: readonly Place[],
  contraction: Contraction,
  left: LeftBytes,
  { factor, shift }: GroupTerm,
): GroupTotals {
  const [lane] = lanes, { extents } = contraction, rows = extents[ROW] ?? 1, outer = outerAxes(contraction);
  if (!lane) throw new Error("Internal error: there are no columns");
  const { b, math } = lane.code, hasSteps = left.digits > 1;
  const totals = lanes.map(() => Array.from({ length: rows }, () => b.let("total", f32x4.const(0))));
  /** Changes every total: by row, what is the same for all columns, then by column. */
  const change = (
    ofRow: () => Vector,
    changed: (total: Vector, column: number, row: number, common: Vector) => Vector,
  ) => {
    for (let row = 0; row < rows; row++) {
      withinAll(lanes, ROW, i32.const(row), undefined, () => {
        const common = hasSteps ? ofRow() : f32x4.const(1);
        totals.forEach((own, column) => {
          const total = own[row];
          if (total) b.set(total, changed(total, column, row, common));
        });
      });
    }
  };
  const times = (value: Vector, common: Vector) => hasSteps ? f32x4.mul(value, common) : value;
  const valueOf = (column: number, expr: Expr) => lanes[column]?.value(expr) ?? f32x4.const(0);
  return {
    add: (sums) =>
      change(() => b.let("step", v128.load32_splat(left.step(lane))), (total, column, row, step) => {
        const by = factor ? times(valueOf(column, factor), step) : step;
        return math.madd(sums(column, row), by, total);
      }),
    shift() {
      const last = outer.at(-1);
      if (!shift || last === undefined) return;
      const prepare = () => lanes.forEach((own) => own.prepare([shift]));
      const sums = () => {
        const at = left.step(lane);
        return b.let("sums", f32x4.mul(v128.load(at), v128.load(at, sumsOffset(left))));
      };
      nestedLoops(lanes, outer.slice(0, -1), prepare, () =>
        vectorLoop(lanes, last, extents[last] ?? 1, () => {
          prepare();
          change(
            sums,
            (total, column, _, common) =>
              f32x4.sub(total, firstLanes(times(valueOf(column, shift), common), lane.lanes)),
          );
        }));
    },
    value: (column, row) => totals[column]?.[row] ?? f32x4.const(0),
  };
}

const product = (x: Expr, y: Expr): Expr => ({ kind: "map", op: "mul", scalar: "f32", args: [x, y] });
