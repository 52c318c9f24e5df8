/**
 * Products of many short rows with packed codes, on bytes, such as those of adapters. All columns of a chunk are unpacked first, into
 * panels of eight as in `dot_bytes.ts`; then every six rows go through all panels. What they write is then whole lines one after the
 * other; panel after panel, lines of a hundred rows would be written in two halves each, and leave the first-level cache in between.
 */
import type { DotKernel } from "../kernel.ts";
import type { LeftBytes } from "./activations.ts";
import { i32 } from "./assembler.ts";
import { eachRowBlock, pack, type PanelKind, product } from "./byte_panels.ts";
import { startOf } from "./code_sweep.ts";
import type { CodedOperand } from "./coded_operand.ts";
import { type Arrangement, BATCH, COLUMN, ROW } from "./contraction.ts";
import { PANEL_COLUMNS, rowsAtOnce } from "./dot_panels.ts";
import type { Emitter } from "./emitter.ts";
import { withinAll } from "./nest.ts";
import { createPlace, type Index } from "./place.ts";
import { emitStores } from "./stores.ts";

/** Bytes of a column up to which all panels of a chunk stay in the first-level cache. */
export const SHORT_BYTES = 64;

/** What a chunk of short rows needs to know. */
export interface ShortChunk extends Arrangement {
  readonly spec: DotKernel;
  readonly operand: CodedOperand;
  readonly kind: PanelKind;
  readonly left: LeftBytes;
  /** Most columns of a chunk. */
  readonly columns: number;
}

/** A part of the rows, or whole panels of columns. */
interface Range {
  readonly from: Index;
  readonly to: Index;
}

/** Prepares scratch memory; returns a writer of the product of some rows with whole panels of columns. */
export function shortChunk(
  { contraction: { extents }, stores, spec, operand, kind, left, columns }: ShortChunk,
  { code, reserve }: Emitter,
): (batch: Index, rowRange: Range, columnRange: Range) => void {
  const { b } = code, fours = left.groupBytes / (4 * left.vectors), m = extents[ROW] ?? 1;
  const panelBytes = PANEL_COLUMNS * 4 * fours * kind.parts,
    panels = reserve(panelBytes * Math.ceil(columns / PANEL_COLUMNS));
  const atOnce = Math.min(rowsAtOnce(m), kind.rows / 2);
  return (batch, rowRange, columnRange) => {
    const eachPanel = (use: (column: Index, panel: Index) => void) => {
      const panel = b.let("panel", panels);
      b.for("column", columnRange.from, columnRange.to, PANEL_COLUMNS, (column) => {
        use(column, panel);
        b.set(panel, i32.add(panel, panelBytes));
      });
    };
    const lanes = Array.from({ length: PANEL_COLUMNS }, () => createPlace(code, extents));
    const pair = [createPlace(code, extents), createPlace(code, extents)], [place] = pair;
    if (!place) return;
    withinAll([...lanes, ...pair], BATCH, batch, undefined, () => {
      eachPanel((column, panel) => {
        const indices = lanes.map((_, i) => b.let("index", i32.add(column, i)));
        withinAll(lanes, COLUMN, indices, undefined, () => {
          lanes.forEach((lane) => startOf(lane, operand));
          pack(code, lanes, operand, kind, panel, fours);
        });
      });
      const x = b.let("x_at", left.at(place));
      const block = (row: Index, count: number) => {
        const here = Array.from({ length: count }, (_, r) => r === 0 ? row : b.let("row", i32.add(row, r)));
        const starts = here.map((own) => b.let("x", i32.add(x, i32.mul(own, left.rowStride))));
        eachPanel((column, panel) =>
          withinAll(pair, COLUMN, [column, b.let("second", i32.add(column, 4))], 4, () => {
            const pointers = starts.map((start) => b.let("x", start));
            const sums = product(code, pointers, panel, { vectors: 2, kind, digits: 1, fours });
            here.forEach((own, r) =>
              pair.forEach((open, v) =>
                open.within(ROW, own, undefined, () => {
                  const [sum] = sums[r]?.[v] ?? [];
                  if (!sum) return;
                  open.define(spec.accumulator, sum);
                  emitStores(open, stores);
                })
              )
            );
          })
        );
      };
      eachRowBlock(b, rowRange, atOnce, block);
    });
  };
}
