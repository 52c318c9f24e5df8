/** Reads packed codes (see `layout.ts`): sixteen or four neighbours, or any one. */
import { call, type FunctionBuilder, i16x8, i32, i8x16, type Local, v128 } from "./assembler.ts";
import { type Layout, regionsOf, unitLength } from "./layout.ts";
import { codeOf, packingOf, type ReadOps, type WriteOps } from "./packing.ts";
import type { Bound, Index, Place, Vector } from "./place.ts";

/** How to compute with sixteen codes, four, or one: in a vector, a word, a byte. */
interface Lanes<T extends Vector | Index> extends ReadOps<T> {
  /** Bytes of the plane at an address. */
  readonly load: (at: Index, offset: number) => T;
  readonly shiftRight: (x: T, count: number | Index) => T;
}

export const sixteenLanes = (b: FunctionBuilder): Lanes<Vector> & WriteOps<Vector> => ({
  load: (at, offset) => v128.load(at, { offset, align: 1 }),
  zero: i8x16.const(0),
  keep: (x) => b.let("bytes", x),
  add: i8x16.add,
  sub: i8x16.sub,
  mean: i8x16.avgr_u,
  or: v128.or,
  mask: (x, mask) => v128.and(x, i8x16.const(mask << 24 >> 24)),
  shiftLeft: i16x8.shl,
  shiftRight: i16x8.shr_u,
});
export const oneLane = (b: FunctionBuilder): Lanes<Index> & WriteOps<Index> => ({
  load: (at, offset) => i32.load8_u(at, offset),
  zero: i32.const(0),
  keep: (x) => b.let("byte", x),
  add: i32.add,
  sub: i32.sub,
  mean: (x, y) => i32.shr_u(i32.add(i32.add(x, y), 1), 1),
  or: i32.or,
  mask: i32.and,
  shiftLeft: i32.shl,
  shiftRight: i32.shr_u,
});
/** Four bytes of a word, whose sums would carry from one into the next: to read only. */
const fourLanes = (b: FunctionBuilder): Lanes<Index> => ({
  ...oneLane(b),
  load: (at, offset) => i32.load(at, { offset, align: 1 }),
  mean(x, y) {
    const [left, right] = [b.let("bytes", x), b.let("bytes", y)];
    return i32.sub(i32.or(left, right), i32.and(i32.shr_u(i32.xor(left, right), 1), 0x7f7f7f7f));
  },
  mask: (x, mask) => i32.and(x, mask * 0x01010101),
});

/**
 * Codes 16·i … 16·i+15 of units with planes of `plane` bytes, 8 or 4, at an address, one per byte. A plane is repeated in a vector,
 * of which each slot then gives a part.
 */
export function codesOfUnits(b: FunctionBuilder, bits: number, plane: number, units: Index, i: number): Vector {
  const packing = packingOf(bits), { slots, planes } = packing, perVector = 16 / plane, lanes = sixteenLanes(b);
  const read = plane === 8 ? v128.load64_splat : v128.load32_splat;
  const parts = Array.from({ length: perVector }, (_, part) => {
    const slot = i * perVector + part, unit = Math.floor(slot / slots.length) * planes * plane;
    const load = (p: number) => read(units, { offset: unit + plane * p, align: 1 });
    return codeOf(lanes, packing, slots[slot % slots.length] ?? [], load);
  });
  return parts.reduce((codes, own, part) =>
    i8x16.shuffle(codes, own, Array.from({ length: 16 }, (_, byte) => byte < part * plane ? byte : 16 + byte))
  );
}

/** The codes of a slot known only when the kernel runs; `at` is where they lie in plane 0, `stride` what leads to the next one. */
function anySlot<T extends Vector | Index>(
  b: FunctionBuilder,
  lanes: Lanes<T>,
  bits: number,
  { at, slot, stride }: { readonly at: Index; readonly slot: Local<"i32">; readonly stride: number },
  use: (codes: T) => void,
): void {
  const packing = packingOf(bits), { slots, whole, planes, step } = packing, perPlane = whole / planes;
  const wholeCode = () => {
    const plane = i32.shr_u(slot, Math.log2(perPlane)), shift = i32.mul(i32.and(slot, perPlane - 1), step);
    const bytes = lanes.load(i32.add(at, i32.mul(plane, stride)), 0);
    use(lanes.mask(perPlane === 1 ? bytes : lanes.shiftRight(bytes, shift), 2 ** bits - 1));
  };
  slots.slice(whole).reduce<() => void>((otherwise, pieces, i) => () => {
    const joined = () => use(codeOf(lanes, packing, pieces, (plane) => lanes.load(at, plane * stride)));
    b.if(i32.eq(slot, whole + i), joined, otherwise);
  }, wholeCode)();
}

/** Tells where the codes of a column lie; `row` is the address of its row. */
export function locate(
  b: FunctionBuilder,
  { bits, columns }: Layout,
  row: Index,
  column: Index,
  body: (where: { at: Index; slot: Local<"i32">; stride: number }) => void,
): void {
  const { planes } = packingOf(bits), position = b.let("column", column);
  const regions = regionsOf(columns, bits).map(({ plane, start }) => ({
    start,
    inRegion: () => {
      const inside = start === 0 ? position : b.let("rest", i32.sub(position, start)), unit = unitLength(bits, plane);
      const bytes = i32.mul(i32.shr_u(inside, Math.log2(unit)), planes * plane);
      const at = b.let("at", i32.add(i32.add(row, bytes), i32.add(i32.and(inside, plane - 1), start * bits / 8)));
      body({ at, slot: b.let("slot", i32.shr_u(i32.and(inside, unit - 1), Math.log2(plane))), stride: plane });
    },
  }));
  const choose = ([first, ...rest]: typeof regions): void => {
    const next = rest[0];
    if (next && first) b.if(i32.lt_u(position, next.start), first.inRegion, () => choose(rest));
    else first?.inRegion();
  };
  choose(regions);
}

/** Codes of sixteen columns, a multiple of sixteen on, as bytes. */
export function sixteenCodes({ code: { b, module } }: Place, layout: Layout, row: Index, column: Index): Vector {
  const { bits, columns } = layout, { slots, whole } = packingOf(bits);
  const read = (f: FunctionBuilder, from: Index, position: Index): Vector => {
    const codes = f.local("codes", "v128");
    locate(f, layout, from, position, ({ at, slot, stride }) => {
      if (stride === 16) return anySlot(f, sixteenLanes(f), bits, { at, slot, stride }, (value) => f.set(codes, value));
      // Sixteen columns are several slots of a unit, or the slots of several units.
      const vectors = Math.max(1, unitLength(bits, stride) / 16);
      Array.from({ length: vectors }, (_, i) => i).reduce<() => void>((otherwise, i) => () => {
        const use = () => f.set(codes, codesOfUnits(f, bits, stride, at, i));
        if (vectors === 1) use();
        else f.if(i32.eq(slot, i * 16 / stride), use, otherwise);
      }, () => f.trap())();
    });
    return codes;
  };
  if (whole === slots.length && columns % unitLength(bits, 16) === 0) return read(b, row, column);
  const helper = module.helper(
    `sixteen_u${bits}_${columns}`,
    () =>
      module.func(
        `sixteen_u${bits}_of_${columns}`,
        { row: "i32", column: "i32" },
        "v128",
        (f, p) => read(f, p.row, p.column),
      ),
  );
  return call(helper, { row, column });
}

const fourCodesFunction = (module: Place["code"]["module"], layout: Layout) =>
  module.helper(
    `four_u${layout.bits}_${layout.columns}`,
    () =>
      module.func(`four_u${layout.bits}_of_${layout.columns}`, { row: "i32", column: "i32" }, "i32", (f, p) => {
        const codes = f.local("codes", "i32");
        locate(f, layout, p.row, p.column, (where) =>
          anySlot(f, fourLanes(f), layout.bits, where, (value) => f.set(codes, value)));
        return codes;
      }),
  );

/** Codes of four columns, a multiple of four on, one per byte. */
export const fourCodes = ({ code: { module } }: Place, layout: Layout, row: Index, column: Index): Index =>
  call(fourCodesFunction(module, layout), { row, column });

/** The code of any one element. */
export function oneCode({ code: { module } }: Place, { layout, base }: Bound, element: Index): Index {
  const { bits, columns, rowBytes } = layout;
  const helper = module.helper(
    `one_u${bits}_${columns}`,
    () =>
      module.func(`one_u${bits}_of_${columns}`, { base: "i32", element: "i32" }, "i32", (f, p) => {
        const code = f.local("code", "i32");
        const row = f.let("row", i32.add(p.base, i32.mul(i32.div_u(p.element, columns), rowBytes)));
        locate(f, layout, row, i32.rem_u(p.element, columns), (where) =>
          anySlot(f, oneLane(f), bits, where, (value) =>
            f.set(code, value)));
        return code;
      }),
  );
  return call(helper, { base, element });
}
