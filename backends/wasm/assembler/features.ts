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

/** What the engine makes of the relaxed product of fours. */
export interface ByteProducts {
  /** Whether four products are added to 32 bits by one instruction of the machine, instead of pairs in 16 bits first. */
  readonly fours: boolean;
  /** Whether that instruction takes the second operand's bytes as unsigned, beyond the seven bits that any engine must take. */
  readonly unsigned: boolean;
}

/**
 * Asks by products of bytes that the relaxed instruction promises nothing about: made of pairs they saturate, elsewhere they are those
 * of signed or of unsigned bytes. What an engine does with them is the same for every call.
 */
export function probeByteProducts(): ByteProducts {
  const module = createModule();
  module.export(
    module.func("run", { x: "i32", y: "i32" }, "i32", (_, { x, y }) =>
      i32x4.extract_lane(
        i32x4.relaxed_dot_i8x16_i7x16_add_s(i8x16.splat(x), i8x16.splat(y), i32x4.const(0)),
        0,
      )),
  );
  const { run } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes())).exports;
  const product = run as (x: number, y: number) => number;
  const unsigned = product(127, 255) === 4 * 127 * 255 && product(-128, 255) === 4 * -128 * 255;
  return { fours: product(127, 255) !== 2 * (2 ** 15 - 1), unsigned };
}
