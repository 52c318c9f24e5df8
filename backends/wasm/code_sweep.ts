/** Reads the codes of several columns along the contracted axis, sixteen of each at a time. */
import { i16x8, i32, i32x4, i8x16, type Local, v128 } from "./assembler.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { codesOfUnits, sixteenCodes } from "./codes.ts";
import { packingOf, unitLength } from "./layout.ts";
import { rowAndColumn, splitAccess } from "./loads.ts";
import type { Index, Place, Vector } from "./place.ts";

/** Elements of a turn that is written out: the codes of a wide unit of any width. */
export const TURN = 128;

/** Sixteen codes of a column as bytes below 128: of 8 bits, the lower four, then the higher. */
export type Codes = readonly Vector[];

/** Bits of a part of an 8-bit code: halves, whose products fit 16 bits for longest. */
export const PART_BITS = 4;

/** Byte vectors in `Codes`, each worth 2^`PART_BITS` of the one before. */
export const partsOf = ({ bits }: CodedOperand): number => bits === 8 ? 2 : 1;

/** The largest value of a byte of `Codes`. */
export const largestOf = (operand: CodedOperand): number => 2 ** (partsOf(operand) > 1 ? PART_BITS : operand.bits) - 1;

/** A sum of its parts. */
export const joinParts = (parts: readonly Vector[]): Vector =>
  parts.reduceRight((sum, part) => i32x4.add(part, i32x4.shl(sum, PART_BITS)));

/**
 * Calls `step` for every sixteen elements of the last contracted axis, with functions that read the codes of each place's column and
 * with the position of the elements: `at`, in sixteens, from the pointer `x` (moved by `xStep` bytes per sixteen) on; `last` where
 * what is written out ends.
 */
export function sweepCodes(
  places: readonly Place[],
  operand: CodedOperand,
  x: Local<"i32">,
  xStep: number,
  step: (codes: readonly (() => Codes)[], at: number, last: boolean) => void,
): void {
  const { layout, length, run, bits } = operand, [first] = places;
  if (!first) return;
  const { b } = first.code;
  /** Runs over `count` turns of `sixteens` steps each, pointers of `bytes` per turn. */
  const turns = (
    count: number,
    sixteens: number,
    pointers: readonly Local<"i32">[],
    bytes: number,
    body: () => void,
  ) => {
    if (count === 0) return;
    const turn = () => {
      body();
      for (const pointer of pointers) b.set(pointer, i32.add(pointer, bytes));
      b.set(x, i32.add(x, xStep * sixteens));
    };
    if (count === 1) return turn();
    b.for("turn", 0, count, 1, turn);
  };
  if (layout.storage === "byte") {
    const pointers = places.map((place) => {
      const { base, offset } = place.address(operand.buffer, operand.access);
      return b.let("codes_at", i32.add(base, offset));
    });
    const sixteens = Math.ceil(length / 16), whole = Math.floor(sixteens / (TURN / 16));
    const body = (count: number) => () => {
      for (let k = 0; k < count; k++) {
        step(
          pointers.map((pointer) => () => bytePair(b.let("bytes", v128.load(pointer, { offset: 16 * k, align: 1 })))),
          k,
          k === count - 1,
        );
      }
    };
    turns(whole, TURN / 16, pointers, TURN, body(TURN / 16));
    const rest = sixteens - whole * (TURN / 16);
    turns(rest > 0 ? 1 : 0, rest, pointers, 16 * rest, body(rest));
    return;
  }
  const starts = places.map((place) => startOf(place, operand));
  if (run) {
    const pointers = starts.map(({ row, column }) =>
      b.let("codes_at", i32.add(row, i32.shr_u(i32.mul(column, bits), 3)))
    );
    let left = Math.ceil(length / 16);
    for (const { plane, units } of run) {
      // A turn is whole units and whole sixteens; the last units may be padding.
      const unit = unitLength(bits, plane) / 16, sixteens = Math.min(left, units * unit);
      const perTurn = sixteens % (TURN / 16) === 0 ? TURN / 16 : Math.max(1, unit);
      const body = (count: number) => () => {
        for (const [i, k] of inOrder(bits, plane, count).entries()) {
          step(pointers.map((at) => () => [codesOfUnits(bits, plane, at, k)]), k, i === count - 1);
        }
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
      0,
      true,
    );
    b.set(x, i32.add(x, xStep));
  });
}

/** Computes, as far as the open loops go, where a place's codes start: the address of their row and the column in it. */
export function startOf(place: Place, { buffer, access, layout }: CodedOperand): { row: Index; column: Index } {
  if (layout.storage === "byte") return { row: place.address(buffer, access).base, column: i32.const(0) };
  const split = splitAccess(access, layout.columns, place.extents);
  if (!split) throw new Error("Internal error: codes do not lie in rows");
  return rowAndColumn(place, buffer, split);
}

/** The sixteens of a turn by the last plane that they need, so that planes are read one after the other. */
function inOrder(bits: number, plane: number, count: number): readonly number[] {
  const { slots, planes } = packingOf(bits), perVector = 16 / plane;
  const lastPlane = (k: number): number => {
    const slot = (k + 1) * perVector - 1, unit = Math.floor(slot / slots.length);
    return unit * planes + Math.max(...(slots[slot % slots.length] ?? []).map((piece) => piece.plane));
  };
  return Array.from({ length: count }, (_, k) => k).sort((x, y) => lastPlane(x) - lastPlane(y));
}

const bytePair = (bytes: Vector): Codes => [
  v128.and(bytes, i8x16.const(2 ** PART_BITS - 1)),
  v128.and(i16x8.shr_u(bytes, PART_BITS), i8x16.const(2 ** PART_BITS - 1)),
];
