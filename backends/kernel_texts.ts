/** Texts of a program's kernels, for people. */
import type { KernelText } from "./backend.ts";
import type { KernelSpec } from "./kernel.ts";

/** Texts of kernels, printed when they are asked for; names made unique. */
export function kernelTexts(specs: readonly KernelSpec[], print: (spec: KernelSpec) => string): KernelText[] {
  const names = new Map<string, number>();
  return specs.map((spec) => {
    const count = (names.get(spec.name) ?? 0) + 1;
    names.set(spec.name, count);
    return {
      name: count === 1 ? spec.name : `${spec.name}_${count}`,
      spec,
      get text() {
        return print(spec);
      },
    };
  });
}
