/**
 * How packed codes of 2 to 7 bits share bytes. A unit is the least number of bytes that codes of b bits fill exactly: b/gcd(8,b) of
 * them, called planes, hold 8/gcd(8,b) codes, called slots. Every plane holds whole codes. The bits left over make up the remaining
 * slots, in one of two ways.
 *
 * Of 5 and 6 bits they are pieces of codes, each of which takes a shift, a mask and an or.
 *
 * Of 3 and 7 bits every code of a plane has a spare bit above it, and there are as many planes as bits. The remaining slots are what
 * the mean of the planes shows where planes have their codes: the mean of the first and the mean of the second and … of the last and
 * zero, each rounded up, which one instruction computes for all bytes. So eight codes of 3 bits take 15 instructions, or 11 where
 * they stay in place (`unpacking.ts`), and pieces took 19; of 7 bits 15 and 27. The spare bit of plane p is halved p + 1 times, which
 * makes it bit b - 1 - p of a code; together they can make any code of what the codes in the planes show by themselves. Whoever
 * writes codes solves for them (`planesOf`).
 */

/** Some bits of a code: `(byte of plane >> shift) & (2^bits - 1)`, worth 2^low and up. */
export interface Piece {
  /** The number of planes stands for their mean. */
  readonly plane: number;
  readonly shift: number;
  readonly bits: number;
  readonly low: number;
}

/** How codes of one width lie in a unit. */
export interface Packing {
  readonly bits: number;
  readonly planes: number;
  /** The pieces of each slot's code. The first `whole` slots have one each, the same number of them in every plane. */
  readonly slots: readonly (readonly Piece[])[];
  readonly whole: number;
  /** From one code of a plane to the next, in bits. */
  readonly step: number;
  /** Whether the slots behind the whole ones are in the planes' mean. */
  readonly hasMean: boolean;
}

const packings = new Map<number, Packing>();

/** The packing of a width of 2 to 7 bits. */
export function packingOf(bits: number): Packing {
  const known = packings.get(bits);
  if (known) return known;
  const planes = bits % 2 === 1 ? bits : bits % 4 === 2 ? bits / 2 : bits / 4, perPlane = Math.floor(8 / bits);
  const step = 8 / perPlane, spare = 8 - perPlane * bits, hasMean = step === bits + 1;
  const fieldsOf = (plane: number): Piece[][] =>
    Array.from({ length: perPlane }, (_, i) => [{ plane, shift: i * step, bits, low: 0 }]);
  const slots = Array.from({ length: planes }, (_, plane) => fieldsOf(plane)).flat(), whole = slots.length;
  if (hasMean) slots.push(...fieldsOf(planes));
  for (let bit = 0; !hasMean && bit < planes * spare;) {
    const plane = Math.floor(bit / spare), shift = 8 - spare + bit % spare, low = bit % bits;
    const taken = Math.min(8 - shift, bits - low), piece = { plane, shift, bits: taken, low };
    if (low === 0) slots.push([piece]);
    else slots.at(-1)?.push(piece);
    bit += taken;
  }
  const packing = { bits, planes, slots, whole, step, hasMean };
  packings.set(bits, packing);
  return packing;
}

/** How kernels read codes from bytes: one, or as many as they have at once. */
export interface ReadOps<T> {
  readonly zero: T;
  /** Half of the sum, rounded up. */
  readonly mean: (x: T, y: T) => T;
  readonly or: (x: T, y: T) => T;
  readonly mask: (x: T, mask: number) => T;
  /** What leaves a byte is to be masked, before shifts to the left and behind those to the right. */
  readonly shiftLeft: (x: T, count: number) => T;
  readonly shiftRight: (x: T, count: number) => T;
}

/** What writing codes takes besides: sums of bytes that do not carry from one into the next. */
export interface WriteOps<T> extends ReadOps<T> {
  /** A value that is used more than once. */
  readonly keep: (x: T) => T;
  readonly add: (x: T, y: T) => T;
  readonly sub: (x: T, y: T) => T;
}

/** The bytes of a plane, or of their mean. */
export const planeOf = <T>(
  { mean, zero }: ReadOps<T>,
  { planes }: Packing,
  load: (plane: number) => T,
  plane: number,
): T =>
  plane < planes
    ? load(plane)
    : Array.from({ length: planes }, (_, p) => load(p)).reduceRight((rest, own) => mean(own, rest), zero);

/** The code of a slot; `load` gives the bytes of a plane. */
export function codeOf<T>(ops: ReadOps<T>, packing: Packing, slot: readonly Piece[], load: (plane: number) => T): T {
  const { shiftLeft, shiftRight, mask, or } = ops;
  return slot.map(({ plane, shift, bits, low }) => {
    const bytes = planeOf(ops, packing, load, plane), by = shift - low;
    return mask(by > 0 ? shiftRight(bytes, by) : by < 0 ? shiftLeft(bytes, -by) : bytes, (2 ** bits - 1) << low);
  }).reduce((x, y) => or(x, y));
}

/** The planes of a unit, of one code per slot. */
export function planesOf<T>(ops: WriteOps<T>, packing: Packing, codes: readonly T[]): T[] {
  const { planes, slots } = packing;
  if (packing.hasMean) return planesOfMean(ops, packing, codes);
  const { shiftLeft, shiftRight, mask, or } = ops;
  return Array.from(
    { length: planes },
    (_, plane) =>
      codes.flatMap((code, slot) =>
        (slots[slot] ?? []).filter((piece) => piece.plane === plane).map(({ low, shift, bits }) => {
          const by = shift - low, top = 2 ** bits - 1;
          return by >= 0 ? shiftLeft(mask(code, top << low), by) : mask(shiftRight(code, -by), top << shift);
        })
      ).reduce((x, y) => or(x, y)),
  );
}

function planesOfMean<T>(ops: WriteOps<T>, packing: Packing, codes: readonly T[]): T[] {
  const { planes, whole, step, bits } = packing, { zero, keep, add, sub, or, mask, shiftLeft } = ops;
  const perPlane = whole / planes;
  const plain = Array.from({ length: planes }, (_, p) => {
    const own = codes.slice(p * perPlane, (p + 1) * perPlane);
    return keep(own.map((code, i) => shiftLeft(code, i * step)).reduce((x, y) => or(x, y)));
  });
  let mean = keep(planeOf(ops, packing, (p) => plain[p] ?? zero, planes)), missing = zero;
  codes.slice(whole).forEach((code, i) => {
    const field = (2 ** bits - 1) << (i * step);
    const own = keep(mask(sub(shiftLeft(code, i * step), mask(mean, field)), field));
    // Adding it may carry into the field above.
    mean = keep(add(mean, own));
    missing = keep(or(missing, own));
  });
  return plain.map((bytes, p) => or(bytes, shiftLeft(mask(missing, spareBits(packing, p)), p + 1)));
}

/** The bits of the mean that the spare bits of a plane add to. */
export const spareBits = ({ bits, whole, planes, step }: Packing, plane: number): number =>
  Array.from({ length: whole / planes }, (_, i) => 1 << (i * step + bits - 1 - plane)).reduce((x, y) => x | y);
