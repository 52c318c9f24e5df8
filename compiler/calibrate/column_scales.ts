/** The scales of columns that a calibration has found so far, read like parameters of the checkpoint: ones until they are known. */
import { type Call, functionOf, type Module } from "../../ir/module.ts";
import { type Graph, leavesOf, nameOf } from "../../ir/node.ts";
import { type ScaledInput, scaledInputs } from "../passes/structure/scale_columns.ts";
import type { LoadParameter } from "./prepare_call.ts";
import type { Scales } from "./search_scales.ts";
import type { StoredTensor } from "./store.ts";

/** The scales of a module. */
export interface ColumnScales {
  /** Parameters, scales among them. */
  readonly load: LoadParameter;
  /** The values of a call that have scales; none where columns are not scaled. */
  inputs(call: Call): readonly ScaledInput[];
  /** The scales of a call, by local name. */
  of(call: Call): Scales;
  set(call: Call, scales: Scales): void;
  /** The scales of a call as its store keeps them, and from there. */
  stored(call: Call): readonly StoredTensor[];
  restore(call: Call, stored: readonly StoredTensor[]): void;
}

/**
 * What a scale is stored as, by its global name. Not its own name: where nothing absorbs a scale, what is held under that one is
 * its inverse.
 */
export const storedScale = (name: string): string => `${name}.found`;

/** @param structure the module; a function whose columns are scaled has the scales as parameters */
export function columnScales(structure: Module, read: LoadParameter): ColumnScales {
  const found = new Map<string, Float32Array>(), known = new Map<Graph, readonly ScaledInput[]>();
  const inputs = (call: Call): readonly ScaledInput[] => {
    const graph = functionOf(structure, call), before = known.get(graph);
    if (before) return before;
    const parameters = new Set(leavesOf(graph, "param").map(nameOf));
    const own = scaledInputs(graph).filter(({ name }) => parameters.has(name));
    known.set(graph, own);
    return own;
  };
  for (const call of structure.calls) {
    for (const { name, outer, inner } of inputs(call)) {
      found.set(call.prefix + name, new Float32Array(outer * inner).fill(1));
    }
  }
  const load: LoadParameter = async (name, type) => found.get(name) ?? await read(name, type);
  const of = (call: Call): Scales =>
    new Map(
      inputs(call).flatMap(({ name }) => {
        const values = found.get(call.prefix + name);
        return values ? [[name, values]] : [];
      }),
    );
  return {
    load,
    inputs,
    of,
    set: (call, scales) => scales.forEach((values, name) => found.set(call.prefix + name, values)),
    stored: (call) =>
      Array.from(of(call), ([name, values]) => ({
        name: storedScale(call.prefix + name),
        dtype: "f32",
        shape: [values.length],
        values,
      })),
    restore: (call, stored) => {
      for (const { name } of inputs(call)) {
        const own = stored.find((tensor) => tensor.name === storedScale(call.prefix + name));
        if (own) found.set(call.prefix + name, Float32Array.from(own.values));
      }
    },
  };
}
