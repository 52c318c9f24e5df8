/** Operands of contractions as functions: one value, or four neighbours along the innermost contracted axis, and 0 outside. */
import type { Expr } from "../kernel.ts";
import type { Place } from "./access.ts";
import { coordinates } from "./entry.ts";
import { splat, startBlock } from "./expressions.ts";
import { constantText, indent, typeText } from "./text.ts";
import type { Writer } from "./writer.ts";

/** What an operand's function is made from. */
export interface OperandSpec {
  readonly name: string;
  readonly expr: Expr;
  /** Names and extents of the leading axes, which are parameters. */
  readonly lead: readonly (readonly [name: string, extent: number])[];
  /** Extents of the contracted axes, which are one parameter `k`. */
  readonly k: readonly number[];
  readonly scalar: "f32" | "i32";
}

/**
 * Adds the function `name(…lead, k) -> vec4`: elements k … k+3 for k a multiple of 4. Where the innermost axis is not whole fours, they
 * are read one by one, and are 0 beyond the last.
 */
export function operandFunction(writer: Writer, { name, expr, lead, k, scalar }: OperandSpec): string {
  const total = k.reduce((n, dim) => n * dim, 1), inner = k.at(-1) ?? 1, whole = inner % 4 === 0;
  const parameters = [...lead.map(([parameter]) => parameter), "k"].map((parameter) => `${parameter}: u32`).join(", ");
  const kNames = k.length === 1 ? ["k"] : k.map((_, i) => `k${i}`);
  const place = (vector: boolean): Place => ({
    vars: [...lead.map(([parameter]) => parameter), ...kNames],
    extents: [...lead.map(([, extent]) => extent), ...k],
    ...(vector ? { vector: lead.length + k.length - 1 } : {}),
  });
  const body = (vector: boolean): string[] => {
    const block = startBlock(writer, place(vector), [expr]), value = block.emit(expr);
    const lines = [...(k.length === 1 ? [] : coordinates("k", kNames, k)), ...block.lines];
    return [...lines, `return ${vector ? splat(value).text : value.text};`];
  };
  if (whole) {
    return writer.helper(
      name,
      (given) => [`fn ${given}(${parameters}) -> ${typeText(scalar, true)} {`, ...indent(body(true)), "}"],
    );
  }
  const one = writer.helper(`${name}_one`, (given) => [
    `fn ${given}(${parameters}) -> ${scalar} {`,
    `  if (k >= ${total}u) { return ${constantText(0, scalar)}; }`,
    ...indent(body(false)),
    "}",
  ]);
  const args = lead.map(([parameter]) => `${parameter}, `).join("");
  return writer.helper(name, (given) => [
    `fn ${given}(${parameters}) -> ${typeText(scalar, true)} {`,
    `  return ${typeText(scalar, true)}(${
      ["k", "k + 1u", "k + 2u", "k + 3u"].map((at) => `${one}(${args}${at})`).join(", ")
    });`,
    "}",
  ]);
}

/** Whether the reads of an operand step through memory along an axis rather than along the innermost contracted one. */
export function runsAlong(expr: Expr, axis: number): boolean {
  const strides: number[] = [];
  const visit = (e: Expr): void => {
    if (e.kind === "load" || e.kind === "gather") strides.push(e.access.strides[axis] ?? 0);
    if (e.kind === "gather") visit(e.index);
    if (e.kind === "map") e.args.forEach(visit);
  };
  visit(expr);
  return strides.includes(1);
}
