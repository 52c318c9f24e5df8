/** Reads the codes of several columns along the contracted axis, sixteen of each at a time. */
import { type FunctionBuilder, i16x8, i32, i32x4, i8x16, type Local, v128 } from "./assembler.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { codesOfUnits, sixteenCodes, sixteenLanes } from "./codes.ts";
import { unitLength } from "./layout.ts";
import { codeOf, type Packing, packingOf, planeOf } from "./packing.ts";
import { rowAndColumn, splitAccess } from "./loads.ts";
import type { Index, KernelCode, Place, Vector } from "./place.ts";

/** Elements of a turn that is written out: the codes of a wide unit of any width. */
export const TURN = 128;

/** Bits of a part of an 8-bit code: halves, whose products fit 16 bits for longest. */
export const PART_BITS = 4;

/** What the engine multiplies. */
type Products = Pick<KernelCode, "fours" | "unsigned">;

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

/** Codes as they are, but 8 bits in two halves where products take no more than seven. */
export function unpackingOf({ bits }: Pick<CodedOperand, "bits">, { unsigned }: Products): Unpacking {
  if (bits < 8 || unsigned) return { ...ALONE, largest: 2 ** bits - 1 };
  const join = ([low = i32x4.const(0), high = low]: readonly Vector[]) => i32x4.add(low, i32x4.shl(high, PART_BITS));
  return { parts: 2, largest: 2 ** PART_BITS - 1, join, inPlace: false };
}

/**
 * Codes of two to four bits without the shifts that bring them down from a byte's upper half: two sums instead of one. Undefined where
 * products take no bytes as large, or 32 bits do not hold the sum of so many of them.
 */
export function unpackingInPlace(
  { bits }: Pick<CodedOperand, "bits">,
  { fours, unsigned }: Products,
  elements: number,
): Unpacking | undefined {
  const largest = (2 ** bits - 1) << PART_BITS,
    join = ([low = i32x4.const(0), high = low]: readonly Vector[]) => i32x4.add(low, i32x4.shr_s(high, PART_BITS));
  const fits = fours && bits <= PART_BITS && (largest < 128 || unsigned) && elements * largest * 128 < 2 ** 31;
  return fits ? { parts: 2, largest, join, inPlace: true } : undefined;
}

/** Where sixteen codes of a step belong. */
export interface Sixteen {
  /** Their elements, in sixteens from `x` on. */
  readonly at: number;
  readonly part: number;
}

/** The vectors of a column in a step. */
type Codes = readonly Vector[];

/**
 * Goes through the elements of the last contracted axis, and calls `step` with functions that read some sixteens of each place's
 * column, as bytes, and with where these belong; `last` where what is written out ends. The pointer `x` is moved by `xStep`
 * bytes per sixteen elements.
 */
export function sweepCodes(
  places: readonly Place[],
  operand: CodedOperand,
  { inPlace, parts }: Unpacking,
  x: Local<"i32">,
  xStep: number,
  step: (codes: readonly (() => Codes)[], sixteens: readonly Sixteen[], last: boolean) => void,
): void {
  const { layout, length, run, bits } = operand, [first] = places;
  if (!first) return;
  const { b } = first.code;
  /** Runs over `count` turns of `sixteens` steps each, pointers of `bytes` per turn. */
  const turns = (
    count: number,
    sixteens: number,
    pointers: readonly Local<"i32">[],
    bytes: number,
    body: () => void,
  ) => {
    if (count === 0) return;
    const turn = () => {
      body();
      for (const pointer of pointers) b.set(pointer, i32.add(pointer, bytes));
      b.set(x, i32.add(x, xStep * sixteens));
    };
    if (count === 1) return turn();
    b.for("turn", 0, count, 1, turn);
  };
  if (layout.storage === "byte") {
    const pointers = places.map((place) => {
      const { base, offset } = place.address(operand.buffer, operand.access);
      return b.let("codes_at", i32.add(base, offset));
    });
    const sixteens = Math.ceil(length / 16), whole = Math.floor(sixteens / (TURN / 16));
    const body = (count: number) => () => {
      for (let k = 0; k < count; k++) {
        const read = (pointer: Index): Codes => {
          const bytes = b.let("bytes", v128.load(pointer, { offset: 16 * k, align: 1 }));
          return parts > 1 ? bytePair(bytes) : [bytes];
        };
        const sixteens = Array.from({ length: parts }, (_, part) => ({ at: k, part }));
        step(pointers.map((pointer) => () => read(pointer)), sixteens, k === count - 1);
      }
    };
    turns(whole, TURN / 16, pointers, TURN, body(TURN / 16));
    const rest = sixteens - whole * (TURN / 16);
    turns(rest > 0 ? 1 : 0, rest, pointers, 16 * rest, body(rest));
    return;
  }
  const starts = places.map((place) => startOf(place, operand));
  if (run) {
    const pointers = starts.map(({ row, column }) =>
      b.let("codes_at", i32.add(row, i32.shr_u(i32.mul(column, bits), 3)))
    );
    let left = Math.ceil(length / 16);
    for (const { plane, units } of run) {
      // A turn is whole units and whole sixteens; the last units may be padding.
      const unit = unitLength(bits, plane) / 16, sixteens = Math.min(left, units * unit);
      const perTurn = sixteens % (TURN / 16) === 0 ? TURN / 16 : Math.max(1, unit);
      const body = (count: number) => () => {
        const reads = plane === 16 ? readsOfUnits(b, bits, count, inPlace) : readsOfNarrow(b, bits, plane, count);
        reads.forEach(({ sixteens, read }, i) => {
          step(pointers.map((at) => () => read(at)), sixteens, i === reads.length - 1);
        });
      };
      turns(Math.floor(sixteens / perTurn), perTurn, pointers, 2 * bits * perTurn, body(perTurn));
      const rest = sixteens % perTurn;
      turns(rest > 0 ? 1 : 0, rest, pointers, 2 * bits * rest, body(rest));
      left -= sixteens;
    }
    return;
  }
  const rows = starts.map(({ row }) => b.let("row_at", row));
  b.for("i", 0, length, 16, (i) => {
    step(
      starts.map(({ column }, k) => () => [
        sixteenCodes(first, layout, rows[k] ?? i32.const(0), i32.add(column, i)),
      ]),
      [{ at: 0, part: 0 }],
      true,
    );
    b.set(x, i32.add(x, xStep));
  });
}

/** Computes, as far as the open loops go, where a place's codes start: the address of their row and the column in it. */
export function startOf(place: Place, { buffer, access, layout }: CodedOperand): { row: Index; column: Index } {
  if (layout.storage === "byte") return { row: place.address(buffer, access).base, column: i32.const(0) };
  const split = splitAccess(access, layout.columns, place.extents);
  if (!split) throw new Error("Internal error: codes do not lie in rows");
  return rowAndColumn(place, buffer, split);
}

/** Some sixteens that are read together. */
interface Read {
  readonly sixteens: readonly Sixteen[];
  read(units: Index): Codes;
}

/** Reads of the first `count` sixteens of units with planes of a vector: of one unit after the other, of one plane after the other. */
function readsOfUnits(b: FunctionBuilder, bits: number, count: number, inPlace: boolean): readonly Read[] {
  const packing = packingOf(bits), { slots, planes } = packing, units = Math.ceil(count / slots.length);
  return Array.from({ length: units }, (_, unit) => {
    const readers = groupsOf(packing, inPlace).map((group) => readerOf(b, packing, group, 16 * unit * planes));
    return readers.flatMap(({ sixteens, read }) => {
      const moved = sixteens.map(({ at, part }) => ({ at: at + unit * slots.length, part }));
      // The last units may be padding.
      const own = moved.flatMap(({ at }, i) => at < count ? [i] : []);
      const pick = <T>(all: readonly T[]): T[] => own.flatMap((i) => all[i] ?? []);
      return own.length > 0 ? [{ sixteens: pick(moved), read: (at: Index) => pick(read(at)) }] : [];
    });
  }).flat();
}

/** Slots of a unit that are read together: those of a plane, as it is or shifted to the right by some bits, or one of pieces. */
interface Group {
  readonly slots: readonly number[];
  readonly shifted: number;
  readonly inPlace: boolean;
}

function groupsOf({ slots, planes, hasMean }: Packing, inPlace: boolean): readonly Group[] {
  const groups = new Map<string, Group & { readonly slots: number[]; readonly last: number }>();
  slots.forEach((pieces, slot) => {
    const [piece] = pieces, plane = piece?.plane ?? 0, shifted = inPlace ? (piece?.shift ?? 0) % PART_BITS : 0;
    // Loading a plane again costs less than keeping it; their mean does not.
    const together = inPlace || (hasMean && plane === planes), key = together ? `plane ${plane} ${shifted}` : `${slot}`;
    const last = Math.min(planes - 1, Math.max(...pieces.map((own) => own.plane)));
    const group = groups.get(key) ?? { slots: [], shifted, inPlace, last };
    group.slots.push(slot);
    groups.set(key, group);
  });
  return [...groups.values()].sort((x, y) => x.last - y.last);
}

/** Reads a group of a unit, whose planes start at an offset. */
function readerOf(b: FunctionBuilder, packing: Packing, { slots, shifted, inPlace }: Group, offset: number): Read {
  const lanes = sixteenLanes(b), pieces = slots.map((slot) => packing.slots[slot] ?? []);
  const isUpper = pieces.map(([piece]) => inPlace && (piece?.shift ?? 0) >= PART_BITS);
  return {
    sixteens: slots.map((at, i) => ({ at, part: isUpper[i] ? 1 : 0 })),
    read(units) {
      const load = (plane: number) => lanes.load(units, offset + 16 * plane);
      if (slots.length === 1) return pieces.map((own) => codeOf(lanes, packing, own, load));
      const plane = planeOf(lanes, packing, load, pieces[0]?.[0]?.plane ?? 0);
      const bytes = lanes.keep(shifted > 0 ? lanes.shiftRight(plane, shifted) : plane), mask = 2 ** packing.bits - 1;
      return pieces.map(([piece], i) => {
        if (isUpper[i]) return lanes.mask(bytes, mask << PART_BITS);
        const by = (piece?.shift ?? 0) - shifted;
        return lanes.mask(by > 0 ? lanes.shiftRight(bytes, by) : bytes, mask);
      });
    },
  };
}

/** Reads of sixteens that are several slots of a unit, or slots of several units. */
const readsOfNarrow = (b: FunctionBuilder, bits: number, plane: number, count: number): readonly Read[] =>
  Array.from(
    { length: count },
    (_, at) => ({ sixteens: [{ at, part: 0 }], read: (units) => [codesOfUnits(b, bits, plane, units, at)] }),
  );

const bytePair = (bytes: Vector): Codes => [
  v128.and(bytes, i8x16.const(2 ** PART_BITS - 1)),
  v128.and(i16x8.shr_u(bytes, PART_BITS), i8x16.const(2 ** PART_BITS - 1)),
];
