/** A text that two kernel specifications share exactly when they generate the same code. */
import type { Expr, KernelSpec } from "./kernel.ts";
import { typeText } from "../ir/types.ts";

/** The key of a specification: everything but the names in it. */
export function kernelKey(spec: KernelSpec): string {
  const ids = new Map<Expr, number>(), lines: string[] = [];
  const expr = (e: Expr): number => {
    const known = ids.get(e);
    if (known !== undefined) return known;
    const parts = Object.entries(e).map(([name, value]) => {
      if (name === "args") return `args:${(value as readonly Expr[]).map(expr)}`;
      return name === "index" ? `index:${expr(value as Expr)}` : `${name}:${JSON.stringify(value)}`;
    });
    lines.push(parts.join(";"));
    ids.set(e, ids.size);
    return ids.size - 1;
  };
  // Everything in a specification that has a `kind` is an expression, but for the specification itself.
  const text = (value: unknown): string => {
    if (Array.isArray(value)) return `[${value.map(text)}]`;
    if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "";
    if ("kind" in value && value !== spec) return `#${expr(value as Expr)}`;
    return `{${Object.entries(value).map(([name, part]) => `${name}:${text(part)}`)}}`;
  };
  const { name: _, fuses: __, buffers, ...rest } = spec;
  const key = text({
    ...rest,
    type: spec.kind,
    buffers: buffers.map(({ type, use }) => `${use} ${typeText(type)}`),
    kind: undefined,
  });
  return [...lines, key].join("\n");
}
