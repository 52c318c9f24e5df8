/**
 * @file Runs programs on a backend: binds symbols, compiles each program once per shape, walks calls with named values. Calibration,
 * allocation, evaluation and sessions all run models through it.
 */
import type { Symbols } from "../ir/dim.ts";
import { memoOf } from "../ir/memo.ts";
import type { Call } from "../ir/module.ts";
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

/** One call of a walk. */
export interface WalkStep {
  /** Which values it takes and gives, by name. */
  readonly call: Call;
  /** What it computes. */
  readonly graph: Graph;
  /** By local name. */
  readonly parameters: Tensors;
  readonly state?: CallState | undefined;
}

/**
 * Runs calls one after the other. Results are put into `values`, tensors by name of the value; a tensor that no name there stands for
 * any more is freed, and so are results that have no name.
 *
 * @throws {RangeError} if a value is missing
 */
export type Walk = (values: Map<string, Tensor>) => void;

/** A step with everything that is the same whenever it is walked. */
interface PreparedStep {
  readonly call: Call;
  readonly executable: Executable;
  /** Inputs that are values. */
  readonly inputs: readonly string[];
  /** Parameters and state, and room for values. */
  readonly leaves: Record<string, Tensor>;
  readonly lasting: readonly Tensor[];
}

/**
 * Prepares a walk: it may be walked again and again, on other values. Decoding walks at every token, and looking up programs and
 * hundreds of names took as long as all else that the host does for one.
 *
 * @param symbols sizes of the symbols of all graphs
 */
export async function prepareWalk(
  { backend, program }: Runner,
  steps: readonly WalkStep[],
  symbols: Symbols,
): Promise<Walk> {
  const prepared: PreparedStep[] = [];
  for (const { call, graph, parameters, state } of steps) {
    const own = state?.leaves ?? {};
    prepared.push({
      call,
      executable: await program(graph, symbols, state?.options),
      inputs: leavesOf(graph, "input").map(nameOf).filter((name) => !own[name]),
      leaves: { ...parameters, ...own },
      lasting: Object.values(own),
    });
  }
  return (values) => {
    for (const { call, executable, inputs, leaves, lasting } of prepared) {
      for (const name of inputs) leaves[name] = valueOf(call, name, values);
      const results = backend.run(executable, leaves), lost = new Set<Tensor>();
      for (const output in results) {
        const tensor = results[output] as Tensor, name = call.outputs[output];
        const old = name === undefined ? tensor : values.get(name);
        if (old) lost.add(old);
        if (name !== undefined) values.set(name, tensor);
      }
      for (const tensor of values.values()) lost.delete(tensor);
      for (const tensor of lasting) lost.delete(tensor);
      for (const tensor of lost) backend.free(tensor);
    }
  };
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
