/**
 * How tensors lie in memory. Words of 4 bytes (f32, i32, truth values as 0 and 1), halves of 2, bytes (8-bit codes and all signed
 * codes), and for u2 … u7 split fields: a row of the last axis is padded to whole blocks of 32 elements; a block holds one
 * plane per field of f bits (3 = 2+1, 5 = 4+1, 6 = 4+2, 7 = 4+2+1), the widest, which carries the lowest bits of the code,
 * first. A plane has 4·f bytes; byte i holds element i + 4·f·j at bit f·j, so that `(word >> f·j) & mask` is four
 * consecutive elements, one per byte.
 */
import type { HostArray } from "../backend.ts";
import { halfBits, halfValue } from "../../ir/numerics.ts";
import { bitsOf, concreteShape, type DType, isNarrow, sizeOf, type TensorType } from "../../ir/types.ts";

/** Elements in a block of a packed row. */
export const BLOCK = 32;
/** Bytes behind every buffer that vector loads may read. */
export const SLACK = 64;
/** Every buffer starts at a multiple of this many bytes. */
export const ALIGNMENT = 64;

/** One field of a code: `bits` bits, worth 2^`low` and up, in a plane `offset` bytes into the block. */
export interface Field {
  readonly bits: number;
  readonly low: number;
  readonly offset: number;
}

/** Where the elements of a tensor lie. */
export interface Layout {
  /** `vector`: 16 bytes per element, one value for each of four lanes; in scratch memory only. */
  readonly storage: "word" | "half" | "byte" | "fields" | "vector";
  readonly dtype: DType;
  /** Bytes per element; 0 for fields. */
  readonly size: number;
  /** Bits per element, fields only. */
  readonly bits: number;
  readonly fields: readonly Field[];
  /** Length of the last axis. */
  readonly columns: number;
  readonly rows: number;
  /** Bytes of a row of fields. */
  readonly rowBytes: number;
  /** Bytes of the tensor, without slack. */
  readonly bytes: number;
}

const FIELDS: Readonly<Record<number, readonly number[]>> = {
  2: [2],
  3: [2, 1],
  4: [4],
  5: [4, 1],
  6: [4, 2],
  7: [4, 2, 1],
};

/** The fields of a width of 2 to 7 bits. */
export function fieldsOf(bits: number): readonly Field[] {
  const fields: Field[] = [];
  for (const width of FIELDS[bits] ?? []) {
    const low = fields.reduce((sum, field) => sum + field.bits, 0);
    fields.push({ bits: width, low, offset: 4 * low });
  }
  return fields;
}

/** The layout of a type with a concrete shape. */
export function layoutOf(type: TensorType): Layout {
  const { dtype } = type, shape = concreteShape(type.shape), size = sizeOf(shape);
  const columns = shape.at(-1) ?? 1, rows = columns > 0 ? size / columns : 0;
  const plain = { dtype, columns, rows, bits: 0, fields: [], rowBytes: 0 };
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
    fields: fieldsOf(bits),
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

/** Byte and bit of an element's field. */
function place({ rowBytes, columns, bits }: Layout, field: Field, element: number): { byte: number; shift: number } {
  const column = element % columns, span = 4 * field.bits, inside = column % BLOCK;
  const block = Math.floor(element / columns) * rowBytes + Math.floor(column / BLOCK) * 4 * bits;
  return { byte: block + field.offset + inside % span, shift: Math.floor(inside / span) * field.bits };
}

function pack(layout: Layout, values: HostArray, bytes: Uint8Array): void {
  bytes.fill(0);
  for (const field of layout.fields) {
    const mask = 2 ** field.bits - 1;
    for (let i = 0; i < values.length; i++) {
      const { byte, shift } = place(layout, field, i);
      bytes[byte] = (bytes[byte] ?? 0) | (((values[i] ?? 0) >> field.low) & mask) << shift;
    }
  }
}

function unpack(layout: Layout, bytes: Uint8Array): Int32Array {
  const values = new Int32Array(layout.rows * layout.columns);
  for (const field of layout.fields) {
    const mask = 2 ** field.bits - 1;
    for (let i = 0; i < values.length; i++) {
      const { byte, shift } = place(layout, field, i);
      values[i] = (values[i] ?? 0) | (((bytes[byte] ?? 0) >> shift) & mask) << field.low;
    }
  }
  return values;
}
