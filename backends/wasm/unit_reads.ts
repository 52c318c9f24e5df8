/** Reads of sixteen codes in units (`packing.ts`): which lie together, and how each becomes bytes. */
import type { FunctionBuilder } from "./assembler.ts";
import { codesOfUnits, sixteenLanes } from "./codes.ts";
import { codeOf, type Packing, packingOf, planeOf } from "./packing.ts";
import type { Index, Vector } from "./place.ts";
import { PART_BITS } from "./unpacking.ts";

/** Where sixteen codes of a step belong. */
export interface Sixteen {
  /** Their elements, in sixteens from `x` on. */
  readonly at: number;
  readonly part: number;
}

/** Some sixteens that are read together. */
export interface Read {
  readonly sixteens: readonly Sixteen[];
  read(units: Index): readonly Vector[];
}

/** Reads of the first `count` sixteens of units with planes of a vector: of one unit after the other, of one plane after the other. */
export function readsOfUnits(b: FunctionBuilder, bits: number, count: number, inPlace: boolean): readonly Read[] {
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
    // A plane is one load, which may be repeated; their mean is several instructions.
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
export const readsOfNarrow = (b: FunctionBuilder, bits: number, plane: number, count: number): readonly Read[] =>
  Array.from(
    { length: count },
    (_, at) => ({ sixteens: [{ at, part: 0 }], read: (units) => [codesOfUnits(b, bits, plane, units, at)] }),
  );
