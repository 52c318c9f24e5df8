import { assert, assertEquals, assertThrows } from "@std/assert";
import { parseBitSpecs, withPins } from "../../compiler/bit_spec.ts";
import { sizeModelOf, weightBytes } from "../../compiler/budget.ts";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import { modelSites } from "../../compiler/model_sites.ts";
import { parsePin } from "../../compiler/pins.ts";
import { elasticModule } from "../../compiler/pipeline.ts";
import { defaultRecipe, type Track } from "../../compiler/recipe.ts";
import { UserError } from "../../ir/errors.ts";
import { checkAsked, checkSettings, tableSettings, trackOf } from "../../runtime/precision_table.ts";
import { VARIANTS } from "../support/random_decoder.ts";

const table = (bits: string): string => {
  const specs = parseBitSpecs(bits);
  return tableSettings(specs, defaultRecipe(trackOf(specs), 0)).map(({ text }) => text).join(" ");
};

Deno.test("trackOf() chooses activations as soon as one setting quantizes them or the cache, and both beside fewer than 4 bits", () => {
  const track = (bits: string) => trackOf(parseBitSpecs(bits));
  const expected = {
    weights: ["2-8", "mixed", "16", "w3"],
    activations: ["4,w4a4", "w4kv8", "mixed@5aw", "w16a8"],
    both: ["w2a8", "w4a4,3", "w3kv4", "w8a8,mixed", "mixed@3.5aw"],
  };
  for (const [name, texts] of Object.entries(expected)) {
    for (const text of texts) assertEquals(track(text), name, text);
  }
});

Deno.test("tableSettings() shows full precision, all widths from the highest, and what was asked for, in the user's words", () => {
  assertEquals(table("mixed"), "16 8 7 6 5 4 3 2 mixed");
  assertEquals(table("2-8"), "16 8 7 6 5 4 3 2");
  assertEquals(table("w4,mixed@2.5"), "16 8 7 6 5 w4 3 2 mixed@2.5");
  assertEquals(table("w4a4,w4a8kv4,4"), "16 w8a8 w7a7 w6a6 w5a5 w4a4 w4a8kv4 4");
});

Deno.test("a calibration for both tracks serves and shows both", () => {
  const recipe = defaultRecipe("both", 0), specs = parseBitSpecs("2,w4a8kv4,w2a8,mixed@2.5");
  checkSettings(specs, recipe);
  assertEquals(
    tableSettings(specs, recipe).map(({ text }) => text).join(" "),
    "16 8 7 6 5 4 3 2 w8a8 w7a7 w6a6 w5a5 w4a4 w4a8kv4 w2a8 mixed@2.5",
  );
});

Deno.test("checkAsked() refuses what no calibration could serve, and nothing else", () => {
  const recipe = defaultRecipe("weights", 0),
    module = elasticModule(decoderModule(VARIANTS["tied, grouped queries"]), recipe);
  const check = (text: string, pins: readonly string[], countsSites: boolean, own = recipe) =>
    checkAsked(withPins(parseBitSpecs(text), pins.map(parsePin)), module, own, countsSites);
  // Down projections have a fifth of the weights, and are one of seven sites.
  check("mixed@2.9", ["*down*=8"], true);
  assertThrows(() => check("mixed@2.9", ["*down*=8"], false), UserError, "mean bits");
  // Keys have few weights.
  check("mixed@2.5", ["*.key.weight=8"], false);
  assertThrows(() => check("mixed@2.5", ["*.key.weight=8"], true), UserError, "at least 2.86 mean bits");
  // Scales of small groups weigh more than a bit.
  const groupSizes = { ...recipe.scheme.groupSizes, 2: 8 },
    small = { ...recipe, scheme: { ...recipe.scheme, groupSizes } };
  const sites = modelSites(module), size = sizeModelOf(module, small.scheme);
  const bytes = (width: number) =>
    weightBytes(Object.fromEntries(sites.map(({ name }) => [name, width])), sites, small.scheme, "memory") +
    size.unquantized.memory;
  assert(bytes(3) < bytes(2));
  check(`mixed@${bytes(3)}B/memory`, [], false, small);
  assertThrows(() => check(`mixed@${bytes(3) - 1}B/memory`, [], false, small), UserError, `at least ${bytes(3)} bytes`);
  assertThrows(() => check("mixed@2.5", ["*=16"], false), UserError, "pin fewer sites");
});

Deno.test("checkAsked() refuses pins to widths that a site cannot have", () => {
  const check = (track: Track, text: string, ...pins: readonly string[]) => {
    const recipe = defaultRecipe(track, 0),
      module = elasticModule(decoderModule(VARIANTS["all biases, width 20"]), recipe);
    checkAsked(withPins(parseBitSpecs(text), pins.map(parsePin)), module, recipe, false);
  };
  check("both", "w4a4,mixed@3.5aw", "layers.0.*=3");
  const refused = (...given: Parameters<typeof check>) => assertThrows(() => check(...given), UserError);
  assert(refused("activations", "w4a4", "layers.0.*=3").message.includes('4, 5, 6, 7, 8 or 16 bits for "layers.0.'));
  assert(refused("both", "w4a4", "*.input=3").message.includes('"w4a4" with --pin *.input=3'));
});

Deno.test("checkSettings() refuses widths and budgets that are not calibrated", () => {
  const check = (bits: string, track = trackOf(parseBitSpecs(bits))) => () =>
    checkSettings(parseBitSpecs(bits), defaultRecipe(track, 0));
  check("2-8,mixed@2,16")();
  check("w4a4,16,mixed@4.5")();
  for (const bits of ["w4a4,3", "w3kv4", "w8a8,mixed"]) {
    check(bits)();
    assertThrows(check(bits, "activations"), UserError, "Expected 4 to 8 bits per weight beside quantized activations");
  }
});
