/**
 * A model: functions and the list of their calls. All blocks of a decoder are calls of one function with other parameter
 * prefixes; named values pass between calls, so towers, projectors and stages of other shapes need nothing special.
 */
import { type Graph, leavesOf, nameOf } from "./node.ts";
import type { TensorType } from "./types.ts";

/** One call: inputs of the function by the values they receive, results by the names they get. */
export interface Call {
  readonly function: string;
  /** Put before the names of the function's parameters, holds and sites: `layers.3.`. */
  readonly prefix: string;
  /** Function input -> name of a value. */
  readonly inputs: Readonly<Record<string, string>>;
  /** Function output -> name of a value. A name that exists already is given the new value. */
  readonly outputs: Readonly<Record<string, string>>;
}

/** A parameter that no checkpoint holds: tables of positions, signs of rotations. */
export interface Derived {
  readonly type: TensorType;
  /** Computes the values, in row-major order. */
  readonly generate: () => Float32Array;
}

/** Functions, the calls that make the model, and the parameters that are computed rather than loaded. */
export interface Module {
  readonly functions: Readonly<Record<string, Graph>>;
  readonly calls: readonly Call[];
  /** Values given from outside, by name. */
  readonly inputs: readonly string[];
  /** Values that the model returns, by name. */
  readonly outputs: readonly string[];
  /** By global parameter name (prefix included). */
  readonly derived: Readonly<Record<string, Derived>>;
}

/** The function of a call; throws when the module lacks it. */
export function functionOf(module: Module, call: Call): Graph {
  const graph = module.functions[call.function];
  if (graph) return graph;
  throw new RangeError(
    `Expected a function "${call.function}" but found ${Object.keys(module.functions).join(", ") || "none"}`,
  );
}

/** Global names of the parameters a call needs, with their types. */
export function parametersOf(module: Module, call: Call): ReadonlyMap<string, TensorType> {
  return new Map(leavesOf(functionOf(module, call), "param").map((node) => [call.prefix + nameOf(node), node.type]));
}

/** A module with its functions replaced one by one; a pass on modules is a pass on graphs, mapped. */
export function mapFunctions(module: Module, change: (graph: Graph, name: string) => Graph): Module {
  const functions = Object.fromEntries(Object.entries(module.functions).map(([name, g]) => [name, change(g, name)]));
  return { ...module, functions };
}
