/** @file What a session needs in memory for a sequence of known length: planned before weights are there, by the compiler's own plans. */
import type { Executable } from "../backends/backend.ts";
import { type Graph, leavesOf, nameOf } from "../ir/node.ts";
import { type BitConfig, type LocalWidths, localWidths } from "../ir/sites.ts";
import { tensorType } from "../ir/types.ts";
import type { Call } from "../ir/module.ts";
import type { ElasticSource } from "./elastic_source.ts";
import { cacheLeaves, capacityFor } from "./kv_cache.ts";
import { oneTokenHeadOf, TOKEN_INPUT } from "./logits.ts";
import { piecesOf } from "./prefill.ts";
import type { ElasticPrograms } from "./programs.ts";

/** How long a sequence is going to be. */
export interface SequenceLength {
  /** Tokens of the prompt, which comes first and at once. */
  readonly prompt: number;
  /** Tokens in all. */
  readonly tokens: number;
}

/** The planned peak of a session on its backend, in bytes. */
export interface SessionMemory {
  /** Packed codes with scales and zero points, and what is not quantized; tied tensors once. */
  readonly weights: number;
  /** What switches read, where it stays: masters and adapters of the widths at the start. */
  readonly resident: number;
  /** Keys and values, at the capacity that the sequence needs. */
  readonly cache: number;
  /** Values between calls, of the longest piece of the prompt. */
  readonly values: number;
  /** Intermediate values of the largest program, and working memory of the threads. */
  readonly arena: number;
  readonly scratch: number;
  /** While weights are made: those that are there already, and master and adapters of the one in hand. */
  readonly opening: number;
  /** The larger one of opening, and of running with weights, cache and values; arena and scratch memory included. */
  readonly total: number;
}

/** What is planned: a model at a configuration, with the programs that are going to run. */
export interface SessionPlanInput {
  readonly source: ElasticSource;
  readonly programs: ElasticPrograms;
  readonly config: BitConfig;
  /** Whether what switches read stays on the backend. */
  readonly resident?: boolean;
}

/** Plans a session, and compiles its programs: the session finds them again. */
export async function sessionMemory(
  { source, programs, config, resident = false }: SessionPlanInput,
  { prompt, tokens }: SequenceLength,
): Promise<SessionMemory> {
  const { runner, module } = source, { backend } = runner;
  const steps = module.calls.map((call, i) => {
    const step = programs.step(call, localWidths(config, call.prefix));
    return { call, step: i === module.calls.length - 1 ? oneTokenHeadOf(step) : step };
  });

  const capacity = capacityFor(0, tokens), body = steps.slice(0, -1).map(({ step }) => step);
  const caches = body.map((step) => cacheLeaves(step, capacity));
  const buckets = new Set([...piecesOf(prompt).map((piece) => piece.bucket), 1]);
  const programOf = (i: number, bucket: number): Promise<Executable> =>
    runner.program(steps[i]?.step as Graph, { B: 1, T: bucket, S: capacity }, {
      inPlace: Object.fromEntries((caches[i] ?? []).map((node) => [nameOf(node), nameOf(node)])),
    });
  // All begin before the first is waited for, as they may be built beside each other.
  for (const bucket of buckets) for (const i of steps.keys()) programOf(i, bucket);

  const weights = new Map<string, number>(), read = new Map<string, number>();
  let opening = 0;
  for (const call of module.calls) {
    const made = await callMemory(source, programs, call, localWidths(config, call.prefix));
    // Codes come first, one weight after the other, and what is held as it is behind them.
    for (const { own, besides, raw } of made) {
      for (const [name, bytes] of own) weights.set(name, bytes);
      for (const [name, bytes] of resident ? besides : []) read.set(name, bytes);
      opening = Math.max(opening, sum(weights.values()) + sum(besides.values()) + sum(raw));
    }
  }
  for (const name of weights.keys()) read.delete(name);
  const stays = sum(read.values());
  opening = Math.max(opening, sum(weights.values()) + stays);

  const cache = sum(caches.flat().map(({ type }) => backend.bytesOf(type)));
  let values = 0;
  for (const bucket of buckets) {
    const inputs = backend.bytesOf(tensorType("i32", [1, bucket]));
    const alive = new Map([["ids", inputs], ["positions", inputs], [
      TOKEN_INPUT,
      backend.bytesOf(tensorType("i32", [1, 1])),
    ]]);
    for (const [i, { call }] of steps.entries()) {
      const own = (caches[i] ?? []).map(nameOf), program = await programOf(i, bucket);
      // Results are there before what they take the place of is freed.
      const results = Object.entries(program.outputs).filter(([name]) => !own.includes(name))
        .map(([name, type]) => [call.outputs[name] ?? name, backend.bytesOf(type)] as const);
      values = Math.max(values, sum(alive.values()) + sum(results.map(([, bytes]) => bytes)));
      for (const [name, bytes] of results) alive.set(name, bytes);
    }
  }
  const { arena, scratch } = backend.workSpace(), all = sum(weights.values());
  return {
    weights: all,
    resident: stays,
    cache,
    values,
    arena,
    scratch,
    opening,
    total: Math.max(opening, all + stays + cache + values) + arena + scratch,
  };
}

/** What a weight leaves on the backend, and what is there besides while it is made, by global name. */
export interface WeightMemory {
  readonly own: ReadonlyMap<string, number>;
  readonly besides: ReadonlyMap<string, number>;
  /** What a source that prepares values computes them from: what lies besides, or where there is nothing the weight itself. */
  readonly raw: readonly number[];
}

/** The weights of a call at some widths, in the order in which `configureCall` makes them; compiles the switch programs. */
export async function callMemory(
  { runner, preparation }: Pick<ElasticSource, "runner" | "preparation">,
  programs: ElasticPrograms,
  call: Call,
  widths: LocalWidths,
): Promise<readonly WeightMemory[]> {
  const { backend } = runner, weights: WeightMemory[] = [];
  const global = (types: Iterable<readonly [string, Executable["leaves"][string]]>) =>
    new Map([...types].map(([name, type]) => [call.prefix + name, backend.bytesOf(type)]));
  const rawOf = async (names: readonly string[]): Promise<readonly number[]> => {
    const graph = preparation?.(call, names);
    if (!graph) return [];
    await runner.program(graph);
    return leavesOf(graph, "param").map(({ type }) => backend.bytesOf(type));
  };
  const switches = programs.weights(call, widths).map((own) => programs.switch(call, own));
  for (const graph of switches) runner.program(graph);
  for (const graph of switches) {
    const program = await runner.program(graph), leaves = leavesOf(graph, "param");
    weights.push({
      own: global(Object.entries(program.outputs)),
      // In the order in which they are loaded.
      besides: global(leaves.map((node) => [nameOf(node), node.type])),
      raw: await rawOf(leaves.map(nameOf)),
    });
  }
  const held = leavesOf(programs.step(call, widths), "param").filter(({ attrs }) => attrs.time === "checkpoint");
  weights.push({
    own: global(held.map((node) => [nameOf(node), node.type])),
    besides: new Map(),
    raw: await rawOf(held.map(nameOf)),
  });
  return weights;
}

const sum = (numbers: Iterable<number>): number => [...numbers].reduce((a, b) => a + b, 0);
