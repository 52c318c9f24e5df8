/**
 * How tensors lie in memory. Words of 4 bytes (f32, i32, truth values as 0 and 1), halves of 2, bytes (8-bit codes and all signed
 * codes), and for u2 … u7 units of planes (`packing.ts`), made so that few instructions give sixteen neighbouring codes as bytes.
 *
 * A unit with planes of w bytes is w units side by side: plane p has bytes w·p … w·p+w-1, and byte i of slot s is element w·s + i of
 * the unit. A row of the last axis is units with planes of 16 bytes, as many as fit, then of 8, then of 4 up to the next multiple of
 * 32 elements. So a row has exactly b bits per element, but for that padding.
 */
import type { HostArray } from "../backend.ts";
import { memoOf } from "../../ir/memo.ts";
import { halfBits, halfValue } from "../../ir/numerics.ts";
import { spreadTwos, TWOS_PER_BYTE } from "../stored.ts";
import { packingOf, type Piece, spareBits } from "./packing.ts";
import { bitsOf, concreteShape, type DType, isNarrow, sizeOf, type TensorType } from "../../ir/types.ts";

/** Packed rows are padded to a multiple of this many elements. */
export const BLOCK = 32;
/** Bytes of a plane in the units of a row, in their order. */
export const PLANES = [16, 8, 4] as const;
/** Bytes behind every buffer that vector loads may read. */
export const SLACK = 64;
/** Every buffer starts at a multiple of this many bytes. */
export const ALIGNMENT = 64;

/** Where the elements of a tensor lie. */
export interface Layout {
  /** `vector`: 16 bytes per element, one value for each of four lanes; in scratch memory only. */
  readonly storage: "word" | "half" | "byte" | "fields" | "vector";
  readonly dtype: DType;
  /** Bytes per element; 0 for fields. */
  readonly size: number;
  /** Bits per element, fields only. */
  readonly bits: number;
  /** Length of the last axis. */
  readonly columns: number;
  readonly rows: number;
  /** Bytes of a row of fields. */
  readonly rowBytes: number;
  /** Bytes of the tensor, without slack. */
  readonly bytes: number;
}

/** Units of one size that follow each other in a row. */
export interface Region {
  /** Bytes of a plane. */
  readonly plane: typeof PLANES[number];
  /** First column. */
  readonly start: number;
  readonly units: number;
}

/** Elements of a unit. */
export const unitLength = (bits: number, plane: number): number => plane * packingOf(bits).slots.length;

/** The units of a row, padding included. */
export function regionsOf(columns: number, bits: number): readonly Region[] {
  const end = Math.ceil(columns / BLOCK) * BLOCK, regions: Region[] = [];
  let start = 0;
  for (const plane of PLANES) {
    const length = unitLength(bits, plane), rest = plane === 4 ? end - start : columns - start;
    const units = Math.floor(rest / length);
    if (units > 0) regions.push({ plane, start, units });
    start += units * length;
  }
  return regions;
}

/** The layout of a type with a concrete shape; worked out once per type, since every upload asks for it. */
export const layoutOf = memoOf(newLayout);

function newLayout(type: TensorType): Layout {
  const { dtype } = type, shape = concreteShape(type.shape), size = sizeOf(shape);
  const columns = shape.at(-1) ?? 1, rows = columns > 0 ? size / columns : 0;
  const plain = { dtype, columns, rows, bits: 0, rowBytes: 0 };
  if (dtype === "f16") return { ...plain, storage: "half", size: 2, bytes: 2 * size };
  if (!isNarrow(dtype)) return { ...plain, storage: "word", size: 4, bytes: 4 * size };
  const bits = bitsOf(dtype);
  if (bits === 8 || dtype.startsWith("i")) return { ...plain, storage: "byte", size: 1, bytes: size };
  const rowBytes = Math.ceil(columns / BLOCK) * 4 * bits;
  return {
    storage: "fields",
    dtype,
    size: 0,
    bits,
    columns,
    rows,
    rowBytes,
    bytes: rows * rowBytes,
  };
}

/** Bytes a tensor needs, slack included, rounded up to the alignment. */
export function bytesOf(type: TensorType): number {
  return Math.ceil((layoutOf(type).bytes + SLACK) / ALIGNMENT) * ALIGNMENT;
}

/** Writes host values at byte `at` of a memory. */
export function encode(type: TensorType, values: HostArray, memory: ArrayBufferLike, at: number): void {
  const layout = layoutOf(type);
  switch (layout.storage) {
    case "word":
      if (type.dtype === "f32") new Float32Array(memory, at, values.length).set(values);
      else if (type.dtype === "bool") new Int32Array(memory, at, values.length).set(values.map((x) => x ? 1 : 0));
      else new Int32Array(memory, at, values.length).set(values);
      return;
    case "half": {
      const halves = new Uint16Array(memory, at, values.length);
      for (let i = 0; i < values.length; i++) halves[i] = halfBits(values[i] ?? 0);
      return;
    }
    case "byte":
      new Uint8Array(memory, at, values.length).set(values);
      return;
    case "fields":
      return pack(layout, values, new Uint8Array(memory, at, layout.bytes));
    default:
      throw new Error(`Internal error: no tensor is stored as "${layout.storage}"`);
  }
}

/** Writes values as files hold them (stored.ts) at byte `at` of a memory. */
export function encodeStored(type: TensorType, stored: Uint8Array, memory: ArrayBufferLike, at: number): void {
  const layout = layoutOf(type);
  if (layout.storage !== "fields") return new Uint8Array(memory, at, stored.length).set(stored);
  if (layout.bits === 2) packTwos(layout, stored, new Uint32Array(memory, at, layout.bytes / 4));
  else pack(layout, stored, new Uint8Array(memory, at, layout.bytes));
}

/** Reads `count` values that `encode` or a kernel wrote at byte `at`. */
export function decode(type: TensorType, memory: ArrayBufferLike, at: number): HostArray {
  const layout = layoutOf(type), count = layout.rows * layout.columns;
  switch (layout.storage) {
    case "word":
      return type.dtype === "f32"
        ? new Float32Array(new Float32Array(memory, at, count))
        : new Int32Array(new Int32Array(memory, at, count));
    case "half":
      return Float32Array.from(new Uint16Array(memory, at, count), halfValue);
    case "byte":
      return Int32Array.from(
        layout.dtype.startsWith("i") ? new Int8Array(memory, at, count) : new Uint8Array(memory, at, count),
      );
    case "fields":
      return unpack(layout, new Uint8Array(memory, at, layout.bytes));
    default:
      throw new Error(`Internal error: no tensor is stored as "${layout.storage}"`);
  }
}

/** Visits the codes of every slot that has some: the first one's element, where its bytes lie, and how many there are. */
function eachSlot(
  { rows, columns, rowBytes, bits }: Layout,
  visit: (element: number, slot: readonly Piece[], unit: number, plane: number, count: number) => void,
): void {
  const { slots, planes } = packingOf(bits), regions = regionsOf(columns, bits);
  for (let row = 0; row < rows; row++) {
    for (const { plane, start, units } of regions) {
      const first = row * rowBytes + start * bits / 8;
      for (let s = 0; s < units * slots.length; s++) {
        const column = start + s * plane, count = Math.min(plane, columns - column);
        if (count <= 0) break;
        const unit = first + Math.floor(s / slots.length) * planes * plane;
        visit(row * columns + column, slots[s % slots.length] ?? [], unit, plane, count);
      }
    }
  }
}

function pack(layout: Layout, values: ArrayLike<number>, bytes: Uint8Array): void {
  bytes.fill(0);
  if (packingOf(layout.bits).hasMean) return packMeans(layout, values, bytes);
  eachSlot(layout, (element, slot, unit, stride, count) => {
    for (const { plane, shift, bits, low } of slot) {
      const mask = (1 << bits) - 1, at = unit + plane * stride;
      for (let i = 0; i < count; i++) {
        bytes[at + i] = (bytes[at + i] ?? 0) | ((values[element + i] ?? 0) >> low & mask) << shift;
      }
    }
  });
}

/** `planesOf` of all units, without an array for each of their bytes: sessions read adapters so at every switch. */
function packMeans({ rows, columns, rowBytes, bits }: Layout, values: ArrayLike<number>, bytes: Uint8Array): void {
  const packing = packingOf(bits), { planes, slots, whole, step } = packing, perPlane = whole / planes;
  const codes = new Uint8Array(slots.length), top = 2 ** bits - 1;
  const spare = Uint8Array.from({ length: planes }, (_, p) => spareBits(packing, p));
  for (let row = 0; row < rows; row++) {
    for (const { plane: stride, start, units } of regionsOf(columns, bits)) {
      for (let unit = 0; unit < units; unit++) {
        const column = start + unit * slots.length * stride, at = row * rowBytes + column * bits / 8;
        for (let i = 0; i < stride; i++) {
          for (let s = 0, c = column + i; s < codes.length; s++, c += stride) {
            codes[s] = c < columns ? values[row * columns + c] as number : 0;
          }
          let mean = 0, missing = 0;
          for (let p = planes - 1; p >= 0; p--) {
            let byte = 0;
            for (let f = 0; f < perPlane; f++) byte |= (codes[p * perPlane + f] as number) << f * step;
            bytes[at + p * stride + i] = byte;
            mean = (byte + mean + 1) >> 1;
          }
          for (let f = 0; f < perPlane; f++) {
            const own = (((codes[whole + f] as number) - (mean >> f * step)) & top) << f * step;
            mean += own;
            missing |= own;
          }
          for (let p = 0; p < planes; p++) {
            const spared = (missing & (spare[p] as number)) << p + 1, to = at + p * stride + i;
            bytes[to] = (bytes[to] as number) | spared;
          }
        }
      }
    }
  }
}

/** Codes of two bits as files hold them, four to a byte. A unit has four slots, whose codes are neighbours there. */
function packTwos({ rows, columns, rowBytes }: Layout, stored: Uint8Array, words: Uint32Array): void {
  const regions = regionsOf(columns, 2), rowStored = columns / TWOS_PER_BYTE;
  for (let row = 0; row < rows; row++) {
    const end = (row + 1) * rowStored;
    for (const { plane, start, units } of regions) {
      const from = row * rowStored + start / TWOS_PER_BYTE, to = (row * rowBytes + start / 4) / 4, size = plane / 4;
      for (let unit = 0; unit < units; unit++) {
        spreadTwos(stored, from + unit * plane, end, size, words, to + unit * size);
      }
    }
  }
}

function unpack(layout: Layout, bytes: Uint8Array): Int32Array {
  const values = new Int32Array(layout.rows * layout.columns), { planes } = packingOf(layout.bits);
  eachSlot(layout, (element, slot, unit, stride, count) => {
    for (const { plane, shift, bits, low } of slot) {
      const mask = (1 << bits) - 1;
      for (let i = 0; i < count; i++) {
        let byte = 0;
        if (plane < planes) byte = bytes[unit + plane * stride + i] ?? 0;
        else for (let p = planes - 1; p >= 0; p--) byte = ((bytes[unit + p * stride + i] ?? 0) + byte + 1) >> 1;
        values[element + i] = (values[element + i] ?? 0) | (byte >> shift & mask) << low;
      }
    }
  });
  return values;
}
