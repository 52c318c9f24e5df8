/**
 * The WebAssembly backend: kernels generated for SIMD, on one thread or several, over one memory.
 *
 * A compiled program is a list of calls whose arguments are addresses in a table; running it sets the addresses of leaves and
 * outputs and lets the threads walk the list.
 */
import type { Graph } from "../../ir/node.ts";
import { isFloat, sizeOf, type TensorType, typeText } from "../../ir/types.ts";
import type { Backend, CompileOptions, Executable, HostArray, MemoryPlan, Tensor } from "../backend.ts";
import type { KernelBuffer, KernelSpec } from "../kernel.ts";
import { kernelKey } from "../kernel_key.ts";
import { kernelTexts } from "../kernel_texts.ts";
import { planMemory } from "../plan.ts";
import { lowerGraph } from "../regions/lower.ts";
import type { LoweredProgram, LoweredValue } from "../regions/program.ts";
import { probeFeatures } from "./assembler.ts";
import { placeBarriers, type Span, type TouchingStep } from "./barriers.ts";
import { createHeap, type Heap } from "./heap.ts";
import { ENTRY, type GeneratedKernel, generateKernel, printKernel, type Table, TABLES } from "./kernel.ts";
import { ALIGNMENT, bytesOf, decode, encode, layoutOf } from "./layout.ts";
import {
  createPool,
  type Kernel,
  type KernelCall,
  type Pool,
  type Program,
  type Step,
  type StepArgument,
} from "./threads.ts";
import { planTurns, type TurnPlan } from "./turns.ts";

/** How to open the backend. */
export interface WasmOptions {
  /** Threads that run kernels, at least 1. Results do not depend on it. Default: 1. */
  readonly threads?: number;
  /** Is told how long each kernel took, waiting for all threads behind each; without it runs have no clocks in them. */
  readonly profile?: KernelProfile;
}

/** Hears of one kernel's run. */
export type KernelProfile = (kernel: KernelSpec, milliseconds: number) => void;

/** Most buffers that one kernel takes: parameters of a function, so the limit is only good sense. */
const MOST_BUFFERS = 24;

interface WasmTensor extends Tensor {
  readonly address: number;
  /** The tensor whose memory a view shares. */
  readonly parent: WasmTensor | undefined;
  freed: boolean;
}

interface LoadedKernel extends GeneratedKernel {
  readonly kernel: Kernel;
}

interface WasmExecutable extends Executable {
  readonly program: Program;
  /** The same steps one by one, where a profile is asked for. */
  readonly single: readonly { readonly spec: KernelSpec; readonly program: Program }[];
  readonly values: readonly LoweredValue[];
  /** Addresses of all values, then that of the scratch memory. */
  readonly slots: Int32Array;
  readonly offsets: ReadonlyMap<number, number>;
  /** Where arena and scratch memory lay when the slots were filled. */
  filled: { arena: number; scratch: number };
}

/**
 * Opens the backend.
 *
 * One thread runs everything where there is no shared memory, and where this thread must not wait (a browser's main thread).
 *
 * @throws {Error} if the engine lacks SIMD
 */
export function openWasm({ threads: wanted = 1, profile }: WasmOptions = {}): Promise<Backend> {
  const features = probeFeatures();
  if (!features.simd) {
    throw new Error(`Cannot open the WebAssembly backend: this engine lacks SIMD; use the reference backend`);
  }
  if (!Number.isInteger(wanted) || wanted < 1) {
    throw new RangeError(
      `Cannot open the WebAssembly backend: expected a positive number of threads but found ${wanted}`,
    );
  }
  const shared = features.threads && wanted > 1, heap = createHeap({ shared });
  let pool = createPool({ threads: shared ? wanted : 1, memory: heap.memory });
  if (!pool.participates) {
    pool[Symbol.dispose]();
    pool = createPool({ threads: 1, memory: heap.memory });
  }
  const traits = { simd: true, relaxed: features["relaxed-simd"], threads: pool.threads };
  return Promise.resolve(createBackend(heap, pool, traits, shared, profile));
}

function createBackend(
  heap: Heap,
  pool: Pool,
  traits: { relaxed: boolean; threads: number },
  shared: boolean,
  profile: KernelProfile | undefined,
): Backend {
  const { memory } = heap, kernels = new Map<string, LoadedKernel>(), tables = new Map<string, number>();
  const tensors = new WeakSet<Tensor>();
  const work = createWorkSpace(heap);

  const newTensor = (type: TensorType, address: number, parent?: WasmTensor): WasmTensor => {
    const tensor: WasmTensor = { type, address, parent, freed: false };
    tensors.add(tensor);
    return tensor;
  };
  const own = (tensor: Tensor, what: string): WasmTensor => {
    const found = tensors.has(tensor) ? tensor as WasmTensor : undefined;
    if (!found) throw new TypeError(`Cannot ${what}: expected a tensor of this backend`);
    if (found.freed || found.parent?.freed) throw new TypeError(`Cannot ${what}: the tensor has been freed`);
    return found;
  };
  const create = (type: TensorType): WasmTensor => newTensor(type, heap.allocate(bytesOf(type)));
  const check = (type: TensorType, values: HostArray) => {
    const count = sizeOf(type.shape), kind = isFloat(type.dtype) ? Float32Array : Int32Array;
    if (values.length !== count || !(values instanceof kind)) {
      throw new TypeError(
        `Cannot store values as ${
          typeText(type)
        }: expected ${count} in a ${kind.name} but found ${values.length} in a ${values.constructor.name}`,
      );
    }
  };

  const load = (spec: KernelSpec): LoadedKernel => {
    const key = kernelKey(spec), known = kernels.get(key);
    if (known) return known;
    const generated = generateKernel(spec, { relaxed: traits.relaxed, shared });
    const loaded = { ...generated, kernel: pool.load(generated.bytes, { name: spec.name }) };
    kernels.set(key, loaded);
    return loaded;
  };
  const tableAddress = ({ key, values }: Table): number => {
    const known = tables.get(key);
    if (known !== undefined) return known;
    const address = heap.allocate(values.byteLength + ALIGNMENT);
    new Float32Array(memory.buffer, address, values.length).set(values);
    tables.set(key, address);
    return address;
  };

  const makeProgram = (
    { values, steps }: LoweredProgram,
    loaded: readonly LoadedKernel[],
    entries: readonly Entry[],
    barriers: readonly boolean[],
  ): Pick<WasmExecutable, "program" | "single"> & { readonly scratchBytes: number } => {
    // One stride for all kernels: without a barrier between them, threads are in different kernels at one time.
    const scratchBytes = Math.max(0, ...loaded.map((kernel) => kernel.scratchBytes));
    const scratch: StepArgument = { slot: values.length, perThread: scratchBytes };
    const callOf = (i: number, turn?: TurnPlan): KernelCall => {
      const { kernel, grid, tables: needed } = loaded[i] as LoadedKernel, bytes = 4 * (turn?.elements ?? 0);
      const args = (steps[i]?.bindings ?? []).map((slot): StepArgument =>
        // Every thread has some rows of its own; what turns write one after the other lies in one place.
        slot === turn?.value ? { slot, perThread: bytes, perTurn: -bytes } : { slot }
      );
      for (let t = 0; t < TABLES; t++) args.push(needed[t] ? tableAddress(needed[t] as Table) : 0);
      return { kernel, export: ENTRY, args: [...args, scratch], grid };
    };
    const stepOf = ({ step, turn }: Entry, at: number): Step => {
      const barrier = barriers[at] ?? true;
      if (!turn) return { ...callOf(step), barrier };
      const { count, chunks: [own, others] } = turn, next = { ...callOf(step + 1, turn), chunks: others };
      return { ...callOf(step, turn), barrier, turns: { count, chunks: own, next } };
    };
    const single = profile === undefined
      ? []
      : steps.map(({ kernel }, i) => ({ spec: kernel, program: pool.program([callOf(i)]) }));
    const program = pool.program(entries.map(stepOf));
    return { program, single, scratchBytes: scratchBytes * traits.threads };
  };

  /** Puts the addresses of everything that does not change between runs into the slots. */
  const fill = (executable: WasmExecutable) => {
    const at = work.at(), { filled, slots, offsets, values } = executable;
    if (at.arena === filled.arena && at.scratch === filled.scratch) return;
    for (const [index, offset] of offsets) slots[index] = at.arena + offset;
    slots[values.length] = at.scratch;
    executable.filled = at;
  };

  const backend: Backend = {
    name: "wasm",
    traits,
    compile(graph: Graph, options: CompileOptions = {}) {
      const lowered = lowerGraph(graph, { ...options, maxBuffers: MOST_BUFFERS, gradientsTogether: true });
      const loaded = lowered.steps.map(({ kernel }) => load(kernel));
      // A profile runs kernels one after the other.
      const turns = profile === undefined ? planTurns(lowered, loaded, traits.threads) : [];
      const partial = new Map(turns.map(({ value, elements }) => [value, 4 * elements * traits.threads]));
      const sizeOf = (index: number) => partial.get(index) ?? bytesOf((lowered.values[index] as LoweredValue).type);
      const entries = entriesOf(lowered, turns), ranges = entries.flatMap(rangesOf);
      const together = (step: number) => ranges[step] ?? [step, step] as const;
      const { offsets, arenaBytes, entries: places } = planMemory(lowered, sizeOf, ALIGNMENT, together);
      const touches = touchesOf(lowered, loaded, offsets, sizeOf);
      const barriers = placeBarriers(entries.map((entry) => touchesTogether(entry, touches)));
      const { scratchBytes, ...made } = makeProgram(lowered, loaded, entries, barriers);
      const plan: MemoryPlan = { arenaBytes, scratchBytes, entries: places };
      work.require(plan);
      const typesOf = (role: "leaf" | "output") =>
        Object.fromEntries(
          lowered.values.flatMap((value) => value[role] === undefined ? [] : [[value[role], value.type]]),
        );
      const executable: WasmExecutable = {
        leaves: typesOf("leaf"),
        outputs: typesOf("output"),
        kernels: kernelTexts(
          lowered.steps.map(({ kernel }) => kernel),
          (spec) => printKernel(spec, { relaxed: traits.relaxed, shared }),
        ),
        plan,
        ...made,
        values: lowered.values,
        slots: new Int32Array(lowered.values.length + 1),
        offsets,
        filled: { arena: -1, scratch: -1 },
      };
      return Promise.resolve(executable);
    },
    allocate(type) {
      const tensor = create(type);
      new Uint8Array(memory.buffer, tensor.address, bytesOf(type)).fill(0);
      return tensor;
    },
    upload(type, values) {
      check(type, values);
      const tensor = create(type);
      encode(type, values, memory.buffer, tensor.address);
      return tensor;
    },
    write(tensor, values) {
      const { type, address } = own(tensor, "write to a tensor");
      check(type, values);
      encode(type, values, memory.buffer, address);
    },
    download(tensor) {
      const { type, address } = own(tensor, "download a tensor");
      return Promise.resolve(decode(type, memory.buffer, address));
    },
    view(tensor, offset, type) {
      const whole = own(tensor, "view a tensor"), { storage, size } = layoutOf(whole.type), count = sizeOf(type.shape);
      const fits = type.dtype === whole.type.dtype && storage === "word" && offset % 64 === 0 && offset >= 0 &&
        offset + count <= sizeOf(whole.type.shape);
      if (!fits) {
        throw new RangeError(
          `Cannot view ${typeText(type)} at element ${offset} of ${
            typeText(whole.type)
          }: expected f32 or i32 inside the tensor, at a multiple of 64`,
        );
      }
      return newTensor(type, whole.address + offset * size, whole.parent ?? whole);
    },
    bytesOf,
    free(tensor) {
      const found = own(tensor, "free a tensor");
      found.freed = true;
      if (!found.parent) heap.free(found.address);
    },
    memory: () => ({ planned: heap.peak.wanted, allocated: heap.peak.extent }),
    run(executable, leaves, outputs = {}) {
      const compiled = executable as WasmExecutable, { values, slots, program } = compiled;
      const results: Record<string, Tensor> = {};
      fill(compiled);
      for (let i = 0; i < values.length; i++) {
        const value = values[i] as LoweredValue;
        if (value.role === "temporary") continue;
        const { type, leaf, output, inPlaceOf } = value;
        let tensor: WasmTensor;
        if (leaf !== undefined) {
          const bound = leaves[leaf];
          if (!bound) {
            throw new TypeError(`Cannot run a program: expected a tensor for leaf "${leaf}" of type ${typeText(type)}`);
          }
          tensor = own(bound, `bind leaf "${leaf}"`);
        } else {
          const home = inPlaceOf === undefined ? undefined : homeOf(values, inPlaceOf).leaf;
          const given = home === undefined ? outputs[output ?? ""] : leaves[home];
          tensor = given ? own(given, `bind output "${output}"`) : create(type);
          results[output ?? ""] = tensor;
        }
        if (!sameType(tensor.type, type)) {
          throw new TypeError(
            `Cannot bind "${value.name}": expected ${typeText(type)} but found ${typeText(tensor.type)}`,
          );
        }
        slots[i] = tensor.address;
      }
      for (let i = 0; i < values.length; i++) {
        const home = values[i]?.inPlaceOf;
        if (home !== undefined) slots[i] = slots[values.indexOf(homeOf(values, home))] ?? 0;
      }
      if (profile) {
        for (const { spec, program: step } of compiled.single) {
          pool.setSlots(step, slots);
          const start = performance.now();
          pool.run(step);
          profile(spec, performance.now() - start);
        }
      } else if (program.steps.length > 0) {
        pool.setSlots(program, slots);
        pool.run(program);
      }
      return results;
    },
    [Symbol.asyncDispose]() {
      pool[Symbol.dispose]();
      return Promise.resolve();
    },
  };
  return backend;
}

/** The value that owns the memory of another one. */
function homeOf(values: readonly LoweredValue[], index: number): LoweredValue {
  const value = values[index];
  if (!value) throw new Error(`Internal error: the program has no value ${index}`);
  return value.inPlaceOf === undefined ? value : homeOf(values, value.inPlaceOf);
}

const sameType = (a: TensorType, b: TensorType): boolean =>
  a.dtype === b.dtype && a.shape.length === b.shape.length && a.shape.every((dim, i) => dim === b.shape[i]);

/** Where programs keep intermediate values and threads their working memory; all programs share it. */
interface WorkSpace {
  /** Makes room for a program; what the space holds is lost. */
  require(plan: MemoryPlan): void;
  at(): { readonly arena: number; readonly scratch: number };
}

/**
 * One range that grows to what compiled programs ask for. It grows when they are compiled rather than when they run, so that where
 * they are compiled first it lies below all tensors and leaves no gaps between them.
 */
function createWorkSpace(heap: Heap): WorkSpace {
  let address = 0, arena = 0, scratch = 0;
  return {
    require({ arenaBytes, scratchBytes }) {
      if (arenaBytes <= arena && scratchBytes <= scratch) return;
      if (arena + scratch > 0) heap.free(address);
      [arena, scratch] = [Math.max(arena, arenaBytes), Math.max(scratch, scratchBytes)];
      address = heap.allocate(arena + scratch);
    },
    at: () => ({ arena: address, scratch: address + arena }),
  };
}

/** What threads do without meeting each other: a lowered step, or that one and the next, which take turns. */
interface Entry {
  readonly step: number;
  readonly turn: TurnPlan | undefined;
}

function entriesOf({ steps }: LoweredProgram, turns: readonly TurnPlan[]): readonly Entry[] {
  const byStep = new Map(turns.map((turn) => [turn.step, turn]));
  return steps.flatMap((_, step) => byStep.has(step - 1) ? [] : [{ step, turn: byStep.get(step) }]);
}

/** First and last step of the entry, for every step of it. */
const rangesOf = ({ step, turn }: Entry): (readonly [first: number, last: number])[] =>
  turn ? [[step, step + 1], [step, step + 1]] : [[step, step]];

/** What an entry touches, of what its steps do. */
function touchesTogether({ step, turn }: Entry, touches: readonly TouchingStep[]): TouchingStep {
  const own = touches[step] as TouchingStep;
  if (!turn) return own;
  const next = touches[step + 1] as TouchingStep;
  return { grid: turn.count, reads: [...own.reads, ...next.reads], writes: [...own.writes, ...next.writes] };
}

/** What the steps of a program touch. Temporaries are told apart by their place in the arena, tensors by the value they hold. */
function touchesOf(
  { values, steps }: LoweredProgram,
  kernels: readonly LoadedKernel[],
  offsets: ReadonlyMap<number, number>,
  sizeOf: (value: number) => number,
): TouchingStep[] {
  const spanOf = (index: number): Span => {
    const home = values.indexOf(homeOf(values, index)), offset = offsets.get(home);
    return offset === undefined
      ? { space: home, from: 0, to: 1 }
      : { space: -1, from: offset, to: offset + sizeOf(home) };
  };
  return steps.map(({ kernel, bindings }, i) => {
    const { grid } = kernels[i] as LoadedKernel;
    const spans = (unless: KernelBuffer["use"]) =>
      kernel.buffers.flatMap(({ use }, j) => use === unless ? [] : [spanOf(bindings[j] ?? 0)]);
    return { grid, reads: spans("write"), writes: spans("read") };
  });
}
