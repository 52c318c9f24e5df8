import { assert, assertEquals, assertThrows } from "@std/assert";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { contractIntegers } from "../../../compiler/passes/contract_integers.ts";
import { holdParameters } from "../../../compiler/passes/hold_parameters.ts";
import { specialize } from "../../../compiler/passes/quantize/specialize.ts";
import { prepareGraph, stage, trainGraph } from "../../../compiler/passes/stage.ts";
import { type Builder, createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node } from "../../../ir/node.ts";
import type { BindingTime } from "../../../ir/ops/state.ts";
import { print } from "../../../ir/print.ts";
import { random } from "../../../ir/random.ts";
import { bindSymbols } from "../../../ir/symbols.ts";
import { tensorType } from "../../../ir/types.ts";
import { holdsOf, leafValues, quantizableBlock, SCHEME, uniformWidths } from "../../support/quantized_block.ts";

const VECTOR = tensorType("f32", [4]);

/** Runs the programs one after the other, each with the results of those before it. */
function chain(graph: Graph, leaves: Record<string, Float64Array>): Record<string, Float64Array> {
  const { prepare, switch: switched, step } = stage(graph);
  const held = evaluate(prepare, leaves), codes = evaluate(switched, { ...leaves, ...held });
  return evaluate(step, { ...leaves, ...held, ...codes });
}

Deno.test("stage() cuts at holds and recomputes what lies between a hold and its use", () => {
  const b = createBuilder(), w = b.hold(b.exp(b.param("w", VECTOR, "checkpoint")), "checkpoint", "w.master");
  const dequantized = b.mul(w, 2), codes = b.add(dequantized, b.param("alpha", VECTOR, "calibration"));
  const stored = b.mul(b.hold(codes, "configuration", "w.codes"), 3);
  const programs = stage(graphOf({ y: b.hold(b.mul(b.mul(stored, b.input("x", VECTOR)), dequantized), "token", "y") }));
  assertEquals(
    print(programs.prepare),
    `%0 = param {name="w", time="checkpoint", type="f32[4]"} : f32[4]
%1 = exp %0 : f32[4]
return w.master=%1
`,
  );
  assertEquals(
    print(programs.switch),
    `%0 = param {name="w.master", time="checkpoint", type="f32[4]"} : f32[4]
%1 = constant {type="f32[4]", values=[2]} : f32[4]
%2 = mul %0 %1 : f32[4]
%3 = param {name="alpha", time="calibration", type="f32[4]"} : f32[4]
%4 = add %2 %3 : f32[4]
return w.codes=%4
`,
  );
  assertEquals(
    print(programs.step),
    `%0 = param {name="w.codes", time="configuration", type="f32[4]"} : f32[4]
%1 = constant {type="f32[4]", values=[3]} : f32[4]
%2 = mul %0 %1 : f32[4]
%3 = input {name="x", type="f32[4]"} : f32[4]
%4 = mul %2 %3 : f32[4]
%5 = param {name="w.master", time="checkpoint", type="f32[4]"} : f32[4]
%6 = constant {type="f32[4]", values=[2]} : f32[4]
%7 = mul %5 %6 : f32[4]
%8 = mul %4 %7 : f32[4]
return y=%8
`,
  );
});

Deno.test("stage() fails by name when anything but a hold crosses", () => {
  const b = createBuilder(), w = b.param("norm.weight", VECTOR, "checkpoint"), x = b.input("x", VECTOR);
  const late = b.param("alpha", VECTOR, "calibration");
  const staged = (y: Node) => () => stage(graphOf({ y }));
  assertThrows(
    staged(b.mul(b.exp(w), x)),
    TypeError,
    'Cannot stage: expected only holds and constants to enter the step program but found param "norm.weight" f32[4] of time ' +
      "checkpoint used by exp f32[4]; mark what crosses with hold(…, checkpoint, name)",
  );
  assertThrows(staged(b.mul(late, x)), TypeError, "mark what crosses with hold(…, configuration, name)");
  assertThrows(
    staged(b.hold(b.add(x, late), "configuration", "codes")),
    TypeError,
    'enter the switch program but found input "x" f32[4] of time token used by add f32[4] on the way to the hold "codes"',
  );
  assertThrows(staged(b.hold(late, "checkpoint", "w")), TypeError, 'enter the prepare program but found param "alpha"');
  assertThrows(staged(b.hold(w, "calibration", "w")), TypeError, 'but found "w" of time calibration');
  const twice = b.add(b.hold(w, "checkpoint", "w"), b.hold(b.exp(w), "checkpoint", "w"));
  assertThrows(staged(twice), TypeError, 'expected one value held as "w" but found several');
});

Deno.test("holdParameters() stores vectors, not their broadcasts, and what was computed, not its parts", () => {
  const b = createBuilder(),
    x = b.input("x", tensorType("f32", ["T", 4])),
    param = (name: string) => b.param(name, VECTOR, "checkpoint");
  const bias = b.broadcast(param("bias"), ["T", 4]), gain = b.mul(b.exp(param("gain")), param("small"));
  const table = b.param("table.weight", tensorType("f32", [9, 4]), "checkpoint"),
    ids = b.input("ids", tensorType("i32", ["T"]));
  const graph = holdParameters(
    graphOf({ y: b.add(b.mul(b.add(x, bias), gain), b.gather(table, ids)), z: b.sub(x, b.exp(param("gain"))) }),
  );
  assertEquals(holdsOf(graph), [
    "checkpoint bias f32[4]",
    "checkpoint gain f32[4]",
    "checkpoint gain.2 f32[4]",
    "checkpoint table.weight f32[9,4]",
  ]);
  assertEquals(holdParameters(graph), graph);
  assertEquals(leavesOf(stage(graph).step, "param").map(nameOf).sort(), ["bias", "gain", "gain.2", "table.weight"]);
});

Deno.test("holdParameters() leaves alone what only the prepare program uses", () => {
  const b = createBuilder(), w = b.param("w", VECTOR, "checkpoint");
  const scales = b.hold(b.abs(w), "checkpoint", "scales"), codes = b.hold(b.div(w, scales), "checkpoint", "codes");
  const graph = graphOf({ y: b.mul(b.mul(codes, scales), b.input("x", VECTOR)) });
  assertEquals(holdParameters(graph), graph);
});

/** A random program: holds sit wherever a value of an earlier time meets one of a later time. */
function randomGraph(seed: number): Graph {
  const b = createBuilder(), draw = random(seed, "stage");
  const times: readonly BindingTime[] = ["checkpoint", "configuration", "token"];
  type Value = { readonly node: Node; readonly time: number };
  const values: Value[] = [0, 1, 2].flatMap((i) => [
    { node: b.param(`w${i}`, VECTOR, "checkpoint"), time: 0 },
    { node: b.param(`c${i}`, VECTOR, "calibration"), time: 1 },
    { node: b.input(`x${i}`, VECTOR), time: 2 },
  ]);
  let holds = 0;
  const known = new Map<Node, Node>();
  const upTo = (value: Value, time: number, b: Builder): Node => {
    if (value.time >= time) return value.node;
    const found = known.get(value.node) ?? b.hold(value.node, times[value.time] ?? "token", `hold${holds++}`);
    known.set(value.node, found);
    return found;
  };
  for (let i = 0; i < 25; i++) {
    const [p, q] = [values[draw.int(values.length)], values[draw.int(values.length)]] as [Value, Value];
    const time = Math.max(p.time, q.time), left = upTo(p, time, b), right = upTo(q, time, b);
    const node = draw.int(2) === 0 ? b.mul(left, b.sigmoid(right)) : b.sub(left, right);
    // Behind a hold a value may be recomputed anywhere; its own program is that of its latest operand.
    values.push({ node, time });
  }
  const results = values.slice(-3).map((value) => upTo(value, 2, b));
  return graphOf(results.map((node, i) => ({ name: `y${i}`, node })));
}

Deno.test("stage(): chained slices equal the unsliced graph, bit by bit, on random graphs", () => {
  for (let seed = 0; seed < 50; seed++) {
    const graph = randomGraph(seed), leaves = leafValues(graph);
    const whole = evaluate(graph, leaves), chained = chain(graph, leaves);
    assertEquals(chained, whole, `seed ${seed}`);
  }
});

Deno.test("stage(): chained slices of a decoder's block equal the unsliced block, bit by bit", () => {
  const block = quantizableBlock();
  for (const [weight, activation, cache] of [[3, 16, 16], [4, 4, 4], [16, 16, 16], [8, 8, 16]] as const) {
    const widths = uniformWidths(block, weight, activation, cache);
    const graph = bindSymbols(holdParameters(contractIntegers(specialize(block, widths, SCHEME, "deploy"))), {
      B: 2,
      T: 3,
    });
    const leaves = leafValues(graph);
    assertEquals(chain(graph, leaves), evaluate(graph, leaves));
    const { switch: switched, step } = stage(graph);
    assert(
      leavesOf(switched, "input").length === 0 && leavesOf(step, "param").every((n) => n.attrs.time !== "calibration"),
    );
    if (weight < 8) assert(leavesOf(step, "param").every((node) => !nameOf(node).includes("master")));
  }
});

Deno.test("prepareGraph() does not depend on widths; trainGraph() starts from what it stores", () => {
  const block = quantizableBlock(), marked = bindSymbols(holdParameters(block), { B: 2, T: 3 });
  const prepare = prepareGraph(marked),
    widths = uniformWidths(block, 3, 8, 16),
    deploy = specialize(marked, widths, SCHEME, "deploy");
  assertEquals(print(prepareGraph(deploy)), print(prepare));
  const whole = specialize(marked, widths, SCHEME, "train"), train = trainGraph(whole);
  assertEquals(train.nodes.filter(({ op }) => op === "hold"), []);
  assertEquals(
    [...new Set(leavesOf(train, "param").map((node) => node.attrs.time))].sort(),
    ["calibration", "checkpoint"],
  );
  const leaves = leafValues(whole);
  assertEquals(evaluate(train, { ...leaves, ...evaluate(prepare, leaves) }), evaluate(whole, leaves));
  assertThrows(
    () => trainGraph(specialize(bindSymbols(block, { B: 2, T: 3 }), widths, SCHEME, "train")),
    TypeError,
    "enter the train program",
  );
});
