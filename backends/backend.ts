/**
 * What a backend is: it compiles graphs with static shapes, holds tensors, and runs programs on them. Nothing here knows
 * about models. Storage layouts (packing of narrow integers, padding of rows) are the backend's secret: `download` undoes them.
 */
import type { Graph } from "../ir/node.ts";
import type { DType, TensorType } from "../ir/types.ts";
import type { KernelSpec } from "./kernel.ts";

/** Host values of a tensor in row-major order: floats as `Float32Array`, integers, codes and truth values as `Int32Array`. */
export type HostArray = Float32Array | Int32Array;

/** A value held by a backend. Opaque; belongs to the backend that made it. */
export interface Tensor {
  readonly type: TensorType;
}

/** One generated kernel, for people to read. */
export interface KernelText {
  /** A short name that says region kind and main operation, unique in the program. */
  readonly name: string;
  /** The backend-neutral description it was generated from. */
  readonly spec: KernelSpec;
  /** WGSL, or readable text of the WebAssembly function. */
  readonly text: string;
}

/** What a program needs in memory while it runs, beside its inputs and outputs. */
export interface MemoryPlan {
  /** Bytes of the arena that all intermediate values share. */
  readonly arenaBytes: number;
  /** Bytes of working memory of the threads that run it, beside the arena. */
  readonly scratchBytes: number;
  /** Every intermediate value: where it lies and during which kernels it is alive. */
  readonly entries: readonly PlannedValue[];
}

/** The most memory that a backend needed at one time. */
export interface MemoryUse {
  /** Bytes of tensors, arena and scratch memory as planned. */
  readonly planned: number;
  /** Bytes taken for them, gaps between them included. */
  readonly allocated: number;
}

/** Bytes that all programs of a backend share, since they run one after the other. */
export interface WorkSpace {
  /** For intermediate values. */
  readonly arena: number;
  /** Working memory of threads and kernels. */
  readonly scratch: number;
}

/** Where tensors would come to lie, in figures only. */
export interface MemoryRehearsal {
  /** Takes room for a tensor of so many bytes. Returns what gives it back. */
  take(bytes: number): () => void;
  /** The most bytes taken so far, with gaps in between and what lies on the backend already. */
  readonly allocated: number;
}

/** One intermediate value in the arena. */
export interface PlannedValue {
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
  /** Index of the kernel that writes it and of the last one that reads it. */
  readonly from: number;
  readonly to: number;
}

/** A compiled program. */
export interface Executable {
  /** Leaves to bind, by name: parameters and inputs. */
  readonly leaves: Readonly<Record<string, TensorType>>;
  readonly outputs: Readonly<Record<string, TensorType>>;
  readonly kernels: readonly KernelText[];
  readonly plan: MemoryPlan;
}

/** How to compile. */
export interface CompileOptions {
  /**
   * Output name -> leaf name: the output is written into the leaf's tensor. Allowed for `update` (always in place), and
   * for results that read the leaf only at the element they write (optimizer states, sums of gradients).
   */
  readonly inPlace?: Readonly<Record<string, string>>;
}

/** Feature flags of the machine, plain data: part of every kernel's cache key. */
export type Traits = Readonly<Record<string, boolean | number | string>>;

/** Compiles and runs graphs. `await using` or `Symbol.asyncDispose` releases device and threads. */
export interface Backend extends AsyncDisposable {
  readonly name: "reference" | "wasm" | "webgpu";
  readonly traits: Traits;
  /** Whether launching a kernel costs so much that linears of one input are better one product; not unless given. */
  readonly dearLaunches?: boolean;
  /** Whether reading half floats is as fast as their bytes let it be, so that caches are better made of them; not unless given. */
  readonly halves?: boolean;
  /** Compiles a graph whose shapes are concrete. Equal graphs may share one compilation. */
  compile(graph: Graph, options?: CompileOptions): Promise<Executable>;
  /** A tensor of zeros; where it is going to be written whole before it is read, `unset`, of whatever lies there. */
  allocate(type: TensorType, values?: "zeros" | "unset"): Tensor;
  /** Copies host values to a new tensor. */
  upload(type: TensorType, values: HostArray): Tensor;
  /** The same of values as files hold them; see stored.ts. */
  uploadStored(type: TensorType, bytes: Uint8Array): Tensor;
  /** Overwrites a tensor. */
  write(tensor: Tensor, values: HostArray): void;
  /** Copies values back. On a GPU this waits for all work that was submitted before. */
  download(tensor: Tensor): Promise<HostArray>;
  /** A part of a tensor of f32 or i32, sharing its memory: `type` starting `offset` elements (a multiple of 64) in. */
  view(tensor: Tensor, offset: number, type: TensorType): Tensor;
  /** Bytes that a tensor of a type takes, with whatever the layout puts around its values. */
  bytesOf(type: TensorType): number;
  /** Releases a tensor; views of it become invalid. */
  free(tensor: Tensor): void;
  /** What the programs that were compiled so far share. It never shrinks. */
  workSpace(): WorkSpace;
  /** Tries out where tensors would lie from now on; not unless there can be gaps between them. */
  rehearse?(): MemoryRehearsal;
  /** Memory so far, where the backend knows: see `MemoryUse`. */
  memory?(): MemoryUse;
  /**
   * Runs a program. Every leaf must be bound. Results go to the given tensors, or to new ones; results that are declared
   * in place return the leaf's tensor. Order of runs is the order of calls.
   */
  run(
    executable: Executable,
    leaves: Readonly<Record<string, Tensor>>,
    outputs?: Readonly<Record<string, Tensor>>,
  ): Record<string, Tensor>;
}

/** A host array of the kind that holds values of `dtype`. */
export const hostArray = (dtype: DType, length: number): HostArray =>
  dtype === "f32" || dtype === "f16" ? new Float32Array(length) : new Int32Array(length);
