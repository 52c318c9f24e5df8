/**
 * Products of few rows with packed codes, on bytes: codes are unpacked sixteen at a time and used at once, and scales and zero points
 * are applied once per group of the last contracted axis, to sums of integers:
 * Σ (code - zero)·scale·x = scale·(Σ code·x - zero·Σ x). Integer settings give integers; f32 activations are digits of integers
 * (`activations.ts`), which takes two byte products where converting codes to f32 took four of f32 and more for the conversion.
 *
 * Column after column is read from one end to the other, and what its groups sum up to is kept in scratch memory, until four columns
 * become one vector. Reading four columns side by side would load activations once for all of them, but machines fetch memory ahead
 * only for readers that walk straight on: rows of 1 KiB out of memory, two at a time, take twice as long.
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
import { createByteSum, type PairProducts, RELAXED_PAIRS } from "./byte_sums.ts";
import { largestOf, PART_BITS, partsOf, startOf, sweepCodes } from "./code_sweep.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { type Arrangement, BATCH, COLUMN, FIRST, ROW } from "./contraction.ts";
import type { Emitter } from "./emitter.ts";
import { sumLanes } from "./lanes.ts";
import { nestedLoops, smaller, vectorLoop } from "./nest.ts";
import { createPlace, type Index, type KernelCode, type Place, type Vector } from "./place.ts";
import { emitStores } from "./stores.ts";

/** Columns whose sums become one vector. */
const COLUMNS = 4;
/** Bytes of a vector. */
const VECTOR = 16;
/**
 * Elements of a sum from which on it is worth adding up parts, as many as keep so many sums up at one time: an instruction that adds
 * four products waits for the one before for some four cycles.
 */
const LONG = 512, SUMS = 4;

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
  const vectors = rows * activations.digits, strip = stripOf(extents, whole ? [] : outer, COLUMNS * vectors * VECTOR);
  const sumsAt = emitter.reserve(strip.bytes);
  return (index) => {
    const from = b.let("from_column", i32.mul(i32.rem_u(index, columnBlocks), columns));
    const to = b.let("to_column", smaller(i32.add(from, columns), i32.const(n)));
    const batch = b.let("batch", i32.div_u(index, columnBlocks));
    const place = createPlace(code, extents);
    place.within(BATCH, batch, undefined, () => {
      place.prepare(roots);
      const sums = createSums(product, activations, code);
      vectorLoop(place, COLUMN, n, (first) => {
        for (let i = 0; i < COLUMNS; i++) {
          const lane = createPlace(code, extents), own = i === 0 ? first : i32.add(first, i);
          const start = () => void startOf(lane, operand);
          const store = () => sums.store(i32.add(sumsAt, lane.affine(strip.strides)), VECTOR * i);
          lane.within(
            BATCH,
            batch,
            undefined,
            () =>
              lane.within(COLUMN, b.let("index", smaller(b.let("index", own), i32.const(n - 1))), undefined, () => {
                start();
                if (whole) sums.clear();
                nestedLoops(lane, outer, start, () => {
                  if (!whole) sums.clear();
                  const group = lane.affine(activations.strides);
                  sums.add(lane, i32.add(bytes, i32.mul(group, activations.groupBytes)));
                  if (!whole) store();
                });
                if (whole) store();
              }),
          );
        }
        /** The sums of four columns: of a row and a digit. */
        const stored = (at: Index, row: number, digit = 0): Vector => {
          const offset = COLUMNS * VECTOR * (row * activations.digits + digit);
          const four = Array.from({ length: COLUMNS }, (_, i) => b.let("sum", v128.load(at, offset + VECTOR * i)));
          return b.let("sums", sumLanes(b, four, i32x4.add));
        };
        const eachRow = (use: (row: number) => void) => {
          for (let row = 0; row < rows; row++) place.within(ROW, i32.const(row), undefined, () => use(row));
        };
        if (whole) {
          eachRow((row) => {
            place.define(spec.accumulator, stored(sumsAt, row));
            emitStores(place, stores);
          });
          return;
        }
        const totals = Array.from({ length: rows }, () => b.let("total", f32x4.const(0)));
        const prepare = () => place.prepare(roots);
        prepare();
        nestedLoops(place, outer, prepare, () => {
          const group = place.affine(activations.strides),
            at = b.let("at", i32.add(sumsAt, place.affine(strip.strides)));
          const steps = b.let("step_at", i32.add(i32.add(bytes, stepsOffset(activations)), i32.shl(group, 3)));
          eachRow((row) => {
            const digits = Array.from({ length: activations.digits }, (_, digit) => stored(at, row, digit));
            const offset = 8 * row * (activations.strides[ROW] ?? 0), [integer] = digits, total = totals[row];
            if (!integer || !total) return;
            const value = spec.groups
              ? groupTerm(place, spec.groups.inner, term, integer)
              : scaledSums(place, operand, b.let("sums", joinDigits(code.math.madd, digits)), steps, offset);
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
    });
  };
}

/** Where the sums of four columns lie: so many bytes for each index of some variables, and bytes from one index to the next. */
function stripOf(extents: readonly number[], variables: readonly number[], each: number) {
  const strides = extents.map(() => 0);
  let bytes = each;
  for (const variable of [...variables].reverse()) {
    strides[variable] = bytes;
    bytes *= extents[variable] ?? 1;
  }
  return { strides, bytes };
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

/** Sums of products of bytes of one column, by row and digit. */
interface Sums {
  clear(): void;
  /** Adds a group's products; `x` is where the activations of its first row lie. */
  add(column: Place, x: Index): void;
  /** Writes the sums, vectors of four parts of one, to `at` and an offset: as many as there are columns between two of them. */
  store(at: Index, offset: number): void;
}

function createSums({ operand, contraction }: CodedProduct, activations: Activations, code: KernelCode): Sums {
  const { b } = code, { digits, groupBytes, strides } = activations, parts = partsOf(operand);
  const rows = contraction.extents[ROW] ?? 1, rowBytes = groupBytes * (strides[ROW] ?? 0), vectors = rows * digits;
  // Sums in 16 bits do not wait for long.
  const ways = code.fours && operand.length >= LONG ? Math.max(1, Math.floor(SUMS / (vectors * parts))) : 1;
  const pairs = code.relaxed ? RELAXED_PAIRS : PLAIN_PAIRS, largest = largestOf(operand);
  const sums = Array.from(
    { length: vectors },
    () =>
      Array.from(
        { length: parts },
        () => Array.from({ length: ways }, () => createByteSum(code, largest, pairs)),
      ),
  );
  const all = sums.flat(2);
  return {
    clear: () => all.forEach(({ total }) => b.set(total, i32x4.const(0))),
    add(column, x) {
      const pointer = b.let("x", x);
      let way = 0;
      sweepCodes([column], operand, pointer, VECTOR * digits, ([read], at, last) => {
        way = (way + 1) % ways;
        read?.().forEach((codeBytes, part) => {
          const codes = b.let("codes", codeBytes);
          sums.forEach((own, i) => {
            const offset = Math.floor(i / digits) * rowBytes + VECTOR * (at * digits + i % digits);
            own[part]?.[way]?.add(v128.load(pointer, { offset, align: 1 }), codes);
          });
        });
        if (last) all.forEach((sum) => sum.finish());
      });
    },
    store(at, offset) {
      const to = b.let("sums_at", at);
      sums.forEach((own, i) => {
        const [low, high] = own.map((several) =>
          several.map(({ total }): Vector => total).reduce((x, y) => i32x4.add(x, y))
        );
        if (!low) throw new Error("Internal error: a sum has no parts");
        const sum = high ? i32x4.add(low, i32x4.shl(high, PART_BITS)) : low;
        b.emit(v128.store(to, sum, offset + COLUMNS * VECTOR * i));
      });
    },
  };
}

/** Pairs of a byte and the one eight on. */
const PLAIN_PAIRS: PairProducts = {
  multiply: (x, codes) => i16x8.add(i16x8.extmul_low_i8x16_s(x, codes), i16x8.extmul_high_i8x16_s(x, codes)),
  widen: i32x4.extadd_pairwise_i16x8_s,
};
