import { assert, assertAlmostEquals, assertEquals, assertRejects } from "@std/assert";
import type { HostArray, Tensor } from "../../../backends/backend.ts";
import { openReference } from "../../../backends/reference/backend.ts";
import { type AdapterKind, adaptersOf } from "../../../compiler/adapters.ts";
import { lookUp } from "../../../compiler/allocate/frontier.ts";
import { type Candidate, raceMixtures } from "../../../compiler/allocate/race.ts";
import { createRunner, prepareWalk } from "../../../backends/runner.ts";
import { measuredSequences, openBench } from "../../../compiler/allocate/bench.ts";
import { measureAllocations, measureFrontier } from "../../../compiler/allocate/measured_frontier.ts";
import { isRehearsed, mixturesOf, predictMixtures, rehearsalSettings } from "../../../compiler/allocate/predict.ts";
import { measureSensitivities } from "../../../compiler/allocate/sensitivity.ts";
import {
  calibrate,
  type CalibrationInput,
  type CalibrationProgress,
  DivergedError,
} from "../../../compiler/calibrate/calibrate.ts";
import { type LoadParameter, prepareCall } from "../../../compiler/calibrate/prepare_call.ts";
import { createPool, createPrograms } from "../../../compiler/calibrate/programs.ts";
import { type CalibrationSettings, defaultSettings } from "../../../compiler/calibrate/settings.ts";
import { type CallStore, memoryStore, overlaid, type StoredTensor } from "../../../compiler/calibrate/store.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { meanBits, modelSites } from "../../../compiler/model_sites.ts";
import { elasticModule, structureModule } from "../../../compiler/pipeline.ts";
import { defaultRecipe, type Recipe, type Track } from "../../../compiler/recipe.ts";
import type { Call } from "../../../ir/module.ts";
import { random } from "../../../ir/random.ts";
import { sizeOf, tensorType } from "../../../ir/types.ts";
import { type ElasticSource, freeTensors } from "../../../runtime/elastic_source.ts";
import { programCache, withCall } from "../../../runtime/forward.ts";
import { countingBackend } from "../../support/counting_backend.ts";
import { randomParameters, VARIANTS } from "../../support/random_decoder.ts";

const CONFIG = { ...VARIANTS["tied, grouped queries"], hiddenSize: 8, intermediateSize: 12, heads: 2, kvHeads: 1 };

const SEQUENCES = Array.from({ length: 4 }, (_, i) => {
  const rng = random(i, "ids");
  return Int32Array.from({ length: 5 + i }, () => rng.int(CONFIG.vocabSize));
});

function smallRecipe(track: Track, kind: AdapterKind = "independent"): Recipe {
  const recipe = defaultRecipe(track, 1);
  return {
    ...recipe,
    scheme: {
      ...recipe.scheme,
      adapters: adaptersOf(kind, { 2: 4, 3: 3, 4: 3, 5: 2, 6: 2, 7: 1, 8: 1 }),
      groupSizes: { ...recipe.scheme.groupSizes, 2: 4 },
    },
  };
}

function inputFor(
  track: Track,
  settings: Partial<CalibrationSettings> = {},
  changes: Partial<Recipe> = {},
): CalibrationInput {
  const module = decoderModule(CONFIG),
    recipe = { ...smallRecipe(track), ...changes },
    parameters = randomParameters(3);
  return {
    programs: createPrograms(openReference()),
    structure: structureModule(module, recipe),
    elastic: elasticModule(module, recipe),
    recipe,
    settings: { ...defaultSettings(track), tokens: 8, epochs: 6, adapterRate: 5e-3, ...settings },
    load: async (name, type) => Float32Array.from(await parameters(name, type)),
    sequences: SEQUENCES,
    seed: 5,
    store: memoryStore(),
  };
}

const bytesOf = (tensors: readonly StoredTensor[] | undefined) =>
  (tensors ?? []).map(({ name, values }) =>
    `${name} ${[...new Uint8Array(values.buffer, values.byteOffset, values.byteLength)].join()}`
  );

const bytesOfAll = async (store: CallStore) =>
  await Promise.all([0, 1, 2, 3].map(async (call) => bytesOf(await store.load(call))));

for (const track of ["weights", "activations"] as const) {
  Deno.test(`calibrate() stores masters, clips and adapters of every block (${track})`, async () => {
    const losses: Record<number, number[]> = {};
    const input = inputFor(track);
    await calibrate({ ...input, report: ({ block, loss }) => (losses[block] ??= []).push(loss) });
    assertEquals(Object.keys(losses), ["0", "1"]);
    const names = (await input.store.load(1))?.map(({ name }) => name) ?? [];
    for (
      const part of [
        "master.codes",
        "master.scales",
        "clip.high.4",
        "clip.low.8",
        "adapter.8.a.codes",
        "adapter.4.b.scale",
      ]
    ) {
      assert(names.includes(`layers.0.mlp.down.weight.${part}`), part);
    }
  });
}

for (const searched of [false, true]) {
  Deno.test(`calibrate() resumes from finished blocks to the same bytes${searched ? ", searches included" : ""}`, async () => {
    const input = () => inputFor("weights", { epochs: 1, clipSearch: searched }, { scaleColumns: searched });
    const whole = input(), load = await calibrate(whole);
    const partial = input(), first = await whole.store.load(1);
    await partial.store.save(1, first ?? []);
    const loadAgain = await calibrate(partial);
    assert((first?.length ?? 0) > 10);
    for (const call of whole.elastic.calls.keys()) {
      assertEquals(bytesOf(await partial.store.load(call)), bytesOf(await whole.store.load(call)), `call ${call}`);
    }
    if (!searched) return;
    let scaled = 0;
    for (const layer of [0, 1]) {
      for (const part of ["attention", "mlp"]) {
        const name = `layers.${layer}.${part}.input.scale`, type = tensorType("f32", [CONFIG.hiddenSize]);
        const scales = await load(name, type);
        assertEquals(await loadAgain(name, type), scales);
        if (new Set(scales).size > 1) scaled++;
      }
    }
    // The search may leave some as they are.
    assert(scaled >= 2, `${scaled} of four are scaled`);
  });
}

Deno.test("calibrate() with searches starts nearer to the original than without", async () => {
  const lossOf = async (clipSearch: boolean, scaleColumns: boolean) => {
    const first: number[] = [];
    // A step that moves next to nothing: what is reported is the loss that a block starts with.
    const input = inputFor(
      "weights",
      { epochs: 1, adapterRate: 1e-9, clipRate: 1e-9, balance: false },
      { scaleColumns },
    );
    const report = ({ block, loss }: CalibrationProgress) => first[block] ??= loss;
    await calibrate({ ...input, settings: { ...input.settings, clipSearch }, report });
    return first[0] ?? NaN;
  };
  const plain = await lossOf(false, false), clipped = await lossOf(true, false), scaled = await lossOf(false, true);
  assert(clipped < plain && scaled < plain, `${plain} ${clipped} ${scaled}`);
});

Deno.test("calibrate() with merged inputs follows the published data flow", async () => {
  const tracks = inputFor("weights", { epochs: 1 }), fused = inputFor("weights", { epochs: 1, inputs: "fused" });
  await calibrate(tracks);
  await calibrate(fused);
  // The first block sees the same inputs either way, the second does not.
  assertEquals(bytesOf(await fused.store.load(1)), bytesOf(await tracks.store.load(1)));
  assert(bytesOf(await fused.store.load(2)).join() !== bytesOf(await tracks.store.load(2)).join());
});

Deno.test("measureSensitivities() gives every site a loss that falls with its width", async () => {
  const input = inputFor("weights", { epochs: 1 }), load = await calibrate(input);
  const found = await measureSensitivities({ ...input, load, tokens: 16, report: () => {} });
  assertEquals(Object.keys(found).length, 14);
  for (const losses of Object.values(found)) {
    assert(Object.values(losses).every((loss) => loss >= 0));
    assert((losses[2] ?? 0) > (losses[8] ?? 0));
  }
});

Deno.test("measuring gives the same when the weights of one call are held at a time and few paths walk together, and frees everything", async () => {
  const input = inputFor("weights", { epochs: 1 }), load = await calibrate(input);
  const { backend, alive } = countingBackend(input.programs.backend), before = alive.size;
  const measuring = { ...input, load, programs: createPrograms(backend), tokens: 16, report: () => {} };
  const whole = await measureSensitivities(measuring),
    single = await measureSensitivities({ ...measuring, heldBytes: 0 }),
    few = await measureSensitivities({ ...measuring, pathBytes: 0 });
  assertEquals(single, whole);
  assertEquals(few, whole);
  const sites = Object.keys(whole), allocations = ["2", "8"].map((digit) => digit.repeat(sites.length));
  const losses = await measureAllocations(measuring, sites, allocations);
  for (const bound of [{ heldBytes: 0 }, { pathBytes: 0 }]) {
    assertEquals(await measureAllocations({ ...measuring, ...bound }, sites, allocations), losses);
  }
  assertEquals(alive.size, before);
});

Deno.test("measureFrontier() keeps allocations measured as a whole: never worse than a uniform width of the same budget", async () => {
  const input = inputFor("weights", { epochs: 1 }), load = await calibrate(input);
  const measuring = { ...input, load, tokens: 16, report: () => {} }, found = await measureSensitivities(measuring);
  const items = Object.entries(found).map(([site, loss]) => ({ site, parameters: 64, loss }));
  const { sites, points } = await measureFrontier(measuring, { items });
  // The search looks at two of the four sequences, the final at the others.
  const searched = measuredSequences(measuring).length, final = measuring.sequences.slice(searched);
  assertEquals([searched, final.length], [2, 2]);
  const uniform = await measureAllocations(
    { ...measuring, sequences: final },
    sites,
    ["2", "3", "4", "8"].map((digit) => digit.repeat(sites.length)),
  );
  for (const [i, width] of [2, 3, 4, 8].entries()) {
    assert((lookUp({ points }, width)?.loss ?? Infinity) <= (uniform[i] ?? 0) + 1e-12, `${width} bits`);
  }
  points.slice(1).forEach(({ meanBits, loss }, i) => {
    assert(meanBits > (points[i]?.meanBits ?? 0) && loss < (points[i]?.loss ?? 0));
  });
});

Deno.test("raceMixtures() learns the better of two mixtures to the end, with values that nothing else uses", async () => {
  const input = inputFor("weights", { epochs: 8, refine: 1 }), load = await calibrate(input);
  const { store: begun, report: _, ...given } = { ...input, load },
    sites = modelSites(input.elastic).map(({ name }) => name);
  const before = await bytesOfAll(begun),
    measuring = { ...given, store: begun, tokens: 16, sequences: input.sequences.slice(2) };
  const candidateOf = (digitOf: (i: number) => number) => {
    const widths = sites.map((_, i) => digitOf(i)).join("");
    return {
      mixture: Object.fromEntries(sites.map((site, i) => [site, digitOf(i)])),
      point: { meanBits: 3, loss: NaN, widths },
      store: memoryStore(),
      trial: memoryStore(),
    };
  };
  const lossOf = async ({ point }: Candidate, store?: CallStore): Promise<number> => {
    const input = store ? { ...measuring, store: overlaid(begun, store) } : measuring;
    return (await measureAllocations(input, sites, [point.widths]))[0] ?? NaN;
  };
  const race = async (...budgets: Candidate[][]) => {
    const steps: number[] = [], settings = { ...input.settings, measureTokens: 16 };
    const report = (done: number, all: number) => steps.push(done / all);
    return { ...await raceMixtures({ ...given, settings, begun, sites, report }, budgets), steps: new Set(steps) };
  };

  const alone = candidateOf((i) => i % 3 === 0 ? 4 : 2), shared = await lossOf(alone), one = await race([alone]);
  assertEquals([one.learned, one.steps], [1, new Set([0])]);
  const [loss = NaN] = [...one.points.values()].map((point) => point.loss);
  assert(loss < shared, `${loss} after, ${shared} before`);
  assertEquals(await lossOf(alone, alone.store), loss);
  // It has clips and adapters of its own widths alone, and what all widths share is as it was.
  for (const [index, { prefix }] of input.elastic.calls.entries()) {
    const names = (await alone.store.load(index) ?? []).map(({ name }) => name);
    for (const name of names) {
      const [, site = "", width = ""] = /^(.*)\.(?:clip\.(?:high|low)\.|adapter\.)(\d)/.exec(name) ?? [];
      assertEquals([name.startsWith(prefix), String(alone.mixture[site])], [true, width], name);
    }
    assertEquals(names.length > 0, index === 1 || index === 2);
  }

  const first = candidateOf((i) => i % 3 === 0 ? 4 : 2), second = candidateOf((i) => i % 3 === 0 ? 2 : 4);
  const two = await race([first, second], [second, first], []);
  assertEquals([two.learned, two.points.size], [3, 1]);
  const [winner, loser] = two.points.has(first) ? [first, second] : [second, first];
  assert(await lossOf(winner, winner.trial) <= await lossOf(loser, loser.trial));
  assertEquals(await bytesOfAll(loser.store), [[], [], [], []]);
  assertEquals(await bytesOfAll(begun), before);

  // What diverges has no part in it.
  const lost = candidateOf((i) => i % 2 === 0 ? 4 : 3),
    settings = { ...input.settings, adapterRate: 1e38, measureTokens: 16 };
  const none = await raceMixtures({ ...given, settings, begun, sites }, [[lost]]);
  assertEquals([none.learned, none.points.size], [1, 0]);
  await assertRejects(
    () => calibrate({ ...inputFor("weights"), settings, store: memoryStore() }),
    DivergedError,
    "a calibration that converges but found a loss of NaN at step",
  );
});

Deno.test("measureAllocations() quantizes activations as wide as the widest weight that reads them, as deployed models do", async () => {
  const sequences = SEQUENCES.slice(3), [ids = new Int32Array()] = sequences;
  const input = { ...inputFor("activations", { epochs: 1 }), sequences }, load = await calibrate(input);
  const { elastic: module, recipe, programs: { backend } } = input, runner = createRunner(backend);
  const source: ElasticSource = {
    name: "calibrated",
    runner,
    module,
    scheme: recipe.scheme,
    sites: modelSites(module),
    widths: recipe.bitGroups.flat(),
    contextLimit: ids.length,
    load: async (call, leaves) => {
      const stored = new Map(
        (await input.store.load(module.calls.indexOf(call)))?.map((tensor) => [tensor.name, tensor.values]),
      );
      return Object.fromEntries([...leaves].map(([name, type]) => [
        name,
        backend.upload(type, stored.get(call.prefix + name) as HostArray),
      ]));
    },
    release: freeTensors(runner),
  };
  const measuring = { ...input, load, tokens: ids.length, report: () => {} }, bench = await openBench(measuring);
  const weights = source.sites.filter(({ role }) => role === "weight");
  const programs = programCache(), symbols = { B: 1, T: ids.length };
  for (const widthOf of [() => 4, () => 8, (i: number) => 4 + i % 5]) {
    const widths = Object.fromEntries(weights.map(({ name }, i) => [name, widthOf(i)]));
    const activations = source.sites.filter(({ role }) => role === "activation").map(({ name, readers = [] }) =>
      [name, Math.max(...readers.map((reader) => widths[reader] ?? 0))] as const
    );
    const config = { ...widths, ...Object.fromEntries(activations) };
    // From the exact embeddings on: those of deployed models are rounded.
    const values = new Map(Object.entries(await bench.forward(0, {}, bench.start)));
    for (const call of module.calls.slice(1, -1)) {
      await withCall({ source, config }, programs, call, async ({ step, parameters }) => {
        (await prepareWalk(runner, [{ call, graph: step, parameters }], symbols))(values);
      });
    }
    const [found = NaN] = await measureAllocations(measuring, Object.keys(widths), [Object.values(widths).join("")]);
    assertAlmostEquals(found, await bench.divergence(Object.fromEntries(values)), 1e-7);
    assert(found > 1e-6);
  }
  bench.release();
});

Deno.test("again() gives what preparing from the start gives, and touches only what the changed scale is part of", async () => {
  const { programs, elastic, load } = inputFor("weights", {}, { scaleColumns: true }), { backend } = programs;
  const call = elastic.calls.find(({ function: name }) => name === "block") as Call;
  const changed = "mlp.down.input.scale";
  let factor = 1;
  const scaled: LoadParameter = async (name, type) =>
    name.endsWith(".scale")
      ? new Float32Array(sizeOf(type.shape)).map((_, i) => name === call.prefix + changed ? factor + i / 8 : 1)
      : await load(name, type);
  const valuesOf = async (held: Readonly<Record<string, Tensor>>) => {
    const values: Record<string, readonly number[]> = {};
    for (const [name, tensor] of Object.entries(held)) values[name] = [...await backend.download(tensor)];
    return values;
  };
  const pool = createPool(backend), input = { programs, load: scaled };
  const { held, again } = await prepareCall(input, elastic, call, pool), before = await valuesOf(held);
  factor = 2;
  await again(new Set([changed]));
  const after = await valuesOf(held);
  assertEquals(after, await valuesOf((await prepareCall(input, elastic, call, pool)).held));
  const moved = Object.keys(after).filter((name) => String(after[name]) !== String(before[name]));
  assert(moved.length > 0 && moved.every((name) => /^mlp\.(down|up)\./.test(name)), String(moved));
  pool.release();
});

Deno.test("predictMixtures() keeps to every budget, gives sensitive sites more, and calibrate() goes on from it", async () => {
  const input = inputFor("weights", { mixtures: 1 }), rehearsal = memoryStore(), asked: number[] = [];
  const [first, rest] = rehearsalSettings(input.settings);
  assertEquals([first.epochs, rest.epochs, first.mixtures], [1, 5, 0]);
  assertEquals([isRehearsed(input.settings), isRehearsed({ ...input.settings, epochs: 1 })], [true, false]);
  const predicted = mixturesOf(await predictMixtures({ ...input, settings: first, store: rehearsal }));
  const sites = modelSites(input.elastic), weights = sites.filter(({ role }) => role === "weight");
  for (const bits of [2, 2.5, 3, 4.25, 8]) {
    const config = predicted(bits);
    assertEquals(Object.keys(config).sort(), weights.map(({ name }) => name).sort());
    assert(meanBits(config, sites) <= bits + 1e-9, `${meanBits(config, sites)} of ${bits} bits`);
  }
  assertEquals(new Set(Object.values(predicted(2))), new Set([2]));
  assert(new Set(Object.values(predicted(3))).size > 1, "a mixture of 3 bits");
  const mixtureOf = (bits: number) => {
    asked.push(bits);
    return predicted(bits);
  };
  await calibrate({ ...input, settings: rest, begun: rehearsal, mixtureOf });
  assert(asked.includes(3) && asked.includes(3.5), "budgets at and around widths");

  // Without a learning rate it ends with what it began with: scales, clips and the codes of factors.
  const still = memoryStore(), settings = { ...rest, epochs: 1, clipRate: 0, adapterRate: 0 };
  await calibrate({ ...input, settings, begun: rehearsal, store: still });
  const kept = async (store: CallStore) =>
    bytesOf((await store.load(1))?.filter(({ name }) => !/adapter.*scale$/.test(name)));
  assertEquals(await kept(still), await kept(rehearsal));
});
