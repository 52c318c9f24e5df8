/** @file One line of a table of results: what a setting costs, and what it does to a text. */
import type { BitSpec } from "../compiler/bit_spec.ts";
import { sizeModelOf, weightBytes } from "../compiler/budget.ts";
import type { TextData } from "../compiler/frontends/dataset.ts";
import { meanBits } from "../compiler/model_sites.ts";
import type { BitConfig } from "../ir/sites.ts";
import { configurationOf } from "./configuration.ts";
import type { ElasticSource } from "./elastic_source.ts";
import type { EvaluationMemory } from "./evaluation_memory.ts";
import { score } from "./evaluate.ts";
import type { Passage } from "./passages.ts";

/** Evaluation sequences are cut to so many tokens, which is more than a whole text of the bundled model and of stories260K. */
export const EVALUATION_TOKENS = 512;

/** What to say where texts are cut: `texts are cut to 512 tokens`; nothing where none is. Documents lose nothing, they go on in another. */
export const cutNote = ({ kind }: TextData, sequences: readonly Int32Array[], tokens: number): string =>
  kind === "sequences" && sequences.some(({ length }) => length === tokens) ? `texts are cut to ${tokens} tokens` : "";

/** A setting with its costs and its score. */
export interface ResultRow {
  /** The setting as the user wrote it. */
  readonly bits: string;
  /** Mean bits per weight of all linears, weighted by parameters. */
  readonly meanBits: number;
  /** What the weights of all linears take. */
  readonly bytes: number;
  /** What all weights take in a file, with embeddings, norms and head: what budgets in bytes count. */
  readonly totalBytes: number;
  /** exp of the mean negative log-likelihood of the predicted tokens. */
  readonly perplexity: number;
  /**
   * Standard error of its distance from the reference's perplexity on the same texts, or windows of one, which count as independent.
   * (Of the distance between two rows it says nothing.) NaN, in JSON null, for fewer than two texts.
   */
  readonly perplexityError: number;
  /** Mean divergence of the next-token distributions from the reference, in nats. */
  readonly kl: number;
  /** Predicted tokens. */
  readonly tokens: number;
  /** Time of this evaluation. */
  readonly seconds: number;
}

/** A model at a setting that it can run at. */
export interface Setting {
  readonly source: ElasticSource;
  readonly spec: BitSpec;
  readonly config: BitConfig;
}

/**
 * A setting of a model.
 *
 * @throws {UserError} if the model cannot run at it
 */
export const settingOf = (source: ElasticSource, spec: BitSpec): Setting => ({
  source,
  spec,
  config: configurationOf(source, spec),
});

/** What to score on which text. */
export interface ScoreSettings {
  /** The model whose full precision divergences are measured from. */
  readonly reference: ElasticSource;
  /** What to score. */
  readonly settings: readonly Setting[];
  /** Token ids. */
  readonly sequences: readonly (Int32Array | Passage)[];
  /** Called with every row as it is there, in order. */
  readonly report: (row: ResultRow) => void;
  /** Is told what memory the evaluation is going to need, before it begins. */
  readonly planned?: (memory: EvaluationMemory) => void;
}

/** Scores settings of models on one text; all sources must be on one runner. */
export async function scoreSettings({ reference, settings, sequences, report, ...rest }: ScoreSettings): Promise<void> {
  await score({
    reference: { source: reference, config: configurationOf(reference, "16") },
    scorers: settings,
    sequences,
    ...rest,
    report: ({ perplexity, perplexityError, kl, tokens, seconds }, index) => {
      const setting = settings[index];
      if (!setting) return;
      const { source: { module, sites, scheme }, config, spec } = setting, bytes = weightBytes(config, sites, scheme);
      const totalBytes = bytes + sizeModelOf(module, scheme).unquantized.file;
      const costs = { bits: spec.text, meanBits: meanBits(config, sites), bytes, totalBytes };
      // Rounding takes the divergence of a model from itself a little below zero.
      report({ ...costs, perplexity, perplexityError, kl: Math.max(0, kl), tokens, seconds });
    },
  });
}
