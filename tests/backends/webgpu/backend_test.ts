/** Whole programs on WebGPU against the reference backend. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import * as fc from "fast-check";
import { type Backend, hostArray, type Tensor } from "../../../backends/backend.ts";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import { createBackend, openWebGpu } from "../../../backends/webgpu/backend.ts";
import { describeAdapter } from "../../../backends/webgpu/device.ts";
import { createPipelines } from "../../../backends/webgpu/pipelines.ts";
import { PORTABLE } from "../../../backends/webgpu/traits.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { UserError } from "../../../ir/errors.ts";
import { type Graph, graphOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { DTYPES, isFloat, rangeOf, tensorType } from "../../../ir/types.ts";
import type { DawnAnswer } from "../../dawn_process.ts";
import { openTestGpu } from "../../gpu.ts";
import { countBuffers } from "../../support/counted_memory.ts";
import { randomGraph } from "../../support/random_graphs.ts";
import { assertClose, runGraph } from "../../support/run_graph.ts";
import { SILU } from "./specs.ts";

const f32 = (...shape: number[]) => tensorType("f32", shape);

/** The backend on a device of the machine's driver, or undefined after a SKIPPED line. */
async function openTestBackend(): Promise<Backend | undefined> {
  const gpu = await openTestGpu((adapter) => ({
    requiredLimits: { maxStorageBufferBindingSize: adapter.limits.maxStorageBufferBindingSize },
  }));
  return gpu &&
    createBackend({ gpu, ...describeAdapter(gpu.adapterInfo), adapter: "test", owned: true, traits: PORTABLE });
}

Deno.test("openWebGpu() computes what the reference computes, on random graphs", async () => {
  const backend = await openTestBackend();
  if (!backend) return;
  for (let seed = 1; seed <= 10; seed++) {
    const { graph, leaves } = randomGraph(seed, { maxNodes: 16 });
    assertClose(await runGraph(backend, graph, leaves), evaluate(graph, leaves));
  }
  await backend[Symbol.asyncDispose]();
});

Deno.test("a transform and its transpose, of an order without symmetry, share a kernel", async () => {
  const backend = await openTestBackend();
  if (!backend) return;
  const b = createBuilder(), x = b.input("x", f32(3, 40)), signs = b.input("signs", f32(40));
  const graph = graphOf({
    y: b.hadamard(b.hadamard(x, 1, undefined, true), 1, signs, true),
    z: b.hadamard(x, 1, signs),
  });
  const mixed = graphOf({ y: b.hadamard(b.hadamard(x, 1, signs, true), 1) });
  const draw = random(8, "transforms");
  const leaves = {
    x: Float64Array.from({ length: 120 }, () => Math.fround(draw.normal())),
    signs: Float64Array.from({ length: 40 }, () => draw.sign()),
  };
  assertEquals((await backend.compile(mixed)).kernels.length, 1);
  for (const each of [graph, mixed]) assertClose(await runGraph(backend, each, leaves), evaluate(each, leaves));
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

Deno.test("runs are gathered, and what is written, freed or read between them keeps its order", async () => {
  const gpu = await openTestGpu();
  if (!gpu) return;
  let submissions = 0;
  const submit = gpu.queue.submit.bind(gpu.queue);
  gpu.queue.submit = (buffers) => {
    submissions++;
    return submit(buffers);
  };
  const backend = createBackend({
    gpu,
    ...describeAdapter(gpu.adapterInfo),
    adapter: "test",
    owned: true,
    traits: PORTABLE,
  });
  const b = createBuilder(), x = b.input("x", f32(4)), program = await backend.compile(graphOf({ y: b.mul(x, 2) }));
  const upload = (...values: number[]) => backend.upload(f32(4), Float32Array.from(values));
  // A chain of a hundred runs is one submission, with the copy which reads the result.
  let value = upload(1, 2, 3, 4);
  const before = submissions;
  for (let i = 0; i < 100; i++) value = backend.run(program, { x: value }).y as typeof value;
  assertEquals([...await backend.download(value)], [1, 2, 3, 4].map((each) => each * 2 ** 100));
  assertEquals(submissions - before, 1);
  // Values that a run has read may be overwritten, and tensors freed, before anything was waited for.
  const input = upload(1, 1, 1, 1), first = backend.run(program, { x: input }).y as typeof value;
  backend.write(input, Float32Array.of(5, 6, 7, 8));
  const second = backend.run(program, { x: input }).y as typeof value;
  backend.free(input);
  assertEquals([[...await backend.download(first)], [...await backend.download(second)]], [[2, 2, 2, 2], [
    10,
    12,
    14,
    16,
  ]]);
  await backend[Symbol.asyncDispose]();
});

Deno.test("equal kernels under other names share a pipeline; errors of the shader compiler name kernel and line", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const pipelines = createPipelines(device, { traits: PORTABLE });
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

Deno.test("runs with values that are freed between are one submission, later ones use the same buffers and bind groups", async () => {
  const device = await openTestGpu();
  if (!device) return;
  let submissions = 0, groups = 0, buffers = 0;
  const { queue } = device, submit = queue.submit.bind(queue);
  const bindGroup = device.createBindGroup.bind(device), buffer = device.createBuffer.bind(device);
  queue.submit = (commands) => (submissions++, submit(commands));
  device.createBindGroup = (descriptor) => (groups++, bindGroup(descriptor));
  device.createBuffer = (descriptor) => (buffers++, buffer(descriptor));
  const backend = createBackend({ gpu: device, adapter: "test", software: true, owned: true, traits: PORTABLE });
  const b = createBuilder(), program = await backend.compile(graphOf({ y: b.mul(b.input("x", f32(50)), 3) }));
  // Weights: what waits for others of its size is a small part of them.
  backend.allocate(f32(1 << 14));
  const token = async (value: number) => {
    let x = backend.upload(f32(50), new Float32Array(50).fill(value));
    for (let layer = 0; layer < 4; layer++) {
      const before = x;
      x = backend.run(program, { x }).y as Tensor;
      backend.free(before);
    }
    const [found] = await backend.download(x);
    backend.free(x);
    return found;
  };
  assertEquals(await token(1), 81);
  await token(2);
  const before = { submissions, groups, buffers };
  assertEquals(await token(5), 405);
  assertEquals({ submissions, groups, buffers }, { ...before, submissions: before.submissions + 1 });
  // What is asked for as zeros is zeros, whatever was freed.
  assertEquals(await backend.download(backend.allocate(f32(50))), new Float32Array(50));
  await backend[Symbol.asyncDispose]();
});

Deno.test("freed buffers wait for others of their size, but never take more than a 64th above what was in use", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const count = countBuffers(device);
  const backend = createBackend({ gpu: device, adapter: "test", software: true, owned: true, traits: PORTABLE });
  const sizes = fc.array(fc.tuple(fc.integer({ min: 1, max: 5000 }), fc.boolean()), { minLength: 1, maxLength: 200 });
  let used = 0, most = 0;
  fc.assert(fc.property(sizes, (requests) => {
    const alive: Tensor[] = [];
    const free = (at: number) => {
      for (const tensor of alive.splice(at, 1)) {
        used -= backend.bytesOf(tensor.type);
        backend.free(tensor);
      }
    };
    for (const [length, release] of requests) {
      const tensor = backend.upload(f32(length), new Float32Array(length));
      alive.push(tensor);
      most = Math.max(most, used += backend.bytesOf(tensor.type));
      if (release) free(alive.length >> 1);
    }
    while (alive.length > 0) free(0);
    assert(count.most <= most * (1 + 1 / 64), `${count.most} bytes for ${most}`);
  }));
  await backend[Symbol.asyncDispose]();
});

Deno.test("a program whose values are too large for a device is refused, and others still run", async () => {
  // The limits that every device has: 128 MiB per buffer.
  const device = await openTestGpu(() => ({}));
  if (!device) return;
  await using backend = createBackend({ gpu: device, adapter: "test", software: true, owned: true, traits: PORTABLE });
  /** With n×n values in between. */
  const compile = (n: number) => {
    const b = createBuilder(), axes = { lhsContract: [1], rhsContract: [0] };
    const between = b.dot(b.input("x", f32(n, 4)), b.input("y", f32(4, n)), axes);
    return backend.compile(graphOf({ q: b.dot(between, b.input("z", f32(n, 2)), axes) }));
  };
  const run = async (n: number) => {
    const program = await compile(n);
    const fill = (value: number, ...shape: number[]) =>
      backend.upload(f32(...shape), new Float32Array(shape.reduce((size, dim) => size * dim)).fill(value));
    const { q } = backend.run(program, { x: fill(1, n, 4), y: fill(2, 4, n), z: fill(1, n, 2) });
    return new Set(await backend.download(q as Tensor));
  };
  assertEquals(await run(64), new Set([8 * 64]));
  await assertRejects(() => compile(6000), RangeError, "Cannot hold an intermediate value");
  assertEquals(await run(64), new Set([8 * 64]));
  assertEquals(await run(128), new Set([8 * 128]));
});

Deno.test("a lost device is what the next look at a value says", async () => {
  const device = await openTestGpu();
  if (!device) return;
  const backend = createBackend({ gpu: device, adapter: "test", software: true, owned: false, traits: PORTABLE });
  const tensor = backend.upload(f32(4), new Float32Array(4));
  device.destroy();
  await assertRejects(() => backend.download(tensor), Error, "The WebGPU device was lost");
  await backend[Symbol.asyncDispose]();
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
  const script = new URL("../../dawn_process.ts", import.meta.url).pathname;
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-lock", script],
    stderr: "null",
  }).output();
  const { found, reason } = JSON.parse(new TextDecoder().decode(stdout)) as DawnAnswer;
  if (reason === undefined) return assertEquals(found, [2, 3, 4, 5, 6]);
  assertEquals(reason.split("\n").length, 1);
  console.warn(`SKIPPED: no computation on Dawn: ${reason}`);
});
