/** Modules: their textual form both ways, and their verifier. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import type { Derived, Module } from "../../ir/module.ts";
import { parseModule, printModule } from "../../ir/module_text.ts";
import { parseType } from "../../ir/types.ts";
import { verifyModule } from "../../ir/verify_module.ts";

const TEXT = `function embed {
  %0 = param {name="table", time="checkpoint", type="f32[8,4]"} : f32[8,4]
  %1 = input {name="ids", type="i32[B,T]"} : i32[B,T]
  %2 = gather %0 %1 : f32[B,T,4]
  return h=%2
}
function block {
  %0 = input {name="x", type="f32[N,U,4]"} : f32[N,U,4]
  %1 = param {name="signs", time="checkpoint", type="f32[4]"} : f32[4]
  %2 = hadamard %0 %1 {axis=2} : f32[N,U,4]
  %3 = sum %2 {axes=[2]} : f32[N,U,1]
  return x=%2 total=%3
}
function "two rows" {
  %0 = input {name="x", type="f32[A]"} : f32[A]
  %1 = input {name="twice", type="f32[2*A]"} : f32[2*A]
  return x=%0 twice=%1
}
module (ids) {
  derived layers.0.signs : f32[4]
  derived "layers.1.signs" : f32[4]
  h = embed(ids=ids)
  h:x, total = block(x=h) "layers.0."
  h:x, last:total = block(x=h) "layers.1."
  return h, last
}
`;
const signs: Derived = { type: parseType("f32[4]"), generate: () => Float32Array.of(1, -1, 1, 1) };
const DERIVED = { "layers.0.signs": signs, "layers.1.signs": signs };

Deno.test("parseModule() inverts printModule()", () => {
  const module = parseModule(TEXT, { ...DERIVED, unused: signs });
  assertEquals(printModule(module), TEXT.replace('"layers.1.signs"', "layers.1.signs"));
  assertEquals(module.calls[1], {
    function: "block",
    prefix: "layers.0.",
    inputs: { x: "h" },
    outputs: { x: "h", total: "total" },
  });
  assertEquals([module.inputs, module.outputs], [["ids"], ["h", "last"]]);
  assertEquals(Object.keys(module.derived), ["layers.0.signs", "layers.1.signs"]);
  assert(module.derived["layers.0.signs"] === signs);
});

Deno.test("parseModule() reads a module without inputs, calls or results, and calls without results", () => {
  const text = "module () {\n  f()\n  return\n}\n";
  assertEquals(printModule(parseModule(text)), text);
});

Deno.test("parseModule() names the line, what it expected there and what it found", () => {
  const cases: readonly [text: string, message: string][] = [
    ["", 'Cannot parse the module: expected a block "module (…) { … }" at the end but found none'],
    ["graph {\n}", 'Cannot parse line 1: expected "function" or "module" but found "graph"'],
    ["function f {\nreturn", 'Cannot parse line 1: expected a line "}" that closes this block but found none'],
    ["function f {\n}", "Cannot parse the graph: expected a last line"],
    [
      "function f {\nreturn\n}\nfunction f {\nreturn\n}",
      'Cannot parse line 4: expected every function once but found "f" again',
    ],
    ["module (x) {\n  return\n}\nmore", 'Cannot parse line 4: expected nothing after the module but found "more"'],
    ["module (x) {\n}", 'Cannot parse line 1: expected a last line such as "return logits" but found none'],
    ["module (x) {\n  y = f(x)\n  return\n}", 'Cannot parse line 2: expected "=" but found ")"'],
    ["module (x) {\n  y = f(x=x) 3\n  return\n}", 'Cannot parse line 2: expected a prefix in quotes but found "3"'],
    ["module (x) {\n  y == f(x=x)\n  return\n}", "Cannot parse line 2: expected the name of a function"],
    [
      "module (x) {\n  derived w : f32[2]\n  return\n}",
      'expected something that computes the derived parameter "w" but found nothing given',
    ],
    [
      "module (x) {\n  derived s : f32[2]\n  return\n}",
      "Cannot parse line 2: expected type f32[4], as given but found f32[2]",
    ],
  ];
  for (const [text, message] of cases) assertThrows(() => parseModule(text, { s: signs }), SyntaxError, message);
});

Deno.test("verifyModule() accepts calls that bind a function's symbols to what it receives", () => {
  verifyModule(parseModule(TEXT, DERIVED));
});

/** The module of TEXT with one line of its calls replaced. */
function changed(from: string, to: string): Module {
  assert(TEXT.includes(from), from);
  return parseModule(TEXT.replace(from, to), DERIVED);
}

Deno.test("verifyModule() names the call, what it expected and what it found", () => {
  const second = '  h:x, total = block(x=h) "layers.0."',
    cases: readonly [to: string, message: string][] = [
      [
        '  h:x = blok(x=h) "layers.0."',
        'call 1 of "blok" "layers.0.": expected one of the functions "embed", "block", "two rows" but',
      ],
      ["  h:x = block(y=h)", 'call 1 of "block": expected one of the inputs "x" but found "y"'],
      ["  h:x = block()", 'call 1 of "block": expected a value for the input "x" but found none'],
      ["  h:x = block(x=k)", 'expected one of the values "ids", "h" but found "k" for "x"'],
      ["  h:y = block(x=h)", 'expected one of the outputs "x", "total" but found "y"'],
      ["  h:x = block(x=ids)", 'expected f32[B,T,4] for the input "x" but found "ids" of i32[B,T]'],
      [
        '  h:x = block(x=h) "layers.9."\n  h:h = embed(ids=h)',
        'call 2 of "embed": expected i32[B,T] for the input "ids" but found "h"',
      ],
    ];
  for (const [to, message] of cases) {
    assertThrows(() => verifyModule(changed(second, to), "the test"), Error, message);
  }
  assertThrows(
    () => verifyModule(changed("return h, last", "return h, first"), "the test"),
    Error,
    'Internal error in the test: expected one of the values "ids", "h", "total", "last" as output but found "first"',
  );
});

Deno.test("verifyModule() wants products of symbols and shared parameters to agree", () => {
  const calls = (more: string) => changed('  h:x, last:total = block(x=h) "layers.1."', more.replaceAll("|", "\n"));
  const rows = calls(
    '  a:x, b:twice = "two rows"(x=u, twice=w)|  a:x, b:twice = "two rows"(x=b, twice=a)|  last = embed(ids=ids)',
  );
  assertThrows(
    () => verifyModule({ ...rows, inputs: ["ids", "u", "w"] }),
    Error,
    'expected f32[4*A] for the input "twice" but found "a" of f32[A]',
  );
  const { "layers.0.signs": _, ...others } = DERIVED, wide = { ...signs, type: parseType("f32[8]") };
  const module = parseModule(TEXT, DERIVED);
  assertThrows(
    () => verifyModule({ ...module, derived: { ...others, "layers.0.signs": wide } }),
    Error,
    'expected f32[8] for the parameter "layers.0.signs" but found f32[4]',
  );
  const embed = { nodes: [], outputs: module.functions.embed?.outputs ?? [] };
  assertThrows(
    () => verifyModule({ ...module, functions: { ...module.functions, embed } }),
    Error,
    'Internal error in function "embed" of a module: expected the output "h" to be in the graph',
  );
});
