/** Joins neighbouring loops that every access walks as one, so that kernels see few and long loops. */
import type { Access, Expr } from "../kernel.ts";

/** Rebuilds an expression with other accesses; shared subexpressions stay shared. */
export function mapAccesses(change: (access: Access) => Access): (expr: Expr) => Expr {
  const done = new Map<Expr, Expr>();
  const walk = (expr: Expr): Expr => {
    const found = done.get(expr);
    if (found) return found;
    const made = rebuild(expr);
    done.set(expr, made);
    return made;
  };
  const rebuild = (expr: Expr): Expr => {
    switch (expr.kind) {
      case "load":
      case "index":
        return { ...expr, access: change(expr.access) };
      case "gather":
        return { ...expr, access: change(expr.access), index: walk(expr.index) };
      case "map":
        return { ...expr, args: expr.args.map(walk) };
      default:
        return expr;
    }
  };
  return walk;
}

/** Every access inside the expressions. */
export function accessesIn(roots: readonly Expr[]): Access[] {
  const found: Access[] = [], seen = new Set<Expr>(), stack = [...roots];
  for (let expr = stack.pop(); expr; expr = stack.pop()) {
    if (seen.has(expr)) continue;
    seen.add(expr);
    if ("access" in expr) found.push(expr.access);
    if (expr.kind === "map") stack.push(...expr.args);
    if (expr.kind === "gather") stack.push(expr.index);
  }
  return found;
}

/** Which loops remain: loop i of the old nest is part of loop `target[i]` of the new one. */
export interface Collapse {
  readonly extents: readonly number[];
  /** Old loops whose stride a new loop takes over (the innermost of those joined). */
  readonly kept: readonly number[];
}

/**
 * Joins loops inside each of the given ranges `[from, to)` where all accesses allow it. Loops of extent 1 vanish, but at
 * least one loop per range remains.
 */
export function collapseLoops(
  extents: readonly number[],
  ranges: readonly (readonly [number, number])[],
  accesses: readonly Access[],
): Collapse {
  const kept: number[] = [], joined: number[] = [];
  for (const [from, to] of ranges) {
    const list: { loop: number; extent: number }[] = [];
    for (let loop = from; loop < to; loop++) {
      const extent = extents[loop] ?? 1, last = list.at(-1);
      if (extent === 1 && (list.length > 0 || loop < to - 1)) continue;
      const joins = last && last.extent > 1 &&
        accesses.every(({ strides }) => (strides[last.loop] ?? 0) === (strides[loop] ?? 0) * extent);
      if (last && (joins || last.extent === 1)) list[list.length - 1] = { loop, extent: last.extent * extent };
      else list.push({ loop, extent });
    }
    kept.push(...list.map(({ loop }) => loop));
    joined.push(...list.map(({ extent }) => extent));
  }
  return { extents: joined, kept };
}

/** The access over the remaining loops. */
export const collapsed = ({ kept }: Collapse) => ({ offset, strides }: Access): Access => ({
  offset,
  strides: kept.map((loop) => strides[loop] ?? 0),
});
