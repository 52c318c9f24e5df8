/** Every variant of a kernel computes the same: against the interpreter of specifications, on a device, and through Tint. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import * as fc from "fast-check";
import { generateKernel } from "../../../backends/webgpu/kernel.ts";
import { type KernelTraits, PORTABLE } from "../../../backends/webgpu/traits.ts";
import { GENERAL, kernelVariants } from "../../../backends/webgpu/variants.ts";
import { openTestGpu } from "../../gpu.ts";
import { hostArray } from "../../../backends/backend.ts";
import { random } from "../../../ir/random.ts";
import { isFloat, rangeOf, sizeOf } from "../../../ir/types.ts";
import { attention, type AttentionShape } from "../../bench/gpu_specs.ts";
import { type RandomKernel, randomKernel, randomKernels } from "../../support/random_kernels.ts";
import { tintCheck } from "../../tint.ts";
import { richTraits } from "./rich_traits.ts";
import { LARGE_SIDES, randomStream, randomStreams, SMALL_SIDES } from "./random_streams.ts";
import { checkKernel, runKernel } from "./run_kernel.ts";
import { MAT_VEC } from "./specs.ts";

/** Packed products and everything else that a good device has. */
const GOOD: KernelTraits = { workgroupBytes: 32768, packedDots: true, scratch: true, halves: false };
/** The same in a browser on most hardware, whose invocations exchange registers. */
const DECLARED: KernelTraits = { ...GOOD, halves: true, subgroup: { size: 32, declared: true } };
const DRAW = fc.constantFrom<((seed: number) => RandomKernel)[]>(
  (seed) => randomStream(seed, SMALL_SIDES),
  (seed) => randomStream(seed, LARGE_SIDES),
  (seed) => randomKernel("attention", seed),
);
const SEEDS = fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 }));

Deno.test("variants of contractions with few rows compute what their specifications say", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const rich = await richTraits(device, GOOD);
  await fc.assert(
    fc.asyncProperty(
      randomStreams(SMALL_SIDES),
      fc.nat(),
      fc.constantFrom(PORTABLE, GOOD, rich),
      async (kernel, n, traits) => {
        const variants = kernelVariants(kernel.spec, traits);
        assert(variants.length > 1, "random streams can be streamed");
        await checkKernel(device, kernel, 1e-5, traits, variants[n % (variants.length - 1)]);
      },
    ),
    { numRuns: 20, seed: 7 },
  );
  device.destroy();
});

Deno.test("variants of a contraction of one round read nothing ahead", async () => {
  const device = await openTestGpu();
  if (!device) return;
  // A single group of 256 six-bit codes.
  const kernel = randomStream(3, SMALL_SIDES), variants = kernelVariants(kernel.spec, GOOD);
  assertEquals(variants.filter((name) => name.includes("ahead")), []);
  for (const variant of variants) await checkKernel(device, kernel, 1e-5, GOOD, variant);
  device.destroy();
});

Deno.test("variants of contractions with many rows compute what their specifications say", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const rich = await richTraits(device, GOOD);
  await fc.assert(
    fc.asyncProperty(
      randomStreams(LARGE_SIDES),
      fc.nat(),
      fc.constantFrom(PORTABLE, GOOD, rich),
      async (kernel, n, traits) => {
        const variants = kernelVariants(kernel.spec, traits);
        await checkKernel(device, kernel, 1e-5, traits, variants[n % variants.length]);
      },
    ),
    { numRuns: 24, seed: 9 },
  );
  device.destroy();
});

Deno.test("variants of attention agree with the interpreter, over several chunks and splits", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const rich = await richTraits(device, GOOD);
  const shapes: readonly AttentionShape[] = [
    { tokens: 1, context: 530, heads: 4, kvHeads: 2, width: 8, cache: 32 },
    { tokens: 3, context: 300, heads: 2, kvHeads: 1, width: 36, cache: 4 },
    { tokens: 70, context: 100, heads: 2, kvHeads: 1, width: 36, cache: 3 },
    { tokens: 20, context: 90, heads: 2, kvHeads: 2, width: 128, cache: 8, window: 40 },
    { tokens: 2, context: 400, heads: 2, kvHeads: 2, width: 64, cache: 8, window: 150 },
  ];
  for (const shape of shapes) {
    for (const variant of kernelVariants(attention(shape), GOOD)) {
      // Positions at the end, in the middle, and at the start, where most chunks are empty.
      for (const last of [shape.context - 1, Math.min(140, shape.context - 4), shape.tokens - 1]) {
        await checkKernel(device, filledAttention(shape, last), 1e-5, GOOD, variant);
      }
      if (variant.startsWith("threads")) {
        await checkKernel(device, filledAttention(shape, shape.context - 1), 1e-5, rich, variant);
      }
    }
  }
  device.destroy();
});

/** Attention with random values; the last query is at a position. */
function filledAttention(shape: AttentionShape, last: number): RandomKernel {
  const spec = attention(shape), draw = random(1, "decode");
  const buffers = spec.buffers.map(({ name, type }) => {
    const values = hostArray(type.dtype, sizeOf(type.shape)), codes = type.dtype.startsWith("u");
    const [, high] = codes ? rangeOf(type.dtype) : [0, 0];
    for (let i = 0; i < values.length; i++) {
      values[i] = name === "positions" ? last - shape.tokens + 1 + i : codes ? draw.int(high + 1) : draw.normal() / 8;
    }
    return values;
  });
  return { spec, buffers };
}

Deno.test("random attention has the same results in its variants", async () => {
  const device = await openTestGpu();
  if (!device) return;
  await fc.assert(
    fc.asyncProperty(randomKernels("attention"), async (kernel) => {
      const [variant] = kernelVariants(kernel.spec, GOOD);
      if (variant !== GENERAL) await checkKernel(device, kernel, 1e-5, GOOD, variant);
    }),
    { numRuns: 20, seed: 12 },
  );
  device.destroy();
});

Deno.test("the text of every variant is a function of specification and traits, and valid for Tint", async () => {
  await fc.assert(
    fc.asyncProperty(SEEDS, fc.constantFrom(PORTABLE, GOOD, DECLARED), DRAW, async (seed, traits, draw) => {
      const { spec } = draw(seed);
      for (const variant of kernelVariants(spec, traits)) {
        const kernel = generateKernel(spec, traits, variant);
        assertEquals(kernel, generateKernel(draw(seed).spec, traits, variant));
        assert(Number(/workgroup memory (\d+) bytes/.exec(kernel.text)?.[1]) <= traits.workgroupBytes, kernel.text);
        const errors = await tintCheck(kernel.text) ?? [];
        assert(errors.length === 0, `${errors.join("\n")}\n${kernel.text}`);
      }
    }),
    { numRuns: 40, seed: 8 },
  );
});

Deno.test("lanes that exchange registers add in the order of the tree in workgroup memory", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const draw = random(2, "order"),
    buffers = MAT_VEC.buffers.map(({ type }) => {
      const values = hostArray(type.dtype, sizeOf(type.shape));
      return values.map(() => isFloat(type.dtype) ? draw.normal() : draw.int(16)) as typeof values;
    });
  const rich = await richTraits(device, GOOD), { size = 1 } = rich.subgroup ?? {};
  if (size < 8) return console.warn(`SKIPPED: no eight neighbours exchange registers on this device, but ${size}`);
  const variants = kernelVariants(MAT_VEC, rich).filter((name) => name.startsWith("lanes8_"));
  assert(variants.length > 1);
  for (const variant of variants) {
    const run = async (traits: KernelTraits) => {
      const own = buffers.map((values) => values.slice());
      const text = await runKernel(device, { spec: MAT_VEC, buffers: own }, traits, variant);
      assertEquals(text.includes("subgroupShuffleXor"), traits === rich);
      return own;
    };
    assertEquals(await run(rich), await run(GOOD), variant);
  }
  device.destroy();
});

Deno.test("kernels without variants have the general one; others are refused", () => {
  assertEquals(kernelVariants(randomKernel("map", 1).spec), [GENERAL]);
  assertEquals(kernelVariants(MAT_VEC).at(-1), GENERAL);
  assertThrows(() => generateKernel(MAT_VEC, PORTABLE, "fastest"), RangeError, 'found "fastest"');
});
