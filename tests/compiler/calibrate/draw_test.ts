import { assert, assertEquals } from "@std/assert";
import { widthsAt } from "../../../compiler/calibrate/block_programs.ts";
import { type Draw, drawWidths, takesPart } from "../../../compiler/calibrate/draw.ts";
import { defaultRecipe, type Track } from "../../../compiler/recipe.ts";
import { random } from "../../../ir/random.ts";
import { eachWidth, type LocalWidths, sitesOf } from "../../../ir/sites.ts";
import type { Width } from "../../../ir/types.ts";
import { quantizableBlock } from "../../support/quantized_block.ts";

const block = quantizableBlock(), sites = sitesOf(block);

function draws(
  track: Track,
  widths: readonly Width[],
  changes: Partial<Pick<Draw, "weightOnly" | "mixtures" | "mixtureOf">> = {},
): readonly LocalWidths[] {
  const recipe = defaultRecipe(track, 0), rng = random(0, "draws");
  const uniform = (width: Width) => widthsAt(block, recipe, width);
  const draw: Draw = { widths, sites, recipe, uniform, mixtures: 0, weightOnly: 0.5, ...changes };
  return Array.from({ length: 400 }, () => drawWidths(draw, rng));
}

/** All weights at one width, but for these. */
const weightsAt = (width: number, others: LocalWidths): LocalWidths =>
  Object.fromEntries(
    sites.filter(({ role }) => role === "weight").map(({ name }) => [name, others[name] ?? width]),
  );

const valuesOf = (
  widths: LocalWidths,
  role: string,
): readonly number[] => [...new Set(sites.filter((site) => site.role === role).map(({ name }) => widths[name] ?? 16))];

Deno.test("takesPart() spreads a group's steps evenly over batches, by its narrowest width", () => {
  const every = { ...eachWidth(() => 1), 5: 4, 7: 12 }, batches = 24, epochs = 12;
  const stepsOf = (widths: readonly Width[]) =>
    Array.from(
      { length: batches },
      (_, batch) =>
        Array.from({ length: epochs }, (_, epoch) => takesPart(widths, { batch, epoch, every })).filter(Boolean).length,
    );
  for (const width of [4, 5, 7] as const) assertEquals(stepsOf([width]), Array(batches).fill(epochs), "alone in all");
  assertEquals(stepsOf([6, 5]), Array(batches).fill(epochs / 4));
  assertEquals(stepsOf([8, 7]), Array(batches).fill(epochs / 12));
});

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
  assert(draws("both", [4], { weightOnly: 1 }).every((widths) => valuesOf(widths, "activation")[0] === 16));
  assert(draws("both", [4], { weightOnly: 0 }).every((widths) => valuesOf(widths, "activation")[0] !== 16));
});

Deno.test("drawWidths() of one track quantizes activations always or never", () => {
  for (const widths of draws("weights", [4])) assertEquals(valuesOf(widths, "activation"), [16]);
  for (const widths of draws("activations", [5])) assertEquals(valuesOf(widths, "activation"), [5]);
});

Deno.test("drawWidths() takes part of its draws from mixtures of about as many bits as the width", () => {
  const asked: number[] = [], wanted = { "mlp.up.weight": 2, "attention.value.weight": 4 };
  const mixtureOf = (bits: number) => {
    asked.push(bits);
    return weightsAt(3, wanted);
  };
  const drawn = draws("weights", [3], { mixtures: 0.4, mixtureOf });
  const mixed = drawn.filter((widths) => widths["mlp.up.weight"] === 2);
  assert(Math.abs(mixed.length / drawn.length - 0.4) < 0.08);
  assertEquals(asked.length, mixed.length);
  for (const widths of mixed) assertEquals(weightsAt(0, widths), weightsAt(3, wanted));
  assertEquals([...new Set(asked)].sort(), [2.5, 2.75, 3, 3.25, 3.5]);
  assert(Math.abs(asked.filter((bits) => bits === 3).length / asked.length - 3 / 7) < 0.12);
  assertEquals(
    draws("weights", [3], { mixtures: 1 }).flatMap((widths) => valuesOf(widths, "weight")).some((w) => w !== 3),
    false,
  );
});

Deno.test("drawWidths() goes as near to the mixture as widths have train programs in common", () => {
  // Ranks of 2 to 4 bits are equal, those of more bits are others.
  const mixtureOf = () => weightsAt(3, { "mlp.up.weight": 6, "mlp.down.weight": 2 });
  for (const widths of draws("weights", [3], { mixtures: 1, mixtureOf })) {
    assertEquals([widths["mlp.up.weight"], widths["mlp.down.weight"], widths["mlp.gate.weight"]], [4, 2, 3]);
  }
  // Fine grids draw none.
  for (const widths of draws("weights", [6, 5], { mixtures: 1, mixtureOf })) {
    assertEquals(new Set(valuesOf(widths, "weight")).size, 1);
  }
});
