/** Walks over expressions of kernel specifications. */
import type { Expr } from "./kernel.ts";

/** Ids of all values an expression refers to. */
export function valuesIn(root: Expr): number[] {
  const ids: number[] = [], seen = new Set<Expr>(), stack = [root];
  for (let expr = stack.pop(); expr; expr = stack.pop()) {
    if (seen.has(expr)) continue;
    seen.add(expr);
    if (expr.kind === "value") ids.push(expr.id);
    if (expr.kind === "map") stack.push(...expr.args);
    if (expr.kind === "gather") stack.push(expr.index);
  }
  return ids;
}
