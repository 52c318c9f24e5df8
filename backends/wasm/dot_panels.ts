/**
 * Products of blocks: the right operand in panels of scratch memory (8 columns, interleaved along the contracted axis), the left one row
 * by row, and a product of 6 by 8 in registers. Integers go in pairs of 16 bits, which one instruction multiplies and adds.
 */
import type { Expr } from "../kernel.ts";
import { f32x4, type FunctionBuilder, i16x8, i32, i32x4, i8x16, type Local, v128 } from "./assembler.ts";
import { type Block, COLUMN, type Contraction, multiple, ROW } from "./contraction.ts";
import { flatAccess, type PlainOperand, plainOperand, runsAlongK, sweepK } from "./dot_operand.ts";
import type { Emitter } from "./emitter.ts";
import { firstLanes, four, transpose } from "./lanes.ts";
import { smaller, vectorLoop, withinAll } from "./nest.ts";
import { createPlace, type Index, type KernelCode, type Vector } from "./place.ts";

/** Columns of the product in registers. */
export const PANEL_COLUMNS = 8;

/**
 * Rows of the product in registers: 6 (out of the first-level cache 36 GFLOP/s, 31 with 4), unless 4 leave less work at the end that is
 * thrown away.
 */
export const rowsAtOnce = (m: number): number => multiple(m, 6) > 1.15 * multiple(m, 4) ? 4 : 6;

/** Steps along the contracted axis that are written out. */
const UNROLL = 8;

/** The left operand where it can be read in place. */
function leftInPlace(contraction: Contraction, code: KernelCode): PlainOperand | undefined {
  const plain = plainOperand(createPlace(code, contraction.extents), contraction.lhs, contraction);
  return plain?.step === 1 ? plain : undefined;
}

/** Bytes of one block of rows. Vectors that end a row reach into the next one, which is written after it. */
const rowsBytes = (contraction: Contraction, rows: number): number => 4 * rows * stepsOf(contraction) + 16;

/** Bytes of all blocks of rows, or 0 where rows are read in place. */
export const leftBytes = (contraction: Contraction, code: KernelCode, rows: number): number =>
  leftInPlace(contraction, code) ? 0 : rowsBytes(contraction, rows) * blocksOf(contraction);

const blocksOf = ({ extents, axes, block }: Contraction): number => Math.ceil((extents[axes[0] ?? 0] ?? 1) / block);

/**
 * Prepares scratch memory; returns what adds a block to the tile. `keep`: blocks of rows stay until the rows are others, as
 * `Block.fresh` tells.
 */
export function emitPanels(
  contraction: Contraction,
  emitter: Emitter,
  { rows, columns, keep, once }: {
    readonly rows: number;
    readonly columns: number;
    readonly keep: boolean;
    /** Whether one block is the whole sum: then the tile is overwritten. */
    readonly once: boolean;
  },
): (block: Block) => void {
  const { lhs, rhs, scalar, extents } = contraction, { code, reserve } = emitter, { b } = code;
  const steps = stepsOf(contraction), atOnce = rowsAtOnce(extents[ROW] ?? 1), direct = leftInPlace(contraction, code);
  const blockBytes = rowsBytes(contraction, rows);
  const kept = direct ? i32.const(0) : reserve(blockBytes * (keep ? blocksOf(contraction) : 1));
  const right = reserve(Math.ceil(columns / PANEL_COLUMNS) * 4 * PANEL_COLUMNS * steps);
  return (block) => {
    const length = b.let("length", stepsBetween(block));
    packPanels(block, rhs, right);
    const inKept = i32.mul(i32.div_u(block.k.from, contraction.block), blockBytes);
    const left = keep ? b.let("left", i32.add(kept, inKept)) : kept;
    if (!direct) block.fresh ? b.if(block.fresh, () => packRows(block, lhs, left)) : packRows(block, lhs, left);
    const { tile, width, output } = block, { from, to } = block.rows;
    /** `start` is where row 0 would lie, rows `stride` bytes apart. */
    const multiply = (start: Index, stride: number) => {
      const last = b.let("last", i32.sub(to, 1));
      b.for("column", 0, b.let("columns", i32.sub(block.columns.to, block.columns.from)), PANEL_COLUMNS, (column) => {
        const panel = b.let("panel", i32.add(right, i32.mul(column, 4 * steps)));
        b.for("row", from, to, atOnce, (row) => {
          // Rows behind the last one are the last one again.
          const clamped = Array.from(
            { length: atOnce },
            (_, r) => b.let("row", smaller(b.let("row", i32.add(row, r)), last)),
          );
          const pointers = clamped.map((r) => b.let("left", i32.add(start, i32.mul(r, stride))));
          const inTile = i32.add(i32.mul(i32.sub(row, from), width), column);
          const targets = output
            ? clamped.map((r) => ({ base: b.let("to", output(r, column)), offset: 0 }))
            : inRows(b.let("target", i32.add(tile, i32.mul(inTile, 4))), 4 * width, atOnce);
          product(b, emitter, { pointers, panel, length, targets, scalar, once });
        });
      });
    };
    if (!direct) return multiply(b.let("rows", i32.sub(left, i32.mul(from, 4 * steps))), 4 * steps);
    block.places(1, ([place]) => {
      const [axis = 0] = contraction.axes;
      place?.within(axis, block.k.from, undefined, () => {
        const { offset, base } = place.address(direct.buffer, direct.access);
        multiply(b.let("start", i32.add(base, offset)), 4 * (direct.access.strides[ROW] ?? 0));
      });
    });
  };
}

/** Words along the contracted axes of a block: elements, or pairs of 16-bit integers that never cross the end of the last axis. */
function stepsOf({ scalar, block, inner, axes, extents }: Contraction): number {
  if (scalar === "f32") return block * inner;
  const last = axes.length === 1 ? block : extents[axes.at(-1) ?? 0] ?? 1;
  return block * inner / last * Math.ceil(last / 2);
}

function stepsBetween({ contraction, k }: Block): Index {
  const length = i32.sub(k.to, k.from), { scalar, axes } = contraction;
  if (scalar === "i32" && axes.length === 1) return i32.shr_u(i32.add(length, 1), 1);
  return i32.mul(length, stepsOf(contraction) / contraction.block);
}

/** Evaluates the left operand for a range of rows, one after the other. */
function packRows(block: Block, expr: Expr, to: Index): void {
  const { contraction, emitter, rows } = block, { b } = emitter.code, { scalar, axes } = contraction;
  const row = 4 * stepsOf(contraction), flat = flatOf(contraction), origin = originOf(block, 1);
  const target = (index: Index) => b.let("to", i32.sub(i32.add(to, i32.mul(i32.sub(index, rows.from), row)), origin));
  if (scalar === "f32" && !runsAlongK(expr, ROW, contraction, emitter.layouts)) {
    return block.places(1, (places) => {
      const [place] = places;
      if (!place) return;
      place.prepare([expr]);
      vectorLoop(place, ROW, contraction.extents[ROW] ?? 1, (index) => {
        const base = target(index);
        sweepK(block, places, [expr], false, () => {
          const at = place.affine(flat, 4, { key: "left", index: base }), value = b.let("value", place.value(expr));
          for (let r = 0; r < place.lanes; r++) b.emit(v128.store32_lane(at, value, r, row * r));
        });
      }, { range: rows });
    });
  }
  block.places(1, (places) => {
    const [place] = places;
    if (!place) return;
    place.prepare([expr]);
    b.for("row", rows.from, rows.to, 1, (index) =>
      place.within(ROW, index, undefined, () => {
        const base = target(index);
        sweepK(block, places, [expr], true, () => {
          if (scalar === "f32") {
            const at = place.affine(flat, 4, { key: "left", index: base });
            return b.emit(v128.store(at, place.value(expr), { align: 4 }));
          }
          const outer = place.affine(flat.map((s, v) => v === axes.at(-1) ? 0 : s), 4, { key: "left", index: base });
          const value = firstLanes(place.value(expr), place.lanes);
          const pair = b.let("pairs", i16x8.narrow_i32x4_s(value, i32x4.const(0)));
          b.emit(v128.store64_lane(pairAddress(outer, place, contraction, 1, b), pair, 0, { align: 4 }));
        });
      }));
  });
}

/** Strides, in steps, of the contracted axes; of integers' last axis none. */
const flatOf = (contraction: Contraction): readonly number[] =>
  contraction.scalar === "f32" ? flatAccess(contraction).strides : pairStrides(contraction);

/** Bytes of the steps before the block, `width` words each. */
function originOf({ contraction, k }: Block, width: number): Index {
  const { scalar, axes } = contraction, first = flatOf(contraction)[axes[0] ?? 0] ?? 0;
  if (scalar === "i32" && axes.length === 1) return i32.mul(i32.shr_u(k.from, 1), 4 * width);
  return i32.mul(k.from, 4 * width * first);
}

/** Evaluates the right operand for a range of columns into panels; panel p holds eight of them, interleaved. */
function packPanels(block: Block, expr: Expr, to: Index): void {
  const { contraction, emitter, columns: range } = block, { b } = emitter.code, { extents, scalar, axes } = contraction;
  const width = PANEL_COLUMNS, extent = extents[COLUMN] ?? 1, steps = stepsOf(contraction);
  const flat = flatOf(contraction), origin = originOf(block, width);
  /** Where step 0 of the contracted axes would lie, for the group of four that starts at `index`. */
  const target = (index: Index) => {
    const group = b.let("group", i32.sub(index, range.from));
    const panel = i32.add(i32.mul(i32.and(group, -8), 4 * steps), i32.mul(i32.and(group, 4), 4));
    return b.let("to", i32.sub(i32.add(to, panel), origin));
  };
  if (scalar === "f32" && !runsAlongK(expr, COLUMN, contraction, emitter.layouts)) {
    return block.places(1, (places) => {
      const [place] = places;
      if (!place) return;
      place.prepare([expr]);
      vectorLoop(place, COLUMN, extent, (index) => {
        const base = target(index);
        sweepK(block, places, [expr], false, () => {
          const at = place.affine(flat, 4 * width, { key: "panel", index: base });
          b.emit(v128.store(at, place.value(expr)));
        });
      }, { range });
    });
  }
  block.places(4, (places) => {
    const [place] = places;
    if (!place) return;
    places.forEach((own) => own.prepare([expr]));
    b.for("group", range.from, range.to, 4, (index) => {
      const base = target(index);
      // What lies behind the last column is never stored: any value will do.
      const indices = [0, 1, 2, 3].map((i) =>
        b.let("index", smaller(b.let("index", i32.add(index, i)), i32.const(extent - 1)))
      );
      withinAll(places, COLUMN, indices, undefined, () =>
        sweepK(block, places, [expr], true, () => {
          const values = places.map((own) => own.value(expr)), lanes = place.lanes;
          if (scalar === "f32") {
            const at = place.affine(flat, 4 * width, { key: "panel", index: base });
            transpose(b, values).slice(0, lanes).forEach((row, i) => b.emit(v128.store(at, row, 4 * width * i)));
          } else {
            const at = pairAddress(
              place.affine(flat.map((s, v) => v === axes.at(-1) ? 0 : s), 4 * width, { key: "panel", index: base }),
              place,
              contraction,
              width,
              b,
            );
            pairs(b, values, lanes).forEach((row, i) => b.emit(v128.store(at, row, 4 * width * i)));
          }
        }));
    });
  });
}

/** Strides, in pairs, of all contracted axes but the last, whose stride is one half. */
function pairStrides({ extents, axes }: Contraction): number[] {
  const strides = extents.map(() => 0), last = axes.at(-1) ?? 0;
  let stride = Math.ceil((extents[last] ?? 1) / 2);
  for (const v of axes.slice(0, -1).reverse()) {
    strides[v] = stride;
    stride *= extents[v] ?? 1;
  }
  return strides;
}

function pairAddress(
  outer: Index,
  place: ReturnType<typeof createPlace>,
  { axes, extents }: Contraction,
  width: number,
  b: FunctionBuilder,
): Index {
  const own = extents.map((_, v) => v === axes.at(-1) ? 1 : 0);
  // The index of a vector is a multiple of four: half of it, times the bytes of a pair's row.
  return b.let("at", i32.add(outer, place.affine(own, 2 * width)));
}

/** Four elements of four columns as pairs of 16 bits: a vector for elements 0 and 1, one for 2 and 3; missing ones are 0. */
function pairs(b: FunctionBuilder, values: readonly Vector[], lanes: number): Vector[] {
  const [x, y, z, w] = four(values.map((value) => firstLanes(value, lanes)));
  const xy = b.let("pairs", i16x8.narrow_i32x4_s(x, y)), zw = b.let("pairs", i16x8.narrow_i32x4_s(z, w));
  const even = i8x16.shuffle(xy, zw, [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27]);
  const odd = i8x16.shuffle(xy, zw, [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31]);
  return lanes <= 2 ? [even] : [even, odd];
}

/** Rows of a tile that follow each other. */
const inRows = (base: Index, bytes: number, count: number): Target[] =>
  Array.from({ length: count }, (_, r) => ({ base, offset: bytes * r }));

/** Where a row of eight sums goes. */
interface Target {
  readonly base: Index;
  readonly offset: number;
}

interface Product {
  /** Where each row's words lie. */
  readonly pointers: readonly Local<"i32">[];
  readonly panel: Local<"i32">;
  readonly length: Index;
  readonly targets: readonly Target[];
  readonly scalar: "f32" | "i32";
  readonly once: boolean;
}

/** targets += rows · panel, or = where nothing was added before. */
function product(
  b: FunctionBuilder,
  { code: { math } }: Emitter,
  { pointers, panel, length, targets, scalar, once }: Product,
): void {
  const sums = Array.from({ length: 2 * pointers.length }, () => b.let("sum", i32x4.const(0)));
  const right = b.let("right", panel);
  const add = (left: Vector, x: Vector, sum: Vector): Vector =>
    scalar === "f32" ? math.madd(left, x, sum) : i32x4.add(sum, i32x4.dot_i16x8_s(left, x));
  const steps = (count: number) => {
    for (let u = 0; u < count; u++) {
      const x = b.let("x", v128.load(right, 32 * u)), y = b.let("y", v128.load(right, 32 * u + 16));
      pointers.forEach((pointer, r) => {
        const first = sums[2 * r], second = sums[2 * r + 1];
        if (!first || !second) return;
        const left = b.let("left", v128.load32_splat(pointer, 4 * u));
        b.set(first, add(left, x, first));
        b.set(second, add(left, y, second));
      });
    }
    b.set(right, i32.add(right, 32 * count));
    for (const pointer of pointers) b.set(pointer, i32.add(pointer, 4 * count));
  };
  const whole = b.let("whole", i32.and(length, -UNROLL));
  b.for("k", 0, whole, UNROLL, () => steps(UNROLL));
  b.for("k", whole, length, 1, () => steps(1));
  const sum = scalar === "f32" ? f32x4.add : i32x4.add;
  sums.forEach((value, i) => {
    const { base, offset } = targets[i >> 1] as Target, at = { offset: offset + 16 * (i % 2), align: 4 } as const;
    b.emit(v128.store(base, once ? value : sum(v128.load(base, at), value), at));
  });
}
