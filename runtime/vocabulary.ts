/** @file The number of tokens a language model knows, read off its module. */
import { UserError } from "../ir/errors.ts";
import { functionOf, type Module } from "../ir/module.ts";

/** Last dimension of the logits, which the last call returns. */
export function vocabularyOf(module: Module): number {
  const call = module.calls.at(-1), [output] = call ? functionOf(module, call).outputs : [];
  const size = Number(output?.node.type.shape.at(-1));
  if (Number.isInteger(size)) return size;
  throw new TypeError("Expected a module whose last call returns logits");
}

/**
 * Refuses what is no token of a vocabulary: kernels would take another one's embedding.
 *
 * @throws {UserError} naming the first
 */
export function checkIds(ids: ArrayLike<number>, vocabulary: number): void {
  const foreign = Array.from(ids).find((id) => !Number.isInteger(id) || id < 0 || id >= vocabulary);
  if (foreign === undefined) return;
  throw new UserError({
    what: `Expected token ids below the model's vocabulary size ${vocabulary} but found ${foreign}`,
    mend: "use the tokenizer that belongs to the model",
  });
}
