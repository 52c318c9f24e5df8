import { assert, assertEquals } from "@std/assert";
import { configOf, parseBitSpec } from "../../compiler/bit_spec.ts";
import type { DecoderConfig } from "../../compiler/frontends/config.ts";
import { decoderModule } from "../../compiler/frontends/decoder.ts";
import { modelSites } from "../../compiler/model_sites.ts";
import { elasticModule } from "../../compiler/pipeline.ts";
import { defaultRecipe } from "../../compiler/recipe.ts";
import {
  createCatalogue,
  type KernelCatalogue,
  type PlannedStep,
  planSteps,
  usualSizes,
} from "../../runtime/step_plan.ts";
import { openTestGpu, shaderErrors } from "../gpu.ts";
import { VARIANTS } from "../support/random_decoder.ts";
import { tintCheck } from "../tint.ts";

/** Large enough that nothing is small. */
const WIDE: DecoderConfig = {
  ...VARIANTS["untied, heads of 8"],
  hiddenSize: 256,
  intermediateSize: 512,
  heads: 4,
  kvHeads: 4,
  headDim: 64,
};

function plan(
  bits: string,
  changes: Readonly<Record<string, number>> = {},
  decoder: DecoderConfig = VARIANTS["all biases, width 20"],
): { steps: readonly PlannedStep[]; catalogue: KernelCatalogue } {
  const recipe = defaultRecipe(bits.includes("a") ? "activations" : "weights", 0), catalogue = createCatalogue();
  const module = elasticModule(decoderModule(decoder), recipe);
  const config = { ...configOf(parseBitSpec(bits), modelSites(module)), ...changes };
  return { steps: planSteps({ module, scheme: recipe.scheme }, config, usualSizes(32), catalogue), catalogue };
}

Deno.test("planSteps() plans one program per function, widths and number of tokens", () => {
  const uniform = plan("4").steps.map((step) => [step.function, step.calls, step.tokens]);
  const sizes = [1, 128].flatMap((
    tokens,
  ) => [["embed", [""], tokens], ["block", ["layers.0.", "layers.1."], tokens], ["head", [""], tokens]]);
  assertEquals(uniform, sizes);
  const mixed = plan("4", { "layers.1.mlp.down.weight": 3 }).steps.filter((step) => step.function === "block");
  assertEquals(mixed.map(({ calls, tokens }) => [calls, tokens]), [[["layers.0."], 1], [["layers.1."], 1], [[
    "layers.0.",
  ], 128], [["layers.1."], 128]]);
});

Deno.test("planSteps() names only kernels of the catalogue, and shares those with equal texts", () => {
  const { steps, catalogue } = plan("4", { "layers.1.mlp.down.weight": 3 }),
    names = catalogue.kernels.map(({ name }) => name);
  assertEquals(new Set(names).size, names.length);
  assertEquals(new Set(catalogue.kernels.map(({ wgsl }) => wgsl)).size, names.length);
  assertEquals(new Set(steps.flatMap(({ kernels }) => kernels)), new Set(names));
  // The blocks differ in one kernel.
  const [first, second] = steps.filter((step) => step.function === "block" && step.tokens === 1);
  assertEquals(first?.kernels.filter((name) => !second?.kernels.includes(name)).length, 1);
});

Deno.test("planSteps() takes about ten kernels per block and token, even on the least of devices", () => {
  // A quantized cache takes two more where eight buffers are all, and another one for prompts; so do grouped queries and biases.
  const most = { "2": 10, "4": 10, "8": 10, w4a4: 10, w8a8: 10, w4a4kv4: 12 };
  const shapes: readonly (readonly [DecoderConfig, number])[] = [
    [WIDE, 0],
    [{ ...WIDE, heads: 8, kvHeads: 2, headDim: 32 }, 1],
    [{ ...WIDE, attentionBias: { qkv: true, output: false } }, 1],
  ];
  for (const [decoder, more] of shapes) {
    for (const [bits, kernelsAtMost] of Object.entries(most)) {
      for (const { function: name, tokens, kernels } of plan(bits, {}, decoder).steps) {
        const allowed = kernelsAtMost + more + (tokens > 1 && kernelsAtMost > 10 ? 1 : 0);
        assert(name !== "block" || kernels.length <= allowed, `${bits} bits, ${tokens} tokens, ${allowed}: ${kernels}`);
      }
    }
  }
});

Deno.test("planSteps() gives every intermediate value its place for as long as it is alive", () => {
  for (const { kernels, memory: { arenaBytes, entries } } of plan("w4a4kv4").steps) {
    for (const a of entries) {
      assert(a.offset + a.bytes <= arenaBytes && a.from <= a.to && a.to < kernels.length);
      const clash = entries.find((b) =>
        b !== a && a.from <= b.to && b.from <= a.to && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
      );
      assertEquals(clash, undefined);
    }
  }
});

for (const bits of ["3", "w4a8kv4"]) {
  Deno.test(`naga and Tint accept every kernel of ${bits}`, async () => {
    const { catalogue: { kernels } } = plan(bits), gpu = await openTestGpu();
    for (const { name, wgsl } of kernels) {
      if (gpu) assertEquals(await shaderErrors(gpu, wgsl), [], `naga: ${name}`);
      assertEquals(await tintCheck(wgsl) ?? [], [], `Tint: ${name}`);
    }
    gpu?.destroy();
  });
}
