import { assert, assertEquals } from "@std/assert";
import { widthsAt } from "../../../compiler/calibrate/block_programs.ts";
import { drawWidths } from "../../../compiler/calibrate/draw.ts";
import { defaultRecipe, type Track } from "../../../compiler/recipe.ts";
import { random } from "../../../ir/random.ts";
import { type LocalWidths, sitesOf } from "../../../ir/sites.ts";
import type { Width } from "../../../ir/types.ts";
import { quantizableBlock } from "../../support/quantized_block.ts";

const block = quantizableBlock(), sites = sitesOf(block);

function draws(track: Track, widths: readonly Width[], weightOnly = 0.5, mixtures = 0): readonly LocalWidths[] {
  const recipe = defaultRecipe(track, 0), rng = random(0, "draws");
  const uniform = (width: Width) => widthsAt(block, recipe, width);
  return Array.from({ length: 400 }, () => drawWidths({ widths, sites, recipe, uniform, mixtures, weightOnly }, rng));
}

const valuesOf = (
  widths: LocalWidths,
  role: string,
): readonly number[] => [...new Set(sites.filter((site) => site.role === role).map(({ name }) => widths[name] ?? 16))];

Deno.test("drawWidths() of track both leaves half the activations alone, and covers every width of the others", () => {
  const drawn = draws("both", [3]).map((widths) => {
    assertEquals(valuesOf(widths, "weight"), [3]);
    assertEquals(valuesOf(widths, "key"), [16]);
    const [activation = 0, ...others] = valuesOf(widths, "activation");
    assertEquals(others, []);
    return activation;
  });
  const part = (width: number) => drawn.filter((other) => other === width).length / drawn.length;
  assert(Math.abs(part(16) - 0.5) < 0.08, `${part(16)} of the draws leave activations alone`);
  // At the weights' width, which for activations is at least 4, a quarter, and a fifth of another quarter.
  assert(Math.abs(part(4) - 0.3) < 0.08, `${part(4)} of the draws have 4 bits`);
  for (const width of [5, 6, 7, 8]) assert(part(width) > 0.02 && part(width) < 0.1, `${part(width)} at ${width} bits`);
});

Deno.test("drawWidths() of track both keeps to its ends", () => {
  assert(draws("both", [4], 1).every((widths) => valuesOf(widths, "activation")[0] === 16));
  assert(draws("both", [4], 0).every((widths) => valuesOf(widths, "activation")[0] !== 16));
});

Deno.test("drawWidths() of one track quantizes activations always or never, and mixes neighbours of the weights", () => {
  for (const widths of draws("weights", [4])) assertEquals(valuesOf(widths, "activation"), [16]);
  for (const widths of draws("activations", [5])) assertEquals(valuesOf(widths, "activation"), [5]);
  const mixed = draws("weights", [3], 0, 1).flatMap((widths) => valuesOf(widths, "weight"));
  assertEquals([...new Set(mixed)].sort(), [2, 3, 4]);
});
