/** Whole programs on WebGPU against the reference backend. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { type Backend, type HostArray, hostArray } from "../../../backends/backend.ts";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { createBackend, openWebGpu } from "../../../backends/webgpu/backend.ts";
import { openDawn } from "../../../backends/webgpu/dawn.ts";
import { describeAdapter } from "../../../backends/webgpu/device.ts";
import { createPipelines } from "../../../backends/webgpu/pipelines.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { UserError } from "../../../ir/errors.ts";
import { type Graph, graphOf } from "../../../ir/node.ts";
import { DTYPES, isFloat, rangeOf, sizeOf, tensorType } from "../../../ir/types.ts";
import { openTestGpu } from "../../gpu.ts";
import { randomGraph } from "../../support/random_graphs.ts";
import { SILU } from "./specs.ts";

const f32 = (...shape: number[]) => tensorType("f32", shape);

/** The backend on a device of the machine's driver, or undefined after a SKIPPED line. */
async function openTestBackend(): Promise<Backend | undefined> {
  const gpu = await openTestGpu((adapter) => ({
    requiredLimits: { maxStorageBufferBindingSize: adapter.limits.maxStorageBufferBindingSize },
  }));
  return gpu && createBackend({ gpu, ...describeAdapter(gpu.adapterInfo), adapter: "test", owned: true });
}

/** Runs a graph, from host values to host values. */
async function runGraph(
  backend: Backend,
  graph: Graph,
  leaves: Readonly<Record<string, Float64Array>>,
): Promise<Record<string, HostArray>> {
  const executable = await backend.compile(graph);
  const bound = Object.fromEntries(
    Object.entries(executable.leaves).map(([name, type]) => {
      const values = hostArray(type.dtype, sizeOf(type.shape));
      values.set(leaves[name] ?? []);
      return [name, backend.upload(type, values)];
    }),
  );
  const results = backend.run(executable, bound), names = Object.keys(results);
  const values = await Promise.all(Object.values(results).map((tensor) => backend.download(tensor)));
  for (const tensor of new Set([...Object.values(bound), ...Object.values(results)])) backend.free(tensor);
  return Object.fromEntries(names.map((name, i) => [name, values[i] as HostArray]));
}

Deno.test("openWebGpu() computes what the reference computes, on random graphs", async () => {
  const backend = await openTestBackend();
  if (!backend) return;
  for (const seed of [1, 2, 3, 4, 5, 7, 9, 10]) {
    const { graph, leaves } = randomGraph(seed, { maxNodes: 16 });
    const expected = evaluate(graph, leaves), found = await runGraph(backend, graph, leaves);
    for (const [name, values] of Object.entries(expected)) {
      const got = found[name] as HostArray, magnitude = values.reduce((most, x) => Math.max(most, Math.abs(x)), 1);
      assertEquals(got.length, values.length);
      values.forEach((want, i) =>
        assert(
          want === got[i] || Math.abs(want - (got[i] ?? NaN)) <= 3e-5 * magnitude,
          `seed ${seed}, ${name}[${i}]: expected ${want} but found ${got[i]}`,
        )
      );
    }
  }
  await backend[Symbol.asyncDispose]();
});

Deno.test("download() gives back what was uploaded, for every type", async () => {
  const backend = await openTestBackend();
  if (!backend) return;
  const all = DTYPES.map((dtype) => {
    const type = tensorType(dtype, [3, 43]), values = hostArray(dtype, 3 * 43);
    const [low, high] = isFloat(dtype) ? [-8, 8] : dtype === "bool" ? [0, 1] : rangeOf(dtype === "i32" ? "i8" : dtype);
    values.forEach((_, i) => values[i] = low + i % (high - low + 1));
    return { tensor: backend.upload(type, values), values };
  });
  const found = await Promise.all(all.map(({ tensor }) => backend.download(tensor)));
  found.forEach((values, i) => assertEquals(values, all[i]?.values));
  await backend[Symbol.asyncDispose]();
});

/** p ← p - g · rate, with a sum over the old p beside it. */
function stepGraph(): Graph {
  const b = createBuilder(), p = b.param("p", f32(128), "calibration"), g = b.input("g", f32(128));
  return graphOf({ next: b.sub(p, b.mul(g, 0.5)) });
}

Deno.test("run() writes results into given tensors, into leaves, and into views of one tensor", async () => {
  const backend = await openTestBackend();
  if (!backend) return;
  const executable = await backend.compile(stepGraph(), { inPlace: { next: "p" } });
  const whole = backend.upload(f32(256), Float32Array.from({ length: 256 }, (_, i) => i));
  const p = backend.view(whole, 128, f32(128)), g = backend.view(whole, 0, f32(128));
  const { next } = backend.run(executable, { p, g });
  assertEquals(next, p);
  const apart = await backend.compile(stepGraph()), target = backend.allocate(f32(128));
  assertEquals(backend.run(apart, { p, g }, { next: target }).next, target);
  const [values, second] = await Promise.all([backend.download(whole), backend.download(target)]);
  assertEquals([...values.slice(0, 3), ...values.slice(128, 131)], [0, 1, 2, 128, 128.5, 129]);
  assertEquals([...second.slice(0, 3)], [128, 128, 128]);
  await backend[Symbol.asyncDispose]();
});

Deno.test("an update writes rows into the cache that it is given", async () => {
  const backend = await openTestBackend();
  if (!backend) return;
  const b = createBuilder(), cache = b.input("cache", tensorType("u4", [1, 8, 32]));
  const rows = b.cast(b.input("rows", f32(1, 2, 32)), "u4"),
    positions = b.input("positions", tensorType("i32", [1, 2]));
  const executable = await backend.compile(graphOf({ next: b.make("update", [cache, rows, positions], {}) }), {
    inPlace: { next: "cache" },
  });
  const bound = {
    cache: backend.upload(tensorType("u4", [1, 8, 32]), new Int32Array(256).fill(9)),
    rows: backend.upload(f32(1, 2, 32), Float32Array.from({ length: 64 }, (_, i) => i % 16)),
    positions: backend.upload(tensorType("i32", [1, 2]), Int32Array.of(5, 8)), // 8 lies outside
  };
  const { next } = backend.run(executable, bound);
  assertEquals(next, bound.cache);
  const values = await backend.download(bound.cache);
  assertEquals([...values], Array.from({ length: 256 }, (_, i) => Math.floor(i / 32) === 5 ? i % 16 : 9));
  await backend[Symbol.asyncDispose]();
});

Deno.test("equal kernels under other names share a pipeline; errors of the shader compiler name kernel and line", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const pipelines = createPipelines(device);
  const one = pipelines.load(SILU), two = pipelines.load({ ...SILU, name: "other", fuses: "other" });
  assertEquals(one, two);
  await one;
  // A constant that is no integer makes a literal that WGSL does not have.
  const broken = {
    ...SILU,
    stores: SILU.stores.map((store) => ({
      ...store,
      value: { kind: "constant" as const, value: 0.5, scalar: "i32" as const },
    })),
  };
  await assertRejects(() => pipelines.load(broken), Error, 'Internal error in kernel "map_mul_4", line ');
  device.destroy();
});

Deno.test("mistakes are refused with what was expected", async () => {
  const backend = await openTestBackend();
  if (!backend) return;
  const executable = await backend.compile(stepGraph()),
    p = backend.allocate(f32(128)),
    short = backend.allocate(f32(64));
  assertThrows(() => backend.run(executable, { p }), TypeError, 'expected a tensor for "g" of type f32[128]');
  assertThrows(
    () => backend.run(executable, { p, g: short }),
    TypeError,
    'Cannot bind "g": expected f32[128] but found f32[64]',
  );
  assertThrows(() => backend.write(p, new Float32Array(3)), TypeError, "expected 128 in a Float32Array but found 3");
  assertThrows(() => backend.view(p, 32, f32(64)), RangeError, "at a multiple of 64");
  assertThrows(() => backend.allocate(f32(2 ** 34)), RangeError, "on this device");
  backend.free(short);
  assertThrows(() => backend.free(short), TypeError, "has been freed");
  assertThrows(
    () => backend.write({ type: f32(1) }, new Float32Array(1)),
    TypeError,
    "expected a tensor of this backend",
  );
  await backend[Symbol.asyncDispose]();
});

Deno.test("a hardware device is asked for and a software one refused", async () => {
  assertEquals(
    describeAdapter({ description: "llvmpipe (LLVM 15)", device: "0", vendor: "65541" } as GPUAdapterInfo).software,
    true,
  );
  assertEquals(
    describeAdapter({ description: "", device: "", architecture: "swiftshader", vendor: "google" } as GPUAdapterInfo)
      .software,
    true,
  );
  assertEquals(describeAdapter({ description: "NVIDIA H200", isFallbackAdapter: false } as GPUAdapterInfo), {
    name: "NVIDIA H200",
    software: false,
  });
  try {
    await using backend = await openWebGpu({ requireHardware: true });
    assertEquals(backend.traits.software, false);
  } catch (error) {
    assert(error instanceof UserError, `${error}`);
  }
});

Deno.test("openDawn() opens a device or says in one line why not", async () => {
  try {
    await using backend = await openDawn();
    const b = createBuilder(), graph = graphOf({ y: b.add(b.input("x", f32(5)), 1) });
    const found = await runGraph(backend, graph, { x: Float64Array.of(1, 2, 3, 4, 5) });
    assertEquals([...found.y ?? []], [2, 3, 4, 5, 6]);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    console.warn(`SKIPPED: no computation on Dawn: ${error.message}`);
  }
});
