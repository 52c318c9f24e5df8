/** One memory of the backend: its tensors, where programs work in it, and the kernels that see it. */
import type { MemoryPlan } from "../backend.ts";
import { createHeap, type Heap } from "./heap.ts";
import type { Table } from "./emitter.ts";
import { ALIGNMENT } from "./layout.ts";
import type { Kernel } from "./threads.ts";

/** See the file. */
export interface Space {
  readonly heap: Heap;
  /** Instances by kernel key. */
  readonly kernels: Map<string, Kernel>;
  /** Makes room for a program to work in; what another one left there is lost. False if there is no room. */
  require(needs: ProgramNeeds): boolean;
  /** Where programs keep intermediate values, and threads their working memory. */
  work(): { readonly arena: number; readonly scratch: number };
  /** Where a table of constants lies that a program required. */
  tableAt(table: Table): number;
}

/** What a program needs beside its tensors. */
export interface ProgramNeeds extends Pick<MemoryPlan, "arenaBytes" | "scratchBytes"> {
  readonly tables: readonly Table[];
}

/** Opens a memory of at most `limit` bytes. */
export function createSpace(options: { readonly shared: boolean; readonly limit: number }): Space {
  const heap = createHeap(options), work = createWorkSpace(heap), tables = new Map<string, number>();
  const holds = ({ key, values }: Table): boolean => {
    if (tables.has(key)) return true;
    const address = heap.allocate(values.byteLength + ALIGNMENT);
    if (address === undefined) return false;
    new Float32Array(heap.memory.buffer, address, values.length).set(values);
    tables.set(key, address);
    return true;
  };
  return {
    heap,
    kernels: new Map(),
    // Tables first: they stay where they are, while the work space moves when it grows.
    require: (needs) => needs.tables.every(holds) && work.require(needs),
    work: work.at,
    tableAt({ key }) {
      const known = tables.get(key);
      if (known === undefined) throw new Error("Internal error: a program uses a table that it did not require");
      return known;
    },
  };
}

/**
 * One range that grows to what compiled programs ask for. It grows when they are compiled rather than when they run, so that where
 * they are compiled first it lies below all tensors and leaves no gaps between them.
 */
function createWorkSpace(heap: Heap) {
  let address: number | undefined, arena = 0, scratch = 0;
  return {
    require({ arenaBytes, scratchBytes }: Omit<ProgramNeeds, "tables">): boolean {
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
