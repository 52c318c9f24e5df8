/** Finds out which optional instruction sets the engine runs, by validating one instruction of each. */

import type { Feature } from "./expr.ts";
import { createModule } from "./module.ts";
import { atomics, i32 } from "./scalar.ts";
import { f32x4, i32x4, i8x16 } from "./simd.ts";

/** True for each instruction set that can be used here; `simd` is required by everything this backend generates. */
export type WasmFeatures = Readonly<Record<Feature | "simd", boolean>>;

/** Asks the engine. Costs well under a millisecond. */
export function probeFeatures(): WasmFeatures {
  const valid = (m: ReturnType<typeof createModule>) => WebAssembly.validate(m.bytes());
  const simd = createModule();
  simd.func("probe", {}, "v128", () => f32x4.const(1));
  const relaxed = createModule();
  relaxed.func("probe", { a: "v128" }, "v128", (_, { a }) => i32x4.relaxed_dot_i8x16_i7x16_add_s(a, a, a));
  relaxed.func("madd", { a: "v128" }, "v128", (_, { a }) => f32x4.relaxed_madd(a, a, a));
  const threads = createModule();
  threads.memory("memory", { shared: true });
  threads.func("probe", {}, "i32", () => atomics.load(i32.const(0)));
  return {
    simd: valid(simd),
    "relaxed-simd": valid(relaxed),
    threads: typeof SharedArrayBuffer !== "undefined" && valid(threads),
  };
}

/**
 * Whether the engine adds products of four bytes to 32 bits in one instruction of the machine, relaxed SIMD given. Where it makes them
 * of sums of pairs in 16 bits, those saturate when bytes are used that the relaxed instruction promises nothing about, and only there.
 */
export function addsFoursOfBytes(): boolean {
  const module = createModule();
  module.export(
    module.func("run", {}, "i32", () => {
      const x = i8x16.const(127), y = i8x16.const(-1);
      return i32x4.extract_lane(i32x4.relaxed_dot_i8x16_i7x16_add_s(x, y, i32x4.const(0)), 0);
    }),
  );
  const { run } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes())).exports;
  return (run as () => number)() !== 2 * (2 ** 15 - 1);
}
