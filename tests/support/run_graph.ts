/** Whole graphs on a backend, from host values to host values. */
import { assert, assertEquals } from "@std/assert";
import { type Backend, type HostArray, hostArray } from "../../backends/backend.ts";
import type { Graph } from "../../ir/node.ts";
import { sizeOf } from "../../ir/types.ts";

/** Compiles a graph, runs it on the values of its leaves, downloads every result and frees all tensors. */
export async function runGraph(
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

/** Fails where a result is off by more than sums in another order explain: 3e-5 of the largest value, which is 1 at least. */
export function assertClose(
  found: Readonly<Record<string, HostArray>>,
  expected: Readonly<Record<string, Float64Array>>,
): void {
  for (const [name, values] of Object.entries(expected)) {
    const got = found[name] as HostArray, magnitude = values.reduce((most, x) => Math.max(most, Math.abs(x)), 1);
    assertEquals(got.length, values.length);
    values.forEach((want, i) => {
      const near = want === got[i] || Math.abs(want - (got[i] ?? NaN)) <= 3e-5 * magnitude;
      assert(near, `${name}[${i}]: expected ${want} but found ${got[i]}`);
    });
  }
}
