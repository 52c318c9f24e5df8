/** @file How values of the IR's types lie in safetensors files. Bytes are little-endian, as is every machine Deno runs on. */
import { type HostArray, hostArray } from "../../backends/backend.ts";
import { quote, UserError } from "../../ir/errors.ts";
import { halfBits } from "../../ir/numerics.ts";
import { type DType, type TensorType, tensorType } from "../../ir/types.ts";
import { toFloats } from "../frontends/floats.ts";
import type { Dtype } from "../frontends/safetensors.ts";

/** The types that artifacts store: what is held of a checkpoint, and what is learned. */
const FORMATS = { f32: "F32", f16: "F16", u7: "I8", i8: "I8", u8: "U8", u2: "U8" } as const satisfies Partial<
  Record<DType, Dtype>
>;

/** Codes of two bits lie four to a byte, the first one lowest, along the last axis. */
const PER_BYTE = 4;

/** What messages call the formats. */
export const FORMAT_NAMES = "F32, F16, I8 (also codes of seven bits) or U8 (codes of eight bits, or four of two bits)";

/** A type that artifacts store. */
type StoredType = keyof typeof FORMATS;

/** A tensor in the file's terms. */
export function formatOf(dtype: DType, shape: readonly number[]): { readonly dtype: Dtype; readonly shape: number[] } {
  if (!isStored(dtype)) throw notStored(dtype);
  const last = shape.at(-1) ?? 1;
  if (dtype !== "u2") return { dtype: FORMATS[dtype], shape: [...shape] };
  if (last % PER_BYTE !== 0) throw new TypeError(`Cannot store u2[${shape}]: expected a last axis in fours`);
  return { dtype: FORMATS[dtype], shape: [...shape.slice(0, -1), last / PER_BYTE] };
}

/**
 * The IR's type of a tensor in a file; `undefined` for what artifacts do not use.
 *
 * @param expected what decides where a format stands for two types; signed codes, or codes of two bits, unless given
 */
export function typeOfFormat(format: Dtype, shape: readonly number[], expected: DType = "u2"): TensorType | undefined {
  const known = (Object.keys(FORMATS) as StoredType[]).filter((type) => FORMATS[type] === format);
  const dtype = known.find((type) => type === expected) ?? known.at(-1);
  if (dtype === undefined || shape.some((size) => size < 1)) return undefined;
  return tensorType(dtype, dtype === "u2" ? shape.map((n, i) => i < shape.length - 1 ? n : n * PER_BYTE) : shape);
}

/** The bytes of a tensor of a type that artifacts store. */
export function toBytes(dtype: DType, values: HostArray): Uint8Array<ArrayBuffer> {
  switch (dtype) {
    case "f16":
      return new Uint8Array(Uint16Array.from(values, halfBits).buffer);
    case "i8":
    case "u7":
      return new Uint8Array(Int8Array.from(values).buffer);
    case "u8":
      return Uint8Array.from(values);
    case "u2": {
      const code = (i: number) => (values[i] ?? 0) << (i % PER_BYTE * 2);
      return Uint8Array.from(
        { length: values.length / PER_BYTE },
        (_, i) => code(4 * i) | code(4 * i + 1) | code(4 * i + 2) | code(4 * i + 3),
      );
    }
    case "f32":
      return new Uint8Array(Float32Array.from(values).buffer);
    default:
      throw notStored(dtype);
  }
}

/**
 * The values of a tensor.
 *
 * @param name the tensor's name, for messages
 * @param file what messages call its file
 * @throws {UserError} if a number is NaN or infinite, or no code
 */
export function fromBytes(dtype: DType, bytes: Uint8Array<ArrayBuffer>, name: string, file: string): HostArray {
  if (dtype === "i8" || dtype === "u7" || dtype === "u8") {
    const values = hostArray(dtype, bytes.length);
    values.set(dtype === "u8" ? bytes : new Int8Array(bytes.buffer));
    const below = dtype === "u7" ? values.findIndex((code) => code < 0) : -1;
    if (below >= 0) throw impossible(name, file, "codes from 0 to 127", `${values[below]} at position ${below}`);
    return values;
  }
  if (dtype === "u2") {
    const values = hostArray(dtype, bytes.length * PER_BYTE);
    for (let i = 0; i < values.length; i++) values[i] = ((bytes[i >> 2] ?? 0) >> (i % PER_BYTE * 2)) & 3;
    return values;
  }
  if (dtype !== "f32" && dtype !== "f16") throw notStored(dtype);
  const values = toFloats(bytes, FORMATS[dtype], name, file);
  const at = values.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return values;
  throw impossible(name, file, "finite values", `${values[at]} at position ${at}`);
}

const impossible = (name: string, file: string, expected: string, found: string): UserError =>
  new UserError({
    what: `Expected ${expected} in tensor ${quote(name)} but found ${found}`,
    where: quote(file),
    mend: "use an intact artifact, or compile the model again",
  });

const notStored = (dtype: DType): TypeError =>
  new TypeError(`Cannot store values of ${dtype}: expected one of ${Object.keys(FORMATS).join(", ")}`);

const isStored = (dtype: DType): dtype is StoredType => Object.hasOwn(FORMATS, dtype);
