/**
 * The textual form of modules: functions as texts of graphs, then what is called with which values.
 *
 *     function block {
 *       %0 = input {name="h", type="f32[B,T,64]"} : f32[B,T,64]
 *       return h=%0
 *     }
 *     module (h, cos) {
 *       derived layers.0.signs : f32[64]
 *       h = block(h=h, cos=cos) "layers.0."
 *       return h
 *     }
 *
 * In a call, `input=value` stands in the parentheses and `value`, or `value:output` where the names differ, before the `=`.
 * What computes a derived parameter is code and not part of the text: the parser is given it by name.
 */
import { nameText } from "./attr_text.ts";
import { type Cursor, cursorOf, type Line, linesOf } from "./cursor.ts";
import type { Call, Derived, Module } from "./module.ts";
import type { Graph } from "./node.ts";
import { parseLines, typeAt } from "./parse.ts";
import { print } from "./print.ts";
import { typeText } from "./types.ts";

/** The module as text; derived parameters by name and type only. */
export function printModule(module: Module): string {
  const functions = Object.entries(module.functions).flatMap(([name, graph]) => [
    `function ${nameText(name)} {`,
    ...print(graph).trimEnd().split("\n").map((line) => `  ${line}`),
    "}",
  ]);
  const derived = Object.entries(module.derived).map(([name, { type }]) =>
    `  derived ${nameText(name)} : ${typeText(type)}`
  );
  return [
    ...functions,
    `module (${module.inputs.map(nameText).join(", ")}) {`,
    ...derived,
    ...module.calls.map((call) => `  ${callText(call)}`),
    `  return ${module.outputs.map(nameText).join(", ")}`.trimEnd(),
    "}",
  ].join("\n") + "\n";
}

function callText({ function: name, prefix, inputs, outputs }: Call): string {
  const results = Object.entries(outputs).map(([output, value]) =>
    output === value ? nameText(value) : `${nameText(value)}:${nameText(output)}`
  );
  const passed = Object.entries(inputs).map(([input, value]) => `${nameText(input)}=${nameText(value)}`);
  const call = `${nameText(name)}(${passed.join(", ")})${prefix === "" ? "" : ` ${JSON.stringify(prefix)}`}`;
  return results.length === 0 ? call : `${results.join(", ")} = ${call}`;
}

/**
 * The module that a text describes.
 *
 * @param derived what computes each derived parameter of the text; others in the record are left out
 * @throws {SyntaxError} With the number of the line, what was expected there and what was found; also where `derived` lacks a
 * parameter or has it in another type.
 */
export function parseModule(text: string, derived: Readonly<Record<string, Derived>> = {}): Module {
  const functions: Record<string, Graph> = {}, lines = linesOf(text);
  for (let at = 0; at < lines.length;) {
    const cursor = cursorOf(lines[at] as Line), kind = cursor.match(/\w*/y, '"function" or "module"');
    const end = lines.findIndex((line, i) => i > at && line.text.startsWith("}"));
    const body = lines.slice(at + 1, end < 0 ? lines.length : end);
    if (kind !== "function" && kind !== "module") cursor.fail('"function" or "module"', `"${kind}"`);
    if (end < 0) cursor.reject('expected a line "}" that closes this block but found none');
    if (kind === "module") {
      if (end !== lines.length - 1) cursorOf(lines[end + 1] as Line).fail("nothing after the module");
      return moduleAt(cursor, body, functions, derived);
    }
    const name = cursor.name("the name of a function");
    if (Object.hasOwn(functions, name)) cursor.fail("every function once", `"${name}" again`);
    cursor.expect("{");
    cursor.expectEnd();
    functions[name] = parseLines(body);
    at = end + 1;
  }
  throw new SyntaxError('Cannot parse the module: expected a block "module (…) { … }" at the end but found none');
}

function moduleAt(
  head: Cursor,
  body: readonly Line[],
  functions: Module["functions"],
  known: Readonly<Record<string, Derived>>,
): Module {
  head.expect("(");
  const inputs = names(head, "the name of an input", ")");
  head.expect(")");
  head.expect("{");
  head.expectEnd();
  const derived: Record<string, Derived> = {}, calls: Call[] = [];
  for (const line of body) {
    const cursor = cursorOf(line);
    if (line === body.at(-1)) {
      cursor.match(/return\b/y, '"return" and the outputs');
      return { functions, calls, inputs, outputs: names(cursor, "the name of an output", ""), derived };
    }
    if (/^derived\s+["A-Za-z_]/.test(line.text)) {
      cursor.match(/derived/y, '"derived"');
      const name = cursor.name("the name of a parameter");
      derived[name] = derivedAt(cursor, name, known);
    } else calls.push(callAt(cursor));
  }
  return head.reject('expected a last line such as "return logits" but found none');
}

function derivedAt(cursor: Cursor, name: string, known: Readonly<Record<string, Derived>>): Derived {
  cursor.expect(":");
  const type = typeText(typeAt(cursor)), found = Object.hasOwn(known, name) ? known[name] : undefined;
  cursor.expectEnd();
  if (!found) return cursor.fail(`something that computes the derived parameter "${name}"`, "nothing given for it");
  if (typeText(found.type) !== type) cursor.fail(`type ${typeText(found.type)}, as given`, type);
  return found;
}

function callAt(cursor: Cursor): Call {
  const first = cursor.name("a value or a function"), outputs: Record<string, string> = {};
  let name = first;
  if (!cursor.at("(")) {
    for (let value = first;;) {
      outputs[cursor.skip(":") ? cursor.name("the name of an output") : value] = value;
      if (!cursor.skip(",")) break;
      value = cursor.name("the name of a value");
    }
    cursor.expect("=");
    name = cursor.name("the name of a function");
  }
  cursor.expect("(");
  const inputs: Record<string, string> = {};
  while (!cursor.at(")")) {
    if (Object.keys(inputs).length > 0) cursor.expect(",");
    const input = cursor.name("the name of an input");
    cursor.expect("=");
    inputs[input] = cursor.name("the name of a value");
  }
  cursor.expect(")");
  const prefix = cursor.atEnd() ? "" : cursor.name("a prefix in quotes");
  cursor.expectEnd();
  return { function: name, prefix, inputs, outputs };
}

/** Names with commas between them, up to the mark `end` or the end of the line. */
function names(cursor: Cursor, what: string, end: string): string[] {
  const found: string[] = [];
  while (end === "" ? !cursor.atEnd() : !cursor.at(end)) {
    if (found.length > 0) cursor.expect(",");
    found.push(cursor.name(what));
  }
  return found;
}
