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
import { inline } from "../../ir/rewrite.ts";
import { sitesOf } from "../../ir/sites.ts";
import { type TensorType, tensorType, type Width } from "../../ir/types.ts";
import { batchesOf } from "../calibrate/batches.ts";
import { prepareCall } from "../calibrate/prepare_call.ts";
import { createPool, type Programs, type TensorPool } from "../calibrate/programs.ts";
import type { CallStore } from "../calibrate/store.ts";
import { TRAIN_LEAVES } from "../calibrate/train_program.ts";
import { linearsOf } from "../passes/quantize/linears.ts";
import { specialize } from "../passes/quantize/specialize.ts";
import { stage, trainGraph } from "../passes/stage.ts";
import type { Recipe } from "../recipe.ts";

/** What is measured on what. */
export interface MeasureInput {
  readonly programs: Programs;
  /** The model in full precision and the elastic one, of one recipe. */
  readonly structure: Module;
  readonly elastic: Module;
  readonly recipe: Recipe;
  /** The calibrated tensors of every call. */
  readonly store: CallStore;
  readonly load: (name: string, type: TensorType) => Promise<HostArray>;
  readonly sequences: readonly Int32Array[];
  /** At most so many tokens, in sequences of at most 128. */
  readonly tokens: number;
  readonly report?: (done: number, all: number) => void;
}

/** Named values of the model on the backend. */
export type TensorValues = Readonly<Record<string, Tensor>>;

/** The measuring bench; `release` frees everything it holds. */
export interface MeasureBench {
  /** The calls in order, with their full-precision weights and the values in front of them. */
  readonly calls: readonly { readonly call: Call; readonly held: TensorValues; readonly before: TensorValues }[];
  /** Local names of the weight sites of a call. */
  sites(call: number): readonly string[];
  /** Every weight of a call dequantized at one width, by site, in the shape that the call contracts it in. */
  weights(call: number, width: Width, pool: TensorPool): Promise<TensorValues>;
  /** The values behind a call, some of its weights replaced. */
  forward(call: number, replaced: TensorValues, before: TensorValues, pool: TensorPool): Promise<TensorValues>;
  /** Mean KL(full ‖ quantized) per token, in nats, given the values in front of the last call. */
  divergence(before: TensorValues): Promise<number>;
  release(): void;
}

const SEQUENCE = 128;

/** The sequences that are measured on: the first ones. */
export const measuredSequences = (
  { sequences, tokens }: Pick<MeasureInput, "sequences" | "tokens">,
): readonly Int32Array[] =>
  sequences.slice(0, Math.max(1, Math.floor(tokens / Math.min(SEQUENCE, longest(sequences)))));

/** Runs the model in full precision over the first tokens and keeps what measurements need. */
export async function openBench(input: MeasureInput): Promise<MeasureBench> {
  const { programs, structure, elastic, sequences, tokens } = input, { backend } = programs;
  const cut = measuredSequences({ sequences, tokens });
  const [batch] = batchesOf(cut, cut.length, SEQUENCE).list;
  if (!batch) throw new RangeError("Expected at least one sequence to measure on but found none");
  const symbols = { B: cut.length, T: batch.ids.length / cut.length };
  const pool = createPool(backend), shape = [symbols.B, symbols.T], ids = tensorType("i32", shape);
  let values: TensorValues = { ids: pool.upload(ids, batch.ids), positions: pool.upload(ids, batch.positions) };
  const tokenWeights = pool.upload(tensorType("f32", [...shape, 1]), batch.weights);

  const calls: { call: Call; held: TensorValues; before: TensorValues }[] = [];
  for (const call of structure.calls) {
    const held = await prepareCall(input, structure, call, pool);
    calls.push({ call, held, before: values });
    if (call !== structure.calls.at(-1)) values = await run(programs, structure, call, held, values, symbols, pool);
  }
  const head = calls.at(-1);
  if (!head) throw new RangeError("Expected a module with calls but found none");
  const step = stage(functionOf(structure, head.call)).step;
  const program = await programs.get(
    `divergence ${head.call.function}`,
    () => divergenceProgram(step, head.call),
    symbols,
  );

  return {
    calls,
    sites: (index) => weightSites(elastic, elastic.calls[index]),
    weights: async (index, width, scratch) => {
      const own = calls[index]?.held ?? {}, made = await effectiveWeights(input, index, width, scratch);
      // The same values in the same order, under the shape that the function contracts them in.
      return Object.fromEntries(
        Object.entries(made).map(([site, weight]) => [site, backend.view(weight, 0, own[site]?.type ?? weight.type)]),
      );
    },
    forward: (index, replaced, before, scratch) => {
      const { call, held } = calls[index] as (typeof calls)[number];
      return run(programs, structure, call, { ...held, ...replaced }, before, symbols, scratch);
    },
    divergence: (before) => diverge(programs, program, head, before, tokenWeights),
    release: () => pool.release(),
  };
}

async function diverge(
  { backend }: Programs,
  program: Executable,
  head: MeasureBench["calls"][number],
  quantized: TensorValues,
  tokenWeights: Tensor,
): Promise<number> {
  const leaves: Record<string, Tensor> = { ...head.held, [TRAIN_LEAVES.tokenWeights]: tokenWeights };
  for (const [name, value] of Object.entries(head.call.inputs)) {
    leaves[name] = head.before[value] as Tensor;
    leaves[`quantized.${name}`] = quantized[value] as Tensor;
  }
  const result = backend.run(program, pick(program.leaves, leaves)).kl as Tensor;
  const [kl = NaN] = await backend.download(result);
  backend.free(result);
  return Math.max(0, kl);
}

const longest = (sequences: readonly Int32Array[]): number => Math.max(1, ...sequences.map(({ length }) => length));

const weightSites = (module: Module, call: Call | undefined): string[] =>
  call ? sitesOf(functionOf(module, call)).filter(({ role }) => role === "weight").map(({ name }) => name) : [];

async function effectiveWeights(
  { programs, recipe, elastic, store }: MeasureInput,
  index: number,
  width: Width,
  pool: TensorPool,
): Promise<TensorValues> {
  const call = elastic.calls[index] as Call, stored = await store.load(index);
  if (!stored) throw new Error(`Internal error in allocation: the call "${call.prefix}" is not calibrated`);
  const graph = functionOf(elastic, call);
  const program = await programs.get(`weights ${call.function} ${width}`, () => weightProgram(graph, recipe, width));
  const byName = new Map(stored.map((tensor) => [tensor.name, tensor])), raw = createPool(programs.backend);
  const leaves = Object.fromEntries(
    Object.entries(program.leaves).map((
      [name, type],
    ) => [name, raw.upload(type, byName.get(call.prefix + name)?.values as HostArray)]),
  );
  const results = programs.backend.run(program, leaves);
  for (const tensor of Object.values(results)) pool.keep(tensor);
  raw.release();
  return results;
}

/** Held and learned tensors in, every linear's dequantized weight f32[p,q] out, under its site's name. */
export function weightProgram(graph: Graph, { scheme }: Recipe, width: Width): Graph {
  const weights = graphOf(linearsOf(graph).map(({ name, weight }) => ({ name, node: weight })));
  const widths = Object.fromEntries(sitesOf(weights).map(({ name }) => [name, width]));
  return trainGraph(specialize(weights, widths, scheme, "deploy"));
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

async function run(
  programs: Programs,
  module: Module,
  call: Call,
  held: TensorValues,
  values: TensorValues,
  symbols: Symbols,
  pool: TensorPool,
): Promise<TensorValues> {
  const program = await programs.get(`exact ${call.function}`, () => stage(functionOf(module, call)).step, symbols);
  const leaves: Record<string, Tensor> = { ...held };
  for (const [name, value] of Object.entries(call.inputs)) leaves[name] = values[value] as Tensor;
  const after: Record<string, Tensor> = { ...values };
  for (const [name, tensor] of Object.entries(programs.backend.run(program, pick(program.leaves, leaves)))) {
    after[call.outputs[name] ?? name] = pool.keep(tensor);
  }
  return after;
}

/** Only what a program takes. */
const pick = (
  wanted: Readonly<Record<string, unknown>>,
  tensors: Readonly<Record<string, Tensor>>,
): Record<string, Tensor> =>
  Object.fromEntries(Object.keys(wanted).flatMap((name) => tensors[name] ? [[name, tensors[name]]] : []));
