/**
 * How much each site costs at each width: the KL divergence of the next-token distributions, over the vocabulary, between the
 * model in full precision and the model with that one site quantized (quept-method 9.1, as intended rather than as coded).
 * A site in block k pays only for the calls from k on: everything before it is computed once.
 */
import type { HostArray, Tensor } from "../../backends/backend.ts";
import { createBuilder } from "../../ir/builder.ts";
import { type Call, functionOf, type Module } from "../../ir/module.ts";
import { type Graph, graphOf, leavesOf, type Node, nameOf } from "../../ir/node.ts";
import { inline } from "../../ir/rewrite.ts";
import { sitesOf } from "../../ir/sites.ts";
import { tensorType, type TensorType, type Width } from "../../ir/types.ts";
import { batchesOf } from "../calibrate/batches.ts";
import { createPool, type Programs, type TensorPool } from "../calibrate/programs.ts";
import type { CallStore, StoredTensor } from "../calibrate/store.ts";
import { linearsOf } from "../passes/quantize/linears.ts";
import { specialize } from "../passes/quantize/specialize.ts";
import { prepareGraph, stage, trainGraph } from "../passes/stage.ts";
import type { Recipe } from "../recipe.ts";

/** Loss by width, by global site name. */
export type Sensitivities = Readonly<Record<string, Readonly<Record<number, number>>>>;

/** What is measured on what. */
export interface SensitivityInput {
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

const SEQUENCE = 128;

/** Measures every weight site of a module at every width of its recipe. */
export async function measureSensitivities(input: SensitivityInput): Promise<Sensitivities> {
  const { programs, structure, elastic, recipe, sequences, tokens, report } = input, { backend } = programs;
  const cut = sequences.slice(0, Math.max(1, Math.floor(tokens / Math.min(SEQUENCE, longest(sequences)))));
  const [batch] = batchesOf(cut, cut.length, SEQUENCE).list;
  if (!batch) throw new RangeError("Expected at least one sequence to measure sensitivities on but found none");
  const symbols = { B: cut.length, T: batch.ids.length / cut.length };
  const pool = createPool(backend), shape = [symbols.B, symbols.T];
  const ids = tensorType("i32", shape);
  let values: Record<string, Tensor> = { ids: pool.upload(ids, batch.ids), positions: pool.upload(ids, batch.positions) };
  const weights = pool.upload(tensorType("f32", [...shape, 1]), batch.weights);

  // The full-precision run: weights of every call, and the values in front of it.
  const calls: { call: Call; held: Record<string, Tensor>; before: Record<string, Tensor> }[] = [];
  for (const call of structure.calls) {
    const held = await prepare(input, structure, call, pool);
    calls.push({ call, held, before: values });
    if (call !== structure.calls.at(-1)) values = await forward(programs, structure, call, held, values, symbols, pool);
  }
  const head = calls.at(-1), exact = values;
  if (!head) throw new RangeError("Expected a module with calls but found none");
  const last = functionOf(structure, head.call);
  const divergence = await programs.get(`divergence ${head.call.function}`, () => divergenceProgram(stage(last).step, head.call), symbols);

  const found: Record<string, Record<number, number>> = {};
  const widths = recipe.bitGroups.flat(), sites = elastic.calls.map((call) => weightSites(elastic, call));
  const all = sites.flat().length * widths.length;
  let done = 0;
  for (const [index, call] of elastic.calls.entries()) {
    const own = calls[index];
    if (!own || (sites[index]?.length ?? 0) === 0) continue;
    const stored = await input.store.load(index);
    if (!stored) throw new Error(`Internal error in allocation: the call "${call.prefix}" is not calibrated`);
    for (const width of widths) {
      const scratch = createPool(backend);
      const quantized = await effectiveWeights(input, call, stored, width, scratch);
      for (const site of sites[index] ?? []) {
        const step = createPool(backend);
        // The same values in the same order, under the shape that the function contracts them in.
        const weight = backend.view(quantized[site] as Tensor, 0, (own.held[site] as Tensor).type);
        let after = await forward(programs, structure, own.call, { ...own.held, [site]: weight }, own.before, symbols, step);
        for (const next of calls.slice(index + 1, -1)) after = await forward(programs, structure, next.call, next.held, after, symbols, step);
        const leaves: Record<string, Tensor> = { ...head.held, "token.weights": weights };
        for (const [name, value] of Object.entries(head.call.inputs)) {
          leaves[name] = exact[value] as Tensor;
          leaves[`quantized.${name}`] = after[value] as Tensor;
        }
        const result = backend.run(divergence, pick(divergence.leaves, leaves));
        const [kl = NaN] = await backend.download(step.keep(result.kl as Tensor));
        (found[call.prefix + site] ??= {})[width] = Math.max(0, kl);
        step.release();
        report?.(++done, all);
      }
      scratch.release();
    }
  }
  pool.release();
  return found;
}

const longest = (sequences: readonly Int32Array[]): number => Math.max(1, ...sequences.map(({ length }) => length));

const weightSites = (module: Module, call: Call): string[] =>
  sitesOf(functionOf(module, call)).filter(({ role }) => role === "weight").map(({ name }) => name);

/** The weights of a call as they are at one width, dequantized, by site. */
async function effectiveWeights(
  { programs, recipe, elastic }: SensitivityInput,
  call: Call,
  stored: readonly StoredTensor[],
  width: Width,
  pool: TensorPool,
): Promise<Record<string, Tensor>> {
  const graph = functionOf(elastic, call);
  const run = await programs.get(`weights ${call.function} ${width}`, () => weightProgram(graph, recipe, width));
  const byName = new Map(stored.map((tensor) => [tensor.name, tensor]));
  const leaves = Object.fromEntries(
    Object.entries(run.leaves).map(([name, type]) => [name, pool.upload(type, byName.get(call.prefix + name)?.values as HostArray)]),
  );
  const results = programs.backend.run(run, leaves);
  for (const tensor of Object.values(results)) pool.keep(tensor);
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
    const outputs = inline(b, head, (node) => node.op === "input" ? b.input(prefix + nameOf(node), node.type) : undefined);
    const [first] = Object.values(outputs);
    if (!first || Object.keys(call.outputs).length !== 1) throw new TypeError("Expected a last call with one output, the logits");
    return first;
  };
  const logProbabilities = (x: Node): Node => {
    const axis = x.type.shape.length - 1, shifted = b.sub(x, b.max(x, [axis]));
    return b.sub(shifted, b.log(b.sum(b.exp(shifted), [axis])));
  };
  const exact = logProbabilities(logits("")), quantized = logProbabilities(logits("quantized."));
  const axis = exact.type.shape.length - 1;
  const perToken = b.sum(b.mul(b.exp(exact), b.sub(exact, quantized)), [axis]);
  const weights = b.input("token.weights", perToken.type), axes = perToken.type.shape.map((_, i) => i);
  return graphOf({ kl: b.reshape(b.div(b.sum(b.mul(perToken, weights), axes), b.sum(weights, axes)), [1]) });
}

async function prepare({ programs, load }: SensitivityInput, module: Module, call: Call, pool: TensorPool): Promise<Record<string, Tensor>> {
  const graph = prepareGraph(functionOf(module, call)), raw = createPool(programs.backend);
  const run = await programs.get(`prepare ${call.function} ${graph.outputs.map(({ name }) => name).join()}`, () => graph);
  const leaves: Record<string, Tensor> = {};
  for (const node of leavesOf(graph, "param")) {
    const name = call.prefix + nameOf(node), derived = module.derived[name];
    leaves[nameOf(node)] = raw.upload(node.type, derived ? derived.generate() : await load(name, node.type));
  }
  const results = programs.backend.run(run, leaves);
  for (const tensor of Object.values(results)) pool.keep(tensor);
  raw.release();
  return results;
}

async function forward(
  programs: Programs,
  module: Module,
  call: Call,
  held: Readonly<Record<string, Tensor>>,
  values: Readonly<Record<string, Tensor>>,
  symbols: Readonly<Record<string, number>>,
  pool: TensorPool,
): Promise<Record<string, Tensor>> {
  const run = await programs.get(`exact ${call.function}`, () => stage(functionOf(module, call)).step, symbols);
  const leaves = { ...held };
  for (const [name, value] of Object.entries(call.inputs)) leaves[name] = values[value] as Tensor;
  const after = { ...values };
  for (const [name, tensor] of Object.entries(programs.backend.run(run, pick(run.leaves, leaves)))) {
    after[call.outputs[name] ?? name] = pool.keep(tensor);
  }
  return after;
}

/** Only what a program takes. */
const pick = (wanted: Readonly<Record<string, unknown>>, tensors: Readonly<Record<string, Tensor>>): Record<string, Tensor> =>
  Object.fromEntries(Object.keys(wanted).flatMap((name) => tensors[name] ? [[name, tensors[name]]] : []));
