/** Every kind of kernel against the interpreter of kernel specifications, on random kernels. */
import { assert, assertEquals } from "@std/assert";
import * as fc from "fast-check";
import type { HostArray } from "../../../backends/backend.ts";
import type { KernelSpec } from "../../../backends/kernel.ts";
import { interpretKernel } from "../../support/interpret_kernel.ts";
import { randomKernel } from "../../support/random_kernels.ts";
import { runSpec } from "./run_spec.ts";

/** The values that a kernel writes are those of the interpreter, but for the rounding of f32. */
function assertClose(spec: KernelSpec, found: readonly HostArray[], expected: readonly HostArray[]): void {
  spec.buffers.forEach(({ name, type }, i) => {
    const a = found[i] as HostArray, b = expected[i] as HostArray;
    assertEquals(a.length, b.length);
    const scale = Array.from(b).reduce((most, x) => Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most, 1);
    b.forEach((want, at) => {
      const got = a[at] ?? 0;
      const allowed = type.dtype === "f32" ? 2e-5 * scale : type.dtype === "f16" ? 1e-3 * Math.abs(want) + 1e-5 : 0;
      assert(
        Object.is(got, want) || got === want || Math.abs(got - want) <= allowed,
        `${name} (${type.dtype}[${type.shape}])[${at}]: expected ${want} but found ${got}`,
      );
    });
  });
}

const KINDS = ["map", "row", "dot", "attention", "topK"] as const;
const SEEDS = fc.noShrink(fc.integer({ min: 0, max: 2 ** 31 - 1 }));
for (const kind of KINDS) {
  for (const relaxed of [false, true]) {
    Deno.test(`${kind} kernels do what the interpreter does${relaxed ? ", with relaxed SIMD" : ""}`, () => {
      fc.assert(
        fc.property(SEEDS, (seed) => {
          const { spec, buffers } = randomKernel(kind, seed), expected = buffers.map((values) => values.slice());
          interpretKernel(spec, expected);
          assertClose(spec, runSpec(spec, buffers, { relaxed }), expected);
        }),
        { numRuns: kind === "dot" ? 50 : 150, seed: 1 },
      );
    });
  }

  Deno.test(`${kind} kernels give the same bits on one, two and three threads`, () => {
    fc.assert(
      fc.property(SEEDS, (seed) => {
        const { spec, buffers } = randomKernel(kind, seed), one = runSpec(spec, buffers);
        assertEquals(runSpec(spec, buffers, { threads: 2 }), one);
        assertEquals(runSpec(spec, buffers, { threads: 3 }), one);
      }),
      { numRuns: 60, seed: 2 },
    );
  });
}
