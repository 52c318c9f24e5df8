/**
 * Products of few rows with packed codes, on bytes: codes are unpacked sixteen at a time and used at once, and scales and zero points
 * are applied once per group of the last contracted axis, to sums of integers:
 * Σ (code - zero)·scale·x = scale·(Σ code·x - zero·Σ x). Integer settings give integers; f32 activations are digits of integers
 * (`activations.ts`), which takes two byte products where converting codes to f32 took four of f32 and more for the conversion.
 *
 * Four columns become one vector. They are used side by side where the activations then stay in registers for all of them, and the
 * next four are fetched meanwhile (`ahead.ts`). Where their sums would leave the registers, each column is read from one end to the
 * other, and what its groups sum up to is kept in scratch memory.
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
import { type Ahead, createAhead } from "./ahead.ts";
import { createByteSum, type PairProducts, pairsInWord, RELAXED_PAIRS } from "./byte_sums.ts";
import { startOf, sweepCodes, TURN } from "./code_sweep.ts";
import { type Unpacking, unpackingInPlace, unpackingOf } from "./unpacking.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { type Arrangement, BATCH, COLUMN, outerAxes, ROW } from "./contraction.ts";
import type { Emitter } from "./emitter.ts";
import { sumLanes } from "./lanes.ts";
import { denseStrides, nestedLoops, smaller, vectorLoop, withinAll } from "./nest.ts";
import { createPlace, type Index, type KernelCode, type Place, type Vector } from "./place.ts";
import { emitStores } from "./stores.ts";

/** Columns whose sums become one vector. */
const COLUMNS = 4;
/** Bytes of a vector. */
const VECTOR = 16;
/**
 * Elements of a sum from which on it is worth adding up parts, as many as keep so many sums up at one time: an instruction that adds
 * four products waits for the one before for some four cycles, and machines start two in each.
 */
const LONG = 512, SUMS = 8;
/** Rows of codes this long are fetched by the machine itself, and those of eight columns would leave the first-level cache. */
const AHEAD_BYTES = 4096;

/** A product with a coded right operand. */
export interface CodedProduct extends Arrangement {
  readonly spec: DotKernel;
  readonly operand: CodedOperand;
}

/** Generates chunk after chunk of `columns` columns; returns a function that writes the chunk of an index. */
export function codedChunk(product: CodedProduct, emitter: Emitter, columns: number): (index: Index) => void {
  const { contraction, operand, term, stores, spec } = product, { extents } = contraction;
  const { code, prepared } = emitter, { b } = code, n = extents[COLUMN] ?? 1, rows = extents[ROW] ?? 1;
  const outer = outerAxes(contraction), activations = activationsOf(contraction), { digits } = activations;
  const bytes = prepared(
    activationBytes(activations),
    (preparation, at) => prepareActivations(preparation, contraction, activations, at),
  );
  const columnBlocks = Math.ceil(n / columns), sumColumns = createColumnSums(product, emitter, activations, bytes);
  const roots = [operand.scale, operand.zero, term].filter((root) => root !== undefined);
  return (index) => {
    const from = b.let("from_column", i32.mul(i32.rem_u(index, columnBlocks), columns));
    const to = b.let("to_column", smaller(i32.add(from, columns), i32.const(n)));
    const batch = b.let("batch", i32.div_u(index, columnBlocks));
    const place = createPlace(code, extents);
    const eachRow = (use: (row: number) => void) => {
      for (let row = 0; row < rows; row++) place.within(ROW, i32.const(row), undefined, () => use(row));
    };
    place.within(BATCH, batch, undefined, () => {
      place.prepare(roots);
      const sums = sumColumns(batch);
      vectorLoop(place, COLUMN, n, (first) => {
        sums.write(first);
        if (isWhole(product)) {
          eachRow((row) => {
            place.define(spec.accumulator, sums.read(place, row, 0));
            emitStores(place, stores);
          });
          return;
        }
        const totals = Array.from({ length: rows }, () => b.let("total", f32x4.const(0)));
        const prepare = () => place.prepare(roots);
        prepare();
        nestedLoops(place, outer, prepare, () => {
          const group = place.affine(activations.strides);
          const steps = b.let("step_at", i32.add(i32.add(bytes, stepsOffset(activations)), i32.shl(group, 3)));
          eachRow((row) => {
            const integers = Array.from({ length: digits }, (_, digit) => sums.read(place, row, digit));
            const offset = 8 * row * (activations.strides[ROW] ?? 0), [integer] = integers, total = totals[row];
            if (!integer || !total) return;
            const value = spec.groups
              ? groupTerm(place, spec.groups.inner, term, integer)
              : scaledSums(place, operand, b.let("sums", joinDigits(code.math.madd, integers)), steps, offset);
            b.set(total, f32x4.add(total, value));
          });
        });
        totals.forEach((total, row) =>
          place.within(ROW, i32.const(row), undefined, () => {
            place.define(spec.accumulator, total);
            emitStores(place, stores);
          })
        );
      }, { range: { from, to } });
      sums.end();
    });
  };
}

/** Whether sums over all of the contracted axes are one integer. */
const isWhole = ({ contraction, spec }: CodedProduct): boolean => contraction.scalar === "i32" && !spec.groups;

/** Codes stay in place where four columns' sums then fit registers. */
function unpackingFor({ operand, contraction }: CodedProduct, vectors: number, code: KernelCode): Unpacking {
  const elements = contraction.axes.reduce((product, axis) => product * (contraction.extents[axis] ?? 1), 1);
  return (vectors === 1 ? unpackingInPlace(operand, code, elements) : undefined) ?? unpackingOf(operand, code);
}

/**
 * How many columns are used side by side: as many as keep their sums in registers. Sums in 16 bits beside them take as many again, so
 * that without an instruction for fours two sums of each are too many where there are groups.
 */
function columnsAtOnce(perColumn: number, grouped: boolean, fours: boolean): number {
  if (!fours) return perColumn === 1 || (perColumn === 2 && !grouped) ? COLUMNS : 1;
  return [COLUMNS, COLUMNS / 2].find((columns) => columns * perColumn <= SUMS) ?? 1;
}

/** Sums of integers of four columns, in scratch memory. */
interface ColumnSums {
  /** Computes them for columns from `first` on. */
  write(first: Index): void;
  /** Those of a row and digit, at a place with an open group. */
  read(place: Place, row: number, digit: number): Vector;
  /** To be called behind the last ones. */
  end(): void;
}

function createColumnSums(
  product: CodedProduct,
  { code, reserve }: Emitter,
  activations: Activations,
  bytes: Index,
): (batch: Index) => ColumnSums {
  const { b } = code, { contraction, operand } = product, { extents } = contraction, n = extents[COLUMN] ?? 1;
  const vectors = (extents[ROW] ?? 1) * activations.digits, outer = outerAxes(contraction), whole = isWhole(product);
  const unpacking = unpackingFor(product, vectors, code);
  const atOnce = columnsAtOnce(vectors * unpacking.parts, outer.length > 0, code.fours);
  const groups = whole ? [] : outer, strides = denseStrides(extents, groups), groupBytes = COLUMNS * vectors * VECTOR;
  const at = reserve(groups.reduce((bytes, axis) => bytes * (extents[axis] ?? 1), groupBytes));
  return (batch) => {
    const sums = createSums(product, activations, unpacking, atOnce, code);
    const rowBytes = outer.reduce((bytes, axis) => bytes * (extents[axis] ?? 1), operand.length * operand.bits / 8);
    // Whole turns are what a row takes, so that the last columns' lines end where the codes do.
    const isAhead = atOnce === COLUMNS && n >= 2 * COLUMNS && operand.length % TURN === 0 && rowBytes < AHEAD_BYTES;
    const ahead = isAhead ? createAhead(b) : undefined;
    /** Reads ahead from the column on that follows these ones, or from the last ones again. */
    const startAhead = (first: Index) => {
      const next = createPlace(code, extents), index = smaller(i32.add(first, COLUMNS), i32.const(n - COLUMNS));
      next.within(BATCH, batch, undefined, () =>
        next.within(COLUMN, b.let("next", index), undefined, () => {
          const { row, column } = startOf(next, operand);
          ahead?.start(i32.add(row, i32.shr_u(i32.mul(column, operand.bits), 3)));
        }));
    };
    /** The sums of some of the four columns, side by side. */
    const sum = (first: Index, columns: readonly number[]) => {
      const lanes = columns.map(() => createPlace(code, extents)), [lane] = lanes;
      if (!lane) return;
      const start = () => lanes.forEach((open) => startOf(open, operand));
      const store = () => sums.store(i32.add(at, lane.affine(strides, groupBytes)), columns);
      const indices = columns.map((c) => b.let("index", smaller(b.let("index", i32.add(first, c)), i32.const(n - 1))));
      withinAll(lanes, BATCH, batch, undefined, () =>
        withinAll(lanes, COLUMN, indices, undefined, () => {
          start();
          if (whole) sums.clear();
          nestedLoops(lanes, outer, start, () => {
            if (!whole) sums.clear();
            const group = lane.affine(activations.strides);
            sums.add(lanes, i32.add(bytes, i32.mul(group, activations.groupBytes)), ahead);
            if (!whole) store();
          });
          if (whole) store();
        }));
    };
    return {
      write(first) {
        if (ahead) startAhead(first);
        for (let from = 0; from < COLUMNS; from += atOnce) {
          sum(first, Array.from({ length: atOnce }, (_, i) => from + i));
        }
      },
      read(place, row, digit) {
        const from = i32.add(at, place.affine(strides, groupBytes)), i = row * activations.digits + digit;
        const four = Array.from(
          { length: COLUMNS },
          (_, column) => b.let("sum", v128.load(from, VECTOR * (COLUMNS * i + column))),
        );
        return b.let("sums", sumLanes(b, four, i32x4.add));
      },
      end: () => ahead?.keep(at),
    };
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

/** Sums of products of bytes of some columns, by row and digit. */
interface Sums {
  clear(): void;
  /** Adds a group's products; `x` is where the activations of its first row lie. */
  add(columns: readonly Place[], x: Index, ahead: Ahead | undefined): void;
  /** Writes the sums, vectors of four parts of one, to where those of four columns lie. */
  store(at: Index, columns: readonly number[]): void;
}

function createSums(
  { operand, contraction }: CodedProduct,
  activations: Activations,
  unpacking: Unpacking,
  atOnce: number,
  code: KernelCode,
): Sums {
  const { b } = code, { digits, groupBytes, strides } = activations, { parts, largest, join } = unpacking;
  const rows = contraction.extents[ROW] ?? 1, rowBytes = groupBytes * (strides[ROW] ?? 0), vectors = rows * digits;
  // Sums in 16 bits do not wait for long.
  const ways = code.fours && operand.length >= LONG ? Math.max(1, Math.floor(SUMS / (atOnce * vectors * parts))) : 1;
  const pairs = code.relaxed ? RELAXED_PAIRS : PLAIN_PAIRS, room = pairsInWord(largest);
  const several = (count: number) => Array.from({ length: count }, () => createByteSum(code, room, pairs));
  const sums = Array.from(
    { length: atOnce },
    () => Array.from({ length: vectors }, () => Array.from({ length: parts }, () => several(ways))),
  );
  const all = sums.flat(3);
  return {
    clear: () => all.forEach(({ total }) => b.set(total, i32x4.const(0))),
    add(columns, x, ahead) {
      const pointer = b.let("x", x);
      let way = 0, count = 0;
      sweepCodes(columns, operand, unpacking, pointer, VECTOR * digits, (codes, sixteens, last) => {
        way = (way + 1) % ways;
        const xs = new Map(Array.from(new Set(sixteens.map(({ at }) => at)), (at) => [
          at,
          Array.from({ length: vectors }, (_, i) => {
            const offset = Math.floor(i / digits) * rowBytes + VECTOR * (at * digits + i % digits);
            return b.let("x", v128.load(pointer, { offset, align: 1 }));
          }),
        ]));
        codes.forEach((read, column) => {
          const bytes = read();
          sixteens.forEach(({ at, part }, k) => {
            const own = b.let("codes", bytes[k] ?? i32x4.const(0));
            xs.get(at)?.forEach((value, i) => sums[column]?.[i]?.[part]?.[way]?.add(value, own));
          });
        });
        count += xs.size;
        if (!last) return;
        all.forEach((sum) => sum.finish());
        ahead?.step(columns.length * count * 16 * operand.bits / 8);
        count = 0;
      });
    },
    store(at, columns) {
      const to = b.let("sums_at", at);
      columns.forEach((column, c) =>
        sums[c]?.forEach((own, i) => {
          const sums = own.map((ways) => ways.map(({ total }): Vector => total).reduce((x, y) => i32x4.add(x, y)));
          b.emit(v128.store(to, join(sums), VECTOR * (COLUMNS * i + column)));
        })
      );
    },
  };
}

/** Pairs of a byte and the one eight on. */
const PLAIN_PAIRS: PairProducts = {
  multiply: (x, codes) => i16x8.add(i16x8.extmul_low_i8x16_s(x, codes), i16x8.extmul_high_i8x16_s(x, codes)),
  widen: i32x4.extadd_pairwise_i16x8_s,
};
