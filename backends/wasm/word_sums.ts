/**
 * Sums of products of words, codes of 8 bits by integers of 16. Engines without an instruction that adds four products of bytes multiply
 * codes of at most seven bits by bytes: codes of 8 bits would be two halves, for each digit of an f32. One instruction of any engine
 * multiplies eight words and adds up neighbours, and an f32 is one such word. A vector of sixteen codes is two of words, those of its
 * even bytes and those of its odd ones, so that its four sums are of the same elements as sums of fours.
 */
import { i16x8, i32x4, type Local, v128 } from "./assembler.ts";
import type { CodedOperand } from "./coded_operand.ts";
import type { KernelCode, Vector } from "./place.ts";

/** Whether columns of codes are better multiplied as words; without relaxed instructions products of bytes take several. */
export const takesWords = (
  { bits }: Pick<CodedOperand, "bits">,
  { relaxed, fours }: Pick<KernelCode, "relaxed" | "fours">,
): boolean => !fours && (bits === 8 || !relaxed);

/** The words of even and of odd bytes. */
export const wordsOfBytes = (bytes: Vector): readonly [Vector, Vector] => [
  v128.and(bytes, i16x8.const(0xff)),
  i16x8.shr_u(bytes, 8),
];

/** A sum of products of words, complete once `finish` has been called. */
export interface WordSum {
  /** By digit, as activations have them. */
  readonly totals: readonly Local<"v128">[];
  add(x: Vector, codes: Vector): void;
  /** To be called before as many as 128 vectors of words have been added: 32 bits hold so many products of 2^8 by 2^15. */
  finish(): void;
}

/** Starts a sum; of several digits, products are added up apart and taken to pieces by `finish`. */
export function createWordSum({ b }: Pick<KernelCode, "b">, digits: number): WordSum {
  const zero = () => b.let("sum", i32x4.const(0)), totals = Array.from({ length: digits }, zero);
  const [low] = totals, high = totals[1], sum = high ? b.local("words", "v128") : low;
  if (!low || !sum) throw new Error("Internal error: a sum has no digits");
  let isEmpty = high !== undefined;
  return {
    totals,
    add(x, codes) {
      const product = i32x4.dot_i16x8_s(x, codes);
      b.set(sum, isEmpty ? product : i32x4.add(sum, product));
      isEmpty = false;
    },
    finish() {
      if (!high || isEmpty) return;
      b.set(low, i32x4.add(low, v128.and(sum, i32x4.const(0xff))));
      b.set(high, i32x4.add(high, i32x4.shr_s(sum, 8)));
      isEmpty = true;
    },
  };
}
