/** Golden tests of passes on modules: a text of each function before, and one after. */
import { assertEquals } from "@std/assert";
import { type NamedPass, runPasses } from "../../compiler/passes/pass.ts";
import type { Module } from "../../ir/module.ts";
import { leavesOf, nameOf } from "../../ir/node.ts";
import { parse } from "../../ir/parse.ts";
import { print } from "../../ir/print.ts";

/** Texts of functions by name. */
export type Texts = Readonly<Record<string, string>>;

/** Every function called once, in order, without prefixes; values have the names of inputs and outputs. */
export function moduleOf(texts: Texts, inputs: readonly string[], outputs: readonly string[]): Module {
  const functions = Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, parse(text)]));
  const calls = Object.entries(functions).map(([name, graph]) => ({
    function: name,
    prefix: "",
    inputs: Object.fromEntries(leavesOf(graph, "input").map((node) => [nameOf(node), nameOf(node)])),
    outputs: Object.fromEntries(graph.outputs.map((output) => [output.name, output.name])),
  }));
  return { functions, calls, inputs, outputs, derived: {} };
}

/** Asserts what `pass` makes of every function; returns the new module and the notes. */
export function expectModule(
  pass: NamedPass,
  module: Module,
  after: Texts,
): { module: Module; notes: readonly string[] } {
  const notes: string[] = [], changed = runPasses(module, [pass], { note: (text) => notes.push(text) });
  const expected = Object.fromEntries(Object.entries(after).map(([name, text]) => [name, print(parse(text))]));
  assertEquals(
    Object.fromEntries(Object.entries(changed.functions).map(([name, graph]) => [name, print(graph)])),
    expected,
  );
  return { module: changed, notes };
}
