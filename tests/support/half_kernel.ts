/** A kernel that rounds to halves inside, on the floats where that is hard. */
import type { Access, Expr } from "../../backends/kernel.ts";
import { halfValue } from "../../ir/numerics.ts";
import { random } from "../../ir/random.ts";
import { tensorType } from "../../ir/types.ts";
import { nearestHalf, number, type RandomKernel, scalarOf } from "./random_kernels.ts";

/** Halves of every binade, ties between neighbours, the floats next to those, and the ends of the range; finite results. */
function hardValues(): number[] {
  const rng = random(5, "halves"), values = [0, 2 ** -25, 2 ** -24, 2 ** -14, 65504, 65519.99];
  // 31743 is the largest finite half.
  for (const bits of [0, 1, 2, 1022, 1023, 1024, 1025, 31741, ...Array.from({ length: 400 }, () => rng.int(31742))]) {
    const half = halfValue(bits), tie = (half + halfValue(bits + 1)) / 2;
    const step = 2 ** (Math.floor(Math.log2(tie)) - 23); // one unit in the last place of the float
    values.push(half, tie, tie - step, tie + step);
  }
  const all = values.flatMap((value) => [value, -value]);
  return [...all, ...all.slice(0, -all.length & 3)];
}

/** Square, value and quarter of half(x), in f32: nothing but the kernel's own rounding makes halves of them. */
export function halfKernel(values: readonly number[] = hardValues()): RandomKernel {
  const type = tensorType("f32", [values.length]), access: Access = { offset: 0, strides: [1] };
  const half = nearestHalf({ kind: "load", buffer: 0, access, scalar: scalarOf("f32") });
  const square: Expr = { kind: "map", op: "mul", args: [half, half], scalar: "f32" };
  const product: Expr = { kind: "map", op: "mul", args: [half, number(0.25)], scalar: "f32" };
  return {
    spec: {
      kind: "map",
      name: "halves",
      fuses: "",
      buffers: [
        { name: "x", type, use: "read" },
        { name: "square", type, use: "write" },
        { name: "half", type, use: "write" },
        { name: "quarter", type, use: "write" },
      ],
      dims: [values.length],
      stores: [square, half, product].map((value, i) => ({ buffer: i + 1, access, value })),
    },
    buffers: [Float32Array.from(values), ...[1, 2, 3].map(() => new Float32Array(values.length))],
  };
}
