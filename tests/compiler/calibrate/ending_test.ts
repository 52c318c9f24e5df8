import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { openReference } from "../../../backends/reference/backend.ts";
import { openWasm } from "../../../backends/wasm/backend.ts";
import { logitsLoss, LOSS_LEAVES, rowsAt, rowsOfLogits } from "../../../compiler/calibrate/block_losses.ts";
import { calibrate, type CalibrationProgress } from "../../../compiler/calibrate/calibrate.ts";
import { batchesOf } from "../../../compiler/calibrate/batches.ts";
import { openBlock } from "../../../compiler/calibrate/block.ts";
import { columnScales } from "../../../compiler/calibrate/column_scales.ts";
import { initialLearned, learnedLayout } from "../../../compiler/calibrate/learned.ts";
import { prepareCall } from "../../../compiler/calibrate/prepare_call.ts";
import { ENDING_INPUT, endingOf, heldNames, openEnding } from "../../../compiler/calibrate/ending.ts";
import { createPool, createPrograms } from "../../../compiler/calibrate/programs.ts";
import { defaultSettings } from "../../../compiler/calibrate/settings.ts";
import { memoryStore } from "../../../compiler/calibrate/store.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { elasticModule, structureModule } from "../../../compiler/pipeline.ts";
import { defaultRecipe } from "../../../compiler/recipe.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { type Call, functionOf, type Module } from "../../../ir/module.ts";
import { type Graph, graphOf, leavesOf, nameOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { bindSymbols } from "../../../ir/symbols.ts";
import { sizeOf, tensorType } from "../../../ir/types.ts";
import { assertGradients } from "../../support/finite_differences.ts";
import { randomParameters, VARIANTS } from "../../support/random_decoder.ts";

const CONFIG = { ...VARIANTS["untied, heads of 8"], hiddenSize: 8, intermediateSize: 12, heads: 2, kvHeads: 1 };
const recipe = { ...defaultRecipe("weights", 1), rotate: true };
const structure = structureModule(decoderModule(CONFIG), recipe), last = structure.calls.length - 2;
const head = structure.calls.at(-1) as Call;
const doubles = (n: number, seed: string) => {
  const rng = random(7, seed);
  return Float64Array.from({ length: n }, () => rng.normal());
};

/** An ending with concrete shapes, and random values for all of its leaves. */
function randomEnding(batch: number, tokens: number): { graph: Graph; leaves: Record<string, Float64Array> } {
  const graph = bindSymbols(endingOf(structure, last).graph, { B: batch, T: tokens });
  const leaves = Object.fromEntries(
    leavesOf(graph, "input").map((node) => [nameOf(node), doubles(sizeOf(node.type.shape), nameOf(node))]),
  );
  return { graph, leaves };
}

/** ln p of rows of logits. */
const logsOf = (logits: Float64Array, width: number): number[][] =>
  Array.from({ length: logits.length / width }, (_, row) => {
    const own = [...logits.subarray(row * width, (row + 1) * width)];
    const total = Math.log(own.reduce((sum, x) => sum + Math.exp(x), 0));
    return own.map((x) => x - total);
  });

Deno.test("endingOf() computes the logits that the module does", async () => {
  const load = randomParameters(3), backend = openReference();
  const ending = endingOf(structure, last),
    input = {
      programs: createPrograms(backend),
      load: async (...asked: Parameters<typeof load>) => Float32Array.from(await load(...asked)),
    };
  const held = await openEnding(input, structure, ending);
  assertEquals(Object.keys(held.tensors).toSorted(), [...heldNames(ending.graph)].toSorted());
  const hidden = doubles(2 * 3 * CONFIG.hiddenSize, "hidden");
  const leaves: Record<string, Float64Array> = { [ENDING_INPUT]: hidden };
  for (const [name, tensor] of Object.entries(held.tensors)) {
    leaves[name] = Float64Array.from(await backend.download(tensor));
  }
  held.release();
  const { logits } = evaluate(bindSymbols(ending.graph, { B: 2, T: 3 }), leaves);

  const graph = bindSymbols(functionOf(structure, head), { B: 2, T: 3 }), own: Record<string, Float64Array> = {};
  for (const node of leavesOf(graph, "input")) own[nameOf(node)] = hidden;
  for (const node of leavesOf(graph, "param")) {
    const derived = structure.derived[head.prefix + nameOf(node)];
    own[nameOf(node)] = derived ? Float64Array.from(derived.generate()) : await load(nameOf(node), node.type);
  }
  const [expected] = Object.values(evaluate(graph, own));
  assertEquals(logits?.length, 2 * 3 * CONFIG.vocabSize);
  logits?.forEach((x, i) => assertAlmostEquals(x, expected?.[i] ?? NaN, 1e-4));
});

Deno.test("endingOf() refuses calls that read anything but the value before", () => {
  const calls = structure.calls.slice(0, -1);
  const reading = (inputs: Record<string, string>): Module => ({
    ...structure,
    calls: [...calls, { ...head, inputs }],
  });
  assertThrows(() => endingOf(reading({ ...head.inputs, ids: "ids" }), last), TypeError, "one value");
  assertThrows(() => endingOf(reading({ h: "ids" }), last), TypeError, "one value");
  assertThrows(() => endingOf(structure, structure.calls.length - 1), TypeError, "behind the last block");
});

Deno.test("logitsLoss() is the divergence of the logits: a sum over tokens with weights, a mean over the batch", () => {
  const { graph, leaves } = randomEnding(2, 3),
    b = createBuilder(),
    type = tensorType("f32", [2, 3, CONFIG.hiddenSize]);
  const loss = graphOf({ loss: logitsLoss(graph)(b, b.input("h", type)) }),
    weights = Float64Array.of(1, 0.5, 0, 1, 1, 2);
  const h = doubles(48, "h"), target = doubles(48, "target");
  const given = { ...leaves, [LOSS_LEAVES.tokenWeights]: weights };
  const lossAt = (x: Float64Array) =>
    evaluate(loss, { ...given, h: x, [LOSS_LEAVES.target]: target }, { precision: "f64" }).loss?.[0] ?? NaN;
  const [original, model] = [target, h].map((x) => {
    const { logits = new Float64Array() } = evaluate(graph, { ...leaves, [ENDING_INPUT]: x }, { precision: "f64" });
    return logsOf(Float64Array.from(logits), CONFIG.vocabSize);
  });
  let expected = 0;
  original?.forEach((row, t) =>
    row.forEach((p, v) => expected += (weights[t] ?? 0) * Math.exp(p) * (p - (model?.[t]?.[v] ?? NaN)) / 2)
  );
  assert(expected > 0.1);
  assertAlmostEquals(lossAt(h), expected, 1e-9);
  assertAlmostEquals(lossAt(target), 0, 1e-12);
  const leavesNow = { ...given, h, [LOSS_LEAVES.target]: target };
  assertGradients(
    { graph: loss, leaves: leavesNow },
    leavesOf(loss, "input").filter((x) => nameOf(x) === "h"),
    "logits",
  );
});

Deno.test("logitsLoss() of part of the tokens is that of all of them in the mean, and so is its gradient", () => {
  const { graph } = endingOf(structure, last), { [ENDING_INPUT]: _, ...leaves } = randomEnding(2, 3).leaves;
  const type = tensorType("f32", [2, 3, CONFIG.hiddenSize]), h = doubles(48, "h"), target = doubles(48, "target");
  const weights = Float64Array.of(1, 0.5, 0, 1, 1, 2);
  const at = (most: number, step: number) => {
    const b = createBuilder(), loss = graphOf({ loss: logitsLoss(graph, most)(b, b.input("h", type)) });
    const rows = Float64Array.from(rowsAt(step, most, 6));
    const given = { ...leaves, h, [LOSS_LEAVES.target]: target, [LOSS_LEAVES.tokenWeights]: weights };
    const all = { ...given, ...(most < 6 ? { [LOSS_LEAVES.rows]: rows } : {}) };
    assertEquals(leavesOf(loss, "input").map(nameOf).toSorted(), Object.keys(all).toSorted());
    assertGradients({ graph: loss, leaves: all }, leavesOf(loss, "input").filter((x) => nameOf(x) === "h"), "part");
    return evaluate(loss, all, { precision: "f64" }).loss?.[0] ?? NaN;
  };
  const whole = at(6, 0);
  for (const most of [1, 2, 3]) {
    const steps = 6 / most, parts = Array.from({ length: steps }, (_, step) => at(most, step));
    assertEquals(new Set(parts.map(String)).size > 1, true);
    assertAlmostEquals(parts.reduce((x, y) => x + y) / steps, whole, 1e-9);
  }
});

Deno.test("rowsOfLogits() bounds what logits take, and rowsAt() comes to all tokens", () => {
  assertEquals(rowsOfLogits(512, 128_256), 512);
  assertEquals(rowsOfLogits(4096, 128_256), 523);
  for (const [count, tokens] of [[3, 7], [523, 4096], [441, 512], [5, 5]] as const) {
    const times = new Array<number>(tokens).fill(0), turns = Math.min(tokens, 70);
    for (let turn = 0; turn < turns; turn++) {
      const rows = rowsAt(turn, count, tokens);
      assertEquals(new Set(rows).size, count);
      rows.forEach((row) => times[row] = (times[row] ?? 0) + 1);
    }
    // About equally often, long before every token had every place.
    const mean = turns * count / tokens;
    assert(Math.min(...times) > 0.85 * mean && Math.max(...times) < 1.15 * mean, `${count} of ${tokens}`);
  }
});

Deno.test("train() looks at the logits of some tokens, others in every turn", async () => {
  await using backend = await openWasm({ threads: 1 });
  const elastic = elasticModule(decoderModule(CONFIG), recipe), call = elastic.calls[last] as Call;
  const parameters = randomParameters(3), programs = createPrograms(backend), pool = createPool(backend);
  const { load } = columnScales(structure, async (name, type) => Float32Array.from(await parameters(name, type)));
  const ending = endingOf(structure, last), end = await openEnding({ programs, load }, structure, ending);
  const { held } = await prepareCall({ programs, load }, elastic, call, pool);
  const graph = functionOf(elastic, call), layout = learnedLayout(graph, recipe.scheme, [2]);
  const batches = batchesOf([0, 1].map(() => new Int32Array(6)), 2, 6),
    settings = { ...defaultSettings("weights"), epochs: 6 };
  const angles = (x: number) => new Float32Array(2 * 6 * CONFIG.headDim).fill(x);
  const inputs = [new Map([["h", Float32Array.from(doubles(96, "h"))], ["cos", angles(1)], ["sin", angles(0)]])];
  const targets = [Float32Array.from(doubles(96, "target"))];
  /** The divergence over all steps, where values hardly move. */
  const divergenceOf = async (logitsRows: number): Promise<number> => {
    const block = openBlock(programs, {
      graph,
      name: `${call.function} of ${logitsRows}`,
      recipe: { ...recipe, bitGroups: [[2]] },
      settings: { ...settings, adapterRate: 1e-9, clipRate: 1e-9, average: 0 },
      layout,
      batches,
      inputs: call.inputs,
      held: { ...held, ...end.tensors },
      ending: ending.graph,
      logitsRows,
    }, initialLearned(layout, settings.clipStart, random(1, "start")));
    let found = NaN;
    await block.train([inputs], targets, random(2, "bits"), (_, { divergence = NaN }) => found = divergence);
    block.release();
    return found;
  };
  const whole = await divergenceOf(12);
  // In six turns two of twelve tokens have been all of them, and one has not.
  assertAlmostEquals(await divergenceOf(2), whole, 1e-3 * whole);
  assert(Math.abs(await divergenceOf(1) - whole) > 1e-2 * whole);
  end.release();
  pool.release();
});

Deno.test("calibrate() by logits, too, has the last block learn something else, and changes no other", async () => {
  const module = decoderModule({ ...CONFIG, layers: 2 }), parameters = randomParameters(3);
  await using backend = await openWasm({ threads: 1 });
  const run = async (logits: number) => {
    const reports: CalibrationProgress[] = [], store = memoryStore();
    await calibrate({
      programs: createPrograms(backend),
      structure: structureModule(module, recipe),
      elastic: elasticModule(module, recipe),
      recipe,
      settings: { ...defaultSettings("weights"), tokens: 6, epochs: 2, clipSearch: false, logits },
      load: async (name, type) => Float32Array.from(await parameters(name, type)),
      sequences: [0, 1, 2, 3].map((i) => {
        const rng = random(i, "ids");
        return Int32Array.from({ length: 6 }, () => rng.int(CONFIG.vocabSize));
      }),
      seed: 5,
      store,
      report: (progress) => reports.push(progress),
    });
    const stored = await Promise.all([1, 2].map((call) => store.load(call)));
    return { reports, values: stored.map((all) => (all ?? []).map(({ name, values }) => `${name} ${values.join()}`)) };
  };
  const outputs = await run(0), both = await run(1);
  assertEquals(outputs.reports.map(({ divergence }) => divergence), [undefined, undefined]);
  assertEquals(both.reports.map(({ divergence = NaN }) => divergence > 0), [false, true]);
  assertEquals(outputs.reports[0], both.reports[0]);
  assertEquals(outputs.values[0], both.values[0]);
  assert(outputs.values[1]?.join() !== both.values[1]?.join());
});
