/** @file Greedy generation: always the most likely token. */
import type { Session } from "./session.ts";

/** When to end. */
export interface GenerateOptions {
  /** Most tokens to yield; up to the model's context unless given. */
  readonly maxTokens?: number;
  /** Tokens that end the text; they are not yielded. */
  readonly stop?: readonly number[];
}

/**
 * Appends a prompt to a session and yields the most likely next token again and again. Ends before `maxTokens` at a token
 * of `stop`, and where the context is full. The precision may be changed between two tokens. The last token yielded is not in
 * the session's cache: a text that goes on begins with it.
 *
 * @param prompt at least one token
 * @throws {UserError} if the prompt exceeds the model's context
 */
export async function* greedy(
  session: Pick<Session, "prefill" | "decode" | "length" | "contextLimit">,
  prompt: ArrayLike<number>,
  { maxTokens = Infinity, stop = [] }: GenerateOptions = {},
): AsyncGenerator<number> {
  if (maxTokens < 1) return;
  let logits = await session.prefill(prompt);
  for (let count = 1;; count++) {
    const id = mostLikely(logits);
    if (stop.includes(id)) return;
    yield id;
    if (count >= maxTokens || session.length >= session.contextLimit) return;
    logits = await session.decode(id);
  }
}

/** The index of the largest value; of equal ones the first. */
export function mostLikely(logits: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if ((logits[i] ?? -Infinity) > (logits[best] ?? -Infinity)) best = i;
  return best;
}
