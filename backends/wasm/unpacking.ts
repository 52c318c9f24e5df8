/**
 * Which bytes codes become for products, which take codes below 128, or any (`ByteProducts.unsigned`). Codes of 8 bits are two halves
 * where they must be. Codes of 2 to 4 bits that lie in a byte's upper half can stay there, 16 times what they are, where sums of 32
 * bits hold that: a mask then does without the shift.
 */
import { type ByteProducts, i16x8, i32x4, i8x16, v128 } from "./assembler.ts";
import { fitSum } from "./byte_sums.ts";
import type { CodedOperand } from "./coded_operand.ts";
import type { Vector } from "./place.ts";

/** Bits of a part of an 8-bit code: halves, whose products fit 16 bits for longest. */
export const PART_BITS = 4;

/** How codes become bytes that products take, and are summed up by parts. */
export interface Unpacking {
  readonly parts: number;
  /** The largest value of a byte. */
  readonly largest: number;
  /** A sum, of those of its parts. */
  join(parts: readonly Vector[]): Vector;
  /** Whether codes stay where they lie: those in a byte's upper half are a part of their own, and 16 times what they are. */
  readonly inPlace: boolean;
}

const ALONE = { parts: 1, join: ([sum = i32x4.const(0)]: readonly Vector[]): Vector => sum, inPlace: false };

/** Codes as they are. */
export const codesAsTheyAre = ({ bits }: Pick<CodedOperand, "bits">): Unpacking => ({
  ...ALONE,
  largest: 2 ** bits - 1,
});

/** Codes as they are, but 8 bits in two halves where products take no more than seven. */
export function unpackingOf({ bits }: Pick<CodedOperand, "bits">, { unsigned }: ByteProducts): Unpacking {
  if (bits < 8 || unsigned) return codesAsTheyAre({ bits });
  const join = ([low = i32x4.const(0), high = low]: readonly Vector[]) => i32x4.add(low, i32x4.shl(high, PART_BITS));
  return { parts: 2, largest: 2 ** PART_BITS - 1, join, inPlace: false };
}

/**
 * Codes of two to four bits without the shifts that bring them down from a byte's upper half: two sums instead of one. Undefined where
 * products take no bytes as large, or 32 bits do not hold the sum of so many of them.
 */
export function unpackingInPlace(
  { bits }: Pick<CodedOperand, "bits">,
  { fours, unsigned }: ByteProducts,
  elements: number,
): Unpacking | undefined {
  const largest = (2 ** bits - 1) << PART_BITS,
    join = ([low = i32x4.const(0), high = low]: readonly Vector[]) => i32x4.add(low, i32x4.shr_s(high, PART_BITS));
  const fits = fours && bits <= PART_BITS && (largest < 128 || unsigned) && fitSum(elements, largest);
  return fits ? { parts: 2, largest, join, inPlace: true } : undefined;
}

/** The halves of bytes, the lower one first. */
export const halvesOfBytes = (bytes: Vector): readonly Vector[] => [
  v128.and(bytes, i8x16.const(2 ** PART_BITS - 1)),
  v128.and(i16x8.shr_u(bytes, PART_BITS), i8x16.const(2 ** PART_BITS - 1)),
];
