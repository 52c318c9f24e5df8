/** Dimensions: products of integers and symbols have one normal form. */
import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { bindDim, concreteDim, type Dim, divideDims, multiplyDims, normalDim } from "../../ir/dim.ts";

const symbol = fc.constantFrom("B", "S", "T", "Tokens2");
const dim: fc.Arbitrary<Dim> = fc.tuple(fc.integer({ min: 1, max: 12 }), fc.array(symbol, { maxLength: 3 })).map(
  ([n, symbols]) => multiplyDims([n, ...symbols]),
);
const numbers = { B: 2, S: 3, T: 5, Tokens2: 7 };

Deno.test("a product has one normal form, coefficient first and symbols sorted", () => {
  assertEquals(multiplyDims(["T", 4, "B"]), "4*B*T");
  assertEquals(multiplyDims(["T*2", "3*B"]), "6*B*T");
  assertEquals(multiplyDims([1, "T"]), "T");
  assertEquals(multiplyDims([]), 1);
  assertEquals(normalDim("T*B*2*1"), "2*B*T");
  assertEquals(normalDim("2*3"), 6);
});

Deno.test("multiplication commutes, associates and commutes with binding", () => {
  fc.assert(
    fc.property(dim, dim, dim, (a, b, c) => {
      assertEquals(multiplyDims([a, b]), multiplyDims([b, a]));
      assertEquals(multiplyDims([multiplyDims([a, b]), c]), multiplyDims([a, multiplyDims([b, c])]));
      assertEquals(bindDim(multiplyDims([a, b]), numbers), Number(bindDim(a, numbers)) * Number(bindDim(b, numbers)));
      assertEquals(bindDim(bindDim(a, { T: 5 }), { B: 2, S: 3, Tokens2: 7 }), bindDim(a, numbers));
    }),
    { seed: 1 },
  );
});

Deno.test("division undoes multiplication, and has no result where a fraction or a symbol would be left over", () => {
  fc.assert(fc.property(dim, dim, (a, b) => assertEquals(divideDims(multiplyDims([a, b]), b), a)), { seed: 1 });
  assertEquals(divideDims("6*T", 4), undefined);
  assertEquals(divideDims(6, "T"), undefined);
  assertEquals(divideDims("T", "T*T"), undefined);
});

Deno.test("what is no dimension is rejected", () => {
  for (const bad of [0, -1, 1.5, NaN, Infinity]) {
    assertThrows(() => normalDim(bad), RangeError, `Expected a positive integer dimension but found ${bad}`);
  }
  for (const bad of ["", "t", "T+1", "T*", "-2*T", "2T"]) {
    assertThrows(
      () => normalDim(bad),
      RangeError,
      `Expected a product of integers and symbols such as "4*B*T" but found "${bad}"`,
    );
  }
  assertThrows(() => normalDim("0*T"), RangeError, 'Expected a positive dimension but found "0*T"');
  assertEquals(concreteDim(3), 3);
  assertThrows(
    () => concreteDim("2*T"),
    RangeError,
    'Expected a number but found the symbolic dimension "2*T"; bind its symbols first',
  );
});
