/**
 * Sums of products of bytes. Where an engine adds four products to 32 bits in one instruction, that is what is used. With other relaxed
 * SIMD such a sum is made of one that multiplies and adds up pairs in 16 bits, one that widens those, and one that adds: then pairs are
 * added up in 16 bits for as long as codes are small enough, and widened once (4 bits: once in eight products); codes that stay where
 * they lie (`unpacking.ts`) have 16 bits of their own until then. What takes more than that, codes of 8 bits by few rows and everything
 * without relaxed SIMD, goes by words (`word_sums.ts`).
 */
import { type FunctionBuilder, i16x8, i32x4, type Local } from "./assembler.ts";
import type { KernelCode, Vector } from "./place.ts";

/** A sum in 32 bits, of four or more lanes' worth of products. */
export interface ByteSum {
  /** Complete once `finish` has been called. */
  readonly total: Local<"v128">;
  /** Adds the products of signed bytes `x` and codes. */
  add(x: Vector, codes: Vector): void;
  /** Adds what is still in 16 bits: at the end of what is written out, such as a loop's body. */
  finish(): void;
}

/** The largest magnitude of a signed byte, which is what codes are multiplied by. */
const LARGEST_BYTE = 128;

/** Products of which as many as this are sure to fit 16 bits: two of them, of a byte and a code, are a pair. */
export const pairsInWord = (largestCode: number): number =>
  Math.max(1, Math.floor((2 ** 15 - 1) / (2 * LARGEST_BYTE * largestCode)));

/** Whether 32 bits hold the sum of so many products of a byte and a code. */
export const fitSum = (products: number, largestCode: number): boolean =>
  products * LARGEST_BYTE * largestCode < 2 ** 31;

/** Starts a sum of products; `room` says how many fit 16 bits, where no instruction adds fours. */
export function createByteSum({ b, fours }: Pick<KernelCode, "b" | "fours">, room: number): ByteSum {
  const total = b.let("sum", i32x4.const(0));
  if (fours) {
    return {
      total,
      add: (x, codes) => b.set(total, i32x4.relaxed_dot_i8x16_i7x16_add_s(x, codes, total)),
      finish: () => {},
    };
  }
  return pairwise(b, total, room);
}

/**
 * Starts two sums of products that are one: of codes as they are, and of codes 2^above times what they are. They are added up in 16
 * bits apart, `room` of each at most, and the second comes down where they are widened: both have the one total.
 */
export function createPartSums(
  { b }: Pick<KernelCode, "b">,
  above: number,
  room: number,
): readonly [ByteSum, ByteSum] {
  const total = b.let("sum", i32x4.const(0)), start = () => ({ words: b.local("words", "v128"), count: 0 });
  const low = start(), high = start();
  const finish = () => {
    const down = i16x8.shr_s(high.words, above);
    const words = high.count === 0 ? low.words : low.count === 0 ? down : i16x8.add(low.words, down);
    if (low.count + high.count > 0) b.set(total, i32x4.add(total, i32x4.extadd_pairwise_i16x8_s(words)));
    low.count = high.count = 0;
  };
  const part = (own: typeof low): ByteSum => ({
    total,
    add(x, codes) {
      const product = i16x8.relaxed_dot_i8x16_i7x16_s(x, codes);
      b.set(own.words, own.count === 0 ? product : i16x8.add(own.words, product));
      if (++own.count === room) finish();
    },
    finish,
  });
  return [part(low), part(high)];
}

function pairwise(b: FunctionBuilder, total: Local<"v128">, room: number): ByteSum {
  const words = room > 1 ? b.local("words", "v128") : undefined;
  let count = 0;
  const widen = i32x4.extadd_pairwise_i16x8_s;
  const finish = () => {
    if (words && count > 0) b.set(total, i32x4.add(total, widen(words)));
    count = 0;
  };
  return {
    total,
    add(x, codes) {
      const product = i16x8.relaxed_dot_i8x16_i7x16_s(x, codes);
      if (!words) return b.set(total, i32x4.add(total, widen(product)));
      b.set(words, count === 0 ? product : i16x8.add(words, product));
      if (++count === room) finish();
    },
    finish,
  };
}
