/** @file Evaluation text where none is given: the end of the calibration text, which is then not calibrated on. */
import type { TextData } from "../compiler/frontends/dataset.ts";

/** Texts for both purposes. */
export interface HeldOut {
  readonly calibration: TextData;
  readonly evaluation: TextData;
  /** What was done, for the user, where anything was: a sentence without a final period. */
  readonly note?: string;
}

/** The part of the text that is calibrated on. */
const KEPT = 0.9;

/**
 * Holds out the last tenth: of separate texts the last ones, of a document (or a single text) what follows the last blank
 * before nine tenths. A text without a place to cut is used for both.
 */
export function holdOut(data: TextData): HeldOut {
  const { name, texts } = data, [single = ""] = texts;
  const parts = (kept: readonly string[], held: readonly string[]) => ({
    calibration: { ...data, texts: kept },
    evaluation: { ...data, texts: held },
  });
  if (texts.length > 1) {
    const kept = texts.length - Math.ceil(texts.length * (1 - KEPT));
    const note = `Evaluating on the last ${
      texts.length - kept
    } of ${texts.length} texts of ${name}, held out from calibration`;
    return { ...parts(texts.slice(0, kept), texts.slice(kept)), note };
  }
  const cut = single.slice(0, Math.floor(single.length * KEPT)).search(/\s\S*$/);
  const [kept, held] = [single.slice(0, cut), single.slice(cut)];
  if (cut > 0 && kept.trim() !== "" && held.trim() !== "") {
    return { ...parts([kept], [held]), note: `Evaluating on the last tenth of ${name}, held out from calibration` };
  }
  return {
    calibration: data,
    evaluation: data,
    note: `Evaluating on ${name}, the calibration text, which is too short to be split`,
  };
}
