/**
 * Products of blocks: both operands in panels of scratch memory (4 rows or 8 columns, interleaved along the contracted axis), and a
 * product of 4 by 8 in registers. Integers go in pairs of 16 bits, which one instruction multiplies and adds.
 */
import type { Expr } from "../kernel.ts";
import { f32x4, type FunctionBuilder, i16x8, i32, i32x4, i8x16, type Local, v128 } from "./assembler.ts";
import { type Block, COLUMN, type Contraction, ROW } from "./dot.ts";
import { flatAccess, plainOperand, runsAlongK, sweepK } from "./dot_operand.ts";
import type { Emitter } from "./kernel.ts";
import { firstLanes, four, transpose } from "./lanes.ts";
import { smaller, vectorLoop, withinAll } from "./nest.ts";
import { createPlace, type Index, type Vector } from "./place.ts";

/** Rows and columns of the product in registers. */
export const PANEL = { rows: 4, columns: 8 } as const;
/** Steps along the contracted axis that are written out. */
const UNROLL = 4;

/** Prepares scratch memory; returns what adds a block to the tile. */
export function emitPanels(
  contraction: Contraction,
  emitter: Emitter,
  rows: number,
  columns: number,
): (block: Block) => void {
  const { lhs, rhs, scalar, extents } = contraction, { code, reserve } = emitter, { b } = code;
  const steps = stepsOf(contraction);
  const bytes = (width: number) => 4 * width * steps,
    count = (extent: number, width: number) => Math.ceil(extent / width);
  const plain = plainOperand(createPlace(code, extents), lhs, contraction),
    direct = plain?.step === 1 ? plain : undefined;
  const left = direct ? i32.const(0) : reserve(count(rows, PANEL.rows) * bytes(PANEL.rows));
  const right = reserve(count(columns, PANEL.columns) * bytes(PANEL.columns));
  return (block) => {
    const length = b.let("length", stepsBetween(block));
    packPanels(block, rhs, COLUMN, PANEL.columns, right);
    if (!direct) packPanels(block, lhs, ROW, PANEL.rows, left);
    const { tile, width } = block;
    const panels = block.columns, from = block.rows.from;
    const multiply = (addresses: (row: Index) => { pointers: Local<"i32">[]; row: number; step: number }) => {
      b.for("column", 0, b.let("columns", i32.sub(panels.to, panels.from)), PANEL.columns, (column) => {
        const panel = b.let("panel", i32.add(right, i32.mul(column, 4 * steps)));
        b.for("row", 0, b.let("rows", i32.sub(block.rows.to, from)), PANEL.rows, (row) => {
          const target = b.let("target", i32.add(tile, i32.mul(i32.add(i32.mul(row, width), column), 4)));
          product(b, emitter, { ...addresses(row), panel, length, target, width, scalar });
        });
      });
    };
    if (!direct) {
      return multiply((row) => ({
        pointers: [b.let("left", i32.add(left, i32.mul(row, 4 * steps)))],
        row: 4,
        step: 4 * PANEL.rows,
      }));
    }
    block.places(1, ([place]) => {
      if (!place) return;
      const [axis = 0] = contraction.axes;
      place.within(axis, block.k.from, undefined, () => {
        const { offset, base } = place.address(direct.buffer, direct.access);
        const stride = 4 * (direct.access.strides[ROW] ?? 0),
          start = b.let("start", i32.add(base, offset)),
          last = (extents[ROW] ?? 1) - 1;
        multiply((row) => ({
          pointers: Array.from({ length: PANEL.rows }, (_, r) => {
            const clamped = smaller(b.let("row", i32.add(i32.add(from, row), r)), i32.const(last));
            return b.let("left", i32.add(start, i32.mul(clamped, stride)));
          }),
          row: 0,
          step: 4 * direct.step,
        }));
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

/** Evaluates an operand for a range of rows or columns into panels; panel p holds `width` of them, interleaved. */
function packPanels(block: Block, expr: Expr, variable: number, width: number, to: Index): void {
  const { contraction, emitter, k } = block, { b } = emitter.code, { extents, scalar, axes } = contraction;
  const range = variable === ROW ? block.rows : block.columns,
    extent = extents[variable] ?? 1,
    steps = stepsOf(contraction);
  const flat = scalar === "f32" ? flatAccess(contraction).strides : pairStrides(contraction);
  const first = flat[axes[0] ?? 0] ?? 0;
  /** Where step 0 of the contracted axes would lie, for the group of four that starts at `index`. */
  const target = (index: Index) => {
    const group = b.let("group", i32.sub(index, range.from));
    const panel = width === 4
      ? i32.mul(group, 4 * steps)
      : i32.add(i32.mul(i32.and(group, -8), 4 * steps), i32.mul(i32.and(group, 4), 4));
    const start = scalar === "i32" && axes.length === 1
      ? i32.mul(i32.shr_u(k.from, 1), 4 * width)
      : i32.mul(k.from, 4 * width * first);
    return b.let("to", i32.sub(i32.add(to, panel), start));
  };
  if (scalar === "f32" && !runsAlongK(expr, variable, contraction, emitter.layouts)) {
    return block.places(1, (places) => {
      const [place] = places;
      if (!place) return;
      place.prepare([expr]);
      vectorLoop(place, variable, extent, (index) => {
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
      // What lies behind the last row or column is never stored: any value will do.
      const indices = [0, 1, 2, 3].map((i) =>
        b.let("index", smaller(b.let("index", i32.add(index, i)), i32.const(extent - 1)))
      );
      withinAll(places, variable, indices, undefined, () =>
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

interface Product {
  /** One per row, or one that `row` bytes lead on from. */
  readonly pointers: readonly Local<"i32">[];
  readonly row: number;
  /** Bytes along the contracted axis. */
  readonly step: number;
  readonly panel: Local<"i32">;
  readonly length: Index;
  readonly target: Index;
  readonly width: number;
  readonly scalar: "f32" | "i32";
}

/** tile += left panel · right panel. */
function product(
  b: FunctionBuilder,
  { code: { math } }: Emitter,
  { pointers, row, step, panel, length, target, width, scalar }: Product,
): void {
  const sums = Array.from({ length: 2 * PANEL.rows }, () => b.let("sum", i32x4.const(0)));
  const right = b.let("right", panel);
  const add = (left: Vector, x: Vector, sum: Vector): Vector =>
    scalar === "f32" ? math.madd(left, x, sum) : i32x4.add(sum, i32x4.dot_i16x8_s(left, x));
  const steps = (count: number) => {
    for (let u = 0; u < count; u++) {
      const x = b.let("x", v128.load(right, 32 * u)), y = b.let("y", v128.load(right, 32 * u + 16));
      for (let r = 0; r < PANEL.rows; r++) {
        const pointer = pointers[r] ?? pointers[0], first = sums[2 * r], second = sums[2 * r + 1];
        if (!pointer || !first || !second) return;
        const left = b.let("left", v128.load32_splat(pointer, step * u + (pointers.length === 1 ? row * r : 0)));
        b.set(first, add(left, x, first));
        b.set(second, add(left, y, second));
      }
    }
    b.set(right, i32.add(right, 32 * count));
    for (const pointer of pointers) b.set(pointer, i32.add(pointer, step * count));
  };
  const whole = b.let("whole", i32.and(length, -UNROLL));
  b.for("k", 0, whole, UNROLL, () => steps(UNROLL));
  b.for("k", whole, length, 1, () => steps(1));
  const sum = scalar === "f32" ? f32x4.add : i32x4.add;
  sums.forEach((value, i) => {
    const offset = 4 * width * Math.floor(i / 2) + 16 * (i % 2);
    b.emit(v128.store(target, sum(v128.load(target, offset), value), offset));
  });
}
