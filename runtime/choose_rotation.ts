/**
 * Whether rotations help a model whose weights alone are quantized. That differs from model to model: calibrated, the bundled one has
 * a quarter to a third less divergence at 3 and 4 bits with them, stories260K an eighth more. Rounding to nearest in both bases, on a
 * few calibration texts, says which it is (0.84 to 0.90 and 1.03 to 1.08 times the divergence), and costs little beside a calibration.
 */
import type { Recipe } from "../compiler/recipe.ts";
import { configurationOf } from "./configuration.ts";
import type { ElasticSource } from "./elastic_source.ts";
import { score } from "./evaluate.ts";

/** Widths that are compared: at 2 bits rounding alone says nothing, above 5 there is nothing to gain. */
const WIDTHS = ["3", "4", "5"] as const;
/** Rotations cost a transform per token and layer, so they have to gain that much. */
const WORTHWHILE = 0.97;

/** What the choice is made of. */
export interface RotationChoice {
  readonly recipe: Recipe;
  /** The model, rounded to nearest in the basis of a recipe. */
  readonly open: (recipe: Recipe) => ElasticSource;
  readonly sequences: readonly Int32Array[];
  /** At most so many tokens, whole sequences, but one at least. */
  readonly tokens: number;
}

/** What was found. */
export interface RotationFinding {
  readonly rotate: boolean;
  /** Divergence of rotated weights rounded to nearest, as a part of that of the weights as they are: geometric mean over 3, 4 and 5 bits. */
  readonly ratio: number;
}

/** Rounds the model to nearest with and without rotations, and compares. */
export async function chooseRotation(
  { recipe, open, sequences, tokens }: RotationChoice,
): Promise<RotationFinding> {
  const measured = firstOf(sequences, tokens);
  const divergences = async (rotate: boolean): Promise<readonly number[]> => {
    const source = open({ ...recipe, rotate });
    const at = (bits: string) => ({ source, config: configurationOf(source, bits) });
    const scores = await score({ reference: at("16"), scorers: WIDTHS.map(at), sequences: measured });
    return scores.map(({ kl }) => kl);
  };
  const plain = await divergences(false), rotated = await divergences(true);
  const logs = rotated.map((kl, i) => Math.log(kl / (plain[i] ?? NaN)));
  const ratio = Math.exp(logs.reduce((sum, log) => sum + log, 0) / logs.length);
  return { rotate: ratio < WORTHWHILE, ratio };
}

function firstOf(sequences: readonly Int32Array[], tokens: number): readonly Int32Array[] {
  let sum = 0;
  const end = sequences.findIndex(({ length }) => (sum += length) > tokens);
  return end < 0 ? sequences : sequences.slice(0, Math.max(1, end));
}
