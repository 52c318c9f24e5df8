/** Choosing variants by the device's clock, and keeping the choices. */
import { assert, assertEquals } from "@std/assert";
import { createBackend } from "../../../backends/webgpu/backend.ts";
import { createPipelines } from "../../../backends/webgpu/pipelines.ts";
import { PORTABLE } from "../../../backends/webgpu/traits.ts";
import { fastest, memoryStore } from "../../../backends/webgpu/tuner.ts";
import { kernelVariants } from "../../../backends/webgpu/variants.ts";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { graphOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { tensorType } from "../../../ir/types.ts";
import { attention } from "../../bench/gpu_specs.ts";
import { openTestGpu } from "../../gpu.ts";
import { assertClose, runGraph } from "../../support/run_graph.ts";
import { MAT_VEC } from "./specs.ts";

const TRAITS = { ...PORTABLE, scratch: true };

Deno.test("a choice is one of the variants, is kept, and is not made again", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const made: [string, string][] = [], store = memoryStore();
  const tuning = {
    get: store.get,
    set: (key: string, variant: string) => {
      made.push([key, variant]);
      store.set(key, variant);
    },
  };
  const first = createPipelines(device, { traits: TRAITS, tuning });
  const { variant } = await first.load(MAT_VEC);
  assert(kernelVariants(MAT_VEC, TRAITS).includes(variant));
  assertEquals(made.map(([, kept]) => kept), [variant]);
  const other = kernelVariants(MAT_VEC, TRAITS).find((name) => name !== variant) as string;
  store.set(made[0]?.[0] ?? "", other);
  assertEquals((await createPipelines(device, { traits: TRAITS, tuning }).load(MAT_VEC)).variant, other);
  store.set(made[0]?.[0] ?? "", "of an older version");
  await createPipelines(device, { traits: TRAITS, tuning }).load(MAT_VEC);
  assertEquals(made.length, 2);
  device.destroy();
});

Deno.test("of two kernels the one that takes less time is chosen, with scratch where a variant has any", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const spec = attention({ tokens: 1, context: 700, heads: 2, kvHeads: 2, width: 16, cache: 32 });
  const split = kernelVariants(spec, TRAITS).find((name) => name.endsWith("splits4")) as string;
  const choice = async (variant: string) => {
    const tuning = memoryStore();
    const pipelines = createPipelines(device, { traits: TRAITS, tuning: { get: () => variant, set: tuning.set } });
    return await pipelines.load(spec);
  };
  const one = await choice(split), [dispatch] = one.dispatches;
  assert(dispatch);
  const slow = { ...one, dispatches: Array.from({ length: 8 }, () => one.dispatches).flat() };
  assertEquals(await fastest(device, spec, new Map([["slow", slow], ["fast", one]])), "fast");
  device.destroy();
});

Deno.test("a backend that tunes computes what the reference computes", async () => {
  const gpu = await openTestGpu();
  if (!gpu) return;
  // As a hardware device would be, so that variants are timed.
  await using backend = createBackend({ gpu, adapter: "test", software: false, owned: true, traits: TRAITS });
  const b = createBuilder(), type = tensorType("f32", [40, 64]), axes = { lhsContract: [1], rhsContract: [1] };
  const x = b.input("x", tensorType("f32", [1, 64])), many = b.input("many", type), w = b.input("w", type);
  const graph = graphOf({ y: b.dot(x, w, axes), z: b.dot(many, w, axes) }), draw = random(2, "tuned");
  const values = (count: number) => Float64Array.from({ length: count }, () => Math.fround(draw.normal()));
  const leaves = { x: values(64), many: values(40 * 64), w: values(40 * 64) };
  assertClose(await runGraph(backend, graph, leaves), evaluate(graph, leaves));
});
