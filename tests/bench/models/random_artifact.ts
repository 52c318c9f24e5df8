/** Switches as users see them: of a session that reads a large artifact of random weights from its file, which the system keeps in memory. */
import { openWasm } from "../../../backends/wasm/backend.ts";
import { writeArtifact } from "../../../compiler/artifact/artifact.ts";
import { storedTypes } from "../../../compiler/artifact/contents.ts";
import type { DecoderConfig } from "../../../compiler/frontends/config.ts";
import { localFolder } from "../../../compiler/frontends/source.ts";
import { defaultRecipe } from "../../../compiler/recipe.ts";
import type { Call } from "../../../ir/module.ts";
import { concreteShape } from "../../../ir/types.ts";
import { openSession } from "../../../runtime/session.ts";
import { configJson } from "../../support/tiny_artifact.ts";
import { type BenchLine, benchLine, medianOf } from "../report.ts";
import { randomSource } from "./random_source.ts";

const ROUNDS = 5, WIDTHS = ["8", "4"] as const;

/** Writes the random model as an artifact. */
async function writeRandomArtifact(folder: string, config: DecoderConfig): Promise<void> {
  await using backend = await openWasm({ threads: 1 });
  const recipe = defaultRecipe("weights", 0), { module, load } = randomSource(backend, config, "weights");
  const tensors = Array.from(storedTypes(module, recipe), ([name, type]) => ({
    name,
    dtype: type.dtype,
    shape: concreteShape(type.shape),
    values: async () => {
      const { [name]: tensor } = await load({ prefix: "" } as Call, new Map([[name, type]]));
      if (!tensor) throw new Error(`Expected a random tensor "${name}" but found none`);
      return await backend.download(tensor);
    },
  }));
  const provenance = { seed: 0, dataSha256: null, version: "bench", settings: {} };
  await writeArtifact(
    `${folder}/model.safetensors`,
    { module, recipe, config: { ...configJson(config) }, provenance },
    tensors,
  );
}

/** Times switches between two widths, a line for each. */
export async function benchFileSwitches(
  config: DecoderConfig,
  model: string,
  threads: number,
  report: (line: BenchLine) => void,
): Promise<void> {
  const path = await Deno.makeTempDir();
  try {
    await writeRandomArtifact(path, config);
    await using backend = await openWasm({ threads });
    for (const resident of [false, true]) {
      await using session = await openSession({ folder: await localFolder(path), backend, precision: "4", resident });
      const times = new Map(WIDTHS.map((width) => [width, [] as number[]]));
      for (let round = -1; round < ROUNDS; round++) {
        for (const [width, own] of times) {
          const before = performance.now();
          await session.use(width);
          if (round >= 0) own.push((performance.now() - before) / 1000);
        }
      }
      for (const [width, own] of times) {
        const what = `switch of the whole model to ${width} bits${resident ? ", masters resident" : " from its file"}`;
        report(
          benchLine({ name: `${what}, ${model}`, backend: backend.name, threads, median: medianOf(own), unit: "s" }),
        );
      }
    }
  } finally {
    await Deno.remove(path, { recursive: true });
  }
}
