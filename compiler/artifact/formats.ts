/** @file How values of the IR's types lie in safetensors files. */
import {
  floatsOf,
  halvesOf,
  STORED_TYPES,
  type StoredBytes,
  type StoredType,
  storedType,
  TWOS_PER_BYTE,
} from "../../backends/stored.ts";
import { quote, UserError } from "../../ir/errors.ts";
import { halfValue } from "../../ir/numerics.ts";
import { type DType, type TensorType, tensorType } from "../../ir/types.ts";
import type { Dtype, SafetensorsFile } from "../frontends/safetensors.ts";

/** The types that artifacts store: what is held of a checkpoint, and what is learned. */
const FORMATS = { f32: "F32", f16: "F16", u7: "I8", i8: "I8", u8: "U8", u2: "U8" } as const satisfies Record<
  StoredType,
  Dtype
>;

/** What messages call the formats. */
export const FORMAT_NAMES = "F32, F16, I8 (also codes of seven bits) or U8 (codes of eight bits, or four of two bits)";

/** A tensor in the file's terms. */
export function formatOf(dtype: DType, shape: readonly number[]): { readonly dtype: Dtype; readonly shape: number[] } {
  const format = FORMATS[storedType(dtype)], last = shape.at(-1) ?? 1;
  if (dtype !== "u2") return { dtype: format, shape: [...shape] };
  if (last % TWOS_PER_BYTE !== 0) throw new TypeError(`Cannot store u2[${shape}]: expected a last axis in fours`);
  return { dtype: format, shape: [...shape.slice(0, -1), last / TWOS_PER_BYTE] };
}

/**
 * The IR's type of a tensor in a file; `undefined` for what artifacts do not use.
 *
 * @param expected what decides where a format stands for two types; signed codes, or codes of two bits, unless given
 */
export function typeOfFormat(format: Dtype, shape: readonly number[], expected: DType = "u2"): TensorType | undefined {
  const known = STORED_TYPES.filter((type) => FORMATS[type] === format);
  const dtype = known.find((type) => type === expected) ?? known.at(-1);
  if (dtype === undefined || shape.some((size) => size < 1)) return undefined;
  return tensorType(dtype, dtype === "u2" ? shape.map((n, i) => i < shape.length - 1 ? n : n * TWOS_PER_BYTE) : shape);
}

/**
 * Reads tensors of a file, those that lie near each other at once.
 *
 * @param types what the tensors are, by name
 * @throws {UserError} if a number is NaN or infinite, or no code
 */
export async function readTensors(
  file: SafetensorsFile,
  types: ReadonlyMap<string, TensorType>,
): Promise<ReadonlyMap<string, StoredBytes>> {
  const read = await file.read([...types.keys()]), found = new Map<string, StoredBytes>();
  for (const [name, type] of types) {
    const bytes = read.get(name) ?? new Uint8Array();
    checkBytes(type.dtype, bytes, name, file.name);
    found.set(name, { type, bytes });
  }
  return found;
}

/** Checks a file's values; `name` is the tensor's, for messages. */
function checkBytes(dtype: DType, bytes: Uint8Array, name: string, file: string): void {
  const fail = (expected: string, at: number, found: unknown): never => {
    throw new UserError({
      what: `Expected ${expected} in tensor ${quote(name)} but found ${found} at position ${at}`,
      where: quote(file),
      mend: "use an intact artifact, or compile the model again",
    });
  };
  // Loops: these are most of what a switch reads.
  if (dtype === "u7") {
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at] ?? 0;
      if (byte > 127) fail("codes from 0 to 127", at, byte - 256);
    }
  } else if (dtype === "f16") {
    const halves = halvesOf(bytes);
    for (let at = 0; at < halves.length; at++) {
      const half = halves[at] ?? 0;
      if ((half & 0x7c00) === 0x7c00) fail("finite values", at, halfValue(half));
    }
  } else if (dtype === "f32") {
    const floats = floatsOf(bytes);
    for (let at = 0; at < floats.length; at++) {
      const value = floats[at] ?? 0;
      if (!Number.isFinite(value)) fail("finite values", at, value);
    }
  }
}
