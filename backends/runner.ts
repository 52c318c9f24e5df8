/**
 * @file Runs programs and modules on a backend: binds symbols, compiles each program once per shape, walks the calls of a
 * module with named values. Calibration, allocation, evaluation and sessions all run models through it.
 */
import type { Symbols } from "../ir/dim.ts";
import { memoOf } from "../ir/memo.ts";
import { type Call, functionOf, type Module } from "../ir/module.ts";
import { type Graph, leavesOf, nameOf } from "../ir/node.ts";
import { bindSymbols, symbolsOf } from "../ir/symbols.ts";
import type { Backend, CompileOptions, Executable, Tensor } from "./backend.ts";

/** Tensors by name. */
export type Tensors = Readonly<Record<string, Tensor>>;

/** A backend with the programs that were compiled for it. They live as long as the graphs they were made of. */
export interface Runner {
  readonly backend: Backend;
  /**
   * The program of a graph at these sizes, compiled at the first request.
   *
   * @param symbols sizes of all symbols of the graph; others are passed over
   */
  program(graph: Graph, symbols?: Symbols, options?: CompileOptions): Promise<Executable>;
  /** Runs that program; see `Backend.run`. */
  call(graph: Graph, symbols: Symbols, leaves: Tensors, outputs?: Tensors, options?: CompileOptions): Promise<Tensors>;
}

/** Which outputs are written where, as text; made once per object, since decoding asks for every call of every token. */
const inPlaceKey = memoOf((inPlace: NonNullable<CompileOptions["inPlace"]>): string =>
  JSON.stringify(Object.entries(inPlace).sort())
);

/** The programs of one graph, by sizes and options. */
interface Known {
  readonly symbols: readonly string[];
  readonly programs: Map<string, Promise<Executable>>;
}

/** A runner that has compiled nothing yet. */
export function createRunner(backend: Backend): Runner {
  const known = new WeakMap<Graph, Known>();
  const program = (graph: Graph, symbols: Symbols = {}, options: CompileOptions = {}): Promise<Executable> => {
    const own = known.get(graph) ?? { symbols: symbolsOf(graph), programs: new Map<string, Promise<Executable>>() };
    known.set(graph, own);
    const key = own.symbols.map((name) => symbols[name]).join() + (options.inPlace ? inPlaceKey(options.inPlace) : "");
    const found = own.programs.get(key);
    if (found) return found;
    const made = Promise.try(() => backend.compile(bindSymbols(graph, symbols), options));
    own.programs.set(key, made);
    // A failure is reported to whoever waits, not remembered.
    made.catch(() => own.programs.delete(key));
    return made;
  };
  return {
    backend,
    program,
    call: async (graph, symbols, leaves, outputs, options) =>
      backend.run(await program(graph, symbols, options), leaves, outputs),
  };
}

/** What a call needs beside parameters and values. */
export interface CallState {
  /** Leaves that live longer than one walk, such as caches. */
  readonly leaves: Tensors;
  /** How the call's program is compiled, for example which of its outputs overwrite those leaves. */
  readonly options: CompileOptions;
}

/** How a walk treats memory and state. */
export interface WalkOptions {
  /** Called after each call with its parameters, so that blocks can stream through memory one at a time. */
  readonly release?: (call: Call, parameters: Tensors) => void;
  /** Tensors that are not freed when their name gets another value. */
  readonly keep?: ReadonlySet<Tensor>;
  readonly state?: (call: Call) => CallState | undefined;
}

/**
 * Runs calls of a module in order. Results are put into `values`; a tensor that no name there stands for any more is freed,
 * and so are results that have no name.
 *
 * @param symbols sizes of the symbols of all functions
 * @param values tensors by name of the value
 * @param parameters the parameters of a call, by local name; asked for when the call's turn comes
 */
export async function runCalls(
  runner: Runner,
  module: Module,
  calls: readonly Call[],
  symbols: Symbols,
  values: Map<string, Tensor>,
  parameters: (call: Call) => Tensors | Promise<Tensors>,
  { release, keep, state }: WalkOptions = {},
): Promise<void> {
  for (const call of calls) {
    const graph = functionOf(module, call),
      own = await parameters(call),
      { leaves: lasting = NOTHING, options } = state?.(call) ?? {};
    const executable = await runner.program(graph, symbols, options), leaves = leavesFor(own, lasting);
    for (const name of inputNames(graph)) if (!lasting[name]) leaves[name] = valueOf(call, name, values);
    const results = runner.backend.run(executable, leaves);
    release?.(call, own);
    const lost = new Set<Tensor>();
    for (const output in results) {
      const tensor = results[output] as Tensor, name = call.outputs[output];
      const old = name === undefined ? tensor : values.get(name);
      if (old) lost.add(old);
      if (name !== undefined) values.set(name, tensor);
    }
    for (const tensor of values.values()) lost.delete(tensor);
    for (const name in lasting) lost.delete(lasting[name] as Tensor);
    for (const tensor of lost) if (!keep?.has(tensor)) runner.backend.free(tensor);
  }
}

const NOTHING: Tensors = {};

const inputNames = memoOf((graph: Graph): readonly string[] => leavesOf(graph, "input").map(nameOf));

/** A call's parameters with what else lasts, and room for its values. */
interface CallLeaves {
  readonly lasting: Tensors;
  readonly leaves: Record<string, Tensor>;
}

/**
 * Leaves by the parameters of a call. Decoding binds the same parameters at every token, and copying their names took longer than all
 * else that the host does for a run. Between filling in values and running nothing is waited for, so that walks may take turns.
 */
const knownLeaves = new WeakMap<Tensors, CallLeaves>();

function leavesFor(own: Tensors, lasting: Tensors): Record<string, Tensor> {
  const known = knownLeaves.get(own);
  if (known?.lasting === lasting) return known.leaves;
  const leaves = { ...own, ...lasting };
  knownLeaves.set(own, { lasting, leaves });
  return leaves;
}

/** The tensor that a call passes to an input of its function. */
function valueOf(call: Call, input: string, values: ReadonlyMap<string, Tensor>): Tensor {
  const value = call.inputs[input], tensor = value === undefined ? undefined : values.get(value);
  if (tensor) return tensor;
  const known = [...values.keys()].map((name) => `"${name}"`).join(", ") || "none";
  throw new RangeError(
    `Cannot call "${call.function}": expected a value "${value ?? input}" for its input "${input}" but found ${known}`,
  );
}
