import { assert, assertEquals } from "@std/assert";
import { openWasm } from "../../../backends/wasm/backend.ts";
import { type MeasurePlanInput, pathsTogether } from "../../../compiler/allocate/bench.ts";
import { measureFrontier } from "../../../compiler/allocate/measured_frontier.ts";
import { measuringMemory } from "../../../compiler/allocate/memory.ts";
import { allocationItems, measureSensitivities } from "../../../compiler/allocate/sensitivity.ts";
import { calibrate } from "../../../compiler/calibrate/calibrate.ts";
import { createPrograms } from "../../../compiler/calibrate/programs.ts";
import { defaultSettings } from "../../../compiler/calibrate/settings.ts";
import { memoryStore } from "../../../compiler/calibrate/store.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { elasticModule, structureModule } from "../../../compiler/pipeline.ts";
import { defaultRecipe, type Track } from "../../../compiler/recipe.ts";
import { random } from "../../../ir/random.ts";
import { randomParameters, VARIANTS } from "../../support/random_decoder.ts";

const CONFIG = {
  ...VARIANTS["tied, grouped queries"],
  hiddenSize: 64,
  intermediateSize: 160,
  headDim: 16,
  maxPositions: 64,
};

const TOKENS = 64;

type Bounds = Pick<MeasurePlanInput, "heldBytes" | "pathBytes">;

/** A calibrated model; what it has learned does not matter here. */
async function calibrated(track: Track, layers: number) {
  const recipe = defaultRecipe(track, 1), parameters = randomParameters(3), store = memoryStore();
  const module = decoderModule({ ...CONFIG, layers });
  const model = { structure: structureModule(module, recipe), elastic: elasticModule(module, recipe), recipe };
  const sequences = Array.from({ length: 32 }, (_, i) => {
    const rng = random(i, "ids");
    return Int32Array.from({ length: TOKENS }, () => rng.int(CONFIG.vocabSize));
  });
  await using backend = await openWasm({ threads: 1 });
  const load = await calibrate({
    ...model,
    programs: createPrograms(backend),
    sequences,
    settings: { ...defaultSettings(track), tokens: TOKENS, epochs: 1, sequences: 2, clipSearch: false },
    load: async (name, type) => Float32Array.from(await parameters(name, type)),
    seed: 5,
    store,
  });
  return { ...model, sequences, store, load };
}

const LAYERS = { weights: 2, activations: 5 } as const;
const models = new Map<Track, ReturnType<typeof calibrated>>();

/** The model of a track, made when it is first asked for. */
function modelFor(track: keyof typeof LAYERS): ReturnType<typeof calibrated> {
  const model = models.get(track) ?? calibrated(track, LAYERS[track]);
  models.set(track, model);
  return model;
}

/** What measuring plans and what it takes, on a backend where nothing else has run. */
async function memoryOf(track: keyof typeof LAYERS, sequences: number, bounds: Bounds) {
  const { store, load, ...model } = await modelFor(track);
  await using backend = await openWasm({ threads: 1 });
  const input = { ...model, ...bounds, programs: createPrograms(backend), tokens: sequences * TOKENS };
  const planned = await measuringMemory(input), measuring = { ...input, load, store };
  const sensitivities = await measureSensitivities(measuring);
  await measureFrontier(measuring, { items: allocationItems(input.elastic, sensitivities) });
  const taken = backend.memory?.();
  if (!taken) throw new Error("Expected the backend to count its memory");
  return { planned, taken: taken.allocated };
}

const CASES: readonly (readonly [name: string, track: keyof typeof LAYERS, sequences: number, bounds: Bounds])[] = [
  ["few tokens: weights count most", "weights", 1, {}],
  ["many tokens: values count most", "weights", 8, {}],
  ["one call's weights at a time", "weights", 4, { heldBytes: 0 }],
  ["few paths", "weights", 4, { pathBytes: 2 ** 19 }],
  ["activations", "activations", 4, {}],
];

for (const [name, ...given] of CASES) {
  Deno.test(`measuringMemory() is what measuring takes within 5 %: ${name}`, async () => {
    const { planned, taken } = await memoryOf(...given), { weights, values, arena, scratch, total } = planned;
    assert(Math.abs(taken - total) <= 0.05 * total, `planned ${JSON.stringify(planned)}, taken ${taken}`);
    assertEquals(total, weights + values + arena + scratch);
  });
}

Deno.test("pathsTogether() bounds the values of all paths, but lets one path walk in any case", () => {
  const behind = (bytes: number) => [new Map([["x", 8], ["cos", bytes]]), new Map([["x", 16]])];
  assertEquals(pathsTogether(behind(8), 160), 10);
  assertEquals(pathsTogether(behind(72), 160), 2);
  assertEquals(pathsTogether(behind(8), 15), 1);
  assertEquals(pathsTogether(behind(8)), 64);
});
