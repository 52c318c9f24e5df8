/** @file How a `config.json` describes rotary position embeddings, in the spellings of old and new `transformers`. */
import type { Fields } from "./fields.ts";

/** Rotary embeddings: pair j of a head turns by `position · theta^(−2j/headDim)`, before scaling. */
export interface RopeConfig {
  readonly ropeTheta: number;
  /** Null: none. */
  readonly ropeScaling: RopeScaling | null;
}

/** A change of the pairs' frequencies, for contexts longer than those first trained on. */
export type RopeScaling =
  /** Every frequency is divided by `factor`. */
  | { readonly type: "linear"; readonly factor: number }
  /**
   * LLaMA 3.1: frequencies whose wavelength exceeds `originalMaxPosition / lowFreqFactor` are divided by `factor`, those
   * below `originalMaxPosition / highFreqFactor` are kept, and in between the two are blended.
   */
  | {
    readonly type: "llama3";
    readonly factor: number;
    readonly lowFreqFactor: number;
    readonly highFreqFactor: number;
    readonly originalMaxPosition: number;
  };

/**
 * Reads `rope_theta` and `rope_scaling`, or the `rope_parameters` that newer versions write in their place. Where both
 * stand, `rope_scaling` wins if there is anything in it, as in `transformers` itself.
 *
 * @param maxPositions the model's context in tokens, which llama3 scaling takes for the original one if that is absent
 * @throws {UserError} on rope types other than default, linear and llama3
 */
export function readRope(fields: Fields, maxPositions: number): RopeConfig {
  const scaling = fields.object("rope_scaling");
  const rope = scaling && scaling.names().length > 0 ? scaling : fields.object("rope_parameters");
  for (const place of rope ? [fields, rope] : [fields]) {
    if (place.positive("partial_rotary_factor", 1) !== 1) {
      throw place.error("partial_rotary_factor", "1", "use a checkpoint whose heads are rotated in full");
    }
  }
  const theta = fields.positive("rope_theta", 10000);
  return {
    ropeTheta: rope?.positive("rope_theta", theta) ?? theta,
    ropeScaling: rope && readScaling(rope, fields, maxPositions),
  };
}

const ORIGINAL = "original_max_position_embeddings";

function readScaling(rope: Fields, config: Fields, maxPositions: number): RopeScaling | null {
  // Before version 4.43 the key was "type". Parameters that name no type may say theta, but nothing that needs a type.
  const key = (rope.raw("rope_type") ?? null) === null ? "type" : "rope_type";
  const type = rope.raw("factor") === undefined ? rope.string(key, "default") : rope.string(key);
  switch (type) {
    case "default":
      return null;
    case "linear":
      return { type, factor: rope.positive("factor") };
    case "llama3": {
      const lowFreqFactor = rope.positive("low_freq_factor");
      const highFreqFactor = rope.positive("high_freq_factor");
      // The blend divides by their difference.
      if (highFreqFactor <= lowFreqFactor) {
        throw rope.error("high_freq_factor", `above low_freq_factor ${lowFreqFactor}`);
      }
      return {
        type,
        factor: rope.positive("factor"),
        lowFreqFactor,
        highFreqFactor,
        // Where the configuration itself has it, that counts.
        originalMaxPosition: config.count(ORIGINAL, rope.count(ORIGINAL, maxPositions)),
      };
    }
    default:
      throw rope.error(key, "a supported rope type", 'use a checkpoint of rope type "default", "linear" or "llama3"');
  }
}
