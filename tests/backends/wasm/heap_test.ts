/** Memory for tensors: ranges do not overlap, are used again, and peaks are told. */
import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import type { Tensor } from "../../../backends/backend.ts";
import { openWasm } from "../../../backends/wasm/backend.ts";
import { createHeap } from "../../../backends/wasm/heap.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { graphOf } from "../../../ir/node.ts";
import { tensorType } from "../../../ir/types.ts";

Deno.test("createHeap() hands out aligned ranges that never overlap, and uses freed ones again", () => {
  const sizes = fc.array(fc.tuple(fc.nat(5000), fc.boolean()), { minLength: 1, maxLength: 60 });
  fc.assert(fc.property(sizes, (requests) => {
    const heap = createHeap({ shared: false }), live: { from: number; to: number }[] = [];
    let most = 0;
    for (const [bytes, release] of requests) {
      const from = heap.allocate(bytes) ?? NaN, to = from + bytes;
      assertEquals(from % 64, 0);
      assert(live.every((other) => to <= other.from || other.to <= from), `${from} … ${to} is in use`);
      live.push({ from, to });
      most = Math.max(most, live.reduce((sum, range) => sum + range.to - range.from, 0));
      if (release) heap.free(live.splice(live.length >> 1, 1)[0]?.from ?? 0);
    }
    assertEquals(heap.peak.wanted, most);
    for (const { from } of live) heap.free(from);
    assertEquals(heap.used, 0);
    const { extent } = heap.peak;
    heap.allocate(extent - 1024);
    assertEquals(heap.peak.extent, extent);
  }));
});

Deno.test("rehearse() hands out the addresses that will be handed out, and leaves the heap as it is", () => {
  const heap = createHeap({ shared: false }), small = [1000, 3000, 2000].map((bytes) => heap.allocate(bytes) ?? 0);
  heap.free(small[1] ?? 0);
  const { extent } = heap.peak, rehearsal = heap.rehearse(), sizes = [100, 2 ** 24, 2500, 2 ** 25, 64];
  const expected = sizes.map((bytes) => rehearsal.allocate(bytes));
  assertEquals(heap.peak.extent, extent);
  assertEquals(sizes.map((bytes) => heap.allocate(bytes)), expected);
  assertEquals(heap.peak.extent, rehearsal.peak.extent);
});

Deno.test("createHeap() has no room beyond its limit, nor for what is to stay free", () => {
  const heap = createHeap({ shared: false, limit: 2 ** 25 });
  assertEquals(heap.allocate(2 ** 25), undefined);
  const half = heap.allocate(2 ** 24) ?? NaN;
  assert(half > 0);
  assertEquals(heap.allocate(2 ** 23, 2 ** 23 + 64), undefined);
  assert((heap.allocate(2 ** 23, 2 ** 22) ?? 0) > half);
  assertEquals(createHeap({ shared: false }).allocate(2 ** 32), undefined);
});

Deno.test("openWasm() takes no more than 5 % above what was planned", async () => {
  await using backend = await openWasm();
  const b = createBuilder(), type = tensorType("f32", [500, 700]), x = b.input("x", type);
  const gram = b.dot(x, x, { lhsContract: [1], rhsContract: [1] }), norm = b.sum(b.mul(gram, gram), [1]);
  const before = backend.memory?.()?.planned ?? 0, bytes = 4 * (500 * 700 + 500 * 500);
  const program = await backend.compile(graphOf({ y: b.mul(gram, b.div(b.constant(1, norm.type), norm)) }));
  const { y } = backend.run(program, { x: backend.allocate(type) });
  const { planned = 0, allocated = Infinity } = backend.memory?.() ?? {};
  assertEquals((y as Tensor).type.shape, [500, 500]);
  assert(planned - before >= bytes + program.plan.arenaBytes, `${planned} bytes planned`);
  assert(allocated >= planned && allocated <= 1.05 * planned, `${allocated} bytes for ${planned}`);
});
