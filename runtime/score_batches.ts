/** @file Losses and divergences of every token of some batches: both models' heads, run chunk by chunk over hidden states. */
import type { Backend, HostArray, Tensor } from "../backends/backend.ts";
import type { Tensors } from "../backends/runner.ts";
import type { Call } from "../ir/module.ts";
import { type Graph, leavesOf, nameOf } from "../ir/node.ts";
import { sizeOf, tensorType } from "../ir/types.ts";
import { type Hidden, type ProgramsOf, type Scorer, withCall } from "./forward.ts";
import { CHUNK, type LengthBatch } from "./length_batches.ts";
import { NEXT_INPUT, REFERENCE_PREFIX, scoreGraph, SCORES } from "./logits.ts";

/** A model with the hidden states that its last call reads. */
export interface Scored {
  readonly scorer: Scorer;
  readonly hidden: Hidden;
}

/** Sums over predicted tokens. */
export interface Sums {
  readonly loss: number;
  readonly divergence: number;
  readonly tokens: number;
  /** Those of each sequence that predicts something, by its number. */
  readonly sequences: ReadonlyMap<number, SequenceSums>;
}

/** Sums over the predicted tokens of a sequence. */
export interface SequenceSums {
  readonly loss: number;
  /** By how much the loss is above the reference's. */
  readonly excess: number;
  readonly tokens: number;
}

/** The fused heads of each pair, made once. */
export type ScorePrograms = (head: Graph, reference: Graph) => Graph;

/** An empty cache of fused heads. */
export function scoreCache(): ScorePrograms {
  const known = new WeakMap<Graph, WeakMap<Graph, Graph>>();
  return (head, reference) => {
    const ofHead = known.get(head) ?? new WeakMap<Graph, Graph>(),
      found = ofHead.get(reference) ?? scoreGraph(head, reference);
    known.set(head, ofHead.set(reference, found));
    return found;
  };
}

/** Adds up what `scoreGraph` computes, over the tokens of the batches that have a successor. */
export async function sumScores(
  batches: readonly LengthBatch[],
  model: Scored,
  reference: Scored,
  programs: ProgramsOf,
  scoreOf: ScorePrograms,
): Promise<Sums> {
  const { runner } = model.scorer.source,
    { backend } = runner,
    call = lastCall(model),
    referenceCall = lastCall(reference);
  return await withCall(
    reference.scorer,
    programs,
    referenceCall,
    (original) =>
      withCall(model.scorer, programs, call, async (head) => {
        const graph = scoreOf(head.step, original.step),
          parameters = { ...head.parameters, ...prefixed(original.parameters) };
        let loss = 0, divergence = 0, tokens = 0;
        const sequences = new Map<number, SequenceSums>();
        for (const [i, batch] of batches.entries()) {
          const inputsAt = (at: number): Tensors => ({
            ...chunkOf(backend, call, head.step, model.hidden[i], at),
            ...prefixed(chunkOf(backend, referenceCall, original.step, reference.hidden[i], at)),
          });
          const run = (leaves: Tensors, outputs: Tensors) =>
            runner.call(graph, { B: 1, T: CHUNK }, { ...parameters, ...leaves }, outputs);
          const scores = await scoreBatch(backend, batch, inputsAt, run);
          for (const [t, predicts] of batch.predicts.entries()) {
            if (predicts === 0) continue;
            const own = scores.loss?.[t] ?? NaN, source = batch.sources[Math.floor(t / batch.tokens)] ?? -1;
            loss += own;
            const before = sequences.get(source) ?? { loss: 0, excess: 0, tokens: 0 };
            sequences.set(source, {
              loss: before.loss + own,
              excess: before.excess + (scores.excess?.[t] ?? NaN),
              tokens: before.tokens + 1,
            });
            divergence += scores.divergence?.[t] ?? NaN;
            tokens++;
          }
        }
        return { loss, divergence, tokens, sequences };
      }),
  );
}

/** Loss, divergence and excess of every token of a batch. Chunks write into one tensor each, so that one readback is enough. */
async function scoreBatch(
  backend: Backend,
  { rows, tokens, next }: LengthBatch,
  inputsAt: (token: number) => Tensors,
  run: (leaves: Tensors, outputs: Tensors) => Promise<Tensors>,
) {
  const size = rows * tokens, all = tensorType("f32", [size]), chunk = tensorType("f32", [1, CHUNK]);
  const scores = SCORES.map((name) => ({ name, tensor: backend.allocate(all) }));
  const following = backend.upload(tensorType("i32", [size]), next);
  for (let at = 0; at < size; at += CHUNK) {
    const leaves = { ...inputsAt(at), [NEXT_INPUT]: backend.view(following, at, tensorType("i32", [1, CHUNK])) };
    await run(
      leaves,
      Object.fromEntries(scores.map(({ name, tensor }) => [name, backend.view(tensor, at, chunk)] as const)),
    );
  }
  const values: Partial<Record<typeof SCORES[number], HostArray>> = {};
  for (const { name, tensor } of scores) values[name] = await backend.download(tensor);
  for (const tensor of [...scores.map((score) => score.tensor), following]) backend.free(tensor);
  return values;
}

/** The head's inputs [B,T,…] at `CHUNK` tokens in a row, which belong to one sequence, as views [1,CHUNK,…]. */
function chunkOf(
  backend: Backend,
  call: Call,
  head: Graph,
  values: ReadonlyMap<string, Tensor> | undefined,
  token: number,
): Tensors {
  return Object.fromEntries(
    leavesOf(head, "input").map((node) => {
      const name = nameOf(node), tensor = values?.get(call.inputs[name] ?? "");
      if (!tensor) throw new Error(`Internal error in evaluation: nothing provides the head's input "${name}"`);
      const rest = tensor.type.shape.slice(2);
      return [
        name,
        backend.view(tensor, token * sizeOf(rest), tensorType(tensor.type.dtype, [1, CHUNK, ...rest])),
      ] as const;
    }),
  );
}

const prefixed = (tensors: Tensors): Tensors =>
  Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [REFERENCE_PREFIX + name, tensor]));

function lastCall({ scorer: { source } }: Scored): Call {
  const call = source.module.calls.at(-1);
  if (call) return call;
  throw new TypeError(`Expected a module with calls in "${source.name}" but found none`);
}
