/** Reads the codes of several columns along the contracted axis, sixteen of each at a time. */
import { i32, type Local, v128 } from "./assembler.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { COLUMN } from "./contraction.ts";
import { sixteenCodes } from "./codes.ts";
import { unitLength } from "./layout.ts";
import { rowAndColumn, splitAccess } from "./loads.ts";
import type { Index, Place, Vector } from "./place.ts";
import { readsOfNarrow, readsOfUnits, type Sixteen } from "./unit_reads.ts";
import { halvesOfBytes, type Unpacking } from "./unpacking.ts";

/** Elements of a turn that is written out: the codes of a wide unit of any width. */
export const TURN = 128;

/** Columns side by side beside whose sums there are registers for planes that are used twice. */
const KEPT = 2;

/** The vectors of a column in a step. */
type Codes = readonly Vector[];

/** What a sweep moves along. */
export interface Sweep {
  /** A pointer, and the bytes that it is moved by per sixteen elements. */
  readonly x: Local<"i32">;
  readonly step: number;
  /** Bytes between columns that share one pointer (`bytesApart`). */
  readonly apart?: number | undefined;
}

/**
 * Goes through the elements of the last contracted axis, and calls `step` with functions that read some sixteens of each place's
 * column, as bytes, and with where these belong; `last` where what is written out ends.
 */
export function sweepCodes(
  places: readonly Place[],
  operand: CodedOperand,
  { stays, parts }: Unpacking,
  { x, step: xStep, apart }: Sweep,
  step: (codes: readonly (() => Codes)[], sixteens: readonly Sixteen[], last: boolean) => void,
): void {
  const { layout, length, run, bits } = operand, [first] = places;
  if (!first) return;
  const { b } = first.code, pointed = apart === undefined ? places : [first];
  /** Runs over `count` turns of `sixteens` steps each, pointers of `bytes` per turn; `body` is told where each column's codes are. */
  const turns = (
    count: number,
    sixteens: number,
    pointers: readonly Local<"i32">[],
    bytes: number,
    body: (columns: readonly Index[]) => void,
  ) => {
    if (count === 0) return;
    const [pointer = i32.const(0)] = pointers;
    const turn = () => {
      body(places.map((_, i) => pointers[i] ?? b.let("codes_at", i32.add(pointer, i * (apart ?? 0)))));
      for (const pointer of pointers) b.set(pointer, i32.add(pointer, bytes));
      b.set(x, i32.add(x, xStep * sixteens));
    };
    if (count === 1) return turn();
    b.for("turn", 0, count, 1, turn);
  };
  if (layout.storage === "byte") {
    const pointers = pointed.map((place) => {
      const { base, offset } = place.address(operand.buffer, operand.access);
      return b.let("codes_at", i32.add(base, offset));
    });
    const sixteens = Math.ceil(length / 16), whole = Math.floor(sixteens / (TURN / 16));
    const body = (count: number) => (columns: readonly Index[]) => {
      for (let k = 0; k < count; k++) {
        const read = (pointer: Index): Codes => {
          const bytes = b.let("bytes", v128.load(pointer, { offset: 16 * k, align: 1 }));
          return parts > 1 ? halvesOfBytes(bytes) : [bytes];
        };
        const sixteens = Array.from({ length: parts }, (_, part) => ({ at: k, part }));
        step(columns.map((pointer) => () => read(pointer)), sixteens, k === count - 1);
      }
    };
    turns(whole, TURN / 16, pointers, TURN, body(TURN / 16));
    const rest = sixteens - whole * (TURN / 16);
    turns(rest > 0 ? 1 : 0, rest, pointers, 16 * rest, body(rest));
    return;
  }
  const starts = pointed.map((place) => startOf(place, operand));
  if (run) {
    const pointers = starts.map(({ row, column }) =>
      b.let("codes_at", i32.add(row, i32.shr_u(i32.mul(column, bits), 3)))
    );
    let left = Math.ceil(length / 16);
    for (const { plane, units } of run) {
      // A turn is whole units and whole sixteens; the last units may be padding.
      const unit = unitLength(bits, plane) / 16, sixteens = Math.min(left, units * unit);
      const perTurn = sixteens % (TURN / 16) === 0 ? TURN / 16 : Math.max(1, unit);
      const body = (count: number) => (columns: readonly Index[]) => {
        const reads = plane === 16
          ? readsOfUnits(b, bits, count, { stays, keeps: places.length <= KEPT })
          : readsOfNarrow(b, bits, plane, count);
        reads.forEach(({ sixteens, read }, i) => {
          step(columns.map((at) => () => read(at)), sixteens, i === reads.length - 1);
        });
      };
      turns(Math.floor(sixteens / perTurn), perTurn, pointers, 2 * bits * perTurn, body(perTurn));
      const rest = sixteens % perTurn;
      turns(rest > 0 ? 1 : 0, rest, pointers, 2 * bits * rest, body(rest));
      left -= sixteens;
    }
    return;
  }
  const rows = starts.map(({ row }) => b.let("row_at", row));
  b.for("i", 0, length, 16, (i) => {
    step(
      starts.map(({ column }, k) => () => [
        sixteenCodes(first, layout, rows[k] ?? i32.const(0), i32.add(column, i)),
      ]),
      [{ at: 0, part: 0 }],
      true,
    );
    b.set(x, i32.add(x, xStep));
  });
}

/** Bytes between neighbouring columns whose codes are read by one pointer. */
export function bytesApart(
  { access, layout, run, bits }: CodedOperand,
  extents: readonly number[],
): number | undefined {
  if (layout.storage === "byte") return access.strides[COLUMN];
  const split = run && splitAccess(access, layout.columns, extents);
  return split && (split.row.strides[COLUMN] ?? 0) * layout.rowBytes + (split.column.strides[COLUMN] ?? 0) * bits / 8;
}

/** Computes, as far as the open loops go, where a place's codes start: the address of their row and the column in it. */
export function startOf(place: Place, { buffer, access, layout }: CodedOperand): { row: Index; column: Index } {
  if (layout.storage === "byte") return { row: place.address(buffer, access).base, column: i32.const(0) };
  const split = splitAccess(access, layout.columns, place.extents);
  if (!split) throw new Error("Internal error: codes do not lie in rows");
  return rowAndColumn(place, buffer, split);
}
