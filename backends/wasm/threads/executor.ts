/**
 * Runs one thread's share of a program. The same function serves the calling thread and, as source text, the workers; it may
 * therefore refer to nothing outside itself but types.
 */

/** Number of 32-bit words that threads steer each other with. */
export const CONTROL_WORDS = 160;

/**
 * An i32 argument of a kernel: fixed, or the value that slot `slot` of the program's table has when the program runs, plus
 * `perThread` times the thread's number and `perTurn` times that of the turn.
 */
export type StepArgument =
  | number
  | { readonly slot: number; readonly perThread?: number; readonly perTurn?: number };

/** A call as the executors see it. */
export interface CallRecord {
  readonly kernel: number;
  readonly export: string;
  readonly args: readonly StepArgument[];
  /** Number of chunks, and how many a turn has. */
  readonly grid: number;
  readonly perTurn: number;
}

/** A step as the executors see it: one call that is shared among threads chunk by chunk, or several that take turns. */
export interface StepRecord {
  readonly calls: readonly CallRecord[];
  /** Chunks of the only call, or turns: what is shared among threads. */
  readonly grid: number;
  /** Whether all threads wait for each other after this step. */
  readonly barrier: boolean;
}

/** What every thread must learn before the next run. */
export type Change =
  | {
    readonly kind: "load";
    readonly id: number;
    readonly name: string;
    readonly module: WebAssembly.Module;
    readonly memories: WebAssembly.ModuleImports;
  }
  | { readonly kind: "unload"; readonly id: number }
  | { readonly kind: "program"; readonly id: number; readonly steps: readonly StepRecord[]; readonly slots: Int32Array }
  | { readonly kind: "release"; readonly id: number };

/** One thread's executor. */
export interface Executor {
  apply(changes: readonly Change[]): void;
  /** Runs this thread's share; returns when all threads have finished theirs. Never throws: failures go to the control words. */
  execute(program: number): void;
  /** Returns when the word may have changed from `value`: sleeps, after a short look. Whoever changes the word notifies. */
  sleep(word: number, value: number): void;
}

/**
 * Layout of the control words. Words that are written by different threads while others spin on them lie on cache lines of their
 * own (16 words).
 */
export interface ControlLayout {
  /** Counts runs; idle workers wait for it to change. */
  readonly epoch: number;
  /** Program of the current run. */
  readonly program: number;
  /** Number of messages posted to every worker so far. */
  readonly mails: number;
  /** Not 0: workers end. */
  readonly stop: number;
  /** Threads that have reached the current barrier. */
  readonly arrived: number;
  /** Counts passed barriers. */
  readonly generation: number;
  /** Threads asleep at the barrier. */
  readonly sleepers: number;
  /** Epoch of the last run that is complete. */
  readonly finished: number;
  /** Workers that have started, and that have ended. */
  readonly ready: number;
  readonly closed: number;
  /** 0, or 1 + the step (-1: a change) that failed first; then its thread, and the message: its length and UTF-16 codes. */
  readonly failure: number;
  readonly failedThread: number;
  readonly messageLength: number;
  readonly message: number;
  readonly messageCapacity: number;
}

/** See {@link ControlLayout}. */
export const CONTROL: ControlLayout = {
  epoch: 0,
  program: 1,
  mails: 2,
  stop: 3,
  arrived: 16,
  generation: 32,
  sleepers: 33,
  finished: 48,
  ready: 49,
  closed: 50,
  failure: 64,
  failedThread: 65,
  messageLength: 66,
  message: 67,
  messageCapacity: 90,
};

/** What a thread needs to take part. */
export interface ExecutorOptions {
  readonly control: Int32Array;
  readonly layout: ControlLayout;
  readonly thread: number;
  readonly threads: number;
  /** Bounds of how often a thread looks at a word before it falls asleep; see `SPINS` in threads.ts. */
  readonly spins: { readonly least: number; readonly most: number };
}

/** Makes the executor of one thread. Self-contained: it is also turned into the workers' source text. */
export function createExecutor({ control, layout: at, thread, threads, spins }: ExecutorOptions): Executor {
  type PreparedCall = {
    call: (...args: number[]) => unknown;
    args: number[];
    patches: { index: number; slot: number; own: number; perTurn: number }[];
    grid: number;
    perTurn: number;
  };
  type Prepared = { calls: PreparedCall[]; first: number; last: number; barrier: boolean };
  const kernels = new Map<number, WebAssembly.Exports>();
  const programs = new Map<number, { steps: Prepared[]; slots: Int32Array }>();

  /** The first failure of a run is reported; a thread that sees one does no more work but still meets the others at barriers. */
  function fail(step: number, error: unknown, where = ""): void {
    if (Atomics.compareExchange(control, at.failure, 0, step === -1 ? -1 : step + 1) !== 0) return;
    const text = `${where}${error instanceof Error ? error.message : error}`.slice(0, at.messageCapacity);
    control[at.failedThread] = thread;
    control[at.messageLength] = text.length;
    for (let i = 0; i < text.length; i++) control[at.message + i] = text.charCodeAt(i);
  }

  function instantiate({ id, name, module, memories }: Change & { kind: "load" }): void {
    try {
      kernels.set(id, new WebAssembly.Instance(module, { env: memories }).exports);
    } catch (error) {
      fail(-1, error, `kernel "${name}": `);
    }
  }

  function prepare({ calls, grid, barrier }: StepRecord): Prepared {
    const from = Math.floor((grid * thread) / threads);
    const to = Math.floor((grid * (thread + 1)) / threads);
    // A single chunk belongs to thread 0, so that neighbouring single-chunk steps need no barrier between them.
    const [first, last] = grid === 1 ? (thread === 0 ? [0, 1] : [0, 0]) : [from, to];
    return {
      calls: calls.map(({ kernel, export: name, args, grid: chunks, perTurn }) => ({
        call: kernels.get(kernel)?.[name] as (...args: number[]) => unknown,
        args: [...args.map((arg) => typeof arg === "number" ? arg : 0), first, last],
        patches: args.flatMap((arg, index) =>
          typeof arg === "number"
            ? []
            : [{ index, slot: arg.slot, own: (arg.perThread ?? 0) * thread, perTurn: arg.perTurn ?? 0 }]
        ),
        grid: chunks,
        perTurn,
      })),
      first: first ?? 0,
      last: last ?? 0,
      barrier,
    };
  }

  /** Fills in what slots hold, and calls. */
  function invoke({ call, args, patches }: PreparedCall, slots: Int32Array, turn: number): void {
    for (let p = 0; p < patches.length; p++) {
      const { index, slot, own, perTurn } = patches[p] as PreparedCall["patches"][number];
      args[index] = (slots[slot] ?? 0) + own + perTurn * turn;
    }
    call.apply(undefined, args);
  }

  /** This thread's share of a step. */
  function perform({ calls, first, last }: Prepared, slots: Int32Array): void {
    if (calls.length === 1) return invoke(calls[0] as PreparedCall, slots, 0);
    for (let turn = first; turn < last; turn++) {
      for (let c = 0; c < calls.length; c++) {
        const own = calls[c] as PreparedCall, { args, grid, perTurn } = own;
        args[args.length - 2] = turn * perTurn;
        args[args.length - 1] = Math.min(grid, (turn + 1) * perTurn);
        invoke(own, slots, turn);
      }
    }
  }

  /**
   * Looks at a word for a while; true when it changed. The while is adapted: waking a sleeper takes longer than most waits, so it is
   * long as long as that pays; but where threads outnumber free cores, looking keeps the core from the thread that is waited
   * for, so it shrinks with every failure. Every 32nd look is long again, to notice that cores have become free.
   */
  function changes(word: number, value: number, state: { limit: number; looks: number }): boolean {
    const limit = ++state.looks % 32 === 0 ? spins.most : state.limit;
    for (let i = 0; i < limit; i++) {
      if (Atomics.load(control, word) !== value) {
        state.limit = spins.most;
        return true;
      }
    }
    state.limit = Math.max(spins.least, state.limit >> 1);
    return false;
  }
  const atBarriers = { limit: spins.most, looks: 0 };
  const atRest = { limit: spins.most, looks: 0 };

  function barrier(): void {
    if (threads === 1) return;
    const generation = Atomics.load(control, at.generation);
    if (Atomics.add(control, at.arrived, 1) === threads - 1) {
      Atomics.store(control, at.arrived, 0);
      Atomics.add(control, at.generation, 1);
      if (Atomics.load(control, at.sleepers) > 0) Atomics.notify(control, at.generation);
      return;
    }
    if (changes(at.generation, generation, atBarriers)) return;
    Atomics.add(control, at.sleepers, 1);
    while (Atomics.load(control, at.generation) === generation) Atomics.wait(control, at.generation, generation);
    Atomics.sub(control, at.sleepers, 1);
  }

  return {
    sleep(word, value) {
      if (!changes(word, value, atRest)) Atomics.wait(control, word, value);
    },
    apply(list) {
      for (const change of list) {
        if (change.kind === "load") instantiate(change);
        else if (change.kind === "unload") kernels.delete(change.id);
        else if (change.kind === "release") programs.delete(change.id);
        else programs.set(change.id, { steps: change.steps.map(prepare), slots: change.slots });
      }
    },
    execute(id) {
      const program = programs.get(id);
      if (!program) return; // Cannot be: the pool checks the program and announces it to all threads before the run.
      const { steps, slots } = program;
      for (let i = 0; i < steps.length; i++) {
        const step = steps[i] as Prepared;
        if (step.first < step.last && Atomics.load(control, at.failure) === 0) {
          try {
            perform(step, slots);
          } catch (error) {
            fail(i, error);
          }
        }
        if (step.barrier) barrier();
      }
    },
  };
}
