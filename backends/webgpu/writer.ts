/**
 * A WGSL module under construction: bindings, workgroup memory and helper functions that its parts ask for.
 *
 * Some facts are known only when everything is written: whether four elements of a buffer can always be read at once, whether words are
 * shared between invocations, which names the text uses. So drafts are written until their facts agree with those they were written under.
 */
import type { KernelBuffer, KernelSpec } from "../kernel.ts";
import { sizeOf, typeText as tensorText } from "../../ir/types.ts";
import { type Layout, layoutOf } from "./layout.ts";
import { createNames, type Names } from "./names.ts";
import type { KernelTraits } from "./traits.ts";

/** Facts about buffers, by index. */
export interface Facts {
  /** Buffers with an access to single elements: their array cannot be one of vec4. */
  readonly single: ReadonlySet<number>;
  /** Buffers with words that several invocations write. */
  readonly atomic: ReadonlySet<number>;
  /** Packed buffers that are read as a stream of units: where nothing reads single words, as vectors of words. */
  readonly streamed: ReadonlySet<number>;
  /** Identifiers of the module's text, which no buffer may have as its name; unknown in drafts, where buffers have numbers. */
  readonly words?: ReadonlySet<string>;
}

/** One buffer as kernels see it. */
export interface BufferView {
  readonly index: number;
  readonly name: string;
  readonly buffer: KernelBuffer;
  readonly layout: Layout;
  /** Whether the array holds half floats as such, and not words. */
  readonly halves: boolean;
  /** Whether the array holds vec4s. */
  readonly wide: boolean;
  /** Words of an element of the array of a packed buffer. */
  readonly vector: 1 | 2 | 4;
  readonly atomic: boolean;
}

/** The module under construction. */
export interface Writer {
  readonly spec: KernelSpec;
  readonly traits: KernelTraits;
  readonly names: Names;
  readonly buffers: readonly BufferView[];
  /** The view of a buffer. */
  view(index: number): BufferView;
  /** Notes that single elements of a buffer are accessed. */
  markSingle(index: number): void;
  /** Notes that invocations share words of a buffer that they write. */
  markAtomic(index: number): void;
  /** Notes that a packed buffer is read as a stream. */
  markStreamed(index: number): void;
  /** Declares workgroup memory and returns its name. */
  workgroup(wish: string, element: string, count: number): string;
  /** The same, declared once per wish and shared by all that wish it; the size is the largest asked for. */
  shared(wish: string, element: string, count: number): string;
  /**
   * Binds a table of constants, once per wish, as a uniform `array<vec4<u32>>`, and returns its name. Compilers copy large constant arrays
   * into every invocation; lavapipe then takes minutes.
   */
  table(wish: string, words: () => Uint32Array<ArrayBuffer>): string;
  /** Binds a buffer that later dispatches of the kernel read what earlier ones wrote from, once per wish, and returns its name. */
  scratch(wish: string, element: string, count: number): string;
  /** Bytes of workgroup memory declared so far. */
  workgroupBytes(): number;
  /** Notes that functions of subgroups are used. */
  markSubgroups(): void;
  /** Adds a function once per key and returns its name. */
  helper(key: string, make: (name: string) => readonly string[]): string;
}

/** A written module. */
export interface WrittenModule {
  readonly body: string;
  readonly workgroupBytes: number;
  /** Contents of the uniform tables, bound behind the buffers; whole vec4s. */
  readonly tables: readonly Uint32Array<ArrayBuffer>[];
  /** Bytes of the scratch buffers, bound behind the tables. */
  readonly scratch: readonly number[];
  readonly facts: Facts;
}

const BYTES: Readonly<Record<string, number>> = {
  f32: 4,
  i32: 4,
  u32: 4,
  "atomic<u32>": 4,
  "vec4<f32>": 16,
  "vec4<i32>": 16,
  "vec4<u32>": 16,
};

/**
 * Writes a module: `write` returns its entry points and asks the writer for everything else.
 */
export function writeModule(
  spec: KernelSpec,
  traits: KernelTraits,
  facts: Facts,
  write: (writer: Writer) => readonly string[],
): WrittenModule {
  const names = createNames(), single = new Set<number>(), atomic = new Set<number>(), streamed = new Set<number>();
  const tables = new Map<string, { name: string; words: Uint32Array<ArrayBuffer> }>();
  const scratch = new Map<string, { name: string; element: string; count: number }>();
  const memory = new Map<string, { name: string; element: string; count: number }>(),
    functions = new Map<string, { name: string; lines: readonly string[] }>();
  const bytes = () => [...memory.values()].reduce((sum, { element, count }) => sum + count * (BYTES[element] ?? 4), 0);
  const buffers = spec.buffers.map((buffer, i): BufferView => {
    const layout = layoutOf(buffer.type);
    // Halves are written by their bits: how devices round to them is their own affair.
    const halves = traits.halves && layout.kind === "halves" && buffer.use === "read";
    const inFours = halves ? sizeOf(buffer.type.shape) % 4 === 0 : layout.kind === "words" && layout.words % 4 === 0;
    const wide = inFours && !facts.single.has(i);
    return {
      index: i,
      name: names.unique(facts.words ? buffer.name : `buffer ${i}`, facts.words),
      buffer,
      layout,
      halves,
      wide,
      vector: facts.streamed.has(i) && !facts.single.has(i) ? streamVector(layout) : 1,
      atomic: facts.atomic.has(i),
    };
  });
  let subgroups = false;
  const writer: Writer = {
    spec,
    traits,
    names,
    buffers,
    view: (index) => {
      const found = buffers[index];
      if (found) return found;
      throw new RangeError(`Internal error in kernel ${spec.name}: it has no buffer ${index}`);
    },
    markSingle: (index) => single.add(index),
    markAtomic: (index) => atomic.add(index),
    markStreamed: (index) => streamed.add(index),
    workgroup: (wish, element, count) => {
      const name = names.unique(wish);
      memory.set(name, { name, element, count });
      return name;
    },
    shared: (wish, element, count) => {
      const found = memory.get(wish), name = found?.name ?? names.unique(wish);
      memory.set(wish, { name, element, count: Math.max(count, found?.count ?? 0) });
      return name;
    },
    table: (wish, words) => {
      const found = tables.get(wish), name = found?.name ?? names.unique(wish);
      if (!found) tables.set(wish, { name, words: words() });
      return name;
    },
    scratch: (wish, element, count) => {
      const found = scratch.get(wish), name = found?.name ?? names.unique(wish);
      if (!found) scratch.set(wish, { name, element, count });
      return name;
    },
    workgroupBytes: bytes,
    markSubgroups: () => subgroups = true,
    helper: (key, make) => {
      const found = functions.get(key);
      if (found) return found.name;
      const name = names.unique(key), lines = make(name);
      functions.set(key, { name, lines });
      return name;
    },
  };
  const entries = write(writer);
  const enabled = [
    ...(buffers.some(({ halves }) => halves) ? ["f16"] : []),
    ...(subgroups && traits.subgroup?.declared ? ["subgroups"] : []),
  ];
  const lines = [
    ...enabled.map((feature) => `enable ${feature};`),
    ...(enabled.length > 0 ? [""] : []),
    ...buffers.map(binding),
    ...[...tables.values()].map(({ name, words }, i) =>
      `@group(0) @binding(${buffers.length + i}) var<uniform> ${name}: array<vec4<u32>, ${words.length / 4}>;`
    ),
    ...[...scratch.values()].map(({ name, element }, i) =>
      `@group(0) @binding(${
        buffers.length + tables.size + i
      }) var<storage, read_write> ${name}: array<${element}>; // scratch`
    ),
    ...section([...memory.values()].map(memoryText)),
    ...[...functions.values()].flatMap(({ lines }) => ["", ...lines]),
    "",
    ...entries,
  ];
  const body = lines.join("\n") + "\n";
  return {
    body,
    workgroupBytes: bytes(),
    tables: [...tables.values()].map(({ words }) => words),
    scratch: [...scratch.values()].map(({ element, count }) => count * (BYTES[element] ?? 4)),
    facts: { single, atomic, streamed },
  };
}

const memoryText = ({ name, element, count }: { name: string; element: string; count: number }): string =>
  `var<workgroup> ${name}: array<${element}, ${count}>;`;

const section = (lines: readonly string[]): string[] => lines.length > 0 ? ["", ...lines] : [];

/** Words that one read of a packed buffer's stream takes: 16 bytes where units are whole ones. */
export const streamVector = ({ kind, fields }: Layout): 1 | 2 | 4 => {
  const words = kind === "fields" ? fields.reduce((sum, bits) => sum + bits, 0) : 4;
  return words % 4 === 0 ? 4 : words % 2 === 0 ? 2 : 1;
};

function binding({ name, buffer, halves, wide, vector, atomic, layout }: BufferView, index: number): string {
  const access = buffer.use === "read" ? "read" : "read_write";
  const word = halves
    ? "f16"
    : layout.kind === "words" && buffer.type.dtype !== "bool"
    ? buffer.type.dtype
    : atomic
    ? "atomic<u32>"
    : "u32";
  return `@group(0) @binding(${index}) var<storage, ${access}> ${name}: array<${
    wide ? `vec4<${word}>` : vector > 1 && !halves ? `vec${vector}<${word}>` : word
  }>; // ${tensorText(buffer.type)}`;
}
