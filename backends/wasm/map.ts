/** Generates map kernels: stores at every point of a nest of independent loops. */
import type { MapKernel, RowKernel } from "../kernel.ts";
import { i32 } from "./assembler.ts";
import type { Emitter } from "./emitter.ts";
import type { Layout } from "./layout.ts";
import {
  moveLast,
  nestedLoops,
  rewriteStores,
  simplifyLoops,
  smaller,
  unflatten,
  unpacksAlong,
  usesOf,
  vectorCost,
  vectorLoop,
} from "./nest.ts";
import { createPlace } from "./place.ts";
import { emitRow } from "./row.ts";
import { canStage, parallelVariables, stage } from "./staging.ts";
import { emitStores } from "./stores.ts";

/** Outer iterations that are enough to share among threads. */
const ENOUGH = 16;
/** Elements of a chunk where the innermost loop has to be shared; a multiple of sixteen. */
const CHUNK = 1024;

/** Writes the kernel; returns its number of chunks. */
export function emitMap(spec: MapKernel, emitter: Emitter): number {
  const { code, layouts, from, to, reserve, small } = emitter, { b } = code, rows = rowsOf(spec, layouts);
  if (rows) return emitRow(rows, emitter);
  const simple = simplifyLoops(spec.dims, usesOf([], spec.stores), layouts);
  let stores = rewriteStores(spec.stores, simple.change), extents = simple.extents.length > 0 ? simple.extents : [1];
  const packed = stores.filter((store) => layouts[store.buffer]?.storage === "fields");
  const candidates = [...extents.keys()].filter((v) =>
    packed.every((store) => {
      const layout = layouts[store.buffer];
      return layout && canStage(store, layout, extents, [v]);
    })
  );
  const uses = usesOf([], stores), among = candidates.length > 0 ? candidates : [...extents.keys()];
  const costs = new Map(among.map((v) => [v, vectorCost(uses, layouts, extents, v)]));
  const best = among.reduce((a, v) => (costs.get(v) ?? 0) <= (costs.get(a) ?? 0) ? v : a, among[0] ?? 0);
  const order = moveLast(extents, best);
  stores = rewriteStores(stores, order.change);
  extents = order.extents;

  const vector = extents.length - 1, length = extents[vector] ?? 1, points = extents.reduce((x, y) => x * y, 1);
  const place = createPlace(code, extents);
  const staging = stage(place, stores, [vector], reserve);
  const most = points < small ? 0 : parallelVariables(staging.stores, layouts, extents, [...extents.keys()]);
  let parallel = 0, units = 1;
  while (parallel < Math.min(most, vector) && units < ENOUGH) units *= extents[parallel++] ?? 1;
  const roots = staging.stores.flatMap(({ value, scatter }) => scatter ? [value, scatter.index] : [value]);
  const prepare = () => {
    place.prepare(roots);
    for (const { buffer, access } of staging.stores) {
      if (place.buffer(buffer).layout.size > 0) place.address(buffer, access);
    }
  };
  const outer = [...extents.keys()].slice(0, parallel), inner = [...extents.keys()].slice(parallel, vector);
  const body = () => emitStores(place, staging.stores);
  const sixteen = unpacksAlong(roots, layouts, vector);
  prepare();

  const pieces = most === extents.length && units < ENOUGH && packed.length === 0 ? Math.ceil(length / CHUNK) : 1;
  b.for("chunk", from, to, 1, (chunk) => {
    const unit = pieces === 1 ? chunk : b.let("unit", i32.div_u(chunk, pieces));
    unflatten(place, outer, unit, () => {
      prepare();
      nestedLoops(place, inner, prepare, () => {
        if (pieces === 1) vectorLoop(place, vector, length, body, { sixteen });
        else {
          const start = b.let("start", i32.mul(i32.sub(chunk, i32.mul(unit, pieces)), CHUNK));
          const end = b.let("end", smaller(i32.add(start, CHUNK), i32.const(length)));
          vectorLoop(place, vector, length, body, { range: { from: start, to: end }, sixteen });
        }
        staging.finish();
      });
    });
  });
  return units * pieces;
}

/**
 * The same as a kernel of rows, where it writes enough whole rows of narrow codes: rows are packed when they are complete, whatever
 * loops they consist of, and take turns with what makes their operands (`turns.ts`).
 */
function rowsOf(
  { dims, stores, ...common }: MapKernel,
  layouts: readonly (Layout | undefined)[],
): RowKernel | undefined {
  const columns = new Set(stores.map(({ buffer }) => {
    const layout = layouts[buffer];
    return layout?.storage === "fields" || layout?.storage === "byte" ? layout.columns : 0;
  }));
  const [length = 0, ...others] = columns, count = (extents: readonly number[]) => extents.reduce((x, y) => x * y, 1);
  if (length === 0 || others.length > 0 || stores.some(({ scatter }) => scatter)) return undefined;
  const outer = [...dims.keys()].find((v) => v > 0 && count(dims.slice(v)) === length);
  if (outer === undefined || count(dims.slice(0, outer)) < ENOUGH) return undefined;
  const phase = { elements: [], reductions: [], scalars: [], transforms: [], rowStores: [], stores };
  return { ...common, kind: "row", outer: dims.slice(0, outer), row: dims.slice(outer), phases: [phase] };
}
