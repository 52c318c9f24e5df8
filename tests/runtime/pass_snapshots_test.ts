import { assertEquals } from "@std/assert";
import { parseBitSpec } from "../../compiler/bit_spec.ts";
import { configOf } from "../../compiler/bit_spec.ts";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import { modelSites } from "../../compiler/model_sites.ts";
import { elasticModule } from "../../compiler/pipeline.ts";
import { defaultRecipe } from "../../compiler/recipe.ts";
import { functionOf } from "../../ir/module.ts";
import { printModule } from "../../ir/module_text.ts";
import { print } from "../../ir/print.ts";
import { localWidths } from "../../ir/sites.ts";
import { deploySnapshots, elasticSnapshots } from "../../runtime/pass_snapshots.ts";
import { createPrograms } from "../../runtime/programs.ts";
import { VARIANTS } from "../support/random_decoder.ts";

const start = decoderModule(VARIANTS["tied, grouped queries"]);

Deno.test("elasticSnapshots() ends with the module that is calibrated", () => {
  for (const track of ["weights", "activations"] as const) {
    const snapshots = [...elasticSnapshots(start, defaultRecipe(track, 0))], [last] = snapshots.slice(-1);
    assertEquals(snapshots[0]?.[0], "start");
    assertEquals(last?.[1] && printModule(last[1]), printModule(elasticModule(start, defaultRecipe(track, 0))));
  }
});

Deno.test("deploySnapshots() ends with the programs that sessions run, one function per combination of widths", () => {
  for (const [track, bits] of [["weights", "3"], ["activations", "w4a8kv4"]] as const) {
    const recipe = defaultRecipe(track, 0), module = elasticModule(start, recipe), sites = modelSites(module);
    const config = { ...configOf(parseBitSpec(bits), sites), "layers.1.mlp.down.weight": 8 };
    const programs = createPrograms(module, recipe.scheme, { cache: true, halves: true, stack: true }),
      last = [...deploySnapshots(module, config, recipe.scheme).values()].at(-1);
    assertEquals(last?.calls.map((call) => call.function), ["embed", "block", "block 2", "head"]);
    for (const [i, call] of module.calls.entries()) {
      const own = last?.calls[i];
      assertEquals(
        own && last && print(functionOf(last, own)),
        print(programs.step(call, localWidths(config, call.prefix))),
      );
    }
  }
});
