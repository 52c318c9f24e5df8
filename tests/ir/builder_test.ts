/** Builders: hash-consing, broadcasting, adoption of foreign nodes, and what errors say. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { createBuilder } from "../../ir/builder.ts";
import { graphOf, type Node, outputNamed } from "../../ir/node.ts";
import { print } from "../../ir/print.ts";
import { tensorType, typeText } from "../../ir/types.ts";
import { randomGraph } from "../support/random_graphs.ts";

const F = (...shape: (number | string)[]) => tensorType("f32", shape);

Deno.test("structurally equal nodes are one object, whatever the order of attributes", () => {
  const b = createBuilder(), x = b.input("x", F(2, 3)), y = b.input("y", F(2, 3));
  assert(b.add(x, y) === b.add(x, y));
  assert(b.add(x, y) !== b.add(y, x));
  assert(b.sum(x, [1, 0]) === b.sum(x, [0, 1]));
  assert(
    b.make("slice", [x], { starts: [0, 0], sizes: [1, 3] }) === b.make("slice", [x], { sizes: [1, 3], starts: [0, 0] }),
  );
  assert(b.input("x", F(2, 3)) === x);
});

Deno.test("constants are told apart bit by bit: signs of zero, infinities, nan", () => {
  const b = createBuilder(), values = [0, -0, Infinity, -Infinity, NaN, 1];
  const nodes = values.map((value) => b.constant(value, F(2)));
  assertEquals(new Set(nodes).size, values.length);
  nodes.forEach((node, i) => assert(Object.is((node.attrs.values as readonly number[])[0], values[i])));
});

Deno.test("nodes are frozen to the last list, and lists of the caller are copied", () => {
  const b = createBuilder(), shape = [6], node = b.reshape(b.input("x", F(2, 3)), shape);
  shape[0] = 7;
  assertEquals(node.attrs.shape, [6]);
  for (const part of [node, node.inputs, node.attrs, node.attrs.shape, node.type]) assert(Object.isFrozen(part));
});

Deno.test("maps broadcast their operands, matched from the right", () => {
  const b = createBuilder(),
    x = b.input("x", F("T", 3)),
    row = b.input("row", F(3)),
    column = b.input("column", F("T", 1));
  assertEquals(b.add(x, row).type, F("T", 3));
  assertEquals(b.mul(row, column).type, F("T", 3));
  assertEquals(b.maximum(2, column).type, F("T", 1));
  assertEquals(b.select(b.compare(x, row, "gt"), 1, row).type, F("T", 3));
  assertEquals(b.select(b.compare(x, row, "gt"), 1, 0).type, F("T", 3));
  assertEquals(b.select(b.compare(b.input("s", F()), 0, "gt"), 1, 0).type, F());
  assertEquals(
    print(graphOf({ y: b.sub(x, 0.5) })),
    `%0 = input {name="x", type="f32[T,3]"} : f32[T,3]
%1 = constant {type="f32[T,3]", values=[0.5]} : f32[T,3]
%2 = sub %0 %1 : f32[T,3]
return y=%2
`,
  );
});

Deno.test("numbers take the type of the other operand", () => {
  const b = createBuilder();
  assertEquals(b.add(b.input("h", tensorType("f16", [2])), 1).type.dtype, "f16");
  assertEquals(b.minimum(b.input("i", tensorType("i32", [2])), 1).type.dtype, "i32");
});

Deno.test("movements that move nothing are their operand", () => {
  const b = createBuilder(), x = b.input("x", F(2, 3));
  const same: readonly Node[] = [
    b.reshape(x, [2, 3]),
    b.transpose(x, [0, 1]),
    b.broadcast(x, [2, 3]),
    b.slice(x, [0, 0], [2, 3]),
    b.slice(x, [0, 0], [2, 3], [1, 1]),
    b.concat([x], 0),
    b.pad(x, [0, 0], [0, 0]),
    b.cast(x, "f32"),
  ];
  for (const node of same) assert(node === x);
});

Deno.test("nodes of other builders are taken over on use, once", () => {
  const a = createBuilder(), b = createBuilder(), x = a.input("x", F(2)), y = a.exp(x);
  const own = b.input("x", F(2)), taken = b.add(y, own);
  assert(taken.inputs[1] === own && taken.inputs[0]?.inputs[0] === own);
  assert(b.adopt(y) === taken.inputs[0] && b.adopt(b.exp(own)) === taken.inputs[0]);
  for (let seed = 0; seed < 50; seed++) {
    const { graph } = randomGraph(seed), c = createBuilder();
    const copy = graphOf(graph.outputs.map(({ name, node }) => ({ name, node: c.adopt(node) })));
    assertEquals(print(copy), print(graph));
    assert(copy.nodes.every((node, i) => node !== graph.nodes[i]));
  }
});

Deno.test("graphs may be deeper than the call stack", () => {
  const a = createBuilder();
  let x = a.input("x", F(1));
  for (let i = 0; i < 30000; i++) x = a.add(x, 1);
  const taken = createBuilder().adopt(x);
  assertEquals(graphOf({ y: taken }).nodes.length, 30002);
});

Deno.test("graphOf() keeps what is reachable, operands first, and outputNamed() finds its results", () => {
  const b = createBuilder(), x = b.input("x", F(2)), y = b.exp(x), z = b.mul(y, x), unused = b.log(x);
  const graph = graphOf({ z, y });
  assertEquals(graph.nodes, [x, y, z]);
  assert(!graph.nodes.includes(unused) && outputNamed(graph, "y") === y);
  assertThrows(() => outputNamed(graph, "w"), RangeError, 'Expected an output named "w" but found "z", "y"');
});

Deno.test("errors say what was expected and what was found", () => {
  const b = createBuilder(), x = b.input("x", F(2, 3)), y = b.input("y", F(2, 4));
  const cases: readonly [make: () => Node, message: string][] = [
    [() => b.add(x, y), "Cannot broadcast: expected shapes that agree but found f32[2,3] and f32[2,4]"],
    [() => b.add(1, 2), "Expected at least one operand that is not a number"],
    [() => b.make("add", [x]), "Cannot build add: expected 2 operands but found 1"],
    [() => b.make("attention", [x]), "Cannot build attention: expected 3 to 5 operands but found 1"],
    [() => b.make("sum", [x]), 'Cannot build sum: expected attribute "axes" (numbers) but found undefined'],
    [() => b.make("sum", [x], { axes: [0], keep: true }), 'Cannot build sum: no attribute "keep"; there are axes'],
    [() => b.make("exp", [x], { keep: true }), 'Cannot build exp: no attribute "keep"; there are none'],
    [
      () => b.constant([1, 2, 3], F(2)),
      "Cannot build constant: expected 1 value or at most 64, one per element, but found 3",
    ],
    [() => b.iota("i32", [2], 1), "Cannot build iota: no axis 1 in i32[2]"],
  ];
  for (const [make, message] of cases) assertEquals(assertThrows(make, TypeError).message, message);
  assertThrows(
    () => b.reshape(x, ["t"]),
    RangeError,
    'Expected a product of integers and symbols such as "4*B*T" but found "t"',
  );
  assertEquals(typeText(b.reshape(b.input("s", F("B", "T")), ["B*T"]).type), "f32[B*T]");
});
