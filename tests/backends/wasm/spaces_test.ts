/** Several memories: what a run binds comes together in one, and models that one memory cannot hold run like others. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import * as fc from "fast-check";
import type { Tensor } from "../../../backends/backend.ts";
import { openWasm } from "../../../backends/wasm/backend.ts";
import { createSpaces, type Place } from "../../../backends/wasm/spaces.ts";
import { createBuilder } from "../../../ir/builder.ts";
import { graphOf } from "../../../ir/node.ts";
import { tensorType } from "../../../ir/types.ts";

const MIB = 2 ** 20, NEEDS = { arenaBytes: MIB, scratchBytes: 0, tables: [] };

Deno.test("gather() moves the fewest bytes, keeps them, and moves nothing where that is impossible", () => {
  const requests = fc.array(fc.tuple(fc.integer({ min: 1, max: 6 * MIB }), fc.boolean()), {
    minLength: 4,
    maxLength: 30,
  });
  let moves = 0;
  fc.assert(
    fc.property(requests, (sizes) => {
      const spaces = createSpaces({ shared: false, limit: 16 * MIB });
      const bytesOf = ({ space, address, bytes }: Place) => new Uint8Array(space.heap.memory.buffer, address, bytes);
      const places = sizes.map(([bytes], i) => {
        const place = spaces.allocate(bytes);
        bytesOf(place).fill(i + 1);
        return place;
      });
      const chosen = new Set(places.filter((_, i) => sizes[i]?.[1]).slice(0, 2)), before = new Map<Place, string>();
      const where = ({ space, address }: Place) => `${spaces.all.indexOf(space)}:${address}`;
      for (const place of places) before.set(place, where(place));
      const space = spaces.gather(chosen, NEEDS);
      places.forEach((place, i) => {
        if (chosen.has(place)) assert(place.space === space, "what was chosen lies together");
        else assertEquals(where(place), before.get(place), "what was not chosen stays");
        if (chosen.has(place) && where(place) !== before.get(place)) moves++;
        assert(bytesOf(place).every((byte) => byte === i + 1), "values are kept");
      });
      for (const place of places) spaces.free(place);
      for (const { heap } of spaces.all) assert(heap.used <= MIB, `${heap.used} bytes are still in use`);
    }),
    { numRuns: 40, seed: 1 },
  );
  assert(moves > 5, `${moves} moves`);
});

Deno.test("what no memory can hold is refused with its size, and nothing is lost", () => {
  const spaces = createSpaces({ shared: false, limit: 16 * MIB });
  const places = [spaces.allocate(9 * MIB), spaces.allocate(9 * MIB)];
  assertThrows(() => spaces.allocate(17 * MIB), RangeError, `at most the ${16 * MIB} bytes`);
  assertThrows(() => spaces.gather(new Set(places), NEEDS), RangeError, `on ${19 * MIB} bytes`);
  assertEquals(spaces.all.length, 2);
  assert(places[0]?.space !== places[1]?.space);
});

Deno.test("openWasm() takes memories of whole growths, up to what kernels can address", () => {
  for (const memoryBytes of [0, MIB, 24 * MIB, 2 ** 33]) {
    assertThrows(() => openWasm({ memoryBytes }), RangeError, `but found ${memoryBytes}`);
  }
});

Deno.test("a program that finds no room to work in the first memory takes its tensors to another one", async () => {
  await using backend = await openWasm({ memoryBytes: 32 * MIB });
  const b = createBuilder(), n = 1792, f32 = (...shape: number[]) => tensorType("f32", shape);
  const axes = { lhsContract: [1], rhsContract: [0] };
  // 12 MiB in between, behind 22 MiB that came before.
  const between = b.dot(b.input("x", f32(n, 4)), b.input("y", f32(4, n)), axes);
  const graph = graphOf({ q: b.dot(between, b.input("z", f32(n, 2)), axes) });
  const fill = (value: number, ...shape: number[]) =>
    backend.upload(f32(...shape), new Float32Array(shape.reduce((size, dim) => size * dim)).fill(value));
  const leaves = { x: fill(1, n, 4), y: fill(2, 4, n), z: fill(1, n, 2) }, q = backend.allocate(f32(n, 2));
  const other = fill(7, 22 * MIB / 4);
  backend.run(await backend.compile(graph), leaves, { q });
  assertEquals(new Set(await backend.download(q)), new Set([4 * 2 * n]));
  assertEquals(new Set(await backend.download(other)), new Set([7]));
});

Deno.test("a program that no memory has room for leaves no results behind", async () => {
  await using backend = await openWasm({ memoryBytes: 32 * MIB });
  const b = createBuilder(), n = 3000, f32 = (...shape: number[]) => tensorType("f32", shape);
  const axes = { lhsContract: [1], rhsContract: [0] };
  const between = b.dot(b.input("x", f32(n, 4)), b.input("y", f32(4, n)), axes);
  const program = await backend.compile(graphOf({ q: b.dot(between, b.input("z", f32(n, 300)), axes) }));
  const x = backend.allocate(f32(n, 4)), y = backend.allocate(f32(4, n)), z = backend.allocate(f32(n, 300));
  const planned = () => backend.memory?.().planned ?? 0;
  assertThrows(() => backend.run(program, { x, y, z }), RangeError, "Cannot run a program");
  const once = planned();
  for (let again = 0; again < 3; again++) assertThrows(() => backend.run(program, { x, y, z }), RangeError);
  assertEquals(planned(), once);
});

Deno.test("tensors beyond one memory compute as in one, on any number of threads", async () => {
  const b = createBuilder(), n = 1024, type = tensorType("f32", [n, n]), x = b.input("x", tensorType("f32", [3, n]));
  const axes = { lhsContract: [1], rhsContract: [1] };
  const graph = graphOf({ y: b.mul(b.sigmoid(b.dot(x, b.input("w", type), axes)), 0.5) });
  const results = await Promise.all(
    [{}, { memoryBytes: 16 * MIB }, { memoryBytes: 16 * MIB, threads: 2 }].map(async (options) => {
      await using backend = await openWasm(options);
      const program = await backend.compile(graph);
      // Ten layers of 4 MiB; what goes from one to the next follows them.
      const layers = Array.from(
        { length: 10 },
        (_, l) => backend.upload(type, Float32Array.from({ length: n * n }, (_, i) => Math.sin(i * (l + 1)) / 8)),
      );
      let y: Tensor = backend.upload(
        tensorType("f32", [3, n]),
        Float32Array.from({ length: 3 * n }, (_, i) => i % 7 - 3),
      );
      for (let pass = 0; pass < 2; pass++) {
        for (const w of layers) {
          const next = backend.run(program, { x: y, w }).y as Tensor;
          backend.free(y);
          y = next;
        }
      }
      const view = backend.view(y, n, tensorType("f32", [n])), { planned = 0 } = backend.memory?.() ?? {};
      assert(planned > 40 * MIB && planned < 50 * MIB, `${planned} bytes`);
      return [await backend.download(y), await backend.download(view)];
    }),
  );
  const [[whole, part] = [], ...others] = results;
  assertEquals(whole?.slice(n, 2 * n), part);
  for (const other of others) assertEquals(other, [whole, part]);
});
