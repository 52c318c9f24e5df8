/** @file The number of tokens a language model knows, read off its module. */
import { functionOf, type Module } from "../ir/module.ts";

/** Last dimension of the logits, which the last call returns. */
export function vocabularyOf(module: Module): number {
  const call = module.calls.at(-1), [output] = call ? functionOf(module, call).outputs : [];
  const size = Number(output?.node.type.shape.at(-1));
  if (Number.isInteger(size)) return size;
  throw new TypeError("Expected a module whose last call returns logits");
}
