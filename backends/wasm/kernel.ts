/** Turns a kernel specification into a WebAssembly module with one exported function. */
import type { KernelSpec } from "../kernel.ts";
import { typeText } from "../../ir/types.ts";
import {
  type ByteProducts,
  call,
  createModule,
  type FunctionBuilder,
  i32,
  type Local,
  type ModuleBuilder,
} from "./assembler.ts";
import { emitAttention } from "./attention.ts";
import { emitDot } from "./dot.ts";
import { type Emitter, ENTRY, type Preparation, type Table, TABLES, type Walk } from "./emitter.ts";
import { layoutOf, LEAST_PAGES } from "./layout.ts";
import { emitMap } from "./map.ts";
import { createMath } from "./math.ts";
import { emitRow } from "./row.ts";
import { emitTopK } from "./top_k.ts";
import { smaller } from "./nest.ts";
import type { Bound, Index, KernelCode } from "./place.ts";

/** A kernel, generated. */
export interface GeneratedKernel {
  /** Name of the exported function: `(…buffers, …tables, scratch, from, to)`, all i32; scratch memory is the calling thread's own. */
  readonly name: string;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Number of chunks; depends on shapes only. */
  readonly grid: number;
  /** Bytes of scratch memory per thread. */
  readonly scratchBytes: number;
  readonly tables: readonly Table[];
  /** How chunks walk through buffers, by index; of those that are not walked through in order, nothing. */
  readonly walks: ReadonlyMap<number, Walk>;
}

/** How to generate; products of fours are taken to be there with relaxed SIMD, of unsigned bytes not. */
export interface GenerateOptions extends Partial<ByteProducts> {
  /** Whether multiply-add in one instruction is available. */
  readonly relaxed: boolean;
  /** Whether the memory is shared. */
  readonly shared: boolean;
  /** Points below which a kernel is one chunk. Default: 2048, about a microsecond's work. */
  readonly small?: number;
}

/** Generates the module of a kernel. */
export function generateKernel(spec: KernelSpec, options: GenerateOptions): GeneratedKernel {
  const { module, ...rest } = build(spec, options);
  return { ...rest, name: ENTRY, bytes: module.bytes() };
}

/** The module of a kernel in the text format, headed by what it fuses. */
export const printKernel = (spec: KernelSpec, options: GenerateOptions): string => build(spec, options).module.text();

type Built = Omit<GeneratedKernel, "name" | "bytes"> & { readonly module: ModuleBuilder };

function build(
  spec: KernelSpec,
  { relaxed, fours = relaxed, unsigned = false, shared, small = 2048 }: GenerateOptions,
): Built {
  const module = createModule({ comment: header(spec) });
  module.memory("memory", { shared, minimum: LEAST_PAGES });
  const layouts = spec.buffers.map(({ type }) => layoutOf(type)), tables: Table[] = [], walks = new Map<number, Walk>();
  const names = spec.buffers.map(({ name }, i) => `${name}_${i}`);
  const tableNames = Array.from({ length: TABLES }, (_, i) => `table_${i}`);
  const addresses: Record<string, "i32"> = Object.fromEntries([...names, ...tableNames].map((name) => [name, "i32"]));
  let grid = 1, scratchBytes = 0;
  const take = (bytes: number): number => {
    const offset = scratchBytes;
    scratchBytes += Math.ceil(bytes / 64) * 64;
    return offset;
  };
  const preparations: ((common: Preparation & { readonly scratchAt: (offset: number) => Index }) => void)[] = [];
  /** What both functions are written with: addresses are parameters of theirs. */
  const begin = (b: FunctionBuilder, parameters: Readonly<Record<string, Local<"i32">>>) => {
    const at = (name: string): Index => {
      const local = parameters[name];
      if (!local) throw new Error(`Internal error: no parameter "${name}"`);
      return local;
    };
    const buffers = spec.buffers.map(({ name, type }, i): Bound => {
      const layout = layoutOf(type);
      return { name, layout, base: at(names[i] ?? ""), elements: layout.rows * layout.columns };
    });
    const products = { fours: relaxed && fours, unsigned: relaxed && fours && unsigned };
    const code: KernelCode = { b, module, math: createMath({ relaxed }), relaxed, ...products, buffers };
    const scratchAt = (offset: number) => b.let("reserved", i32.add(at("scratch"), offset));
    return { at, scratchAt, code, layouts, reserve: (bytes: number) => scratchAt(take(bytes)) };
  };
  const chunks = module.func(
    `${spec.kind}_chunks`,
    { ...addresses, scratch: "i32", from: "i32", to: "i32" },
    (b, p) => {
      const { at, scratchAt, ...common } = begin(b, p);
      const prepared: Emitter["prepared"] = (bytes, write) => {
        const offset = take(bytes);
        preparations.push((common) => write(common, common.scratchAt(offset)));
        return scratchAt(offset);
      };
      const table = (wanted: Table): Index => {
        const known = tables.findIndex(({ key }) => key === wanted.key);
        if (known < 0) tables.push(wanted);
        if (tables.length > TABLES) {
          throw new Error(`Internal error: kernel "${spec.name}" needs more than ${TABLES} tables`);
        }
        return at(tableNames[known < 0 ? tables.length - 1 : known] ?? "");
      };
      const remember = (buffer: number, walk: Walk) => void walks.set(buffer, walk);
      grid = emit(spec, { ...common, from: at("from"), to: at("to"), prepared, table, small, walks: remember });
    },
  );
  const prepare = preparations.length === 0
    ? undefined
    : module.func(`${spec.kind}_prepare`, { ...addresses, scratch: "i32" }, (b, p) => {
      const { at: _, ...common } = begin(b, p);
      preparations.forEach((write) => write(common));
    });
  const run = module.func(ENTRY, { ...addresses, scratch: "i32", from: "i32", to: "i32" }, (b, p) => {
    const { scratch, from, to, ...others } = p as Record<string, Local<"i32">>;
    if (!scratch || !from || !to) throw new Error("Internal error: a kernel lacks a parameter");
    const rest = { ...others, scratch };
    if (prepare) b.emit(call(prepare, rest));
    if (grid === 1) return b.emit(call(chunks, { ...rest, from, to }));
    const step = Math.max(1, Math.floor(CALL_WORK * grid / workOf(spec)));
    b.for("chunk", from, to, step, (chunk) => {
      b.emit(call(chunks, { ...rest, from: chunk, to: smaller(i32.add(chunk, step), to) }));
    });
  });
  module.export(run);
  return { module, grid, scratchBytes, tables, walks };
}

/**
 * Vectors of work that one call of the inner function does, at least where chunks allow. An engine replaces a function's first, slow
 * code by optimised code only where it is called again, so that a kernel in a single call would run slowly for its whole first time.
 */
const CALL_WORK = 2 ** 15;

/** About how many vectors of four lanes a kernel computes. */
function workOf(spec: KernelSpec): number {
  const product = (extents: readonly number[]) => extents.reduce((x, y) => x * y, 1);
  switch (spec.kind) {
    case "map":
      return product(spec.dims) / 4;
    case "row":
      return product([...spec.outer, ...spec.row]) * spec.phases.length / 4;
    case "dot":
      return spec.batch * spec.m * spec.n * product(spec.k) / 4;
    case "attention":
      return spec.batch * spec.heads * spec.tokens * spec.context * (spec.width + spec.valueWidth) / 4;
    case "topK":
      return spec.outer * spec.n;
    default:
      return spec satisfies never;
  }
}

function emit(spec: KernelSpec, emitter: Emitter): number {
  switch (spec.kind) {
    case "map":
      return emitMap(spec, emitter);
    case "row":
      return emitRow(spec, emitter);
    case "dot":
      return emitDot(spec, emitter);
    case "attention":
      return emitAttention(spec, emitter);
    case "topK":
      return emitTopK(spec, emitter);
    default:
      return spec satisfies never;
  }
}

function header(spec: KernelSpec): string {
  const buffers = spec.buffers.map(({ name, type, use }) => `${use} ${name}: ${typeText(type)}`);
  return [`${spec.kind} kernel ${spec.name}`, ...spec.fuses.split("\n").map((line) => `  ${line}`), ...buffers].join(
    "\n",
  );
}
