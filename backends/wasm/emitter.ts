/** What the generators of kernels write into, and what all kernels have in common. */
import type { Layout } from "./layout.ts";
import type { Index, KernelCode } from "./place.ts";

/** Numbers a kernel needs in memory beside its buffers: they are the same for every run. */
export interface Table {
  readonly key: string;
  readonly values: Float32Array;
}

/** What a generator writes into. */
export interface Emitter {
  readonly code: KernelCode;
  /** Layouts of the specification's buffers. */
  readonly layouts: readonly Layout[];
  /** First chunk, and the one behind the last, of this call. */
  readonly from: Index;
  readonly to: Index;
  /** Address of scratch memory of the calling thread. To be called outside of all loops. */
  readonly reserve: (bytes: number) => Index;
  /**
   * Address of scratch memory that `write` fills once per call, before the first chunk: for what all chunks need. To be called
   * outside of all loops.
   */
  readonly prepared: (bytes: number, write: (preparation: Preparation, at: Index) => void) => Index;
  /** Points below which a kernel is one chunk: waking another thread costs more. */
  readonly small: number;
  /** Says how the chunks walk through a buffer, where they do so in order. */
  readonly walks: (buffer: number, walk: Walk) => void;
  /** Address of a table. */
  readonly table: (table: Table) => Index;
}

/** Every `chunks` chunks touch the next `elements` elements of a buffer, and no others of it. */
export interface Walk {
  readonly chunks: number;
  readonly elements: number;
}

/** What code that runs before the chunks is written with. */
export type Preparation = Pick<Emitter, "code" | "layouts" | "reserve">;

/** Name under which every kernel is exported. */
export const ENTRY = "run";
/** Most tables that a kernel uses: a Hadamard matrix and its transpose. */
export const TABLES = 2;
