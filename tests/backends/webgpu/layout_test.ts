import { assertEquals, assertThrows } from "@std/assert";
import { type HostArray, hostArray } from "../../../backends/backend.ts";
import { bytesOf, layoutOf, pack, unpack } from "../../../backends/webgpu/layout.ts";
import { random } from "../../../ir/random.ts";
import { DTYPES, isFloat, rangeOf, sizeOf, type TensorType, tensorType } from "../../../ir/types.ts";

function randomValues(type: TensorType): HostArray {
  const draw = random(7, `layout.${type.dtype}`), values = hostArray(type.dtype, sizeOf(type.shape));
  const [low, high] = isFloat(type.dtype) || type.dtype === "bool" ? [0, 1] : rangeOf(type.dtype);
  for (let i = 0; i < values.length; i++) {
    values[i] = isFloat(type.dtype) ? (draw.int(4001) - 2000) / 8 : low + draw.int(high - low + 1);
  }
  return values;
}

Deno.test("unpack() inverts pack() for every type, with rows of any length", () => {
  for (const dtype of DTYPES) {
    for (const shape of [[], [1], [3, 5], [2, 3, 32], [4, 172], [7, 33]]) {
      const type = tensorType(dtype, shape), values = randomValues(type);
      const words = pack(type, values);
      assertEquals(words.byteLength, bytesOf(type));
      assertEquals(unpack(type, words), values);
    }
  }
});

Deno.test("codes take their bits: rows of whole blocks have no waste, others less than one block", () => {
  for (const bits of [2, 3, 4, 5, 6, 7, 8] as const) {
    assertEquals(bytesOf(tensorType(`u${bits}`, [3, 128])), 3 * 128 * bits / 8);
    const ragged = bytesOf(tensorType(`u${bits}`, [3, 172])) / 3, whole = bits === 8 ? 172 : 192;
    assertEquals(ragged, whole * bits / 8);
  }
  assertEquals(layoutOf(tensorType("u7", [32])).fields, [4, 2, 1]);
});

Deno.test("pack() puts four neighbours into the bytes of one word, at one shift per field", () => {
  const type = tensorType("u5", [32]), values = Int32Array.from({ length: 32 }, (_, i) => i);
  const words = pack(type, values);
  // Fields of 4 bits: words 0 … 3 hold elements 0 … 15 in the low halves of their bytes and 16 … 31 in the high ones.
  for (let quad = 0; quad < 8; quad++) {
    const low = ((words[quad % 4] ?? 0) >>> (quad < 4 ? 0 : 4)) & 0x0f0f0f0f;
    const high = ((words[4] ?? 0) >>> quad) & 0x01010101;
    const codes = [0, 8, 16, 24].map((shift) => ((low >>> shift) & 15) + 16 * ((high >>> shift) & 1));
    assertEquals(codes, [0, 1, 2, 3].map((i) => 4 * quad + i));
  }
});

Deno.test("pack() says what it expected of a wrong number of values", () => {
  assertThrows(() => pack(tensorType("u4", [2, 3]), new Int32Array(5)), RangeError, "Expected 6 values but found 5");
});
