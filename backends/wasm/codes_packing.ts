/** Writes packed codes (see `layout.ts`): runs of units from bytes, or any one code among others. */
import { call, type FunctionBuilder, i32, type Local, type ModuleBuilder, select, v128 } from "./assembler.ts";
import { locate, oneLane, sixteenLanes } from "./codes.ts";
import { type Layout, type Region, regionsOf, unitLength } from "./layout.ts";
import { codeOf, packingOf, planesOf } from "./packing.ts";
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
  const packing = packingOf(bits), { planes, slots } = packing;
  return module.helper(
    `pack_u${bits}_${plane}`,
    () =>
      module.func(`pack_u${bits}_planes_of_${plane}`, { from: "i32", to: "i32", units: "i32" }, (b, p) => {
        const load = plane === 16 ? v128.load : plane === 8 ? v128.load64_zero : v128.load32_zero;
        b.for("unit", 0, p.units, 1, () => {
          const codes = slots.map((_, slot) => b.let("codes", load(p.from, { offset: plane * slot, align: 1 })));
          planesOf(sixteenLanes(b), packing, codes).forEach((bytes, own) => {
            const at = { offset: plane * own, align: 1 } as const;
            if (plane === 16) b.emit(v128.store(p.to, bytes, at));
            else b.emit((plane === 8 ? v128.store64_lane : v128.store32_lane)(p.to, bytes, 0, at));
          });
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
          insertCode(f, bits, { at, stride }, slot, p.code));
      }),
  );
  b.emit(call(insert, { base, element, code }));
}

/** Writes the code of a slot, one of those of some bytes. */
function insertCode(
  f: FunctionBuilder,
  bits: number,
  { at, stride }: { readonly at: Index; readonly stride: number },
  slot: Local<"i32">,
  code: Index,
): void {
  const packing = packingOf(bits), lane = oneLane(f), load = (plane: number) => lane.load(at, plane * stride);
  const store = (plane: number, bytes: Index) => f.emit(i32.store8(at, bytes, plane * stride));
  if (packing.hasMean) {
    // A code of one plane shows in the mean of all of them, so that the spare bits of each may change.
    const codes = packing.slots.map((pieces, s) => {
      const own = f.let("code", codeOf(lane, packing, pieces, load));
      return select(i32.eq(slot, s), code, own);
    });
    return planesOf(lane, packing, codes).forEach((bytes, plane) => store(plane, bytes));
  }
  packing.slots.forEach((pieces, s) =>
    f.if(i32.eq(slot, s), () => {
      for (const { plane, shift, bits: taken, low } of pieces) {
        const mask = (2 ** taken - 1) << shift, others = i32.and(load(plane), 0xff ^ mask);
        store(plane, i32.or(others, i32.and(i32.shl(i32.shr_u(code, low), shift), mask)));
      }
    })
  );
}
