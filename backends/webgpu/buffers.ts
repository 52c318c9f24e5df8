/**
 * The buffers of a device. What is given back is kept for whoever asks for the same size next: a buffer can only be destroyed once all
 * that was encoded has been submitted, and one token frees a value per layer. So a token is one submission, and its tensors come to
 * lie where those of the last one did, for which there are bind groups.
 */

/** A range of a GPU buffer. Equal ids are equal ranges. */
export interface Range {
  readonly id: number;
  readonly buffer: GPUBuffer;
  readonly offset: number;
  readonly size: number;
}

/** What a buffer is for: `values` lie on the device, `staging` is on the way to the host. */
export type BufferKind = keyof typeof USAGE;

/** Takes buffers and keeps them. */
export interface Buffers {
  /** @throws {RangeError} if no buffer can have room for so many bytes */
  check(bytes: number, what: string): void;
  /** A whole buffer of some bytes, new and of zeros, or also one that was given back. @throws {RangeError} if no buffer can be so large */
  take(kind: BufferKind, bytes: number, what: string, values?: "zeros" | "unset"): Range;
  /** Gives back what `take` returned. */
  give(kind: BufferKind, range: Range): void;
  /** The same, but the buffer is not kept. */
  destroy(range: Range): void;
  /** Destroys everything. */
  dispose(): void;
}

const USAGE = {
  values: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  staging: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
} as const;

/** Buffers are whole vec4s, so that kernels may bind them as such. */
const GRAIN = 16;

/** Larger buffers with values are not kept: a submission more is nothing beside what they cost. */
const MOST_KEPT = 1 << 20;

/**
 * So much more than was ever in use at one time may be there with what is kept. Kept buffers fill the room of a peak that is over; at a
 * peak itself, values of different sizes that take turns in every token need this to find theirs again.
 */
const SLACK = 1 / 64;

/** Bytes of a buffer with room for so many. */
export const toGrains = (bytes: number): number => Math.max(GRAIN, Math.ceil(bytes / GRAIN) * GRAIN);

/**
 * Starts without any.
 *
 * @param flush submits all work that was encoded
 */
export function createBuffers(device: GPUDevice, flush: () => void): Buffers {
  const all = new Set<GPUBuffer>();
  /** By kind and size, those that were given back last at the end. */
  const kept = { values: new Map<number, Range[]>(), staging: new Map<number, Range[]>() };
  const largest = Math.min(device.limits.maxBufferSize, device.limits.maxStorageBufferBindingSize);
  let ids = 0, used = 0, mostUsed = 0, idle = 0;

  const check = (bytes: number, what: string): void => {
    const size = toGrains(bytes);
    if (size <= largest) return;
    throw new RangeError(`Cannot hold ${what}: expected at most ${largest} bytes on this device but found ${size}`);
  };
  const end = ({ buffer }: Range) => {
    flush();
    all.delete(buffer);
    buffer.destroy();
  };
  /** Destroys kept buffers until there is no more than the peak allows: values first, of sizes that were given back longest ago. */
  const makeRoom = () => {
    const most = mostUsed * (1 + SLACK);
    for (const ofKind of Object.values(kept)) {
      for (const [size, ranges] of ofKind) {
        while (used + idle > most && ranges.length > 0) {
          idle -= size;
          end(ranges.pop() as Range);
        }
        if (ranges.length === 0) ofKind.delete(size);
        if (used + idle <= most) return;
      }
    }
  };
  return {
    check,
    take(kind, bytes, what, values = "unset") {
      check(bytes, what);
      const size = toGrains(bytes), alike = kept[kind].get(size);
      used += size;
      mostUsed = Math.max(mostUsed, used);
      const found = values === "unset" ? alike?.pop() : undefined;
      if (found) {
        idle -= size;
        return found;
      }
      makeRoom();
      const buffer = device.createBuffer({ size, usage: USAGE[kind] });
      all.add(buffer);
      return { id: ids++, buffer, offset: 0, size };
    },
    give(kind, range) {
      used -= range.size;
      if (kind === "values" && range.size > MOST_KEPT) return end(range);
      idle += range.size;
      const alike = kept[kind].get(range.size) ?? [];
      kept[kind].delete(range.size);
      kept[kind].set(range.size, alike);
      alike.push(range);
    },
    destroy(range) {
      used -= range.size;
      end(range);
    },
    dispose() {
      flush();
      for (const buffer of all) buffer.destroy();
      all.clear();
    },
  };
}
