/** A row under construction, and the loop over its elements. */
import type { RowKernel } from "../kernel.ts";
import { coordinates } from "./entry.ts";
import type { Operand } from "./expressions.ts";
import { indent } from "./text.ts";
import type { Writer } from "./writer.ts";

/** A row under construction. */
export interface Row {
  readonly writer: Writer;
  readonly spec: RowKernel;
  /** Elements of a row, invocations of its workgroup, elements of an invocation. */
  readonly length: number;
  readonly threads: number;
  readonly slots: number;
  /** Names of the coordinates of row and element. */
  readonly outerVars: readonly string[];
  readonly rowVars: readonly string[];
  /** Text of every value known so far; kept elements are `name[slot]`. */
  readonly known: Map<number, Operand>;
  /** Bytes of workgroup memory of every staged store so far. */
  readonly staged: number[];
}

/** The loop over an invocation's elements. */
export function sweep({ spec, length, threads, slots, rowVars }: Row, body: readonly string[]): string[] {
  const ragged = length % threads !== 0, single = slots === 1;
  const place = single ? "lane" : `slot * ${threads}u + lane`;
  const inner = [`let i = ${place};`];
  const rest = [...(spec.row.length > 1 ? coordinates("i", rowVars, spec.row) : []), ...body];
  inner.push(...(ragged ? [`if (i < ${length}u) {`, ...indent(rest), "}"] : rest));
  return single
    ? ["{", "  let slot = 0u;", ...indent(inner), "}"]
    : [`for (var slot = 0u; slot < ${slots}u; slot++) {`, ...indent(inner), "}"];
}
