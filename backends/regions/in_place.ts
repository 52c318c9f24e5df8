/** Results computed in the memory of a leaf: allowed where every read of the leaf comes before the write of the same element. */
import type { Access, Expr, KernelSpec, RowKernel, Store } from "../kernel.ts";
import { accessKey } from "./access.ts";
import type { LoweredProgram } from "./program.ts";

/** Throws when a result in place would overwrite something that is still to be read. */
export function checkInPlace({ values, steps }: LoweredProgram): void {
  for (const value of values) {
    const home = value.inPlaceOf;
    if (home === undefined) continue;
    const writer = steps.findIndex(({ kernel, bindings }) =>
      kernel.buffers.some(({ use }, i) => use !== "read" && bindings[i] === home)
    );
    const reader = steps.slice(writer + 1).find(({ bindings }) => bindings.includes(home));
    if (reader) throw inPlaceError(value.name, values[home]?.name, `${reader.kernel.name} reads it afterwards`);
    const step = steps[writer];
    const buffer = step?.bindings.indexOf(home) ?? -1;
    if (step?.kernel.buffers[buffer]?.use === "update" && !readsWhatItWrites(step.kernel, buffer)) {
      throw inPlaceError(
        value.name,
        values[home]?.name,
        `${step.kernel.name} reads it at other elements than it writes`,
      );
    }
  }
}

const inPlaceError = (output: string, leaf: string | undefined, why: string): Error =>
  new Error(`Cannot compute "${output}" in place of "${leaf}": ${why}`);

/** Whether all loads of a buffer are at the element that is stored, in the same turn or before. */
function readsWhatItWrites(kernel: KernelSpec, buffer: number): boolean {
  if (kernel.kind === "row") return rowReadsWhatItWrites(kernel, buffer);
  if (kernel.kind !== "map" && kernel.kind !== "dot") return false;
  const stores = kernel.stores.filter((store) => store.buffer === buffer), [first] = stores;
  const operands = kernel.kind === "dot" ? [kernel.lhs, kernel.rhs] : [];
  if (!first || stores.length > 1 || first.scatter || loadsOf(operands, buffer).length > 0) return false;
  return loadsAt(valuesOf(kernel.stores), buffer, first.access);
}

/** A row's turn ends with its last phase: reads may come before the store's phase, or in it, but at the same element. */
function rowReadsWhatItWrites({ phases, outer }: RowKernel, buffer: number): boolean {
  const places = phases.flatMap((phase, at) =>
    [...phase.stores, ...phase.rowStores].filter((store) => store.buffer === buffer).map((store) => ({ store, at }))
  );
  const [place] = places;
  if (!place || places.length > 1 || place.store.scatter) return false;
  return phases.every((phase, at) => {
    const values = [
      ...[...phase.elements, ...phase.reductions, ...phase.scalars].map(({ value }) => value),
      ...valuesOf([...phase.stores, ...phase.rowStores]),
    ];
    return at > place.at
      ? loadsOf(values, buffer).length === 0
      : loadsAt(values, buffer, place.store.access, outer.length);
  });
}

const valuesOf = (stores: readonly Store[]): Expr[] =>
  stores.flatMap(({ value, scatter }) => scatter ? [value, scatter.index] : [value]);

/** Whether all loads of the buffer are at this element; what is loaded per row has no strides behind the `outer` ones. */
function loadsAt(
  values: readonly Expr[],
  buffer: number,
  { offset, strides }: Access,
  outer = strides.length,
): boolean {
  const key = (access: Access) => {
    const inner = access.strides.slice(outer);
    return accessKey({
      offset: access.offset,
      strides: inner.some((stride) => stride !== 0) ? access.strides : access.strides.slice(0, outer),
    });
  };
  return loadsOf(values, buffer).every((load) => load.kind === "load" && key(load.access) === key({ offset, strides }));
}

function loadsOf(roots: readonly Expr[], buffer: number): Extract<Expr, { buffer: number }>[] {
  const found: Extract<Expr, { buffer: number }>[] = [], seen = new Set<Expr>(), stack = [...roots];
  for (let expr = stack.pop(); expr; expr = stack.pop()) {
    if (seen.has(expr)) continue;
    seen.add(expr);
    if ((expr.kind === "load" || expr.kind === "gather") && expr.buffer === buffer) found.push(expr);
    if (expr.kind === "map") stack.push(...expr.args);
    if (expr.kind === "gather") stack.push(expr.index);
  }
  return found;
}
