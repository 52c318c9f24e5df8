/**
 * Several memories, for models that one memory of 4 GiB cannot hold. A kernel sees one memory, so what a run binds must lie in one:
 * before it, what lies elsewhere moves to where most of it lies already. Weights of one call lie together from its first run on, and
 * what goes from call to call is small. Addresses stay 32 bits wide, which costs kernels nothing; with 64 bits every access would be
 * checked.
 */
import { createSpace, type ProgramNeeds, type Space } from "./space.ts";

/** Bytes that belong together, in one of the memories. They move between runs. */
export interface Place {
  readonly bytes: number;
  space: Space;
  address: number;
}

/** The memories. */
export interface Spaces {
  /** Where everything starts. */
  readonly first: Space;
  readonly all: readonly Space[];
  /** Reserves bytes, in that memory if it has room. @throws {RangeError} if no memory can hold them */
  allocate(bytes: number, wished?: Space): Place;
  free(place: Place): void;
  /** The memory that holds most of these bytes. */
  mostly(places: ReadonlySet<Place>): Space;
  /** Brings places together in one memory, with room for a program to work there. @throws {RangeError} if no memory can hold them */
  gather(places: ReadonlySet<Place>, needs: ProgramNeeds): Space;
}

/** One memory at first; more are opened when it is full. Each takes at most `limit` bytes. */
export function createSpaces({ shared, limit }: { readonly shared: boolean; readonly limit: number }): Spaces {
  const first = createSpace({ shared, limit }), all = [first];
  // Room that new tensors leave for programs to work in and for what moves in.
  const reserve = limit / 8;

  const open = (): Space => {
    const space = createSpace({ shared, limit });
    all.push(space);
    return space;
  };
  const held = (places: ReadonlySet<Place>, space: Space): number => {
    let bytes = 0;
    for (const place of places) if (place.space === space) bytes += place.bytes;
    return bytes;
  };
  const byBytes = (places: ReadonlySet<Place>): Space[] =>
    all.map((space) => ({ space, bytes: held(places, space) })).sort((a, b) => b.bytes - a.bytes).map((e) => e.space);

  return {
    first,
    all,
    allocate(bytes, wished) {
      for (const space of wished ? [wished, ...all] : all) {
        const address = space.heap.allocate(bytes, space === wished ? 0 : reserve);
        if (address !== undefined) return { bytes, space, address };
      }
      const space = open(), address = space.heap.allocate(bytes);
      if (address === undefined) {
        all.pop();
        throw new RangeError(`Cannot allocate ${bytes} bytes: expected at most the ${limit} bytes that a memory has`);
      }
      return { bytes, space, address };
    },
    free: ({ space, address }) => space.heap.free(address),
    mostly: (places) => all.length === 1 ? first : byBytes(places)[0] ?? first,
    gather(places, needs) {
      const candidates = all.length === 1 ? all : byBytes(places);
      for (const space of candidates) if (space.require(needs) && move(places, space)) return space;
      const space = open();
      if (space.require(needs) && move(places, space)) return space;
      all.pop();
      const bytes = [...places].reduce((sum, place) => sum + place.bytes, needs.arenaBytes + needs.scratchBytes);
      throw new RangeError(
        `Cannot run a program on ${bytes} bytes: expected at most the ${limit} bytes that a memory has`,
      );
    },
  };
}

/** Moves places to one memory, all of them or, if they have no room there, none. */
function move(places: ReadonlySet<Place>, space: Space): boolean {
  const moved: { place: Place; address: number }[] = [];
  for (const place of places) {
    if (place.space === space) continue;
    const address = space.heap.allocate(place.bytes);
    if (address === undefined) {
      for (const each of moved) space.heap.free(each.address);
      return false;
    }
    moved.push({ place, address });
  }
  for (const { place, address } of moved) {
    const from = new Uint8Array(place.space.heap.memory.buffer, place.address, place.bytes);
    new Uint8Array(space.heap.memory.buffer, address, place.bytes).set(from);
    place.space.heap.free(place.address);
    [place.space, place.address] = [space, address];
  }
  return true;
}
