import { assert, assertEquals } from "@std/assert";
import type { Backend } from "../../../backends/backend.ts";
import { openReference } from "../../../backends/reference/backend.ts";
import { adaptersOf } from "../../../compiler/adapters.ts";
import type { Values } from "../../../compiler/calibrate/batches.ts";
import { openBlock } from "../../../compiler/calibrate/block.ts";
import { initialLearned, learnedLayout } from "../../../compiler/calibrate/learned.ts";
import { createPrograms } from "../../../compiler/calibrate/programs.ts";
import { defaultSettings } from "../../../compiler/calibrate/settings.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { prepareGraph, stage } from "../../../compiler/passes/stage.ts";
import { elasticModule, structureModule } from "../../../compiler/pipeline.ts";
import { defaultRecipe } from "../../../compiler/recipe.ts";
import { type Graph, leavesOf, nameOf } from "../../../ir/node.ts";
import { eachWidth } from "../../../ir/sites.ts";
import { random } from "../../../ir/random.ts";
import { bindSymbols } from "../../../ir/symbols.ts";
import { randomParameters, VARIANTS } from "../../support/random_decoder.ts";

const CONFIG = { ...VARIANTS["tied, grouped queries"], hiddenSize: 8, intermediateSize: 12, heads: 2, kvHeads: 1 };
const BATCH = 2, TOKENS = 6, RANKS = { 2: 4, 3: 3, 4: 3, 5: 2, 6: 2, 7: 1, 8: 1 };

/** A scale-space or rounding product counts steps of the grid, so it moves further than one that counts weights. */
const CASES = [
  { track: "weights", kind: "cascaded", adapterSpace: "weight", adapterRate: 5e-3 },
  { track: "activations", kind: "cascaded", adapterSpace: "weight", adapterRate: 5e-3 },
  { track: "both", kind: "cascaded", adapterSpace: "weight", adapterRate: 5e-3 },
  { track: "weights", kind: "protected", adapterSpace: "weight", adapterRate: 5e-3 },
  { track: "weights", kind: "cascaded", adapterSpace: "scale", adapterRate: 2e-3 },
  { track: "weights", kind: "cascaded", adapterSpace: "rounding", adapterRate: 2e-3 },
] as const;

for (const { track, kind, adapterSpace, adapterRate } of CASES) {
  const name = `${track}, ${kind} in ${adapterSpace} space`;
  Deno.test(`train() lowers the balanced loss, and that of the lowest widths most (${name})`, async () => {
    const base = defaultRecipe(track, 1), module = decoderModule(CONFIG), backend = openReference();
    const recipe = {
      ...base,
      // Random scales would spread the columns, where found ones even them out.
      scaleColumns: false,
      scheme: { ...base.scheme, adapters: adaptersOf(kind, RANKS), adapterSpace },
      // Four groups at most, as columns of so few ranks that groups share do not serve more of them.
      bitGroups: track === "weights" ? defaultRecipe("both", 1).bitGroups : base.bitGroups,
    };
    const graph = elasticModule(module, recipe).functions.block as Graph,
      exact = structureModule(module, recipe).functions.block as Graph;
    // All groups in every step: what few steps for fine grids cost is a matter of real models.
    const settings = { ...defaultSettings(track), epochs: 30, batch: BATCH, adapterRate, every: eachWidth(() => 1) };

    const prepare = async (from: Graph) => {
      const program = await backend.compile(prepareGraph(from)), leaves = leavesOf(prepareGraph(from), "param");
      const load = randomParameters(3), raw: Record<string, ReturnType<typeof backend.upload>> = {};
      for (const node of leaves) {
        const name = nameOf(node), signs = name.includes("signs");
        const values = await load(name, node.type);
        raw[name] = backend.upload(node.type, Float32Array.from(values, (x) => signs ? Math.sign(x) : x));
      }
      return backend.run(program, raw);
    };
    const rng = random(4, "inputs"), rows = BATCH * TOKENS;
    const floats = (n: number) => Float32Array.from({ length: n }, () => rng.normal());
    const inputs: Values[] = [0, 1].map(() =>
      new Map([["h", floats(rows * 8)], ["cos", floats(rows * CONFIG.headDim).fill(1)], [
        "sin",
        new Float32Array(rows * CONFIG.headDim),
      ]])
    );
    const step = bindSymbols(stage(exact).step, { B: BATCH, T: TOKENS }),
      run = await backend.compile(step),
      held = await prepare(exact);
    const targets = await Promise.all(inputs.map(async (values) => {
      const leaves = Object.fromEntries(
        Object.entries(run.leaves).map((
          [name, type],
        ) => [name, held[name] ?? backend.upload(type, values.get(name) as Float32Array)]),
      );
      const { h } = backend.run(run, leaves);
      return Float32Array.from(h ? await backend.download(h) : []);
    }));

    const layout = learnedLayout(graph, recipe.scheme, recipe.bitGroups.flat());
    const batches = {
      batch: BATCH,
      tokens: TOKENS,
      list: inputs.map(() => ({
        ids: new Int32Array(rows),
        positions: new Int32Array(rows),
        weights: new Float32Array(rows).fill(1),
      })),
    };
    const names = { h: "h", cos: "cos", sin: "sin" };
    const input = {
      graph,
      name: "block",
      recipe,
      settings,
      layout,
      batches,
      inputs: names,
      held: await prepare(graph),
    };
    const start = initialLearned(layout, settings.clipStart, random(1, "start"));
    const block = openBlock(createPrograms(backend), input, start);
    const losses = async () => {
      const found: number[] = [];
      for (const widths of recipe.bitGroups) {
        let sum = 0;
        for (const width of widths) sum += await block.loss(width, inputs, targets, 2);
        found.push(sum / widths.length);
      }
      return found;
    };
    const before = await losses();
    await block.train(recipe.bitGroups.map(() => inputs), targets, random(2, "bits"), () => {});
    const after = await losses();
    // What is minimised is the sum of the groups' losses, each as a part of its own before training.
    const gain = after.reduce((sum, loss, g) => sum + loss / (before[g] ?? 1), 0) / after.length,
      last = after.length - 1;
    assert(gain < 0.99, `${before} -> ${after}`);
    // The lowest widths have most to gain.
    assert((after[last] ?? 1) < 0.9 * (before[last] ?? 0), `${before[last]} -> ${after[last]}`);
    block.release();

    let passes = 0;
    const counting: Backend = {
      ...backend,
      run: (executable, leaves, outputs) => {
        if (Object.keys(executable.outputs).some((name) => name.startsWith("gradient."))) passes++;
        return backend.run(executable, leaves, outputs);
      },
    };
    const rarely = { ...settings, epochs: 3, every: { ...eachWidth(() => 1), 5: 3 }, balance: false };
    const rare = openBlock(createPrograms(counting), { ...input, settings: rarely }, start);
    await rare.train(recipe.bitGroups.map(() => inputs), targets, random(2, "bits"), () => {});
    const groups = (fine: boolean) => recipe.bitGroups.filter((widths) => Math.min(...widths) === 5 === fine).length;
    // Six steps, of which a group of fine grids takes part in two: one for each batch.
    assertEquals(passes, 6 * groups(false) + 2 * groups(true));
    rare.release();
  });
}
