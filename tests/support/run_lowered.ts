/** Runs a lowered program with the interpreter of kernel specifications: tests the fuser without any code generator. */
import { type HostArray, hostArray } from "../../backends/backend.ts";
import type { LoweredProgram } from "../../backends/regions/program.ts";
import { sizeOf } from "../../ir/types.ts";
import { interpretKernel } from "./interpret_kernel.ts";

/** Results of every output, given the values of every leaf (which updates in place overwrite). */
export function runLowered(
  program: LoweredProgram,
  leaves: Readonly<Record<string, Float64Array>>,
): Record<string, HostArray> {
  const memory: HostArray[] = [];
  for (const value of program.values) {
    if (value.inPlaceOf !== undefined) {
      memory.push(memory[value.inPlaceOf] as HostArray);
      continue;
    }
    const array = hostArray(value.type.dtype, sizeOf(value.type.shape));
    // Whatever no kernel writes must not look like a result.
    array.fill(value.type.dtype === "f32" ? NaN : 77);
    if (value.leaf !== undefined) array.set(leaves[value.leaf] ?? []);
    memory.push(array);
  }
  for (const { kernel, bindings } of program.steps) {
    interpretKernel(
      kernel,
      bindings.map((index) => memory[index] as HostArray),
    );
  }
  return Object.fromEntries(
    program.values.flatMap(({ output }, i) => output === undefined ? [] : [[output, memory[i] as HostArray]]),
  );
}
