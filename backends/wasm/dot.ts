/**
 * Generates contractions. A chunk is a block of rows and columns of one batch; its sums live in a tile of scratch memory, to which
 * blocks of the contracted axis are added one after the other, in an order that depends on shapes alone; then the stores read the tile.
 *
 * Few rows: the right operand is evaluated where it is used (`dot_inline.ts`). More rows: both operands are evaluated, once per
 * chunk, into panels for a register-blocked product (`dot_panels.ts`), which is where dequantization happens.
 */
import type { Access, DotKernel, Expr, Store } from "../kernel.ts";
import { f32x4, i32, memory, v128 } from "./assembler.ts";
import { emitInline } from "./dot_inline.ts";
import { emitPanels, PANEL } from "./dot_panels.ts";
import type { Emitter } from "./kernel.ts";
import { layoutOf } from "./layout.ts";
import { rewriteExpr, rewriteStores, simplifyLoops, smaller, usesOf, vectorLoop } from "./nest.ts";
import { createPlace, type Index, type Place } from "./place.ts";
import { parallelVariables } from "./staging.ts";
import { emitStores } from "./stores.ts";

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
}

/** Rows up to which the right operand is not worth packing. */
const FEW_ROWS = 4;
/** Elements of a contracted block: 8 columns of it fit the first-level cache. */
const BLOCK_LENGTH = 256;
/** Multiply-adds below which a kernel is one chunk. */
const SMALL_PRODUCT = 32;
/** Chunks that keep several threads busy, and the largest block of rows and columns of one. */
const CHUNKS = 8, LARGEST = 128, LEAST = 32;

/** Writes the kernel; returns its number of chunks. */
export function emitDot(spec: DotKernel, emitter: Emitter): number {
  const { code, layouts, from, to, reserve, small } = emitter, { b } = code;
  const { contraction, term, stores } = arrange(spec, emitter), { extents, axes, block } = contraction;
  const [batch = 1, m = 1, n = 1] = extents, few = m <= FEW_ROWS;
  const work = extents.reduce((x, y) => x * y, 1), tiny = work < small * SMALL_PRODUCT;
  const size = few ? { rows: m, columns: Math.max(LEAST, multiple(n / 64, PANEL.columns)) } : chunkSize(m, n, tiny);
  const rows = Math.min(m, size.rows), columns = Math.min(n, size.columns);
  const rowBlocks = Math.ceil(m / rows),
    columnBlocks = Math.ceil(n / columns),
    total = batch * rowBlocks * columnBlocks;
  const width = multiple(columns, PANEL.columns), height = multiple(rows, PANEL.rows), bytes = 4 * width * height;
  const sums = reserve(bytes), tile = spec.groups ? reserve(bytes) : sums;
  const strategy = (few ? emitInline : emitPanels)(contraction, emitter, rows, columns);
  const place = createPlace(code, extents);

  const chunk = (index: Index) => {
    const column = b.let("column_block", i32.rem_u(index, columnBlocks)),
      rest = b.let("rest", i32.div_u(index, columnBlocks));
    const row = rowBlocks === 1 ? i32.const(0) : b.let("row_block", i32.rem_u(rest, rowBlocks));
    const batchIndex = rowBlocks === 1 ? rest : b.let("batch", i32.div_u(rest, rowBlocks));
    const range = (position: Index, count: number, extent: number) => {
      const start = b.let("start", i32.mul(position, count));
      return { from: start, to: b.let("end", smaller(i32.add(start, count), i32.const(extent))), most: count };
    };
    const ranges = { rows: range(row, rows, m), columns: range(column, columns, n) };
    b.emit(memory.fill(sums, 0, bytes));
    const start = (to: Index) =>
      b.let("origin", i32.sub(to, i32.mul(i32.add(i32.mul(ranges.rows.from, width), ranges.columns.from), 4)));
    const origins = { sums: start(sums), tile: tile === sums ? start(sums) : start(tile) };
    const scratch = (base: Index) =>
      code.buffers.push({ name: "tile", layout: layoutOf({ dtype: "f32", shape: [height, width] }), base }) - 1;
    const access: Access = { offset: 0, strides: extents.map((_, v) => v === ROW ? width : v === COLUMN ? 1 : 0) };
    const [sumBuffer, tileBuffer] = [scratch(origins.sums), scratch(origins.tile)];
    const blocks = (group: Index | undefined) => {
      const [first = FIRST] = axes, length = extents[first] ?? 1;
      b.for("k_from", 0, length, block, (kFrom) =>
        strategy({
          emitter,
          contraction,
          places: (count, body) => {
            const opened = Array.from({ length: count }, () => createPlace(code, extents));
            const open = (i: number): void => {
              const own = opened[i];
              if (!own) return body(opened);
              own.within(BATCH, batchIndex, undefined, () =>
                group
                  ? own.within(FIRST, group, undefined, () => open(i + 1))
                  : open(i + 1));
            };
            open(0);
          },
          ...ranges,
          k: { from: kFrom, to: b.let("k_to", smaller(i32.add(kFrom, block), i32.const(length))) },
          tile,
          width,
        }));
    };
    /** Visits the chunk's elements, vectors along the columns. */
    const visit = (roots: readonly Expr[], prepareMore: () => void, body: () => void) => {
      const prepare = () => {
        place.prepare(roots);
        prepareMore();
      };
      prepare();
      b.for("row", ranges.rows.from, ranges.rows.to, 1, (index) =>
        place.within(ROW, index, undefined, () => {
          prepare();
          vectorLoop(place, COLUMN, n, body, { range: ranges.columns });
        }));
    };
    place.within(BATCH, batchIndex, undefined, () => {
      const { groups } = spec;
      if (groups && term) {
        b.for("group", 0, extents[FIRST] ?? 1, 1, (group) => {
          b.emit(memory.fill(tile, 0, bytes));
          blocks(group);
          place.within(FIRST, group, undefined, () => {
            place.alias(groups.inner, { kind: "load", buffer: tileBuffer, access, scalar: spec.scalar });
            visit([term], () => void place.address(sumBuffer, access), () => {
              const value = place.value(term), { base, offset } = place.address(sumBuffer, access);
              b.emit(v128.store(base, f32x4.add(v128.load(base, { offset, align: 4 }), value), { offset, align: 4 }));
            });
          });
        });
      } else blocks(undefined);
      const scalar = spec.groups ? "f32" : spec.scalar;
      place.alias(spec.accumulator, { kind: "load", buffer: sumBuffer, access, scalar });
      const roots = stores.flatMap(({ value, scatter }) => scatter ? [value, scatter.index] : [value]);
      const addresses = () => {
        for (const { buffer, access } of stores) {
          if (place.buffer(buffer).layout.size > 0) place.address(buffer, access);
        }
      };
      visit(roots, addresses, () => emitStores(place, stores));
    });
    code.buffers.length -= 2;
  };
  const safe = parallelVariables(stores, layouts, extents, [BATCH, ROW, COLUMN]) === 3;
  if (tiny || !safe) {
    b.for("chunk", 0, total, 1, chunk);
    return 1;
  }
  b.for("chunk", from, to, 1, chunk);
  return total;
}

const multiple = (x: number, of: number): number => Math.ceil(x / of) * of;

function chunkSize(m: number, n: number, tiny: boolean): { rows: number; columns: number } {
  const part = (extent: number, most: number, of: number) => multiple(extent / Math.ceil(extent / most), of);
  let rows = part(m, LARGEST, PANEL.rows), columns = part(n, LARGEST, PANEL.columns);
  while (!tiny && Math.ceil(m / rows) * Math.ceil(n / columns) < CHUNKS && Math.max(rows, columns) > LEAST) {
    if (rows >= columns) rows = multiple(rows / 2, PANEL.rows);
    else columns = multiple(columns / 2, PANEL.columns);
  }
  return { rows, columns };
}

/** Brings a specification to one space of loop variables, with rows and columns as the generators like them. */
function arrange(
  spec: DotKernel,
  { layouts }: Emitter,
): { contraction: Contraction; term: Expr | undefined; stores: readonly Store[] } {
  const { batch, m, n, k, groups } = spec;
  // Columns are what vectors run along in the tile: not the shorter side, and not the one that stores stride over.
  const along = (v: number) => spec.stores.every(({ access }) => Math.abs(access.strides[v] ?? 0) <= 1);
  const swap = (along(1) && !along(2) && m >= PANEL.columns) || (n < PANEL.columns && m > n);
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
  const length = extents[first] ?? 1,
    wanted = Math.max(1, BLOCK_LENGTH / inner),
    count = Math.ceil(length / Math.max(1, wanted * 1.5));
  const block = Math.min(length, multiple(length / count, inner === 1 ? 16 : 1));
  return { contraction: { extents, scalar: spec.scalar, lhs, rhs, axes, block, inner }, term, stores };
}
