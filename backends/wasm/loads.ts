/** Loads of four lanes: next to each other, all the same, at a distance, or at rows chosen by data; of every layout. */
import type { Access, Expr } from "../kernel.ts";
import { isNarrow, rangeOf } from "../../ir/types.ts";
import { f32x4, i16x8, i32, i32x4, type Local, select, v128 } from "./assembler.ts";
import { fourCodes, oneCode, sixteenCodes } from "./codes.ts";
import type { Layout } from "./layout.ts";
import type { Address, Bound, Index, Part, Place, Vector } from "./place.ts";

type Gather = Expr & { readonly kind: "gather" };

/** The lanes of `buffer` at `access`. */
export function loadVector(place: Place, buffer: number, access: Access): Vector {
  const bound = place.buffer(buffer), { layout } = bound;
  const stride = place.vector < 0 ? 0 : access.strides[place.vector] ?? 0;
  if (!staysInside(place, bound, access)) return loadGuarded(place, bound, access, stride);
  const { part } = place, codes = part && sixteenAt(place, buffer, access);
  if (part && codes) return lanesOfWords(wordsAt(place, part, codes), part, codes.signed);
  if (layout.storage === "fields") return loadFields(place, buffer, access, stride);
  return loadAt(place, layout, place.address(buffer, access), stride);
}

/** Sixteen neighbouring codes as bytes, four of which are the lanes of a part. */
export interface Sixteen {
  readonly key: string;
  readonly signed: boolean;
  readonly range: readonly [number, number];
  readonly read: () => Vector;
}

/** The codes of a load in a part, where they are handled sixteen at a time. */
export function sixteenAt(place: Place, buffer: number, access: Access): Sixteen | undefined {
  const bound = place.buffer(buffer), { layout } = bound, { dtype } = layout;
  if (!isNarrow(dtype) || access.strides[place.vector] !== 1 || !staysInside(place, bound, access)) {
    return undefined;
  }
  const common = {
    key: `${buffer} ${access.offset} ${access.strides}`,
    signed: isSigned(layout),
    range: rangeOf(dtype),
  } as const;
  if (layout.storage === "byte") {
    return {
      ...common,
      read: () => {
        const { base, offset } = place.address(buffer, access);
        return v128.load(base, { offset, align: 1 });
      },
    };
  }
  const split = layout.storage === "fields" ? splitAccess(access, layout.columns, place.extents) : undefined;
  if (!split || !isAligned(place, split, 16)) return undefined;
  return {
    ...common,
    read: () => {
      const { row, column } = rowAndColumn(place, buffer, split);
      return sixteenCodes(place, layout, row, column);
    },
  };
}

/** An access to a packed buffer: its row, and the column in it. */
export interface SplitAccess {
  readonly row: Access;
  readonly column: Access;
}

/** The address of a row of a packed buffer, and the column, as far as the open loops go. */
export function rowAndColumn(
  place: Place,
  buffer: number,
  { row, column }: SplitAccess,
): { row: Index; column: Index } {
  const { layout: { rowBytes }, base } = place.buffer(buffer);
  const first = place.affine(row.strides, rowBytes, { key: `b${buffer}`, index: base });
  return {
    row: i32.add(first, row.offset * rowBytes),
    column: i32.add(place.affine(column.strides), column.offset),
  };
}

/** Whether vectors go along a packed row, from multiples of `step` on. */
function isAligned({ vector }: Place, { row, column }: SplitAccess, step: number): boolean {
  return vector >= 0 && column.strides[vector] === 1 && row.strides[vector] === 0 && column.offset % step === 0 &&
    column.strides.every((stride, v) => v === vector || stride % step === 0);
}

/** Whether an access, moved by up to `reach` elements, stays within its buffer. Others stand in a branch of `select` that is not taken. */
export function staysInside(place: Place, { elements }: Bound, { offset, strides }: Access, reach = 0): boolean {
  if (elements === undefined) return true;
  let low = offset + Math.min(reach, 0), high = offset + Math.max(reach, 0);
  strides.forEach((stride, v) => {
    const span = stride * ((place.extents[v] ?? 1) - 1);
    low += Math.min(span, 0);
    high += Math.max(span, 0);
  });
  return low >= 0 && high < elements;
}

/** Loads whose elements may lie outside of the buffer: then they are some others. A vector that lies partly inside is kept. */
function loadGuarded(place: Place, bound: Bound, access: Access, stride: number): Vector {
  const { b } = place.code, { layout, base, elements = 0 } = bound;
  const count = place.vector < 0 ? 1 : place.lanes;
  const element = b.let("element", i32.add(place.affine(access.strides), access.offset));
  const within = (index: Index, low: number, high: number) => {
    const wanted = b.let("wanted", index);
    const least = b.let("wanted", select(i32.gt_s(wanted, low), wanted, i32.const(low)));
    return select(i32.lt_s(least, high), least, i32.const(high));
  };
  if (layout.storage === "fields") {
    return lanesOf(
      stride === 0 ? 1 : count,
      (k) => oneCode(place, bound, within(i32.add(element, k * stride), 0, elements - 1)),
    );
  }
  const at = (index: Index): Address => ({ base: b.let("at", i32.add(base, i32.mul(index, layout.size))), offset: 0 });
  if (stride === 0) return loadSplat(layout, at(within(element, 0, elements - 1)));
  if (stride === 1) return loadContiguous(layout, at(within(element, -4, elements)));
  return loadLanes(
    layout,
    Array.from({ length: count }, (_, k) => at(within(i32.add(element, k * stride), 0, elements - 1))),
  );
}

function loadAt(place: Place, layout: Layout, at: Address, stride: number): Vector {
  if (layout.storage === "vector") return v128.load(at.base, at.offset);
  if (stride === 0) return loadSplat(layout, at);
  if (stride === 1) return loadContiguous(layout, at);
  const lane = (k: number): Address => {
    const bytes = k * stride * layout.size;
    return bytes >= 0
      ? { base: at.base, offset: at.offset + bytes }
      : { base: i32.add(at.base, bytes), offset: at.offset };
  };
  return loadLanes(layout, Array.from({ length: place.lanes }, (_, k) => lane(k)));
}

/** One element in all lanes. */
function loadSplat(layout: Layout, { base, offset }: Address): Vector {
  switch (layout.size) {
    case 4:
      return convert(layout, v128.load32_splat(base, offset));
    case 2:
      return convert(layout, i32x4.splat(i32.load16_s(base, offset)));
    default:
      return i32x4.splat((isSigned(layout) ? i32.load8_s : i32.load8_u)(base, offset));
  }
}

/** Four neighbours; reads whole vectors, also behind the buffer's end. */
function loadContiguous(layout: Layout, { base, offset }: Address): Vector {
  switch (layout.size) {
    case 4:
      return convert(layout, v128.load(base, { offset, align: 4 }));
    case 2:
      return convert(layout, v128.load16x4_s(base, { offset, align: 2 }));
    default:
      return extendBytes(v128.load32_zero(base, { offset, align: 1 }), isSigned(layout));
  }
}

/** Four bytes as four i32. */
function extendBytes(bytes: Vector, signed: boolean): Vector {
  return signed
    ? i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(bytes))
    : i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(bytes));
}

/** One element per address; missing lanes are 0. */
function loadLanes(layout: Layout, addresses: readonly Address[]): Vector {
  const raw = addresses.reduce<Vector>((sum, { base, offset }, k) => {
    switch (layout.size) {
      case 4:
        return v128.load32_lane(base, sum, k, offset);
      case 2:
        return v128.load16_lane(base, sum, 2 * k, offset);
      default:
        return v128.load8_lane(base, sum, 4 * k, offset);
    }
  }, i32x4.const(0));
  if (layout.size === 1) return isSigned(layout) ? i32x4.shr_s(i32x4.shl(raw, 24), 24) : convert(layout, raw);
  return convert(layout, layout.size === 2 ? i32x4.shr_s(i32x4.shl(raw, 16), 16) : raw);
}

const isSigned = (layout: Layout): boolean => layout.dtype.startsWith("i");

/** From what lies in memory, widened to 32 bits with its sign, to what expressions compute with. */
function convert(layout: Layout, raw: Vector): Vector {
  if (layout.dtype === "bool") return i32x4.ne(raw, i32x4.const(0));
  return layout.storage === "half" ? halfToFloat(raw) : raw;
}

/**
 * Half precision, its sign in all upper bits of each lane, as f32: sign, exponent and fraction move to their place and a product with
 * 2^112 mends the bias, subnormal halves included; infinities and NaN, then 2^16 and more, get the largest exponent.
 */
function halfToFloat(raw: Vector): Vector {
  const moved = v128.and(i32x4.shl(raw, 13), i32x4.const(0x8fffe000 | 0));
  const value = f32x4.mul(moved, f32x4.const(2 ** 112));
  const special = f32x4.ge(f32x4.abs(value), f32x4.const(2 ** 16));
  return v128.or(value, v128.and(special, i32x4.const(0x7f800000)));
}

/** An access to a packed buffer told apart into row and column, where no loop crosses the end of a row; else undefined. */
export function splitAccess(
  access: Access,
  columns: number,
  extents: readonly number[],
): SplitAccess | undefined {
  if (access.offset < 0 || access.strides.some((stride) => stride < 0)) return undefined;
  const column: Access = { offset: access.offset % columns, strides: access.strides.map((stride) => stride % columns) };
  const reach = column.strides.reduce((sum, stride, v) => sum + stride * ((extents[v] ?? 1) - 1), column.offset);
  if (reach >= columns) return undefined;
  const row = {
    offset: Math.floor(access.offset / columns),
    strides: access.strides.map((stride) => Math.floor(stride / columns)),
  };
  return { row, column };
}

function loadFields(place: Place, buffer: number, access: Access, stride: number): Vector {
  const bound = place.buffer(buffer), { layout } = bound;
  const split = splitAccess(access, layout.columns, place.extents);
  if (split && isAligned(place, split, 4)) {
    const { row, column } = rowAndColumn(place, buffer, split);
    return extendBytes(i32x4.splat(fourCodes(place, layout, row, column)), false);
  }
  const first = i32.add(place.affine(access.strides), access.offset);
  if (stride === 0) return i32x4.splat(oneCode(place, bound, first));
  const element = place.code.b.let("element", first);
  return lanesOf(place.lanes, (k) => oneCode(place, bound, i32.add(element, k * stride)));
}

/** What the four parts have in common is computed where the first of them needs it. */
export function known({ code: { b } }: Place, { unpacked }: Part, name: string, compute: () => Vector): Vector {
  const value = unpacked.get(name) ?? b.let("codes", compute());
  unpacked.set(name, value);
  return value;
}

/** The half of sixteen codes that a part belongs to, in 16 bits. */
export function wordsAt(place: Place, part: Part, { key, signed, read }: Sixteen): Vector {
  const bytes = known(place, part, key, read), half = part.number >> 1;
  return known(place, part, `${key} ${half}`, () => {
    if (half === 0) return (signed ? i16x8.extend_low_i8x16_s : i16x8.extend_low_i8x16_u)(bytes);
    return (signed ? i16x8.extend_high_i8x16_s : i16x8.extend_high_i8x16_u)(bytes);
  });
}

/** The four of eight words that are a part's lanes. */
export function lanesOfWords(words: Vector, { number }: Part, signed: boolean): Vector {
  if (number % 2 === 0) return (signed ? i32x4.extend_low_i16x8_s : i32x4.extend_low_i16x8_u)(words);
  return (signed ? i32x4.extend_high_i16x8_s : i32x4.extend_high_i16x8_u)(words);
}

const lanesOf = (count: number, lane: (k: number) => Index): Vector => {
  let vector = i32x4.splat(lane(0));
  for (let k = 1; k < count; k++) vector = i32x4.replace_lane(vector, k, lane(k));
  return vector;
};

const clamped = (place: Place, index: Index, extent: number): Index => {
  const { b } = place.code;
  const raw = b.let("index", index);
  const low = b.let("index", select(i32.gt_s(raw, 0), raw, i32.const(0)));
  return select(i32.lt_s(low, extent - 1), low, i32.const(extent - 1));
};

/** What a gather adds to its access, in bytes from address 0 (in elements, for fields): computed where its index is known. */
export function gatherRow(place: Place, gather: Gather): Local<"i32"> {
  const { layout, base } = place.buffer(gather.buffer);
  return place.once(gather, () => {
    const index = clamped(place, i32x4.extract_lane(place.value(gather.index), 0), gather.extent);
    if (layout.storage === "fields") return i32.mul(index, gather.stride);
    return i32.add(base, i32.add(i32.mul(index, gather.stride * layout.size), gather.access.offset * layout.size));
  });
}

/** Whether a gather reads nothing but its buffer, whatever its index. */
export const gatherStaysInside = (place: Place, { buffer, access, extent, stride }: Gather): boolean =>
  staysInside(place, place.buffer(buffer), access, (extent - 1) * stride);

/** The lanes of a gather. */
export function gatherLoad(place: Place, gather: Gather): Vector {
  const bound = place.buffer(gather.buffer), { layout } = bound, { access, stride, extent } = gather;
  const step = place.vector < 0 ? 0 : access.strides[place.vector] ?? 0;
  const indices = place.value(gather.index);
  const inside = gatherStaysInside(place, gather);
  if (layout.storage !== "fields" && inside && place.uniform(gather.index)) {
    const row = gatherRow(place, gather);
    const base = place.affine(access.strides, layout.size, { key: `g${row.index}`, index: row });
    return loadAt(place, layout, { base, offset: 0 }, step);
  }
  const { b } = place.code;
  const first = b.let("element", i32.add(place.affine(access.strides), access.offset));
  const count = place.vector < 0 ? 1 : place.lanes;
  const elements = Array.from({ length: count }, (_, k) => {
    const index = clamped(place, i32x4.extract_lane(indices, k), extent);
    const element = b.let("element", i32.add(i32.add(first, k * step), i32.mul(index, stride)));
    return inside ? element : b.let("element", clamped(place, element, bound.elements ?? 1));
  });
  if (layout.storage === "fields") {
    return lanesOf(count, (k) => oneCode(place, bound, elements[k] ?? i32.const(0)));
  }
  return loadLanes(
    layout,
    elements.map((element) => ({ base: i32.add(bound.base, i32.mul(element, layout.size)), offset: 0 })),
  );
}
