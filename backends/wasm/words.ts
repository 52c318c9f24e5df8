/** Small sums of codes, such as a master's 4·code + fine: eight at a time in 16 bits, where 32 bits would take twice as many steps. */
import type { Expr } from "../kernel.ts";
import { i16x8 } from "./assembler.ts";
import { known, lanesOfWords, sixteenAt, wordsAt } from "./loads.ts";
import { shiftOf } from "./maps.ts";
import type { Part, Place, Vector } from "./place.ts";

/**
 * The lanes of a part of a sum of codes that fits 16 bits, as 4·code + fine, computed from eight codes at a time; undefined for other
 * expressions.
 */
export function sumOfCodes(place: Place, expr: Expr): Vector | undefined {
  const { part } = place;
  if (!part || expr.kind !== "map" || expr.op !== "add" || expr.scalar !== "i32") return undefined;
  const words = wordsOf(place, part, expr), [low, high] = words?.range ?? [-Infinity, Infinity];
  return words && low >= -(2 ** 15) && high < 2 ** 15 ? lanesOfWords(words.value(), part, true) : undefined;
}

/** Eight values of 16 bits, and what they lie between. */
interface Words {
  readonly key: string;
  readonly range: readonly [number, number];
  readonly value: () => Vector;
}

/** Codes, their products with powers of two, and sums of both. */
function wordsOf(place: Place, part: Part, expr: Expr): Words | undefined {
  if (expr.kind === "load") {
    const codes = sixteenAt(place, expr.buffer, expr.access);
    return codes && { key: codes.key, range: codes.range, value: () => wordsAt(place, part, codes) };
  }
  if (expr.kind !== "map" || expr.scalar !== "i32") return undefined;
  const [x, y] = expr.args;
  if (expr.op === "cast" && x && x.scalar === "i32" && !expr.range) return wordsOf(place, part, x);
  if (!x || !y) return undefined;
  const left = wordsOf(place, part, x);
  if (!left) return undefined;
  const by = expr.op === "mul" ? shiftOf(y) : undefined;
  if (by !== undefined) {
    const [low, high] = left.range;
    return {
      key: `${left.key} << ${by}`,
      range: [low * 2 ** by, high * 2 ** by],
      value: () => i16x8.shl(left.value(), by),
    };
  }
  const right = expr.op === "add" ? wordsOf(place, part, y) : undefined;
  if (!right) return undefined;
  const key = `(${left.key}) + (${right.key})`, half = part.number >> 1;
  return {
    key,
    range: [left.range[0] + right.range[0], left.range[1] + right.range[1]],
    value: () => known(place, part, `${key} ${half}`, () => i16x8.add(left.value(), right.value())),
  };
}
