/** One memory of the backend: its tensors, where programs work in it, and the kernels that see it. */
import type { MemoryPlan } from "../backend.ts";
import { createHeap, type Heap } from "./heap.ts";
import type { Table } from "./kernel.ts";
import { ALIGNMENT } from "./layout.ts";
import type { Kernel } from "./threads.ts";

/** See the file. */
export interface Space {
  readonly heap: Heap;
  readonly work: WorkSpace;
  /** Instances by kernel key. */
  readonly kernels: Map<string, Kernel>;
  /** Where a table of constants lies, once a kernel needs it. @throws {RangeError} if there is no room for it */
  tableAt(table: Table): number;
}

/** Where programs keep intermediate values and threads their working memory; all programs share it. */
export interface WorkSpace {
  /** Makes room for a program; what the space holds is lost. False if there is no room. */
  require(plan: Pick<MemoryPlan, "arenaBytes" | "scratchBytes">): boolean;
  at(): { readonly arena: number; readonly scratch: number };
}

/** Opens a memory of at most `limit` bytes. */
export function createSpace(options: { readonly shared: boolean; readonly limit: number }): Space {
  const heap = createHeap(options), tables = new Map<string, number>();
  return {
    heap,
    work: createWorkSpace(heap),
    kernels: new Map(),
    tableAt({ key, values }) {
      const known = tables.get(key);
      if (known !== undefined) return known;
      const address = heap.allocate(values.byteLength + ALIGNMENT);
      if (address === undefined) throw new RangeError(`Cannot place a table of ${values.byteLength} bytes: no room`);
      new Float32Array(heap.memory.buffer, address, values.length).set(values);
      tables.set(key, address);
      return address;
    },
  };
}

/**
 * One range that grows to what compiled programs ask for. It grows when they are compiled rather than when they run, so that where
 * they are compiled first it lies below all tensors and leaves no gaps between them.
 */
function createWorkSpace(heap: Heap): WorkSpace {
  let address: number | undefined, arena = 0, scratch = 0;
  return {
    require({ arenaBytes, scratchBytes }) {
      if (address !== undefined && arenaBytes <= arena && scratchBytes <= scratch) return true;
      const [widest, most] = [Math.max(arena, arenaBytes), Math.max(scratch, scratchBytes)];
      if (widest + most === 0) return true;
      if (address !== undefined) heap.free(address);
      address = heap.allocate(widest + most);
      [arena, scratch] = address === undefined ? [0, 0] : [widest, most];
      return address !== undefined;
    },
    at: () => ({ arena: address ?? 0, scratch: (address ?? 0) + arena }),
  };
}
