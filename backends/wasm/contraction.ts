/** A contraction as its generators see it: what they share of one. */
import type { Expr, Store } from "../kernel.ts";
import type { Emitter } from "./emitter.ts";
import type { Index, Place } from "./place.ts";

/** Loop variables of a contraction; those of the contracted axes follow. */
export const BATCH = 0, ROW = 1, COLUMN = 2, FIRST = 3;

/** A contraction over [batch, row, column, (group,) ...contracted]. */
export interface Contraction {
  readonly extents: readonly number[];
  readonly scalar: "f32" | "i32";
  readonly lhs: Expr;
  readonly rhs: Expr;
  /** Variables of the contracted axes, without that of the groups. */
  readonly axes: readonly number[];
  /** Values of the first axis in a block, and products of the others' extents. */
  readonly block: number;
  readonly inner: number;
}

/** Contracted axes outside of a group, the last one. */
export const outerAxes = ({ extents }: Contraction): readonly number[] =>
  Array.from({ length: extents.length - 1 - FIRST }, (_, i) => FIRST + i);

/** What a chunk knows when a block is added to its tile. */
export interface Block {
  readonly emitter: Emitter;
  readonly contraction: Contraction;
  /** Opens a new place at the batch (and group) of the chunk. */
  readonly places: (count: number, body: (places: readonly Place[]) => void) => void;
  readonly rows: { readonly from: Index; readonly to: Index; readonly most: number };
  readonly columns: { readonly from: Index; readonly to: Index; readonly most: number };
  /** Range on the first contracted axis. */
  readonly k: { readonly from: Index; readonly to: Index };
  /** Address of the tile, and elements in a row of it. */
  readonly tile: Index;
  readonly width: number;
  /** Address of a row of the result, and a column of the chunk, where sums go there instead of to the tile. */
  readonly output: ((row: Index, column: Index) => Index) | undefined;
  /** Whether the left operand must be evaluated, where it may be left from the chunk before. */
  readonly fresh: Index | undefined;
}

/** Rows and columns of a chunk. */
export interface ChunkSize {
  /** Whether there are too few rows to pack the right operand. */
  readonly few: boolean;
  readonly rows: number;
  readonly columns: number;
}

/** A contraction, and what happens to its sums, over its variables. */
export interface Arrangement {
  readonly contraction: Contraction;
  /** What a group adds. */
  readonly term: Expr | undefined;
  readonly stores: readonly Store[];
}

/** The least multiple of a number that is not below `x`. */
export const multiple = (x: number, of: number): number => Math.ceil(x / of) * of;
