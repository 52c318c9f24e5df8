/** Stores of one to four lanes, of every layout, and scatters. */
import type { Access, Store } from "../kernel.ts";
import { f32x4, i16x8, i32, i32x4, i8x16, v128 } from "./assembler.ts";
import { storeCode } from "./codes_packing.ts";
import { four } from "./lanes.ts";
import type { Layout } from "./layout.ts";
import { operandsOf } from "./maps.ts";
import type { Address, Part, Place, Vector } from "./place.ts";

/** Evaluates the values of all stores, then stores them: what a store overwrites may be an operand of a later one. */
export function emitStores(place: Place, stores: readonly Store[]): void {
  const values = stores.map((store) => saturating(place, store) ?? place.value(store.value));
  const indices = stores.map((store) => store.scatter && place.value(store.scatter.index));
  stores.forEach((store, i) => {
    const value = values[i], index = indices[i];
    if (!value) return;
    if (store.scatter && index) scatter(place, store, store.scatter, value, index);
    else storeVector(place, store.buffer, store.access, value);
  });
}

/**
 * Codes from 0 on, of floats: where sixteen of them are narrowed to bytes at once, that clamps what is below 0 (and NaN, which becomes the
 * least integer or 0), so that only what is too large is left to clamp.
 */
function saturating(place: Place, { buffer, access, value, scatter }: Store): Vector | undefined {
  const { layout } = place.buffer(buffer), { part, code: { relaxed } } = place;
  const narrows = part && !scatter && isPartOfBytes(place, layout, access) && layout.dtype.startsWith("u");
  if (!narrows || value.kind !== "map" || value.op !== "cast" || value.range?.[0] !== 0) return undefined;
  const [x] = operandsOf(value);
  if (!x || x.scalar !== "f32") return undefined;
  const bounded = f32x4.pmin(place.value(x), f32x4.const(value.range[1]));
  return relaxed ? i32x4.relaxed_trunc_f32x4_s(bounded) : i32x4.trunc_sat_f32x4_s(bounded);
}

/** Whether the parts of sixteen neighbours go to sixteen neighbouring bytes. */
const isPartOfBytes = ({ vector }: Place, { storage }: Layout, { strides }: Access): boolean =>
  storage === "byte" && strides[vector] === 1;

/** Stores the lanes that count (the first alone where the access does not move with the vector). */
export function storeVector(place: Place, buffer: number, access: Access, value: Vector): void {
  const bound = place.buffer(buffer), { layout } = bound, { b } = place.code;
  const stride = place.vector < 0 ? 0 : access.strides[place.vector] ?? 0;
  const lanes = stride === 0 ? 1 : place.lanes;
  if (layout.storage === "fields") {
    const element = b.let("element", i32.add(place.affine(access.strides), access.offset));
    for (let k = 0; k < lanes; k++) storeCode(place, bound, i32.add(element, k * stride), i32x4.extract_lane(value, k));
    return;
  }
  const at = place.address(buffer, access);
  if (layout.storage === "vector") return b.emit(v128.store(at.base, value, at.offset));
  const raw = lower(place, layout, value);
  if (place.part && isPartOfBytes(place, layout, access)) {
    return storePart(place, place.part, `${buffer} ${access.offset} ${access.strides}`, layout, at, raw);
  }
  if (stride === 1 && lanes === 4) return storeFour(place, layout, at, raw);
  for (let k = 0; k < lanes; k++) storeLane(place, layout, moved(at, k * stride * layout.size), raw, k);
}

const moved = ({ base, offset }: Address, bytes: number): Address =>
  bytes >= 0 ? { base, offset: offset + bytes } : { base: i32.add(base, bytes), offset };

/** Stores at rows chosen by data; a row outside of the extent is left out. */
function scatter(
  place: Place,
  store: Store,
  { index, extent, stride }: NonNullable<Store["scatter"]>,
  value: Vector,
  at: Vector,
): void {
  const { buffer, access } = store, bound = place.buffer(buffer), { layout } = bound, { b } = place.code;
  const step = place.vector < 0 ? 0 : access.strides[place.vector] ?? 0;
  const uniform = place.vector < 0 || place.uniform(index);
  const lanes = uniform && step === 0 ? 1 : place.lanes;
  const first = b.let("element", i32.add(place.affine(access.strides), access.offset));
  const raw = layout.storage === "fields" ? value : lower(place, layout, value);
  const whole = uniform && step === 1 && lanes === 4 && layout.storage !== "fields";
  for (let k = 0; k < (whole ? 1 : lanes); k++) {
    const row = b.let("row", i32x4.extract_lane(at, uniform ? 0 : k));
    b.if(i32.lt_u(row, extent), () => {
      const element = i32.add(i32.add(first, k * step), i32.mul(row, stride));
      if (layout.storage === "fields") return storeCode(place, bound, element, i32x4.extract_lane(value, k));
      const to = { base: i32.add(bound.base, i32.mul(element, layout.size)), offset: 0 };
      if (whole) storeFour(place, layout, to, raw);
      else storeLane(place, layout, to, raw, k);
    });
  }
}

/** From what expressions compute with to what lies in memory, in the low bits of each lane; in a local. */
function lower({ code: { b } }: Place, layout: Layout, value: Vector): Vector {
  if (layout.dtype === "bool") return b.let("bit", v128.and(value, i32x4.const(1)));
  return layout.storage === "half" ? b.let("half", floatToHalf(b.let("x", value))) : value;
}

/** The nearest half, ties to even, in the low 16 bits of each lane. */
function floatToHalf(x: Vector): Vector {
  const magnitude = v128.and(x, i32x4.const(0x7fffffff));
  // Subnormal halves are multiples of 2^-24, which adding ½ rounds to.
  const small = i32x4.sub(f32x4.add(magnitude, f32x4.const(0.5)), i32x4.const(0x3f000000));
  const odd = v128.and(i32x4.shr_u(magnitude, 13), i32x4.const(1));
  const normal = i32x4.shr_u(i32x4.add(i32x4.add(magnitude, odd), i32x4.const(0xfff - 0x38000000)), 13);
  const finite = v128.bitselect(small, normal, i32x4.lt_s(magnitude, i32x4.const(0x38800000)));
  const nan = v128.and(i32x4.gt_s(magnitude, i32x4.const(0x7f800000)), i32x4.const(0x200));
  const special = v128.or(nan, i32x4.const(0x7c00));
  const half = v128.bitselect(special, finite, i32x4.gt_s(magnitude, i32x4.const(0x477fefff)));
  return v128.or(half, v128.and(i32x4.shr_u(x, 16), i32x4.const(0x8000)));
}

/** Keeps what a part stores until the last part has come; then sixteen bytes are one store. */
function storePart(
  { code: { b } }: Place,
  { number, stored }: Part,
  key: string,
  layout: Layout,
  at: Address,
  raw: Vector,
): void {
  const { to, vectors } = stored.get(key) ?? { to: at, vectors: [] }, all = [...vectors, b.let("part", raw)];
  stored.set(key, { to, vectors: all });
  if (number < 3) return;
  const [first, second, third, last] = four(all), narrow = i16x8.narrow_i32x4_s;
  const join = layout.dtype.startsWith("i") ? i8x16.narrow_i16x8_s : i8x16.narrow_i16x8_u;
  b.emit(v128.store(to.base, join(narrow(first, second), narrow(third, last)), { offset: to.offset, align: 1 }));
}

function storeFour({ code: { b } }: Place, layout: Layout, { base, offset }: Address, raw: Vector): void {
  const pick = (bytes: number) => Array.from({ length: 16 }, (_, i) => Math.floor(i / bytes) % 4 * 4 + i % bytes);
  switch (layout.size) {
    case 4:
      return b.emit(v128.store(base, raw, { offset, align: 4 }));
    case 2:
      return b.emit(v128.store64_lane(base, i8x16.shuffle(raw, raw, pick(2)), 0, { offset, align: 2 }));
    default:
      return b.emit(v128.store32_lane(base, i8x16.shuffle(raw, raw, pick(1)), 0, { offset, align: 1 }));
  }
}

function storeLane({ code: { b } }: Place, layout: Layout, { base, offset }: Address, raw: Vector, lane: number): void {
  switch (layout.size) {
    case 4:
      return b.emit(v128.store32_lane(base, raw, lane, offset));
    case 2:
      return b.emit(v128.store16_lane(base, raw, 2 * lane, offset));
    default:
      return b.emit(v128.store8_lane(base, raw, 4 * lane, offset));
  }
}
