/** Random signs of rotations: derived parameters, the same for every call of a function. */
import type { Derived, Module } from "../../../ir/module.ts";
import { leavesOf, nameOf } from "../../../ir/node.ts";
import { random } from "../../../ir/random.ts";
import { concreteShape, sizeOf } from "../../../ir/types.ts";

/**
 * Declares every parameter of the local name `name` that the module's calls need and nothing declares yet. The values depend on
 * seed, name and length alone, so that all calls rotate alike.
 */
export function declareSigns(module: Module, name: string, seed: number): Module {
  const derived: Record<string, Derived> = { ...module.derived };
  for (const call of module.calls) {
    const graph = module.functions[call.function];
    const type = graph && leavesOf(graph, "param").find((node) => nameOf(node) === name)?.type;
    if (type) {
      derived[call.prefix + name] ??= {
        type,
        generate: () => randomSigns(name, seed, sizeOf(concreteShape(type.shape))),
      };
    }
  }
  return { ...module, derived };
}

/** `count` values of -1 or 1. */
function randomSigns(name: string, seed: number, count: number): Float32Array {
  const stream = random(seed, name);
  return Float32Array.from({ length: count }, () => stream.sign());
}
