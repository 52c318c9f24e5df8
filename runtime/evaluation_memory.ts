/** @file What an evaluation needs in memory: planned before it starts, by the compiler's own plans. */
import { type Executable, workSpaceOf } from "../backends/backend.ts";
import { localWidths } from "../ir/sites.ts";
import { tensorType } from "../ir/types.ts";
import type { ProgramsOf, Scorer } from "./forward.ts";
import { CHUNK, type LengthBatch } from "./length_batches.ts";
import type { ScorePrograms } from "./score_batches.ts";
import { callMemory } from "./session_memory.ts";

/** The planned peak of an evaluation on its backend, in bytes. */
export interface EvaluationMemory {
  /** Weights at the peak: those of one call, or the heads of model and reference. */
  readonly weights: number;
  /** Values between calls of all batches, of the reference and of the model that is compared with it. */
  readonly hidden: number;
  /** Intermediate values of the largest program, and working memory of the threads. */
  readonly arena: number;
  readonly scratch: number;
  readonly total: number;
}

/** What is planned. */
export interface EvaluationPlanInput {
  readonly reference: Scorer;
  readonly scorers: readonly Scorer[];
  /** Batches whose values are alive together. */
  readonly waves: readonly (readonly LengthBatch[])[];
  readonly programs: ProgramsOf;
  readonly scoreOf: ScorePrograms;
}

/** Weights and values that are alive together. */
interface Moment {
  readonly weights: number;
  readonly hidden: number;
}

/**
 * Plans an evaluation. It compiles the programs of the largest batch, which the evaluation finds again. Where weights outweigh hidden
 * states, as with a single short text, gaps that the weights of one call leave to those of the next come on top.
 */
export async function evaluationMemory(input: EvaluationPlanInput): Promise<EvaluationMemory> {
  const { reference, scorers, waves, programs, scoreOf } = input, { runner } = reference.source;
  const compiled: Executable[] = [], moments: Moment[] = [];
  const largest = (some: readonly LengthBatch[]) =>
    some.reduce<LengthBatch | undefined>((most, each) => most && sizeOf(most) >= sizeOf(each) ? most : each, undefined);
  const wave = [...waves].sort((a, b) => sum(b.map(sizeOf)) - sum(a.map(sizeOf)))[0] ?? [],
    most = largest(waves.flat());
  if (!most) return { weights: 0, hidden: 0, arena: 0, scratch: 0, total: 0 };

  /** All calls of a model but the last, beside values that others hold; returns its own values in front of the last. */
  const walk = async ({ source, config }: Scorer, others: number): Promise<number> => {
    const { module, runner: { backend } } = source, own = programs(source);
    const ids = sum(wave.map(({ rows, tokens }) => 2 * backend.bytesOf(tensorType("i32", [rows, tokens]))));
    const alive = new Map([["ids", ids / 2], ["positions", ids / 2]]);
    for (const [i, call] of module.calls.slice(0, -1).entries()) {
      const widths = localWidths(config, call.prefix), made = await callMemory(source, own, call, widths);
      let weights = 0;
      for (const { own: bytes, besides } of made.weights) {
        weights += sum(bytes.values());
        moments.push({ weights: weights + sum(besides.values()), hidden: others + sum(alive.values()) });
      }
      const program = await runner.program(own.step(call, widths), { B: most.rows, T: most.tokens });
      compiled.push(...made.compiled, program);
      const results = Object.entries(program.outputs).map(([name, type]) =>
        [call.outputs[name] ?? name, backend.bytesOf(type)] as const
      );
      const share = sum(wave.map(sizeOf)) / sizeOf(most), present = sum(alive.values());
      // New values of all batches are there in the end; what takes another's place is there beside it for one batch.
      const more = sum(results.map(([name, bytes]) => alive.has(name) ? bytes : share * bytes));
      moments.push({ weights, hidden: others + present + more });
      for (const [name, bytes] of results) alive.set(name, share * bytes);
      const needed = new Set(module.calls.slice(i + 1).flatMap(({ inputs }) => Object.values(inputs)));
      for (const name of alive.keys()) if (!needed.has(name)) alive.delete(name);
    }
    return sum(alive.values());
  };
  /** The last call of a model. */
  const head = async ({ source, config }: Scorer) => {
    const call = source.module.calls.at(-1);
    if (!call) throw new TypeError(`Expected a module with calls in "${source.name}" but found none`);
    const widths = localWidths(config, call.prefix), own = programs(source);
    const made = await callMemory(source, own, call, widths);
    compiled.push(...made.compiled);
    return { step: own.step(call, widths), weights: sum(made.weights.flatMap(({ own }) => [...own.values()])) };
  };

  const original = await walk(reference, 0), last = await head(reference);
  const scores = 3 * runner.backend.bytesOf(tensorType("f32", [sizeOf(most)]));
  for (const scorer of scorers) {
    const own = scorer === reference ? 0 : await walk(scorer, original), ownHead = await head(scorer);
    compiled.push(await runner.program(scoreOf(ownHead.step, last.step), { B: 1, T: CHUNK }));
    moments.push({ weights: last.weights + ownHead.weights, hidden: original + own + scores });
  }
  const peak = moments.reduce((a, b) => b.weights + b.hidden > a.weights + a.hidden ? b : a);
  const { arena, scratch } = workSpaceOf(compiled);
  return { ...peak, arena, scratch, total: peak.weights + peak.hidden + arena + scratch };
}

const sizeOf = ({ rows, tokens }: LengthBatch): number => rows * tokens;
const sum = (numbers: Iterable<number>): number => [...numbers].reduce((a, b) => a + b, 0);
