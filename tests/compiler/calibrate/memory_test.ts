import { assert } from "@std/assert";
import { openWasm } from "../../../backends/wasm/backend.ts";
import { calibrate } from "../../../compiler/calibrate/calibrate.ts";
import { createPrograms } from "../../../compiler/calibrate/programs.ts";
import { defaultSettings } from "../../../compiler/calibrate/settings.ts";
import { memoryStore } from "../../../compiler/calibrate/store.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { elasticModule, structureModule } from "../../../compiler/pipeline.ts";
import { defaultRecipe } from "../../../compiler/recipe.ts";
import { random } from "../../../ir/random.ts";
import { randomParameters, VARIANTS } from "../../support/random_decoder.ts";

const CONFIG = { ...VARIANTS["tied, grouped queries"], hiddenSize: 32, intermediateSize: 48, heads: 4, kvHeads: 2 };

/** Peak bytes that a calibration of some layers plans and takes on the backend. */
async function peakOf(layers: number) {
  const config = { ...CONFIG, layers }, module = decoderModule(config), recipe = defaultRecipe("weights", 1);
  const parameters = randomParameters(3);
  await using backend = await openWasm({ threads: 1 });
  const sequences = Array.from({ length: 4 }, (_, i) => {
    const rng = random(i, "ids");
    return Int32Array.from({ length: 32 }, () => rng.int(config.vocabSize));
  });
  await calibrate({
    programs: createPrograms(backend),
    structure: structureModule(module, recipe),
    elastic: elasticModule(module, recipe),
    recipe,
    settings: { ...defaultSettings("weights"), tokens: 32, epochs: 1 },
    load: async (name, type) => Float32Array.from(await parameters(name, type)),
    sequences,
    seed: 5,
    store: memoryStore(),
  });
  const memory = backend.memory?.();
  if (!memory) throw new Error("Expected the backend to count its memory");
  return memory;
}

Deno.test("a calibration holds one block at a time: twice the layers take the same memory", async () => {
  const two = await peakOf(2), four = await peakOf(4);
  assert(Math.abs(four.allocated - two.allocated) <= 0.01 * two.allocated, `${two.allocated}, ${four.allocated} bytes`);
  for (const { planned, allocated } of [two, four]) {
    assert(allocated >= planned && allocated <= 1.05 * planned, `planned ${planned}, allocated ${allocated}`);
  }
});
