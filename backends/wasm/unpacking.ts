/**
 * Which bytes codes become for products, which take codes below 128, or any (`ByteProducts.unsigned`). Codes of 8 bits are two halves
 * where they must be. Codes that lie above others can stay there, some times what they are, where sums hold that: a mask then does
 * without the shift. Sums of 32 bits hold codes of 2 to 4 bits that are 16 times what they are, those of 16 bits codes of 2 bits that
 * are 4 times that.
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
  /** Every second code stays where it lies, so many bits above the one before: these are a part of their own. 0: none does. */
  readonly stays: number;
  /** Whether the two parts of codes that stay are added up in 16 bits, and are one sum in 32. */
  readonly inWords: boolean;
}

const ALONE = {
  parts: 1,
  join: ([sum = i32x4.const(0)]: readonly Vector[]): Vector => sum,
  stays: 0,
  inWords: false,
};

/** Codes as they are. */
export const codesAsTheyAre = ({ bits }: Pick<CodedOperand, "bits">): Unpacking => ({
  ...ALONE,
  largest: 2 ** bits - 1,
});

/** Codes as they are, but 8 bits in two halves where products take no more than seven. */
export function unpackingOf({ bits }: Pick<CodedOperand, "bits">, { unsigned }: ByteProducts): Unpacking {
  if (bits < 8 || unsigned) return codesAsTheyAre({ bits });
  const join = ([low = i32x4.const(0), high = low]: readonly Vector[]) => i32x4.add(low, i32x4.shl(high, PART_BITS));
  return { parts: 2, largest: 2 ** PART_BITS - 1, join, stays: 0, inWords: false };
}

/**
 * Codes of two to four bits without the shifts that bring down every second one: two sums instead of one. Undefined where products
 * take no bytes as large, or no sums hold so many of them.
 */
export function unpackingInPlace(
  { bits }: Pick<CodedOperand, "bits">,
  { fours, unsigned, relaxed }: ByteProducts & { readonly relaxed: boolean },
  elements: number,
): Unpacking | undefined {
  if (relaxed && !fours && bits === 2) return { ...ALONE, parts: 2, largest: 3 << bits, stays: bits, inWords: true };
  const largest = (2 ** bits - 1) << PART_BITS,
    join = ([low = i32x4.const(0), high = low]: readonly Vector[]) => i32x4.add(low, i32x4.shr_s(high, PART_BITS));
  const fits = fours && bits <= PART_BITS && (largest < 128 || unsigned) && fitSum(elements, largest);
  return fits ? { parts: 2, largest, join, stays: PART_BITS, inWords: false } : undefined;
}

/** The halves of bytes, the lower one first. */
export const halvesOfBytes = (bytes: Vector): readonly Vector[] => [
  v128.and(bytes, i8x16.const(2 ** PART_BITS - 1)),
  v128.and(i16x8.shr_u(bytes, PART_BITS), i8x16.const(2 ** PART_BITS - 1)),
];
