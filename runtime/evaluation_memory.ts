/** @file What an evaluation needs in memory: planned before it starts, by going through what it takes and gives back, in figures. */
import type { Backend } from "../backends/backend.ts";
import { bindDim } from "../ir/dim.ts";
import type { Call } from "../ir/module.ts";
import type { Graph } from "../ir/node.ts";
import { localWidths } from "../ir/sites.ts";
import { type TensorType, tensorType } from "../ir/types.ts";
import type { ProgramsOf, Scorer } from "./forward.ts";
import { CHUNK, type LengthBatch } from "./length_batches.ts";
import { NEXT_INPUT, SCORES } from "./logits.ts";
import type { ScorePrograms } from "./score_batches.ts";
import { callMemory, type WeightMemory } from "./session_memory.ts";

/** The planned peak of an evaluation on its backend, in bytes. */
export interface EvaluationMemory {
  /** Weights at the peak: those of one call, or the heads of model and reference, and what they are being made of. */
  readonly weights: number;
  /** Values between calls of all batches, of the reference and of the model that is compared with it. */
  readonly hidden: number;
  /** Intermediate values of the largest program, and working memory of the threads; what earlier programs left included. */
  readonly arena: number;
  readonly scratch: number;
  /** What tensors leave between them, and whatever else lies on the backend. */
  readonly gaps: number;
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

/** A call at a scorer's widths. */
interface PlannedCall {
  readonly call: Call;
  readonly step: Graph;
  readonly weights: readonly WeightMemory[];
  /** What the step program returns, in the order in which it takes room for it. */
  readonly results: readonly string[];
}

/**
 * Plans an evaluation of the largest wave. It compiles the programs of the largest batch, which the evaluation finds again, and then
 * takes and gives back what the evaluation will, in its order.
 */
export async function evaluationMemory(input: EvaluationPlanInput): Promise<EvaluationMemory> {
  const { reference, scorers, waves, programs, scoreOf } = input, { runner } = reference.source, { backend } = runner;
  const wave = waves.reduce((most, each) => tokensOf(each) > tokensOf(most) ? each : most, []);
  const largest = waves.flat().reduce((most, each) => most && sizeOf(most) >= sizeOf(each) ? most : each, wave[0]);
  if (!largest) return { weights: 0, hidden: 0, arena: 0, scratch: 0, gaps: 0, total: 0 };

  const planCalls = async ({ source, config }: Scorer): Promise<readonly PlannedCall[]> => {
    const { calls } = source.module, own = programs(source), planned: PlannedCall[] = [];
    for (const [i, call] of calls.entries()) {
      const widths = localWidths(config, call.prefix), step = own.step(call, widths);
      const weights = await callMemory(source, own, call, widths);
      const program = i < calls.length - 1
        ? await runner.program(step, { B: largest.rows, T: largest.tokens })
        : undefined;
      planned.push({ call, step, weights, results: Object.keys(program?.outputs ?? {}) });
    }
    return planned;
  };
  const original = await planCalls(reference), models: (readonly PlannedCall[])[] = [];
  for (const scorer of scorers) {
    const calls = scorer === reference ? original : await planCalls(scorer);
    await runner.program(scoreOf(headOf(calls).step, headOf(original).step), { B: 1, T: CHUNK });
    models.push(calls);
  }

  // With all programs there, the work space lies where it stays.
  const ledger = openLedger(backend), shared = forward(ledger, backend, original, wave);
  for (const calls of models) {
    const own = calls === original ? undefined : forward(ledger, backend, calls, wave);
    score(ledger, backend, [headOf(original), headOf(calls)], wave);
    if (own) giveAll(own);
  }
  giveAll(shared);
  const { arena, scratch } = backend.workSpace(), { weights, hidden } = ledger.peak();
  const sum = weights + hidden + arena + scratch, total = Math.max(sum, ledger.allocated());
  return { weights, hidden, arena, scratch, gaps: total - sum, total };
}

/** Gives something back. */
type Give = () => void;

/** Tensors that come and go, and what there was when they were most. */
interface Ledger {
  take(what: keyof Moment, bytes: number): Give;
  peak(): Moment;
  /** The most bytes that the backend will have taken; 0 where no gaps are known. */
  allocated(): number;
}

interface Moment {
  readonly weights: number;
  readonly hidden: number;
}

function openLedger(backend: Backend): Ledger {
  const rehearsal = backend.rehearse?.(), now = { weights: 0, hidden: 0 };
  let most: Moment = { ...now };
  return {
    take(what, bytes) {
      const give = rehearsal?.take(bytes);
      now[what] += bytes;
      if (now.weights + now.hidden > most.weights + most.hidden) most = { ...now };
      return () => {
        now[what] -= bytes;
        give?.();
      };
    },
    peak: () => most,
    allocated: () => rehearsal?.allocated ?? 0,
  };
}

/** The values of one batch, by name. */
type Values = Map<string, Give>;

/** See `forward`. */
function forward(ledger: Ledger, backend: Backend, calls: readonly PlannedCall[], wave: readonly LengthBatch[]) {
  const hidden = wave.map(({ rows, tokens }): Values => {
    const bytes = backend.bytesOf(tensorType("i32", [rows, tokens]));
    return new Map(["ids", "positions"].map((name) => [name, ledger.take("hidden", bytes)]));
  });
  for (const [i, { call, step, weights, results }] of calls.slice(0, -1).entries()) {
    const needed = new Set(calls.slice(i + 1).flatMap(({ call: { inputs } }) => Object.values(inputs)));
    const free = configure(ledger, weights), typeOf = new Map(step.outputs.map(({ name, node }) => [name, node.type]));
    for (const [at, values] of hidden.entries()) {
      const { rows: B, tokens: T } = wave[at] as LengthBatch;
      const made = results.map((name) => {
        const { dtype, shape } = typeOf.get(name) as TensorType;
        const bytes = backend.bytesOf(tensorType(dtype, shape.map((dim) => bindDim(dim, { B, T }))));
        return [call.outputs[name] ?? name, ledger.take("hidden", bytes)] as const;
      });
      for (const [name, give] of made) {
        values.get(name)?.();
        values.set(name, give);
      }
      for (const [name, give] of values) {
        if (needed.has(name)) continue;
        give();
        values.delete(name);
      }
    }
    free();
  }
  return hidden;
}

/** See `sumScores`. */
function score(ledger: Ledger, backend: Backend, heads: readonly PlannedCall[], wave: readonly LengthBatch[]): void {
  const free = heads.map(({ weights }) => configure(ledger, weights));
  for (const batch of wave) {
    const bytes = backend.bytesOf(tensorType("f32", [sizeOf(batch)]));
    const results = [...SCORES, NEXT_INPUT].map(() => ledger.take("hidden", bytes));
    for (const give of results) give();
  }
  for (const give of free) give();
}

/** See `configureCall`: the codes of one weight after the other, and then what is held as it is. */
function configure(ledger: Ledger, weights: readonly WeightMemory[]): Give {
  const takeAll = (sizes: Iterable<number>) => [...sizes].map((bytes) => ledger.take("weights", bytes));
  const made = weights.flatMap(({ own, besides, raw }, i) => {
    const load = (sizes: Iterable<number>) => {
      const from = takeAll(raw), loaded = takeAll(sizes);
      for (const give of from) give();
      return loaded;
    };
    if (i === weights.length - 1) return load(own.values());
    const codes = takeAll(own.values());
    for (const give of load(besides.values())) give();
    return codes;
  });
  return () => {
    for (const give of made) give();
  };
}

function giveAll(hidden: readonly Values[]): void {
  for (const give of hidden.flatMap((values) => [...values.values()])) give();
}

function headOf(calls: readonly PlannedCall[]): PlannedCall {
  const head = calls.at(-1);
  if (!head) throw new TypeError("Expected a module with calls but found none");
  return head;
}

const sizeOf = ({ rows, tokens }: LengthBatch): number => rows * tokens;
const tokensOf = (wave: readonly LengthBatch[]): number => wave.reduce((sum, batch) => sum + sizeOf(batch), 0);
