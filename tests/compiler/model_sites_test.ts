/** What of a model no width changes, in bytes. */
import { assertEquals } from "@std/assert";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import { unquantizedBytes } from "../../compiler/model_sites.ts";
import { elasticModule } from "../../compiler/pipeline.ts";
import { defaultRecipe, masterOf } from "../../compiler/recipe.ts";
import { roundToNearestModule } from "../../compiler/round_to_nearest.ts";
import { VARIANTS } from "../support/random_decoder.ts";

Deno.test("unquantizedBytes() counts tables as they are stored, tied ones once, norms and rotary tables", () => {
  const base = defaultRecipe("weights", 0), recipe = { ...base, scaleColumns: false };
  const halves = { ...recipe, scheme: { ...recipe.scheme, master: masterOf("fp16") } };
  for (const [name, tables] of [["tied, grouped queries", 1], ["untied, heads of 8", 2]] as const) {
    const config = VARIANTS[name],
      { vocabSize: V, hiddenSize: h, layers } = config,
      rotary = config.maxPositions * config.headDim,
      module = decoderModule(config);
    const norms = (2 * layers + 1) * h + 2 * rotary, tenBits = V * h + V * h / 4;
    assertEquals(unquantizedBytes(elasticModule(module, recipe)), {
      file: tables * (tenBits + 2 * V) + 2 * norms,
      memory: tables * (tenBits + 4 * V) + 4 * norms,
    });
    assertEquals(unquantizedBytes(elasticModule(module, halves)), {
      file: tables * 2 * V * h + 2 * norms,
      memory: tables * 2 * V * h + 4 * norms,
    });
    assertEquals(unquantizedBytes(roundToNearestModule(module, recipe)).memory, tables * 4 * V * h + 4 * norms);
  }
});
