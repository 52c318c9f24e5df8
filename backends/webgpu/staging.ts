/**
 * Codes of a row on their way to a packed buffer: every element sets its bits in workgroup memory, where words are shared freely, and whole
 * words are copied out when the row is complete.
 */
import type { Expr, Store } from "../kernel.ts";
import { locate, splitRows } from "./access.ts";
import { dependsOn, startBlock } from "./expressions.ts";
import { BLOCK, type Layout } from "./layout.ts";
import { codePieces } from "./packing.ts";
import type { Row } from "./sweep.ts";
import { exchangeBytes } from "./transform.ts";
import { indent, wrap } from "./text.ts";

/** Lines of a staged store. */
export interface StagedStore {
  /** Before the sweep, with its barrier. */
  readonly before: string[];
  /** For the element `i` of the row. */
  collect(value: string): string[];
  /** After the sweep, with its barriers. */
  readonly after: string[];
}

/** How to stage a store of narrow codes; undefined for other stores, and where rows share words or do not fit workgroup memory. */
export function stageCodes(state: Row, store: Store): StagedStore | undefined {
  const { writer, spec, length, threads, outerVars } = state, view = writer.view(store.buffer), { layout, name } = view;
  if (layout.kind !== "bytes" && layout.kind !== "fields") return undefined;
  const unit = layout.kind === "bytes" ? 4 : BLOCK, width = layout.fields.reduce((sum, bits) => sum + bits, 0);
  const words = layout.kind === "bytes" ? Math.ceil(length / 4) : Math.ceil(length / BLOCK) * width;
  if (!isContiguous(store, spec.outer.length, spec.row) || !startsWord(state, store, layout, unit)) return undefined;
  const partials = 8 * threads,
    transforms = spec.phases.some((phase) => phase.transforms.length > 0) ? exchangeBytes(length) : 0;
  if (
    words * 4 + state.staged.reduce((sum, bytes) => sum + bytes, 0) + partials + transforms >
      writer.traits.workgroupBytes
  ) return undefined;
  state.staged.push(words * 4);

  const staging = writer.workgroup(`${name}_words`, "atomic<u32>", words);
  const place = { vars: outerVars, extents: spec.outer }, { scatter } = store;
  const perRow = startBlock(writer, place, scatter ? [scatter.index] : [], state.known);
  const row = scatter && perRow.emit(scatter.index).text;
  const chosen = scatter && { name: `u32(${row})`, stride: scatter.stride, extent: scatter.extent };
  const access = { offset: store.access.offset, strides: store.access.strides.slice(0, spec.outer.length) };
  const start = locate(layout, access, place, chosen);
  const column = wrap(start.column),
    inRow = layout.kind === "bytes" ? ` + ${column} / 4u` : ` + ${column} / ${BLOCK}u * ${width}u`;
  const loop = `for (var word = lane; word < ${words}u; word += ${threads}u) {`;
  const copy = [
    `let ${name}_start = ${wrap(start.row)} * ${layout.rowWords}u${column === "0u" ? "" : inRow};`,
    loop,
    `  ${name}[${name}_start + word] = atomicLoad(&${staging}[word]);`,
    "}",
  ];
  return {
    before: [loop, `  atomicStore(&${staging}[word], 0u);`, "}", "workgroupBarrier();"],
    collect: (value) => [
      ...codePieces(layout, value, "i").map(({ word, bits }) => `atomicOr(&${staging}[${word}], ${bits});`),
    ],
    after: [
      "workgroupBarrier();",
      ...perRow.lines,
      ...(scatter
        ? [`if (${wrap(row ?? "")} >= 0i && ${wrap(row ?? "")} < ${scatter.extent}i) {`, ...indent(copy), "}"]
        : ["{", ...indent(copy), "}"]),
      "workgroupBarrier();",
    ],
  };
}

/** Whether element i of the row goes to place i after the first one, to a row that is known before the sweep. */
function isContiguous({ access, scatter }: Store, outer: number, row: readonly number[]): boolean {
  let stride = 1;
  for (let axis = row.length - 1; axis >= 0; axis--) {
    const extent = row[axis] ?? 1;
    if (extent > 1 && access.strides[outer + axis] !== stride) return false;
    stride *= extent;
  }
  return !scatter || (!row.some((_, axis) => dependsOn(scatter.index, outer + axis)) && usesNoValues(scatter.index));
}

const usesNoValues = (expr: Expr): boolean =>
  expr.kind === "value"
    ? false
    : expr.kind === "map"
    ? expr.args.every(usesNoValues)
    : expr.kind === "gather"
    ? usesNoValues(expr.index)
    : true;

/** Whether every row starts at a word's start and ends at a word's end or at the end of the buffer's row. */
function startsWord({ spec, length }: Row, { access, scatter }: Store, layout: Layout, unit: number): boolean {
  const axes = spec.outer.map((extent, i) => ({
    name: "",
    stride: extent > 1 ? access.strides[i] ?? 0 : 0,
    extent,
    vector: false,
  }));
  if (scatter) axes.push({ name: "", stride: scatter.stride, extent: scatter.extent, vector: false });
  const parts = splitRows(
    [...axes, { name: "", stride: 1, extent: length, vector: true }],
    access.offset,
    layout.rowLength,
  );
  if (!parts || parts.start % unit !== 0) return false;
  const inner = parts.columns.filter(({ vector }) => !vector);
  if (length > 1 && inner.length === parts.columns.length) return false;
  return inner.every(({ stride }) => stride % unit === 0) &&
    (length % unit === 0 || (inner.length === 0 && parts.start + length === layout.rowLength));
}
