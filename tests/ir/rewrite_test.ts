/** Rebuilding graphs by rules. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, nameOf } from "../../ir/node.ts";
import { parse } from "../../ir/parse.ts";
import { print } from "../../ir/print.ts";
import { inline, rewrite, rewriteToFixpoint, type Rule, substitute } from "../../ir/rewrite.ts";
import { verify } from "../../ir/verify.ts";
import { expectGraph } from "../support/expect_graph.ts";
import { randomGraph } from "../support/random_graphs.ts";

const X = '%x = input {name="x", type="f32[4]"} : f32[4]\n';

/** abs(abs(x)) = abs(x) */
const absTwice: Rule = (node) => node.op === "abs" && node.inputs[0]?.op === "abs" ? node.inputs[0] : undefined;

Deno.test("a rule sees operands that are rewritten already", () => {
  expectGraph(
    (graph) => rewrite(graph, absTwice),
    `${X}%a = abs %x : f32[4]\n%b = abs %a : f32[4]\n%c = abs %b : f32[4]\nreturn y=%c`,
    `${X}%a = abs %x : f32[4]\nreturn y=%a`,
  );
});

Deno.test("rewrite() returns the same graph when no rule matches", () => {
  for (let seed = 0; seed < 50; seed++) {
    const { graph } = randomGraph(seed);
    assert(rewrite(graph, () => undefined) === graph);
    assert(rewriteToFixpoint(graph, [() => undefined]) === graph);
  }
});

Deno.test("rewrite() keeps outputs, also those that become the same value", () => {
  expectGraph(
    (graph) => rewrite(graph, absTwice),
    `${X}%a = abs %x : f32[4]\n%b = abs %a : f32[4]\nreturn first=%a second=%b`,
    `${X}%a = abs %x : f32[4]\nreturn first=%a second=%a`,
  );
});

Deno.test("rewriteToFixpoint() applies rules to what other rules made", () => {
  // exp(log(x)) = x makes room for abs(abs(x)) = abs(x)
  const expLog: Rule = (node) =>
    node.op === "exp" && node.inputs[0]?.op === "log" ? node.inputs[0].inputs[0] : undefined;
  expectGraph(
    (graph) => rewriteToFixpoint(graph, [absTwice, expLog]),
    `${X}%a = abs %x : f32[4]\n%b = log %a : f32[4]\n%c = exp %b : f32[4]\n%d = abs %c : f32[4]\nreturn y=%d`,
    `${X}%a = abs %x : f32[4]\nreturn y=%a`,
  );
});

Deno.test("rewriteToFixpoint() gives up on rules that never end", () => {
  const forever: Rule = (node, b) => node.op === "abs" ? b.abs(node) : undefined;
  const graph = parse(`${X}%a = abs %x : f32[4]\nreturn y=%a`);
  assertThrows(
    () => rewriteToFixpoint(graph, [forever], 3),
    Error,
    "Internal error in rewriteToFixpoint: rules still match after 3 rounds",
  );
});

Deno.test("substitute() replaces nodes in the middle and drops what they needed", () => {
  const graph = parse(`${X}%a = log %x : f32[4]\n%b = exp %a : f32[4]\nreturn y=%b`), [, log] = graph.nodes;
  const zero = createBuilder().constant(0, { dtype: "f32", shape: [4] });
  const changed = substitute(graph, new Map(log ? [[log, zero]] : []));
  verify(changed);
  assertEquals(
    print(changed),
    print(parse('%z = constant {type="f32[4]", values=[0]} : f32[4]\n%b = exp %z : f32[4]\nreturn y=%b')),
  );
});

Deno.test("inline() copies a function with its leaves replaced", () => {
  const b = createBuilder(), x = b.input("outer", { dtype: "f32", shape: [4] });
  const body: Graph = parse(
    `${X}%w = param {name="w", time="checkpoint", type="f32[4]"} : f32[4]\n%y = mul %x %w : f32[4]\nreturn y=%y`,
  );
  const { y } = inline(
    b,
    body,
    (leaf) => leaf.op === "input" ? b.exp(x) : b.param(`layers.0.${nameOf(leaf)}`, leaf.type, "checkpoint"),
  );
  assert(y === b.mul(b.exp(x), b.param("layers.0.w", x.type, "checkpoint")));
});
