/** @file One piece of a sequence through all calls of a model, with its cache: what prefill and decode have in common. */
import type { Tensor } from "../backends/backend.ts";
import { runCalls } from "../backends/runner.ts";
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
  { source: { runner, module }, calls, cache }: StepModel,
  ids: ArrayLike<number>,
  piece: Piece,
  { wantsLogits }: { readonly wantsLogits: boolean },
): Promise<Float32Array> {
  const { backend } = runner, past = cache.length, count = piece.end - piece.start;
  const body = calls.slice(0, -1), head = calls.at(-1);
  if (!head) throw new Error("Internal error in a session: a module without calls");
  await cache.reserve(past + count, body.map(({ step }) => step));
  const inputs = stepInputs(ids, piece, past, cache.capacity), type = tensorType("i32", [1, piece.bucket]);
  const values = new Map<string, Tensor>([
    ["ids", backend.upload(type, inputs.ids)],
    ["positions", backend.upload(type, inputs.positions)],
    [TOKEN_INPUT, backend.upload(tensorType("i32", [1, 1]), Int32Array.of(count - 1))],
  ]);
  const last = oneTokenHeadOf(head.step);
  // Calls of one function may have different widths, so here each has a function of its own, named by its number.
  const walk = body.map(({ call, step }, i) => ({
    step,
    call: { ...call, function: String(i), inputs: { ...call.inputs, positions: "positions" } },
  }));
  const asked = wantsLogits ? [...walk, { step: last, call: headCall(head, body.length) }] : walk;
  const concrete = { ...module, functions: Object.fromEntries(asked.map(({ step }, i) => [String(i), step])) };
  const symbols = { B: 1, T: piece.bucket, S: cache.capacity };
  await runCalls(
    runner,
    concrete,
    asked.map(({ call }) => call),
    symbols,
    values,
    (call) => calls[Number(call.function)]?.parameters ?? {},
    { state: (call) => cache.state(Number(call.function)) },
  );
  cache.length = past + count;
  const logits = values.get("logits"), host = logits ? await backend.download(logits) : [];
  for (const tensor of new Set(values.values())) backend.free(tensor);
  return Float32Array.from(host);
}

const headCall = ({ call }: ConfiguredCall, index: number) => ({
  ...call,
  function: String(index),
  inputs: { ...call.inputs, [TOKEN_INPUT]: TOKEN_INPUT },
  outputs: { logits: "logits" },
});
