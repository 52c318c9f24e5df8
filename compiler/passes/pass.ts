/** What a pass is, and how a list of them runs. A pass is a pure function from module to module. */
import { mapFunctions, type Module } from "../../ir/module.ts";
import type { Graph } from "../../ir/node.ts";
import { verifyModule } from "../../ir/verify_module.ts";

/** What a pass may tell besides its result. */
export interface PassContext {
  /** Reports something that was left out and why: one sentence without a final period. */
  note(text: string): void;
}

/** One step from module to module. */
export interface NamedPass {
  /** What `inspect --after` calls it. */
  readonly name: string;
  /** Returns a module of its own; the given one stays as it is. */
  run(module: Module, context: PassContext): Module;
}

/** Who listens while passes run. */
export interface RunOptions {
  /** Called with the module as it is before the first pass (named "start") and after each. */
  readonly watch?: (name: string, module: Module) => void;
  /** Called with what passes left out. */
  readonly note?: (text: string) => void;
}

/** A pass that changes every function on its own. */
export const functionPass = (
  name: string,
  change: (graph: Graph, context: PassContext, functionName: string) => Graph,
): NamedPass => ({
  name,
  run: (module, context) => mapFunctions(module, (graph, functionName) => change(graph, context, functionName)),
});

/** Runs passes in order. The module is verified before the first and after each. */
export function runPasses(module: Module, passes: readonly NamedPass[], { watch, note }: RunOptions = {}): Module {
  const checked = (current: Module, where: string): Module => {
    verifyModule(current, `the module ${where}`);
    return current;
  };
  watch?.("start", checked(module, "before the first pass"));
  return passes.reduce((current, { name, run }) => {
    const next = checked(run(current, { note: (text) => note?.(`${name}: ${text}`) }), `after ${name}`);
    watch?.(name, next);
    return next;
  }, module);
}
