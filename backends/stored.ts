/**
 * @file Values as files hold them, which backends take without a detour over numbers: little-endian (as is every machine Deno runs
 * on), f32 and f16 as they are, codes of seven and eight bits one per byte, and codes of two bits four to a byte, the first one
 * lowest, along the last axis.
 */
import { halfBits, halfValue } from "../ir/numerics.ts";
import { concreteShape, type DType, sizeOf, type TensorType, typeText } from "../ir/types.ts";
import { type HostArray, hostArray } from "./backend.ts";

/** A tensor's values as a file holds them. */
export interface StoredBytes {
  readonly type: TensorType;
  readonly bytes: Uint8Array;
}

/** Codes of two bits in a byte. */
export const TWOS_PER_BYTE = 4;

const BYTES = { f32: 4, f16: 2, u7: 1, i8: 1, u8: 1, u2: 1 / TWOS_PER_BYTE } as const satisfies Partial<
  Record<DType, number>
>;

/** The types that files hold values of. */
export type StoredType = keyof typeof BYTES;
export const STORED_TYPES = Object.keys(BYTES) as readonly StoredType[];

const isStored = (dtype: DType): dtype is StoredType => Object.hasOwn(BYTES, dtype);

/** @throws {TypeError} if values of that type are in no file */
export function storedType(dtype: DType): StoredType {
  if (isStored(dtype)) return dtype;
  throw new TypeError(`Cannot store values of ${dtype}: expected one of ${STORED_TYPES.join(", ")}`);
}

/** The bytes of values. */
export function toStored(dtype: DType, values: HostArray): Uint8Array<ArrayBuffer> {
  const type = storedType(dtype);
  switch (type) {
    case "f32":
      return new Uint8Array(Float32Array.from(values).buffer);
    case "f16":
      return new Uint8Array(Uint16Array.from(values, halfBits).buffer);
    case "i8":
    case "u7":
      return new Uint8Array(Int8Array.from(values).buffer);
    case "u8":
      return Uint8Array.from(values);
    case "u2": {
      const bytes = new Uint8Array(values.length / TWOS_PER_BYTE);
      for (let i = 0; i < values.length; i++) bytes[i >> 2] = (bytes[i >> 2] ?? 0) | (values[i] ?? 0) << (i & 3) * 2;
      return bytes;
    }
    default:
      return type satisfies never;
  }
}

/** The values of bytes. */
export function fromStored(dtype: DType, bytes: Uint8Array): HostArray {
  const type = storedType(dtype);
  switch (type) {
    case "f32":
      return Float32Array.from(floatsOf(bytes));
    case "f16":
      return Float32Array.from(halvesOf(bytes), halfValue);
    case "i8":
      return Int32Array.from(new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length));
    case "u7":
    case "u8":
      return Int32Array.from(bytes);
    case "u2": {
      const values = hostArray(type, bytes.length * TWOS_PER_BYTE);
      for (let i = 0; i < values.length; i++) values[i] = ((bytes[i >> 2] ?? 0) >> (i & 3) * 2) & 3;
      return values;
    }
    default:
      return type satisfies never;
  }
}

/** Bytes at an address that is a multiple of `size`: a copy, where they are not. */
const aligned = (bytes: Uint8Array, size: number): Uint8Array => bytes.byteOffset % size === 0 ? bytes : bytes.slice();

/** Halves and floats as numbers, which may share memory with the bytes. */
export function halvesOf(bytes: Uint8Array): Uint16Array {
  const { buffer, byteOffset, length } = aligned(bytes, 2);
  return new Uint16Array(buffer, byteOffset, length / 2);
}
export function floatsOf(bytes: Uint8Array): Float32Array {
  const { buffer, byteOffset, length } = aligned(bytes, 4);
  return new Float32Array(buffer, byteOffset, length / 4);
}

/** @throws {TypeError} unless there are as many bytes as values of the type take */
export function checkStored(type: TensorType, bytes: Uint8Array): void {
  const count = sizeOf(type.shape) * BYTES[storedType(type.dtype)];
  const whole = type.dtype !== "u2" || (concreteShape(type.shape).at(-1) ?? 1) % TWOS_PER_BYTE === 0;
  if (bytes.length === count && whole) return;
  throw new TypeError(`Cannot store bytes as ${typeText(type)}: expected ${count} but found ${bytes.length}`);
}

/** The four codes of a byte as four bytes of a word, the first one lowest. */
const SPREAD = Uint32Array.from(
  { length: 256 },
  (_, byte) => byte & 3 | (byte >> 2 & 3) << 8 | (byte >> 4 & 3) << 16 | byte >> 6 << 24,
);

/**
 * Moves codes of two bits from a file's order into planes: byte i of `4·words` bytes holds the codes i, i + 4·words, i + 8·words and
 * i + 12·words of a row's next ones, the first one lowest. That is how backends read neighbours at once.
 *
 * @param bytes a file's; those from `end` on count as zero
 * @param at where the codes start
 * @param target from word `to` on
 */
export function spreadTwos(
  bytes: Uint8Array,
  at: number,
  end: number,
  words: number,
  target: Uint32Array,
  to: number,
): void {
  if (at + 4 * words <= end) {
    for (let k = 0, i = at; k < words; k++, i++) {
      target[to + k] = (SPREAD[bytes[i] as number] as number) |
        (SPREAD[bytes[i + words] as number] as number) << 2 |
        (SPREAD[bytes[i + 2 * words] as number] as number) << 4 |
        (SPREAD[bytes[i + 3 * words] as number] as number) << 6;
    }
    return;
  }
  const own = (i: number): number => i < end ? SPREAD[bytes[i] as number] as number : 0;
  for (let k = 0; k < words; k++) {
    const i = at + k;
    target[to + k] = own(i) | own(i + words) << 2 | own(i + 2 * words) << 4 | own(i + 3 * words) << 6;
  }
}
