/**
 * The WebAssembly backend: kernels generated for SIMD, on one thread or several, over one memory or, for large models, several.
 *
 * A compiled program is a list of calls whose arguments are addresses in a table; running it sets the addresses of leaves and
 * outputs and lets the threads walk the list.
 */
import type { Graph } from "../../ir/node.ts";
import { isFloat, sameType, sizeOf, type TensorType, typeText } from "../../ir/types.ts";
import type { Backend, CompileOptions, Executable, HostArray, MemoryPlan, Tensor, WorkSpace } from "../backend.ts";
import type { KernelSpec } from "../kernel.ts";
import { kernelKey } from "../kernel_key.ts";
import { kernelTexts } from "../kernel_texts.ts";
import { planMemory } from "../plan.ts";
import { lowerGraph } from "../regions/lower.ts";
import type { LoweredProgram, LoweredValue } from "../regions/program.ts";
import { checkStored } from "../stored.ts";
import { probeByteProducts, probeFeatures } from "./assembler.ts";
import { placeBarriers } from "./barriers.ts";
import { ENTRY, type Table, TABLES } from "./emitter.ts";
import { entriesOf, type Entry, homeOf, rangesOf, touchesOf, touchesTogether } from "./entries.ts";
import { GROWTH, type Heap, MOST_BYTES } from "./heap.ts";
import { type GeneratedKernel, generateKernel, printKernel } from "./kernel.ts";
import { decode, encode, encodeStored } from "./host_values.ts";
import { ALIGNMENT, bytesOf, layoutOf } from "./layout.ts";
import type { ProgramNeeds, Space } from "./space.ts";
import { createSpaces, type Place, type Spaces } from "./spaces.ts";
import {
  createPool,
  type Kernel,
  type KernelCall,
  type Pool,
  type Program,
  type Step,
  type StepArgument,
  WorkerError,
} from "./threads.ts";
import { planTurns, type TurnPlan } from "./turns.ts";

/** How to open the backend. */
export interface WasmOptions {
  /** Threads that run kernels, at least 1. Results do not depend on it. Default: 1. */
  readonly threads?: number;
  /** Bytes of one memory, a multiple of 16 MiB; another one is opened when it is full. Default: 4 GiB, all that kernels can address. */
  readonly memoryBytes?: number;
  /** Is told how long each kernel took, waiting for all threads behind each; without it runs have no clocks in them. */
  readonly profile?: KernelProfile;
  /** Hears that workers cannot be started, so that there is one thread: a sentence without a final period. */
  readonly note?: (text: string) => void;
}

/** Hears of one kernel's run. */
export type KernelProfile = (kernel: KernelSpec, milliseconds: number) => void;

/** Most buffers that one kernel takes: parameters of a function, so the limit is only good sense. */
const MOST_BUFFERS = 24;

interface WasmTensor extends Tensor {
  readonly place: Place;
  /** Bytes from the start of the place, and the tensor whose place a view shares. */
  readonly offset: number;
  readonly parent: WasmTensor | undefined;
  freed: boolean;
  /** The type that a program asked for last, equal to its own. */
  fits: TensorType | undefined;
}

/** A value that a run binds: a leaf, or a result. */
interface Binding {
  readonly index: number;
  readonly name: string;
  readonly type: TensorType;
  readonly leaf: string | undefined;
  /** The leaf in whose place a result is written. */
  readonly home: string | undefined;
  readonly output: string;
}

interface LoadedKernel extends GeneratedKernel {
  readonly key: string;
  readonly name: string;
  readonly compiled: WebAssembly.Module;
}

/** A program in one of the memories. */
interface PlacedProgram {
  readonly program: Program;
  /** The same steps one by one, where a profile is asked for. */
  readonly single: readonly { readonly spec: KernelSpec; readonly program: Program }[];
  /** Addresses of all values, then that of the scratch memory. */
  readonly slots: Int32Array;
  /** Where arena and scratch memory lay when the slots were filled. */
  filled: { arena: number; scratch: number };
}

interface WasmExecutable extends Executable {
  readonly values: readonly LoweredValue[];
  readonly offsets: ReadonlyMap<number, number>;
  readonly bindings: readonly Binding[];
  /** Values that lie where others do, with the number of those. */
  readonly inPlace: readonly (readonly [index: number, home: number])[];
  readonly needs: ProgramNeeds;
  /** The program in a memory; made when it first runs there. */
  readonly placed: (space: Space) => PlacedProgram;
}

/**
 * Opens the backend.
 *
 * One thread runs everything where there is no shared memory, where this thread must not wait (a browser's main thread), and where
 * workers cannot be started.
 *
 * @throws {Error} if the engine lacks SIMD
 */
export function openWasm(
  { threads: wanted = 1, memoryBytes: limit = MOST_BYTES, profile, note }: WasmOptions = {},
): Promise<Backend> {
  const features = probeFeatures();
  if (!features.simd) {
    throw new Error(`Cannot open the WebAssembly backend: this engine lacks SIMD; use the reference backend`);
  }
  if (!Number.isInteger(wanted) || wanted < 1) {
    throw new RangeError(
      `Cannot open the WebAssembly backend: expected a positive number of threads but found ${wanted}`,
    );
  }
  if (!Number.isInteger(limit / GROWTH) || limit < GROWTH || limit > MOST_BYTES) {
    throw new RangeError(
      `Cannot open the WebAssembly backend: expected memories of a multiple of ${GROWTH} bytes, at most ${MOST_BYTES}, but found ${limit}`,
    );
  }
  const shared = features.threads && wanted > 1, spaces = createSpaces({ shared, limit });
  const pool = openPool(shared ? wanted : 1, spaces.first.heap.memory, note);
  const relaxed = features["relaxed-simd"],
    products = relaxed ? probeByteProducts() : { fours: false, unsigned: false };
  const traits = { simd: true, relaxed, ...products, threads: pool.threads };
  return Promise.resolve(createBackend(spaces, pool, traits, shared, profile));
}

/** A pool that runs kernels while its caller waits; of one thread where there is no other. */
function openPool(threads: number, memory: WebAssembly.Memory, note?: (text: string) => void): Pool {
  try {
    const pool = createPool({ threads, memory });
    if (pool.participates) return pool;
    pool[Symbol.dispose]();
  } catch (error) {
    if (!(error instanceof WorkerError)) throw error;
    note?.(`Computing on 1 thread instead of ${threads}: ${error.message}`);
  }
  return createPool({ threads: 1, memory });
}

function createBackend(
  spaces: Spaces,
  pool: Pool,
  traits: { relaxed: boolean; fours: boolean; unsigned: boolean; threads: number },
  shared: boolean,
  profile: KernelProfile | undefined,
): Backend {
  const kernels = new Map<string, LoadedKernel>(), tensors = new WeakSet<Tensor>();

  const newTensor = (type: TensorType, place: Place, offset = 0, parent?: WasmTensor): WasmTensor => {
    const tensor: WasmTensor = { type, place, offset, parent, freed: false, fits: undefined };
    tensors.add(tensor);
    return tensor;
  };
  /** A token binds hundreds of tensors: what cannot be done, and to what by name, becomes a text only where one is not fine. */
  const own = (tensor: Tensor, what: string, name?: string): WasmTensor => {
    const found = tensors.has(tensor) ? tensor as WasmTensor : undefined;
    if (found && !found.freed && !found.parent?.freed) return found;
    const reason = found ? "the tensor has been freed" : "expected a tensor of this backend";
    throw new TypeError(`Cannot ${what}${name === undefined ? "" : ` "${name}"`}: ${reason}`);
  };
  const create = (type: TensorType, wished?: Space): WasmTensor =>
    newTensor(type, spaces.allocate(bytesOf(type), wished));
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
    const generated = generateKernel(spec, { ...traits, shared });
    const loaded = { ...generated, key, name: spec.name, compiled: new WebAssembly.Module(generated.bytes) };
    kernels.set(key, loaded);
    return loaded;
  };
  /** The instance of a kernel that sees a memory. */
  const kernelIn = ({ kernels, heap: { memory } }: Space, { key, name, compiled }: LoadedKernel): Kernel => {
    const known = kernels.get(key);
    if (known) return known;
    const kernel = pool.load(compiled, { name, memories: { memory } });
    kernels.set(key, kernel);
    return kernel;
  };

  const placeProgram = (
    space: Space,
    { values, steps }: LoweredProgram,
    loaded: readonly LoadedKernel[],
    entries: readonly Entry[],
    barriers: readonly boolean[],
  ): PlacedProgram => {
    const scratchBytes = scratchOf(loaded);
    const scratch: StepArgument = { slot: values.length, perThread: scratchBytes };
    const callOf = (i: number, turn?: TurnPlan): KernelCall => {
      const own = loaded[i] as LoadedKernel,
        { grid, tables: needed } = own,
        kernel = kernelIn(space, own),
        bytes = 4 * (turn?.elements ?? 0);
      const args = (steps[i]?.bindings ?? []).map((slot): StepArgument =>
        // Every thread has some rows of its own; what turns write one after the other lies in one place.
        slot === turn?.value ? { slot, perThread: bytes, perTurn: -bytes } : { slot }
      );
      for (let t = 0; t < TABLES; t++) args.push(needed[t] ? space.tableAt(needed[t] as Table) : 0);
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
    return { program, single, slots: new Int32Array(values.length + 1), filled: { arena: -1, scratch: -1 } };
  };

  /** Puts the addresses of everything that does not change between runs into the slots. */
  const fill = (placed: PlacedProgram, { values, offsets }: WasmExecutable, { work }: Space) => {
    const at = work(), { filled, slots } = placed;
    if (at.arena === filled.arena && at.scratch === filled.scratch) return;
    for (const [index, offset] of offsets) slots[index] = at.arena + offset;
    slots[values.length] = at.scratch;
    placed.filled = at;
  };

  /** What leaves and results are bound to; nothing yet for results that no tensor is given for. */
  const bind = (
    bindings: readonly Binding[],
    leaves: Readonly<Record<string, Tensor>>,
    outputs: Readonly<Record<string, Tensor>>,
  ): { readonly binding: Binding; tensor: WasmTensor | undefined }[] =>
    bindings.map((binding) => {
      const { name, type, leaf, home, output } = binding;
      const given = leaf !== undefined ? leaves[leaf] : home === undefined ? outputs[output] : leaves[home];
      if (leaf !== undefined && !given) {
        throw new TypeError(`Cannot run a program: expected a tensor for leaf "${leaf}" of type ${typeText(type)}`);
      }
      const tensor = given && (leaf === undefined ? own(given, "bind output", output) : own(given, "bind leaf", leaf));
      // Programs run again with the same weights: types that are one object need no look inside.
      if (tensor && tensor.type !== type && tensor.fits !== type) {
        if (!sameType(tensor.type, type)) {
          throw new TypeError(`Cannot bind "${name}": expected ${typeText(type)} but found ${typeText(tensor.type)}`);
        }
        tensor.fits = type;
      }
      return { binding, tensor };
    });

  let workSpace: WorkSpace = { arena: 0, scratch: 0 };
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
      const plan: MemoryPlan = { arenaBytes, scratchBytes: scratchOf(loaded) * traits.threads, entries: places };
      workSpace = {
        arena: Math.max(workSpace.arena, arenaBytes),
        scratch: Math.max(workSpace.scratch, plan.scratchBytes),
      };
      const made = new Map<Space, PlacedProgram>();
      const placed = (space: Space): PlacedProgram => {
        const known = made.get(space) ?? placeProgram(space, lowered, loaded, entries, barriers);
        made.set(space, known);
        return known;
      };
      // Where there is room, now: see createWorkSpace. Where there is none the program will run in another memory.
      const needs = { ...plan, tables: loaded.flatMap(({ tables }) => tables) };
      if (spaces.first.require(needs)) placed(spaces.first);
      const typesOf = (role: "leaf" | "output") =>
        Object.fromEntries(
          lowered.values.flatMap((value) => value[role] === undefined ? [] : [[value[role], value.type]]),
        );
      const executable: WasmExecutable = {
        leaves: typesOf("leaf"),
        outputs: typesOf("output"),
        kernels: kernelTexts(
          lowered.steps.map(({ kernel }) => kernel),
          (spec) => printKernel(spec, { ...traits, shared }),
        ),
        plan,
        values: lowered.values,
        offsets,
        bindings: bindingsOf(lowered.values),
        inPlace: lowered.values.flatMap(({ inPlaceOf }, index) =>
          inPlaceOf === undefined ? [] : [[index, lowered.values.indexOf(homeOf(lowered.values, inPlaceOf))] as const]
        ),
        needs,
        placed,
      };
      return Promise.resolve(executable);
    },
    allocate(type, values = "zeros") {
      const tensor = create(type), { space, address } = tensor.place;
      if (values === "zeros") new Uint8Array(space.heap.memory.buffer, address, bytesOf(type)).fill(0);
      return tensor;
    },
    upload(type, values) {
      check(type, values);
      const tensor = create(type), { space, address } = tensor.place;
      encode(type, values, space.heap.memory.buffer, address);
      return tensor;
    },
    uploadStored(type, bytes) {
      checkStored(type, bytes);
      const tensor = create(type), { space, address } = tensor.place;
      encodeStored(type, bytes, space.heap.memory.buffer, address);
      return tensor;
    },
    write(tensor, values) {
      const { type, place, offset } = own(tensor, "write to a tensor");
      check(type, values);
      encode(type, values, place.space.heap.memory.buffer, place.address + offset);
    },
    download(tensor) {
      const { type, place, offset } = own(tensor, "download a tensor");
      return Promise.resolve(decode(type, place.space.heap.memory.buffer, place.address + offset));
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
      return newTensor(type, whole.place, whole.offset + offset * size, whole.parent ?? whole);
    },
    bytesOf,
    free(tensor) {
      const found = own(tensor, "free a tensor");
      found.freed = true;
      if (!found.parent) spaces.free(found.place);
    },
    workSpace: () => workSpace,
    rehearse() {
      const [first, ...others] = spaces.all.map(({ heap }) => heap), addresses = (first as Heap).rehearse();
      return {
        take(bytes) {
          const address = addresses.allocate(bytes) as number;
          return () => addresses.free(address);
        },
        get allocated() {
          return others.reduce((sum, { peak }) => sum + peak.extent, addresses.peak.extent);
        },
      };
    },
    memory: () => ({
      planned: spaces.all.reduce((sum, { heap }) => sum + heap.peak.wanted, 0),
      allocated: spaces.all.reduce((sum, { heap }) => sum + heap.peak.extent, 0),
    }),
    run(executable, leaves, outputs = {}) {
      const compiled = executable as WasmExecutable, { bindings, inPlace } = compiled;
      const bound = bind(bindings, leaves, outputs), results: Record<string, Tensor> = {};
      // What lies in one memory, with room to work there, need not be brought together.
      const isAlone = () => spaces.all.length === 1;
      const placesNow = () => new Set(bound.flatMap(({ tensor }) => tensor ? [tensor.place] : []));
      const wished = isAlone() ? spaces.first : spaces.mostly(placesNow()), made: WasmTensor[] = [];
      let space = spaces.first;
      try {
        for (const each of bound) {
          const { type, leaf, output } = each.binding;
          if (!each.tensor) made.push(each.tensor = create(type, wished));
          if (leaf === undefined) results[output] = each.tensor;
        }
        const hasRoom = isAlone() && space.require(compiled.needs);
        if (!hasRoom) space = spaces.gather(placesNow(), compiled.needs);
      } catch (error) {
        // Nobody else knows of them.
        for (const tensor of made) backend.free(tensor);
        throw error;
      }
      const placed = compiled.placed(space);
      const { program, slots } = placed;
      fill(placed, compiled, space);
      for (const { binding: { index }, tensor } of bound) {
        slots[index] = tensor ? tensor.place.address + tensor.offset : 0;
      }
      for (const [index, home] of inPlace) slots[index] = slots[home] ?? 0;
      if (profile) {
        for (const { spec, program: step } of placed.single) {
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

/** Bytes of scratch memory per thread. One stride for all kernels: without a barrier threads are in different ones at one time. */
const scratchOf = (kernels: readonly LoadedKernel[]): number =>
  Math.max(0, ...kernels.map(({ scratchBytes }) => scratchBytes));

/** The leaves and results among values. */
const bindingsOf = (values: readonly LoweredValue[]): readonly Binding[] =>
  values.flatMap(({ name, type, role, leaf, output = "", inPlaceOf }, index) => {
    if (role === "temporary") return [];
    const home = inPlaceOf === undefined ? undefined : homeOf(values, inPlaceOf).leaf;
    return [{ index, name, type, leaf, home, output }];
  });
