/**
 * @file Perplexity of texts, and divergence from a reference model, at a list of configurations: one forward per batch and
 * configuration, without a cache. Logits are scored where they are computed and never stored.
 */
import { type EvaluationMemory, evaluationMemory } from "./evaluation_memory.ts";
import { forward, freeHidden, type Hidden, programCache, type Scorer } from "./forward.ts";
import { type LengthBatch, lengthBatches } from "./length_batches.ts";
import type { Passage } from "./passages.ts";
import { scoreCache, type SequenceSums, type Sums, sumScores } from "./score_batches.ts";

/** What a configuration does to a text. */
export interface Score {
  /** exp of the mean negative log-likelihood of all predicted tokens: all but each sequence's first. */
  readonly perplexity: number;
  /** Mean KL(reference ‖ model) of the next-token distributions at those tokens, in nats. */
  readonly kl: number;
  /**
   * Standard error of the distance between the perplexity and the reference's, both of these texts: how far off others of the kind
   * might have put it. Texts, or windows of one, count as independent, their tokens do not. By the delta method, over n texts of tᵢ
   * predicted tokens and losses lᵢ and rᵢ of model and reference, with means l and r per token:
   * √(n/(n - 1)·Σ(eˡ·(lᵢ - l·tᵢ) - eʳ·(rᵢ - r·tᵢ))²) / Σtᵢ. NaN for fewer than two texts.
   */
  readonly perplexityError: number;
  /** Predicted tokens. */
  readonly tokens: number;
  /** Wall-clock time of this configuration. */
  readonly seconds: number;
}

/** What to evaluate. */
export interface ScoreOptions {
  /** The model that divergences are measured from. */
  readonly reference: Scorer;
  /** One that is the very `reference` is not computed again. */
  readonly scorers: readonly Scorer[];
  /** Token ids; sequences of fewer than two predict nothing. */
  readonly sequences: readonly (Int32Array | Passage)[];
  /** Called with every score as soon as it is there. */
  readonly report?: (score: Score, index: number) => void;
  /** Is told what memory the evaluation is going to need, before it begins. */
  readonly planned?: (memory: EvaluationMemory) => void;
  /** Most tokens whose hidden states are in memory at a time. */
  readonly waveTokens?: number;
}

/** 256 MB of hidden states per model at a width of 1024. */
const WAVE_TOKENS = 65536;

/**
 * Scores every configuration on the same sequences. All sources must be on one runner and share the vocabulary.
 *
 * @returns scores in the order of `scorers`; without any token to predict, perplexity and divergence are NaN
 */
export async function score(options: ScoreOptions): Promise<readonly Score[]> {
  const { reference, scorers, sequences, report, waveTokens = WAVE_TOKENS } = options;
  const { backend } = reference.source.runner, programs = programCache(), scoreOf = scoreCache();
  const waves = wavesOf(lengthBatches(sequences), waveTokens), [first] = waves;
  if (options.planned) options.planned(await evaluationMemory({ reference, scorers, waves, programs, scoreOf }));
  // The reference's states of a single wave serve all configurations; those of several are computed anew, for lack of room.
  const shared = first && waves.length === 1 ? await forward(reference, first, programs) : undefined;

  const scoreWave = async (wave: readonly LengthBatch[], scorer: Scorer): Promise<Sums> => {
    const original = shared ?? await forward(reference, wave, programs);
    const hidden: Hidden = scorer === reference ? original : await forward(scorer, wave, programs);
    const sums = await sumScores(wave, { scorer, hidden }, { scorer: reference, hidden: original }, programs, scoreOf);
    if (hidden !== original) freeHidden(backend, hidden);
    if (original !== shared) freeHidden(backend, original);
    return sums;
  };

  const scores: Score[] = [];
  try {
    for (const [index, scorer] of scorers.entries()) {
      const start = performance.now();
      let loss = 0, divergence = 0, tokens = 0;
      const texts: SequenceSums[] = [];
      for (const wave of waves) {
        const sums = await scoreWave(wave, scorer);
        loss += sums.loss;
        divergence += sums.divergence;
        tokens += sums.tokens;
        texts.push(...sums.sequences.values());
      }
      const seconds = (performance.now() - start) / 1000;
      // A model does not diverge from itself, though two kernels that compute its logits may round differently.
      const kl = scorer === reference ? 0 : divergence / tokens;
      const result = { perplexity: Math.exp(loss / tokens), perplexityError: errorOf(texts), kl, tokens, seconds };
      scores.push(result);
      report?.(result, index);
    }
  } finally {
    if (shared) freeHidden(backend, shared);
  }
  return scores;
}

/** See `Score.perplexityError`. */
function errorOf(texts: readonly SequenceSums[]): number {
  const total = (of: (text: SequenceSums) => number) => texts.reduce((sum, text) => sum + of(text), 0);
  const n = texts.length, tokens = total((text) => text.tokens);
  const mean = total(({ loss }) => loss) / tokens, excess = total((text) => text.excess) / tokens;
  const perplexity = Math.exp(mean), reference = Math.exp(mean - excess);
  const squares = total((text) => {
    const own = text.loss - mean * text.tokens;
    return (perplexity * own - reference * (own - (text.excess - excess * text.tokens))) ** 2;
  });
  return n < 2 ? NaN : Math.sqrt(squares * n / (n - 1)) / tokens;
}

/** The negative log-likelihood of the predicted tokens of every passage, in nats; NaN where none is predicted. */
export async function scorePassages(
  scorer: Scorer,
  passages: readonly Passage[],
  waveTokens = WAVE_TOKENS,
): Promise<readonly number[]> {
  const { backend } = scorer.source.runner, programs = programCache(), scoreOf = scoreCache();
  const losses = passages.map(() => NaN);
  for (const wave of wavesOf(lengthBatches(passages), waveTokens)) {
    const hidden = await forward(scorer, wave, programs), scored = { scorer, hidden };
    const sums = await sumScores(wave, scored, scored, programs, scoreOf);
    for (const [source, { loss }] of sums.sequences) losses[source] = loss;
    freeHidden(backend, hidden);
  }
  return losses;
}

/** Groups batches, at least one each, so that no group of several has more than `most` tokens. */
function wavesOf(batches: readonly LengthBatch[], most: number): readonly (readonly LengthBatch[])[] {
  const waves: LengthBatch[][] = [];
  let room = 0;
  for (const batch of batches) {
    const size = batch.rows * batch.tokens;
    if (size > room) {
      waves.push([]);
      room = most;
    }
    waves.at(-1)?.push(batch);
    room -= size;
  }
  return waves;
}
