import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { lowerGraph } from "../../../backends/regions/lower.ts";
import type { LoweredProgram } from "../../../backends/regions/program.ts";
import { gradients, lossGradients } from "../../../ir/autodiff.ts";
import { type Builder, createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { sizeOf, tensorType } from "../../../ir/types.ts";
import { widthsAt } from "../../../compiler/calibrate/block_programs.ts";
import { reconstructionLoss } from "../../../compiler/calibrate/block_losses.ts";
import { trainInPlace, trainProgram, withLearnedInputs } from "../../../compiler/calibrate/train_program.ts";
import { contractIntegers } from "../../../compiler/passes/contract_integers.ts";
import { specialize } from "../../../compiler/passes/quantize/specialize.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { elasticModule, trainFunction } from "../../../compiler/pipeline.ts";
import { defaultRecipe } from "../../../compiler/recipe.ts";
import { bindSymbols } from "../../../ir/symbols.ts";
import { leafValues, quantizableBlock, SCHEME, uniformWidths } from "../../support/quantized_block.ts";
import { VARIANTS } from "../../support/random_decoder.ts";
import { randomGraph } from "../../support/random_graphs.ts";
import { runLowered } from "../../support/run_lowered.ts";

const f32 = (...shape: number[]) => tensorType("f32", shape);

/** Random values for every leaf: normal floats, small indices. */
function leavesFor(graph: Graph, indexLimit = 4): Record<string, Float64Array> {
  const rng = random(7, "leaves");
  return Object.fromEntries([...leavesOf(graph, "param"), ...leavesOf(graph, "input")].map((node) => {
    const integer = node.type.dtype !== "f32";
    return [
      nameOf(node),
      Float64Array.from(
        { length: sizeOf(node.type.shape) },
        () => integer ? rng.int(indexLimit) : Math.fround(rng.normal()),
      ),
    ];
  }));
}

function expectSame(graph: Graph, program: LoweredProgram, leaves = leavesFor(graph)): void {
  const expected = evaluate(graph, leaves), found = runLowered(program, leaves);
  for (const [name, values] of Object.entries(expected)) {
    const got = found[name] ?? new Float32Array();
    assertEquals(got.length, values.length, `size of ${name}`);
    const magnitude = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
    values.forEach((value, i) => {
      const difference = Math.abs(value - (got[i] ?? NaN));
      assert(difference <= 2e-5 * magnitude, `${name}[${i}]: expected ${value} but found ${got[i]}`);
    });
  }
}

const kinds = (program: LoweredProgram) => program.steps.map(({ kernel }) => kernel.kind).join(" ");

function rmsNorm(b: Builder, x: Node): Node {
  const n = Number(x.type.shape.at(-1)), axis = x.type.shape.length - 1;
  const mean = b.mul(b.sum(b.mul(x, x), [axis]), 1 / n);
  return b.mul(x, b.div(b.constant(1, mean.type), b.sqrt(b.add(mean, 1e-5))));
}

Deno.test("lowerGraph() makes one row kernel of norm, transform and per-token quantizer", () => {
  const b = createBuilder(), x = b.input("x", f32(2, 3, 24));
  const y = b.hadamard(rmsNorm(b, x), 2);
  const scale = b.mul(b.maximum(b.max(b.abs(y), [2]), 1e-8), 1 / 7);
  const codes = b.cast(b.round(b.div(y, scale)), "i4");
  const graph = graphOf({ codes, scale, sum: b.sum(b.cast(codes, "f32"), [2]) });
  const program = lowerGraph(graph);
  assertEquals(kinds(program), "row");
  expectSame(graph, program);
});

Deno.test("lowerGraph() sums the codes of a row in the kernel that makes them, whatever shape they are summed in", () => {
  const b = createBuilder(), x = b.input("x", f32(2, 3, 24));
  const scale = b.div(b.max(b.abs(x), [2]), 7), codes = b.cast(b.round(b.div(x, scale)), "i4");
  const sums = b.sum(b.cast(b.reshape(codes, [2, 3, 1, 24]), "i32"), [3]);
  const graph = graphOf({ codes, sums: b.cast(sums, "f32") }), program = lowerGraph(graph);
  assertEquals(kinds(program), "row");
  expectSame(graph, program);
});

Deno.test("lowerGraph() folds residual, bias and activation into the contraction before them", () => {
  const b = createBuilder(), x = b.input("x", f32(2, 5, 8)), w = b.param("w", f32(4, 3, 8), "checkpoint");
  const y = b.dot(x, w, { lhsContract: [2], rhsContract: [2] });
  const out = b.add(
    b.input("h", f32(2, 5, 4, 3)),
    b.mul(b.add(y, b.param("bias", f32(4, 3), "checkpoint")), b.sigmoid(y)),
  );
  const graph = graphOf({ out });
  const program = lowerGraph(graph);
  assertEquals(kinds(program), "dot");
  expectSame(graph, program);
});

Deno.test("lowerGraph() dequantizes on the operand loads of a contraction, with groups along the contracted axis", () => {
  const b = createBuilder(), x = b.input("x", f32(5, 12));
  const codes = b.param("codes", tensorType("u3", [6, 3, 4]), "configuration");
  const w = b.mul(
    b.sub(b.cast(codes, "f32"), b.param("z", f32(6, 3, 1), "configuration")),
    b.param("s", f32(6, 3, 1), "configuration"),
  );
  const graph = graphOf({ y: b.dot(x, b.reshape(w, [6, 12]), { lhsContract: [1], rhsContract: [1] }) });
  const program = lowerGraph(graph);
  assertEquals(kinds(program), "dot");
  expectSame(graph, program);
});

Deno.test("lowerGraph() makes one kernel of a scaled sum over groups of integers", () => {
  const b = createBuilder(), x = b.input("x", tensorType("i8", [5, 3, 4])), sx = b.input("sx", f32(5, 1));
  const codes = b.param("codes", tensorType("u4", [6, 3, 4]), "configuration");
  const s = b.param("s", f32(6, 3), "configuration");
  const groups = b.cast(b.dot(x, codes, { lhsBatch: [1], rhsBatch: [1], lhsContract: [2], rhsContract: [2] }), "f32");
  const scaled = b.mul(groups, b.reshape(b.transpose(s, [1, 0]), [3, 1, 6]));
  const graph = graphOf({ y: b.mul(b.reshape(b.sum(scaled, [0]), [5, 6]), sx) });
  const program = lowerGraph(graph);
  assertEquals(kinds(program), "dot");
  expectSame(graph, program);
});

Deno.test("lowerGraph() fuses rotary embedding through its halves", () => {
  const b = createBuilder(),
    x = b.input("x", f32(2, 3, 2, 8)),
    cos = b.input("cos", f32(2, 3, 8)),
    sin = b.input("sin", f32(2, 3, 8));
  const halves = b.reshape(x, [2, 3, 2, 2, 4]);
  const swapped = b.reshape(b.slice(halves, [0, 0, 0, 1, 0], [2, 3, 2, 2, 4], [1, 1, 1, -1, 1]), [2, 3, 2, 8]);
  const wide = (t: Node) => b.reshape(t, [2, 3, 1, 8]);
  const graph = graphOf({ y: b.add(b.mul(x, wide(cos)), b.mul(swapped, wide(sin))) });
  const program = lowerGraph(graph);
  assertEquals(kinds(program), "map");
  expectSame(graph, program);
});

Deno.test("lowerGraph() writes cache rows where the positions tell, behind the transform that made them", () => {
  const b = createBuilder(), k = b.input("k", f32(2, 3, 2, 8));
  const cache = b.update(
    b.input("cache", f32(2, 6, 2, 8)),
    b.hadamard(k, 3),
    b.input("positions", tensorType("i32", [2, 3])),
  );
  const graph = graphOf({ cache, y: b.mul(cache, 2) });
  const program = lowerGraph(graph);
  assertEquals(kinds(program), "row map");
  expectSame(graph, program);
});

Deno.test("lowerGraph() computes optimizer states in place in one kernel", () => {
  const b = createBuilder(), leaf = (name: string) => b.input(name, f32(40));
  const [p, m, g] = [leaf("p"), leaf("m"), leaf("g")];
  const moment = b.add(b.mul(m, 0.9), b.mul(g, 0.1));
  const graph = graphOf({ m: moment, p: b.sub(p, b.mul(b.broadcast(b.input("rate", f32(1)), [40]), moment)) });
  const program = lowerGraph(graph, { inPlace: { m: "m", p: "p" } });
  assertEquals(kinds(program), "map");
  expectSame(graph, program);
});

/** A decoder block with a weight quantizer on every linear, its loss and gradients. */
function toyTrainProgram(): Graph {
  const b = createBuilder(),
    h = b.input("h", f32(2, 5, 8)),
    target = b.input("target", f32(2, 5, 8)),
    top = b.input("top", f32(1));
  const trained: Node[] = [];
  const weight = (name: string, rows: number, columns: number) => {
    const w = b.param(name, f32(rows, columns), "checkpoint");
    const B = b.param(`${name}.b`, f32(rows, 3), "calibration"),
      A = b.param(`${name}.a`, f32(3, columns), "calibration");
    const alpha = b.param(`${name}.alpha`, f32(rows, 2, 1), "calibration");
    trained.push(A, B, alpha);
    const low = b.dot(b.slice(B, [0, 0], [rows, 2]), b.slice(A, [0, 0], [2, columns]), {
      lhsContract: [1],
      rhsContract: [0],
    });
    const v = b.reshape(b.add(w, low), [rows, 2, columns / 2]);
    const high = b.mul(b.sigmoid(alpha), b.maximum(b.max(v, [2]), 0)), lo = b.mul(b.minimum(b.min(v, [2]), 0), 0.98);
    const s = b.div(b.sub(high, lo), b.broadcast(b.reshape(top, [1, 1, 1]), [rows, 2, 1]));
    const z = b.mul(b.round(b.div(lo, s)), -1), u = b.div(v, s);
    const t = b.add(b.straightThrough(b.round(u), u), z);
    const c = b.minimum(b.maximum(t, 0), b.broadcast(b.reshape(top, [1, 1, 1]), [rows, 2, columns / 2]));
    return b.reshape(b.mul(b.sub(c, z), s), [rows, columns]);
  };
  const linear = (x: Node, w: Node) => b.dot(x, w, { lhsContract: [2], rhsContract: [1] });
  const heads = (x: Node, n: number) => b.reshape(x, [2, 5, n, 4]);
  const x = rmsNorm(b, h);
  const a = b.attention(
    heads(linear(x, weight("q", 8, 8)), 2),
    heads(linear(x, weight("k", 4, 8)), 1),
    heads(linear(x, weight("v", 4, 8)), 1),
    {
      scale: 0.5,
      causal: true,
    },
  );
  const r = b.add(h, linear(b.reshape(a, [2, 5, 8]), weight("o", 8, 8)));
  const n = rmsNorm(b, r), g = linear(n, weight("g", 12, 8));
  const y = b.add(r, linear(b.mul(b.mul(g, b.sigmoid(g)), linear(n, weight("u", 12, 8))), weight("d", 8, 12)));
  const loss = b.sum(b.abs(b.sub(y, target)), [0, 1, 2]);
  const forward = graphOf({ loss });
  const gradients = lossGradients(b, forward, "loss", trained);
  return graphOf({
    loss,
    ...Object.fromEntries(gradients.map((node, i) => [`d.${nameOf(trained[i] as Node)}`, node])),
  });
}

Deno.test("lowerGraph() keeps the meaning of a whole train program, within the portable number of buffers", () => {
  const graph = toyTrainProgram(), program = lowerGraph(graph);
  const leaves = { ...leavesFor(graph), top: Float64Array.of(7) };
  assert(program.steps.every(({ kernel }) => kernel.buffers.length <= 8));
  expectSame(graph, program, leaves);
});

/** Kinds of kernels of a decoder block's train program, as `compiler/calibrate` builds it. */
function blockKernels(track: "weights" | "activations"): Record<string, number> {
  const recipe = defaultRecipe(track, 1);
  const block = elasticModule(decoderModule(VARIANTS["tied, grouped queries"]), recipe).functions.block as Graph;
  const forward = withLearnedInputs(trainFunction(block, widthsAt(block, recipe, 4), recipe.scheme));
  const graph = trainProgram(bindSymbols(forward, { B: 2, T: 16 }), reconstructionLoss(1));
  const counts: Record<string, number> = {};
  for (const { kernel } of lowerGraph(graph, { maxBuffers: 64, inPlace: trainInPlace(graph) }).steps) {
    counts[kernel.kind] = (counts[kernel.kind] ?? 0) + 1;
  }
  return counts;
}

Deno.test("lowerGraph() makes one row kernel of each weight quantizer and one of its gradient", () => {
  // 7 linears: quantizer and its gradient are 14 rows, rounding the two factors of the adapter 14 more; two norms, one norm's gradient (the other's is not needed) and the
  // loss are 4. Contractions: 7 forward, 6 towards inputs less 3 that nobody needs, 7 towards weights, 7 + 14 of adapters.
  const { row, attention } = blockKernels("weights");
  assertEquals({ row, attention }, { row: 32, attention: 3 });
});

Deno.test("lowerGraph() keeps the meaning of random graphs", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 1 << 30 }), fc.constantFrom(8, 12, 64), (seed, maxBuffers) => {
      const { graph, leaves } = randomGraph(seed, { maxNodes: 16 });
      expectSame(graph, lowerGraph(graph, { maxBuffers }), leaves);
    }),
    { numRuns: 150, seed: 11 },
  );
});

Deno.test("lowerGraph() keeps the meaning of a deployed block with quantized caches within any number of buffers", () => {
  const block = quantizableBlock(), scales = /scale$/;
  for (const cache of [4, 16]) {
    const deployed = specialize(block, uniformWidths(block, 3, 8, cache), SCHEME, "deploy");
    const graph = bindSymbols(contractIntegers(deployed), { B: 2, T: 3, S: 8 });
    const leaves = Object.fromEntries(
      // Values are in [-1, 1): sums of integers are small, and no quantizer divides by next to nothing.
      Object.entries(leafValues(graph)).map(([name, x]) => [name, scales.test(name) ? x.map(Math.abs) : x]),
    );
    for (const [name, type] of leavesOf(graph, "input").map((node) => [nameOf(node), node.type] as const)) {
      if (type.dtype === "i32") leaves[name] = Float64Array.from({ length: sizeOf(type.shape) }, (_, t) => t % 3);
    }
    for (const maxBuffers of [8, 9, 10, 12, 16, 64]) {
      const program = lowerGraph(graph, { maxBuffers });
      assert(program.steps.every(({ kernel }) => kernel.buffers.length <= maxBuffers));
      expectSame(graph, program, leaves);
    }
  }
});

/** Gradients of attention with every optional operand; the first query of each sequence sees nothing. */
function boundedAttention(window?: number): { graph: Graph; leaves: Record<string, Float64Array> } {
  const b = createBuilder(), leaf = (name: string, ...shape: number[]) => b.input(name, f32(...shape));
  const q = leaf("q", 2, 3, 4, 8), k = leaf("k", 2, 5, 2, 8), v = leaf("v", 2, 5, 2, 6);
  const positions = b.input("positions", tensorType("i32", [2, 3]));
  const y = b.attention(q, k, v, { scale: 0.3, causal: true, window, bias: leaf("bias", 4, 3, 5), positions });
  const loss = b.sum(b.mul(y, leaf("dy", 2, 3, 4, 6)), [0, 1, 2, 3]);
  const [dq, dk, dv] = lossGradients(b, graphOf({ loss }), "loss", [q, k, v]) as [Node, Node, Node];
  const graph = graphOf({ dq, dk, dv });
  return { graph, leaves: { ...leavesFor(graph), positions: Float64Array.of(-1, 2, 4, -1, 0, 3) } };
}

Deno.test("lowerGraph() moves bounds into the bias where attention's gradient has too many operands", () => {
  for (const { graph, leaves } of [boundedAttention(), boundedAttention(2)]) {
    for (const maxBuffers of [8, 9]) {
      const program = lowerGraph(graph, { maxBuffers });
      assertEquals(Math.max(...program.steps.map(({ kernel }) => kernel.buffers.length)) <= maxBuffers, true);
      expectSame(graph, program, leaves);
    }
  }
});

Deno.test("lowerGraph() puts attentions of one operand in one kernel only where they see the same", () => {
  const b = createBuilder(), x = b.input("x", f32(1, 5, 1, 4)), form = { scale: 0.5, causal: true };
  const [all, two] = [b.attention(x, x, x, form), b.attention(x, x, x, { ...form, window: 2 })];
  const logs = b.make("attention", two.inputs, { ...two.attrs, of: "logSumExp" }), graph = graphOf({ all, two, logs });
  const program = lowerGraph(graph);
  assertEquals(program.steps.length, 2);
  expectSame(graph, program, leavesFor(graph));
});

Deno.test("lowerGraph() says when kernels may bind too few buffers", () => {
  const message =
    "Expected kernels that bind at most 6 buffers but found attention with more operands; raise maxBuffers";
  assertThrows(() => lowerGraph(boundedAttention().graph, { maxBuffers: 6 }), RangeError, message);
});

Deno.test("lowerGraph() computes all gradients of attention in one kernel where it is told to, otherwise those of a side", () => {
  const b = createBuilder(), type = tensorType("f32", [1, 8, 2, 4]);
  const [q, k, v, dy] = ["q", "k", "v", "dy"].map((name) => b.input(name, type)) as [Node, Node, Node, Node];
  const output = b.attention(q, k, v, { scale: 0.5, causal: true });
  const slopes = gradients(b, graphOf({ output }), { output: dy }, [q, k, v]);
  const graph = graphOf({ output, ...Object.fromEntries(slopes.map((node, i) => [`slope.${i}`, node])) });
  const results = (gradientsTogether: boolean) =>
    lowerGraph(graph, { maxBuffers: 16, gradientsTogether }).steps.flatMap(({ kernel }) =>
      kernel.kind === "attention" ? [kernel.results.map(({ of }) => of).join(" ")] : []
    ).sort();
  assertEquals(results(false), ["k v", "output logSumExp", "q"]);
  assertEquals(results(true), ["output logSumExp", "q k v"]);
});
