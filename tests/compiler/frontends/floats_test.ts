import { assertEquals } from "@std/assert";
import { bfloatToFloat, halfToFloat, toFloats } from "../../../compiler/frontends/floats.ts";

const everyHalf = Uint16Array.from({ length: 65536 }, (_, bits) => bits);

Deno.test("halfToFloat() agrees with the engine on all 65536 halves", () => {
  const expected = Float32Array.from(new Float16Array(everyHalf.buffer));
  assertEquals(halfToFloat(everyHalf), expected);
  assertEquals(Object.is(halfToFloat(Uint16Array.of(0x8000))[0], -0), true);
});

Deno.test("bfloatToFloat() is the inverse of cutting an f32 to its upper half", () => {
  const bits = new Uint32Array(bfloatToFloat(everyHalf).buffer);
  // NaNs may lose their payload on the way through a float, numbers may not change.
  assertEquals(bits.every((word, half) => word >>> 16 === half && (word & 0xffff) === 0), true);
});

Deno.test("toFloats() reads values little-endian", () => {
  assertEquals(toFloats(Uint8Array.of(0, 0x3c), "F16", "t", "f"), Float32Array.of(1));
  assertEquals(toFloats(Uint8Array.of(0x80, 0x3f), "BF16", "t", "f"), Float32Array.of(1));
  assertEquals(toFloats(Uint8Array.of(0, 0, 0x80, 0x3f), "F32", "t", "f"), Float32Array.of(1));
  assertEquals(toFloats(new Uint8Array(Float64Array.of(0.1).buffer), "F64", "t", "f"), Float32Array.of(0.1));
});
