/** Runs whole modules on the reference backend: the truth that passes, backends and sessions are compared with. */
import { evaluate, type EvaluateOptions } from "../../backends/reference/evaluate.ts";
import { functionOf, type Module } from "../../ir/module.ts";
import { leavesOf, nameOf } from "../../ir/node.ts";
import { bindSymbols } from "../../ir/symbols.ts";
import type { Dim, Symbols } from "../../ir/dim.ts";
import type { TensorType } from "../../ir/types.ts";

/** Values of a parameter by its global name; derived ones are not asked for. */
export type Load = (name: string, type: TensorType) => Promise<Float64Array>;

/** A value given to a module. */
export interface ModuleInput {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

/**
 * Runs all calls in order. Symbols are bound per call by comparing its inputs' shapes with those declared.
 *
 * @param inputs the module's inputs, by name
 * @returns the module's outputs, by name
 */
export async function runModule(
  module: Module,
  inputs: Readonly<Record<string, ModuleInput>>,
  load: Load,
  options: EvaluateOptions = {},
): Promise<Record<string, Float64Array>> {
  const values = new Map<string, ModuleInput>(Object.entries(inputs));
  const valueNamed = (name: string): ModuleInput => {
    const value = values.get(name);
    if (value) return value;
    throw new RangeError(`Expected a value "${name}" but found ${[...values.keys()].join(", ")}`);
  };
  for (const call of module.calls) {
    const declared = functionOf(module, call), symbols: Record<string, number> = {};
    for (const node of leavesOf(declared, "input")) {
      bindShape(node.type.shape, valueNamed(call.inputs[nameOf(node)] ?? "").shape, symbols);
    }
    const graph = bindSymbols(declared, symbols), leaves: Record<string, Float64Array> = {};
    for (const node of leavesOf(graph, "input")) {
      leaves[nameOf(node)] = valueNamed(call.inputs[nameOf(node)] ?? "").data;
    }
    for (const node of leavesOf(graph, "param")) {
      const name = call.prefix + nameOf(node), derived = module.derived[name];
      leaves[nameOf(node)] = derived ? Float64Array.from(derived.generate()) : await load(name, node.type);
    }
    const results = evaluate(graph, leaves, options);
    for (const { name, node } of graph.outputs) {
      const data = results[name];
      if (data) values.set(call.outputs[name] ?? name, { shape: node.type.shape.map(Number), data });
    }
  }
  return Object.fromEntries(module.outputs.map((name) => [name, valueNamed(name).data]));
}

function bindShape(declared: readonly Dim[], found: readonly number[], symbols: Record<string, number>): Symbols {
  declared.forEach((dim, i) => {
    if (typeof dim === "string" && /^[A-Z]\w*$/.test(dim)) symbols[dim] ??= found[i] ?? 1;
  });
  return symbols;
}

/** The `ids` and `positions` of one sequence that starts at position 0. */
export function tokenInputs(ids: readonly number[]): Readonly<Record<string, ModuleInput>> {
  const shape = [1, ids.length];
  return {
    ids: { shape, data: Float64Array.from(ids) },
    positions: { shape, data: Float64Array.from(ids.keys()) },
  };
}

/** The largest absolute difference of two lists of numbers; infinite where they differ in length or hold NaN. */
export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Infinity;
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs((a[i] ?? NaN) - (b[i] ?? NaN));
    if (!(difference <= largest)) largest = Number.isNaN(difference) ? Infinity : difference;
  }
  return largest;
}
