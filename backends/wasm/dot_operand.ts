/** Loops over the contracted axes, and what the strides of an operand say about the best way to read it. */
import type { Access, Expr } from "../kernel.ts";
import type { Block, Contraction } from "./contraction.ts";
import type { Emitter } from "./emitter.ts";
import { denseStrides, nestedLoops, unpacksAlong, usesOf, vectorCost, vectorLoop, withinAll } from "./nest.ts";
import type { Place } from "./place.ts";
import { staysInside } from "./loads.ts";

/** The position of a point within the contracted axes, row-major. */
export const flatAccess = ({ extents, axes }: Contraction): Access => ({
  offset: 0,
  strides: denseStrides(extents, axes),
});

/** Elements of the contracted axes in a block. */
export const blockLength = ({ block, inner }: Contraction): number => block * inner;

/** Whether vectors should run along the contracted axis (else along `variable`). */
export function runsAlongK(
  expr: Expr,
  variable: number,
  { extents, axes }: Contraction,
  layouts: Emitter["layouts"],
): boolean {
  const uses = usesOf([expr], []), last = axes.at(-1) ?? 0;
  return vectorCost(uses, layouts, extents, last) <= vectorCost(uses, layouts, extents, variable);
}

/** Runs over the contracted axes of a block, the last one in vectors or not. */
export function sweepK(
  { contraction: { axes, extents }, k, emitter: { layouts } }: Block,
  places: readonly Place[],
  roots: readonly Expr[],
  vectors: boolean,
  body: () => void,
): void {
  const prepare = () => places.forEach((place) => place.prepare(roots));
  const [first = 0, ...inner] = axes, [place] = places, last = axes.at(-1) ?? 0;
  if (!place) return;
  const sixteen = unpacksAlong(roots, layouts, last);
  prepare();
  const innermost = () => {
    if (vectors) vectorLoop(places, last, extents[last] ?? 1, body, { sixteen });
    else nestedLoops(places, [last], prepare, body);
  };
  if (inner.length === 0 && vectors) return vectorLoop(places, first, extents[first] ?? 1, body, { range: k, sixteen });
  place.code.b.for("k", k.from, k.to, 1, (index) =>
    withinAll(places, first, index, undefined, () => {
      prepare();
      if (inner.length === 0) body();
      else nestedLoops(places, inner.slice(0, -1), prepare, innermost);
    }));
}

/** A plain load of f32 whose contracted axes are one: its strides, in elements. */
export interface PlainOperand {
  readonly buffer: number;
  readonly access: Access;
  readonly step: number;
}

/** The operand as a plain load, or undefined. */
export function plainOperand(place: Place, expr: Expr, { axes, scalar }: Contraction): PlainOperand | undefined {
  if (expr.kind !== "load" || scalar !== "f32" || axes.length !== 1) return undefined;
  const bound = place.buffer(expr.buffer);
  if (bound.layout.dtype !== "f32" || !staysInside(place, bound, expr.access)) return undefined;
  return { buffer: expr.buffer, access: expr.access, step: expr.access.strides[axes[0] ?? 0] ?? 0 };
}
