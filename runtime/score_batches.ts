/** @file Losses and divergences of every token of some batches: both models' heads, run chunk by chunk over hidden states. */
import type { Backend, Tensor } from "../backends/backend.ts";
import type { Tensors } from "../backends/runner.ts";
import type { Call } from "../ir/module.ts";
import { type Graph, leavesOf, nameOf } from "../ir/node.ts";
import { sizeOf, tensorType } from "../ir/types.ts";
import { type Hidden, type ProgramsOf, type Scorer, withCall } from "./forward.ts";
import { CHUNK, type LengthBatch } from "./length_batches.ts";
import { NEXT_INPUT, REFERENCE_PREFIX, scoreGraph } from "./logits.ts";

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
  /** Loss of each sequence that has one, by its number. */
  readonly losses: ReadonlyMap<number, number>;
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
        const losses = new Map<number, number>();
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
            const own = scores.loss[t] ?? NaN, source = batch.sources[Math.floor(t / batch.tokens)] ?? -1;
            loss += own;
            losses.set(source, (losses.get(source) ?? 0) + own);
            divergence += scores.divergence[t] ?? NaN;
            tokens++;
          }
        }
        return { loss, divergence, tokens, losses };
      }),
  );
}

/** Loss and divergence of every token of a batch. Chunks write into one tensor each, so that one readback is enough. */
async function scoreBatch(
  backend: Backend,
  { rows, tokens, next }: LengthBatch,
  inputsAt: (token: number) => Tensors,
  run: (leaves: Tensors, outputs: Tensors) => Promise<Tensors>,
) {
  const size = rows * tokens, all = tensorType("f32", [size]), chunk = tensorType("f32", [1, CHUNK]);
  const loss = backend.allocate(all), divergence = backend.allocate(all);
  const following = backend.upload(tensorType("i32", [size]), next);
  for (let at = 0; at < size; at += CHUNK) {
    const leaves = { ...inputsAt(at), [NEXT_INPUT]: backend.view(following, at, tensorType("i32", [1, CHUNK])) };
    await run(leaves, { loss: backend.view(loss, at, chunk), divergence: backend.view(divergence, at, chunk) });
  }
  const values = { loss: await backend.download(loss), divergence: await backend.download(divergence) };
  for (const tensor of [loss, divergence, following]) backend.free(tensor);
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
