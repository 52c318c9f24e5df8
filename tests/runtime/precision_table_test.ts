import { assertEquals, assertThrows } from "@std/assert";
import { parseBitSpecs } from "../../compiler/bit_spec.ts";
import { defaultRecipe } from "../../compiler/recipe.ts";
import { UserError } from "../../ir/errors.ts";
import { checkSettings, tableSettings, trackOf } from "../../runtime/precision_table.ts";

const table = (bits: string): string => {
  const specs = parseBitSpecs(bits);
  return tableSettings(specs, defaultRecipe(trackOf(specs), 0)).map(({ text }) => text).join(" ");
};

Deno.test("trackOf() chooses activations as soon as one setting quantizes them or the cache", () => {
  const track = (bits: string) => trackOf(parseBitSpecs(bits));
  assertEquals(["2-8", "mixed", "16", "4,w4a4", "w4kv8", "w3"].map(track), [
    "weights",
    "weights",
    "weights",
    "activations",
    "activations",
    "weights",
  ]);
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

Deno.test("checkSettings() refuses widths and budgets that are not calibrated", () => {
  const check = (bits: string) => () =>
    checkSettings(parseBitSpecs(bits), defaultRecipe(trackOf(parseBitSpecs(bits)), 0));
  check("2-8,mixed@2,16")();
  check("w4a4,16,mixed@4.5")();
  for (const bits of ["w4a4,3", "w3kv4", "w8a8,mixed"]) {
    assertThrows(check(bits), UserError, "Expected 4 to 8 bits per weight beside quantized activations");
  }
});
