/** Whole programs on WebAssembly: against the reference, on several threads, in place, and through tensors of all kinds. */
import process from "node:process";
import { Worker as NodeWorker } from "node:worker_threads";
import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import * as fc from "fast-check";
import { evaluate } from "../../../backends/reference/evaluate.ts";
import type { Tensor } from "../../../backends/backend.ts";
import { openWasm, type WasmOptions } from "../../../backends/wasm/backend.ts";
import { type Builder, createBuilder } from "../../../ir/builder.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { sizeOf, tensorType } from "../../../ir/types.ts";
import { randomGraph } from "../../support/random_graphs.ts";
import { assertClose, runGraph } from "../../support/run_graph.ts";

const f32 = (...shape: number[]) => tensorType("f32", shape);
type Leaves = Readonly<Record<string, Float64Array>>;

const SEEDS = fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 }));

Deno.test("openWasm() computes what the reference computes, on random graphs", async () => {
  await using backend = await openWasm();
  await fc.assert(
    fc.asyncProperty(SEEDS, async (seed) => {
      const { graph, leaves } = randomGraph(seed, { maxNodes: 16 });
      assertClose(await runGraph(backend, graph, leaves), evaluate(graph, leaves));
    }),
    { numRuns: 200, seed: 3 },
  );
});

/** Two linears with a norm between, wide enough that every kernel has many chunks; and their gradients' shapes. */
function network(b: Builder): Graph {
  const x = b.input("x", f32(70, 96)),
    w = b.param("w", f32(160, 96), "checkpoint"),
    v = b.param("v", f32(96, 160), "checkpoint");
  const linear = (y: Node, m: Node) => b.dot(y, m, { lhsContract: [1], rhsContract: [1] });
  const h = linear(x, w), mean = b.mul(b.sum(b.mul(h, h), [1]), 1 / 160);
  const normal = b.hadamard(b.div(h, b.sqrt(b.add(mean, 1e-5))), 1), y = linear(b.mul(normal, b.sigmoid(normal)), v);
  return graphOf({ y, columns: b.sum(y, [0]), weights: b.dot(y, x, { lhsContract: [0], rhsContract: [0] }) });
}

Deno.test("openWasm() gives the same bytes on one, two and three threads", async () => {
  await using one = await openWasm();
  await using two = await openWasm({ threads: 2 });
  await using three = await openWasm({ threads: 3 });
  const graph = network(createBuilder()), stream = random(1, "network");
  const leaves = Object.fromEntries([...leavesOf(graph, "param"), ...leavesOf(graph, "input")].map((node) => [
    nameOf(node),
    Float64Array.from({ length: sizeOf(node.type.shape) }, () => Math.fround(stream.normal())),
  ]));
  const expected = await runGraph(one, graph, leaves);
  assertClose(expected, evaluate(graph, leaves));
  for (const backend of [two, three]) assertEquals(await runGraph(backend, graph, leaves), expected);
  for (let seed = 0; seed < 60; seed++) {
    const { graph, leaves } = randomGraph(seed + 5000, { maxNodes: 16 });
    assertEquals(await runGraph(two, graph, leaves), await runGraph(one, graph, leaves), `seed ${seed + 5000}`);
  }
});

/** Contractions of many sizes that do not depend on each other, and sums of them: threads are in different kernels at one time. */
function manyKernels(b: Builder): Graph {
  const outputs: Record<string, Node> = {};
  for (let i = 0; i < 12; i++) {
    const [m, n, k] = [20 + 9 * i, 150 - 11 * i, 16 + 30 * (i % 5)];
    const y = b.dot(b.input(`x${i}`, f32(m, k)), b.input(`w${i}`, f32(n, k)), { lhsContract: [1], rhsContract: [1] });
    outputs[`softmax${i}`] = b.exp(b.sub(y, b.max(y, [1])));
    outputs[`sum${i}`] = b.sum(b.mul(y, y), [0, 1]);
  }
  return graphOf(outputs);
}

Deno.test("openWasm() gives the same bytes where threads run ahead of each other", async () => {
  await using one = await openWasm();
  await using two = await openWasm({ threads: 2 });
  const graph = manyKernels(createBuilder()), stream = random(2, "many kernels");
  const leaves = Object.fromEntries(
    leavesOf(graph, "input").map((node) => [
      nameOf(node),
      Float64Array.from({ length: sizeOf(node.type.shape) }, () => Math.fround(stream.normal() / 8)),
    ]),
  );
  const expected = await runGraph(one, graph, leaves);
  assertClose(expected, evaluate(graph, leaves));
  for (let i = 0; i < 20; i++) assertEquals(await runGraph(two, graph, leaves), expected);
});

Deno.test("Backend.allocate() grows the memory under running threads' feet", async () => {
  await using backend = await openWasm({ threads: 2 });
  const b = createBuilder(), executable = await backend.compile(graphOf({ y: b.mul(b.input("x", f32(100_000)), 2) }));
  const small = backend.run(executable, { x: backend.upload(f32(100_000), new Float32Array(100_000).fill(1)) });
  const large = Array.from({ length: 3 }, () => backend.allocate(f32(5_000_000)));
  const x = backend.upload(f32(100_000), new Float32Array(100_000).fill(3));
  const { y } = backend.run(executable, { x });
  assertEquals(y && await backend.download(y), new Float32Array(100_000).fill(6));
  assertEquals(small.y && await backend.download(small.y), new Float32Array(100_000).fill(2));
  large.forEach((tensor) => backend.free(tensor));
});

Deno.test("Backend.run() updates leaves in place and returns their tensors", async () => {
  await using backend = await openWasm({ threads: 2 });
  const b = createBuilder(), p = b.input("p", f32(5000)), m = b.input("m", f32(5000)), g = b.input("g", f32(5000));
  const moment = b.add(b.mul(m, 0.5), g);
  const executable = await backend.compile(graphOf({ p: b.sub(p, b.mul(moment, 0.25)), m: moment }), {
    inPlace: { p: "p", m: "m" },
  });
  const filled = (x: number) => backend.upload(f32(5000), new Float32Array(5000).fill(x));
  const leaves = { p: filled(1), m: filled(2), g: filled(3) };
  const results = backend.run(executable, leaves);
  assertEquals([results.p === leaves.p, results.m === leaves.m], [true, true]);
  backend.run(executable, leaves);
  assertEquals(await backend.download(leaves.m), new Float32Array(5000).fill(5));
  assertEquals(await backend.download(leaves.p), new Float32Array(5000).fill(1 - 1 - 1.25));
});

Deno.test("Backend.run() writes packed rows of a cache where positions tell", async () => {
  await using backend = await openWasm();
  const b = createBuilder(), codes = tensorType("u3", [2, 6, 40]), rows = b.input("rows", tensorType("u3", [2, 1, 40]));
  const cache = b.update(b.input("cache", codes), rows, b.input("positions", tensorType("i32", [2, 1])));
  const executable = await backend.compile(graphOf({ cache }));
  const old = Int32Array.from({ length: 480 }, (_, i) => i % 8),
    fresh = Int32Array.from({ length: 80 }, (_, i) => 7 - i % 8);
  const tensor = backend.upload(codes, old);
  const run = (positions: number[]) =>
    backend.run(executable, {
      cache: tensor,
      rows: backend.upload(tensorType("u3", [2, 1, 40]), fresh),
      positions: backend.upload(tensorType("i32", [2, 1]), Int32Array.from(positions)),
    });
  assertEquals(run([2, 6]).cache, tensor);
  const expected = old.slice();
  expected.set(fresh.subarray(0, 40), 2 * 40); // the second sequence's position lies outside
  assertEquals(await backend.download(tensor), expected);
});

Deno.test("Backend.view() shares memory, and freed tensors are refused", async () => {
  await using backend = await openWasm();
  const tensor = backend.upload(f32(256), Float32Array.from({ length: 256 }, (_, i) => i));
  const part = backend.view(tensor, 128, f32(2, 8));
  assertEquals(await backend.download(part), Float32Array.from({ length: 16 }, (_, i) => 128 + i));
  backend.write(part, new Float32Array(16).fill(7));
  assertEquals((await backend.download(tensor)).slice(126, 130), Float32Array.of(126, 127, 7, 7));
  assertThrows(() => backend.view(tensor, 3, f32(4)), RangeError, "a multiple of 64");
  backend.free(tensor);
  assertThrows(() => backend.write(part, new Float32Array(16)), TypeError, "has been freed");
  await using other = await openWasm();
  assertThrows(() => other.free(part), TypeError, "a tensor of this backend");
});

Deno.test("Backend.run() names a leaf that is missing or of another type", async () => {
  await using backend = await openWasm();
  const b = createBuilder(), executable = await backend.compile(graphOf({ y: b.mul(b.input("x", f32(4)), 2) }));
  assertThrows(() => backend.run(executable, {}), TypeError, 'expected a tensor for leaf "x" of type f32[4]');
  assertThrows(
    () => backend.run(executable, { x: backend.allocate(f32(5)) }),
    TypeError,
    "expected f32[4] but found f32[5]",
  );
  assertThrows(
    () => backend.upload(f32(4), new Float32Array(3)),
    TypeError,
    "expected 4 in a Float32Array but found 3",
  );
});

Deno.test("Backend.compile() prints kernels headed by what they fuse, and plans their memory", async () => {
  await using backend = await openWasm();
  const executable = await backend.compile(network(createBuilder())), [kernel] = executable.kernels;
  assertStringIncludes(kernel?.text ?? "", `;; ${kernel?.spec.kind} kernel ${kernel?.spec.name}`);
  assertStringIncludes(kernel?.text ?? "", '(func $run (export "run")');
  assertEquals(new Set(executable.kernels.map(({ name }) => name)).size, executable.kernels.length);
  assert(executable.plan.arenaBytes > 0 && executable.plan.entries.every(({ offset }) => offset % 64 === 0));
});

Deno.test("openWasm() refuses a number of threads that is none", async () => {
  await assertRejects(
    async () => await openWasm({ threads: 0 }),
    RangeError,
    "expected a positive number of threads but found 0",
  );
});

/** Runs a test where the workers of `node:worker_threads` are other ones, or there are none of any kind. */
async function withWorkers<T>(Worker: typeof NodeWorker | undefined, test: () => Promise<T>): Promise<T> {
  const real = { Worker: globalThis.Worker, getBuiltinModule: process.getBuiltinModule };
  process.getBuiltinModule = (() => Worker && { Worker }) as typeof process.getBuiltinModule;
  if (!Worker) Reflect.deleteProperty(globalThis, "Worker");
  try {
    return await test();
  } finally {
    process.getBuiltinModule = real.getBuiltinModule;
    globalThis.Worker = real.Worker;
  }
}

Deno.test("openWasm() computes on one thread and says so where not all workers can be started", async () => {
  let started = 0, ended = 0;
  class LastWorker extends NodeWorker {
    constructor(...args: ConstructorParameters<typeof NodeWorker>) {
      if (started > 0) throw new Error("no threads are left");
      super(...args);
      started++;
    }
    override terminate() {
      ended++;
      return super.terminate();
    }
  }
  const b = createBuilder(), graph = graphOf({ y: b.exp(b.input("x", f32(4))) });
  for (const [Worker, reason] of [[LastWorker, "no threads are left"], [undefined, "Worker is not defined"]] as const) {
    const notes: string[] = [];
    await using backend = await withWorkers(
      Worker,
      () => openWasm({ threads: 3, note: (text) => notes.push(text) }),
    );
    assertEquals(notes, [`Computing on 1 thread instead of 3: cannot start a worker: ${reason}`]);
    assertEquals(backend.traits.threads, 1);
    const { y } = backend.run(await backend.compile(graph), { x: backend.upload(f32(4), new Float32Array(4)) });
    assertEquals(await backend.download(y as Tensor), new Float32Array(4).fill(1));
  }
  assertEquals([started, ended], [1, 1]);
});

Deno.test("openWasm() tells a profile of every kernel, and computes the same with one", async () => {
  const b = createBuilder(), x = b.input("x", tensorType("f32", [4, 8]));
  const graph = graphOf({ y: b.sum(b.exp(b.dot(x, x, { lhsContract: [1], rhsContract: [1] })), [1]) });
  const run = async (options: WasmOptions) => {
    await using backend = await openWasm(options);
    const program = await backend.compile(graph), values = Float32Array.from({ length: 32 }, (_, i) => i % 5 / 10);
    const { y } = backend.run(program, { x: backend.upload(tensorType("f32", [4, 8]), values) });
    return { kernels: program.kernels.map(({ spec }) => spec.name), y: await backend.download(y as Tensor) };
  };
  const heard: string[] = [];
  const profiled = await run({
    threads: 2,
    profile: ({ name }, milliseconds) => {
      assert(milliseconds >= 0);
      heard.push(name);
    },
  });
  assertEquals(heard, profiled.kernels);
  assertEquals(profiled.y, (await run({})).y);
});
