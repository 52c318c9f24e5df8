/** From a kernel specification to a WGSL module: the text, and what to dispatch. */
import type { KernelSpec } from "../kernel.ts";
import { typeText } from "../../ir/types.ts";
import { writeAttention } from "./attention.ts";
import { writeDot } from "./dot.ts";
import type { Dispatch } from "./entry.ts";
import { writeMap } from "./map.ts";
import { wordsIn } from "./names.ts";
import { writeRow } from "./row.ts";
import { writeTopK } from "./top_k.ts";
import { type Facts, type KernelTraits, PORTABLE, writeModule, type Writer, type WrittenModule } from "./writer.ts";

/** A generated kernel. */
export interface WebGpuKernel {
  readonly name: string;
  /** The module. It depends on the specification and the traits alone. */
  readonly text: string;
  /** Entry points to run, in this order. */
  readonly dispatches: readonly Dispatch[];
  /** Uniform tables that the kernel binds behind its buffers. */
  readonly tables: readonly Uint32Array<ArrayBuffer>[];
}

/** Entry points of every kind of kernel. */
function writeEntries(writer: Writer, spec: KernelSpec): { lines: string[]; dispatches: Dispatch[] } {
  switch (spec.kind) {
    case "map":
      return writeMap(writer, spec);
    case "row":
      return writeRow(writer, spec);
    case "dot":
      return writeDot(writer, spec);
    case "attention":
      return writeAttention(writer, spec);
    case "topK":
      return writeTopK(writer, spec);
    default:
      return spec satisfies never;
  }
}

/** What is known of the buffers changes twice at most: once for single elements, once for shared words. */
const MOST_ROUNDS = 4;

/** Generates the WGSL of a kernel. */
export function generateKernel(spec: KernelSpec, traits: KernelTraits = PORTABLE): WebGpuKernel {
  let facts: Facts = { single: new Set(), atomic: new Set() };
  for (let round = 0; round < MOST_ROUNDS; round++) {
    const draft = write(spec, traits, facts);
    if (!holds(facts, draft.facts)) {
      facts = { single: join(facts.single, draft.facts.single), atomic: join(facts.atomic, draft.facts.atomic) };
      continue;
    }
    const { dispatches, body, workgroupBytes, tables } = write(spec, traits, { ...facts, words: wordsIn(draft.body) });
    return { name: spec.name, text: header(spec, workgroupBytes, dispatches) + body, dispatches, tables };
  }
  throw new Error(`Internal error in kernel ${spec.name}: its text does not settle`);
}

function write(spec: KernelSpec, traits: KernelTraits, facts: Facts): WrittenModule & Pick<WebGpuKernel, "dispatches"> {
  let dispatches: Dispatch[] = [];
  const module = writeModule(spec, traits, facts, (writer) => {
    const entries = writeEntries(writer, spec);
    dispatches = entries.dispatches;
    return entries.lines;
  });
  return { ...module, dispatches };
}

const join = (a: ReadonlySet<number>, b: ReadonlySet<number>): Set<number> => new Set([...a, ...b]);
const holds = (before: Facts, after: Facts): boolean =>
  [...after.single].every((buffer) => before.single.has(buffer)) &&
  [...after.atomic].every((buffer) => before.atomic.has(buffer));

/** What people want to know first: what is fused, from what to what, and what it takes. */
function header({ name, fuses, buffers }: KernelSpec, workgroupBytes: number, dispatches: readonly Dispatch[]): string {
  const list = (use: (use: string) => boolean) =>
    buffers.filter((buffer) => use(buffer.use)).map((buffer) => `${buffer.name} ${typeText(buffer.type)}`).join(", ") ||
    "nothing";
  const grids = dispatches.map(({ entryPoint, grid }) =>
    `${entryPoint} ${grid.filter((n, i) => i === 0 || n > 1).join(" x ")}`
  ).join(", ");
  const lines = [
    name,
    ...fuses.split("\n").map((line) => `  ${line}`),
    `reads ${list((use) => use !== "write")}`,
    `writes ${list((use) => use !== "read")}`,
    `workgroup memory ${workgroupBytes} bytes; workgroups: ${grids}`,
  ];
  // Names come from files; whatever would end a comment becomes a space.
  return lines.map((line) => `// ${line}`.replace(/[\p{Cc}\p{Zl}\p{Zp}]/gu, " ").trimEnd()).join("\n") + "\n\n";
}
