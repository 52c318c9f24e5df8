/** Prints modules in the WebAssembly text format: folded expressions, named locals, comments. */

import type { Expr, Func, Immediate, Stmt, Variable } from "./expr.ts";
import type { ImportedMemory, ModuleParts } from "./module.ts";

/** Columns after which an expression is broken into lines. */
const WIDTH = 110;

/** The module as text that WebAssembly tools can read. */
export function printModule({ comment, memories, functions, exports }: ModuleParts): string {
  const lines = comment === "" ? [] : comment.split("\n").map((line) => `;; ${line}`.trimEnd());
  lines.push("(module", ...memories.map((m) => `  ${printMemory(m)}`));
  for (const func of functions) {
    const names = [...exports].filter(([, f]) => f === func).map(([name]) => name);
    lines.push(...printFunction(func, names).map((line) => `  ${line}`));
  }
  return lines.join("\n") + ")\n";
}

function printMemory({ module, name, minimum, maximum, shared }: ImportedMemory): string {
  const limits = [minimum, ...(maximum === undefined ? [] : [maximum]), ...(shared ? ["shared"] : [])].join(" ");
  return `(import "${module}" "${name}" (memory $${name} ${limits}))`;
}

function printFunction(func: Func, exported: readonly string[]): string[] {
  const count = Object.keys(func.params).length;
  const declare = (word: string, locals: readonly Variable[]) =>
    locals.map((l) => ` (${word} $${l.name} ${l.type})`).join("");
  const head = [
    `(func $${func.name}`,
    ...exported.map((name) => ` (export "${name}")`),
    declare("param", func.locals.slice(0, count)),
    func.result === "void" ? "" : ` (result ${func.result})`,
  ].join("");
  const locals = declare("local", func.locals.slice(count)).trim();
  const lines = [head, ...(locals === "" ? [] : [`  ${locals}`]), ...printBody(func.body, "  ")];
  return close(lines, ")");
}

/** Appends `text` to the last line that is code: a parenthesis behind a comment would be part of it. */
function close(lines: readonly string[], text: string): string[] {
  const last = lines.at(-1) ?? "";
  return last.trimStart().startsWith(";;") ? [...lines, text] : [...lines.slice(0, -1), last + text];
}

function printBody(body: readonly Stmt[], indent: string): string[] {
  return body.flatMap((statement) => printExpr(statement, indent));
}

function printExpr(expr: Expr, indent: string): string[] {
  const { imm } = expr;
  if (imm.kind === "comment") return imm.text.split("\n").map((line) => `${indent};; ${line}`.trimEnd());
  if (imm.kind === "body") return printBlock(expr, imm, indent);
  const line = inline(expr);
  if (indent.length + line.length <= WIDTH) return [indent + line];
  return close([indent + "(" + head(expr), ...expr.args.flatMap((arg) => printExpr(arg, indent + "  "))], ")");
}

function printBlock({ op, args }: Expr, imm: Immediate & { kind: "body" }, indent: string): string[] {
  const [condition] = args;
  if (!condition) return close([`${indent}(${op.name} $${imm.label.name}`, ...printBody(imm.body, indent + "  ")], ")");
  const deeper = indent + "  ";
  const arm = (name: string, body: readonly Stmt[]) =>
    close([`${deeper}(${name}`, ...printBody(body, deeper + "  ")], ")");
  const lines = [`${indent}(${op.name} $${imm.label.name}`, ...printExpr(condition, deeper), ...arm("then", imm.body)];
  if (imm.otherwise.length > 0) lines.push(...arm("else", imm.otherwise));
  return close(lines, ")");
}

function inline(expr: Expr): string {
  const parts = [head(expr)];
  for (const arg of expr.args) parts.push(inline(arg));
  return `(${parts.join(" ")})`;
}

function head({ op, imm }: Expr): string {
  switch (imm.kind) {
    case "none":
    case "body":
    case "comment":
      return op.name;
    case "integer":
    case "long":
      return `${op.name} ${imm.value}`;
    case "float":
      return `${op.name} ${printFloat(imm.value, imm.bits)}`;
    case "vector":
      return `${op.name} ${imm.shape} ${
        imm.lanes.map((x) => imm.shape === "f32x4" ? printFloat(x, 32) : String(x)).join(" ")
      }`;
    case "lane":
      return `${op.name} ${imm.lane}`;
    case "shuffle":
      return `${op.name} ${imm.lanes.join(" ")}`;
    case "memory":
      return [
        op.name,
        ...(imm.memory && imm.memory.index > 0 ? [`$${imm.memory.name}`] : []),
        ...(imm.offset > 0 ? [`offset=${imm.offset}`] : []),
        ...(imm.align !== op.width ? [`align=${imm.align}`] : []),
        ...(imm.lane === undefined ? [] : [String(imm.lane)]),
      ].join(" ");
    case "bulk":
      return imm.memories.some((m) => m && m.index > 0)
        ? `${op.name} ${imm.memories.map((m) => m?.index ?? 0).join(" ")}`
        : op.name;
    case "local":
      return `${op.name} $${imm.local.name}`;
    case "call":
      return `${op.name} $${imm.func.name}`;
    case "label":
      return `${op.name} $${imm.label.name}`;
    default:
      return imm satisfies never;
  }
}

/** The shortest decimal that reads back as the same float. */
function printFloat(value: number, bits: 32 | 64): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Object.is(value, -0)) return "-0";
  if (bits === 64) return String(value);
  const single = Math.fround(value);
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(single.toPrecision(digits));
    if (Math.fround(short) === single) return String(short);
  }
  return String(Number(single.toPrecision(9)));
}
