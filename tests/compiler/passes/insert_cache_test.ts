import { assert, assertEquals, assertThrows } from "@std/assert";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { insertCache } from "../../../compiler/passes/insert_cache.ts";
import { specialize } from "../../../compiler/passes/quantize/specialize.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf } from "../../../ir/node.ts";
import { bindSymbols } from "../../../ir/symbols.ts";
import { sizeOf, tensorType } from "../../../ir/types.ts";
import { blockOf, leafValues, quantizableBlock, SCHEME, uniformWidths } from "../../support/quantized_block.ts";
import { maxDifference } from "../../support/run_module.ts";

/** Rows `from` … `from + count - 1` of tokens, of [B,8,…] values. */
function tokens(data: Float64Array, from: number, count: number): Float64Array {
  const batches = 2, width = data.length / batches / 8, parts: number[] = [];
  for (let batch = 0; batch < batches; batch++) {
    parts.push(...data.subarray((batch * 8 + from) * width, (batch * 8 + from + count) * width));
  }
  return Float64Array.from(parts);
}

/** The forward of 8 tokens, and the same by a prefill of 5 and three single tokens. */
function compare(forward: Graph, halves = false): readonly [whole: Float64Array, stepwise: Float64Array] {
  const whole = bindSymbols(forward, { B: 2, T: 8 }), leaves = leafValues(whole);
  const expected = evaluate(whole, leaves).h ?? new Float64Array();
  const step = insertCache(forward, { halves }), inputs = new Set(leavesOf(whole, "input").map(nameOf));
  // Rows that were never written hold what must not matter.
  let caches: Record<string, Float64Array> = Object.fromEntries(
    leavesOf(bindSymbols(step, { B: 2, T: 1, S: 12 }), "input").filter((node) => nameOf(node).startsWith("cache."))
      .map((node) => [nameOf(node), new Float64Array(sizeOf(node.type.shape)).fill(1)]),
  );
  const found = new Float64Array(expected.length), width = expected.length / 16;
  for (const [from, count] of [[0, 5], [5, 1], [6, 1], [7, 1]] as const) {
    const bound = bindSymbols(step, { B: 2, T: count, S: 12 });
    const rows = Object.entries(leaves).map(([name, data]) =>
      [name, inputs.has(name) ? tokens(data, from, count) : data] as const
    );
    const positions = Float64Array.from({ length: 2 * count }, (_, i) => from + i % count);
    const { h = new Float64Array(), ...stored } = evaluate(bound, {
      ...Object.fromEntries(rows),
      ...caches,
      positions,
    });
    assertEquals(Object.keys(stored).sort(), Object.keys(caches).sort());
    caches = stored;
    for (let batch = 0; batch < 2; batch++) {
      found.set(h.subarray(batch * count * width, (batch + 1) * count * width), (batch * 8 + from) * width);
    }
  }
  return [expected, found];
}

Deno.test("insertCache(): a prefill of 5 tokens and three steps equal the forward of 8", () => {
  const block = quantizableBlock();
  for (const cache of [16, 2, 4, 8]) {
    const [whole, stepwise] = compare(specialize(block, uniformWidths(block, 4, 8, cache), SCHEME, "deploy"));
    assert(maxDifference(whole, stepwise) < 1e-6, `${cache} bits`);
  }
  const [whole, stepwise] = compare(blockOf());
  assert(maxDifference(whole, stepwise) < 1e-6);
});

Deno.test("insertCache() with halves stores keys and values that are not quantized in two bytes, and nothing else", () => {
  const block = quantizableBlock(),
    typesOf = (cache: 4 | 16, halves: boolean) => {
      const graph = insertCache(specialize(block, uniformWidths(block, 4, 8, cache), SCHEME, "deploy"), { halves });
      return leavesOf(graph, "input").filter((node) => nameOf(node).startsWith("cache.")).map(({ type }) => type.dtype);
    };
  assertEquals(typesOf(16, false), ["f32", "f32"]);
  assertEquals(typesOf(16, true), ["f16", "f16"]);
  assertEquals(typesOf(4, true), typesOf(4, false));
  // With activations in full precision: codes of these jump where what they are made of is a little off.
  const [whole, stepwise] = compare(specialize(block, uniformWidths(block, 4, 16, 16), SCHEME, "deploy"), true);
  const off = maxDifference(whole, stepwise) / maxDifference(whole, new Float64Array(whole.length));
  assert(off > 0 && off < 2 ** -10, `halves are 2^-11 off, but results ${off} of the largest`);
});

Deno.test("insertCache() keeps the window of an attention", () => {
  const b = createBuilder(), leaf = (name: string) => b.input(name, tensorType("f32", ["B", "T", 1, 4]));
  const h = (window?: number) =>
    graphOf({ h: b.attention(leaf("q"), leaf("k"), leaf("v"), { scale: 0.5, causal: true, window }) });
  const [whole, stepwise] = compare(h(3));
  assert(maxDifference(whole, stepwise) < 1e-6);
  assert(maxDifference(whole, compare(h())[0]) > 1e-3, "the window hides something");
});

Deno.test("insertCache() stores what holds name, in the types that they hold", () => {
  const block = quantizableBlock();
  const step = insertCache(specialize(block, { "attention.key": 4 }, SCHEME, "deploy"));
  const caches = leavesOf(step, "input").filter((node) => nameOf(node).startsWith("cache."));
  assertEquals(caches.map((node) => `${nameOf(node)} ${node.type.dtype}[${node.type.shape}]`).sort(), [
    "cache.attention.key.codes u4[B,S,2,4]",
    "cache.attention.key.scale f32[B,S,2,1]",
    "cache.attention.key.zero f32[B,S,2,1]",
    "cache.attention.value f32[B,S,2,4]",
  ]);
  assertEquals(step.outputs.map(({ name }) => name).sort(), ["h", ...caches.map(nameOf)].sort());
});

Deno.test("insertCache() leaves functions without causal attention alone, and refuses what it cannot cache", () => {
  const b = createBuilder(), x = b.input("x", tensorType("f32", ["B", "T", 1, 4]));
  const tower = graphOf({ y: b.attention(x, x, x, { scale: 1 }) });
  assertEquals(insertCache(tower), tower);
  const bias = b.input("bias", tensorType("f32", [1, "T", "T"]));
  assertThrows(
    () => insertCache(graphOf({ y: b.attention(x, x, x, { scale: 1, causal: true, bias }) })),
    TypeError,
    "expected an attention without bias",
  );
  const fixed = b.input("x", tensorType("f32", [1, 3, 1, 4]));
  assertThrows(
    () => insertCache(graphOf({ y: b.attention(fixed, fixed, fixed, { scale: 1, causal: true }) })),
    TypeError,
    "expected a symbol as number of tokens but found 3",
  );
  const late = b.mul(b.hold(x, "token", "k"), x);
  assertThrows(
    () => insertCache(graphOf({ y: b.attention(x, late, late, { scale: 1, causal: true }) })),
    TypeError,
    'expected only held values between cache and attention but found input "x"',
  );
});
