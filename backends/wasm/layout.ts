/**
 * How tensors lie in memory. Words of 4 bytes (f32, i32, truth values as 0 and 1), halves of 2, bytes (8-bit codes and all signed
 * codes), and for u2 … u7 units of planes (`packing.ts`), made so that few instructions give sixteen neighbouring codes as bytes.
 *
 * A unit with planes of w bytes is w units side by side: plane p has bytes w·p … w·p+w-1, and byte i of slot s is element w·s + i of
 * the unit. A row of the last axis is units with planes of 16 bytes, as many as fit, then of 8, then of 4 up to the next multiple of
 * 32 elements. So a row has exactly b bits per element, but for that padding.
 */
import { memoOf } from "../../ir/memo.ts";
import { packingOf } from "./packing.ts";
import { bitsOf, concreteShape, type DType, isNarrow, sizeOf, type TensorType } from "../../ir/types.ts";

/** Bytes of a vector. */
export const VECTOR = 16;
/** Packed rows are padded to a multiple of this many elements. */
export const BLOCK = 32;
/** Bytes of a plane in the units of a row, in their order. */
export const PLANES = [16, 8, 4] as const;
/** Bytes behind every buffer that vector loads may read. */
export const SLACK = 64;
/** Every buffer starts at a multiple of this many bytes. */
export const ALIGNMENT = 64;
/** Memories grow by pages of so many bytes. */
export const PAGE_BYTES = 65536;
/**
 * Pages that memories have at least. Where engines check addresses by instructions, as Deno's does, they check static offsets within
 * these pages once less.
 */
export const LEAST_PAGES = 1;

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
