/** Binding symbols in whole graphs. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { parse } from "../../ir/parse.ts";
import { print } from "../../ir/print.ts";
import { bindSymbols, symbolsOf } from "../../ir/symbols.ts";
import { verify } from "../../ir/verify.ts";

const TEXT = `%0 = input {name="h", type="f32[B,T,4]"} : f32[B,T,4]
%1 = reshape %0 {shape=["B*T",4]} : f32[B*T,4]
%2 = constant {type="f32[B*T,4]", values=[0.5]} : f32[B*T,4]
%3 = mul %1 %2 : f32[B*T,4]
%4 = slice %3 {sizes=["B*T",2], starts=[0,2]} : f32[B*T,2]
%5 = iota {axis=1, type="i32[B,T]"} : i32[B,T]
%6 = reshape %5 {shape=["B","T",1]} : i32[B,T,1]
%7 = broadcast %6 {shape=["B","T",3]} : i32[B,T,3]
return y=%4 positions=%7
`;

Deno.test("bindSymbols() replaces symbols in leaves and shapes", () => {
  const bound = bindSymbols(parse(TEXT), { T: 5, B: 2 });
  const expected = TEXT.replaceAll('"B*T"', "10").replaceAll("B*T", "10").replaceAll('"B","T"', "2,5").replaceAll(
    "B,T",
    "2,5",
  );
  assertEquals(print(bound), expected);
  verify(bound, "the test", { concrete: true });
});

Deno.test("bindSymbols() leaves the symbols that are not given", () => {
  const graph = parse(TEXT), half = bindSymbols(graph, { B: 3 });
  assertEquals(symbolsOf(graph), ["B", "T"]);
  assertEquals(symbolsOf(half), ["T"]);
  verify(half);
  assertEquals(print(bindSymbols(half, { T: 7 })), print(bindSymbols(graph, { T: 7, B: 3 })));
});

Deno.test("bindSymbols() returns the same graph when it has none of the symbols", () => {
  const graph = parse(TEXT);
  assert(bindSymbols(graph, { S: 8 }) === graph);
  assert(bindSymbols(graph, {}) === graph);
});

Deno.test("bindSymbols() multiplies out powers of a symbol", () => {
  const graph = parse(`%x = input {name="x", type="f32[T,T]"} : f32[T,T]
%y = reshape %x {shape=["T*T"]} : f32[T*T]
return y=%y`);
  assertEquals(bindSymbols(graph, { T: 3 }).outputs[0]?.node.type.shape, [9]);
});

Deno.test("bindSymbols() rejects what is no positive integer", () => {
  for (const value of [0, -1, 1.5, NaN]) {
    const message = `Expected a positive integer for the symbol "T" but found ${value}`;
    assertThrows(() => bindSymbols(parse(TEXT), { T: value }), RangeError, message);
  }
});
