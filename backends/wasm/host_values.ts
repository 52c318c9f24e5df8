/** Writes values of the host into a memory, and reads them back. */
import type { HostArray } from "../backend.ts";
import { halfBits, halfValue } from "../../ir/numerics.ts";
import type { TensorType } from "../../ir/types.ts";
import { pack, packTwos, unpack } from "./host_codes.ts";
import { layoutOf } from "./layout.ts";

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
