/** @file Token sequences of which a part is predicted: windows of a long text, and the choices of a task. */
import type { Tokenizer } from "../compiler/frontends/tokenizer.ts";

/** A sequence whose tokens from `from` on are predicted, each from all in front of it. */
export interface Passage {
  readonly ids: Int32Array;
  /** At least 1: nothing predicts the first token. */
  readonly from: number;
}

/**
 * Windows of a long text, so that every token but the first is predicted once: the first window predicts all its tokens, each
 * further one those that the windows before it have not reached. Without overlap (`stride` = `window`) windows stand alone, and
 * the first token of each is not predicted: the usual protocol for WikiText.
 *
 * @param window tokens per window, at least 2
 * @param stride tokens between the starts of windows, from 1 to `window`
 */
export function windowsOf(ids: Int32Array, window: number, stride: number): readonly Passage[] {
  if (!(window >= 2 && stride >= 1 && stride <= window)) {
    throw new RangeError(`Expected a window of 2 or more and a stride within it but found ${window} and ${stride}`);
  }
  const passages: Passage[] = [];
  for (let start = 0, reached = 0; reached < ids.length; start += stride) {
    const end = Math.min(start + window, ids.length), from = Math.max(1, reached - start);
    if (end - start > from) passages.push({ ids: ids.slice(start, end), from });
    reached = end;
  }
  return passages;
}

/**
 * A context and its continuation as tokens. Both are encoded together, and what the context alone has not is the continuation;
 * spaces at the end of the context belong to the continuation. Too long ones lose their beginning.
 *
 * @param limit most tokens, at least 2
 */
export function continuationOf(tokenizer: Tokenizer, context: string, continuation: string, limit: number): Passage {
  const kept = context.trimEnd(), whole = tokenizer.encode(kept + context.slice(kept.length) + continuation);
  const start = kept === "" ? Math.min(1, whole.length - 1) : tokenizer.encode(kept).length;
  const cut = Math.max(0, whole.length - limit);
  return { ids: Int32Array.from(whole.slice(cut)), from: Math.max(1, Math.min(start, whole.length - 1) - cut) };
}
