/** Writes packed codes (see `layout.ts`): runs of units from bytes, or any one code among others. */
import { call, i16x8, i32, i8x16, type ModuleBuilder, v128 } from "./assembler.ts";
import { locate } from "./codes.ts";
import { type Layout, packingOf, type Region, regionsOf, unitLength } from "./layout.ts";
import type { Bound, Index, Place } from "./place.ts";

/** Units that follow each other in a packed row, from the start of one on. */
export type Run = readonly Pick<Region, "plane" | "units">[];

/** Starts of runs in a row are multiples of this many columns. */
export const runStep = ({ bits, columns }: Layout): number => unitLength(bits, regionsOf(columns, bits)[0]?.plane ?? 4);

/** The units of `count` columns from a multiple of `runStep` on, or undefined where they end inside a unit, but not with the row. */
export function runOf(layout: Layout, start: number, count: number): Run | undefined {
  const { bits, columns } = layout, end = start + count;
  if (count % runStep(layout) !== 0 && end !== columns) return undefined;
  return regionsOf(columns, bits).flatMap(({ plane, start: first, units }, i, regions) => {
    const length = unitLength(bits, plane), last = first + units * length;
    const to = end === columns && i === regions.length - 1 ? last : Math.min(end, last), from = Math.max(start, first);
    return to > from ? [{ plane, units: (to - from) / length }] : [];
  });
}

/** Codes of a run, padding included. */
export const runLength = ({ bits }: Layout, run: Run): number =>
  run.reduce((sum, { plane, units }) => sum + units * unitLength(bits, plane), 0);

/** Packs the codes of a run, one per byte at `from`, into its units at `to`. */
export function packRun({ code: { b, module } }: Place, { bits }: Layout, run: Run, from: Index, to: Index): void {
  let codes = 0;
  for (const { plane, units } of run) {
    const source = i32.add(from, codes), target = i32.add(to, codes * bits / 8);
    b.emit(call(packFunction(module, bits, plane), { from: source, to: target, units: i32.const(units) }));
    codes += units * unitLength(bits, plane);
  }
}

/** A function that packs units of one size. */
function packFunction(module: ModuleBuilder, bits: number, plane: Region["plane"]) {
  const { planes, slots } = packingOf(bits);
  return module.helper(
    `pack_u${bits}_${plane}`,
    () =>
      module.func(`pack_u${bits}_planes_of_${plane}`, { from: "i32", to: "i32", units: "i32" }, (b, p) => {
        const load = plane === 16 ? v128.load : plane === 8 ? v128.load64_zero : v128.load32_zero;
        b.for("unit", 0, p.units, 1, () => {
          for (let own = 0; own < planes; own++) {
            const parts = slots.flatMap((pieces, slot) =>
              pieces.filter((piece) => piece.plane === own).map(({ low, shift, bits: taken }) => {
                const codes = load(p.from, { offset: plane * slot, align: 1 }), by = shift - low;
                const moved = by > 0 ? i16x8.shl(codes, by) : by < 0 ? i16x8.shr_u(codes, -by) : codes;
                return v128.and(moved, i8x16.const(((2 ** taken - 1) << shift) << 24 >> 24));
              })
            );
            const bytes = parts.reduce((sum, part) => v128.or(sum, part)),
              at = { offset: plane * own, align: 1 } as const;
            if (plane === 16) b.emit(v128.store(p.to, bytes, at));
            else b.emit((plane === 8 ? v128.store64_lane : v128.store32_lane)(p.to, bytes, 0, at));
          }
          b.set(p.from, i32.add(p.from, plane * slots.length));
          b.set(p.to, i32.add(p.to, plane * planes));
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
