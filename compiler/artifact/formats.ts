/** @file How values of the IR's types lie in safetensors files. Bytes are little-endian, as is every machine Deno runs on. */
import { type HostArray, hostArray } from "../../backends/backend.ts";
import { quote, UserError } from "../../ir/errors.ts";
import { halfBits } from "../../ir/numerics.ts";
import type { DType } from "../../ir/types.ts";
import { toFloats } from "../frontends/floats.ts";
import type { Dtype } from "../frontends/safetensors.ts";

/** The types that artifacts store: what is held of a checkpoint, and what is learned. */
const FORMATS = { f32: "F32", f16: "F16", i8: "I8" } as const satisfies Partial<Record<DType, Dtype>>;

/** A type that artifacts store. */
export type StoredType = keyof typeof FORMATS;

/** The checked name of a type in the file. */
export function formatOf(dtype: DType): Dtype {
  if (isStored(dtype)) return FORMATS[dtype];
  throw new TypeError(`Cannot store values of ${dtype}: expected one of ${Object.keys(FORMATS).join(", ")}`);
}

/** The IR's type of a format; `undefined` for formats that artifacts do not use. */
export function typeOfFormat(format: Dtype): StoredType | undefined {
  return (Object.keys(FORMATS) as StoredType[]).find((dtype) => FORMATS[dtype] === format);
}

/** The bytes of a tensor. */
export function toBytes(dtype: DType, values: HostArray): Uint8Array<ArrayBuffer> {
  switch (formatOf(dtype)) {
    case "F16":
      return new Uint8Array(Uint16Array.from(values, halfBits).buffer);
    case "I8":
      return new Uint8Array(Int8Array.from(values).buffer);
    default:
      return new Uint8Array(Float32Array.from(values).buffer);
  }
}

/**
 * The values of a tensor.
 *
 * @param name the tensor's name, for messages
 * @param file what messages call its file
 * @throws {UserError} if a number is NaN or infinite
 */
export function fromBytes(dtype: StoredType, bytes: Uint8Array<ArrayBuffer>, name: string, file: string): HostArray {
  if (dtype === "i8") {
    const values = hostArray(dtype, bytes.length);
    values.set(new Int8Array(bytes.buffer));
    return values;
  }
  const values = toFloats(bytes, FORMATS[dtype], name, file), at = values.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return values;
  throw new UserError({
    what: `Expected finite values in tensor ${quote(name)} but found ${values[at]} at position ${at}`,
    where: quote(file),
    mend: "use an intact artifact, or compile the model again",
  });
}

const isStored = (dtype: DType): dtype is StoredType => Object.hasOwn(FORMATS, dtype);
