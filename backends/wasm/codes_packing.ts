/** Writes packed codes (see `layout.ts`): runs of units from bytes, or any one code among others. */
import { call, type Func, i16x8, i32, i8x16, type ModuleBuilder, v128 } from "./assembler.ts";
import { locate } from "./codes.ts";
import {
  BLOCK,
  type Layout,
  NARROW,
  type Packing,
  packingOf,
  type Piece,
  WIDE,
  wideColumns,
  wideUnit,
} from "./layout.ts";
import type { Bound, Index, Place } from "./place.ts";

/** A stretch of a packed row that starts where a unit starts: how many wide and how many narrow units it has. */
export interface Run {
  readonly wide: number;
  readonly narrow: number;
}

/** Starts of runs in a row are multiples of this many columns. */
export const runStep = ({ bits, columns }: Layout): number => wideColumns(columns, bits) === 0 ? BLOCK : wideUnit(bits);

/** The units of `count` columns from a multiple of `runStep` on, or undefined where they end inside a unit, but not with the row. */
export function runOf(layout: Layout, start: number, count: number): Run | undefined {
  const { bits, columns } = layout, step = runStep(layout), narrowUnit = NARROW * packingOf(bits).slots.length;
  const wide = Math.max(0, Math.min(start + count, wideColumns(columns, bits)) - start), rest = count - wide;
  if (count % step !== 0 && start + count !== columns) return undefined;
  return { wide: wide / wideUnit(bits), narrow: Math.ceil(rest / BLOCK) * BLOCK / narrowUnit };
}

/** Codes of a run, one per byte, padding included. */
export const runLength = ({ bits }: Layout, { wide, narrow }: Run): number =>
  packingOf(bits).slots.length * (WIDE * wide + NARROW * narrow);

/** What a plane is made of: slots' pieces, moved from codes to bytes of the plane. */
const piecesOf = ({ slots }: Packing, plane: number): { slot: number; piece: Piece }[] =>
  slots.flatMap((pieces, slot) => pieces.filter((piece) => piece.plane === plane).map((piece) => ({ slot, piece })));

/** A function that packs codes, one per byte at `from`, into units at `to`. */
export function packFunction(
  module: ModuleBuilder,
  { bits }: Layout,
): Func<{ from: "i32"; to: "i32"; wide: "i32"; narrow: "i32" }, "void"> {
  const packing = packingOf(bits), { planes, slots } = packing;
  return module.helper(
    `pack_u${bits}`,
    () =>
      module.func(`pack_u${bits}`, { from: "i32", to: "i32", wide: "i32", narrow: "i32" }, (b, p) => {
        const units = (count: Index, bytes: number, pack: (plane: number) => void) =>
          b.for("unit", 0, count, 1, () => {
            for (let plane = 0; plane < planes; plane++) pack(plane);
            b.set(p.from, i32.add(p.from, bytes * slots.length));
            b.set(p.to, i32.add(p.to, bytes * planes));
          });
        units(p.wide, WIDE, (plane) => {
          const parts = piecesOf(packing, plane).map(({ slot, piece: { low, shift, bits: taken } }) => {
            const codes = v128.load(p.from, { offset: WIDE * slot, align: 1 }), by = shift - low;
            const moved = by > 0 ? i16x8.shl(codes, by) : by < 0 ? i16x8.shr_u(codes, -by) : codes;
            return v128.and(moved, i8x16.const(((2 ** taken - 1) << shift) << 24 >> 24));
          });
          b.emit(v128.store(p.to, parts.reduce((sum, part) => v128.or(sum, part)), { offset: WIDE * plane, align: 1 }));
        });
        units(p.narrow, NARROW, (plane) => {
          const parts = piecesOf(packing, plane).map(({ slot, piece: { low, shift, bits: taken } }) => {
            const codes = i32.load(p.from, { offset: NARROW * slot, align: 1 }), by = shift - low;
            const moved = by > 0 ? i32.shl(codes, by) : by < 0 ? i32.shr_u(codes, -by) : codes;
            return i32.and(moved, Math.imul((2 ** taken - 1) << shift, 0x01010101));
          });
          b.emit(i32.store(p.to, parts.reduce((sum, part) => i32.or(sum, part)), { offset: NARROW * plane, align: 1 }));
        });
      }),
  );
}

/** Overwrites one code among others in its bytes. Not for two threads at once. */
export function storeCode({ code: { b, module } }: Place, { layout, base }: Bound, element: Index, code: Index): void {
  const { bits, columns, rowBytes } = layout;
  const insert = module.helper(
    `insert_u${bits}_${columns}`,
    () =>
      module.func(`insert_u${bits}_rows_of_${columns}`, { base: "i32", element: "i32", code: "i32" }, (f, p) => {
        const row = f.let("row", i32.add(p.base, i32.mul(i32.div_u(p.element, columns), rowBytes)));
        locate(f, layout, row, i32.rem_u(p.element, columns), ({ at, slot, stride }) =>
          packingOf(bits).slots.forEach((pieces, s) =>
            f.if(i32.eq(slot, s), () => {
              for (const { plane, shift, bits: taken, low } of pieces) {
                const mask = (2 ** taken - 1) << shift;
                const others = i32.and(i32.load8_u(at, plane * stride), 0xff ^ mask);
                const own = i32.and(i32.shl(i32.shr_u(p.code, low), shift), mask);
                f.emit(i32.store8(at, i32.or(others, own), plane * stride));
              }
            })
          ));
      }),
  );
  b.emit(call(insert, { base, element, code }));
}
