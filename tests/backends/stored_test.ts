/** Values as files hold them, and that every backend takes them as it takes numbers. */
import { assertEquals, assertThrows } from "@std/assert";
import * as fc from "fast-check";
import type { HostArray } from "../../backends/backend.ts";
import { checkStored, fromStored, STORED_TYPES, toStored } from "../../backends/stored.ts";
import { pack, packStored } from "../../backends/webgpu/layout.ts";
import { encode, encodeStored } from "../../backends/wasm/host_values.ts";
import { bytesOf } from "../../backends/wasm/layout.ts";
import { halfValue } from "../../ir/numerics.ts";
import { isFloat, rangeOf, sizeOf, type TensorType, tensorType } from "../../ir/types.ts";
import { BACKENDS } from "../support/backends.ts";

/** Types with values; u2 has a last axis in fours. */
const tensors = fc.tuple(
  fc.constantFrom(...STORED_TYPES),
  fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 2 }),
  fc.integer({ min: 1, max: 100 }),
  fc.infiniteStream(fc.nat({ max: 65535 })),
).map(([dtype, outer, columns, numbers]) => {
  const type = tensorType(dtype, [...outer, dtype === "u2" ? 4 * columns : columns]);
  const [low, high] = isFloat(dtype) ? [0, 0] : rangeOf(dtype);
  const valueOf = (x: number): number =>
    dtype === "f16" ? halfValue(x % 0x7c00) : dtype === "f32" ? Math.fround(x / 7) : low + x % (high - low + 1);
  const drawn = Array.from({ length: sizeOf(type.shape) }, () => valueOf(numbers.next().value ?? 0));
  const values: HostArray = isFloat(dtype) ? Float32Array.from(drawn) : Int32Array.from(drawn);
  return [type, values] as const;
});

/** The same bytes at another address. */
const moved = (bytes: Uint8Array, by: number): Uint8Array => {
  const buffer = new Uint8Array(bytes.length + by);
  buffer.set(bytes, by);
  return buffer.subarray(by);
};

Deno.test("fromStored() inverts toStored(), wherever the bytes lie", () => {
  fc.assert(fc.property(tensors, fc.nat({ max: 3 }), ([type, values], by) => {
    const bytes = toStored(type.dtype, values);
    checkStored(type, bytes);
    assertEquals(fromStored(type.dtype, moved(bytes, by)), values);
  }));
});

for (const [name, open] of Object.entries(BACKENDS)) {
  Deno.test(`uploadStored() holds what upload() holds: ${name}`, async () => {
    await using backend = await open();
    await fc.assert(fc.asyncProperty(tensors, fc.nat({ max: 3 }), async ([type, values], by) => {
      const tensor = backend.uploadStored(type, moved(toStored(type.dtype, values), by));
      assertEquals(await backend.download(tensor), values);
      backend.free(tensor);
    }));
  });
}

Deno.test("stored values lie in memory as others do, padding included: wasm and webgpu", () => {
  fc.assert(fc.property(tensors, fc.nat({ max: 3 }), ([type, values], by) => {
    const stored = moved(toStored(type.dtype, values), by);
    assertEquals(packStored(type, stored), pack(type, values));
    const [expected, found] = [encoded(type), encoded(type)];
    encode(type, values, expected.buffer, 0);
    encodeStored(type, stored, found.buffer, 0);
    assertEquals(found, expected);
  }));
});

/** Memory that was used before. */
const encoded = (type: TensorType) => new Uint8Array(bytesOf(type)).fill(0xa5);

Deno.test("checkStored() refuses what has another length or is in no file", () => {
  assertThrows(() => checkStored(tensorType("f32", [3]), new Uint8Array(11)), TypeError, "expected 12 but found 11");
  assertThrows(
    () => checkStored(tensorType("u2", [2, 6]), new Uint8Array(3)),
    TypeError,
    "Cannot store bytes as u2[2,6]",
  );
  assertThrows(() => checkStored(tensorType("u3", [8]), new Uint8Array(3)), TypeError, "Cannot store values of u3");
});
