/** Rotations where rounding to nearest gains by them: for models with outliers in some columns. */
import { assert, assertEquals } from "@std/assert";
import { openReference } from "../../backends/reference/backend.ts";
import { createRunner } from "../../backends/runner.ts";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import { defaultRecipe } from "../../compiler/recipe.ts";
import { random } from "../../ir/random.ts";
import { chooseRotation } from "../../runtime/choose_rotation.ts";
import { preparedSource } from "../../runtime/checkpoint_source.ts";
import { randomParameters, VARIANTS } from "../support/random_decoder.ts";

const SEQUENCES = [9, 12, 30].map((length, row) =>
  Int32Array.from({ length }, () => random(row, "choose rotation").int(17))
);

/** What is found for a random decoder whose linears have one column `outlier` times as large as the others. */
function findingOf(outlier: number) {
  const config = VARIANTS["untied, heads of 8"], module = decoderModule(config), load = randomParameters(4);
  const runner = createRunner(openReference());
  return chooseRotation({
    recipe: defaultRecipe("weights", 1),
    open: (recipe) =>
      preparedSource(runner, {
        name: "random",
        module,
        recipe,
        contextLimit: config.maxPositions,
        parameter: async (name, type) => {
          const values = Float32Array.from(await load(name, type)), columns = Number(type.shape.at(-1));
          const grows = type.shape.length === 2 && /layers/.test(name);
          return grows ? values.map((value, i) => i % columns === 3 ? value * outlier : value) : values;
        },
      }),
    sequences: SEQUENCES,
    tokens: 100,
  });
}

Deno.test("chooseRotation() rotates a model with outliers, and no other", async () => {
  const found = await findingOf(12), plain = await findingOf(1);
  assert(found.ratio < 0.8 && found.rotate, `${found.ratio}`);
  assert(plain.ratio > found.ratio);
  assertEquals(plain.rotate, plain.ratio < 0.97);
});
