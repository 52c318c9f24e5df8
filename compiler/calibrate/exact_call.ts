/** A call of the full-precision module with its weights on the backend. */
import type { HostArray, Tensor } from "../../backends/backend.ts";
import type { Symbols } from "../../ir/dim.ts";
import { type Call, functionOf, type Module } from "../../ir/module.ts";
import type { Graph } from "../../ir/node.ts";
import { stage } from "../passes/stage.ts";
import type { Batches, Values } from "./batches.ts";
import { type LoadParameter, prepareCall } from "./prepare_call.ts";
import { createPool, type Programs } from "./programs.ts";
import { TRAIN_LEAVES } from "./train_program.ts";

/** An open call; `release` frees its weights. */
export interface ExactCall {
  /** Runs the call, or another function of the same held values: named values in, the program's outputs by their names. */
  results(program: ExactProgram, values: Values, symbols: Symbols): Promise<ReadonlyMap<string, HostArray>>;
  /** The named values behind the call. */
  run(values: Values, symbols: Symbols): Promise<Values>;
  release(): void;
}

/** A function over the call's held values and inputs; equal names are compiled once. */
export interface ExactProgram {
  readonly name: string;
  readonly graph: () => Graph;
}

/**
 * What a program puts out, summed over batches, by output: as many of them as `track` has values in front of the call for, each with
 * its tokens' weights.
 *
 * @param more values that are the same for all of them
 */
export async function sumResults(
  exact: ExactCall,
  program: ExactProgram,
  { batch, tokens, list }: Batches,
  track: readonly Values[],
  more: Values = new Map(),
): Promise<ReadonlyMap<string, Float64Array>> {
  const sums = new Map<string, Float64Array>();
  for (const [i, given] of track.entries()) {
    const weights: HostArray = list[i]?.weights ?? new Float32Array();
    const values = new Map([...given, ...more, [TRAIN_LEAVES.tokenWeights, weights] as const]);
    for (const [output, part] of await exact.results(program, values, { B: batch, T: tokens })) {
      const sum = sums.get(output) ?? new Float64Array(part.length);
      part.forEach((value, at) => sum[at] = (sum[at] ?? 0) + value);
      sums.set(output, sum);
    }
  }
  return sums;
}

/** Prepares a call's weights. */
export async function openExact(
  input: { readonly programs: Programs; readonly load: LoadParameter },
  module: Module,
  call: Call,
): Promise<ExactCall> {
  const { programs } = input, { backend } = programs, graph = functionOf(module, call);
  const weights = createPool(backend), { held } = await prepareCall(input, module, call, weights);
  const step: ExactProgram = { name: call.function, graph: () => stage(graph).step };
  const results: ExactCall["results"] = async (program, values, symbols) => {
    const run = await programs.get(`exact ${program.name}`, program.graph, symbols), pool = createPool(backend);
    const leaves: Record<string, Tensor> = {};
    for (const [name, type] of Object.entries(run.leaves)) {
      const tensor = held[name], value = values.get(call.inputs[name] ?? name);
      if (tensor) leaves[name] = tensor;
      else if (value !== undefined) leaves[name] = pool.upload(type, value);
    }
    const found = new Map<string, HostArray>();
    for (const [name, tensor] of Object.entries(backend.run(run, leaves))) {
      found.set(name, (await backend.download(pool.keep(tensor))).slice());
    }
    pool.release();
    return found;
  };
  return {
    results,
    run: async (values, symbols) => {
      const after: Values = new Map(values);
      for (const [name, value] of await results(step, values, symbols)) after.set(call.outputs[name] ?? name, value);
      return after;
    },
    release: () => weights.release(),
  };
}
