/** Rows of attention's operands: read where they lie when they are plain, otherwise evaluated into scratch memory first. */
import type { Expr } from "../kernel.ts";
import { i32, v128 } from "./assembler.ts";
import type { Emitter } from "./emitter.ts";
import { firstLanes } from "./lanes.ts";
import { staysInside } from "./loads.ts";
import { vectorLoop } from "./nest.ts";
import { createPlace, type Index } from "./place.ts";

/** Rows at hand: each `padded` f32 long, a multiple of 4, zeros behind its end. */
export interface Vectors {
  readonly padded: number;
  /** Bytes from one row to the next. */
  readonly stride: number;
  /** Address of a row. */
  row(index: Index): Index;
}

/** An operand over [batch, place, head, element]. */
export interface Rows {
  readonly padded: number;
  /** Whether rows are read where they lie. */
  readonly inPlace: boolean;
  /** Scratch memory for so many rows, unless the operand needs none. To be called outside of all loops. */
  room(rows: number): Index;
  /** Makes `count` rows available, which lie along `variable` from `at` on; those before `from` need not be. */
  fill(room: Index, at: readonly Index[], variable: number, count: Index, from?: Index): Vectors;
}

/** How to read the rows of an operand. */
export function rowsOf({ code, reserve }: Emitter, expr: Expr, extents: readonly number[]): Rows {
  const { b } = code, element = extents.length - 1, length = extents[element] ?? 1, padded = Math.ceil(length / 4) * 4;
  const place = createPlace(code, extents);
  const open = (at: readonly Index[], body: () => void, variable = 0): void => {
    const index = at[variable];
    if (!index) return body();
    place.within(variable, index, undefined, () => open(at, body, variable + 1));
  };
  if (expr.kind === "load" && length % 4 === 0) {
    const bound = place.buffer(expr.buffer), { access } = expr;
    if (bound.layout.dtype === "f32" && access.strides[element] === 1 && staysInside(place, bound, access)) {
      return {
        padded,
        inPlace: true,
        room: () => i32.const(0),
        fill: (_, at, variable) => {
          let start: Index = i32.const(0);
          open(at, () => {
            const { base, offset } = place.address(expr.buffer, access);
            start = b.let("rows", i32.add(base, offset));
          });
          const stride = 4 * (access.strides[variable] ?? 0);
          return { padded, stride, row: (index) => b.let("row", i32.add(start, i32.mul(index, stride))) };
        },
      };
    }
  }
  return {
    padded,
    inPlace: false,
    room: (rows) => reserve(4 * padded * rows),
    fill(room, at, variable, count, from = i32.const(0)) {
      const fixed = at.slice(0, variable), behind = at.slice(variable + 1), first = at[variable] ?? i32.const(0);
      b.for("row", from, count, 1, (row) =>
        open([...fixed, b.let("index", i32.add(first, row)), ...behind], () => {
          place.prepare([expr]);
          const to = b.let("to", i32.add(room, i32.mul(row, 4 * padded)));
          vectorLoop(place, element, length, (index) => {
            const target = i32.add(to, i32.shl(index, 2));
            b.emit(v128.store(target, firstLanes(place.value(expr), place.lanes)));
          });
        }));
      return { padded, stride: 4 * padded, row: (index) => b.let("row", i32.add(room, i32.mul(index, 4 * padded))) };
    },
  };
}
