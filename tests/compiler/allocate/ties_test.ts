import { assertAlmostEquals, assertEquals } from "@std/assert";
import { expandTies, tiedFrontier, tiedItems, tiesOf, untied } from "../../../compiler/allocate/ties.ts";
import { decoderModule } from "../../../compiler/frontends/decoder.ts";
import { modelSites } from "../../../compiler/model_sites.ts";
import { elasticModule } from "../../../compiler/pipeline.ts";
import { tinyRecipe } from "../../support/tiny_artifact.ts";
import { VARIANTS } from "../../support/random_decoder.ts";

Deno.test("tiesOf() ties queries, keys and values, and gate and up, of one block", () => {
  for (const track of ["weights", "activations"] as const) {
    const module = elasticModule(decoderModule(VARIANTS["tied, grouped queries"]), tinyRecipe(track));
    const sites = modelSites(module).filter(({ role }) => role === "weight").map(({ name }) => name);
    const names = tiesOf(module, sites).map((members) =>
      members.map((i) => sites[i]?.replace(/^layers\.\d\.|\.weight$/g, "")).sort()
    );
    const block = [["attention.key", "attention.query", "attention.value"], ["attention.output"], [
      "mlp.gate",
      "mlp.up",
    ], ["mlp.down"]];
    assertEquals(names.map((group) => group.join()).sort(), [...block, ...block].map((group) => group.join()).sort());
  }
});

Deno.test("tied items add up, and their digits are those of all members", () => {
  const items = [{ site: "a", parameters: 2, loss: { 2: 1, 3: 0.5 } }, {
    site: "b",
    parameters: 3,
    loss: { 2: 4, 3: 0.25 },
  }, {
    site: "c",
    parameters: 4,
    loss: { 2: 8, 3: 2 },
  }];
  const ties = [[0, 2], [1]];
  assertEquals(tiedItems(items, ties), [
    { site: "a+c", parameters: 6, loss: { 2: 9, 3: 2.5 } },
    { site: "b", parameters: 3, loss: { 2: 4, 3: 0.25 } },
  ]);
  // Budgets that count sites count a group as all of its own.
  for (const [weighting, counts] of [["parameters", [2, 3, 4]], ["sites", [1, 1, 1]]] as const) {
    const { sites, points } = tiedFrontier(items, { ties, weighting }),
      all = counts.reduce((sum, count) => sum + count, 0);
    assertEquals([sites, points.map(({ widths }) => widths)], [["a", "b", "c"], ["222", "232", "323", "333"]]);
    for (const { meanBits, widths } of points) {
      const bits = counts.reduce((sum, count, i) => sum + count * Number(widths[i]), 0);
      assertAlmostEquals(meanBits, bits / all, 1e-12);
    }
  }
  assertEquals(expandTies("32", ties), "323");
  assertEquals(expandTies("234", untied(["a", "b", "c"])), "234");
});
