/**
 * Products of few rows with packed codes, on bytes, or on words where those do better (`word_sums.ts`): codes are unpacked sixteen at a time and used at once, and scales and zero points
 * are applied once per group of the last contracted axis, to sums of integers:
 * Σ (code - zero)·scale·x = scale·(Σ code·x - zero·Σ x). Integer settings give integers; f32 activations are digits of integers
 * (`activations.ts`), which takes two byte products where converting codes to f32 took four of f32 and more for the conversion.
 *
 * Four columns become one vector. They are used side by side as far as their sums fit registers (`column_sums.ts`), and the next four
 * are fetched meanwhile (`ahead.ts`). Of several groups, each adds its four parts of a sum to four of the total, times its scale; what
 * zero points take off goes four groups at a time (`group_totals.ts`). So lanes are summed up once per column, not once per group.
 */
import type { DotKernel } from "../kernel.ts";
import { type Activations, joinDigits, leftBytes, sumsOffset } from "./activations.ts";
import { createAhead } from "./ahead.ts";
import { f32x4, i32, i32x4, v128 } from "./assembler.ts";
import { bytesApart, startOf } from "./code_sweep.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { COLUMNS, createColumnSums, planColumns } from "./column_sums.ts";
import { type Arrangement, BATCH, COLUMN, outerAxes, ROW } from "./contraction.ts";
import type { Emitter } from "./emitter.ts";
import { createGroupTotals, type GroupTerm, termOfOperand } from "./group_totals.ts";
import { sumLanes } from "./lanes.ts";
import { LEAST_PAGES, PAGE_BYTES, VECTOR } from "./layout.ts";
import { nestedLoops, smaller, vectorLoop, withinAll, withinNeighbours } from "./nest.ts";
import { createPlace, type Index, type Place, type Vector } from "./place.ts";
import { emitStores } from "./stores.ts";
import { takesWords } from "./word_sums.ts";

/** A product with a coded right operand. */
export interface CodedProduct extends Arrangement {
  readonly spec: DotKernel;
  readonly operand: CodedOperand;
  /** What a group adds, where `spec` has groups. */
  readonly linear: GroupTerm | undefined;
}

/** Generates chunk after chunk of `columns` columns; returns a function that writes the chunk of an index. */
export function codedChunk(product: CodedProduct, emitter: Emitter, columns: number): (index: Index) => void {
  const { contraction, stores, spec } = product, { extents } = contraction;
  const { code } = emitter, { b } = code, n = extents[COLUMN] ?? 1, rows = extents[ROW] ?? 1;
  const columnBlocks = Math.ceil(n / columns), sumColumns = createSums(product, emitter);
  return (index) => {
    const from = b.let("from_column", i32.mul(i32.rem_u(index, columnBlocks), columns));
    const to = b.let("to_column", smaller(i32.add(from, columns), i32.const(n)));
    const batch = b.let("batch", i32.div_u(index, columnBlocks)), place = createPlace(code, extents);
    place.within(BATCH, batch, undefined, () => {
      const sums = sumColumns(batch);
      vectorLoop(place, COLUMN, n, (first) => {
        sums.write(first);
        for (let row = 0; row < rows; row++) {
          place.within(ROW, i32.const(row), undefined, () => {
            place.define(spec.accumulator, sums.read(place, row));
            emitStores(place, stores);
          });
        }
      }, { range: { from, to } });
      sums.end();
    });
  };
}

/** Sums of four columns. */
interface FourSums {
  /** Computes them, as far as lanes go, for columns from `first` on. */
  write(first: Index): void;
  /** The finished ones of a row, where the columns are open. */
  read(place: Place, row: number): Vector;
  /** To be called behind the last ones. */
  end(): void;
}

function createSums(product: CodedProduct, emitter: Emitter): (batch: Index) => FourSums {
  const { code, reserve } = emitter, { b } = code;
  const left = leftBytes(product.contraction, emitter, takesWords(product.operand, code)), { digits } = left;
  const { contraction, operand, linear } = product, { extents, scalar } = contraction;
  const n = extents[COLUMN] ?? 1, rows = extents[ROW] ?? 1, outer = outerAxes(contraction);
  const term = linear ?? (scalar === "f32" && outer.length > 0 ? termOfOperand(operand) : undefined);
  const plan = planColumns(contraction, operand, left, code), { atOnce } = plan;
  // Columns that are all there, and near each other, differ by static offsets: one address for all of them.
  const apart = n % COLUMNS === 0 ? bytesApart(operand, extents) : undefined;
  const near = apart !== undefined && COLUMNS * apart <= LEAST_PAGES * PAGE_BYTES ? apart : undefined;
  // What is kept per row: totals of groups, or the one sum of each digit.
  const kept = term ? 1 : digits, at = reserve(COLUMNS * rows * kept * VECTOR);
  const slot = (row: number, digit: number, column: number) => VECTOR * (COLUMNS * (row * kept + digit) + column);
  return (batch) => {
    const sums = createColumnSums(contraction, operand, plan, left, code);
    const ahead = plan.isAhead ? createAhead(b) : undefined;
    /** Goes through the groups of some columns. */
    const eachGroup = (lanes: readonly Place[], each: () => void) => {
      const start = () => lanes.forEach((open) => startOf(open, operand));
      start();
      // Where factors lie. What they are is read when the sums need no registers any more.
      lanes.forEach((lane) => lane.prepare(term?.factor ? [term.factor] : []));
      nestedLoops(lanes, outer, start, () => {
        if (term) sums.clear();
        const [lane] = lanes;
        if (lane) sums.add(lanes, near, left.at(lane), ahead);
        each();
      });
    };
    /** The sums of some of the four columns, side by side. */
    const sum = (first: Index, columns: readonly number[]) => {
      const lanes = columns.map(() => createPlace(code, extents));
      const index = (c: number) => b.let("index", i32.add(first, c)), [from = 0] = columns;
      const clamped = (c: number) => b.let("index", smaller(index(c), i32.const(n - 1)));
      const open = (body: () => void) =>
        near === undefined
          ? withinAll(lanes, COLUMN, columns.map(clamped), undefined, body)
          : withinNeighbours(lanes, COLUMN, index(from), body);
      const store = (row: number, digit: number, value: (column: number) => Vector) =>
        columns.forEach((column, i) => b.emit(v128.store(at, value(i), slot(row, digit, column))));
      withinAll(lanes, BATCH, batch, undefined, () =>
        open(() => {
          if (term) {
            const totals = createGroupTotals(lanes, contraction, left, term);
            eachGroup(lanes, () => totals.add((column, row) => joined((digit) => sums.value(column, row, digit))));
            totals.shift();
            for (let row = 0; row < rows; row++) store(row, 0, (column) => totals.value(column, row));
            return;
          }
          sums.clear();
          eachGroup(lanes, () => {});
          for (let row = 0; row < rows; row++) {
            for (let digit = 0; digit < digits; digit++) store(row, digit, (column) => sums.value(column, row, digit));
          }
        }));
    };
    return {
      write(first) {
        if (ahead) startAhead(first);
        for (let from = 0; from < COLUMNS; from += atOnce) {
          sum(first, Array.from({ length: atOnce }, (_, i) => from + i));
        }
      },
      read(place, row) {
        const lanes = (digit: number) =>
          Array.from({ length: COLUMNS }, (_, c) => b.let("sum", v128.load(at, slot(row, digit, c))));
        if (term) return b.let("sums", sumLanes(b, lanes(0), f32x4.add));
        const sums = (digit: number) => b.let("sums", sumLanes(b, lanes(digit), i32x4.add));
        if (scalar === "i32") return sums(0);
        return b.let(
          "sums",
          scaledSums(place, operand, b.let("sums", joined(sums)), left.step(place), left),
        );
      },
      end: () => ahead?.keep(at),
    };

    /** Reads ahead from the column on that follows these ones, or from the last ones again. */
    function startAhead(first: Index): void {
      const next = createPlace(code, extents), index = smaller(i32.add(first, COLUMNS), i32.const(n - COLUMNS));
      next.within(BATCH, batch, undefined, () =>
        next.within(COLUMN, b.let("next", index), undefined, () => {
          const { row, column } = startOf(next, operand);
          ahead?.start(i32.add(row, i32.shr_u(i32.mul(column, operand.bits), 3)));
        }));
    }
  };

  /** An f32 of integers by digit. */
  function joined(value: (digit: number) => Vector): Vector {
    return joinDigits(code.math.madd, Array.from({ length: digits }, (_, digit) => b.let("sum", value(digit))));
  }
}

/** (sums - zero · the group's sum) · scale · step, of which `step` is the address. */
export function scaledSums(
  place: Place,
  { scale, zero }: CodedOperand,
  sums: Vector,
  step: Index,
  activations: Activations,
): Vector {
  const factor = v128.load32_splat(step), whole = v128.load32_splat(step, sumsOffset(activations));
  const corrected = zero ? f32x4.sub(sums, f32x4.mul(place.value(zero), whole)) : sums;
  return f32x4.mul(corrected, scale ? f32x4.mul(place.value(scale), factor) : factor);
}
