/** Gradients of whole programs. Those of single operations are in `ops_test.ts`. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { evaluate } from "../../backends/reference/evaluate.ts";
import { gradients, lossGradients, vjpGraph } from "../../ir/autodiff.ts";
import { createBuilder } from "../../ir/builder.ts";
import { rmsNorm } from "../../ir/composites/norms.ts";
import { silu, softmax } from "../../ir/composites/activations.ts";
import { type Graph, graphOf, type Node } from "../../ir/node.ts";
import { type OpName, OPS } from "../../ir/ops.ts";
import { print } from "../../ir/print.ts";
import { random } from "../../ir/random.ts";
import { bindSymbols } from "../../ir/symbols.ts";
import { sizeOf, tensorType, typeText } from "../../ir/types.ts";
import { verify } from "../../ir/verify.ts";
import { assertGradients, floatLeaves } from "../support/finite_differences.ts";
import { randomGraph } from "../support/random_graphs.ts";

const F = (...shape: number[]) => tensorType("f32", shape);

Deno.test("gradients of random programs are finite differences", () => {
  const excluded: readonly OpName[] = ["straightThrough", "update", "attentionGrad", "attention", "hadamard", "param"];
  const ops = (Object.keys(OPS) as OpName[]).filter((op) => !excluded.includes(op)), covered = new Set<string>();
  for (let seed = 0; seed < 150; seed++) {
    const made = randomGraph(seed, { maxNodes: 14, ops, values: "real" });
    assertGradients(made, floatLeaves(made.graph), `seed ${seed}`);
    made.graph.nodes.forEach(({ op }) => covered.add(op));
  }
  assertEquals(covered.size, ops.length);
});

/** A pre-norm block of the kind that calibration trains: grouped heads, causal attention, gated MLP, rotations. */
function decoderBlock() {
  const b = createBuilder(),
    h = b.input("h", F(2, 3, 8)),
    w = (name: string, ...shape: number[]) => b.input(name, F(...shape));
  const linear = (x: Node, weight: Node) => b.dot(x, weight, { lhsContract: [2], rhsContract: [1] });
  const x = rmsNorm(b, h, 1e-5, w("gain", 8));
  const q = b.reshape(linear(x, w("q", 8, 8)), [2, 3, 4, 2]);
  const k = b.reshape(linear(x, w("k", 4, 8)), [2, 3, 2, 2]), v = b.reshape(linear(x, w("v", 4, 8)), [2, 3, 2, 2]);
  const attended = b.reshape(b.attention(b.hadamard(q, 3), b.hadamard(k, 3), v, { scale: 0.7, causal: true }), [
    2,
    3,
    8,
  ]);
  const after = b.add(h, linear(attended, w("o", 8, 8))), y = rmsNorm(b, after, 1e-5);
  const gated = b.mul(silu(b, linear(y, w("gate", 12, 8))), linear(y, w("up", 12, 8)));
  const out = b.add(after, linear(b.hadamard(gated, 2, undefined, true), w("down", 8, 12)));
  const graph = graphOf({ out, probabilities: softmax(b, out, 2) }), rng = random(7, "decoder block");
  const leaves = Object.fromEntries(
    floatLeaves(graph).map(({ attrs, type }) => [
      String(attrs.name),
      Float64Array.from({ length: sizeOf(type.shape) }, () => 0.6 * rng.normal()),
    ]),
  );
  return { graph, leaves };
}

Deno.test("gradients of a decoder block are finite differences", () => {
  const made = decoderBlock();
  assertGradients(made, floatLeaves(made.graph), "decoder block");
});

Deno.test("the gradient program is an ordinary graph and shares the forward", () => {
  const b = createBuilder(), x = b.input("x", F(2)), graph = graphOf({ loss: b.sum(b.exp(x), [0]) });
  const [dx] = lossGradients(b, graph, "loss", [x]),
    both = graphOf([...graph.outputs, { name: "dx", node: dx as Node }]);
  verify(both);
  assertEquals(
    print(both),
    `%0 = input {name="x", type="f32[2]"} : f32[2]
%1 = exp %0 : f32[2]
%2 = sum %1 {axes=[0]} : f32[1]
%3 = constant {type="f32[2]", values=[1]} : f32[2]
%4 = mul %3 %1 : f32[2]
return loss=%2 dx=%4
`,
  );
});

Deno.test("a value used twice adds up, any node can be asked for, and nothing flows gives zeros", () => {
  const b = createBuilder(), x = b.input("x", F(2)), y = b.exp(x), z = b.input("z", F(3)), dy = b.input("dy", F(2));
  const graph = graphOf({ y: b.add(b.mul(y, y), x), z: b.abs(z) });
  const [dx, dMiddle, dz, dOut] = gradients(b, graph, { y: dy }, [x, y, z, b.add(b.mul(y, y), x)]);
  const twice = b.add(b.mul(dy, y), b.mul(dy, y));
  assert(dMiddle === twice && dx === b.add(dy, b.mul(twice, y)) && dOut === dy);
  assert(dz === b.constant(0, F(3)));
});

Deno.test("only the way to what is asked for is differentiated", () => {
  const b = createBuilder(),
    x = b.input("x", F(1, 2, 2)),
    rows = b.input("rows", F(1, 1, 2)),
    positions = b.input("p", tensorType("i32", [1, 1]));
  const cache = b.update(x, rows, positions), scale = b.input("scale", F(1, 2, 2));
  const graph = graphOf({ y: b.mul(cache, scale) }), dy = b.input("dy", F(1, 2, 2));
  assert(gradients(b, graph, { y: dy }, [scale])[0] === b.mul(dy, cache));
  assertThrows(
    () => gradients(b, graph, { y: dy }, [rows]),
    TypeError,
    "Cannot differentiate update: it has no gradient",
  );
});

Deno.test("lossGradients() names the outputs there are", () => {
  const b = createBuilder(), x = b.input("x", F(2)), graph = graphOf({ y: x });
  assertThrows(() => lossGradients(b, graph, "loss", [x]), RangeError, 'Expected an output named "loss" but found y');
});

Deno.test("vjpGraph() takes the cotangents as inputs", () => {
  const b = createBuilder(), x = b.input("x", F(2)), w = b.param("w", F(2), "calibration");
  const program = graphOf(vjpGraph(graphOf({ y: b.mul(x, w) }), [x, w], ["d.x", "d.w"]));
  verify(program);
  assertEquals(
    print(program),
    `%0 = input {name="d.y", type="f32[2]"} : f32[2]
%1 = param {name="w", time="calibration", type="f32[2]"} : f32[2]
%2 = mul %0 %1 : f32[2]
%3 = input {name="x", type="f32[2]"} : f32[2]
%4 = mul %0 %3 : f32[2]
return d.x=%2 d.w=%4
`,
  );
});

Deno.test("gradients have the types of what they belong to, in half precision too", () => {
  const ops = (Object.keys(OPS) as OpName[]).filter((op) => op !== "update" && op !== "attentionGrad");
  let compared = 0;
  for (let seed = 0; seed < 300; seed++) {
    const { graph } = randomGraph(seed, { maxNodes: 10, ops, half: true });
    if (graph.nodes.some(({ attrs }) => attrs.of === "logSumExp")) continue;
    const wrt = floatLeaves(graph), names = wrt.map((_, i) => `d${i}`), program = graphOf(vjpGraph(graph, wrt, names));
    verify(program, `seed ${seed}`);
    assertEquals(program.outputs.map(({ node }) => typeText(node.type)), wrt.map(({ type }) => typeText(type)));
    compared += wrt.filter(({ type }) => type.dtype === "f16").length;
  }
  assert(compared > 100);
});

Deno.test("symbols may be bound before or after differentiation", () => {
  const b = createBuilder(), x = b.input("x", tensorType("f32", ["B", "T", 4])), w = b.input("w", F(6, 4));
  const q = b.reshape(b.dot(x, w, { lhsContract: [2], rhsContract: [1] }), ["B", "T", 3, 2]);
  const attended = b.reshape(b.attention(q, q, q, { scale: 1, causal: true }), ["B*T", 6]);
  const shifted = b.slice(b.concat([attended, b.abs(attended)], 1), [0, 1], ["B*T", 5]);
  const graph = graphOf({ y: b.sum(b.pad(b.max(shifted, [1]), [0, 1], [0, 0]), [0, 1]) });
  const program = (of: Graph) => {
    const leaves = ["x", "w"].map((name) => of.nodes.find(({ attrs }) => attrs.name === name) as Node);
    return graphOf(vjpGraph(of, leaves, ["d.x", "d.w"]));
  };
  const symbols = { B: 2, T: 3 },
    after = bindSymbols(program(graph), symbols),
    before = program(bindSymbols(graph, symbols));
  verify(after, "the test", { concrete: true });
  const leaves = {
    x: Float64Array.from({ length: 24 }, (_, i) => Math.sin(i)),
    w: Float64Array.from({ length: 24 }, (_, i) => Math.cos(i * i)),
    "d.y": Float64Array.of(1),
  };
  assertEquals(evaluate(after, leaves), evaluate(before, leaves));
});
