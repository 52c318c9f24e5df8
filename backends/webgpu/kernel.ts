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
import { type KernelTraits, PORTABLE } from "./traits.ts";
import { kernelVariants } from "./variants.ts";
import { type Facts, writeModule, type Writer, type WrittenModule } from "./writer.ts";

/** A generated kernel. */
export interface WebGpuKernel {
  readonly name: string;
  /** The module. It depends on the specification and the traits alone. */
  readonly text: string;
  /** Entry points to run, in this order. */
  readonly dispatches: readonly Dispatch[];
  /** Uniform tables that the kernel binds behind its buffers. */
  readonly tables: readonly Uint32Array<ArrayBuffer>[];
  /** Bytes of storage buffers of any content that the kernel binds behind its tables; its dispatches talk through them. */
  readonly scratch: readonly number[];
}

/** Entry points of every kind of kernel. */
function writeEntries(
  writer: Writer,
  spec: KernelSpec,
  variant: string,
): { lines: string[]; dispatches: Dispatch[] } {
  switch (spec.kind) {
    case "map":
      return writeMap(writer, spec);
    case "row":
      return writeRow(writer, spec);
    case "dot":
      return writeDot(writer, spec, variant);
    case "attention":
      return writeAttention(writer, spec, variant);
    case "topK":
      return writeTopK(writer, spec);
    default:
      return spec satisfies never;
  }
}

/** What is known of the buffers changes twice at most: once for single elements, once for shared words. */
const MOST_ROUNDS = 4;

/**
 * Generates the WGSL of a kernel.
 *
 * @param variant one of `kernelVariants(spec, traits)`; the first one unless given
 * @throws {RangeError} if the kernel has no such variant
 */
export function generateKernel(spec: KernelSpec, traits: KernelTraits = PORTABLE, variant?: string): WebGpuKernel {
  const variants = kernelVariants(spec, traits), chosen = variant ?? variants[0] as string;
  if (!variants.includes(chosen)) {
    throw new RangeError(`Expected a variant of kernel ${spec.name} (${variants.join(", ")}) but found "${chosen}"`);
  }
  let facts: Facts = { single: new Set(), atomic: new Set(), streamed: new Set() };
  for (let round = 0; round < MOST_ROUNDS; round++) {
    const draft = write(spec, traits, chosen, facts);
    if (!holds(facts, draft.facts)) {
      const { single, atomic, streamed } = draft.facts;
      facts = {
        single: join(facts.single, single),
        atomic: join(facts.atomic, atomic),
        streamed: join(facts.streamed, streamed),
      };
      continue;
    }
    const { dispatches, body, workgroupBytes, tables, scratch } = write(spec, traits, chosen, {
      ...facts,
      words: wordsIn(draft.body),
    });
    return { name: spec.name, text: header(spec, workgroupBytes, dispatches) + body, dispatches, tables, scratch };
  }
  throw new Error(`Internal error in kernel ${spec.name}: its text does not settle`);
}

function write(
  spec: KernelSpec,
  traits: KernelTraits,
  variant: string,
  facts: Facts,
): WrittenModule & Pick<WebGpuKernel, "dispatches"> {
  let dispatches: Dispatch[] = [];
  const module = writeModule(spec, traits, facts, (writer) => {
    const entries = writeEntries(writer, spec, variant);
    dispatches = entries.dispatches;
    return entries.lines;
  });
  return { ...module, dispatches };
}

const join = (a: ReadonlySet<number>, b: ReadonlySet<number>): Set<number> => new Set([...a, ...b]);
const holds = (before: Facts, after: Facts): boolean =>
  (["single", "atomic", "streamed"] as const).every((fact) =>
    [...after[fact]].every((buffer) => before[fact].has(buffer))
  );

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
