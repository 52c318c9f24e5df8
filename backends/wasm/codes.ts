/** Reads packed codes (see `layout.ts`): sixteen or four neighbours, or any one. */
import { call, type FunctionBuilder, i16x8, i32, i32x4, i8x16, type Local, v128 } from "./assembler.ts";
import { type Layout, NARROW, packingOf, type Piece, WIDE, wideColumns, wideUnit } from "./layout.ts";
import type { Bound, Index, Place, Vector } from "./place.ts";

/** How to compute with sixteen codes, four, or one: in a vector, a word, a byte. */
interface Lanes<T extends Vector | Index> {
  /** Bytes of the plane at an address. */
  readonly load: (at: Index, offset: number) => T;
  readonly shiftRight: (x: T, count: number | Index) => T;
  readonly shiftLeft: (x: T, count: number) => T;
  /** `byte & mask`, for every byte. */
  readonly mask: (x: T, mask: number) => T;
  readonly or: (x: T, y: T) => T;
}

const SIXTEEN: Lanes<Vector> = {
  load: (at, offset) => v128.load(at, { offset, align: 1 }),
  shiftRight: i16x8.shr_u,
  shiftLeft: i16x8.shl,
  mask: (x, mask) => v128.and(x, i8x16.const(mask)),
  or: v128.or,
};
const FOUR: Lanes<Index> = {
  load: (at, offset) => i32.load(at, { offset, align: 1 }),
  shiftRight: i32.shr_u,
  shiftLeft: i32.shl,
  mask: (x, mask) => i32.and(x, mask * 0x01010101),
  or: i32.or,
};
const ONE: Lanes<Index> = { ...FOUR, load: (at, offset) => i32.load8_u(at, offset), mask: i32.and };

/** The codes of a slot, one per byte. `load` gives the bytes of a plane. */
function join<T extends Vector | Index>(
  { shiftLeft, shiftRight, mask, or }: Lanes<T>,
  slot: readonly Piece[],
  load: (plane: number) => T,
): T {
  return slot.map(({ plane, shift, bits, low }) => {
    const bytes = load(plane), by = shift - low;
    return mask(by > 0 ? shiftRight(bytes, by) : by < 0 ? shiftLeft(bytes, -by) : bytes, (2 ** bits - 1) << low);
  }).reduce((x, y) => or(x, y));
}

/** Sixteen codes, one per byte: slot `slot` of the wide unit at an address. */
export const slotCodes = (bits: number, slot: number, unit: Index, offset: number): Vector =>
  join(SIXTEEN, packingOf(bits).slots[slot] ?? [], (plane) => SIXTEEN.load(unit, offset + WIDE * plane));

/** The codes of a slot known only when the kernel runs; `at` is where they lie in plane 0, `stride` what leads to the next one. */
function anySlot<T extends Vector | Index>(
  b: FunctionBuilder,
  lanes: Lanes<T>,
  bits: number,
  { at, slot, stride }: { readonly at: Index; readonly slot: Local<"i32">; readonly stride: number },
  use: (codes: T) => void,
): void {
  const { slots, whole } = packingOf(bits), perPlane = Math.floor(8 / bits);
  const wholeCode = () => {
    const plane = i32.shr_u(slot, Math.log2(perPlane)), shift = i32.mul(i32.and(slot, perPlane - 1), bits);
    const bytes = lanes.load(i32.add(at, i32.mul(plane, stride)), 0);
    use(lanes.mask(perPlane === 1 ? bytes : lanes.shiftRight(bytes, shift), 2 ** bits - 1));
  };
  slots.slice(whole).reduce<() => void>((otherwise, pieces, i) => () => {
    const joined = () => use(join(lanes, pieces, (plane) => lanes.load(at, plane * stride)));
    b.if(i32.eq(slot, whole + i), joined, otherwise);
  }, wholeCode)();
}

/** Tells where the codes of a column lie, in a wide or in a narrow unit; `row` is the address of its row. */
export function locate(
  b: FunctionBuilder,
  { bits, columns }: Layout,
  row: Index,
  column: Index,
  body: (where: { at: Index; slot: Local<"i32">; stride: number }) => void,
): void {
  const wide = wideColumns(columns, bits), { planes, slots } = packingOf(bits);
  const inUnit = (position: Local<"i32">, start: number, stride: number) => {
    const unit = stride * slots.length;
    const bytes = i32.mul(i32.shr_u(position, Math.log2(unit)), planes * stride);
    const at = b.let("at", i32.add(i32.add(row, bytes), i32.add(i32.and(position, stride - 1), start * bits / 8)));
    body({ at, slot: b.let("slot", i32.shr_u(i32.and(position, unit - 1), Math.log2(stride))), stride });
  };
  const position = b.let("column", column);
  const inWide = () => inUnit(position, 0, WIDE),
    inNarrow = () => inUnit(b.let("rest", i32.sub(position, wide)), wide, NARROW);
  if (wide === columns) inWide();
  else if (wide === 0) inNarrow();
  else b.if(i32.lt_u(position, wide), inWide, inNarrow);
}

/** Codes of sixteen columns, a multiple of sixteen on, as bytes. */
export function sixteenCodes({ code: { b, module } }: Place, layout: Layout, row: Index, column: Index): Vector {
  const { bits, columns } = layout, { slots, whole } = packingOf(bits);
  const read = (f: FunctionBuilder, from: Index, position: Index): Vector => {
    const codes = f.local("codes", "v128");
    locate(f, layout, from, position, ({ at, slot, stride }) => {
      if (stride !== NARROW) return anySlot(f, SIXTEEN, bits, { at, slot, stride }, (value) => f.set(codes, value));
      // Four slots of a narrow unit, or of two.
      const at0 = f.let("row", from), column0 = f.let("column", position);
      const word = fourCodesFunction(module, layout);
      const words = [0, 4, 8, 12].map((k) => call(word, { row: at0, column: i32.add(column0, k) }));
      f.set(codes, words.slice(1).reduce((sum, w, k) => i32x4.replace_lane(sum, k + 1, w), i32x4.splat(words[0] ?? 0)));
    });
    return codes;
  };
  if (whole === slots.length && columns % wideUnit(bits) === 0) return read(b, row, column);
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
          anySlot(f, FOUR, layout.bits, where, (value) =>
            f.set(codes, value)));
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
          anySlot(f, ONE, bits, where, (value) =>
            f.set(code, value)));
        return code;
      }),
  );
  return call(helper, { base, element });
}
