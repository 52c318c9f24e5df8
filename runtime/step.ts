/** @file One piece of a sequence through all calls of a model, with its cache: what prefill and decode have in common. */
import type { Tensor } from "../backends/backend.ts";
import { type CallState, prepareWalk, type Runner, type Walk, type WalkStep } from "../backends/runner.ts";
import { tensorType } from "../ir/types.ts";
import type { ConfiguredCall } from "./configured_call.ts";
import type { ElasticSource } from "./elastic_source.ts";
import type { KeyValueCache } from "./kv_cache.ts";
import { oneTokenHeadOf, TOKEN_INPUT } from "./logits.ts";
import { type Piece, stepInputs } from "./prefill.ts";

/** What a step runs on. */
export interface StepModel {
  readonly source: ElasticSource;
  /** All calls of the module, in order; the last one returns the logits. */
  readonly calls: readonly ConfiguredCall[];
  readonly cache: KeyValueCache;
}

/**
 * Appends the tokens of a piece to the cache.
 *
 * @param ids the sequence that the piece is cut out of
 * @returns logits of the token behind the piece, unless `wantsLogits` is false
 */
export async function runPiece(
  { source: { runner }, calls, cache }: StepModel,
  ids: ArrayLike<number>,
  piece: Piece,
  { wantsLogits }: { readonly wantsLogits: boolean },
): Promise<Float32Array> {
  const { backend } = runner, past = cache.length, count = piece.end - piece.start;
  await cache.reserve(past + count, calls.slice(0, -1).map(({ step }) => step));
  const walk = await walkOf(runner, calls, cache, piece.bucket, wantsLogits);
  const inputs = stepInputs(ids, piece, past, cache.capacity), type = tensorType("i32", [1, piece.bucket]);
  const values = new Map<string, Tensor>();
  try {
    values.set("ids", backend.upload(type, inputs.ids));
    values.set("positions", backend.upload(type, inputs.positions));
    values.set(TOKEN_INPUT, backend.upload(tensorType("i32", [1, 1]), Int32Array.of(count - 1)));
    walk(values);
    const logits = values.get("logits"), host = Float32Array.from(logits ? await backend.download(logits) : []);
    // What failed before was not appended.
    cache.length = past + count;
    return host;
  } finally {
    for (const tensor of new Set(values.values())) backend.free(tensor);
  }
}

/** A walk, and the cache that it goes through. */
interface CachedWalk {
  readonly state: CallState | undefined;
  readonly walk: Promise<Walk>;
}

/** Walks by what they run: calls change with the precision, caches when they grow. */
const walks = new WeakMap<readonly ConfiguredCall[], Map<string, CachedWalk>>();

function walkOf(
  runner: Runner,
  calls: readonly ConfiguredCall[],
  cache: KeyValueCache,
  bucket: number,
  wantsLogits: boolean,
): Promise<Walk> {
  const known = walks.get(calls) ?? new Map<string, CachedWalk>(), key = `${bucket} ${wantsLogits}`;
  walks.set(calls, known);
  // The caches of all calls grow together.
  const found = known.get(key), state = cache.state(0);
  if (found && found.state === state) return found.walk;
  const walk = prepareWalk(runner, stepsOf(calls, cache, wantsLogits), { B: 1, T: bucket, S: cache.capacity });
  known.set(key, { state, walk });
  walk.catch(() => known.delete(key));
  return walk;
}

function stepsOf(calls: readonly ConfiguredCall[], cache: KeyValueCache, wantsLogits: boolean): readonly WalkStep[] {
  const head = calls.at(-1);
  if (!head) throw new Error("Internal error in a session: a module without calls");
  const body = calls.slice(0, -1).map(({ call, step, parameters }, i): WalkStep => ({
    call: { ...call, inputs: { ...call.inputs, positions: "positions" } },
    graph: step,
    parameters,
    state: cache.state(i),
  }));
  if (!wantsLogits) return body;
  const call = {
    ...head.call,
    inputs: { ...head.call.inputs, [TOKEN_INPUT]: TOKEN_INPUT },
    outputs: { logits: "logits" },
  };
  return [...body, { call, graph: oneTokenHeadOf(head.step), parameters: head.parameters }];
}
