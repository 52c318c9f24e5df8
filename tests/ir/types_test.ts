/** Element types and their texts. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  bitsOf,
  DTYPES,
  isFloat,
  isInteger,
  isNarrow,
  parseType,
  rangeOf,
  sizeOf,
  tensorType,
  typeText,
  unsignedType,
} from "../../ir/types.ts";

Deno.test("parseType() inverts typeText() for every element type", () => {
  for (const dtype of DTYPES) {
    for (const shape of [[], [1], [2, 64], ["T"], ["4*B*T", 3]]) {
      const type = tensorType(dtype, shape);
      assertEquals(parseType(typeText(type)), type);
    }
  }
  assertEquals(typeText(parseType(" f32[T*B*2, 3 ] ")), "f32[2*B*T,3]");
});

Deno.test("parseType() rejects what is no type", () => {
  for (const text of ["f32", "f64[2]", "f32[2", "[2]", "f32[2]x", ""]) {
    assertThrows(() => parseType(text), SyntaxError, `Expected a type such as f32[2,64] but found "${text}"`);
  }
  for (const text of ["f32[0]", "f32[-1]", "f32[2,,3]", "f32[2,]", "f32[t]"]) {
    assertThrows(() => parseType(text), RangeError, "Expected a");
  }
});

Deno.test("widths and ranges follow from the name", () => {
  assertEquals(DTYPES.map(bitsOf), [32, 16, 32, 32, 2, 3, 4, 5, 6, 7, 8, 4, 5, 6, 7, 8]);
  assertEquals([rangeOf("u3"), rangeOf("i4"), rangeOf("i8"), rangeOf("i32")], [[0, 7], [-8, 7], [-128, 127], [
    -2147483648,
    2147483647,
  ]]);
  assertThrows(() => rangeOf("f32"), TypeError, "Expected an integer type but found f32");
  assertEquals(DTYPES.filter(isFloat), ["f32", "f16"]);
  assertEquals(DTYPES.filter((dtype) => isInteger(dtype) && !isNarrow(dtype)), ["i32"]);
  assertEquals(unsignedType(5), "u5");
  assertEquals([sizeOf([]), sizeOf([2, 3, 4])], [1, 24]);
});

Deno.test("types are frozen", () => {
  const type = tensorType("f32", [2, 3]);
  assert(Object.isFrozen(type) && Object.isFrozen(type.shape));
});
