/**
 * Products of few rows with packed codes, on bytes: four columns at a time share the activations, codes are unpacked sixteen at a
 * time and used at once, and scales and zero points are applied once per group of the last contracted axis, to sums of integers:
 * Σ (code - zero)·scale·x = scale·(Σ code·x - zero·Σ x). Integer settings give integers; f32 activations are digits of integers
 * (`activations.ts`), which takes two byte products where converting codes to f32 took four of f32 and more for the conversion.
 */
import type { DotKernel, Expr } from "../kernel.ts";
import {
  activationBytes,
  type Activations,
  activationsOf,
  joinDigits,
  prepareActivations,
  stepsOffset,
} from "./activations.ts";
import { f32x4, i16x8, i32, i32x4, v128 } from "./assembler.ts";
import { createByteSum, type PairProducts, pairsInWord, RELAXED_PAIRS } from "./byte_sums.ts";
import { largestOf, PART_BITS, partsOf, startOf, sweepCodes } from "./code_sweep.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { type Arrangement, BATCH, COLUMN, FIRST, ROW } from "./contraction.ts";
import type { Emitter } from "./emitter.ts";
import { sumLanes } from "./lanes.ts";
import { nestedLoops, smaller, vectorLoop, withinAll } from "./nest.ts";
import { createPlace, type Index, type KernelCode, type Place, type Vector } from "./place.ts";
import { emitStores } from "./stores.ts";

/** Columns whose sums become one vector. */
const COLUMNS = 4;
/**
 * Sums that are kept up at one time, and those of which each has another one in 16 bits. With half as many more, which would still fit
 * the registers beside what they are made of, engines move some to memory and back: in rows of 768, 8 bits take twice as long.
 */
const REGISTERS = 8, WORD_REGISTERS = 4;
/** Elements of a sum from which on it is worth adding up two halves: a byte product waits for the one before for some four cycles. */
const LONG = 512;

/** A product with a coded right operand. */
export interface CodedProduct extends Arrangement {
  readonly spec: DotKernel;
  readonly operand: CodedOperand;
}

/** Generates chunk after chunk of `columns` columns; returns a function that writes the chunk of an index. */
export function codedChunk(product: CodedProduct, emitter: Emitter, columns: number): (index: Index) => void {
  const { contraction, operand, term, stores, spec } = product, { extents } = contraction;
  const { code, prepared } = emitter, { b } = code, n = extents[COLUMN] ?? 1, rows = extents[ROW] ?? 1;
  const last = extents.length - 1, outer = Array.from({ length: last - FIRST }, (_, i) => FIRST + i);
  const activations = activationsOf(contraction);
  const bytes = prepared(
    activationBytes(activations),
    (preparation, at) => prepareActivations(preparation, contraction, activations, at),
  );
  const columnBlocks = Math.ceil(n / columns);
  /** Whether sums over all of the contracted axes are one integer. */
  const whole = contraction.scalar === "i32" && !spec.groups;
  const roots = [operand.scale, operand.zero, term].filter((root) => root !== undefined);
  return (index) => {
    const from = b.let("from_column", i32.mul(i32.rem_u(index, columnBlocks), columns));
    const to = b.let("to_column", smaller(i32.add(from, columns), i32.const(n)));
    const batch = b.let("batch", i32.div_u(index, columnBlocks));
    const place = createPlace(code, extents);
    place.within(BATCH, batch, undefined, () => {
      place.prepare(roots);
      vectorLoop(place, COLUMN, n, (column) => {
        const lanes = Array.from({ length: COLUMNS }, () => createPlace(code, extents));
        const indices = lanes.map((_, i) =>
          b.let("index", smaller(b.let("index", i32.add(column, i)), i32.const(n - 1)))
        );
        const sums = createSums(product, activations, code);
        const totals = Array.from({ length: rows }, () => b.let("total", f32x4.const(0)));
        withinAll(lanes, BATCH, batch, undefined, () =>
          withinAll(lanes, COLUMN, indices, undefined, () => {
            const starts = () => lanes.forEach((lane) => startOf(lane, operand));
            place.prepare(roots);
            starts();
            // What a group's sums are multiplied by is computed behind them, not before: meanwhile it would take registers.
            nestedLoops([...lanes, place], outer, starts, () => {
              if (!whole) sums.clear();
              const group = place.affine(activations.strides);
              const x = b.let("x_at", i32.add(bytes, i32.mul(group, activations.groupBytes)));
              sums.add(lanes, x);
              if (whole) return;
              const steps = b.let("step_at", i32.add(i32.add(bytes, stepsOffset(activations)), i32.shl(group, 3)));
              totals.forEach((total, row) =>
                place.within(ROW, i32.const(row), undefined, () => {
                  const value = spec.groups
                    ? groupTerm(place, spec.groups.inner, term, sums.integer(row))
                    : scaledSums(place, operand, sums.float(row), steps, 8 * row * (activations.strides[ROW] ?? 0));
                  b.set(total, f32x4.add(total, value));
                })
              );
            });
          }));
        totals.forEach((total, row) =>
          place.within(ROW, i32.const(row), undefined, () => {
            place.define(spec.accumulator, whole ? b.let("sums", sums.integer(row)) : total);
            emitStores(place, stores);
          })
        );
      }, { range: { from, to } });
    });
  };
}

/** What a group adds, of its sums of integers. */
export function groupTerm(place: Place, id: number, term: Expr | undefined, sums: Vector): Vector {
  if (!term) throw new Error("Internal error: a sum over groups lacks its term");
  place.define(id, place.code.b.let("sums", sums));
  return place.value(term);
}

/** (sums - zero · the group's sum) · scale · step, of which `steps` holds the last and the group's sum. */
export function scaledSums(
  place: Place,
  { scale, zero }: CodedOperand,
  sums: Vector,
  steps: Index,
  offset: number,
): Vector {
  const step = v128.load32_splat(steps, offset);
  const corrected = zero ? f32x4.sub(sums, f32x4.mul(place.value(zero), v128.load32_splat(steps, offset + 4))) : sums;
  return f32x4.mul(corrected, scale ? f32x4.mul(place.value(scale), step) : step);
}

/** Sums of products of bytes for four columns, by row and digit. */
interface Sums {
  clear(): void;
  /** Adds a group's products; `x` is where the activations of its first row lie. */
  add(lanes: readonly Place[], x: Index): void;
  /** Of four columns: the sums of a row's only digit. */
  integer(row: number): Vector;
  /** The same of all digits, in steps of the group. */
  float(row: number): Vector;
}

function createSums({ operand, contraction }: CodedProduct, activations: Activations, code: KernelCode): Sums {
  const { b } = code, { digits, groupBytes, strides } = activations, parts = partsOf(operand);
  const rows = contraction.extents[ROW] ?? 1, rowBytes = groupBytes * (strides[ROW] ?? 0);
  const vectors = rows * digits, perColumn = vectors * parts;
  const largest = largestOf(operand), registers = code.fours || pairsInWord(largest) === 1 ? REGISTERS : WORD_REGISTERS;
  const atOnce = perColumn * COLUMNS <= registers ? COLUMNS : perColumn * 2 <= registers ? 2 : 1;
  // Sums in 16 bits do not wait for long.
  const halves = code.fours && operand.length >= LONG && perColumn * COLUMNS * 2 <= REGISTERS ? 2 : 1;
  const pairs = code.relaxed ? RELAXED_PAIRS : PLAIN_PAIRS;
  const zeros = (count: number) => Array.from({ length: count }, () => createByteSum(code, largest, pairs));
  const sums = Array.from({ length: COLUMNS }, () => Array.from({ length: perColumn }, () => zeros(halves)));
  const digitSums = (row: number, digit: number): Vector => {
    const [low, high] = Array.from({ length: parts }, (_, part) => {
      const own = sums.map((column): Vector => {
        const [first, second] = column[(row * digits + digit) * parts + part] ?? [];
        if (!first) throw new Error("Internal error: a column has no sum");
        return second ? i32x4.add(first.total, second.total) : first.total;
      });
      return b.let("sums", sumLanes(b, own, i32x4.add));
    });
    if (!low) throw new Error("Internal error: a sum has no parts");
    return high ? b.let("sums", i32x4.add(low, i32x4.shl(high, PART_BITS))) : low;
  };
  return {
    clear: () => sums.flat(2).forEach((sum) => b.set(sum.total, i32x4.const(0))),
    add(lanes, x) {
      for (let first = 0; first < COLUMNS; first += atOnce) {
        const pointer = b.let("x", x);
        let half = 0;
        sweepCodes(lanes.slice(first, first + atOnce), operand, pointer, 16 * digits, (codes, at, last) => {
          const xs = Array.from({ length: vectors }, (_, i) => {
            const offset = Math.floor(i / digits) * rowBytes + 16 * (at * digits + i % digits);
            return b.let("x", v128.load(pointer, { offset, align: 1 }));
          });
          half = (half + 1) % halves;
          codes.forEach((read, column) =>
            read().forEach((codeBytes, part) => {
              const own = b.let("codes", codeBytes);
              xs.forEach((value, i) => sums[first + column]?.[i * parts + part]?.[half]?.add(value, own));
            })
          );
          if (last) sums.slice(first, first + atOnce).flat(2).forEach((sum) => sum.finish());
        });
      }
    },
    integer: (row) => digitSums(row, 0),
    float: (row) =>
      b.let("sums", joinDigits(code.math.madd, Array.from({ length: digits }, (_, digit) => digitSums(row, digit)))),
  };
}

/** Pairs of a byte and the one eight on. */
const PLAIN_PAIRS: PairProducts = {
  multiply: (x, codes) => i16x8.add(i16x8.extmul_low_i8x16_s(x, codes), i16x8.extmul_high_i8x16_s(x, codes)),
  widen: i32x4.extadd_pairwise_i16x8_s,
};
