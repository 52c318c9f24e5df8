/** @file One line of a table of results: what a setting costs, and what it does to a text. */
import { type BitSpec, storageBytes } from "../compiler/bit_spec.ts";
import { meanBits } from "../compiler/model_sites.ts";
import { configurationOf } from "./configuration.ts";
import type { ElasticSource } from "./elastic_source.ts";
import { score } from "./evaluate.ts";

/** Evaluation sequences are cut to so many tokens, which is more than a whole text of the bundled model and of stories260K. */
export const EVALUATION_TOKENS = 512;

/** A setting with its costs and its score. */
export interface ResultRow {
  /** The setting as the user wrote it. */
  readonly bits: string;
  /** Mean bits per weight of all linears, weighted by parameters. */
  readonly meanBits: number;
  /** What the weights of all linears take. */
  readonly bytes: number;
  readonly perplexity: number;
  /** Mean divergence of the next-token distributions from the reference, in nats. */
  readonly kl: number;
  /** Predicted tokens. */
  readonly tokens: number;
  /** Time of this evaluation. */
  readonly seconds: number;
}

/** What to score on which text. */
export interface ScoreSettings {
  /** The model whose full precision divergences are measured from. */
  readonly reference: ElasticSource;
  readonly settings: readonly { readonly source: ElasticSource; readonly spec: BitSpec }[];
  readonly sequences: readonly Int32Array[];
  /** Called with every row as it is there, in order. */
  readonly report: (row: ResultRow) => void;
}

/**
 * Scores settings of models on one text; all sources must be on one runner.
 *
 * @throws {UserError} if a model cannot run at one of the settings, before any is scored
 */
export async function scoreSettings({ reference, settings, sequences, report }: ScoreSettings): Promise<void> {
  const scorers = settings.map(({ source, spec }) => ({ source, spec, config: configurationOf(source, spec) }));
  await score({
    reference: { source: reference, config: configurationOf(reference, "16") },
    scorers,
    sequences,
    report: (result, index) => {
      const scorer = scorers[index];
      if (!scorer) return;
      const { source: { sites, scheme }, config, spec } = scorer;
      report({ bits: spec.text, meanBits: meanBits(config, sites), bytes: storageBytes(config, sites, scheme), ...result });
    },
  });
}
