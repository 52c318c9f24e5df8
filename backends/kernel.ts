/**
 * Kernel specifications: what the region fuser hands to the code generators. A specification knows nothing about graphs:
 * loops with static extents, buffers, and expressions whose loads are affine in the loop variables. Both code generators
 * (WGSL, WebAssembly) and the interpreter of specifications in the tests start from these records alone.
 */
import type { MapOp, ReduceOp } from "../ir/ops.ts";
import type { Direction } from "../ir/ops/maps.ts";
import type { TensorType } from "../ir/types.ts";

/** Types inside a kernel: f16 is read as f32; codes of every width are read as i32. */
export type Scalar = "f32" | "i32" | "bool";

/** A buffer that a kernel binds. Its elements are row-major in the order of its type; packing is the backend's secret. */
export interface KernelBuffer {
  /** Name for people: the leaf's name, or the value's. */
  readonly name: string;
  readonly type: TensorType;
  /** `update` marks a buffer that is read and written by one kernel (results in place). */
  readonly use: "read" | "write" | "update";
}

/** An element index, offset + Σ strides[i]·loop[i], into the row-major elements of a buffer (or the value of an `index`). */
export interface Access {
  readonly offset: number;
  readonly strides: readonly number[];
}

/** An expression over the loop variables of its place. Shared subexpressions are shared objects: generate them once. */
export type Expr =
  | { readonly kind: "constant"; readonly value: number; readonly scalar: Scalar }
  | { readonly kind: "load"; readonly buffer: number; readonly access: Access; readonly scalar: Scalar }
  /** Element `access + clamp(index, 0, extent-1)·stride`: a row chosen by data. */
  | {
    readonly kind: "gather";
    readonly buffer: number;
    readonly index: Expr;
    readonly extent: number;
    readonly stride: number;
    readonly access: Access;
    readonly scalar: Scalar;
  }
  /** The value of an affine form of the loop variables, as i32. */
  | { readonly kind: "index"; readonly access: Access; readonly scalar: "i32" }
  | {
    readonly kind: "map";
    readonly op: MapOp;
    readonly args: readonly Expr[];
    /** Type of the result; `cast` to a narrow type clamps to `range` and stays i32. */
    readonly scalar: Scalar;
    readonly direction?: Direction;
    readonly range?: readonly [number, number];
    /** On a `cast` to f32: the result is the nearest half-precision value, ties to even, by whatever the backend cannot optimize away. */
    readonly half?: true;
  }
  /** A value computed earlier in this kernel: an element of the row (kept or recomputed), a scalar of the row, or the accumulator. */
  | { readonly kind: "value"; readonly id: number; readonly scalar: Scalar };

/** Writes `value` to element `access` of a buffer. */
export interface Store {
  readonly buffer: number;
  readonly access: Access;
  readonly value: Expr;
  /** `update`: adds index·stride to the element; nothing is written when index is outside 0…extent-1. */
  readonly scatter?: { readonly index: Expr; readonly extent: number; readonly stride: number };
}

interface Common {
  readonly name: string;
  readonly buffers: readonly KernelBuffer[];
  /** IR text of the nodes that this kernel fuses. */
  readonly fuses: string;
}

/** For every point of `dims`: the stores. All iterations are independent. */
export interface MapKernel extends Common {
  readonly kind: "map";
  readonly dims: readonly number[];
  readonly stores: readonly Store[];
}

/** Something a row kernel computes for every element of a row, in a phase. */
export interface RowElement {
  readonly id: number;
  readonly value: Expr;
  /** Whether a later phase (or a transform) needs it: then it is kept in row scratch. Otherwise it lives within the phase. */
  readonly keep: boolean;
}

/** One sweep over the row, then what is computed once per row. */
export interface RowPhase {
  /** Per element, in this order. Expressions are over [...outer, ...row]. */
  readonly elements: readonly RowElement[];
  /** Accumulated over the row; available as `value` from this phase's scalars on. */
  readonly reductions: readonly {
    readonly id: number;
    readonly op: ReduceOp;
    readonly value: Expr;
    readonly scalar: "f32" | "i32";
  }[];
  /** Stores per element, at the end of the element's turn. */
  readonly stores: readonly Store[];
  /** Once per row after the sweep, in this order; expressions over `outer` alone. */
  readonly scalars: readonly { readonly id: number; readonly value: Expr }[];
  /** After the sweep: orthonormal Hadamard transforms of kept elements over the (single) row axis; results are kept. */
  readonly transforms: readonly RowTransform[];
  /** Stores per row, after scalars; accesses over `outer` alone. */
  readonly rowStores: readonly Store[];
}

/** y = T(signs∘x), or transposed: y = signs∘Tᵀx, over a row of n = K·2^m elements (see ir/hadamard.ts). */
export interface RowTransform {
  readonly id: number;
  readonly source: number;
  readonly transposed: boolean;
  /** Buffer of n signs, if any. */
  readonly signs?: number;
}

/** For every point of `outer` one row of `row` elements, in phases; rows are independent. */
export interface RowKernel extends Common {
  readonly kind: "row";
  readonly outer: readonly number[];
  readonly row: readonly number[];
  readonly phases: readonly RowPhase[];
}

/**
 * accumulator[b, m, n] = Σ_k lhs[b, m, k…] · rhs[b, n, k…], then the stores over [b, m, n].
 * `k` may have several axes: operands are expressions over [b, m, ...k] and [b, n, ...k].
 */
export interface DotKernel extends Common {
  readonly kind: "dot";
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  readonly k: readonly number[];
  /** i32: operands are integers and sums are exact. */
  readonly scalar: "f32" | "i32";
  readonly lhs: Expr;
  readonly rhs: Expr;
  /** Id of the finished sum in `stores`. */
  readonly accumulator: number;
  /**
   * Scaled sum over groups: the contraction runs over k[1…] for each g < k[0]; its result has id `inner`, and `term`
   * (over [b, m, n, g]) is what is added up, in f32, to the accumulator.
   */
  readonly groups?: { readonly inner: number; readonly term: Expr };
  readonly stores: readonly Store[];
}

/** Scores, softmax and weighted sum per head, or their gradient; see ir/ops/attention.ts for shapes and meaning. */
export interface AttentionKernel extends Common {
  readonly kind: "attention";
  readonly batch: number;
  readonly tokens: number;
  readonly context: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Width of queries and keys, and of values. */
  readonly width: number;
  readonly valueWidth: number;
  readonly scale: number;
  readonly causal: boolean;
  /** Where causal: a query at position p sees the keys s with p - window < s <= p. */
  readonly window?: number;
  /** q over [b,t,h,i], k over [b,s,g,i], v over [b,s,g,i]; bias over [b,h,t,s]; positions over [b,t]. */
  readonly q: Expr;
  readonly k: Expr;
  readonly v: Expr;
  readonly bias?: Expr;
  readonly positions?: Expr;
  /** Only for gradients: attention's output and dy over [b,t,h,i], log-sum-exp over [b,t,h]. */
  readonly output?: Expr;
  readonly logSumExp?: Expr;
  readonly dy?: Expr;
  /** Results: forward `output` and/or `logSumExp`, or gradients `q`, `k`, `v`; each a contiguous buffer of its shape. */
  readonly results: readonly { readonly of: "output" | "logSumExp" | "q" | "k" | "v"; readonly buffer: number }[];
}

/** Indices of the k largest of n values per row; of equal ones the lower index. */
export interface TopKKernel extends Common {
  readonly kind: "topK";
  readonly outer: number;
  readonly n: number;
  readonly k: number;
  /** Over [outer, n]. */
  readonly source: Expr;
  readonly buffer: number;
}

/** One kernel. */
export type KernelSpec = MapKernel | RowKernel | DotKernel | AttentionKernel | TopKKernel;
