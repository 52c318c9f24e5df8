/** The workers of a pool: their source text and how they are started. */

import { type Change, createExecutor, type ExecutorOptions } from "./executor.ts";

/** The first message to a worker; all later ones are lists of changes. */
export type Greeting = ExecutorOptions;

/** A started worker, in the little that the kinds of workers have in common. */
export interface WorkerHandle {
  post(message: Greeting | readonly Change[]): void;
  /** Ends it. Only safe once it has closed itself: ending a worker that sleeps in `Atomics.wait` hangs Deno. */
  terminate(): void;
  /** Decides whether it keeps the process alive, where that can be chosen. */
  keepAlive(alive: boolean): void;
}

/** Where a worker's messages come from and how it ends; the only difference between the kinds of workers. */
interface WorkerPort {
  listen(receive: (message: unknown) => void): void;
  close(): void;
}

/**
 * A worker's life: greet, then alternately take changes from the event loop and, blocking it, wait for runs. A new run with
 * unread mail sends it back to the event loop first. Self-contained, because it is turned into source text.
 */
function workerMain(port: WorkerPort, makeExecutor: typeof createExecutor): void {
  let greeting: ExecutorOptions | undefined;
  let executor: ReturnType<typeof createExecutor> | undefined;
  let received = 0;
  let seen = 0;
  port.listen((message) => {
    if (!greeting || !executor) {
      greeting = message as ExecutorOptions;
      executor = makeExecutor(greeting);
      Atomics.add(greeting.control, greeting.layout.ready, 1);
      Atomics.notify(greeting.control, greeting.layout.ready);
      return;
    }
    const { control, layout, thread } = greeting;
    executor.apply(message as readonly Change[]);
    received++;
    for (;;) {
      if (Atomics.load(control, layout.stop) !== 0) {
        Atomics.add(control, layout.closed, 1);
        Atomics.notify(control, layout.closed);
        return port.close();
      }
      const epoch = Atomics.load(control, layout.epoch);
      if (epoch === seen) {
        executor.sleep(layout.epoch, seen);
        continue;
      }
      if (Atomics.load(control, layout.mails) !== received) return;
      seen = epoch;
      executor.execute(Atomics.load(control, layout.program));
      if (thread === 0) {
        Atomics.store(control, layout.finished, epoch);
        Atomics.notify(control, layout.finished);
      }
    }
  });
}

/** The ports as source text. A node worker need not close itself: it does not keep the process alive, and the pool ends it. */
const PORTS = {
  web: `{ listen: (f) => { self.onmessage = (e) => f(e.data); }, close: () => self.close() }`,
  node: `((p) => ({ listen: (f) => p.on("message", f), close: () => {} }))(require("node:worker_threads").parentPort)`,
};

/** Which worker implementation to use: that of browsers, or `node:worker_threads`. */
export type WorkerKind = keyof typeof PORTS;

function source(kind: WorkerKind): string {
  return `"use strict";\n(${workerMain})(${PORTS[kind]}, ${createExecutor});\n`;
}

/** The part of `node:worker_threads` used here. */
interface NodeWorker {
  postMessage(message: unknown): void;
  terminate(): unknown;
  ref(): void;
  unref(): void;
}
interface NodeWorkerThreads {
  readonly Worker: new (source: string, options: { eval: true; env: Readonly<Record<string, string>> }) => NodeWorker;
}

/** `node:worker_threads` where the runtime has it (Deno, Node); asked for at run time so that browsers' bundlers see nothing. */
function nodeWorkerThreads(): NodeWorkerThreads | undefined {
  const { process } = globalThis as { process?: { getBuiltinModule?: (name: string) => unknown } };
  return process?.getBuiltinModule?.("node:worker_threads") as NodeWorkerThreads | undefined;
}

/** A worker that the system does not let us start: it has none, has no more threads, or forbids them. */
export class WorkerError extends Error {
  override readonly name = "WorkerError";
}

/**
 * Starts some workers, or none.
 *
 * @throws {WorkerError} where one of them cannot be started
 */
export function startWorkers(count: number, kind: WorkerKind | undefined): readonly WorkerHandle[] {
  const workers: WorkerHandle[] = [];
  try {
    while (workers.length < count) workers.push(startWorker(kind));
  } catch (error) {
    // They have been told nothing yet, so none of them sleeps.
    for (const worker of workers) worker.terminate();
    throw new WorkerError(`cannot start a worker: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
  return workers;
}

/**
 * Starts a worker without any file or permission.
 *
 * `node:worker_threads` is preferred where it exists: its workers can be told not to keep the process alive, so that a program
 * that forgets to dispose its pool still ends. Deno's web workers cannot, whether they sleep in `Atomics.wait` or in their
 * event loop (Deno 2.9); they start faster, 15 against 35 ms.
 */
function startWorker(kind: WorkerKind | undefined): WorkerHandle {
  const threads = kind === "web" ? undefined : nodeWorkerThreads();
  if (threads) {
    // Without an environment of its own it would copy this process's, which asks for a permission.
    const worker = new threads.Worker(source("node"), { eval: true, env: {} });
    worker.unref();
    return {
      post: (message) => worker.postMessage(message),
      terminate: () => void worker.terminate(),
      keepAlive: (alive) => alive ? worker.ref() : worker.unref(),
    };
  }
  const url = URL.createObjectURL(new Blob([source("web")], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  URL.revokeObjectURL(url);
  return { post: (message) => worker.postMessage(message), terminate: () => worker.terminate(), keepAlive: () => {} };
}
