import { assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import type { Backend, Tensor } from "../../backends/backend.ts";
import { openReference } from "../../backends/reference/backend.ts";
import { type CallState, createRunner, prepareWalk, type Tensors } from "../../backends/runner.ts";
import { createBuilder } from "../../ir/builder.ts";
import type { Call } from "../../ir/module.ts";
import { type Graph, graphOf } from "../../ir/node.ts";
import { tensorType } from "../../ir/types.ts";
import { countingBackend } from "../support/counting_backend.ts";

const f32 = (...shape: (number | string)[]) => tensorType("f32", shape);

/** y = x·w for x [T,2], and z = x. */
function scale() {
  const b = createBuilder(), x = b.input("x", f32("T", 2)), w = b.param("w", f32(2), "checkpoint");
  return graphOf({ y: b.mul(x, b.broadcast(w, x.type.shape)), z: b.add(x, 0) });
}

/** `h = scale(h)` with two prefixes; `z` has no name in the module. */
const CALLS: readonly Call[] = ["a.", "b."].map((prefix) => ({
  function: "scale",
  prefix,
  inputs: { x: "h" },
  outputs: { y: "h" },
}));

function counted() {
  const { backend, alive } = countingBackend(openReference());
  let compiled = 0;
  const counting: Backend = {
    ...backend,
    compile: (graph, options) => {
      compiled++;
      return backend.compile(graph, options);
    },
  };
  return { backend: counting, alive, compiled: () => compiled };
}

Deno.test("createRunner() compiles once per graph, sizes and options", async () => {
  const { backend, compiled } = counted(), runner = createRunner(backend), graph = scale();
  const first = await runner.program(graph, { T: 3 });
  assertStrictEquals(await runner.program(graph, { T: 3, S: 9 }), first, "symbols that the graph lacks do not count");
  assertEquals(compiled(), 1);
  assertEquals((await runner.program(graph, { T: 4 })).outputs.y, f32(4, 2));
  await runner.program(graph, { T: 4 }, { inPlace: { y: "x" } });
  await Promise.all([runner.program(scale(), { T: 3 }), runner.program(graph, { T: 3 })]);
  assertEquals(compiled(), 4, "another graph object is another program");
});

Deno.test("createRunner() reports a failed compilation to whoever asks, and tries again", async () => {
  const backend = openReference();
  let attempts = 0;
  const runner = createRunner({
    ...backend,
    compile: (graph) => attempts++ ? backend.compile(graph) : Promise.reject(new Error("no room")),
  });
  const graph = scale();
  await assertRejects(() => runner.program(graph, { T: 1 }), Error, "no room");
  assertEquals((await runner.program(graph, { T: 1 })).outputs.y, f32(1, 2));
});

const stepsOf = (graph: Graph, parameters: Tensors, state?: CallState) =>
  CALLS.map((call) => ({ call, graph, parameters, state }));

Deno.test("prepareWalk() walks calls on one set of values after the other, and frees what has no name any more", async () => {
  const { backend, alive } = counted(), runner = createRunner(backend);
  const w = backend.upload(f32(2), Float32Array.of(3, 5)),
    walk = await prepareWalk(runner, stepsOf(scale(), { w }), { T: 1 });
  for (const x of [1, 2]) {
    const start = backend.upload(f32(1, 2), Float32Array.of(x, 2)), values = new Map([["h", start]]);
    walk(values);
    assertEquals([...await backend.download(values.get("h") as Tensor)], [9 * x, 50]);
    assertEquals([...alive], [w, values.get("h")]);
    backend.free(values.get("h") as Tensor);
  }
});

Deno.test("a walk keeps tensors that another name stands for", async () => {
  const { backend } = counted(), runner = createRunner(backend);
  const start = backend.upload(f32(1, 2), Float32Array.of(1, 2)), w = backend.upload(f32(2), Float32Array.of(3, 5));
  const named = new Map([["h", start], ["residual", start]]);
  (await prepareWalk(runner, stepsOf(scale(), { w }), { T: 1 }))(named);
  assertEquals([...await backend.download(named.get("residual") as Tensor)], [1, 2]);
});

Deno.test("a walk binds lasting leaves and leaves their results alone", async () => {
  const { backend, alive } = counted(), runner = createRunner(backend), b = createBuilder();
  const sum = b.input("sum", f32(2)), total = graphOf({ sum: b.add(sum, b.input("x", f32(2))) });
  const lasting = backend.allocate(f32(2)), values = new Map([["h", backend.upload(f32(2), Float32Array.of(1, 2))]]);
  const state = { leaves: { sum: lasting }, options: { inPlace: { sum: "sum" } } };
  const walk = await prepareWalk(runner, stepsOf(total, {}, state), {});
  walk(values);
  assertEquals([...await backend.download(lasting)], [2, 4]);
  walk(values);
  assertEquals([...await backend.download(lasting)], [4, 8]);
  assertEquals(alive, new Set([lasting, values.get("h") as Tensor]));
});

Deno.test("a walk names what a call lacks", async () => {
  const runner = createRunner(openReference()), values = new Map([["v", runner.backend.allocate(f32(1, 2))]]);
  const walk = await prepareWalk(runner, stepsOf(scale(), {}), { T: 1 });
  assertThrows(
    () => walk(values),
    RangeError,
    'Cannot call "scale": expected a value "h" for its input "x" but found "v"',
  );
});
