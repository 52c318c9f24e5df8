/**
 * Where adapters start: at the directions in which what linears read varies most. A of a pair B·A says which combinations of a
 * weight's columns may change, and B starts at zero; with a random A most of what is learned first is to turn it towards the inputs
 * (the start by principal components of LoRA's successors; EVA, Paischer et al., 2024). Found by subspace iteration on the
 * inputs' second moment, which is never formed: a round is one product with the basis and one back.
 */
import { createBuilder } from "../../ir/builder.ts";
import { type Graph, graphOf, type Node } from "../../ir/node.ts";
import type { Random } from "../../ir/random.ts";
import { tensorType } from "../../ir/types.ts";
import { inputNames } from "../passes/quantize/insert_activation_quantizers.ts";
import { linearsOf } from "../passes/quantize/linears.ts";
import { stage } from "../passes/stage.ts";
import type { Batches, Values } from "./batches.ts";
import { type ExactCall, type ExactProgram, sumResults } from "./exact_call.ts";
import type { LearnedLayout } from "./learned.ts";
import { TRAIN_LEAVES } from "./train_program.ts";

/** Rounds of the iteration. */
const ROUNDS = 4;
/** Batches that each of them sees at most, the first ones. */
export const BASIS_BATCHES = 8;
/** Directions beyond those that are used, which make the last ones of these converge. */
const SPARE = 8;

/** What is searched for a call. */
export interface BasisSearch {
  readonly exact: ExactCall;
  /** The call's function in full precision, and a name for it. */
  readonly graph: Graph;
  readonly name: string;
  readonly layout: LearnedLayout;
  readonly batches: Batches;
  /** Values in front of the call, of the first batches. */
  readonly track: readonly Values[];
}

/** Writes the first directions of every linear's input over the A of its adapters, as long as random ones would be. */
export async function startAdapters(search: BasisSearch, flat: Float32Array, rng: Random): Promise<void> {
  const { graph, layout } = search, names = inputNames(graph), most = mostRows(layout);
  if (most === 0) return;
  const bases = await inputBases(search, basisRows(most), rng);
  for (const tensor of layout.tensors) {
    if (tensor.kind !== "factor" || tensor.layout.side !== "right") continue;
    const [rank = 1, columns = 1] = tensor.shape;
    const basis = bases.get(names.get(tensor.name.replace(/\.adapter\..*$/, "")) ?? "") ?? new Float32Array();
    // Rows of Xavier-uniform factors have this length in the mean. Those for which no direction is left stay random.
    const length = Math.sqrt(2 * columns / (rank + columns));
    for (let at = 0; at < Math.min(basis.length, rank * columns); at += columns) {
      const row = basis.subarray(at, at + columns).map((value) => value * length);
      if (row.some((value) => value !== 0)) flat.set(row, tensor.offset + at);
    }
  }
}

/** How many directions are looked for, for adapters of up to this rank. */
export const basisRows = (rank: number): number => rank + SPARE;

/** The largest rank of a layout's adapters. */
export const mostRows = (layout: LearnedLayout): number =>
  Math.max(0, ...layout.tensors.flatMap((tensor) => tensor.kind === "factor" ? tensor.shape[0] ?? 0 : []));

/** Orthonormal rows f32[count,columns], not more of them than columns, the first direction first, by the name of the value. */
async function inputBases(
  { exact, graph, name, batches, track }: BasisSearch,
  count: number,
  rng: Random,
): Promise<ReadonlyMap<string, Float32Array>> {
  const names = inputNames(graph), program = namedBasisRound(graph, name, count);
  const columns = new Map(linearsOf(graph).map(({ name, columns }) => [names.get(name) ?? name, columns]));
  let bases = new Map(
    [...columns].map(([input, n]) => [
      input,
      orthonormal(Float64Array.from({ length: Math.min(count, n) * n }, () => rng.normal()), n),
    ]),
  );
  for (let round = 0; round < ROUNDS; round++) {
    const given = new Map([...bases].map(([input, basis]) => [basisLeaf(input), basis]));
    const sums = await sumResults(exact, program, batches, track, given);
    bases = new Map([...sums].map(([input, sum]) => [input, orthonormal(sum, columns.get(input) ?? 1)]));
  }
  return bases;
}

const basisLeaf = (input: string): string => `${input}.basis`;

/** A round for one batch as a program of exact calls. */
export const namedBasisRound = (graph: Graph, name: string, count: number): ExactProgram => ({
  name: `bases ${count} ${name}`,
  graph: () => basisRound(graph, count),
});

/** `<input>.basis` f32[k,q] in, under each input's name basis·Σ x·xᵀ, f32[k,q], out; x are its weighted tokens. */
export function basisRound(graph: Graph, count: number): Graph {
  const b = createBuilder(), names = inputNames(graph), outputs: Record<string, Node> = {};
  for (const { name, source, sourceShape, columns } of linearsOf(graph)) {
    const input = names.get(name) ?? name, tokens = sourceShape.slice(0, -1), axes = tokens.map((_, axis) => axis);
    const x = b.reshape(b.adopt(source), sourceShape);
    const weights = b.input(TRAIN_LEAVES.tokenWeights, tensorType("f32", [...tokens, 1]));
    const basis = b.input(basisLeaf(input), tensorType("f32", [Math.min(count, columns), columns]));
    const parts = b.mul(b.dot(x, basis, { lhsContract: [axes.length], rhsContract: [1] }), weights);
    outputs[input] = b.dot(parts, x, { lhsContract: axes, rhsContract: axes });
  }
  return stage(graphOf(outputs)).step;
}

/** What is this much smaller than the largest row is rounding. */
const LEAST = 1e-6;

/** Rows made orthonormal one after the other (Gram-Schmidt, twice); those with nothing of their own are zero. */
export function orthonormal(rows: Float64Array, columns: number): Float32Array {
  const count = rows.length / columns, row = (i: number) => rows.subarray(i * columns, (i + 1) * columns);
  const dot = (x: Float64Array, y: Float64Array) => x.reduce((sum, value, i) => sum + value * (y[i] ?? 0), 0);
  const length = (x: Float64Array) => Math.sqrt(dot(x, x));
  const least = LEAST * Math.max(...Array.from({ length: count }, (_, i) => length(row(i))));
  for (let i = 0; i < count; i++) {
    const own = row(i);
    for (let again = 0; again < 2; again++) {
      for (let j = 0; j < i; j++) {
        const other = row(j), part = dot(own, other);
        for (let c = 0; c < columns; c++) own[c] = (own[c] ?? 0) - part * (other[c] ?? 0);
      }
    }
    const left = length(own), scale = left > least ? 1 / left : 0;
    for (let c = 0; c < columns; c++) own[c] = (own[c] ?? 0) * scale;
  }
  return Float32Array.from(rows);
}
