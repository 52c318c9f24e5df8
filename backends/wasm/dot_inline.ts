/**
 * Products with few rows: the right operand is evaluated in registers and used at once. Vectors run along the contracted axis
 * (weights as they are usually stored) or along the columns, whichever suits the operand's memory.
 */
import { f32x4, i32, i32x4, type Local, v128 } from "./assembler.ts";
import { type Block, COLUMN, type Contraction, ROW } from "./contraction.ts";
import { blockLength, flatAccess, runsAlongK, sweepK } from "./dot_operand.ts";
import type { Emitter } from "./emitter.ts";
import { firstLanes, sumLanes } from "./lanes.ts";
import { smaller, vectorLoop, withinAll } from "./nest.ts";
import type { Index, Place, Vector } from "./place.ts";

/** Sums that are kept in registers where vectors run along the columns. */
const REGISTERS = 8;
/** Columns at once where vectors run along the contracted axis. */
const COLUMNS = 4;

/** Prepares scratch memory; returns what adds a block to the tile. */
export function emitInline(contraction: Contraction, emitter: Emitter, rows: number): (block: Block) => void {
  const { rhs, lhs, scalar } = contraction, { code: { b, math }, reserve, layouts } = emitter;
  const length = blockLength(contraction),
    left = reserve(4 * rows * length + 16),
    flat = flatAccess(contraction).strides;
  const alongK = runsAlongK(rhs, COLUMN, contraction, layouts);
  const add = (x: Vector, y: Vector, sum: Vector): Vector =>
    scalar === "f32" ? math.madd(x, y, sum) : i32x4.add(sum, i32x4.mul(x, y));
  const plus = scalar === "f32" ? f32x4.add : i32x4.add;
  return (block) => {
    const { k, columns, tile, width } = block, skipped = i32.mul(k.from, 4 * contraction.inner);
    const origin = b.let("origin", i32.sub(left, skipped));
    block.places(1, (places) => {
      const [place] = places;
      if (!place) return;
      place.prepare([lhs]);
      b.for("row", 0, rows, 1, (row) =>
        place.within(ROW, row, undefined, () => {
          const to = b.let("to", i32.add(origin, i32.mul(row, 4 * length)));
          sweepK(block, places, [lhs], true, () => {
            const at = place.affine(flat, 4, { key: "left", index: to });
            b.emit(v128.store(at, place.value(lhs), { align: 4 }));
          });
        }));
    });
    const zeros = (count: number) => Array.from({ length: count }, () => b.let("sum", i32x4.const(0)));
    const addTo = (row: number, column: Index, value: Vector) => {
      const at = b.let("target", i32.add(tile, i32.mul(i32.sub(column, columns.from), 4)));
      const offset = 4 * width * row;
      b.emit(v128.store(at, plus(v128.load(at, offset), value), offset));
    };
    if (!alongK) return emitAlongColumns(block, { flat, origin, length, rows, add, addTo, zeros });
    block.places(COLUMNS, (places) => {
      const [place] = places, last = (contraction.extents[COLUMN] ?? 1) - 1;
      if (!place) return;
      places.forEach((own) => own.prepare([rhs]));
      b.for("column", columns.from, columns.to, COLUMNS, (column) => {
        const indices = places.map((_, i) =>
          b.let("index", smaller(b.let("index", i32.add(column, i)), i32.const(last)))
        );
        const sums = zeros(rows * COLUMNS);
        withinAll(places, COLUMN, indices, undefined, () =>
          sweepK(block, places, [rhs], true, () => {
            const at = place.affine(flat, 4, { key: "left", index: origin });
            const values = places.map((own) => b.let("right", firstLanes(own.value(rhs), own.lanes)));
            for (let row = 0; row < rows; row++) {
              const x = b.let("left", firstLanes(v128.load(at, { offset: 4 * length * row, align: 4 }), place.lanes));
              values.forEach((value, i) => {
                const sum = sums[row * COLUMNS + i];
                if (sum) b.set(sum, add(x, value, sum));
              });
            }
          }));
        for (let row = 0; row < rows; row++) {
          addTo(row, column, b.let("sums", sumLanes(b, sums.slice(row * COLUMNS, (row + 1) * COLUMNS), plus)));
        }
      });
    });
  };
}

interface AlongColumns {
  readonly flat: readonly number[];
  /** Where row 0 of the left operand would begin. */
  readonly origin: Index;
  readonly length: number;
  readonly rows: number;
  readonly add: (x: Vector, y: Vector, sum: Vector) => Vector;
  readonly addTo: (row: number, column: Index, value: Vector) => void;
  readonly zeros: (count: number) => Local<"v128">[];
}

/** Vectors of columns: several at once as long as all of them are whole, then one by one. */
function emitAlongColumns(block: Block, { flat, origin, length, rows, add, addTo, zeros }: AlongColumns): void {
  const { contraction: { rhs, extents }, columns, emitter: { code: { b } } } = block;
  const several = Math.max(1, Math.floor(REGISTERS / rows)),
    width = 4 * several,
    whole = (extents[COLUMN] ?? 1) & -width;
  const body = (places: readonly Place[], column: Index) => {
    const sums = places.map(() => zeros(rows));
    sweepK(block, places, [rhs], false, () => {
      const at = places[0]?.affine(flat, 4, { key: "left", index: origin });
      if (!at) return;
      const values = places.map((place) => place.value(rhs));
      for (let row = 0; row < rows; row++) {
        const x = b.let("left", v128.load32_splat(at, 4 * length * row));
        sums.forEach((own, i) => {
          const sum = own[row], value = values[i];
          if (sum && value) b.set(sum, add(x, value, sum));
        });
      }
    });
    sums.forEach((own, i) => own.forEach((sum, row) => addTo(row, i32.add(column, 4 * i), sum)));
  };
  const next = b.let("next", columns.from), end = b.let("whole", smaller(columns.to, i32.const(whole)));
  block.places(several, (places) => {
    places.forEach((place) => place.prepare([rhs]));
    b.for("column", next, end, width, (column) => {
      const indices = places.map((_, i) => b.let("index", i32.add(column, 4 * i)));
      withinAll(places, COLUMN, indices, 4, () => body(places, column));
      b.set(next, i32.add(column, width));
    });
  });
  block.places(1, (places) => {
    const [place] = places;
    place?.prepare([rhs]);
    vectorLoop(places, COLUMN, extents[COLUMN] ?? 1, (column) => body(places, column), {
      range: { from: next, to: columns.to },
    });
  });
}
