/** Memory for tensors: one WebAssembly memory that grows, and a list of its free ranges. */
import { ALIGNMENT, PAGE_BYTES } from "./layout.ts";

/** Bytes at the start that stay free: guarded loads may read a little in front of a buffer. */
const START = 1024;
/** Bytes the memory starts with and grows by at least: growing is slow. */
export const GROWTH = 2 ** 24;
/** Bytes that 32-bit addresses reach. */
export const MOST_BYTES = 2 ** 32;

/** Hands out addresses, multiples of 64. */
export interface Addresses {
  /** Reserves at least one byte; undefined when the memory would have less than `rest` bytes left, or no range as long. */
  allocate(bytes: number, rest?: number): number | undefined;
  /** Gives back what `allocate` returned. */
  free(address: number): void;
  /** Bytes in use. */
  readonly used: number;
  /** The most bytes that were asked for at one time, and the end of the highest range that was ever handed out. */
  readonly peak: { readonly wanted: number; readonly extent: number };
  /** What would be handed out from now on, in figures only and without a limit; `extent` begins at what is in use. */
  rehearse(): Addresses;
}

/** An allocator in a memory. */
export interface Heap extends Addresses {
  readonly memory: WebAssembly.Memory;
}

/** Makes a heap in a memory of its own, which grows to `limit` bytes, a multiple of 16 MiB. */
export function createHeap(
  { shared, limit = MOST_BYTES }: { readonly shared: boolean; readonly limit?: number },
): Heap {
  const memory = new WebAssembly.Memory({ initial: GROWTH / PAGE_BYTES, maximum: limit / PAGE_BYTES, shared });
  const addresses = createAddresses([{ from: START, to: GROWTH }], GROWTH, limit, (pages) => memory.grow(pages));
  // A spread would keep what its getters say now.
  return Object.assign(addresses, { memory });
}

/** The addresses of a memory of `size` bytes, with those ranges free. */
function createAddresses(
  ranges: { from: number; to: number }[],
  size: number,
  limit: number,
  growMemory: (pages: number) => void,
): Addresses {
  const sizes = new Map<number, { readonly bytes: number; readonly wanted: number }>();
  let used = size - ranges.reduce((sum, { from, to }) => sum + to - from, 0) - START, asked = 0;
  const end = ranges.at(-1), peak = { wanted: 0, extent: end?.to === size ? end.from : size };

  /** False when the limit is too near. */
  function grow(bytes: number): boolean {
    const last = ranges.at(-1);
    const missing = bytes - (last?.to === size ? last.to - last.from : 0);
    const wanted = Math.min(Math.max(missing, GROWTH, size / 4), limit - size), pages = Math.ceil(wanted / PAGE_BYTES);
    if (missing > limit - size) return false;
    growMemory(pages);
    const to = size + pages * PAGE_BYTES;
    if (last?.to === size) last.to = to;
    else ranges.push({ from: size, to });
    size = to;
    return true;
  }

  return {
    get used() {
      return used;
    },
    peak,
    allocate(wanted, rest = 0) {
      const bytes = Math.max(1, Math.ceil(wanted / ALIGNMENT)) * ALIGNMENT;
      if (used + bytes + rest > limit) return undefined;
      let best: { from: number; to: number } | undefined;
      const search = () => {
        for (const range of ranges) {
          const size = range.to - range.from;
          if (size >= bytes && (!best || size < best.to - best.from)) best = range;
        }
        return best;
      };
      let range = search();
      if (!range && grow(bytes)) range = search();
      if (!range) return undefined;
      const address = range.from;
      range.from += bytes;
      if (range.from === range.to) ranges = ranges.filter((other) => other !== range);
      sizes.set(address, { bytes, wanted });
      used += bytes;
      asked += wanted;
      peak.wanted = Math.max(peak.wanted, asked);
      peak.extent = Math.max(peak.extent, address + bytes);
      return address;
    },
    free(address) {
      const size = sizes.get(address);
      if (!size) throw new Error(`Internal error: nothing is allocated at ${address}`);
      const { bytes, wanted } = size;
      sizes.delete(address);
      used -= bytes;
      asked -= wanted;
      const freed = { from: address, to: address + bytes };
      const at = ranges.findIndex(({ from }) => from > address), index = at < 0 ? ranges.length : at;
      const before = ranges[index - 1], after = ranges[index];
      if (before?.to === freed.from && after?.from === freed.to) {
        before.to = after.to;
        ranges.splice(index, 1);
      } else if (before?.to === freed.from) before.to = freed.to;
      else if (after?.from === freed.to) after.from = freed.from;
      else ranges.splice(index, 0, freed);
    },
    rehearse: () => createAddresses(ranges.map((range) => ({ ...range })), size, Infinity, () => {}),
  };
}
