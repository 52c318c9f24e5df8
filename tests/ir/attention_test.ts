/** `attention` against its expansion into other operations, and `attentionGrad` against autodiff of that expansion. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { evaluate } from "../../backends/reference/evaluate.ts";
import { gradients } from "../../ir/autodiff.ts";
import { type Builder, createBuilder } from "../../ir/builder.ts";
import { flagAttr, type Graph, graphOf, type Node, numberAttr } from "../../ir/node.ts";
import { optionalOperands, windowOf } from "../../ir/ops/attention.ts";
import { inline } from "../../ir/rewrite.ts";
import { tensorType } from "../../ir/types.ts";
import { randomGraph } from "../support/random_graphs.ts";

/** The same attention in dot, exp and sum: every score is computed, and hidden ones get probability 0. */
function expand(b: Builder, { inputs, attrs }: Node): { readonly output: Node; readonly logSumExp: Node } {
  const [q, k, v] = inputs as readonly [Node, Node, Node], { bias, positions } = optionalOperands(inputs, attrs, 3);
  const [B = 1, T = 1, H = 1] = q.type.shape.map(Number),
    [, S = 1, G = 1] = k.type.shape.map(Number),
    all = [B, H, T, S];
  const perHead = (x: Node) => {
    const width = Number(x.type.shape[3]), split = b.reshape(x, [B, S, G, 1, width]);
    return b.reshape(b.broadcast(split, [B, S, G, H / G, width]), [B, S, H, width]);
  };
  const axes = { lhsBatch: [0, 2], rhsBatch: [0, 2], lhsContract: [3], rhsContract: [3] };
  const raw = b.mul(b.dot(q, perHead(k), axes), numberAttr(attrs, "scale")), scores = bias ? b.add(raw, bias) : raw;
  const place = b.reshape(positions ?? b.broadcast(b.iota("i32", [1, T], 1), [B, T]), [B, 1, T, 1]);
  const last = flagAttr(attrs, "causal") ? b.broadcast(place, all) : b.constant(S, tensorType("i32", all));
  const key = b.iota("i32", all, 3), upToOwn = b.compare(key, last, "le"), window = windowOf(attrs);
  const hidden = b.constant(0, upToOwn.type);
  const visible = window === undefined ? upToOwn : b.select(b.compare(b.add(key, window), last, "gt"), upToOwn, hidden);
  const top = b.max(b.select(visible, scores, -1e9), [3]);
  const weights = b.select(visible, b.exp(b.sub(scores, top)), 0), total = b.sum(weights, [3]);
  const output = b.dot(b.div(weights, total), perHead(v), {
    lhsBatch: [0, 1],
    rhsBatch: [0, 2],
    lhsContract: [3],
    rhsContract: [1],
  });
  const logSumExp = b.reshape(b.add(top, b.log(total)), [B, H, T]);
  return { output: b.transpose(output, [0, 2, 1, 3]), logSumExp: b.transpose(logSumExp, [0, 2, 1]) };
}

interface Case {
  readonly graph: Graph;
  readonly node: Node;
  readonly leaves: Readonly<Record<string, Float64Array>>;
}

/** Attentions of random shapes: grouped heads, causal or not, with positions and biases of every form. */
function* cases(count: number): Generator<Case> {
  for (let seed = 0, found = 0; found < count; seed++) {
    const { graph, leaves } = randomGraph(seed, { maxNodes: 1, ops: ["attention"], values: "real" });
    const node = graph.nodes.at(-1);
    if (node?.op !== "attention" || node.attrs.of !== "output") continue;
    found++;
    yield { graph, node, leaves };
  }
}

/** The largest difference of two lists of numbers. */
function distance(a: Float64Array | undefined, b: Float64Array | undefined): number {
  assertEquals(a?.length, b?.length);
  return Math.max(...Array.from(a ?? [], (x, i) => Math.abs(x - (b?.[i] ?? NaN))));
}

Deno.test("attention equals its expansion, output and log-sum-exp", () => {
  const forms = new Set<string>();
  for (const { node, leaves } of cases(320)) {
    const b = createBuilder(), expected = expand(b, b.adopt(node));
    const logSumExp = b.make("attention", node.inputs, { ...node.attrs, of: "logSumExp" });
    const results = evaluate(
      graphOf({ output: node, logSumExp, expectedOutput: expected.output, expectedLogSumExp: expected.logSumExp }),
      leaves,
      { precision: "f64" },
    );
    assert(distance(results.output, results.expectedOutput) < 1e-12);
    assert(distance(results.logSumExp, results.expectedLogSumExp) < 1e-12);
    forms.add([node.attrs.causal, node.attrs.bias, node.attrs.positions, node.attrs.window !== undefined].join());
  }
  // Causal without and with positions, each with and without a window, and not causal; all of them with and without bias.
  assertEquals(forms.size, 10);
});

Deno.test("attentionGrad equals autodiff of the expansion", () => {
  for (const { graph, node, leaves } of cases(60)) {
    const b = createBuilder(), dy = b.input("dy", node.type), wrt = node.inputs.slice(0, 3);
    const expansion = graphOf({ y: expand(b, b.adopt(node)).output });
    const named = (list: readonly Node[], suffix: string) =>
      list.map((gradient, i) => ({ name: `${"qkv"[i]}${suffix}`, node: gradient }));
    const both = graphOf([
      ...named(gradients(b, graph, { y0: dy }, wrt), ""),
      ...named(gradients(b, expansion, { y: dy }, wrt.map(b.adopt)), "Expected"),
    ]);
    const kinds = both.nodes.filter(({ op }) => op === "attentionGrad").map(({ attrs }) => attrs.of);
    assertEquals(kinds.sort(), ["k", "q", "v"]);
    const weights = Float64Array.from(
      { length: node.type.shape.reduce<number>((n, d) => n * Number(d), 1) },
      (_, i) => Math.sin(i),
    );
    const results = evaluate(both, { ...leaves, dy: weights }, { precision: "f64" });
    for (const operand of ["q", "k", "v"]) {
      assert(distance(results[operand], results[`${operand}Expected`]) < 1e-11, operand);
    }
  }
});

Deno.test("a query before all keys sees nothing: output 0, log-sum-exp -inf", () => {
  const b = createBuilder(), x = b.input("x", tensorType("f32", [1, 2, 1, 2]));
  const positions = b.constant([-1, 0], tensorType("i32", [1, 2]));
  const output = b.attention(x, x, x, { scale: 1, causal: true, positions });
  const logSumExp = b.make("attention", output.inputs, { ...output.attrs, of: "logSumExp" });
  const results = evaluate(graphOf({ output, logSumExp }), { x: Float64Array.of(1, 2, 3, 4) });
  assertEquals(results, { output: Float64Array.of(0, 0, 1, 2), logSumExp: Float64Array.of(-Infinity, 11) });
});

Deno.test("a query sees as many keys as its window, its own the last, and nothing where the window lies behind all keys", () => {
  const b = createBuilder(), x = b.input("x", tensorType("f32", [1, 4, 1, 1])), ones = b.constant(0, x.type);
  const average = (window: number, positions?: Node) =>
    b.attention(ones, ones, x, { scale: 1, causal: true, window, ...(positions ? { positions } : {}) });
  const positions = b.constant([3, 4, 5, 0], tensorType("i32", [1, 4]));
  const graph = graphOf({ one: average(1), two: average(2), more: average(9), placed: average(2, positions) });
  assertEquals(evaluate(graph, { x: Float64Array.of(1, 2, 4, 8) }), {
    one: Float64Array.of(1, 2, 4, 8),
    two: Float64Array.of(1, 1.5, 3, 6),
    more: Float64Array.of(1, 1.5, Math.fround(7 / 3), 15 / 4),
    placed: Float64Array.of(6, 8, 0, 1),
  });
});

Deno.test("the log-sum-exp of attention cannot be differentiated, and says so", () => {
  const b = createBuilder(), x = b.input("x", tensorType("f32", [1, 2, 1, 2]));
  const node = b.make("attention", [x, x, x], { of: "logSumExp", scale: 1 }), graph = graphOf({ y: node });
  assertThrows(
    () => gradients(b, graph, { y: b.input("dy", node.type) }, [x]),
    TypeError,
    "Cannot differentiate attention with of = logSumExp",
  );
});

Deno.test("inlining an attention keeps its optional operands", () => {
  const [first] = cases(1);
  if (!first) throw new Error("Expected a case");
  const b = createBuilder();
  assertEquals(inline(b, first.graph, () => undefined).y0?.attrs, first.node.attrs);
});
