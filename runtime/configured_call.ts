/** @file One call of an elastic model at some configuration: its step program, and the tensors that program needs. */
import type { Tensor } from "../backends/backend.ts";
import type { Tensors } from "../backends/runner.ts";
import { memoOf } from "../ir/memo.ts";
import type { Call } from "../ir/module.ts";
import { type Graph, leavesOf, nameOf } from "../ir/node.ts";
import { refinedSet } from "../compiler/artifact/refined.ts";
import { type BitConfig, type LocalWidths, localWidths } from "../ir/sites.ts";
import type { TensorType } from "../ir/types.ts";
import type { ElasticSource } from "./elastic_source.ts";
import type { CodedWeights, ElasticPrograms } from "./programs.ts";

/** A call that can be run, and switched to other widths. */
export interface ConfiguredCall {
  readonly call: Call;
  readonly step: Graph;
  /** Parameters of the step program, by local name. */
  readonly parameters: Tensors;
  /** The call at other widths: weights that stay as they are keep their codes. Afterwards the old one must not be used. */
  switchTo(precision: CallPrecision): Promise<ConfiguredCall>;
  free(): void;
}

/** A model's configuration, as far as it concerns one call. */
export interface CallPrecision {
  readonly widths: LocalWidths;
  /** The number of the refined mixture that it is, whose learned values the call takes. */
  readonly set?: number;
}

/** What each call of a model does at a configuration of all its sites. */
export function callPrecisions({ sites, refined }: ElasticSource, config: BitConfig): (call: Call) => CallPrecision {
  const set = refinedSet(config, sites, refined);
  return ({ prefix }) => ({ widths: localWidths(config, prefix), ...(set === undefined ? {} : { set }) });
}

/** Packed codes with scales and zero points of one weight, or of a stack. */
interface Codes {
  readonly width: number;
  readonly set: number | undefined;
  readonly tensors: Tensors;
}

/** The state of a call that `switchTo` hands on. */
interface State {
  readonly codes: ReadonlyMap<string, Codes>;
  readonly held: Tensors;
}

/**
 * Configures a call: makes the codes of its weights, and loads what else the step program reads.
 *
 * @param atLast is told when only the last weight is left to be made: the time to read ahead what comes behind the call
 */
export function configureCall(
  source: ElasticSource,
  programs: ElasticPrograms,
  call: Call,
  precision: CallPrecision,
  atLast?: () => void,
): Promise<ConfiguredCall> {
  return configure(source, programs, call, precision, { codes: new Map(), held: {} }, atLast);
}

/** Begins to read what configuring a call is going to load first, if its source can. */
export function readCallAhead(
  source: ElasticSource,
  programs: ElasticPrograms,
  call: Call,
  { widths, set }: CallPrecision,
): void {
  if (!source.ahead) return;
  const [first] = programs.weights(call, widths);
  if (first) readWeightsAhead(source, programs, call, first, set);
  else source.ahead(call, heldParameters(programs.step(call, widths)));
}

async function configure(
  source: ElasticSource,
  programs: ElasticPrograms,
  call: Call,
  { widths, set }: CallPrecision,
  old: State,
  atLast?: () => void,
): Promise<ConfiguredCall> {
  const step = programs.step(call, widths);
  const needed = heldParameters(step), codes = new Map<string, Codes>(), made: Tensors[] = [];
  const missing = new Map([...needed].filter(([name]) => !old.held[name]));
  let loaded: Tensors;
  try {
    const asked: CodedWeights[] = [];
    for (const weights of programs.weights(call, widths)) {
      const { name, width } = weights, known = old.codes.get(name);
      if (known?.width === width && known.set === set) codes.set(name, known);
      else asked.push(weights);
    }
    if (asked.length === 0) atLast?.();
    for (const [i, weights] of asked.entries()) {
      const next = asked[i + 1];
      if (next) readWeightsAhead(source, programs, call, next, set);
      else {
        source.ahead?.(call, missing);
        atLast?.();
      }
      const tensors = await makeCodes(source, programs, call, weights, set);
      made.push(tensors);
      codes.set(weights.name, { width: weights.width, set, tensors });
    }
    loaded = await source.load(call, missing);
  } catch (error) {
    // The old state stays usable.
    for (const tensors of made) freeAll(source, tensors);
    throw error;
  }
  for (const [name, { tensors }] of old.codes) if (codes.get(name)?.tensors !== tensors) freeAll(source, tensors);
  source.release(call, pick(old.held, (name) => !needed.has(name)));
  const held = { ...pick(old.held, (name) => needed.has(name)), ...loaded };
  const all: Tensors = Object.assign({}, held, ...[...codes.values()].map(({ tensors }) => tensors));
  const names = [...leavesOf(step, "param").map(nameOf)], absent = names.find((name) => !all[name]);
  if (absent !== undefined) {
    throw new Error(`Internal error in configureCall: nothing provides the parameter "${absent}"`);
  }
  return {
    call,
    step,
    parameters: pick(all, (name) => names.includes(name)),
    switchTo: (next) => configure(source, programs, call, next, { codes, held }),
    free: () => {
      for (const { tensors } of codes.values()) freeAll(source, tensors);
      source.release(call, held);
    },
  };
}

/** Runs the switch program of one weight, or of a stack. */
async function makeCodes(
  source: ElasticSource,
  programs: ElasticPrograms,
  call: Call,
  weights: CodedWeights,
  set: number | undefined,
): Promise<Tensors> {
  const { runner } = source, graph = programs.switch(call, weights), { outputs } = await runner.program(graph);
  // What stays is allocated before what is given back, so that nothing lies behind a gap.
  const codes: Record<string, Tensor> = {};
  try {
    for (const [name, type] of Object.entries(outputs)) codes[name] = runner.backend.allocate(type, "unset");
    const leaves = await loadEarly(source, call, graph, set);
    try {
      return await runner.call(graph, {}, leaves, codes);
    } finally {
      source.release(call, leaves);
    }
  } catch (error) {
    freeAll(source, codes);
    throw error;
  }
}

/** Begins to read what the switch program of a weight, or of a stack, is going to load. */
function readWeightsAhead(
  source: ElasticSource,
  programs: ElasticPrograms,
  call: Call,
  weights: CodedWeights,
  set: number | undefined,
): void {
  for (const { leaves, from } of earlyReads(programs.switch(call, weights), set)) source.ahead?.(call, leaves, from);
}

async function loadEarly(source: ElasticSource, call: Call, graph: Graph, set: number | undefined): Promise<Tensors> {
  let loaded: Tensors = {};
  try {
    for (const { leaves, from } of earlyReads(graph, set)) {
      loaded = { ...loaded, ...await source.load(call, leaves, from) };
    }
    return loaded;
  } catch (error) {
    source.release(call, loaded);
    throw error;
  }
}

/**
 * What a switch program reads: held of the checkpoint, and learned, by all or by a refined mixture. Together where it can be, since it
 * may lie near each other.
 */
const earlyReads = (
  graph: Graph,
  set: number | undefined,
): readonly { readonly leaves: ReadonlyMap<string, TensorType>; readonly from?: number }[] =>
  set === undefined
    ? [{ leaves: earlyParameters(graph) }]
    : [{ leaves: heldParameters(graph) }, { leaves: learnedParameters(graph), from: set }];

const earlyParameters = memoOf((graph: Graph) => typesOf(graph, ["checkpoint", "calibration"]));
const heldParameters = memoOf((graph: Graph) => typesOf(graph, ["checkpoint"]));
const learnedParameters = memoOf((graph: Graph) => typesOf(graph, ["calibration"]));

const typesOf = (graph: Graph, times: readonly unknown[]): ReadonlyMap<string, TensorType> =>
  new Map(
    leavesOf(graph, "param").filter(({ attrs }) => times.includes(attrs.time)).map((node) => [nameOf(node), node.type]),
  );

const pick = (tensors: Tensors, wanted: (name: string) => boolean): Tensors =>
  Object.fromEntries(Object.entries(tensors).filter(([name]) => wanted(name)));

function freeAll({ runner: { backend } }: ElasticSource, tensors: Tensors): void {
  for (const tensor of Object.values(tensors)) backend.free(tensor);
}
