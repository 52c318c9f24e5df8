/**
 * Runs lists of kernels on several threads over one memory.
 *
 * A *program* is a list of steps; a step calls one exported function of a loaded module on every thread, with the thread's share of the
 * step's chunks. All threads walk the same list and meet at a barrier after each step, so a run needs no message: it starts by
 * changing one shared word and ends with the last barrier.
 *
 * What a chunk is must depend on shapes alone. Shares are contiguous ranges of chunks, so that results do not depend on the number of
 * threads as long as no chunk reads what another one of the same step writes.
 *
 * ```ts
 * using pool = createPool({ threads: 2, memory });
 * const kernel = pool.load(m.bytes(), { name: "scale" });
 * const program = pool.program([{ kernel, export: "scale", args: [1024, { slot: 0 }], grid: 16 }]);
 * pool.setSlots(program, [4096]);
 * pool.run(program); // scale(1024, 4096, from, to) on both threads
 * ```
 *
 * @module
 */

import {
  type CallRecord,
  type Change,
  CONTROL,
  CONTROL_WORDS,
  createExecutor,
  type StepArgument,
  type StepRecord,
} from "./threads/executor.ts";
import { startWorkers, type WorkerKind } from "./threads/worker.ts";

export type { StepArgument } from "./threads/executor.ts";
export { WorkerError, type WorkerKind } from "./threads/worker.ts";

/** A loaded module: an instance of it on every thread. */
export interface Kernel {
  readonly id: number;
  readonly name: string;
}

/** A registered list of steps. */
export interface Program {
  readonly id: number;
  readonly steps: readonly Step[];
}

/** One call of a kernel. */
export interface KernelCall {
  readonly kernel: Kernel;
  /** Name of the exported function, called as `f(...args, from, to)` with i32 arguments. */
  readonly export: string;
  readonly args: readonly StepArgument[];
  /** Number of chunks; thread t of T gets those from ⌊grid·t/T⌋ up to ⌊grid·(t+1)/T⌋, and is not called when there are none. */
  readonly grid: number;
}

/** Kernels that take turns: what one of them writes in its turn, the next one finds in the cache. */
export interface Turns {
  /** Number of turns, at least 2; shared among threads in place of chunks. */
  readonly count: number;
  /** Chunks of the step's own kernel in a turn. */
  readonly chunks: number;
  /** The kernel that follows in every turn, and its chunks in one. */
  readonly next: KernelCall & { readonly chunks: number };
}

/** One call of a kernel, or of two that take turns. */
export interface Step extends KernelCall {
  readonly turns?: Turns;
  /**
   * False where threads may go on to the next step at once, because it neither reads nor overwrites anything that this step, or an
   * earlier one since the last barrier, works on.
   */
  readonly barrier?: boolean;
}

/** How to make a pool. */
export interface PoolOptions {
  /** Threads that run kernels, at least 1. */
  readonly threads: number;
  /** What modules import as `env.memory`; must be shared when there are workers. */
  readonly memory: WebAssembly.Memory;
  /**
   * Whether the calling thread runs a share, too. It must be allowed to block, as a browser's main thread is not. Default: yes
   * where it is allowed or where there is only one thread.
   */
  readonly participate?: boolean;
  /** Which workers to start; default: those of `node:worker_threads` where there are any. */
  readonly workers?: WorkerKind;
}

/** Threads and what they have loaded. */
export interface Pool extends Disposable {
  readonly threads: number;
  /** Whether the calling thread is one of the threads, so that `run` can be used. */
  readonly participates: boolean;
  /**
   * Makes a module available on every thread. `memories` are further memories that it imports from `env`. Loading one
   * `WebAssembly.Module` again, with other memories, compiles nothing.
   */
  load(
    module: Uint8Array<ArrayBuffer> | WebAssembly.Module,
    options?: { readonly name?: string; readonly memories?: Readonly<Record<string, WebAssembly.Memory>> },
  ): Kernel;
  /** Drops a kernel and, once nothing else refers to them, its memories. Programs that use it must be released as well. */
  unload(kernel: Kernel): void;
  /** Registers a list of steps. */
  program(steps: readonly Step[]): Program;
  release(program: Program): void;
  /** Sets the values of the slots from the first one on; they stay for all runs until they are set again. */
  setSlots(program: Program, values: ArrayLike<number>): void;
  /** Runs a program and returns when it is done. @throws {KernelError} when a kernel traps on any thread. */
  run(program: Program): void;
  /** As `run`, without blocking where the calling thread does not participate. */
  runAsync(program: Program): Promise<void>;
  /** Ends the workers. The pool cannot be used afterwards. */
  [Symbol.dispose](): void;
}

/** A kernel that trapped: names kernel, exported function, step and thread. */
export class KernelError extends Error {
  override readonly name = "KernelError";
}

/**
 * How often a thread looks at a word before it falls asleep: at most about 100 µs (a look takes 5 to 15 ns), twice the time in which a
 * sleeper wakes up here; at least a microsecond. The executor adapts it in between.
 */
const SPINS = { least: 100, most: 8000 };
/** Milliseconds a worker may take to start or to end before that is an error. */
const PATIENCE = 10_000;

/**
 * Makes a pool; the workers start in the background.
 *
 * @throws {WorkerError} where they cannot be started
 */
export function createPool(options: PoolOptions): Pool {
  const { threads, memory } = options;
  if (!Number.isInteger(threads) || threads < 1) {
    throw new RangeError(`Cannot make a pool: expected a positive number of threads but found ${threads}`);
  }
  const blocks = mayBlock();
  const participates = options.participate ?? (threads === 1 || blocks);
  const count = participates ? threads - 1 : threads;
  if (count > 0 && participates && !blocks) {
    throw new Error(`Cannot make a pool: this thread may not block; use "participate: false"`);
  }
  if (count > 0 && !isShared(memory)) {
    throw new TypeError(
      `Cannot make a pool of ${threads} threads: expected a shared memory; make it with "shared: true"`,
    );
  }
  const words = (length: number) =>
    new Int32Array(count > 0 ? new SharedArrayBuffer(4 * length) : new ArrayBuffer(4 * length));
  const control = words(CONTROL_WORDS);
  const greeting = { control, layout: CONTROL, threads, spins: SPINS };
  const own = participates ? createExecutor({ ...greeting, thread: 0 }) : undefined;
  const workers = startWorkers(count, options.workers);
  for (const [i, worker] of workers.entries()) worker.post({ ...greeting, thread: participates ? i + 1 : i });

  const modules = new Map<number, WebAssembly.Module>();
  const slots = new Map<number, Int32Array>();
  let changes: Change[] = [];
  let identifiers = 0;
  let state: "idle" | "running" | "disposed" = "idle";
  let started = count === 0;

  /** Starts the workers on a program, after telling them what is new. */
  function begin(program: Program): number {
    if (!slots.has(program.id)) throw new Error(`Cannot run program ${program.id}: expected a program of this pool`);
    if (state !== "idle") throw new Error(`Cannot run a program: expected an idle pool but it is ${state}`);
    control[CONTROL.failure] = 0;
    state = "running";
    if (changes.length > 0) {
      own?.apply(changes);
      for (const worker of workers) worker.post(changes);
      Atomics.add(control, CONTROL.mails, 1);
      changes = [];
    }
    Atomics.store(control, CONTROL.program, program.id);
    const epoch = Atomics.add(control, CONTROL.epoch, 1) + 1;
    if (count > 0) Atomics.notify(control, CONTROL.epoch);
    return epoch;
  }

  function end(program: Program): void {
    state = "idle";
    const failure = control[CONTROL.failure] ?? 0;
    if (failure !== 0) throw describe(program, failure, control);
  }

  function waitForStart(): void {
    if (!started && !waitUntil(control, CONTROL.ready, count)) {
      throw new Error(
        `Cannot run a program: expected ${count} workers but only ${control[CONTROL.ready]} have started`,
      );
    }
    started = true;
  }

  function run(program: Program): void {
    if (!own) throw new Error(`Cannot run synchronously: the calling thread does not participate; use "runAsync"`);
    waitForStart();
    begin(program);
    own.execute(program.id);
    end(program);
  }

  return {
    threads,
    participates,
    load(source, { name = "kernel", memories = {} } = {}) {
      for (const [key, other] of Object.entries(memories)) {
        if (count > 0 && !isShared(other)) {
          throw new TypeError(
            `Cannot load kernel "${name}": expected memory "${key}" to be shared by ${threads} threads`,
          );
        }
      }
      const module = source instanceof WebAssembly.Module ? source : new WebAssembly.Module(source);
      const id = identifiers++;
      modules.set(id, module);
      changes.push({ kind: "load", id, name, module, memories: { memory, ...memories } });
      return { id, name };
    },
    unload({ id }) {
      modules.delete(id);
      changes.push({ kind: "unload", id });
    },
    program(steps) {
      const id = identifiers++;
      for (const step of steps) {
        for (const own of callsOf(step)) check(own, modules.get(own.kernel.id));
      }
      const records = withBarriers(steps);
      const table = words(records.flatMap(({ calls }) => calls.flatMap(({ args }) => args)).reduce(slotCount, 0));
      slots.set(id, table);
      changes.push({ kind: "program", id, steps: records, slots: table });
      return { id, steps };
    },
    release({ id }) {
      slots.delete(id);
      changes.push({ kind: "release", id });
    },
    setSlots(program, values) {
      const table = slots.get(program.id);
      if (!table) throw new RangeError(`Cannot set the slots of program ${program.id}: it was released`);
      // Slots behind the last one that a step uses have no room and no reader.
      for (let i = 0; i < table.length && i < values.length; i++) table[i] = values[i] ?? 0;
    },
    run,
    async runAsync(program) {
      if (own) return run(program);
      const before = Atomics.load(control, CONTROL.finished);
      begin(program);
      for (const worker of workers) worker.keepAlive(true);
      try {
        await Atomics.waitAsync(control, CONTROL.finished, before).value;
      } finally {
        for (const worker of workers) worker.keepAlive(false);
      }
      end(program);
    },
    [Symbol.dispose]() {
      if (state === "disposed") return;
      if (state === "running") throw new Error("Cannot dispose a pool while it runs a program: await the run first");
      state = "disposed";
      if (count === 0) return;
      Atomics.store(control, CONTROL.stop, 1);
      // A message for those in their event loop, a changed word for those asleep.
      for (const worker of workers) worker.post([]);
      Atomics.add(control, CONTROL.epoch, 1);
      Atomics.notify(control, CONTROL.epoch);
      if (blocks && waitUntil(control, CONTROL.closed, count)) { for (const worker of workers) worker.terminate(); }
    },
  };
}

/** The kernels that a step calls. */
const callsOf = (step: Step): readonly KernelCall[] => step.turns ? [step, step.turns.next] : [step];

/** What is shared among threads: chunks or turns. */
const gridOf = ({ turns, grid }: Step): number => turns?.count ?? grid;

/** Checks a call against its module. */
function check({ kernel, export: name, grid }: KernelCall, module: WebAssembly.Module | undefined): void {
  const where = `Cannot register a step of kernel "${kernel.name}"`;
  if (!module) throw new Error(`${where}: expected a kernel that is loaded in this pool`);
  const known = WebAssembly.Module.exports(module).filter(({ kind }) => kind === "function").map((e) => e.name);
  if (!known.includes(name)) throw new Error(`${where}: expected one of its exports [${known}] but found "${name}"`);
  if (!Number.isInteger(grid) || grid < 1) throw new RangeError(`${where}: expected a positive grid but found ${grid}`);
}

/**
 * Decides which steps a barrier follows: the last one, and all but those that say otherwise and those where thread 0 just goes on
 * to its next single-chunk step, with no other thread still at work on something earlier.
 */
function withBarriers(steps: readonly Step[]): StepRecord[] {
  let othersAtWork = false, owed = false;
  return steps.map((step, i) => {
    const grid = gridOf(step), { turns } = step;
    othersAtWork ||= grid > 1;
    owed ||= step.barrier !== false;
    const next = steps[i + 1];
    const alone = !othersAtWork && next !== undefined && gridOf(next) === 1;
    // A meeting that thread 0 skips while it works alone is owed until others come in: they rely on it.
    const barrier = next === undefined || (owed && !alone);
    if (barrier) othersAtWork = owed = false;
    const record = ({ kernel, export: name, args, grid }: KernelCall, perTurn = grid): CallRecord => {
      return { kernel: kernel.id, export: name, args, grid, perTurn };
    };
    const calls = turns ? [record(step, turns.chunks), record(turns.next, turns.next.chunks)] : [record(step)];
    return { calls, grid, barrier };
  });
}

function slotCount(count: number, arg: StepArgument): number {
  return typeof arg === "number" ? count : Math.max(count, arg.slot + 1);
}

/** Words the first failure of a run. */
function describe(program: Program, failure: number, control: Int32Array): KernelError {
  const from = CONTROL.message;
  const message = String.fromCharCode(...control.subarray(from, from + (control[CONTROL.messageLength] ?? 0)));
  const thread = control[CONTROL.failedThread];
  const step = failure > 0 ? program.steps[failure - 1] : undefined;
  return new KernelError(
    step
      ? `Kernel ${
        callsOf(step).map(({ kernel }) => `"${kernel.name}"`).join(" or ")
      } failed in "${step.export}", step ${failure - 1} of program ${program.id}, thread ${thread}: ${message}`
      : `Cannot prepare program ${program.id} on thread ${thread}: ${message}`,
  );
}

/** Sleeps until the word reaches `value`; false after `PATIENCE` ms. */
function waitUntil(control: Int32Array, index: number, value: number): boolean {
  const deadline = performance.now() + PATIENCE;
  for (let now = Atomics.load(control, index); now < value; now = Atomics.load(control, index)) {
    const left = deadline - performance.now();
    if (left <= 0) return false;
    Atomics.wait(control, index, now, left);
  }
  return true;
}

/** Whether the calling thread may sleep in `Atomics.wait`. */
function mayBlock(): boolean {
  if (typeof SharedArrayBuffer === "undefined") return false;
  try {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 0);
    return true;
  } catch {
    return false;
  }
}

function isShared(memory: WebAssembly.Memory): boolean {
  return typeof SharedArrayBuffer !== "undefined" && memory.buffer instanceof SharedArrayBuffer;
}
