/**
 * Map kernels. One invocation computes one element; or four neighbours, which read and write whole vec4s, or words of bytes;
 * or a block of 32, which are whole words of split fields. What no invocation can write as whole words is written by atomic operations.
 */
import type { Access, Expr, MapKernel, Store } from "../kernel.ts";
import { locate, type Place, splitRows, writeOne } from "./access.ts";
import { coordinates, type Dispatch, entryHead, foldGrid, groupNumber } from "./entry.ts";
import { mapAccesses } from "../regions/collapse.ts";
import { type Block, dependsOn, type Operand, startBlock } from "./expressions.ts";
import { BLOCK } from "./layout.ts";
import { FIRST_OF_BLOCK, packFields, packWord } from "./packing.ts";
import { indent, wrap } from "./text.ts";
import type { Writer } from "./writer.ts";

const THREADS = 64;
/** Elements per invocation. */
type Unit = 1 | 4 | typeof BLOCK;

/** Entry points of a map kernel. */
export function writeMap(writer: Writer, spec: MapKernel): { lines: string[]; dispatches: Dispatch[] } {
  const { dims, stores } = alignRows(writer, spec), vector = vectorAxis(writer, dims, stores);
  const extent = dims[vector] ?? 1, whole = stores.map((store) => wholeWords(writer, store, dims, vector));
  const unit: Unit = whole.includes(BLOCK) ? BLOCK : whole.includes(4) || extent % 4 === 0 ? 4 : 1;
  const others = dims.filter((_, axis) => axis !== vector), units = Math.ceil(extent / unit);
  const total = others.reduce((n, dim) => n * dim, units), groups = Math.ceil(total / THREADS);
  const vars = dims.map((_, axis) => writer.names.unique(axis === vector ? "column" : `i${axis}`));
  const column = vars[vector] ?? "column", otherVars = vars.filter((_, axis) => axis !== vector);
  const place: Place = unit === 1 ? { vars, extents: dims } : { vars, extents: dims, vector };
  const step = unit === 1 ? column : unit === 4 ? "quad" : "block";
  const lines = [
    ...groupNumber(groups, "group"),
    `let index = group * ${THREADS}u + lane;`,
    ...(total % THREADS === 0 ? [] : [`if (index >= ${total}u) { return; }`]),
    ...coordinates("index", [...otherVars, step], [...others, units]),
  ];
  if (unit === BLOCK) lines.push(...blockBody(writer, stores, whole, place, column, extent));
  else {
    if (unit === 4) lines.push(`let ${column} = quad * 4u;`);
    const block = startBlock(writer, place, rootsOf(stores));
    const values = stores.map((store) => evaluate(block, store));
    lines.push(
      ...block.lines,
      ...values.flatMap((value, i) => storeLines(writer, value, { place, column, extent, whole: whole[i] === 4 })),
    );
  }
  return {
    lines: [...entryHead("main", THREADS), ...indent(lines), "}"],
    dispatches: [{ entryPoint: "main", grid: foldGrid(groups) }],
  };
}

const rootsOf = (stores: readonly Store[]): Expr[] =>
  stores.flatMap(({ value, scatter }) => scatter ? [value, scatter.index] : [value]);

interface Evaluated {
  readonly store: Store;
  readonly value: Operand;
  readonly row?: Operand;
}

/** Values come before any write: results may lie in the memory of operands. */
function evaluate(block: Block, store: Store): Evaluated {
  const value = block.emit(store.value);
  return store.scatter ? { store, value, row: block.emit(store.scatter.index) } : { store, value };
}

/** Splits a loop that runs over several rows of narrow codes at once into rows and columns. */
function alignRows(writer: Writer, { dims, stores }: MapKernel): Pick<MapKernel, "dims" | "stores"> {
  for (const { buffer, access } of stores) {
    const { kind, rowLength } = writer.view(buffer).layout;
    if (kind !== "fields" && kind !== "bytes") continue;
    const axis = dims.findIndex((extent, i) =>
      access.strides[i] === 1 && extent > rowLength && extent % rowLength === 0
    );
    if (axis < 0) continue;
    const split = <T>(
      list: readonly T[],
      ...parts: T[]
    ): T[] => [...list.slice(0, axis), ...parts, ...list.slice(axis + 1)];
    const change = ({ offset, strides }: Access): Access => {
      const stride = strides[axis] ?? 0;
      return { offset, strides: split(strides, stride * rowLength, stride) };
    };
    return {
      dims: split(dims, (dims[axis] ?? 1) / rowLength, rowLength),
      stores: changeStores(stores, change),
    };
  }
  return { dims, stores };
}

/** A store with other accesses; shared subexpressions stay shared. */
function changeStores(stores: readonly Store[], change: (access: Access) => Access): Store[] {
  const walk = mapAccesses(change);
  return stores.map(({ scatter, ...store }) => ({
    ...store,
    access: change(store.access),
    value: walk(store.value),
    ...(scatter ? { scatter: { ...scatter, index: walk(scatter.index) } } : {}),
  }));
}

/** The axis along which neighbours are taken: that of a narrow result's rows, otherwise the one that the first result is contiguous in. */
function vectorAxis(writer: Writer, dims: readonly number[], stores: readonly Store[]): number {
  const packed = stores.find(({ buffer }) => writer.view(buffer).layout.kind !== "words");
  const { strides } = (packed ?? stores[0])?.access ?? { strides: [] };
  const contiguous = strides.findLastIndex((stride, axis) => stride === 1 && (dims[axis] ?? 1) > 1);
  return contiguous < 0 ? dims.length - 1 : contiguous;
}

/** Elements along the axis that make up whole words of a narrow result; 1 where words are shared, or the result is not narrow. */
function wholeWords(writer: Writer, { buffer, access, scatter }: Store, dims: readonly number[], axis: number): Unit {
  const { kind, rowLength } = writer.view(buffer).layout, extent = dims[axis] ?? 1;
  if (kind === "words" || access.strides[axis] !== 1 || (scatter && dependsOn(scatter.index, axis))) return 1;
  const others = dims.flatMap((dim, i) =>
    i === axis || dim === 1 ? [] : [{ name: "", stride: access.strides[i] ?? 0, extent: dim, vector: false }]
  );
  if (scatter) others.push({ name: "", stride: scatter.stride, extent: scatter.extent, vector: false });
  if (kind === "halves") {
    const even = [access.offset, extent, ...others.map(({ stride }) => stride)].every((n) => n % 4 === 0);
    return even ? 4 : 1;
  }
  const unit = kind === "bytes" ? 4 : BLOCK;
  const parts = splitRows([...others, { name: "", stride: 1, extent, vector: true }], access.offset, rowLength);
  if (!parts || parts.start % unit !== 0) return 1;
  const inner = parts.columns.filter(({ vector }) => !vector);
  if (inner.length === parts.columns.length) return 1; // the axis steps from row to row
  const ends = extent % unit === 0 || (inner.length === 0 && parts.start + extent === rowLength);
  return ends && inner.every(({ stride }) => stride % unit === 0) ? unit : 1;
}

interface StorePlace {
  readonly place: Place;
  readonly column: string;
  readonly extent: number;
  /** Whether the four neighbours are whole words. */
  readonly whole: boolean;
}

/** Lines of one store: of one element, or of four. */
function storeLines(
  writer: Writer,
  { store, value, row }: Evaluated,
  { place, column, extent, whole }: StorePlace,
): string[] {
  const { buffer, access, scatter } = store, view = writer.view(buffer);
  const chosen = (text: string) => scatter && { name: `u32(${text})`, stride: scatter.stride, extent: scatter.extent };
  const guarded = (lines: string[], conditions: (string | undefined)[]): string[] => {
    const needed = conditions.filter((condition) => condition !== undefined);
    return needed.length === 0 ? lines : [`if (${needed.join(" && ")}) {`, ...indent(lines), "}"];
  };
  const inside = (text: string) => scatter && `${wrap(text)} >= 0i && ${wrap(text)} < ${scatter.extent}i`;
  if (place.vector === undefined) {
    const at = locate(view.layout, access, place, row && chosen(row.text));
    return guarded(writeOne(writer, buffer, at, value.text), [row && inside(row.text)]);
  }
  const at = locate(view.layout, access, place, row && chosen(row.text)), four = vectorText(value);
  const stepless = !row?.vector;
  if (whole && stepless) return guarded(packWord(writer, view, at, four), [row && inside(row.text)]);
  if (view.layout.kind === "words" && view.wide && at.aligned && stepless && extent % 4 === 0) {
    const written = view.buffer.type.dtype === "bool" ? `vec4<u32>(${four})` : four;
    return guarded([`${view.name}[${at.quad}] = ${written};`], [row && inside(row.text)]);
  }
  return ["x", "y", "z", "w"].flatMap((part, shift) => {
    const rowText = row && (row.vector ? `${wrap(row.text)}.${part}` : row.text);
    const vars = place.vars.map((name, i) => i === place.vector && shift > 0 ? `(${name} + ${shift}u)` : name);
    const element = locate(
      view.layout,
      access,
      { vars, extents: place.extents },
      rowText === undefined ? undefined : chosen(rowText),
    );
    const written = value.vector ? `${wrap(value.text)}.${part}` : value.text;
    const tail = extent % 4 === 0 ? undefined : `${column} + ${shift}u < ${extent}u`;
    return guarded(writeOne(writer, buffer, element, written), [
      rowText === undefined ? undefined : inside(rowText),
      tail,
    ]);
  });
}

const vectorText = ({ text, scalar, vector }: Operand): string => vector ? text : `vec4<${scalar}>(${text})`;

/** A block of 32: eight times four, whose split fields are collected in registers first. */
function blockBody(
  writer: Writer,
  stores: readonly Store[],
  whole: readonly Unit[],
  place: Place,
  column: string,
  extent: number,
): string[] {
  const packed = stores.map((_, i) => whole[i] === BLOCK);
  const outer = startBlock(
    writer,
    { vars: place.vars, extents: place.extents },
    stores.flatMap(({ scatter }) => scatter ? [scatter.index] : []),
  );
  const rows = stores.map(({ scatter }, i) => packed[i] && scatter ? outer.emit(scatter.index) : undefined);
  const inner = startBlock(writer, place, rootsOf(stores));
  const targets = stores.map(({ buffer }, i) => packed[i] ? packFields(writer, writer.view(buffer)) : undefined);
  const values = stores.map((store, i) =>
    packed[i] ? { store, value: inner.emit(store.value) } : evaluate(inner, store)
  );
  const writes = values.flatMap((value, i) =>
    targets[i]?.collect(vectorText(value.value), "quad") ??
      storeLines(writer, value, { place, column, extent, whole: whole[i] === 4 })
  );
  const body = [...inner.lines, ...writes], ragged = extent % BLOCK !== 0;
  return [
    ...outer.lines,
    ...targets.flatMap((target) => target?.declare ?? []),
    "for (var quad = 0u; quad < 8u; quad++) {",
    `  let ${column} = block * ${BLOCK}u + quad * 4u;`,
    ...indent(ragged ? [`if (${column} < ${extent}u) {`, ...indent(body), "}"] : body),
    "}",
    ...stores.flatMap(({ buffer, access, scatter }, i) => {
      const target = targets[i], row = rows[i];
      if (!target) return [];
      const { vector: _, ...rest } = place,
        vars = rest.vars.map((name, axis) => axis === place.vector ? FIRST_OF_BLOCK : name);
      const chosen = scatter && row && { name: `u32(${row.text})`, stride: scatter.stride, extent: scatter.extent };
      const lines = target.store(locate(writer.view(buffer).layout, access, { ...rest, vars }, chosen));
      if (!scatter || !row) return lines;
      return [`if (${wrap(row.text)} >= 0i && ${wrap(row.text)} < ${scatter.extent}i) {`, ...indent(lines), "}"];
    }),
  ];
}
