/** Reads the textual form of graphs back: `parse(print(g))` equals g. */
import { createBuilder } from "./builder.ts";
import { type Cursor, cursorOf, type Line, linesOf } from "./cursor.ts";
import { type Attr, type Graph, graphOf, type Node, type Output } from "./node.ts";
import { isOpName, type OpName } from "./ops.ts";
import { parseType, type TensorType, typeText } from "./types.ts";

const VALUE = /%[\w.]+/y;
const TYPE = /[a-z]+\d*\[[^\]]*\]/y;

/**
 * The graph a text describes, in the form of `print`. Names of values are free (`%x`), and `//` starts a comment. Nodes that
 * no output needs are left out, and equal ones become one.
 *
 * @throws {SyntaxError} With the number of the line, what was expected there and what was found: syntax, unknown operations
 * and values, operands and attributes that the op table rejects, and printed types that differ from the inferred ones.
 */
export const parse = (text: string): Graph => parseLines(linesOf(text));

/** The graph in the given lines, the last of which is its `return`. */
export function parseLines(lines: readonly Line[]): Graph {
  const b = createBuilder(), values = new Map<string, Node>();
  const reference = (cursor: Cursor): Node => {
    const id = valueName(cursor);
    return values.get(id) ?? cursor.fail("a value that an earlier line defines", `"${id}"`);
  };
  for (const line of lines) {
    const cursor = cursorOf(line);
    if (line === lines.at(-1)) return graphOf(results(cursor, reference));
    const id = valueName(cursor);
    if (values.has(id)) cursor.fail("a name that no earlier line defines", `"${id}"`);
    cursor.expect("=");
    const op = opName(cursor), inputs: Node[] = [];
    while (cursor.at("%")) inputs.push(reference(cursor));
    const attrs = cursor.at("{") ? attributes(cursor) : {};
    cursor.expect(":");
    const type = typeAt(cursor);
    cursor.expectEnd();
    const node = attempt(cursor, () => b.make(op, inputs, attrs));
    if (typeText(node.type) !== typeText(type)) cursor.fail(`type ${typeText(node.type)}`, typeText(type));
    values.set(id, node);
  }
  throw new SyntaxError('Cannot parse the graph: expected a last line such as "return y=%0" but found no line at all');
}

/** The type that stands here. */
export function typeAt(cursor: Cursor): TensorType {
  const text = cursor.match(TYPE, "a type such as f32[2,64]");
  return attempt(cursor, () => parseType(text));
}

const valueName = (cursor: Cursor): string => cursor.match(VALUE, 'a value such as "%0"');

function opName(cursor: Cursor): OpName {
  const op = cursor.match(/\w+/y, "an operation");
  return isOpName(op) ? op : cursor.fail("the name of an operation", `"${op}"`);
}

function attributes(cursor: Cursor): Record<string, Attr> {
  const attrs: Record<string, Attr> = {};
  cursor.expect("{");
  if (cursor.skip("}")) return attrs;
  do {
    const name = cursor.name("the name of an attribute");
    if (Object.hasOwn(attrs, name)) cursor.fail("every attribute once", `"${name}" again`);
    cursor.expect("=");
    attrs[name] = cursor.value();
  } while (cursor.skip(","));
  cursor.expect("}");
  return attrs;
}

function results(cursor: Cursor, reference: (cursor: Cursor) => Node): readonly Output[] {
  const outputs: Output[] = [];
  if (cursor.match(/\w*/y, '"return"') !== "return") {
    cursor.fail('"return" and the outputs in the last line', "another one");
  }
  while (!cursor.atEnd()) {
    const name = cursor.name("the name of an output");
    if (outputs.some((output) => output.name === name)) cursor.fail("every output once", `"${name}" again`);
    cursor.expect("=");
    outputs.push({ name, node: reference(cursor) });
  }
  return outputs;
}

/** Adds the line to what the op table or the types find wrong. */
function attempt<T>(cursor: Cursor, make: () => T): T {
  try {
    return make();
  } catch (error) {
    return cursor.reject(error instanceof Error ? error.message : String(error));
  }
}
