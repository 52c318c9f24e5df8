/**
 * What measurements of mixed precision share: a bounded set of tokens, the full-precision run over it, weights as they are at
 * any width, and the KL divergence of next-token distributions at the end of the model.
 */
import type { Executable, HostArray, Tensor } from "../../backends/backend.ts";
import { createBuilder } from "../../ir/builder.ts";
import { logSoftmax } from "../../ir/composites/activations.ts";
import type { Symbols } from "../../ir/dim.ts";
import { type Call, functionOf, type Module } from "../../ir/module.ts";
import { type Graph, graphOf, nameOf, type Node } from "../../ir/node.ts";
import type { SiteRole } from "../../ir/ops/state.ts";
import { inline } from "../../ir/rewrite.ts";
import { type LocalWidths, sitesOf, symmetricTop } from "../../ir/sites.ts";
import { type TensorType, tensorType, type Width } from "../../ir/types.ts";
import { batchesOf } from "../calibrate/batches.ts";
import { prepareCall } from "../calibrate/prepare_call.ts";
import { createPool, type Programs, type TensorPool } from "../calibrate/programs.ts";
import type { CallStore } from "../calibrate/store.ts";
import { TRAIN_LEAVES } from "../calibrate/train_program.ts";
import { contractIntegers } from "../passes/contract_integers.ts";
import { insertActivationQuantizers } from "../passes/quantize/insert_activation_quantizers.ts";
import { linearsOf } from "../passes/quantize/linears.ts";
import { specialize, topName } from "../passes/quantize/specialize.ts";
import { prepareGraph, stage, trainGraph } from "../passes/stage.ts";
import type { Recipe } from "../recipe.ts";

/** What is measured on what. */
export interface MeasureInput {
  readonly programs: Programs;
  /** The model in full precision and the elastic one, of one recipe. */
  readonly structure: Module;
  readonly elastic: Module;
  readonly recipe: Recipe;
  /** The calibrated tensors of every call. */
  readonly store: Pick<CallStore, "read">;
  readonly load: (name: string, type: TensorType) => Promise<HostArray>;
  readonly sequences: readonly Int32Array[];
  /** At most so many tokens, in sequences of at most 128. */
  readonly tokens: number;
  /** Full-precision weights that stay for the next use, in bytes, at least those of one call; 512 MiB unless given. */
  readonly heldBytes?: number;
  /** Values of the paths that walk through the model together, in bytes, at least those of one path; 256 MiB unless given. */
  readonly pathBytes?: number;
  readonly report?: (done: number, all: number) => void;
}

/** Named values of the model on the backend. */
export type TensorValues = Readonly<Record<string, Tensor>>;

/** The measuring bench; `release` frees everything it holds. */
export interface MeasureBench {
  /** The values in front of the first call. */
  readonly start: TensorValues;
  /** Local names of the weight sites of a call. */
  sites(call: number): readonly string[];
  /** The full-precision weights of a call; to be used before those of another call are asked for. */
  held(call: number): Promise<TensorValues>;
  /** Every weight of a call dequantized at one width, by site, in the shape that the call contracts it in. */
  weights(call: number, width: Width, pool: TensorPool): Promise<TensorValues>;
  /** The values behind a call, some of its weights replaced and activations quantized; whoever asks for them discards them. */
  forward(
    call: number,
    replaced: TensorValues,
    before: TensorValues,
    activations?: LocalWidths,
  ): Promise<TensorValues>;
  /** How many paths may walk through the model together; see `pathsTogether`. */
  readonly together: number;
  /** Frees values, but not those that are also among what is kept or stand in front of the first call. */
  discard(values: Iterable<TensorValues>, kept: Iterable<TensorValues>): void;
  /** Mean KL(full ‖ quantized) per token, in nats, given the values in front of the last call. */
  divergence(before: TensorValues): Promise<number>;
  release(): void;
}

/** A bound, so that memory does not grow with depth. */
const HELD_BYTES = 2 ** 29;

const SEQUENCE = 128;

/** Paths that walk through the model together read its weights once for all; their values are bounded, too. */
const MOST_PATHS = 64;
const PATH_BYTES = 2 ** 28;

/** The sequences that are measured on: the first ones. */
export const measuredSequences = (
  { sequences, tokens }: Pick<MeasureInput, "sequences" | "tokens">,
): readonly Int32Array[] =>
  sequences.slice(0, Math.max(1, Math.floor(tokens / Math.min(SEQUENCE, longest(sequences)))));

/** Runs the model in full precision over the first tokens and keeps what measurements need. */
export async function openBench(input: MeasureInput): Promise<MeasureBench> {
  const { programs, structure, elastic, sequences, tokens } = input, { backend } = programs;
  const cut = measuredSequences({ sequences, tokens });
  const { batch, symbols } = measuredBatch(cut);
  const pool = createPool(backend), shape = [symbols.B, symbols.T], ids = tensorType("i32", shape);
  const start: TensorValues = { ids: pool.upload(ids, batch.ids), positions: pool.upload(ids, batch.positions) };
  const tokenWeights = pool.upload(tensorType("f32", [...shape, 1]), batch.weights);

  const { calls } = structure, last = calls.length - 1, head = headOf(structure);
  const weights = heldWeights(input);
  const forward: MeasureBench["forward"] = async (index, replaced, before, activations = {}) => {
    const call = calls[index] as Call, program = await forwardOf(input, call, symbols, activations);
    const tops = createPool(backend), leaves: Record<string, Tensor> = { ...await weights.of(index), ...replaced };
    for (const [name, value] of Object.entries(call.inputs)) leaves[name] = before[value] as Tensor;
    for (const [site, width] of Object.entries(activations)) {
      leaves[topName(site)] = tops.upload(tensorType("f32", [1]), Float32Array.of(symmetricTop(width as Width)));
    }
    const results = backend.run(program, pick(program.leaves, leaves));
    tops.release();
    for (const tensor of Object.values(results)) open.add(tensor);
    const named = Object.entries(results).map(([name, tensor]) => [call.outputs[name] ?? name, tensor]);
    return { ...before, ...Object.fromEntries(named) };
  };
  /** Results that have not been discarded. */
  const open = new Set<Tensor>();
  const discard: MeasureBench["discard"] = (values, kept) => {
    const alive = new Set([...kept].flatMap((each) => Object.values(each)));
    for (const tensor of new Set([...values].flatMap((each) => Object.values(each)))) {
      if (!alive.has(tensor) && open.delete(tensor)) backend.free(tensor);
    }
  };
  let exact = start;
  for (let index = 0; index < last; index++) {
    const after = await forward(index, {}, exact);
    discard([exact], [after]);
    exact = after;
  }
  const program = await divergenceOf(input, symbols),
    together = pathsTogether(await valueBytes(input, symbols), input.pathBytes);

  return {
    start,
    together,
    sites: (index) => weightSites(elastic, elastic.calls[index]),
    held: weights.of,
    weights: async (index, width, scratch) => {
      const own = await weights.of(index), made = await effectiveWeights(input, index, width, scratch);
      // The same values in the same order, under the shape that the function contracts them in.
      return Object.fromEntries(
        Object.entries(made).map(([site, weight]) => [site, backend.view(weight, 0, own[site]?.type ?? weight.type)]),
      );
    },
    forward,
    discard,
    divergence: async (before) => {
      const leaves: Record<string, Tensor> = { ...await weights.of(last), [TRAIN_LEAVES.tokenWeights]: tokenWeights };
      for (const [name, value] of Object.entries(head.inputs)) {
        leaves[name] = exact[value] as Tensor;
        leaves[`quantized.${name}`] = before[value] as Tensor;
      }
      const result = backend.run(program, pick(program.leaves, leaves)).kl as Tensor;
      const [kl = NaN] = await backend.download(result);
      backend.free(result);
      return Math.max(0, kl);
    },
    release: () => {
      // Measuring may have been stopped anywhere.
      for (const tensor of open) backend.free(tensor);
      open.clear();
      weights.release();
      pool.release();
    },
  };
}

/** What decides which programs run. */
export type MeasurePlanInput = Omit<MeasureInput, "store" | "load" | "report">;

/** Compiles every program that measuring runs: they work in the memory that all programs share. */
export async function compileBench(input: MeasurePlanInput, symbols: Symbols): Promise<void> {
  const { structure, elastic, recipe } = input, known = new Set<string>();
  await divergenceOf(input, symbols);
  for (const [index, call] of elastic.calls.slice(0, -1).entries()) {
    if (known.has(call.function)) continue;
    known.add(call.function);
    const exact = structure.calls[index] as Call, activations = measuredActivations(input, call);
    await forwardOf(input, exact, symbols, {});
    for (const width of activations.length > 0 ? recipe.bitGroups.flat() : []) {
      const widths = Object.fromEntries(activations.map((name) => [name, width]));
      await forwardOf(input, exact, symbols, widths);
    }
    const widths = weightSites(elastic, call).length > 0 ? recipe.bitGroups.flat() : [];
    for (const width of widths) await weightsProgramOf(input, call, width);
  }
}

/** Bytes of the values that each call but the last gives, by their names in the model. */
export function valueBytes(
  input: Pick<MeasureInput, "programs" | "structure" | "recipe">,
  symbols: Symbols,
): Promise<readonly ReadonlyMap<string, number>[]> {
  const { programs: { backend }, structure: { calls } } = input;
  return Promise.all(
    calls.slice(0, -1).map(async (call) => {
      const { outputs } = await forwardOf(input, call, symbols, {});
      return new Map(
        Object.entries(outputs).map(([name, type]) => [call.outputs[name] ?? name, backend.bytesOf(type)]),
      );
    }),
  );
}

/** How many paths may walk together, by the values of one of them at its largest: few where a model is wide. */
export function pathsTogether(values: readonly ReadonlyMap<string, number>[], pathBytes = PATH_BYTES): number {
  const largest = Math.max(1, ...values.map((own) => [...own.values()].reduce((a, b) => a + b, 0)));
  return Math.min(MOST_PATHS, Math.max(1, Math.floor(pathBytes / largest)));
}

/** The sequences as one batch. */
export function measuredBatch(sequences: readonly Int32Array[]) {
  const [batch] = batchesOf(sequences, sequences.length, SEQUENCE).list;
  if (!batch) throw new RangeError("Expected at least one sequence to measure on but found none");
  return { batch, symbols: { B: sequences.length, T: batch.ids.length / sequences.length } };
}

function headOf({ calls }: Module): Call {
  const head = calls.at(-1);
  if (!head) throw new RangeError("Expected a module with calls but found none");
  return head;
}

function divergenceOf({ programs, structure }: Pick<MeasureInput, "programs" | "structure">, symbols: Symbols) {
  const head = headOf(structure), step = stage(functionOf(structure, head)).step;
  return programs.get(`divergence ${head.function}`, () => divergenceProgram(step, head), symbols);
}

/** A call of the full-precision model, some of its activations quantized: at widths of one clip by the same program. */
function forwardOf(
  { programs, structure, recipe: { scheme } }: Pick<MeasureInput, "programs" | "structure" | "recipe">,
  call: Call,
  symbols: Symbols,
  activations: LocalWidths,
): Promise<Executable> {
  const clips = Object.entries(activations).map(([site, width]) => `${site} ${scheme.activationClip[width as Width]}`);
  const build = (): Graph => {
    const graph = functionOf(structure, call);
    return clips.length === 0
      ? stage(graph).step
      : stage(specialize(insertActivationQuantizers(graph), activations, scheme, "train")).step;
  };
  return programs.get(["exact", call.function, ...clips.sort()].join(" "), build, symbols);
}

/** Local names of the activations that are measured with a call's weights: where a recipe serves nothing else. */
export const measuredActivations = (
  { elastic, recipe }: Pick<MeasureInput, "elastic" | "recipe">,
  call: Call,
): readonly string[] => recipe.track === "activations" ? sitesOfRole(elastic, call, "activation") : [];

/** Every weight of a call at one width, from what the store has of it. */
export const weightsProgramOf = (
  { programs, elastic, recipe }: Pick<MeasureInput, "programs" | "elastic" | "recipe">,
  call: Call,
  width: Width,
): Promise<Executable> =>
  programs.get(`weights ${call.function} ${width}`, () => weightProgram(functionOf(elastic, call), recipe, width));

/** Bytes of a call's full-precision weights. */
const heldBytesOf = (
  { programs: { backend }, structure }: Pick<MeasureInput, "programs" | "structure">,
  call: Call,
) => prepareGraph(functionOf(structure, call)).outputs.reduce((sum, { node }) => sum + backend.bytesOf(node.type), 0);

/** Which of the held ones have to go before `bytes` more are there: those that were not used for longest. */
export function displaced<K>(held: ReadonlyMap<K, number>, bytes: number, heldBytes = HELD_BYTES): K[] {
  const gone: K[] = [];
  let all = bytes + [...held.values()].reduce((a, b) => a + b, 0);
  for (const [key, own] of held) {
    if (all <= heldBytes) break;
    gone.push(key);
    all -= own;
  }
  return gone;
}

/** The full-precision weights of calls, as many at a time as fit. */
function heldWeights(input: MeasureInput) {
  const { programs, structure, heldBytes } = input;
  const known = new Map<
    number,
    { readonly tensors: TensorValues; readonly pool: TensorPool; readonly bytes: number }
  >();
  const of = async (index: number): Promise<TensorValues> => {
    const before = known.get(index);
    if (before) {
      known.delete(index);
      known.set(index, before);
      return before.tensors;
    }
    const call = structure.calls[index] as Call, bytes = heldBytesOf(input, call);
    for (const other of displaced(new Map(Array.from(known, ([key, own]) => [key, own.bytes])), bytes, heldBytes)) {
      known.get(other)?.pool.release();
      known.delete(other);
    }
    const pool = createPool(programs.backend), { held: tensors } = await prepareCall(input, structure, call, pool);
    known.set(index, { tensors, pool, bytes });
    return tensors;
  };
  return { of, release: () => known.forEach(({ pool }) => pool.release()) };
}

const longest = (sequences: readonly Int32Array[]): number => Math.max(1, ...sequences.map(({ length }) => length));

const sitesOfRole = (module: Module, call: Call | undefined, wanted: SiteRole): string[] =>
  call ? sitesOf(functionOf(module, call)).filter(({ role }) => role === wanted).map(({ name }) => name) : [];

/** Local names of the weight sites of a call. */
export const weightSites = (module: Module, call: Call | undefined): string[] => sitesOfRole(module, call, "weight");

async function effectiveWeights(
  input: MeasureInput,
  index: number,
  width: Width,
  pool: TensorPool,
): Promise<TensorValues> {
  const { programs, elastic, store } = input, call = elastic.calls[index] as Call;
  const program = await weightsProgramOf(input, call, width), names = Object.keys(program.leaves);
  const stored = await store.read(index, names.map((name) => call.prefix + name)), raw = createPool(programs.backend);
  const leaves = Object.fromEntries(names.map((name) => {
    const found = stored.get(call.prefix + name), type = program.leaves[name];
    if (found && type) return [name, raw.uploadStored(type, found.bytes)];
    throw new Error(`Internal error in allocation: the call "${call.prefix}" is not calibrated`);
  }));
  const results = programs.backend.run(program, leaves);
  for (const tensor of Object.values(results)) pool.keep(tensor);
  raw.release();
  return results;
}

/** Held and learned tensors in, every linear's dequantized weight f32[p,q] out, under its site's name. */
export function weightProgram(graph: Graph, { scheme }: Recipe, width: Width): Graph {
  const weights = graphOf(linearsOf(graph).map(({ name, weight }) => ({ name, node: weight })));
  const widths = Object.fromEntries(sitesOf(weights).map(({ name }) => [name, width]));
  return trainGraph(contractIntegers(specialize(weights, widths, scheme, "deploy")));
}

/** `kl`, f32[1]: mean over tokens of KL(P_full ‖ P_quantized), from the last call's inputs on both paths. */
function divergenceProgram(head: Graph, call: Call): Graph {
  const b = createBuilder();
  const logits = (prefix: string): Node => {
    const outputs = inline(
      b,
      head,
      (node) => node.op === "input" ? b.input(prefix + nameOf(node), node.type) : undefined,
    );
    const [first] = Object.values(outputs);
    if (!first || Object.keys(call.outputs).length !== 1) {
      throw new TypeError("Expected a last call with one output, the logits");
    }
    return first;
  };
  const logProbabilities = (x: Node): Node => logSoftmax(b, x, x.type.shape.length - 1);
  const exact = logProbabilities(logits("")), quantized = logProbabilities(logits("quantized."));
  const axis = exact.type.shape.length - 1;
  const perToken = b.sum(b.mul(b.exp(exact), b.sub(exact, quantized)), [axis]);
  const weights = b.input(TRAIN_LEAVES.tokenWeights, perToken.type), axes = perToken.type.shape.map((_, i) => i);
  return graphOf({ kl: b.reshape(b.div(b.sum(b.mul(perToken, weights), axes), b.sum(weights, axes)), [1]) });
}

/** Only what a program takes. */
const pick = (
  wanted: Readonly<Record<string, unknown>>,
  tensors: Readonly<Record<string, Tensor>>,
): Record<string, Tensor> =>
  Object.fromEntries(Object.keys(wanted).flatMap((name) => tensors[name] ? [[name, tensors[name]]] : []));
