/**
 * Row kernels: one workgroup per row, elements strided over its invocations.
 *
 * Kept elements stay with their invocation, in an array of its own; workgroup memory holds what is exchanged: partial sums, which are
 * added in a fixed tree, the pieces of Hadamard transforms, and codes until their words are whole.
 */
import type { Expr, RowElement, RowKernel, RowPhase, Scalar, Store } from "../kernel.ts";
import { locate, type Place, writeOne } from "./access.ts";
import { coordinates, type Dispatch, entryHead, foldGrid, groupNumber } from "./entry.ts";
import { type Block, startBlock } from "./expressions.ts";
import { stageCodes, type StagedStore } from "./staging.ts";
import { foldFunction, foldText, neutralText } from "./fold.ts";
import { type Row, sweep } from "./sweep.ts";
import { indent, powerAbove, wrap } from "./text.ts";
import { writeTransform } from "./transform.ts";
import type { Writer } from "./writer.ts";

/** Few invocations for short rows, as all of them wait for each other; 256 are the portable limit. */
const threadsFor = (length: number): number => Math.min(256, Math.max(32, powerAbove(length / 4)));

/** Entry points of a row kernel. */
export function writeRow(writer: Writer, spec: RowKernel): { lines: string[]; dispatches: Dispatch[] } {
  const { outer, row } = spec, length = row.reduce((n, dim) => n * dim, 1), rows = outer.reduce((n, dim) => n * dim, 1);
  const threads = threadsFor(length), slots = Math.ceil(length / threads);
  const { unique } = writer.names;
  const state: Row = {
    writer,
    spec,
    length,
    threads,
    slots,
    outerVars: outer.length === 1 ? ["row"] : outer.map((_, i) => unique(`r${i}`)),
    rowVars: row.length === 1 ? ["i"] : row.map((_, i) => unique(`i${i}`)),
    known: new Map(),
    staged: [],
  };
  const lines = [
    ...groupNumber(rows, "row"),
    ...(outer.length === 1 ? [] : coordinates("row", state.outerVars, outer)),
  ];
  spec.phases.forEach((phase, number) => lines.push("", `// sweep ${number + 1}`, ...phaseLines(state, phase)));
  return {
    lines: [...entryHead("main", threads), ...indent(lines), "}"],
    dispatches: [{ entryPoint: "main", grid: foldGrid(rows) }],
  };
}

const placeOfElement = ({ spec, outerVars, rowVars }: Row): Place => ({
  vars: [...outerVars, ...rowVars],
  extents: [...spec.outer, ...spec.row],
});

function phaseLines(state: Row, phase: RowPhase): string[] {
  const { writer, spec, known, threads } = state, { unique } = writer.names;
  const staged = phase.stores.map((store) => stageCodes(state, store));
  const kept = new Map(phase.elements.filter(({ keep }) => keep).map(({ id }) => [id, unique("kept")]));
  const sums = phase.reductions.map(({ op }) => unique(`running_${op}`));
  const lines: string[] = staged.flatMap((store) => store?.before ?? []);
  for (const { id, value } of phase.elements) {
    const name = kept.get(id);
    if (name) lines.push(`var ${name}: array<${value.scalar}, ${state.slots}>;`);
  }
  phase.reductions.forEach(({ op, scalar }, i) => lines.push(`var ${sums[i]} = ${neutralText({ op, scalar })};`));

  const element = startBlock(writer, placeOfElement(state), rootsOfElement(phase), known);
  const inPhase = evaluateElements(state, phase.elements, element, kept);
  const added = phase.reductions.map(({ op, value }, i) => {
    const sum = sums[i] ?? "";
    return `${sum} = ${foldText(op, sum, element.emit(value).text)};`;
  });
  const values = phase.stores.map((store) => ({
    value: element.emit(store.value).text,
    row: store.scatter && element.emit(store.scatter.index).text,
  }));
  const body = [...element.lines, ...added];
  phase.stores.forEach((store, i) => body.push(...elementStore(state, store, values[i] ?? { value: "" }, staged[i])));
  for (const id of inPhase) known.delete(id);
  if (phase.elements.length + phase.reductions.length + phase.stores.length > 0) lines.push(...sweep(state, body));
  for (const [id, name] of kept) {
    known.set(id, { text: `${name}[slot]`, scalar: scalarOfElement(phase, id), vector: false });
  }

  phase.reductions.forEach(({ id, op, scalar }, i) => {
    const total = unique(`${op}_of_row`);
    lines.push(`let ${total} = ${foldFunction(writer, { op, scalar, lanes: threads, threads })}(lane, ${sums[i]});`);
    known.set(id, { text: total, scalar, vector: false });
  });
  lines.push(...staged.flatMap((store) => store?.after ?? []));
  lines.push(...perRow(state, phase));
  for (const transform of phase.transforms) {
    const source = known.get(transform.source), name = unique("turned");
    if (!source) {
      throw new Error(`Internal error in kernel ${spec.name}: value ${transform.source} is transformed but not kept`);
    }
    lines.push(...writeTransform(state, transform, source.text.replace(/\[slot\]$/, ""), name));
    known.set(transform.id, { text: `${name}[slot]`, scalar: "f32", vector: false });
  }
  return lines;
}

const scalarOfElement = (phase: RowPhase, id: number): Scalar =>
  phase.elements.find((element) => element.id === id)?.value.scalar ?? "f32";

const rootsOfElement = (phase: RowPhase): Expr[] => [
  ...phase.elements.map(({ value }) => value),
  ...phase.reductions.map(({ value }) => value),
  ...rootsOfStores(phase.stores),
];

const rootsOfStores = (stores: readonly Store[]): Expr[] =>
  stores.flatMap(({ value, scatter }) => scatter ? [value, scatter.index] : [value]);

/** Names the elements of a phase; returns the ids that are known within the sweep only. */
function evaluateElements(
  state: Row,
  elements: readonly RowElement[],
  block: Block,
  kept: ReadonlyMap<number, string>,
): number[] {
  for (const { id, value } of elements) {
    const operand = block.name("item", block.emit(value)), name = kept.get(id);
    if (name) block.lines.push(`${name}[slot] = ${operand.text};`);
    state.known.set(id, operand);
  }
  return elements.map(({ id }) => id);
}

/** Scalars of the row, and their stores by its first invocation. */
function perRow(state: Row, phase: RowPhase): string[] {
  const { writer, spec, outerVars, known } = state, place: Place = { vars: outerVars, extents: spec.outer };
  const lines: string[] = [];
  const block = startBlock(writer, place, [
    ...phase.scalars.map(({ value }) => value),
    ...rootsOfStores(phase.rowStores),
  ], known);
  for (const { id, value } of phase.scalars) known.set(id, block.name("of_row", block.emit(value)));
  const stores = phase.rowStores.map((store) => {
    const value = block.emit(store.value).text, row = store.scatter && block.emit(store.scatter.index).text;
    return storeText(state, store, place, row === undefined ? { value } : { value, row });
  });
  lines.push(...block.lines);
  if (stores.length > 0) lines.push("if (lane == 0u) {", ...indent(stores.flat()), "}");
  return lines;
}

interface StoredText {
  readonly value: string;
  readonly row?: string | undefined;
}

function elementStore(state: Row, store: Store, text: StoredText, staged: StagedStore | undefined): string[] {
  return staged ? staged.collect(text.value) : storeText(state, store, placeOfElement(state), text);
}

function storeText(
  { writer }: Row,
  { buffer, access, scatter }: Store,
  place: Place,
  { value, row }: StoredText,
): string[] {
  const { layout } = writer.view(buffer);
  if (!scatter || row === undefined) return writeOne(writer, buffer, locate(layout, access, place), value);
  const chosen = { name: `u32(${row})`, stride: scatter.stride, extent: scatter.extent };
  const lines = writeOne(writer, buffer, locate(layout, access, place, chosen), value);
  return [`if (${wrap(row)} >= 0i && ${wrap(row)} < ${scatter.extent}i) {`, ...indent(lines), "}"];
}
