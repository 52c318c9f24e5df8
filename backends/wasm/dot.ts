/**
 * Generates contractions. A chunk is a block of rows and columns of one batch; sums are added up in an order that depends on shapes
 * alone.
 *
 * Few rows by packed codes: bytes, in registers (`dot_coded.ts`). Few rows by anything else: the right operand is evaluated where it
 * is used (`dot_inline.ts`). More rows by packed codes: bytes in panels (`dot_bytes.ts`). More rows of anything else: both
 * operands are evaluated, once per chunk, into panels for a register-blocked product (`dot_panels.ts`), which is where
 * dequantization happens.
 */
import type { Access, DotKernel } from "../kernel.ts";
import { unpackingOf } from "./unpacking.ts";
import { codedOperand } from "./coded_operand.ts";
import {
  type Arrangement,
  BATCH,
  type ChunkSize,
  COLUMN,
  type Contraction,
  FIRST,
  multiple,
  ROW,
} from "./contraction.ts";
import { byteChunk } from "./dot_bytes.ts";
import { codedChunk } from "./dot_coded.ts";
import { PANEL_COLUMNS, rowsAtOnce } from "./dot_panels.ts";
import { tiledChunk } from "./dot_tiles.ts";
import type { Emitter, Walk } from "./emitter.ts";
import { linearTerm } from "./group_totals.ts";
import { rewriteExpr, rewriteStores, simplifyLoops, usesOf } from "./nest.ts";
import { parallelVariables } from "./staging.ts";

/** Rows up to which the right operand is not worth packing. */
const FEW_ROWS = 4;
/**
 * Elements of a contracted block: 8 columns of it fit the first-level cache. Few rows have one block as long as they fit the cache
 * behind it: memory comes faster to who reads columns from one end to the other.
 */
const BLOCK_LENGTH = 256, FEW_ROWS_ELEMENTS = 16_384;
/** Multiply-adds below which a kernel is one chunk. */
const SMALL_PRODUCT = 32;
/** Chunks that keep several threads busy, and the largest and least block of rows and columns of one. */
const CHUNKS = 8, LARGEST = { rows: 256, columns: 128 }, LEAST = 32;
/** The largest block of rows of a short product: small enough to be used out of a cache, and enough of them for all threads. */
const SHORT = { elements: 2 ** 17, blocks: 16, leastRows: 96 };

/** Writes the kernel; returns its number of chunks. */
export function emitDot(spec: DotKernel, emitter: Emitter): number {
  const { code: { b }, code, layouts, from, to, small } = emitter;
  const arrangement = arrange(spec, emitter), { contraction, term, stores } = arrangement, { extents } = contraction;
  const [batch = 1, m = 1, n = 1] = extents, few = m <= FEW_ROWS;
  const work = extents.reduce((x, y) => x * y, 1), tiny = work < small * SMALL_PRODUCT;
  const size = few
    ? { rows: m, columns: Math.max(LEAST, multiple(n / 64, PANEL_COLUMNS)) }
    : chunkSize(m, n, tiny, isShort(contraction, spec) ? shortRows(m, n) : LARGEST.rows);
  const blocks: ChunkSize = { few, rows: Math.min(m, size.rows), columns: Math.min(n, size.columns) };
  const total = batch * Math.ceil(m / blocks.rows) * Math.ceil(n / blocks.columns);
  const operand = codedOperand(contraction, spec, code);
  // Two digits by two parts of codes take longer than f32 once codes are unpacked for many rows, and panels of words take one digit.
  const floats = !few && spec.scalar === "f32" && operand && (unpackingOf(operand, code).parts > 1 || !code.relaxed);
  const linear = spec.groups && term && linearTerm(term, spec.groups.inner);
  const chunk = !operand || floats
    ? tiledChunk({ ...arrangement, spec }, emitter, blocks)
    : few && (linear || !spec.groups)
    ? codedChunk({ ...arrangement, spec, operand, linear }, emitter, blocks.columns)
    : byteChunk({ ...arrangement, spec, operand }, emitter, blocks);
  const safe = parallelVariables(stores, layouts, extents, [BATCH, ROW, COLUMN]) === 3;
  if (tiny || !safe) {
    b.for("chunk", 0, total, 1, chunk);
    return 1;
  }
  b.for("chunk", from, to, 1, chunk);
  const walk = walkOf(spec, arrangement, blocks);
  if (walk) emitter.walks(walk.buffer, walk);
  return total;
}

/** How chunks write the result: block of rows after block of rows, where rows lie one behind the other. */
function walkOf(
  { buffers }: DotKernel,
  { contraction: { extents }, stores }: Arrangement,
  { rows, columns }: ChunkSize,
): Walk & { readonly buffer: number } | undefined {
  const [store, ...others] = stores, [batch = 1, , n = 1] = extents;
  if (!store || others.length > 0 || store.scatter || batch > 1 || buffers[store.buffer]?.use !== "write") {
    return undefined;
  }
  const { buffer, access: { offset, strides } } = store, row = strides[ROW] ?? 0;
  if (offset !== 0 || strides[COLUMN] !== 1 || row < n) return undefined;
  return { buffer, chunks: Math.ceil(n / columns), elements: rows * row };
}

/** Whether one block is the whole sum, so that writing the result takes much of the time. */
const isShort = ({ extents, axes, block }: Contraction, { groups }: DotKernel): boolean =>
  !groups && (extents[axes[0] ?? FIRST] ?? 1) <= block;

const shortRows = (m: number, n: number): number =>
  Math.max(SHORT.leastRows, Math.min(SHORT.elements / n, m / SHORT.blocks));

function chunkSize(m: number, n: number, tiny: boolean, mostRows: number): { rows: number; columns: number } {
  const part = (extent: number, most: number, of: number) => multiple(extent / Math.ceil(extent / most), of);
  // Blocks start at whole vectors of rows, too.
  const atOnce = rowsAtOnce(m) % 4 === 0 ? rowsAtOnce(m) : 2 * rowsAtOnce(m);
  let rows = part(m, Math.min(mostRows, LARGEST.rows), atOnce), columns = part(n, LARGEST.columns, PANEL_COLUMNS);
  while (!tiny && Math.ceil(m / rows) * Math.ceil(n / columns) < CHUNKS && Math.max(rows, columns) > LEAST) {
    if (rows >= columns) rows = multiple(rows / 2, atOnce);
    else columns = multiple(columns / 2, PANEL_COLUMNS);
  }
  return { rows, columns };
}

/** Brings a specification to one space of loop variables, with rows and columns as the generators like them. */
function arrange(spec: DotKernel, { layouts }: Emitter): Arrangement {
  const { batch, m, n, k, groups } = spec;
  // Columns are what vectors run along in the tile: not the shorter side, and not the one that stores stride over.
  const along = (v: number) => spec.stores.every(({ access }) => Math.abs(access.strides[v] ?? 0) <= 1);
  const swap = (along(1) && !along(2) && m >= PANEL_COLUMNS) || (n < PANEL_COLUMNS && m > n);
  const own = (row: boolean) => ({ offset, strides: [sb = 0, s = 0, ...rest] }: Access): Access => ({
    offset,
    strides: [sb, row ? s : 0, row ? 0 : s, ...rest],
  });
  const both = ({ offset, strides: [sb = 0, sm = 0, sn = 0, ...rest] }: Access): Access => {
    const contracted = k.map((_, i) => rest[i] ?? 0);
    return { offset, strides: swap ? [sb, sn, sm, ...contracted] : [sb, sm, sn, ...contracted] };
  };
  let lhs = rewriteExpr(spec.lhs, own(!swap), new Map()), rhs = rewriteExpr(spec.rhs, own(swap), new Map());
  if (swap) [lhs, rhs] = [rhs, lhs];
  let term = groups && rewriteExpr(groups.term, both, new Map()), stores = rewriteStores(spec.stores, both);
  let extents: readonly number[] = [batch, swap ? n : m, swap ? m : n, ...k];
  const first = FIRST + (groups ? 1 : 0);
  const simple = simplifyLoops(extents, usesOf([lhs, rhs], []), layouts, [first, extents.length]);
  [lhs, rhs] = [rewriteExpr(lhs, simple.change, new Map()), rewriteExpr(rhs, simple.change, new Map())];
  term = term && rewriteExpr(term, simple.change, new Map());
  stores = rewriteStores(stores, simple.change);
  extents = simple.extents.length > first ? simple.extents : [...simple.extents, 1];
  const axes = [...extents.keys()].slice(first), inner = axes.slice(1).reduce((x, v) => x * (extents[v] ?? 1), 1);
  const length = extents[first] ?? 1, height = extents[ROW] ?? 1;
  const wanted = Math.max(1, (height <= FEW_ROWS ? FEW_ROWS_ELEMENTS / height : BLOCK_LENGTH) / inner),
    count = Math.ceil(length / Math.max(1, wanted * 1.5));
  const block = Math.min(length, multiple(length / count, inner === 1 ? 16 : 1));
  return { contraction: { extents, scalar: spec.scalar, lhs, rhs, axes, block, inner }, term, stores };
}
