/** Reads of sixteen codes in units (`packing.ts`): which lie together, and how each becomes bytes. */
import { type FunctionBuilder, i32 } from "./assembler.ts";
import { codesOfUnits, sixteenLanes } from "./codes.ts";
import { codeOf, type Packing, packingOf, planeOf } from "./packing.ts";
import type { Index, Vector } from "./place.ts";

/**
 * Bytes by which an address differs that reads a plane again: no tensor lies as low. Engines keep what is read twice from one address,
 * see `TOGETHER`.
 */
const AGAIN = 16;

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

/** How the codes of units are read. */
export interface UnitReading {
  /** See `Unpacking`. */
  readonly stays: number;
  /** Whether planes that are used more than once stay in registers meanwhile: where few columns stand side by side. */
  readonly keeps: boolean;
}

/** Reads of the first `count` sixteens of units with planes of a vector: of one unit after the other, of one plane after the other. */
export function readsOfUnits(
  b: FunctionBuilder,
  bits: number,
  count: number,
  { stays, keeps }: UnitReading,
): readonly Read[] {
  const packing = packingOf(bits), { slots, planes } = packing, units = Math.ceil(count / slots.length);
  return Array.from({ length: units }, (_, unit) => {
    const means: Means = new Map();
    const readers = groupsOf(packing, stays).map((group) =>
      readerOf(b, packing, keeps ? { ...group, again: false } : group, { stays, offset: 16 * unit * planes, means })
    );
    return readers.flatMap(({ sixteens, read }) => {
      const moved = sixteens.map(({ at, part }) => ({ at: at + unit * slots.length, part }));
      // The last units may be padding.
      const own = moved.flatMap(({ at }, i) => at < count ? [i] : []);
      const pick = <T>(all: readonly T[]): T[] => own.flatMap((i) => all[i] ?? []);
      return own.length > 0 ? [{ sixteens: pick(moved), read: (at: Index) => pick(read(at)) }] : [];
    });
  }).flat();
}

/** The mean of a unit's planes as far as they have been read, by where the unit lies. */
type Means = Map<Index, Vector>;

/** Slots of a unit that are read together: those of a plane, as it is or shifted to the right by some bits, or one of pieces. */
interface Group {
  readonly slots: readonly number[];
  readonly shifted: number;
  /** When it is read, among the others. */
  readonly order: number;
  /** Whether it reads a plane that another one has read. */
  readonly again: boolean;
}

/**
 * Codes of a plane that are used at once. Used one after the other, the planes of four columns wait in registers meanwhile, and sums
 * go to memory and back in turn, which each of their additions then waits for; activations for more than two would do the same.
 */
const TOGETHER = 2;

/**
 * Whether the mean of planes runs along, so that each of them is read once. Where planes have two codes, registers are all taken:
 * they are read again then.
 */
const runsMean = ({ hasMean, whole, planes }: Packing): boolean => hasMean && whole === planes;

function groupsOf(packing: Packing, stays: number): readonly Group[] {
  const { slots, planes, step } = packing;
  const groups = new Map<string, Group & { readonly slots: number[] }>(), seen = new Set<number>();
  slots.forEach((pieces, slot) => {
    const [piece] = pieces, { plane = 0, shift = 0 } = piece ?? {};
    const shifted = stays > 0 ? shift - (shift & stays) : 0;
    const from = stays > 0 ? shifted : Math.floor(shift / (TOGETHER * step));
    const key = pieces.length > 1 ? `slot ${slot}` : `plane ${plane} from ${from}`;
    const last = Math.min(planes - 1, Math.max(...pieces.map((own) => own.plane)));
    // A running mean starts with the last plane, and comes last.
    const order = !runsMean(packing) ? last : plane === planes ? planes : planes - 1 - plane;
    const group = groups.get(key) ?? { slots: [], shifted, order, again: pieces.length === 1 && seen.has(plane) };
    group.slots.push(slot);
    groups.set(key, group);
    seen.add(plane);
  });
  return [...groups.values()].sort((x, y) => x.order - y.order);
}

/** Reads a group of a unit, whose planes start at an offset. */
function readerOf(
  b: FunctionBuilder,
  packing: Packing,
  { slots, shifted, again }: Group,
  { stays, offset, means }: { readonly stays: number; readonly offset: number; readonly means: Means },
): Read {
  const lanes = sixteenLanes(b), mask = 2 ** packing.bits - 1, runs = runsMean(packing);
  const pieces = slots.map((slot) => packing.slots[slot] ?? []);
  const isUpper = pieces.map(([piece]) => ((piece?.shift ?? 0) & stays) > 0);
  return {
    sixteens: slots.map((at, i) => ({ at, part: isUpper[i] ? 1 : 0 })),
    read(units) {
      const from = again ? i32.sub(units, AGAIN) : units, start = again ? offset + AGAIN : offset;
      const load = (plane: number) => lanes.load(from, start + 16 * plane);
      if (slots.length === 1 && !runs) return pieces.map((own) => codeOf(lanes, packing, own, load));
      const number = pieces[0]?.[0]?.plane ?? 0, mean = means.get(units) ?? lanes.zero;
      const isMean = runs && number === packing.planes;
      const plane = isMean ? mean : lanes.keep(planeOf(lanes, packing, load, number));
      if (runs && !isMean) means.set(units, lanes.keep(lanes.mean(plane, mean)));
      const bytes = lanes.keep(shifted > 0 ? lanes.shiftRight(plane, shifted) : plane);
      return pieces.map(([piece], i) => {
        if (isUpper[i]) return lanes.mask(bytes, mask << stays);
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
