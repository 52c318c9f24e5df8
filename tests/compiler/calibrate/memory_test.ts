import { assert, assertEquals } from "@std/assert";
import { calibrate } from "../../../compiler/calibrate/calibrate.ts";
import { calibrationMemory } from "../../../compiler/calibrate/memory.ts";
import { createPrograms } from "../../../compiler/calibrate/programs.ts";
import { type CalibrationSettings, defaultSettings } from "../../../compiler/calibrate/settings.ts";
import { refineMixture } from "../../../compiler/calibrate/refine.ts";
import { memoryStore } from "../../../compiler/calibrate/store.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { modelSites } from "../../../compiler/model_sites.ts";
import { elasticModule, structureModule } from "../../../compiler/pipeline.ts";
import { defaultRecipe, type Track } from "../../../compiler/recipe.ts";
import { random } from "../../../ir/random.ts";
import { openCountedGpu, openCountedWasm } from "../../support/counted_memory.ts";
import { randomParameters, VARIANTS } from "../../support/random_decoder.ts";

const CONFIG = VARIANTS["tied, grouped queries"];

interface Sizes {
  readonly layers: number;
  readonly hiddenSize?: number;
  readonly intermediateSize?: number;
  readonly tokens?: number;
}

/** What a calibration of some layers plans and takes. */
async function memoryOf(
  { layers, hiddenSize = 32, intermediateSize = 48, tokens = 32 }: Sizes,
  track: Track,
  changes: Partial<CalibrationSettings> = {},
  open = openCountedWasm,
) {
  const config = { ...CONFIG, layers, hiddenSize, intermediateSize, headDim: hiddenSize / 4, maxPositions: 64 };
  const module = decoderModule(config), recipe = defaultRecipe(track, 1), parameters = randomParameters(3);
  await using counted = await open();
  const sequences = Array.from({ length: 6 }, (_, i) => {
    const rng = random(i, "ids");
    return Int32Array.from({ length: tokens }, () => rng.int(config.vocabSize));
  });
  const input = {
    programs: createPrograms(counted.backend),
    structure: structureModule(module, recipe),
    elastic: elasticModule(module, recipe),
    recipe,
    settings: { ...defaultSettings(track), tokens, epochs: 1, ...changes },
    sequences,
  };
  const planned = await calibrationMemory(input), store = memoryStore();
  const load = await calibrate({
    ...input,
    load: async (name, type) => Float32Array.from(await parameters(name, type)),
    seed: 5,
    store,
  });
  const taken = counted.taken(), sites = modelSites(input.elastic), widths = recipe.bitGroups.flat();
  const mixture = Object.fromEntries(sites.map(({ name }, i) => [name, widths[i % widths.length] ?? 8]));
  await refineMixture({
    ...input,
    settings: { ...input.settings, refine: 1 },
    load,
    seed: 5,
    begun: store,
    mixture,
    store: memoryStore(),
  });
  return { planned, taken, refined: counted.taken(), store };
}

const CASES: readonly (readonly [name: string, sizes: Omit<Sizes, "layers">, Track, Partial<CalibrationSettings>])[] = [
  ["weights", {}, "weights", {}],
  ["weights, wide", { hiddenSize: 64, intermediateSize: 160, tokens: 64 }, "weights", {}],
  ["weights, the last step's values", {}, "weights", { average: 0, balance: false }],
  ["weights, every block by its output", {}, "weights", { logits: 0 }],
  ["activations", {}, "activations", {}],
  ["fused inputs", {}, "weights", { inputs: "fused" }],
];

for (const [name, sizes, track, changes] of CASES) {
  Deno.test(`calibrationMemory() is what a calibration takes within 5 %, at any depth: ${name}`, async () => {
    const two = await memoryOf({ ...sizes, layers: 2 }, track, changes),
      four = await memoryOf({ ...sizes, layers: 4 }, track, changes);
    assertEquals(two.planned, four.planned, "no part depends on depth");
    for (const { planned: { peak, phases, host, total }, taken, refined } of [two, four]) {
      assert(refined <= 1.05 * peak.total, `planned ${peak.total}, taken ${refined} by refining a mixture`);
      assert(Math.abs(taken - peak.total) <= 0.05 * peak.total, `planned ${peak.total}, taken ${taken}`);
      assertEquals(peak.total, Math.max(...phases.map((phase) => phase.total)));
      assertEquals(peak.total, peak.weights + peak.learned + peak.batch + peak.arena + peak.scratch);
      assertEquals(total, peak.total + host.total);
    }
  });
}

for (const track of ["weights", "activations"] as const) {
  Deno.test(`calibrationMemory() is what the calibration of a tiny model takes on WebGPU within 5 %: ${track}`, async () => {
    const sizes = { layers: 1, hiddenSize: 16, intermediateSize: 24, tokens: 16 };
    const counted = await openCountedGpu();
    if (!counted) return;
    const { planned: { peak }, taken, refined } = await memoryOf(
      sizes,
      track,
      { sequences: 2 },
      () => Promise.resolve(counted),
    );
    assert(Math.abs(taken - peak.total) <= 0.05 * peak.total, `planned ${peak.total}, taken ${taken}`);
    assert(refined <= 1.05 * peak.total, `planned ${peak.total}, taken ${refined} by refining a mixture`);
  });
}

Deno.test("calibrationMemory() counts on the host what blocks are given and what they store", async () => {
  const { planned: { host }, store } = await memoryOf({ layers: 1 }, "weights");
  const batches = 3, groups = defaultRecipe("weights", 1).bitGroups.length, tokens = 2 * 32, table = 8;
  // Adapters' starts read the inputs once more.
  assertEquals(host.tracks, batches * (groups + 2) * 4 * tokens * 32);
  // Ids, positions, weights, and the two rotary tables.
  assertEquals(host.tokens, batches * 4 * tokens * (3 + 2 * table));
  const block = (await store.load(1) ?? []).reduce((sum, { values }) => sum + values.byteLength, 0);
  assert(host.block > block && host.block < 4 * block, `${host.block} bytes for ${block}`);
});
