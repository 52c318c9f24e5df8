/** The textual form of graphs, both ways. */
import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf } from "../../ir/node.ts";
import { parse } from "../../ir/parse.ts";
import { print, printNode } from "../../ir/print.ts";
import { tensorType } from "../../ir/types.ts";
import { randomGraph } from "../support/random_graphs.ts";

/** A graph as plain data: operands by their place. */
function structure({ nodes, outputs }: Graph) {
  const place = new Map(nodes.map((node, i) => [node, i]));
  return {
    nodes: nodes.map(({ op, inputs, attrs, type }) => ({
      op,
      inputs: inputs.map((node) => place.get(node)),
      attrs,
      type,
    })),
    outputs: outputs.map(({ name, node }) => ({ name, node: place.get(node) })),
  };
}

Deno.test("print() writes one node per line, with attributes sorted and outputs last", () => {
  const b = createBuilder(), x = b.input("x", tensorType("f32", ["B*T", 4]));
  const w = b.param("layers.0.w", tensorType("u3", [2, 4]), "checkpoint");
  const y = b.dot(x, b.cast(w, "f32"), { lhsContract: [1], rhsContract: [1] });
  const graph = graphOf({ out: y, "d.out": b.mul(y, -Infinity), "1/2": b.hadamard(x, 1, undefined, true) });
  const text = `%0 = input {name="x", type="f32[B*T,4]"} : f32[B*T,4]
%1 = param {name="layers.0.w", time="checkpoint", type="u3[2,4]"} : u3[2,4]
%2 = cast %1 {dtype="f32"} : f32[2,4]
%3 = dot %0 %2 {lhsContract=[1], rhsContract=[1]} : f32[B*T,2]
%4 = constant {type="f32[B*T,2]", values=[-inf]} : f32[B*T,2]
%5 = mul %3 %4 : f32[B*T,2]
%6 = hadamard %0 {axis=1, transposed=true} : f32[B*T,4]
return out=%3 d.out=%5 "1/2"=%6
`;
  assertEquals(print(graph), text);
  assertEquals(print(parse(text)), text);
  assertEquals(printNode(graph, y), text.split("\n")[3]);
});

Deno.test("parse() inverts print() on random graphs", () => {
  const drawn = fc.record({
    seed: fc.nat(1e6),
    maxNodes: fc.integer({ min: 1, max: 25 }),
    half: fc.boolean(),
    real: fc.boolean(),
  });
  fc.assert(
    fc.property(drawn, ({ seed, maxNodes, half, real }) => {
      const { graph } = randomGraph(seed, { maxNodes, half, values: real ? "real" : "exact" });
      const parsed = parse(print(graph));
      assertEquals(print(parsed), print(graph));
      assertEquals(structure(parsed), structure(graph));
    }),
    { seed: 1, numRuns: 300 },
  );
});

Deno.test("parse() inverts print() for every number and every name", () => {
  const b = createBuilder(),
    values = [0, -0, 1e300, 5e-324, -1.5e-7, 0.1, 123456789012345680000, Infinity, -Infinity, NaN];
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), fc.array(fc.double(), { minLength: 1, maxLength: 8 }), (name, more) => {
      const numbers = [...values, ...more];
      const graph = graphOf([{
        name,
        node: b.hold(b.constant(numbers, tensorType("f32", [numbers.length])), "token", name),
      }]);
      assertEquals(structure(parse(print(graph))), structure(graph));
    }),
    { seed: 1 },
  );
});

Deno.test("parse() takes free names, comments, blank lines and any spacing", () => {
  const graph = parse(`
    // two inputs
    %x = input { name = "x // no comment", type = "f32[2]" } : f32[2]

      %y=input{type="f32[2]",name="y"}:f32[2] // the other one
    %sum = add %x %y : f32[2]
    %unused = exp %y {} : f32[2]
    return sum=%sum // done
  `);
  assertEquals(
    print(graph),
    `%0 = input {name="x // no comment", type="f32[2]"} : f32[2]
%1 = input {name="y", type="f32[2]"} : f32[2]
%2 = add %0 %1 : f32[2]
return sum=%2
`,
  );
});

Deno.test("parse() names the line, what it expected there and what it found", () => {
  const x = '%0 = input {name="x", type="f32[2]"} : f32[2]';
  const cases: readonly [text: string, message: string][] = [
    ["", 'Cannot parse the graph: expected a last line such as "return y=%0" but found no line at all'],
    [x, 'Cannot parse line 1: expected "return" and the outputs in the last line but found'],
    [
      "\n// c\nx = 1\nreturn",
      'Cannot parse line 3: expected a value such as "%0" but found "x = 1"; the line is "x = 1"',
    ],
    [`${x}\n%1 : f32[2]\nreturn`, 'Cannot parse line 2: expected "=" but found ": f32[2]"'],
    [`${x}\n%1 = relu %0 : f32[2]\nreturn`, 'Cannot parse line 2: expected the name of an operation but found "relu"'],
    [
      `${x}\n%1 = exp %2 : f32[2]\nreturn`,
      'Cannot parse line 2: expected a value that an earlier line defines but found "%2"',
    ],
    [
      `${x}\n%0 = exp %0 : f32[2]\nreturn`,
      'Cannot parse line 2: expected a name that no earlier line defines but found "%0"',
    ],
    [`${x}\n%1 = exp %0\nreturn`, 'Cannot parse line 2: expected ":" but found the end of the line'],
    [`${x}\n%1 = exp %0 : f64[2]\nreturn`, 'Cannot parse line 2: Expected a type such as f32[2,64] but found "f64[2]"'],
    [`${x}\n%1 = exp %0 : f32[3]\nreturn`, "Cannot parse line 2: expected type f32[2] but found f32[3]"],
    [`${x}\n%1 = exp %0 : f32[2] %0\nreturn`, 'Cannot parse line 2: expected the end of the line but found "%0"'],
    [`${x}\n%1 = add %0 : f32[2]\nreturn`, "Cannot parse line 2: Cannot build add: expected 2 operands but found 1"],
    [
      `${x}\n%1 = sum %0 {axis=0} : f32[1]\nreturn`,
      'Cannot build sum: expected attribute "axes" (numbers) but found undefined',
    ],
    [`${x}\n%1 = sum %0 {axes=[0], keep=1} : f32[1]\nreturn`, 'Cannot build sum: no attribute "keep"; there are axes'],
    [`${x}\n%1 = sum %0 {axes=[0], axes=[0]} : f32[1]\nreturn`, 'expected every attribute once but found "axes" again'],
    [
      `${x}\n%1 = sum %0 {axes=0} : f32[1]\nreturn`,
      'Cannot build sum: expected attribute "axes" (numbers) but found 0',
    ],
    [
      `${x}\n%1 = sum %0 {axes=x} : f32[1]\nreturn`,
      'expected a number, a text, true, false or a list but found "x} : f32[1]"',
    ],
    [`${x}\n%1 = sum %0 {axes=[0 1]} : f32[1]\nreturn`, 'expected "," but found "1]} : f32[1]"'],
    [`${x}\nreturn y=%0 y=%0`, 'Cannot parse line 2: expected every output once but found "y" again'],
    [`${x}\nreturn y`, 'Cannot parse line 2: expected "=" but found the end of the line'],
    [
      '%0 = input {name="\\x", type="f32[2]"} : f32[2]\nreturn',
      "Cannot parse line 1: expected a text in the form of JSON",
    ],
  ];
  for (const [text, message] of cases) assertThrows(() => parse(text), SyntaxError, message);
});
