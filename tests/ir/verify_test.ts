/** Every rule of the verifier is broken once. Broken graphs are made by hand: builders refuse to. */
import { assertEquals, assertThrows } from "@std/assert";
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf, type Node } from "../../ir/node.ts";
import { tensorType } from "../../ir/types.ts";
import { verify, type VerifyOptions } from "../../ir/verify.ts";

const F32 = tensorType("f32", [2]);

function rejects(graph: Graph, problem: string, node: string, options: VerifyOptions = {}): void {
  const error = assertThrows(() => verify(graph, "the test", options), Error);
  assertEquals(error.message, `Internal error in the test: ${problem}; the node is "${node}"`);
}

/** A node that nobody has checked. */
const raw = (node: Pick<Node, "op" | "inputs"> & Partial<Node>): Node => ({ attrs: {}, type: F32, ...node });

function start() {
  const b = createBuilder(), x = b.input("x", F32), y = b.exp(x);
  return { b, x, y, line: '%0 = input {name="x", type="f32[2]"} : f32[2]' };
}

Deno.test("verify() accepts a graph, and names where it looked otherwise", () => {
  const { y } = start();
  verify(graphOf({ y }));
  assertThrows(
    () => verify({ nodes: [], outputs: [{ name: "y", node: y }] }),
    Error,
    "Internal error in a graph: expected the output",
  );
});

Deno.test("verify() wants operands in the graph and before their users", () => {
  const { x, y, line } = start();
  const outputs = [{ name: "y", node: y }];
  rejects(
    { nodes: [y, x], outputs },
    "expected operands before their users but found operand 0 later in the order",
    "%0 = exp %1 : f32[2]",
  );
  rejects(
    { nodes: [y], outputs },
    "expected operands before their users but found operand 0 not in the graph: input : f32[2]",
    "%0 = exp %? : f32[2]",
  );
  rejects({ nodes: [x, x, y], outputs }, "expected every node once but found it again", line.replace("%0", "%1"));
  rejects(
    { nodes: [x], outputs },
    'expected the output "y" to be in the graph but found it outside',
    "%? = exp %0 : f32[2]",
  );
});

Deno.test("verify() wants operands and attributes that fit the op table", () => {
  const { x } = start();
  rejects(
    graphOf({ y: raw({ op: "add", inputs: [x] }) }),
    "Cannot build add: expected 2 operands but found 1",
    "%1 = add %0 : f32[2]",
  );
  rejects(
    graphOf({ y: raw({ op: "sum", inputs: [x], attrs: { axes: true } }) }),
    'Cannot build sum: expected attribute "axes" (numbers) but found true',
    "%1 = sum %0 {axes=true} : f32[2]",
  );
  rejects(
    graphOf({ y: raw({ op: "sum", inputs: [x], attrs: { axes: [3] } }) }),
    "Cannot build sum: expected f32, f16 or i32 with axes [3] but found f32[2]",
    "%1 = sum %0 {axes=[3]} : f32[2]",
  );
});

Deno.test("verify() wants the inferred type", () => {
  const { x } = start();
  const wrong = raw({ op: "exp", inputs: [x], type: tensorType("f32", [3]) });
  rejects(graphOf({ y: wrong }), "expected type f32[2] but found f32[3]", "%1 = exp %0 : f32[3]");
});

Deno.test("verify() wants one leaf, one hold and one output of each name", () => {
  const { b, x, y } = start();
  const other = b.param("x", F32, "checkpoint"),
    text = '%1 = param {name="x", time="checkpoint", type="f32[2]"} : f32[2]';
  rejects(graphOf({ x, other }), 'expected one leaf of each name but found a second one called "x"', text);
  rejects(
    graphOf({ a: b.hold(x, "token", "h"), b: b.hold(y, "token", "h") }),
    'expected one hold of each name but found a second one called "h"',
    '%3 = hold %2 {name="h", time="token"} : f32[2]',
  );
  assertThrows(
    () => verify(graphOf([{ name: "y", node: x }, { name: "y", node: y }]), "the test"),
    Error,
    'Internal error in the test: expected one output of each name but found "y" twice',
  );
  verify(graphOf({ x, hold: b.hold(x, "token", "x"), site: b.site(x, "x", "value") }));
});

Deno.test("verify() wants no other use of a cache that is overwritten", () => {
  const b = createBuilder(),
    cache = b.input("cache", tensorType("f32", [1, 3, 2])),
    rows = b.input("rows", tensorType("f32", [1, 1, 2]));
  const positions = b.input("positions", tensorType("i32", [1, 1])), next = b.update(cache, rows, positions);
  verify(graphOf({ next, sum: b.sum(next, [0]) }));
  const besides = 'expected no use of a cache besides its "update" but found';
  rejects(graphOf({ next, old: b.exp(cache) }), `${besides} one in exp`, "%4 = exp %0 : f32[1,3,2]");
  const again = b.update(cache, b.exp(rows), positions), user = "%5 = update %0 %4 %2 : f32[1,3,2]";
  rejects(graphOf({ next, again }), `${besides} one in update`, user);
  rejects(graphOf({ next, cache }), `${besides} it as the output "cache"`, "%3 = update %0 %1 %2 : f32[1,3,2]");
  const full = b.iota("i32", [1, 3], 1);
  rejects(
    graphOf({ next: b.update(cache, cache, full) }),
    `${besides} one in update`,
    "%2 = update %0 %0 %1 : f32[1,3,2]",
  );
});

Deno.test("verify() wants concrete dimensions where asked", () => {
  const b = createBuilder(), graph = graphOf({ y: b.exp(b.input("x", tensorType("f32", ["B*T", 2]))) });
  verify(graph);
  const line = '%0 = input {name="x", type="f32[B*T,2]"} : f32[B*T,2]';
  rejects(graph, 'expected concrete dimensions but found the symbolic "B*T"', line, { concrete: true });
});
